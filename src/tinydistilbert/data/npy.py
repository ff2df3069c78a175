"""`.npy` files of any size, written a part at a time."""

import hashlib
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np

from tinydistilbert.storage import disk

BYTES_AT_ONCE = 2**20
"""Bytes of the kept part that are read at a time."""


class RowFile:
    """A `.npy` file that grows by rows; its header gets the number of rows when the file is closed.

    Args:
        path: the file; an existing one is overwritten, or truncated to the kept rows.
        row_shape: shape of a row, () for numbers.
        dtype: type of the stored rows.
        kept: rows of an existing file to keep.

    Raises:
        OSError: there are rows to keep, but the file is missing or too short.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.dtype[Any], kept: int = 0) -> None:
        self.rows = kept
        self._row_shape, self._dtype, self._path = row_shape, dtype, path
        self._hash = hashlib.sha256()
        self._stream = path.open("r+b" if kept else "wb")
        self._write_header()
        self._start = self._stream.tell()
        if kept:
            self._keep(kept * dtype.itemsize * int(np.prod(row_shape)))

    def _keep(self, size: int) -> None:
        left = size
        while left:
            part = self._stream.read(min(left, BYTES_AT_ONCE))
            if not part:
                self._stream.close()
                raise OSError(f"{self._path} has fewer rows than were to be kept of it")
            self._hash.update(part)
            left -= len(part)
        self._stream.truncate(self._start + size)
        self._stream.seek(self._start + size)

    @property
    def digest(self) -> str:
        """Return the SHA-256 of the rows, without the header."""
        return self._hash.hexdigest()

    def append(self, part: np.ndarray) -> None:
        """Append rows."""
        assert part.shape[1:] == self._row_shape, (part.shape, self._row_shape)
        content = np.ascontiguousarray(part, dtype=self._dtype).data
        self._stream.write(content)
        self._hash.update(content)
        self.rows += len(part)

    def sync(self) -> None:
        """Make the rows written so far durable."""
        self._stream.flush()
        disk.sync(self._path)

    def _write_header(self) -> None:
        header = {"descr": np.lib.format.dtype_to_descr(self._dtype), "fortran_order": False}
        np.lib.format.write_array_header_1_0(self._stream, {**header, "shape": (self.rows, *self._row_shape)})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._stream:
            if error is None:
                self._stream.seek(0)
                self._write_header()
                assert self._stream.tell() == self._start, "NumPy pads the header so that the first dimension can grow"
