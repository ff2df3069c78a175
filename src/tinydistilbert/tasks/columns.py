"""A table column as a sequence of Python values, which are made only on access."""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pyarrow as pa

VALUES_AT_ONCE = 10_000
"""Maximum number of Python values at a time."""


class Column(Sequence[Any]):
    """The values of a column that may be in a memory-mapped file.

    Args:
        values: the Arrow values.
        rows: which of the values, in this order; None = all.
        form: converts each value; None = as Arrow returns it.
    """

    def __init__(
        self, values: "pa.ChunkedArray", rows: NDArray[np.int64] | None = None,
        form: Callable[[Any], Any] | None = None,
    ) -> None:  # fmt: skip
        self._values, self._rows, self._form = values, rows, form
        self._ends = np.cumsum([len(chunk) for chunk in values.chunks], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._values) if self._rows is None else len(self._rows)

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return self._of(np.arange(len(self))[index] if index.step not in (None, 1) else index)
        row = range(len(self))[int(index)]
        return self._of(slice(row, row + 1))[0]

    def __iter__(self) -> Iterator[Any]:
        for begin in range(0, len(self), VALUES_AT_ONCE):
            yield from self._of(slice(begin, begin + VALUES_AT_ONCE))

    def _of(self, positions: "slice | NDArray[np.int64]") -> list[Any]:
        """Return the values at some positions of this sequence."""
        if self._rows is None and isinstance(positions, slice):
            begin, end, _ = positions.indices(len(self))
            values = self._values.slice(begin, max(end - begin, 0)).to_pylist()
        else:
            rows = np.arange(len(self)) if self._rows is None else self._rows
            values = self._at(rows[positions])
        return values if self._form is None else [*map(self._form, values)]

    def _at(self, rows: NDArray[np.int64]) -> list[Any]:
        """Return values by row; Arrow's `take` would first combine all chunks."""
        chunks = np.searchsorted(self._ends, rows, side="right")
        order = np.argsort(chunks, kind="stable")
        values: list[Any] = [None] * len(rows)
        borders = np.flatnonzero(np.diff(chunks[order])) + 1
        for part in np.split(order, borders) if len(order) else ():
            number = int(chunks[part[0]])
            chunk = self._values.chunk(number)
            inside = rows[part] - (self._ends[number] - len(chunk))
            for place, value in zip(part.tolist(), chunk.take(inside).to_pylist(), strict=True):
                values[place] = value
        return values

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Column":
        """Return the values at these positions, in this order."""
        positions = np.asarray(rows, dtype=np.int64)
        return Column(self._values, positions if self._rows is None else self._rows[positions], self._form)

    def each(self, form: Callable[[Any], Any]) -> "Column":
        """Return the column with `form` applied to each value on every access."""
        before = self._form
        return Column(self._values, self._rows, form if before is None else lambda value: form(before(value)))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        return all(value == of_other for value, of_other in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __arrow_array__(self, type: Any = None) -> "pa.Array":
        import pyarrow as pa

        return pa.array(list(self), type)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        if self._rows is None and self._form is None and dtype is not None and self._values.null_count == 0:
            return np.concatenate([np.asarray(chunk, dtype=dtype) for chunk in self._values.chunks] or [np.zeros(0)])
        return np.array(list(self), dtype=dtype)


def nothing(count: int) -> Column:
    """Return a column of `count` times None, which takes no memory."""
    import pyarrow as pa

    return Column(pa.chunked_array([pa.nulls(count)]))


class Chained(Sequence[Any]):
    """The concatenated values of several sequences, without copies.

    Args:
        parts: the sequences.
    """

    def __init__(self, parts: Sequence[Sequence[Any]]) -> None:
        self._parts = [part for part in parts if len(part)]
        self._ends = np.cumsum([len(part) for part in self._parts], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self._parts else 0

    @overload
    def __getitem__(self, index: int) -> Any: ...

    @overload
    def __getitem__(self, index: slice) -> list[Any]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return [*self.take(range(len(self))[index])]
        row = range(len(self))[int(index)]
        number = int(np.searchsorted(self._ends, row, side="right"))
        return self._parts[number][row - int(self._ends[number])]  # counted from the end of the part

    def __iter__(self) -> Iterator[Any]:
        for part in self._parts:
            yield from part

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Sequence[Any]:
        """Return the values at these positions, in this order; taken directly from a part if all are in it."""
        positions = np.asarray(rows, dtype=np.int64)
        numbers = np.searchsorted(self._ends, positions, side="right")
        borders = np.flatnonzero(np.diff(numbers)) + 1
        pieces = list[Sequence[Any]]()
        for some in np.split(np.arange(len(positions)), borders) if len(positions) else ():
            part = self._parts[int(numbers[some[0]])]
            first = int(self._ends[numbers[some[0]]]) - len(part)
            pieces.append(taken(part, positions[some] - first))
        return pieces[0] if len(pieces) == 1 else [value for values in pieces for value in values]


def chained(parts: Sequence[Sequence[Any]]) -> Sequence[Any]:
    """Return the concatenated values of all parts: a list if all parts are lists."""
    if all(isinstance(part, list) for part in parts):
        return [value for part in parts for value in part]
    return Chained(parts)


def taken(values: Sequence[Any], rows: Sequence[int] | NDArray[np.int64]) -> Sequence[Any]:
    """Return the values at these positions, in this order."""
    return values.take(rows) if isinstance(values, Column | Chained) else [values[row] for row in rows]
