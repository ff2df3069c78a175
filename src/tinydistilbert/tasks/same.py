"""Which of many values are the same: by hashes of eight bytes, and where two hashes agree by the values themselves."""

from collections.abc import Callable, Hashable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

ValuesOf = Callable[[NDArray[np.int64]], Sequence[Hashable]]
"""The values of some rows."""
ROWS_AT_ONCE = 10_000
"""That are looked at together where hashes agree."""


def hashes_of(values: Iterable[Hashable], count: int) -> NDArray[np.int64]:
    """(count,) the hash of each value, in this process."""
    return np.fromiter(map(hash, values), np.int64, count)


def numbered(hashes: NDArray[np.int64], values_of: ValuesOf) -> NDArray[np.int64]:
    """(n,) a number for each different value, in the order in which they first occur.

    Args:
        hashes: of all values.
        values_of: asked for those whose hash another one has too.
    """
    order = np.argsort(hashes, kind="stable")
    in_order = hashes[order]
    begins = np.flatnonzero(np.concatenate([[True], in_order[1:] != in_order[:-1]])[: len(order)])
    firsts = np.repeat(order[begins], np.diff(begins, append=len(order)))  # of each the first row with its hash
    first = np.empty(len(hashes), dtype=np.int64)
    first[order] = firsts
    repeats = np.flatnonzero(first != np.arange(len(first)))
    others: dict[Hashable, int] = {}
    for begin in range(0, len(repeats), ROWS_AT_ONCE):
        rows = repeats[begin : begin + ROWS_AT_ONCE]
        for row, value, of_first in zip(rows.tolist(), values_of(rows), values_of(first[rows]), strict=True):
            if value != of_first:  # one in 2^64 pairs
                first[row] = others.setdefault(value, row)
    is_first = first == np.arange(len(first))
    return (np.cumsum(is_first) - 1)[first]
