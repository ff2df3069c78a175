"""Which of many values are equal: by hashes of four bytes, and if two hashes agree, by the values themselves."""

import itertools
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

ValuesOf = Callable[[NDArray[np.int64]], Sequence[Hashable]]
"""Returns the values of some rows."""
ROWS_AT_ONCE = 10_000
"""Rows with equal hashes that are compared together."""
HASHES_AT_ONCE = 2**20
"""Hashes that are looked up together."""


def hashes_of(values: Iterable[Hashable], count: int) -> NDArray[np.uint32]:
    """Return (count,) the lower half of each value's hash, valid in this process: among 10 million, 20,000 collide."""
    hashes, each = np.empty(count, dtype=np.uint32), iter(values)
    for begin in range(0, count, HASHES_AT_ONCE):
        part = hashes[begin : begin + HASHES_AT_ONCE]
        part[:] = np.fromiter(map(hash, itertools.islice(each, len(part))), np.int64, len(part)).astype(np.uint32)
    return hashes


def among(hashes: NDArray[np.uint32], others: NDArray[np.uint32]) -> NDArray[np.bool_]:
    """Return (n,) whether each hash is in `others`, which is sorted: if possible, pass the smaller set as `others`."""
    others, is_among = np.unique(others), np.zeros(len(hashes), dtype=bool)
    for begin in range(0, len(hashes) if len(others) else 0, HASHES_AT_ONCE):
        part = slice(begin, begin + HASHES_AT_ONCE)
        positions = np.searchsorted(others, hashes[part])
        is_among[part] = others[np.minimum(positions, len(others) - 1)] == hashes[part]
    return is_among


def numbered(hashes: NDArray[np.uint32], values_of: ValuesOf) -> NDArray[np.integer[Any]]:
    """Return (n,) a number for each distinct value, in order of first occurrence.

    Args:
        hashes: the hashes of all values.
        values_of: called for the values whose hash is not unique.
    """
    kind: type[np.integer[Any]] = np.int32 if len(hashes) < 2**31 else np.int64
    first: NDArray[np.integer[Any]] = np.arange(len(hashes)).astype(kind)
    rows = _with_a_double(hashes)
    if not len(rows):
        return first
    order = rows[np.argsort(hashes[rows], kind="stable")]
    in_order = hashes[order]
    begins = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]]))
    first[order] = np.repeat(order[begins], np.diff(begins, append=len(order)))  # for each, the first row with its hash
    del order, in_order, begins
    repeats = rows[first[rows] != rows]
    others: dict[Hashable, int] = {}
    for begin in range(0, len(repeats), ROWS_AT_ONCE):
        part = repeats[begin : begin + ROWS_AT_ONCE]
        for row, value, of_first in zip(part.tolist(), values_of(part), values_of(first[part]), strict=True):
            if value != of_first:
                first[row] = others.setdefault(value, row)
    is_first = np.ones(len(hashes), dtype=bool)
    is_first[rows] = first[rows] == rows
    numbers: NDArray[np.integer[Any]] = np.cumsum(is_first, dtype=kind)[first]
    numbers -= 1
    return numbers


def _with_a_double(hashes: NDArray[np.uint32]) -> NDArray[np.int64]:
    """Return the rows whose hash another row has too."""
    in_order = np.sort(hashes)
    return np.flatnonzero(among(hashes, in_order[1:][in_order[1:] == in_order[:-1]]))
