"""Durable writes: old or new, never a part; finished folders verify."""

import errno
import hashlib
import io
import json
import locale
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import pytest

from tinydistilbert.errors import DiskError, UserError
from tinydistilbert.storage import atomic, disk

ABC = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
"""SHA-256 of `abc`, as the standard prints it."""
DIGITS = "84d89877f0d4041efb6bf91a16f0248f2fd573e6af05c19f96bedb9f882f7882"
"""SHA-256 of `0123456789`."""


@pytest.fixture
def operations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """Kind and path of what is announced during the test; of a rename the new path as well."""
    seen: list[tuple[str, str]] = []

    def watch(operation: disk.Operation) -> AbstractContextManager[object]:
        names = [path.relative_to(tmp_path).as_posix() for path in (operation.path, operation.target) if path]
        seen.append((operation.kind, " -> ".join(names)))
        return nullcontext()

    monkeypatch.setattr(disk, "hook", watch)
    return seen


@pytest.fixture
def plain_locale() -> Iterator[None]:
    """Text is ASCII, as for who sets LC_ALL=C (unless Python is told to take UTF-8 whatever the locale)."""
    before = locale.setlocale(locale.LC_CTYPE)
    locale.setlocale(locale.LC_CTYPE, "C")
    yield
    locale.setlocale(locale.LC_CTYPE, before)


def test_json_is_indented_utf8_whatever_the_locale(tmp_path: Path, plain_locale: None) -> None:
    atomic.write_json(tmp_path / "a.json", {"größe": [1]})
    assert (tmp_path / "a.json").read_bytes() == '{\n  "größe": [\n    1\n  ]\n}\n'.encode()
    assert atomic.read_json(tmp_path / "a.json") == {"größe": [1]}


def test_a_write_flushes_the_content_before_its_name_and_each_name_after(
    tmp_path: Path, operations: list[tuple[str, str]]
) -> None:
    atomic.write_text(tmp_path / "new" / "a", "é")
    assert (tmp_path / "new" / "a").read_bytes() == b"\xc3\xa9"
    temporary = f"new/.a.{os.getpid()}.tmp"
    assert operations == [
        ("make folder", "new"),
        ("sync folder", "."),
        ("write", temporary),
        ("sync", temporary),
        ("rename", f"{temporary} -> new/a"),
        ("sync folder", "new"),
    ]


def test_a_line_is_flushed_and_then_the_name_of_its_file(tmp_path: Path, operations: list[tuple[str, str]]) -> None:
    atomic.append_line(tmp_path / "a" / "lines", "one")
    assert operations == [
        ("make folder", "a"),
        ("sync folder", "."),
        ("write", "a/lines"),
        ("sync", "a/lines"),
        ("sync folder", "a"),
    ]


def test_another_librarys_file_is_flushed_before_it_gets_its_name(
    tmp_path: Path, operations: list[tuple[str, str]]
) -> None:
    (tmp_path / "theirs").write_text("new")
    (tmp_path / "a").write_text("old")
    atomic.adopt(tmp_path / "theirs", tmp_path / "a")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "new")]
    assert operations == [("sync", "theirs"), ("rename", "theirs -> a"), ("sync folder", ".")]


@pytest.mark.parametrize("fails", ["write", "sync", "rename"])
def test_a_write_that_the_disk_stops_leaves_the_old_content_and_no_rest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str
) -> None:
    (tmp_path / "a").write_text("old")

    def fail(operation: disk.Operation) -> AbstractContextManager[object]:
        if operation.kind == fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return nullcontext()

    monkeypatch.setattr(disk, "hook", fail)
    with pytest.raises(DiskError):
        atomic.write_bytes(tmp_path / "a", b"new")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a", "old")]


class NearlyFull(io.FileIO):
    """A file that takes two bytes at a time, and `ROOM` altogether."""

    ROOM = 1000

    def write(self, content: bytes) -> int:  # type: ignore[override]
        if self.tell() >= self.ROOM:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(content[:2])


