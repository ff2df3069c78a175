"""Files that may be compressed with gzip or Zstandard: their inner ending, and their content up to a size limit."""

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
"""Compressed files of up to this many bytes are unpacked once as a check before they are read."""
BEGINNINGS = {b"\x1f\x8b": ("gzip", GZ), b"\x28\xb5\x2f\xfd": ("Zstandard", ZST)}
"""The first bytes of every compressed file, its format, and how its name should end."""
UNPACKED_AT_LEAST = 64 * 2**20
"""Bytes to which any file may unpack."""
LARGEST_RATIO = 50
"""Beyond those bytes, a file may unpack to at most this many times its size: text compresses to about a tenth of its
size, a file made to exhaust memory to a thousandth."""


def ending(path: Path) -> str:
    """Return the ending of the content's format, in lower case: `.csv` for `a.CSV`, `a.csv.gz` and `a.csv.zst`."""
    suffix = path.suffix.lower()
    return Path(path.stem).suffix.lower() if suffix in COMPRESSED else suffix


def is_compressed(path: Path) -> bool:
    """Whether the file is compressed, according to its name."""
    return path.suffix.lower() in COMPRESSED


def open_bytes(path: Path) -> IO[bytes]:
    """Open the file's bytes, unpacked if its name ends in `.gz` or `.zst`; it is never in memory as a whole.

    Raises:
        OSError: it cannot be opened. Reading it raises `UserError` if it is damaged, cut off, or unpacks to more than
            `LARGEST_RATIO` times its size.
    """
    if not is_compressed(path):
        return path.open("rb")
    return io.BufferedReader(_Unpacked(path))


def check_ratio(path: Path) -> None:
    """Unpack a small file once, so that one made to exhaust memory is refused before it is used.

    Large files are refused while they are read.

    Raises:
        UserError: as for the stream of `open_bytes`.
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
                raise  # a disk error
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
    """Open the content with pyarrow, which the extra `train` installs: Python has no Zstandard before 3.14."""
    arrow = require("pyarrow", extra="train")
    return arrow.CompressedInputStream(arrow.OSFile(str(path)), "zstd")
