"""Durable writes: old or new, never a part; finished folders verify."""

from pathlib import Path

import pytest

from tinydistilbert import fsio
from tinydistilbert.errors import UserError


def test_a_failed_write_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    fsio.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="Out of range"):
        fsio.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert fsio.read_json(tmp_path / "a.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_finished_only_when_its_body_succeeded(tmp_path: Path) -> None:
    target = tmp_path / "stage"
    with pytest.raises(RuntimeError), fsio.unfinished(target) as folder:
        (folder / "part").write_text("half")
        raise RuntimeError
    assert not fsio.is_finished(target) and (tmp_path / "stage.partial" / "part").read_text() == "half"
    with fsio.unfinished(target, reason="test") as folder:
        assert (folder / "part").read_text() == "half"  # whoever comes next can go on
    assert fsio.is_finished(target) and not (tmp_path / "stage.partial").exists()
    assert fsio.read_manifest(target)["reason"] == "test"


@pytest.mark.parametrize("damage", ["flip", "truncate", "delete", "manifest"])
def test_damage_is_found_and_named(tmp_path: Path, damage: str) -> None:
    with fsio.unfinished(tmp_path / "stage") as folder:
        (folder / "data").write_bytes(b"0123456789")
    data = tmp_path / "stage" / "data"
    if damage == "flip":
        data.write_bytes(b"0123456780")
    elif damage == "truncate":
        data.write_bytes(b"012345678")
    elif damage == "delete":
        data.unlink()
    else:
        (tmp_path / "stage" / fsio.MANIFEST).write_text("{")
    with pytest.raises(UserError, match="stage"):
        fsio.read_manifest(tmp_path / "stage")