@pytest.fixture
def nearly_full(monkeypatch: pytest.MonkeyPatch) -> type[NearlyFull]:
    """Files that are opened for appending are on a disk that is nearly full."""
    plain = Path.open

    def opened(path: Path, mode: str = "r", *arguments: Any, **named: Any) -> Any:
        return NearlyFull(path, mode) if mode == "ab" else plain(path, mode, *arguments, **named)

    monkeypatch.setattr(Path, "open", opened)
    return NearlyFull


def test_a_line_that_the_disk_takes_in_parts_is_written_whole(tmp_path: Path, nearly_full: type[NearlyFull]) -> None:
    atomic.append_line(tmp_path / "lines", "one")
    with atomic.Log(tmp_path / "log") as log:
        log.write({"step": 1})
        assert log.sync() == (12, hashlib.sha256(b'{"step": 1}\n').hexdigest())
    assert (tmp_path / "lines").read_text() == "one\n"
    assert (tmp_path / "log").read_text() == '{"step": 1}\n'


def test_a_line_that_the_disk_takes_a_part_of_is_an_error(
    tmp_path: Path, nearly_full: type[NearlyFull], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearly_full, "ROOM", 4)
    with pytest.raises(DiskError) as appended:
        atomic.append_line(tmp_path / "lines", "three")
    with pytest.raises(DiskError) as logged, atomic.Log(tmp_path / "log") as log:
        log.write({"step": 1})
    for error, path, needed in ((appended, tmp_path / "lines", 6), (logged, tmp_path / "log", 12)):
        assert (error.value.path, error.value.needed) == (path, needed)
        assert "no space left" in str(error.value)


def test_a_failed_write_leaves_the_old_content_and_no_rest(tmp_path: Path) -> None:
    atomic.write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="Out of range"):
        atomic.write_json(tmp_path / "a.json", {"x": float("nan")})
    assert atomic.read_json(tmp_path / "a.json") == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_is_finished_only_when_its_body_succeeded(tmp_path: Path) -> None:
    target = tmp_path / "stage"
    with pytest.raises(RuntimeError), atomic.unfinished(target) as folder:
        (folder / "part").write_text("half")
        raise RuntimeError
    assert not atomic.is_finished(target) and (tmp_path / "stage.partial" / "part").read_text() == "half"
    with atomic.unfinished(target, reason="test") as folder:
        assert (folder / "part").read_text() == "half"  # whoever comes next can go on
    assert atomic.is_finished(target) and not (tmp_path / "stage.partial").exists()
    assert atomic.read_manifest(target)["reason"] == "test"


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    """A finished folder with a file in it and one below."""
    folder = tmp_path / "finished"
    with atomic.unfinished(folder, reason="test") as partial:
        (partial / "data").write_bytes(b"0123456789")
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "b" / "inner").write_bytes(b"abc")
    return folder


def rewrite_manifest(folder: Path, change: Callable[[dict[str, Any]], object], *, own_hash: bool) -> None:
    """Change the manifest as somebody would who knows how it is made."""
    manifest = atomic.read_json(folder / atomic.MANIFEST)
    before = manifest.pop(atomic.HASH_KEY)
    change(manifest)
    digest = hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest() if own_hash else before
    atomic.write_json(folder / atomic.MANIFEST, {**manifest, atomic.HASH_KEY: digest})


def test_a_manifest_lists_sizes_and_hashes_and_closes_with_a_hash_of_all_that(finished: Path) -> None:
    inner, data = f'{{"bytes": 3, "sha256": "{ABC}"}}', f'{{"bytes": 10, "sha256": "{DIGITS}"}}'
    in_order = f'{{"files": {{"a/b/inner": {inner}, "data": {data}}}, "reason": "test"}}'
    content = {**json.loads(in_order), "sha256": hashlib.sha256(in_order.encode()).hexdigest()}
    assert atomic.read_json(finished / "manifest.json") == content
    assert atomic.read_manifest(finished) == json.loads(in_order)


