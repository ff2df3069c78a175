"""Durable writes: old or new, never a part; finished folders verify."""

import hashlib
import json
import re
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tinydistilbert import disk, fsio
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


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished folder with a file in it and one below."""
    folder = tmp_path / "finished"
    with fsio.unfinished(folder, reason="test") as partial:
        (partial / "data").write_bytes(b"0123456789")
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "b" / "inner").write_bytes(b"abc")
    return folder


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object], *, own_hash: bool) -> None:
    """Change the manifest as somebody would who knows how it is made."""
    manifest = fsio.read_json(folder / fsio.MANIFEST)
    before = manifest.pop(fsio.OWN_HASH)
    change(manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest() if own_hash else before
    fsio.write_json(folder / fsio.MANIFEST, {**manifest, fsio.OWN_HASH: digest})


def test_a_manifest_that_was_changed_is_refused(finished: Path) -> None:
    rewrite_manifest(finished, lambda manifest: manifest.update(reason="other"), own_hash=False)
    with pytest.raises(UserError, match=r"expected a whole manifest\.json, found other content"):
        fsio.read_manifest(finished, verify=False)


def test_a_manifest_without_a_hash_of_its_own_is_read(finished: Path) -> None:
    """From before there was one."""
    manifest = fsio.read_json(finished / fsio.MANIFEST)
    del manifest[fsio.OWN_HASH]
    fsio.write_json(finished / fsio.MANIFEST, manifest)
    assert fsio.read_manifest(finished)["reason"] == "test"


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside"])
def test_a_manifest_names_no_file_outside_its_folder(finished: Path, name: str) -> None:
    (finished.parent / "outside").write_bytes(b"0123456789")
    facts = fsio.read_json(finished / fsio.MANIFEST)["files"]["data"]
    rewrite_manifest(finished, lambda manifest: manifest["files"].update({name: facts}), own_hash=True)
    with pytest.raises(UserError, match="the name of a file outside the folder"):
        fsio.read_manifest(finished)


@pytest.mark.parametrize(
    ("damage", "found"),
    [
        (lambda folder: (folder / "data").write_bytes(b"0123456780"), "expected sha256 84d89877f0d4…, found other"),
        (lambda folder: (folder / "data").unlink(), "expected a file that the manifest lists, found no file"),
        (lambda folder: (folder / fsio.MANIFEST).unlink(), "expected a whole manifest.json, found FileNotFoundError"),
        (
            lambda folder: rewrite_manifest(folder, lambda manifest: manifest["files"].pop("data"), own_hash=True),
            "expected a file that the manifest lists, found none in the manifest",
        ),
    ],
)
def test_one_file_is_intact_or_refused(finished: Path, damage: Callable[[Path], object], found: str) -> None:
    assert fsio.intact(finished, "data").read_bytes() == b"0123456789"
    assert fsio.intact(finished, "a/b/inner").read_bytes() == b"abc"
    damage(finished)
    with pytest.raises(UserError, match=re.escape(found)):
        fsio.intact(finished, "data")


def test_only_a_folder_with_a_manifest_is_compared_with_it(finished: Path, tmp_path: Path) -> None:
    fsio.check_intact(tmp_path)
    fsio.check_intact(finished)
    (finished / "a" / "b" / "inner").write_bytes(b"abd")
    with pytest.raises(UserError, match="inner: expected sha256"):
        fsio.check_intact(finished)


def test_a_folder_gets_its_name_after_all_in_it_was_flushed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    operations: list[tuple[str, str]] = []

    def watch(operation: disk.Operation) -> AbstractContextManager[object]:
        operations.append((operation.kind, operation.path.relative_to(tmp_path).as_posix()))
        return nullcontext()

    monkeypatch.setattr(disk, "hook", watch)
    with fsio.unfinished(tmp_path / "x") as partial:
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "b" / "inner").touch()
    renamed = operations.index(("rename", "x.partial"))
    flushed = {path for kind, path in operations[:renamed] if kind.startswith("sync")}
    assert {"x.partial", "x.partial/a", "x.partial/a/b", "x.partial/a/b/inner"} <= flushed
    assert operations[renamed + 1] == ("sync folder", ".")


def test_checkpoints_are_no_part_of_a_finished_folder(tmp_path: Path) -> None:
    with fsio.unfinished(tmp_path / "x") as partial:
        for name in ("checkpoints/step-1/model", "data"):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).touch()
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"data", fsio.MANIFEST}
    assert [*fsio.read_manifest(tmp_path / "x")["files"]] == ["data"]
    (tmp_path / "x" / "checkpoints" / "step-1").mkdir(parents=True)  # the process died before it came to that
    fsio.tidy(tmp_path / "x")
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"data", fsio.MANIFEST}


def test_what_killed_writes_left_is_no_content_and_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".recipe.toml.17.tmp").touch()
    assert fsio.is_new(tmp_path)
    (tmp_path / "recipe.toml").touch()
    fsio.sweep(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {".lock", "recipe.toml"}
    with pytest.raises(UserError, match="found other files"):
        fsio.check_new(tmp_path)


def test_a_line_that_was_cut_short_stays_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines"
    fsio.append_line(path, "one")
    fsio.append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    path.write_text("one\ntw")
    fsio.append_line(path, "three")
    assert path.read_text() == "one\ntw\nthree\n"


def test_a_log_tells_how_far_it_goes_and_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with fsio.Log(path) as log:
        log.write({"step": 1})
        length, digest = log.sync()
        log.write({"step": 2})
    assert (length, digest) == (12, hashlib.sha256(b'{"step": 1}\n').hexdigest())
    assert fsio.begins_with(path, length, digest) and not fsio.begins_with(path, length + 1, digest)
    with fsio.Log(path, length) as log:
        assert path.read_text() == '{"step": 1}\n', "the rest is done again"
        log.write({"step": 3})
        assert log.sync() == (24, hashlib.sha256(path.read_bytes()).hexdigest())
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    path.write_text('{"step": 7}\n{"step": 3}\n')
    assert not fsio.begins_with(path, length, digest)


def test_a_log_that_is_not_there_begins_with_nothing(tmp_path: Path) -> None:
    nothing = hashlib.sha256().hexdigest()
    assert fsio.begins_with(tmp_path / "log.jsonl", 0, nothing)
    assert not fsio.begins_with(tmp_path / "log.jsonl", 1, nothing)
