"""The primitive operations: each is announced once, before it begins, and tells a disk that fails."""

import errno
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tinydistilbert.errors import DiskError
from tinydistilbert.storage import cache, disk
from tinydistilbert.storage.disk import Operation


@pytest.fixture
def announced(monkeypatch: pytest.MonkeyPatch) -> list[Operation]:
    """What is announced during the test."""
    operations: list[Operation] = []

    @contextmanager
    def watch(operation: Operation) -> Iterator[None]:
        operations.append(operation)
        yield

    monkeypatch.setattr(disk, "hook", watch)
    return operations


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of ten bytes."""
    path = tmp_path / "there"
    path.write_bytes(b"0123456789")
    return path


Does = Callable[[Path], None]
OPERATIONS: dict[str, tuple[Does, Callable[[Path], Operation], bytes | None]] = {
    "write": (lambda path: disk.write(path, b"ab"), lambda path: Operation("write", path, content=b"ab"), b"ab"),
    "append": (
        lambda path: disk.append(path, b"ab"),
        lambda path: Operation("write", path, content=b"ab"),
        b"0123456789ab",
    ),
    "cut": (lambda path: disk.cut(path, 4), lambda path: Operation("cut", path), b"0123"),
    "sync": (disk.sync, lambda path: Operation("sync", path), b"0123456789"),
    "sync_folder": (
        lambda path: disk.sync_folder(path.parent),
        lambda path: Operation("sync folder", path.parent),
        b"0123456789",
    ),
    "rename": (
        lambda path: disk.rename(path, path.with_name("new")),
        lambda path: Operation("rename", path, target=path.with_name("new")),
        None,
    ),
    "remove": (disk.remove, lambda path: Operation("remove", path), None),
}
"""What to do with the file, what is announced, and its content afterwards; None = it is gone."""
each_operation = pytest.mark.parametrize("name", OPERATIONS)


@each_operation
def test_each_operation_is_announced_once(name: str, announced: list[Operation], file: Path) -> None:
    does, operation, content = OPERATIONS[name]
    does(file)
    assert announced == [operation(file)]
    assert (file.read_bytes() if file.exists() else None) == content


@each_operation
def test_an_operation_happens_inside_the_context_of_the_hook(
    name: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[bytes | None] = []
    does, _, content = OPERATIONS[name]

    @contextmanager
    def watch(_: Operation) -> Iterator[None]:
        seen.append(file.read_bytes())
        yield
        seen.append(file.read_bytes() if file.exists() else None)

    monkeypatch.setattr(disk, "hook", watch)
    does(file)
    assert seen == [b"0123456789", content]


@each_operation
def test_what_a_hook_raises_stops_the_operation(name: str, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(_: Operation) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(disk, "hook", stop)
    with pytest.raises(DiskError, match="no space left"):
        OPERATIONS[name][0](file)
    assert file.read_bytes() == b"0123456789"


def test_what_is_flushed_is_that_file_or_folder_itself(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flushed: list[os.stat_result] = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: flushed.append(os.fstat(descriptor)))
    disk.sync(file)
    disk.sync_folder(file.parent)
    assert [*map(os.path.samestat, flushed, (file.stat(), file.parent.stat()))] == [True, True]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o027, 0o640), (0o002, 0o664), (0o077, 0o600)], ids=oct)
def test_a_file_is_opened_to_whom_the_mask_lets_and_others_stay_private_meanwhile(
    mask: int, mode: int, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_mask, meanwhile = os.umask, file.with_name("of another thread")

    def watched(wanted: int) -> int:
        before = set_mask(wanted)
        if not meanwhile.exists():
            meanwhile.touch()
        return before

    file.chmod(0o600)
    before = set_mask(mask)
    try:
        monkeypatch.setattr(os, "umask", watched)
        disk.open_to_umask(file)
    finally:
        after = set_mask(before)
    assert after == mask, "as it was"
    assert [stat.S_IMODE(path.stat().st_mode) for path in (file, meanwhile)] == [mode, 0o600]


def test_folders_that_are_missing_are_made_and_each_name_is_flushed(announced: list[Operation], tmp_path: Path) -> None:
    inner = tmp_path / "a" / "b"
    disk.make_folder(inner)
    assert inner.is_dir()
    assert announced == [
        Operation("make folder", tmp_path / "a"),
        Operation("sync folder", tmp_path),
        Operation("make folder", inner),
        Operation("sync folder", tmp_path / "a"),
    ]
    disk.make_folder(inner)
    assert len(announced) == 4, "it is there"


def test_a_folder_that_another_process_makes_at_once_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def other(operation: Operation) -> Iterator[None]:
        if operation.kind == "make folder":
            operation.path.mkdir()
        yield

    monkeypatch.setattr(disk, "hook", other)
    disk.make_folder(tmp_path / "a" / "b")
    assert (tmp_path / "a" / "b").is_dir()


def test_a_folder_is_removed_with_all_in_it_and_a_link_alone(tmp_path: Path, file: Path) -> None:
    folder, link = tmp_path / "folder", tmp_path / "link"
    (folder / "inner").mkdir(parents=True)
    (folder / "inner" / "file").touch()
    link.symlink_to(folder)
    disk.remove(link)
    assert (folder / "inner" / "file").exists() and not link.is_symlink()
    disk.remove(folder)
    assert [*tmp_path.iterdir()] == [file]
    disk.remove(folder)


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "no space left on the disk"),
        (errno.EDQUOT, "disk quota used up"),
        (errno.EFBIG, "file larger than the system allows"),
        (errno.EIO, "input/output error of the disk"),
        (errno.EROFS, "read-only file system"),
    ],
)
def test_an_error_of_the_disk_is_told_with_path_and_megabytes(
    number: int, words: str, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: Operation) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(disk, "hook", fail)
    monkeypatch.setattr(disk, "free_bytes", lambda _: 1_250_000)
    with pytest.raises(DiskError) as caught:
        disk.write(file, bytes(2_500_000))
    assert str(caught.value) == (
        f"{file}: {words} (2.5 MB to write, 1.2 MB free); free some space, then run the same command to go on"
    )
    assert (caught.value.path, caught.value.needed, caught.value.free) == (file, 2_500_000, 1_250_000)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "no space left on the disk"),
        (
            "[Errno 28] Error writing bytes to file. Detail: [errno 28] No space left on device",
            "no space left on the disk",
        ),
        ("I/O error: File too large (os error 27)", "file larger than the system allows"),
        ("[enforce fail] . unexpected pos 64 vs 0: Disk quota exceeded", "disk quota used up"),
        ("I/O error: Input/output error (os error 5)", "input/output error of the disk"),
    ],
)
def test_errors_that_libraries_tell_in_words_are_errors_of_the_disk(text: str, words: str, file: Path) -> None:
    with pytest.raises(DiskError, match=words) as caught, disk.disk_errors(file):
        raise RuntimeError(text)
    assert "to write" not in str(caught.value), "nobody knows how much"


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.EACCES, "Permission denied"),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        RuntimeError("I/O error: Too many open files (os error 24)"),
        RuntimeError("os error 51 is not os error 5 in parentheses"),
    ],
    ids=str,
)
def test_other_errors_stay_what_they_are(error: Exception, file: Path) -> None:
    with pytest.raises(type(error)) as caught, disk.disk_errors(file):
        raise error
    assert caught.value is error


def test_an_error_of_the_disk_is_told_once(file: Path, tmp_path: Path) -> None:
    """Where it happened, not where it passed by."""
    with pytest.raises(DiskError) as caught, disk.disk_errors(tmp_path), disk.disk_errors(file):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert caught.value.path == file


def test_room_is_looked_for_where_the_file_would_be(tmp_path: Path) -> None:
    assert disk.existing(tmp_path / "not" / "there") == tmp_path
    assert disk.free_bytes(tmp_path / "not" / "there") > 0


def test_the_bytes_of_a_folder_are_those_of_all_files_but_linked_ones(file: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "a" / "b").mkdir(parents=True)
    assert disk.bytes_in(folder) == 0
    (folder / "one").write_bytes(b"abc")
    (folder / "a" / "b" / ".two").write_bytes(b"de")
    (folder / "link").symlink_to(file)
    (folder / "a" / "linked folder").symlink_to(tmp_path)
    (folder / "link to nothing").symlink_to(tmp_path / "nothing")
    assert disk.bytes_in(folder) == 5


def test_the_cache_may_be_in_the_home_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for variable in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(variable, str(tmp_path))
    monkeypatch.setenv("TINYDISTILBERT_CACHE", "~/blocks")
    assert cache.folder() == tmp_path / "blocks"