def refusal(folder: Path, read: Callable[[Path], object]) -> str:
    """The line that the user reads, without the folder's name, which comes first, and the cure, which is the last."""
    with pytest.raises(UserError) as error:
        read(folder)
    line, fix = str(error.value), f"; delete {folder} and run the command again"
    assert line.startswith(str(folder)) and line.endswith(fix)
    return line.removeprefix(str(folder)).removesuffix(fix)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "FileNotFoundError"),
        (b"{", "JSONDecodeError"),
        (b"\xff", "UnicodeDecodeError"),
        (b"[" * 100_000, "RecursionError"),
        (b"null", "AttributeError"),
        (b"[]", "TypeError"),
        (b"{}", "KeyError"),
        (b'{"files": []}', "AttributeError"),
        (b'{"files": {"data": 1}}', "TypeError"),
        (b'{"files": {"data": {"sha256": ""}}}', "KeyError"),
        (b'{"files": {"data": {"bytes": 10}}}', "KeyError"),
        (b'{"files": {"data": {"bytes": "ten", "sha256": ""}}}', "ValueError"),
        (b'{"files": {}, "sha256": ""}', "other content"),
        (b'{"files": {"../data": {"bytes": 0, "sha256": ""}}}', "the name of a file outside the folder"),
    ],
)
def test_a_manifest_that_is_none_is_refused(finished: Path, content: bytes | None, problem: str) -> None:
    (finished / atomic.MANIFEST).unlink()
    if content is not None:
        (finished / atomic.MANIFEST).write_bytes(content)
    for read in (atomic.read_manifest, lambda folder: atomic.read_manifest(folder, verify=False)):
        assert refusal(finished, read) == f": expected a complete manifest.json, found {problem}"


def test_a_manifest_that_was_changed_is_refused(finished: Path) -> None:
    rewrite_manifest(finished, lambda manifest: manifest.update(reason="other"), own_hash=False)
    message = refusal(finished, lambda folder: atomic.read_manifest(folder, verify=False))
    assert message == ": expected a complete manifest.json, found other content"


def test_a_manifest_without_a_hash_of_its_own_is_read(finished: Path) -> None:
    """From before there was one."""
    manifest = atomic.read_json(finished / atomic.MANIFEST)
    del manifest[atomic.HASH_KEY]
    atomic.write_json(finished / atomic.MANIFEST, manifest)
    assert atomic.read_manifest(finished)["reason"] == "test"


@pytest.mark.parametrize("name", ["../outside", "a/../../outside", "/outside"])
def test_a_manifest_names_no_file_outside_its_folder(finished: Path, name: str) -> None:
    (finished.parent / "outside").write_bytes(b"0123456789")
    facts = atomic.read_json(finished / atomic.MANIFEST)["files"]["data"]
    rewrite_manifest(finished, lambda manifest: manifest["files"].update({name: facts}), own_hash=True)
    with pytest.raises(UserError, match="the name of a file outside the folder"):
        atomic.read_manifest(finished)


NO_FILE, OTHER = "expected a file that the manifest lists, found no file", "found other content"
DAMAGES: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped": (lambda folder: (folder / "data").write_bytes(b"0123456780"), f"expected sha256 84d89877f0d4…, {OTHER}"),
    "cut": (lambda folder: (folder / "data").write_bytes(b"012345678"), f"expected sha256 84d89877f0d4…, {OTHER}"),
    "gone": (lambda folder: (folder / "data").unlink(), NO_FILE),
    "a folder": (lambda folder: [(folder / "data").unlink(), (folder / "data").mkdir()], NO_FILE),
}
"""What happened to the file `data`, and how it is told."""


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_to_a_file_is_found_and_named(finished: Path, damage: str) -> None:
    does, message = DAMAGES[damage]
    assert atomic.intact(finished, "data").read_bytes() == b"0123456789"
    does(finished)
    for read in (atomic.read_manifest, atomic.check_intact, lambda folder: atomic.intact(folder, "data")):
        assert refusal(finished, read) == f"/data: {message}"
    assert atomic.intact(finished, "a/b/inner") == finished / "a" / "b" / "inner", "it is not about that one"
    assert atomic.read_manifest(finished, verify=False)["reason"] == "test"


def test_a_file_of_another_size_than_the_manifest_says_is_refused(finished: Path) -> None:
    rewrite_manifest(finished, lambda manifest: manifest["files"]["data"].update(bytes=11), own_hash=True)
    assert refusal(finished, atomic.read_manifest) == f"/data: expected sha256 84d89877f0d4…, {OTHER}"


