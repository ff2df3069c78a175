"""One process at a time: in a run folder, or at one entry of a cache.

The lock belongs to the operating system (by `filelock`), so it ends with the process that holds it, however that dies:
none goes stale. The lock file names the process that holds it, and is deleted when the lock is released.
"""

import errno
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tinydistilbert.errors import UserError
from tinydistilbert.storage import atomic, disk

if TYPE_CHECKING:
    from filelock import BaseFileLock

NOT_SUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP)
"""Errors of a file system that has no locks."""


@contextmanager
def new_output(output: Path) -> Iterator[None]:
    """Reserve an output folder, which does not exist yet or is empty, for this process.

    Raises:
        UserError: it holds other files, or another process is making it.
    """
    with alone(output.with_name(f".{output.name}{atomic.LOCK}"), where=f"--output {output}"):
        atomic.check_new(output)
        yield


@contextmanager
def alone(lock: Path, *, where: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock while the body runs.

    On a file system without locks the body runs unprotected, and a line on standard error says so.

    Args:
        lock: the file; the folder that it lies in is made.
        where: what is locked, as the user knows it.
        wait: wait for the process that holds it, with a line on standard error; otherwise it is an error.

    Raises:
        UserError: another process holds it; the message has its id. Or the file or its folder cannot be made.
    """
    held = _acquired(lock, where, wait)
    try:
        if held is not None:
            with disk.disk_errors(lock), suppress(PermissionError):  # Windows lets nobody write into a locked file
                lock.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        if held is not None:
            # Deleted while it is still held: processes that wait notice that their file is gone, and open a new one.
            with suppress(PermissionError):  # on Windows filelock deletes it after the release
                lock.unlink(missing_ok=True)
            held.release()


def tidy(lock: Path) -> None:
    """Delete the file of a lock that nobody holds: its process may have died before it did."""
    if lock.exists():
        with suppress(UserError, OSError), alone(lock, where=str(lock)):
            pass


def _acquired(lock: Path, where: str, wait: bool) -> "BaseFileLock | None":
    """The acquired lock; None on a file system without locks.

    Raises:
        UserError: another process holds it and `wait` is false, or the file or its folder cannot be made.
    """
    from filelock import FileLock, Timeout  # only commands that write need it

    try:
        with disk.disk_errors(lock):
            disk.make_folder(lock.parent)
            # A soft lock, which filelock would take instead where there are no locks, outlives a killed process.
            file_lock = FileLock(lock, fallback_to_soft=False)
            try:
                file_lock.acquire(blocking=False)
            except Timeout:
                holder = _holder(lock)
                if not wait:
                    found, fix = f"{holder} at work", "wait until it is done, or stop it"
                    raise UserError(where, expected="no other run there", found=found, fix=fix) from None
                sys.stderr.write(f"waiting for {holder}, which is at work on {where}\n")
                file_lock.acquire()
    except OSError as error:
        if error.errno in NOT_SUPPORTED:
            lock.unlink(missing_ok=True)
            sys.stderr.write(
                f"{where}: this file system has no locks; do not run a second command there at the same time\n"
            )
            return None
        found, fix = error.strerror or str(error), "give another folder"
        raise UserError(where, expected="a folder that can be made", found=found, fix=fix) from None
    return file_lock


def _holder(lock: Path) -> str:
    """The process that holds the lock, for messages."""
    try:
        number = lock.read_text(encoding="utf-8")[:20].strip()
    except (OSError, UnicodeDecodeError):  # Windows lets nobody read a locked file; or it has just been deleted
        number = ""
    return f"process {number}" if number.isdigit() else "another process"
