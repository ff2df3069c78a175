"""Locks: one process at a time in a run folder, or on one cache entry.

The operating system holds the lock (through `filelock`), so it ends with its process, however that dies: no lock goes
stale. The lock file names the process that holds it, and is deleted when the lock is released.
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
"""Error numbers of a file system without locks."""


@contextmanager
def new_output(output: Path) -> Iterator[None]:
    """Reserve a new or empty output folder for this process.

    Raises:
        UserError: it holds other files, or another process is writing it.
    """
    with alone(output.with_name(f".{output.name}{atomic.LOCK}"), where=f"--output {output}"):
        atomic.check_new(output)
        yield


@contextmanager
def alone(lock: Path, *, where: str, wait: bool = False) -> Iterator[None]:
    """Hold the lock while the body runs.

    On a file system without locks the body runs unprotected; a line on standard error reports it.

    Args:
        lock: the lock file; its folder is created.
        where: name of the locked thing, for the user.
        wait: wait for the process that holds it, and report that on standard error; otherwise raise an error.

    Raises:
        UserError: another process holds the lock (the message has its id), or the file or its folder cannot be created.
    """
    held = _acquired(lock, where, wait)
    try:
        if held is not None:
            with disk.disk_errors(lock), suppress(PermissionError):  # Windows does not allow writing to a locked file
                lock.write_text(f"{os.getpid()}\n", encoding="utf-8")
        yield
    finally:
        if held is not None:
            # Delete it while it is still held: waiting processes notice that their file is gone, and open a new one.
            with suppress(PermissionError):  # on Windows filelock deletes it after the release
                lock.unlink(missing_ok=True)
            held.release()


def tidy(lock: Path) -> None:
    """Delete the file of a lock that nobody holds: its process may have died before deleting it."""
    if lock.exists():
        with suppress(UserError, OSError), alone(lock, where=str(lock)):
            pass


def _acquired(lock: Path, where: str, wait: bool) -> "BaseFileLock | None":
    """Acquire and return the lock; None on a file system without locks.

    Raises:
        UserError: another process holds it and `wait` is false, or the file or its folder cannot be created.
    """
    from filelock import FileLock, Timeout  # only commands that write need it

    try:
        with disk.disk_errors(lock):
            disk.make_folder(lock.parent)
            # Without OS locks, filelock would fall back to a soft lock, which outlives a killed process.
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
    """Return the process that holds the lock, for messages."""
    try:
        number = lock.read_text(encoding="utf-8")[:20].strip()
    except (OSError, UnicodeDecodeError):  # Windows does not allow reading a locked file; or it was just deleted
        number = ""
    return f"process {number}" if number.isdigit() else "another process"