def test_a_file_that_the_manifest_does_not_list_is_not_intact(finished: Path) -> None:
    rewrite_manifest(finished, lambda manifest: manifest["files"].pop("data"), own_hash=True)
    message = refusal(finished, lambda folder: atomic.intact(folder, "data"))
    assert message == "/data: expected a file that the manifest lists, found none in the manifest"


def test_only_a_folder_with_a_manifest_is_compared_with_it(finished: Path, tmp_path: Path) -> None:
    atomic.check_intact(tmp_path)
    atomic.check_intact(finished)
    (finished / "a" / "b" / "inner").write_bytes(b"abd")
    with pytest.raises(UserError, match="inner: expected sha256"):
        atomic.check_intact(finished)


def test_a_folder_gets_its_name_after_all_in_it_was_flushed(tmp_path: Path, operations: list[tuple[str, str]]) -> None:
    with atomic.unfinished(tmp_path / "x") as partial:
        (partial / "a" / "b").mkdir(parents=True)
        (partial / "a" / "b" / "inner").touch()
    renamed = operations.index(("rename", "x.partial -> x"))
    flushed = {path for kind, path in operations[:renamed] if kind.startswith("sync")}
    assert {"x.partial", "x.partial/a", "x.partial/a/b", "x.partial/a/b/inner"} <= flushed
    assert operations[renamed + 1] == ("sync folder", ".")


def test_a_folder_of_that_name_without_a_manifest_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "of another program").touch()
    with atomic.unfinished(tmp_path / "x"):
        pass
    assert [path.name for path in (tmp_path / "x").iterdir()] == [atomic.MANIFEST]


def test_checkpoints_are_no_part_of_a_finished_folder(tmp_path: Path) -> None:
    with atomic.unfinished(tmp_path / "x") as partial:
        for name in ("checkpoints/step-1/model", "data"):
            (partial / name).parent.mkdir(parents=True, exist_ok=True)
            (partial / name).touch()
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"data", atomic.MANIFEST}
    assert [*atomic.read_manifest(tmp_path / "x")["files"]] == ["data"]
    (tmp_path / "x" / "checkpoints" / "step-1").mkdir(parents=True)  # the process died before it came to that
    atomic.tidy(tmp_path / "x")
    assert {path.name for path in (tmp_path / "x").iterdir()} == {"data", atomic.MANIFEST}


def test_only_what_lies_under_the_folder_itself_is_left_out_of_the_manifest(tmp_path: Path) -> None:
    with atomic.unfinished(tmp_path / "x") as partial:
        for name in ("checkpoints", "manifest.json"):
            (partial / "inner" / name).mkdir(parents=True)
            (partial / "inner" / name / "data").touch()
    names = ["inner/checkpoints/data", "inner/manifest.json/data"]
    assert [*atomic.read_manifest(tmp_path / "x")["files"]] == names


@pytest.mark.parametrize(
    ("names", "new"),
    [
        ([], True),
        ([".lock"], True),
        ([".recipe.toml.17.tmp"], True),
        ([".lock", ".recipe.toml.17.tmp"], True),
        (["recipe.toml"], False),
        ([".lock", "recipe.toml"], False),
        (["recipe.toml", ".lock"], False),
        ([".hidden"], False),
    ],
    ids=str,
)
def test_a_folder_is_new_with_nothing_in_it_but_a_lock_and_unfinished_files(
    tmp_path: Path, names: list[str], new: bool
) -> None:
    output = tmp_path / "output"
    assert atomic.is_new(output)
    atomic.check_new(output)
    output.mkdir()
    for name in names:
        (output / name).touch()
    assert atomic.is_new(output) == new


def test_a_folder_is_new_beside_what_its_caller_has_put_there(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    assert atomic.is_new(tmp_path, beside="data") and not atomic.is_new(tmp_path)
    (tmp_path / "recipe.toml").touch()
    assert not atomic.is_new(tmp_path, beside="data")


def test_an_output_that_is_not_new_is_refused(tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").touch()
    for output in (tmp_path, tmp_path / "recipe.toml"):
        with pytest.raises(UserError) as error:
            atomic.check_new(output)
        assert str(error.value) == (
            f"--output {output}: expected a new or empty folder, found other files; give another --output, or delete it"
        )


def test_what_killed_writes_left_is_no_content_and_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / ".recipe.toml.17.tmp").touch()
    assert atomic.is_new(tmp_path)
    (tmp_path / "recipe.toml").touch()
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / ".scores.json.17.tmp").touch()
    (tmp_path / "inner" / ".tmppLY34W").touch()  # safetensors'
    atomic.sweep(tmp_path)
    assert {path.name for path in tmp_path.rglob("*")} == {".lock", "recipe.toml", "inner"}


