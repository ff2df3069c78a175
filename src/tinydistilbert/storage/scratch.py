"""Nameless files, for data too large for memory: they disappear when nothing reads them any more.

They are on the disk of the run folder, not in the system's temporary folder, which may be in memory.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tinydistilbert.storage import disk

_folders: list[Path] = []


@contextmanager
def beside(folder: Path) -> Iterator[None]:
    """In the body, put such files on the disk where a folder is or will be."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.pop()


def folder() -> Path:
    """Return the folder for such files."""
    return disk.existing(_folders[-1]) if _folders else Path(tempfile.gettempdir())


def nameless() -> IO[bytes]:
    """Return a new file to write and to map; on POSIX only this process can see it, and a kill leaves nothing behind.

    Raises:
        DiskError: the disk is full or failing.
    """
    with disk.disk_errors(folder()):
        return tempfile.TemporaryFile(dir=folder())
