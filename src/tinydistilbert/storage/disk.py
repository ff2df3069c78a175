"""The few file operations that make up every durable write (`atomic.py`).

Each is announced to a hook, so that a test can observe it, make it fail or stop it. A full or failing disk raises
`DiskError`.
"""

import errno
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import Literal

from tinydistilbert.errors import DiskError


@dataclass(frozen=True)
class Operation:
    """A file operation; it is announced before it begins."""

    kind: Literal["make folder", "write", "sync", "sync folder", "rename", "remove", "cut"]
    path: Path
    target: Path | None = None
    """The new name, for renames."""
    content: bytes | None = None
    """The bytes to write or append."""


Hook = Callable[[Operation], AbstractContextManager[object]]


def _no_hook(_operation: Operation) -> AbstractContextManager[object]:
    return nullcontext()


hook: Hook = _no_hook
"""Called with each operation, which runs inside the context that it returns. Only tests set it."""

_FAILURES = {
    errno.ENOSPC: "no space left on the disk",
    errno.EDQUOT: "disk quota used up",
    errno.EFBIG: "file larger than the system allows",
    errno.EIO: "input/output error of the disk",
    errno.EROFS: "read-only file system",
}
_MESSAGES = {  # from C++ and Rust libraries, whose exceptions have no errno
    "no space left": errno.ENOSPC,
    "os error 28": errno.ENOSPC,
    "disk quota exceeded": errno.EDQUOT,
    "file too large": errno.EFBIG,
    "os error 27": errno.EFBIG,
    "input/output error": errno.EIO,
    "os error 5)": errno.EIO,
}


def failure_of(error: BaseException) -> str | None:
    """Return what is wrong with the disk, as a noun, if the error is a disk error; else None."""
    if isinstance(error, OSError) and error.errno is not None:
        return _FAILURES.get(error.errno)
    text = str(error).lower()
    return next((_FAILURES[number] for message, number in _MESSAGES.items() if message in text), None)


def in_home(name: str | Path) -> Path:
    """Return the path of a name, with the home folder for `~`; unchanged if `~user` names no user of this machine."""
    try:
        return Path(name).expanduser()
    except RuntimeError:
        return Path(name)


def existing(path: Path) -> Path:
    """Return the path, or the nearest existing folder above it."""
    return next(folder for folder in (path.absolute(), *path.absolute().parents) if folder.exists())


def free_bytes(path: Path) -> int:
    """Return the free bytes on the disk where `path` is or would be."""
    return shutil.disk_usage(existing(path)).free


def bytes_in(folder: Path) -> int:
    """Return the bytes of all files in the folder and below."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


@contextmanager
def disk_errors(path: Path, needed: int = 0) -> Iterator[None]:
    """Raise disk errors of the body as `DiskError`, with the path and the bytes `needed` (0 = unknown).

    Raises:
        DiskError: the disk is full or failing.
    """
    try:
        yield
    except DiskError:
        raise
    except Exception as error:
        if failure := failure_of(error):
            raise DiskError(path, failure, needed=needed, free=free_bytes(path)) from error
        raise


@contextmanager
def _operation(operation: Operation) -> Iterator[None]:
    with disk_errors(operation.path, len(operation.content or b"")), hook(operation):
        yield


def make_folder(folder: Path) -> None:
    """Create the folder and its missing parents durably; does nothing if it exists."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    for path in reversed(missing):
        with _operation(Operation("make folder", path)):
            path.mkdir(exist_ok=True)
        sync_folder(path.parent)


def write(path: Path, content: bytes) -> None:
    """Create or overwrite the file; its content is not flushed to the disk."""
    with _operation(Operation("write", path, content=content)), path.open("wb") as stream:
        stream.write(content)


def open_to_umask(path: Path) -> None:
    """Give the file the permissions of a new file: some libraries (safetensors) let only the owner read theirs.

    The mask can only be read by setting it for a moment; a file that another thread creates meanwhile is private.
    """
    mask = os.umask(0o077)
    os.umask(mask)
    path.chmod(0o666 & ~mask)


def append(path: Path, content: bytes) -> None:
    """Append to the file; the addition is not flushed to the disk."""
    with _operation(Operation("write", path, content=content)), path.open("ab", buffering=0) as stream:
        write_whole(stream, content)


def write_whole(stream: FileIO, content: bytes) -> None:
    """Write all of `content` to an unbuffered file: a nearly full disk may accept only a part at first."""
    while content:
        content = content[stream.write(content) :]


def cut(path: Path, length: int) -> None:
    """Truncate the file to its first `length` bytes."""
    with _operation(Operation("cut", path)):
        os.truncate(path, length)


def sync(path: Path) -> None:
    """Flush the file's content to the disk, whichever process wrote it."""
    with _operation(Operation("sync", path)), path.open("rb") as stream:
        os.fsync(stream.fileno())


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is durable only after its folder is flushed)."""
    with _operation(Operation("sync folder", folder)):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def rename(path: Path, target: Path) -> None:
    """Rename the file or folder in the same file system; an existing file of that name is replaced."""
    with _operation(Operation("rename", path, target=target)):
        path.replace(target)


def remove(path: Path) -> None:
    """Delete the file, or the folder with its content; does nothing if it does not exist."""
    with _operation(Operation("remove", path)):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