def test_a_line_that_was_cut_short_stays_by_itself(tmp_path: Path) -> None:
    path = tmp_path / "new" / "lines"
    atomic.append_line(path, "one")
    atomic.append_line(path, "two")
    assert path.read_text() == "one\ntwo\n"
    path.write_text("one\ntw")
    atomic.append_line(path, "three")
    assert path.read_text() == "one\ntw\nthree\n"


def test_a_log_tells_how_far_it_goes_and_goes_on_from_there(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with atomic.Log(path) as log:
        log.write({"step": 1})
        length, digest = log.sync()
        log.write({"step": 2})
    assert (length, digest) == (12, hashlib.sha256(b'{"step": 1}\n').hexdigest())
    assert atomic.begins_with(path, length, digest) and not atomic.begins_with(path, length + 1, digest)
    with atomic.Log(path, length) as log:
        assert path.read_text() == '{"step": 1}\n', "the rest is done again"
        log.write({"step": 3})
        assert log.sync() == (24, hashlib.sha256(path.read_bytes()).hexdigest())
    assert path.read_text() == '{"step": 1}\n{"step": 3}\n'
    path.write_text('{"step": 7}\n{"step": 3}\n')
    assert not atomic.begins_with(path, length, digest)


def test_a_line_of_a_log_is_there_when_it_was_written_and_durable_when_it_was_flushed(
    tmp_path: Path, operations: list[tuple[str, str]]
) -> None:
    with atomic.Log(tmp_path / "log.jsonl") as log:
        log.write({"step": 1})
        assert (tmp_path / "log.jsonl").read_text() == '{"step": 1}\n', "for who watches it"
        log.sync()
    assert operations == [("cut", "log.jsonl"), ("sync", "log.jsonl"), ("sync folder", ".")]


def test_a_log_that_is_not_there_begins_with_nothing(tmp_path: Path) -> None:
    nothing = hashlib.sha256().hexdigest()
    assert atomic.begins_with(tmp_path / "log.jsonl", 0, nothing)
    assert not atomic.begins_with(tmp_path / "log.jsonl", 1, nothing)


def test_what_is_released_is_gone_and_the_manifest_says_what_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, operations: list[tuple[str, str]]
) -> None:
    folder = tmp_path / "model"
    with atomic.unfinished(folder, row="control") as output:
        for name in ("model.safetensors", "tokenizer.json", "log.jsonl"):
            (output / name).write_text("0123456789")
    before = atomic.read_manifest(folder)["files"]
    assert not atomic.is_released(folder)
    removed = []

    def stopped(path: Path) -> None:
        removed.append(path.name)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(disk, "remove", stopped)
        atomic.release(folder, ["log.jsonl"])
    assert removed == ["model.safetensors"] and atomic.is_released(folder), "said before it is done"
    assert atomic.release(folder, ["log.jsonl"]) == 20, "the next call deletes what is left"
    operations.clear()
    assert atomic.release(folder, ["log.jsonl"]) == 0 and not operations, "there is nothing left to do"
    assert atomic.is_released(folder)
    assert sorted(path.name for path in folder.iterdir()) == ["log.jsonl", "manifest.json"]
    assert atomic.intact(folder, "log.jsonl").read_text() == "0123456789"
    manifest = atomic.read_manifest(folder, verify=False)
    assert manifest["files"] == before and manifest["row"] == "control"
    for read in (lambda: atomic.read_manifest(folder), lambda: atomic.intact(folder, "tokenizer.json")):
        with pytest.raises(UserError) as error:
            read()
        assert str(error.value) == (
            f"{folder}: its weights were deleted when the run no longer needed them (finetune.keep); "
            f"delete {folder} and run the command of the run again with --finetune.keep all, which trains it again"
        )
