"""One process at a time: in a run folder, or at one entry of a cache.

The lock is the kernel's (`flock`), so it ends with the process that holds it, however that dies: none goes stale.
The file tells who holds it, and is deleted when it is let go.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from tinydistilbert.errors import UserError
from tinydistilbert.storage import atomic, disk


@contextmanager
def new_output(output: Path) -> Iterator[None]:
    """Have a folder that is not there yet, or empty, for this process alone.

    Raises:
        UserError: something is in it, or another process is making it.
    """
    with alone(output.with_name(f".{output.name}{atomic.LOCK}"), where=f"--output {output}"):
        atomic.check_new(output)
        yield


@contextmanager
def alone(lock: Path, *, where: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock while the body runs.

    On file systems and systems without such locks (Windows) the body runs unguarded.

    Args:
        lock: the file; the folder that it lies in is made.
        where: what is locked, as its user knows it.
        wait: wait for another process that holds it, which is told; otherwise it is an error.

    Raises:
        UserError: another process holds it; its id is named. Or its folder cannot be made.
    """
    stream = _held(lock, where, wait)
    try:
        yield
    finally:
        if stream is not None:
            lock.unlink(
                missing_ok=True
            )  # while it is still held: who waits finds that its file is gone, and opens anew
            stream.close()


def tidy(lock: Path) -> None:
    """Delete the file of a lock that nobody holds: a process may have died before it came to that."""
    if lock.exists():
        with suppress(UserError, OSError), alone(lock, where=str(lock)):
            pass


def _held(lock: Path, where: str, wait: bool) -> IO[str] | None:
    """The open and locked file that lies at `lock`."""
    if sys.platform == "win32":
        return None
    import fcntl

    told = False
    while True:
        try:
            with disk.disk_errors(lock):
                disk.make_folder(lock.parent)
                stream = lock.open("a+", encoding="utf-8")
        except OSError as error:
            found, fix = error.strerror or str(error), "give another place"
            raise UserError(where, expected="a folder that can be made", found=found, fix=fix) from None
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(stream)
            if not wait:
                stream.close()
                found, fix = f"{holder} at work", "wait until it is done, or stop it"
                raise UserError(where, expected="no other run there", found=found, fix=fix) from None
            if not told:
                sys.stderr.write(f"waiting for {holder}, which is at work on {where}\n")
                told = True
            fcntl.flock(stream, fcntl.LOCK_EX)
        except OSError:  # a file system without locks
            stream.close()
            lock.unlink(missing_ok=True)
            return None
        try:
            is_there = os.path.samestat(os.fstat(stream.fileno()), lock.stat())
        except FileNotFoundError:
            is_there = False
        if is_there:
            try:
                with disk.disk_errors(lock):
                    os.ftruncate(stream.fileno(), 0)
                    os.write(stream.fileno(), f"{os.getpid()}\n".encode())
            except BaseException:
                lock.unlink(missing_ok=True)
                stream.close()
                raise
            return stream
        stream.close()  # the one who held it has deleted it; another file may be there by now


def _holder(stream: IO[str]) -> str:
    """Who holds the lock, in words."""
    stream.seek(0)
    number = stream.read(20).strip()
    return f"process {number}" if number.isdigit() else "another process"
