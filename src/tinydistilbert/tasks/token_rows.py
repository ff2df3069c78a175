"""Rows of numbers of different lengths in one array, which lies in a file where it is large."""

from collections.abc import Iterator, Sequence
from typing import IO, Any, SupportsIndex, overload

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.storage import disk, scratch

NUMBERS_AT_ONCE = 2**20
"""That are looked at together."""
MOST_IN_MEMORY = 64 * 2**20
"""Bytes of an array from which on it is mapped."""


class FlatFile:
    """An array that grows: in memory, and from `MOST_IN_MEMORY` on in a file."""

    def __init__(self) -> None:
        self._parts: list[NDArray[Any]] = []
        self._rows = 0
        self._stream: IO[bytes] | None = None

    def append(self, part: NDArray[Any]) -> None:
        """Add numbers, or rows of numbers, at the end.

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
            del self._parts[:-1]  # one, for its type
            self._parts[0] = self._parts[0][:0]

    def whole(self) -> NDArray[Any]:
        """All of it."""
        if self._stream is None:
            return np.concatenate(self._parts) if self._parts else np.zeros(0, dtype=np.int64)
        with disk.disk_errors(scratch.folder()):
            self._stream.flush()
        like = self._parts[0]
        with self._stream:
            return np.memmap(self._stream, like.dtype, "r", shape=(self._rows, *like.shape[1:]))


def in_parts(rows: "Sequence[NDArray[Any]]") -> Iterator[NDArray[Any]]:
    """All numbers of some rows: of those in one array many at a time, of others row by row."""
    if not isinstance(rows, TokenRows):
        yield from rows
        return
    for begin in range(0, len(rows.flat), NUMBERS_AT_ONCE):
        yield rows.flat[begin : begin + NUMBERS_AT_ONCE]


class TokenRows(Sequence[NDArray[Any]]):
    """Rows of different lengths in one array: an array of its own takes more memory for most rows than their tokens.

    Args:
        flat: the numbers of all rows.
        lengths: (n,) of each row.
    """

    def __init__(self, flat: NDArray[Any], lengths: NDArray[np.integer[Any]]) -> None:
        self.flat, self.lengths = flat, lengths
        kind: type[np.integer[Any]] = np.uint32 if len(flat) < 2**32 else np.int64
        self._ends: NDArray[np.integer[Any]] = np.cumsum(lengths, dtype=kind)

    def with_flat(self, flat: NDArray[Any]) -> "TokenRows":
        """Other numbers in rows of the same lengths."""
        other = TokenRows.__new__(TokenRows)
        other.flat, other.lengths, other._ends = flat, self.lengths, self._ends
        return other

    def __len__(self) -> int:
        return len(self.lengths)

    def together(self, indices: Sequence[int] | NDArray[np.int64]) -> NDArray[Any]:
        """The numbers of the rows at `indices`, one row after the other."""
        lengths = self.lengths[indices]
        ends = np.cumsum(lengths, dtype=np.int64)
        found: NDArray[Any] = self.flat[np.repeat(self._ends[indices] - ends, lengths) + np.arange(ends[-1])]
        return found

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
        found: NDArray[Any] = self.flat[end - int(self.lengths[row]) : end]
        return found

    def __iter__(self) -> Iterator[NDArray[Any]]:
        begin = 0
        for length in self.lengths:
            yield self.flat[begin : (begin := begin + int(length))]


class RowsFile:
    """Rows of different lengths that are added one after the other; they become `TokenRows`."""

    def __init__(self) -> None:
        self._flat = FlatFile()
        self._lengths: list[NDArray[np.int32]] = []

    def append(self, rows: Sequence[NDArray[Any]]) -> None:
        """Add rows of one type at the end.

        Raises:
            DiskError: the disk is full or failing.
        """
        if len(rows):
            self._flat.append(np.concatenate(rows))
            self._lengths.append(np.array([len(row) for row in rows], dtype=np.int32))

    def whole(self) -> TokenRows:
        """All of them."""
        return TokenRows(self._flat.whole(), np.concatenate([np.zeros(0, dtype=np.int32), *self._lengths]))
