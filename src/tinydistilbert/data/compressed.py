"""Files that may be compressed, with gzip or Zstandard: their real ending, and their content within bounds."""

import gzip
import io
import zlib
from pathlib import Path
from typing import IO, Any

from tinydistilbert.errors import UserError
from tinydistilbert.optional import require

GZ, ZST = ".gz", ".zst"
COMPRESSED = (GZ, ZST)
LARGEST_CHECKED = 16 * 2**20
"""Bytes of a compressed file that is unpacked once before it is read."""
BEGINNINGS = {b"\x1f\x8b": ("gzip", GZ), b"\x28\xb5\x2f\xfd": ("Zstandard", ZST)}
"""First bytes of every compressed file, what wrote it, and how its name should end."""
UNPACKED_AT_LEAST = 64 * 2**20
"""Bytes that any file may unpack to."""
LARGEST_RATIO = 50
"""Beyond those bytes, how many times its size a file may unpack to: text is packed to a tenth of its size, and what was
made to fill the memory to a thousandth."""


def ending(path: Path) -> str:
    """The ending that says what is in the file, in small letters: `.csv` of `a.CSV`, `a.csv.gz` and `a.csv.zst`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def is_compressed(path: Path) -> bool:
    """Whether the file's name says that it is."""
    return path.suffix.lower() in COMPRESSED


def open_bytes(path: Path) -> IO[bytes]:
    """The file's bytes, unpacked where its name ends in `.gz` or `.zst`; read in pieces, so never in memory as a whole.

    Raises:
        OSError: it cannot be opened. While it is read `UserError`: it is damaged, cut off, or unpacks to more than
            `LARGEST_RATIO` times its size.
    """
    if not is_compressed(path):
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path))


def check_ratio(path: Path) -> None:
    """Unpack a small file once, so that one which was made to fill the memory is refused before anything is made of it.

    Large ones are refused while they are read.

    Raises:
        UserError: as of the stream of `open_bytes`.
    """
    if is_compressed(path) and path.stat().st_size <= LARGEST_CHECKED:
        with open_bytes(path) as stream:
            while stream.read(2**20):
                pass


class _Unpacked(io.RawIOBase):
    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path, self._is_zst = path, path.suffix.lower() == ZST
        self._file: Any = _unpacking_zst(path) if self._is_zst else gzip.open(path)  # noqa: SIM115
        self._left = max(UNPACKED_AT_LEAST, LARGEST_RATIO * path.stat().st_size)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        try:
            count = int(self._file.readinto(view))
        except (EOFError, gzip.BadGzipFile, zlib.error, OSError) as error:
            if isinstance(error, OSError) and not isinstance(error, gzip.BadGzipFile) and error.errno is not None:
                raise  # of the disk
            expected = f"a whole {'Zstandard' if self._is_zst else 'gzip'} file"
            raise UserError(str(self._path), expected=expected, found=str(error), fix="compress it again") from None
        self._left -= count
        if self._left < 0:
            problem = f"it unpacks to more than {LARGEST_RATIO} times its size, which no file of texts does"
            raise UserError(str(self._path), problem=problem, fix="if it is right, give the unpacked file")
        return count

    def close(self) -> None:
        self._file.close()
        super().close()


def _unpacking_zst(path: Path) -> Any:
    """The content as a file of pyarrow's, which comes with training: Python has no Zstandard before 3.14."""
    arrow = require("pyarrow", extra="train")
    return arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd")
