"""Rows of numbers of different lengths in one array, which is in a file if it is large."""

from collections.abc import Iterator, Sequence
from typing import IO, Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.storage import disk, scratch

NUMBERS_AT_ONCE = 2**20
"""Numbers that are processed together."""
MOST_IN_MEMORY = 64 * 2**20
"""Array size in bytes from which it is memory-mapped."""


class FlatFile:
    """A growing array: in memory, and beyond `MOST_IN_MEMORY` in a file."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._rows = 0
        self._stream: IO[bytes] | None = None

    def append(self, part: NDArray[Any]) -> None:
        """Append numbers, or rows of numbers.

        Raises:
            DiskError: the disk is full or failing.
        """
        self._parts.append(part)
        self._rows += len(part)
        if self._stream is None and sum(each.nbytes for each in self._parts) >= MOST_IN_MEMORY:
            self._stream = scratch.nameless()
        if self._stream is not None:
            with disk.disk_errors(scratch.folder()):
                for each in self._parts:
                    self._stream.write(np.ascontiguousarray(each).data)
            del self._parts[:-1]  # keep one, for its type
            self._parts[0] = self._parts[0][:0]

    def whole(self) -> NDArray[Any]:
        """Return the whole array."""
        if self._stream is None:
            return np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.int64)
        with disk.disk_errors(scratch.folder()):
            self._stream.flush()
        like = self._parts[0]
        with self._stream:
            return np.memmap(self._stream, like.dtype, "r", shape=(self._rows, *like.shape[1:]))


def in_parts(rows: "Sequence[NDArray[Any]]") -> Iterator[NDArray[Any]]:
    """Yield all numbers of some rows: many at a time if they are in one array, else row by row."""
    if not isinstance(rows, TokenRows):
        yield from rows
        return
    for begin in range(0, len(rows.flat), NUMBERS_AT_ONCE):
        yield rows.flat[begin : begin + NUMBERS_AT_ONCE]


class TokenRows(Sequence[NDArray[Any]]):
    """Rows of different lengths in one array: as separate arrays, most rows would take more memory than their tokens.

    Args:
        flat: the numbers of all rows.
        lengths: (n,) length of each row.
    """

    def __init__(self, flat: NDArray[Any], lengths: NDArray[np.integer[Any]]) -> None:
        self.flat, self.lengths = flat, lengths
        kind: type[np.integer[Any]] = np.uint32 if len(flat) < 2**32 else np.int64
        self._ends: NDArray[np.integer[Any]] = np.cumsum(lengths, dtype=kind)

    def with_flat(self, flat: NDArray[Any]) -> "TokenRows":
        """Return other numbers in rows of the same lengths."""
        other = TokenRows.__new__(TokenRows)
        other.flat, other.lengths, other._ends = flat, self.lengths, self._ends
        return other

    def __len__(self) -> int:
        return len(self.lengths)

    def together(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """Return the concatenated numbers of the rows at `indices`."""
        lengths = self.lengths[indices]
        ends = np.cumsum(lengths, dtype=np.int64)
        numbers: NDArray[Any] = self.flat[np.repeat(self._ends[indices] - ends, lengths) + np.arange(ends[-1])]
        return numbers

    @overload
    def __getitem__(self, index: SupportsIndex) -> NDArray[Any]: ...

    @overload
    def __getitem__(self, index: slice) -> "TokenRows": ...

    def __getitem__(self, index: SupportsIndex | slice) -> "NDArray[Any] | TokenRows":
        if isinstance(index, slice):
            begin, end, step = index.indices(len(self))
            assert step == 1, "rows that follow one another"
            lengths = self.lengths[begin:end]
            first = int(self._ends[begin - 1]) if begin else 0
            return TokenRows(self.flat[first : first + int(lengths.sum())], lengths)
        row = range(len(self))[index]
        end = int(self._ends[row])
        numbers: NDArray[Any] = self.flat[end - int(self.lengths[row]) : end]
        return numbers

    def __iter__(self) -> Iterator[NDArray[Any]]:
        begin = 0
        for length in self.lengths:
            yield self.flat[begin : (begin := begin + int(length))]


class RowsFile:
    """Collects rows of different lengths, and turns them into `TokenRows`."""

    def __init__(self) -> None:
        self._flat = FlatFile()
        self._lengths: list[NDArray[np.int32]] = []

    def append(self, rows: Sequence[NDArray[Any]]) -> None:
        """Append rows of one type.

        Raises:
            DiskError: the disk is full or failing.
        """
        if len(rows):
            self._flat.append(np.concatenate(rows))
            self._lengths.append(np.array([len(row) for row in rows], dtype=np.int32))

    def whole(self) -> TokenRows:
        """Return all rows."""
        return TokenRows(self._flat.whole(), np.concatenate([np.zeros(0, dtype=np.int32), *self._lengths]))
