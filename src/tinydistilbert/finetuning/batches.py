"""The micro-batches of a fine-tuning: a pure function of the seed and the step."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.data.order import Batches, length_grouped
from tinydistilbert.finetuning.soft_targets import SoftTargets
from tinydistilbert.recipe.schema import Optimization
from tinydistilbert.tasks.base import Kind
from tinydistilbert.tasks.encoding import Features, collate
from tinydistilbert.training.job import Batch


@dataclass(frozen=True)
class InTurn:
    """The micro-batches of two stages that read different inputs."""

    first: "TaskBatches"
    last: "TaskBatches"
    border: int
    """Steps of the first stage."""

    def __call__(self, step: int, oom_splits: int = 0) -> list[Batch]:
        """The micro-batches of `step`, each cut into 2^oom_splits parts."""
        if step < self.border:
            return self.first(step, oom_splits)
        return self.last(step - self.border, oom_splits)


@dataclass(frozen=True, eq=False)
class TaskBatches:
    """The micro-batches of each optimiser step, padded to their longest input or slightly more."""

    features: Features
    kind: Kind
    optimization: Optimization
    """Sets the batch size."""
    seed: int
    pad_token_id: int
    token_types: bool
    """Whether the model reads token types."""
    soft_targets: SoftTargets | None = None
    few_sizes: bool = False
    """Pad to one of a few lengths; see `padded_length`."""

    @property
    def per_epoch(self) -> int:
        """Micro-batches that read every input once."""
        return math.ceil(len(self.features) / self.optimization.batch_size)

    def __call__(self, step: int, oom_splits: int = 0) -> list[Batch]:
        """The micro-batches of `step`, each cut into 2^oom_splits parts."""
        accumulation = self.optimization.gradient_accumulation_steps
        numbers = range(step * accumulation, (step + 1) * accumulation)
        in_epochs = [divmod(number, self.per_epoch) for number in numbers]
        splits = [np.array_split(self._order_of(epoch)[number], 2**oom_splits) for epoch, number in in_epochs]
        return [self._batch(part) for split in splits for part in split if len(part)]

    @cached_property
    def _longest(self) -> int:
        return int(self.features.lengths.max())

    @cached_property
    def _order_of(self) -> Callable[[int], Batches]:
        """Return which inputs each batch of an epoch reads; caches two epochs, because a step may span their border."""
        return lru_cache(maxsize=2)(self._grouped)

    def _grouped(self, epoch: int) -> Batches:
        # In a regression, texts of similar length have similar scores: batches of similar length cost points.
        settings = {"sorted_together": 1} if self.kind == "regression" else {}
        return length_grouped(self.features.lengths, self.optimization.batch_size, self.seed, epoch, **settings)

    def _batch(self, indices: NDArray[np.int64]) -> Batch:
        pad_to = None
        if self.few_sizes:
            pad_to = min(padded_length(int(self.features.lengths[indices].max())), self._longest)
        batch = collate(self.features, indices, self.pad_token_id, token_types=self.token_types, pad_to=pad_to)
        length = batch["input_ids"].shape[1]
        return batch | (self.soft_targets.batch(indices, length) if self.soft_targets else {})


def padded_length(longest: int) -> int:
    """Return the length to pad a batch to if the library prepares matrix products for each size.

    oneDNN does, and each preparation takes time and memory (`benchmarks/prepared_products.py`). There are 8 lengths
    between a power of 2 and the next, so inputs of up to 512 tokens get 3 to 4 % longer on average.
    """
    step = 1 << max(0, longest.bit_length() - 4)
    return math.ceil(longest / step) * step
