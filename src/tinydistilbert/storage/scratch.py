"""Files without a name, for what is larger than memory should hold: they are gone when nothing reads them any more.

They lie on the disk of the run folder, and not in the system's temporary folder, which may be memory.
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
    """Inside the `with`, such files lie on the disk on which a folder is or is going to be."""
    _folders.append(folder)
    try:
        yield
    finally:
        _folders.pop()


def folder() -> Path:
    """Where such files lie."""
    return disk.existing(_folders[-1]) if _folders else Path(tempfile.gettempdir())


def nameless() -> IO[bytes]:
    """A new file to write and to map; on POSIX no process but this one can see it, and a kill leaves nothing.

    Raises:
        DiskError: the disk is full or failing.
    """
    with disk.disk_errors(folder()):
        return tempfile.TemporaryFile(dir=folder())
