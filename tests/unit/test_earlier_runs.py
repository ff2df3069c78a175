"""What runs of the tests take over from earlier ones belongs to the same code and the same libraries."""

from pathlib import Path

import pytest

from tests import earlier_runs


def test_other_code_or_libraries_begin_anew_and_delete_what_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, cache = tmp_path / "src/tinydistilbert/models/elmo/load.py", tmp_path / "cache"
    source.parent.mkdir(parents=True)
    cache.mkdir()
    source.write_text("a")
    monkeypatch.setattr(earlier_runs, "ROOT", tmp_path)
    first = earlier_runs.folder(cache)
    (first / "graph").touch()
    assert earlier_runs.folder(cache) == first and (first / "graph").exists()
    source.write_text("b")
    second = earlier_runs.folder(cache)
    monkeypatch.setattr(earlier_runs, "version", lambda _: "0.0")
    third = earlier_runs.folder(cache)
    assert len({first, second, third}) == 3 and [*cache.iterdir()] == [third]


def test_every_pattern_is_that_of_some_file() -> None:
    assert all(any(earlier_runs.ROOT.glob(pattern)) for pattern in earlier_runs.SOURCES)
