"""The order of examples: each batch is a pure function of a seed and its number, so there is no state to save."""

import functools
from collections.abc import Sequence
from typing import Any, overload

import numpy as np
from jaxtyping import Int, Int64
from numpy.typing import NDArray

from tinydistilbert.data.randomness import generator

GROUPED_BATCHES = 50
"""Number of batches sorted by length together: enough for little padding, few enough to mix well."""


@functools.lru_cache(maxsize=4)
def _epoch_order(examples: int, seed: int, epoch: int) -> Int64[np.ndarray, " examples"]:
    """Return a permutation of all examples; cached, because consecutive steps use the same one."""
    order = generator("epoch order", seed, epoch).permutation(examples)
    order.flags.writeable = False
    return order


def stream_part(
    step: int, examples: int, batch_size: int, seed: int
) -> tuple[Int64[np.ndarray, " batch_size"], Int64[np.ndarray, " batch_size"]]:
    """Return the examples of batch `step`, from 0, in an endless stream of shuffled epochs, and the epoch of each.

    The stream has all examples in random order, then all of them in another order, and so on; a batch may begin in one
    epoch and end in a later one.
    """
    assert examples > 0 and step >= 0, (examples, step)
    parts, epochs = [], []
    start, end = step * batch_size, (step + 1) * batch_size
    while start < end:
        epoch, offset = divmod(start, examples)
        parts.append(_epoch_order(examples, seed, epoch)[offset : offset + end - start])
        epochs.append(np.full(len(parts[-1]), epoch))
        start += len(parts[-1])
    return np.concatenate(parts), np.concatenate(epochs)


def epoch_part(part: int, epoch: int, examples: int, batch_size: int, seed: int) -> Int64[np.ndarray, " batch"]:
    """Return the examples of batch `part`, from 0, of one epoch; the last batch may be smaller.

    An epoch has the same order as in `stream_part`.
    """
    order = _epoch_order(examples, seed, epoch)[part * batch_size : (part + 1) * batch_size]
    assert len(order), (part, examples, batch_size)
    return order.copy()


def length_grouped(
    lengths: Sequence[int] | Int[np.ndarray, " examples"],
    batch_size: int,
    seed: int,
    epoch: int,
    *,
    sorted_together: int = GROUPED_BATCHES,
) -> "Batches":
    """Return one epoch of batches whose examples have similar lengths, for little padding.

    All examples are shuffled; each group of `sorted_together` batches is sorted by length and cut into batches; then
    the batches are shuffled. Each example occurs exactly once, and only one batch may be smaller than `batch_size`.

    Args:
        lengths: length of each example in tokens.
        batch_size: examples in a batch.
        seed: seed of the run.
        epoch: number of the epoch; each epoch has other batches.
        sorted_together: batches in a group; with 1, batches are random.
    """
    random = generator("length-grouped order", seed, epoch)
    size = np.asarray(lengths)
    order = random.permutation(np.arange(len(size), dtype=np.int32 if len(size) < 2**31 else np.int64))
    for start in range(0, len(order), sorted_together * batch_size):
        group = order[start : start + sorted_together * batch_size]
        group[:] = group[np.argsort(size[group], kind="stable")]
    return Batches(order, batch_size, random.permutation(-(-len(order) // batch_size)))


class Batches(Sequence[Int64[np.ndarray, " _"]]):
    """Batches as slices of one array: separate arrays would take more memory for many examples.

    Args:
        order: the examples, batch after batch.
        batch_size: examples in a batch; the last one may have fewer.
        numbers: numbers of the batches, in their order.
    """

    def __init__(self, order: NDArray[np.integer[Any]], batch_size: int, numbers: NDArray[np.int64]) -> None:
        self._order, self._size, self._numbers = order, batch_size, numbers

    def __len__(self) -> int:
        return len(self._numbers)

    @overload
    def __getitem__(self, index: int) -> Int64[np.ndarray, " _"]: ...

    @overload
    def __getitem__(self, index: slice) -> Sequence[Int64[np.ndarray, " _"]]: ...

    def __getitem__(self, index: int | slice) -> Any:
        if isinstance(index, slice):
            return Batches(self._order, self._size, self._numbers[index])
        begin = int(self._numbers[index]) * self._size
        return self._order[begin : begin + self._size].astype(np.int64)
