"""`.npy` files of any size, written a part at a time."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np


class RowFile:
    """A `.npy` file that grows by rows; its header gets the number of rows when the file is closed.

    Args:
        path: the file; an existing one is overwritten.
        row_shape: the shape of one row, () for numbers.
        dtype: type in which the rows are stored.
    """

    def __init__(self, path: Path, row_shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
        self.rows = 0
        self._row_shape, self._dtype = row_shape, dtype
        self._stream = path.open("wb")
        self._write_header()
        self._start = self._stream.tell()

    def append(self, part: np.ndarray) -> None:
        """Add rows at the end."""
        assert part.shape[1:] == self._row_shape, (part.shape, self._row_shape)
        self._stream.write(np.ascontiguousarray(part, dtype=self._dtype).data)
        self.rows += len(part)

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
