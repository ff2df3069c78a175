"""The definition of a training, without its progress: batches, terms and weights, as pure functions of the step.

It holds no state that could be lost, so a resumed training does the same as one that was never interrupted.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted

Batch = dict[str, Tensor]


class MicroBatches(Protocol):
    """The micro-batches of each optimiser step, on the CPU: a pure function of its arguments."""

    def __call__(self, step: int, oom_splits: int = 0) -> list[Batch]:
        """Return those of one step; each has 1 / 2^oom_splits of its full size, and the step reads the same inputs."""
        ...


@dataclass(frozen=True)
class Phase:
    """A part of a training with its own warm-up and decay; AdamW's moments are reset before it."""

    steps: int
    learning_rate: float
    """The peak of the schedule."""


@dataclass(frozen=True)
class TrainingJob:
    """The data and the objective of a training."""

    steps: int
    micro_batches: MicroBatches
    token_shares: Callable[[list[Batch]], list[dict[str, float]]]
    """For each micro-batch of a step, its share of each term's mean over the step."""
    term_weights: Callable[[int], Mapping[str, float]]
    """The weight of each term at a step; the names are the same at all steps."""
    loss: Callable[[nn.Module, Batch, Mapping[str, float], int], tuple[Tensor, Mapping[str, Tensor]]]
    """Takes model, micro-batch, term scales (term weight x token share) and step; returns the scaled sum, to call
    backward on, and each term's plain mean over the micro-batch, detached."""
    tokens: Callable[[Batch], int]
    """Useful tokens (no padding) in a micro-batch."""
    validate: Callable[[int], dict[str, float]] | None = None
    """Takes the number of finished steps and returns what is measured."""
    validate_after: frozenset[int] = field(default_factory=frozenset)
    """Numbers of finished steps after which to validate."""
    oom_splits: int = 0
    """How often micro-batches can be halved when memory runs out."""
    memory: Callable[[int], float] | None = None
    """Most bytes that the largest micro-batch takes after so many halvings, without the model; None = unknown."""
    phases: tuple[Phase, ...] = ()
    """They add up to `steps`; none = a single one with the learning rate of the settings."""
    keep_pace: Callable[[Batch, int], object] | None = None
    """Called with a micro-batch and the step in a process that has no micro-batch while others have one, if all
    processes have to compute together; such a step cannot be repeated in smaller parts."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a share of the layer above's."""

    def phase_at(self, step: int, learning_rate: float) -> tuple[int, Phase]:
        """Return the first step of a step's phase, and the phase; `learning_rate` is the settings'."""
        first = 0
        for phase in self.phases:
            if step < first + phase.steps:
                return first, phase
            first += phase.steps
        return 0, Phase(self.steps, learning_rate)

    def splits_for(self, world: int, oom_splits: int) -> int:
        """Return the halvings, `oom_splits` or more, after which each of `world` processes has a micro-batch in a step.

        Raises:
            UserError: even the smallest micro-batches are too few.
        """
        while world > 1 and (count := len(self.micro_batches(0, oom_splits))) < world:
            if oom_splits == self.oom_splits:
                smallest = counted(count, "micro-batch", "micro-batches")
                problem = f"there are {world} processes, but a step has only {smallest}, even of the smallest size"
                fix = "start fewer, or raise batch_size or gradient_accumulation_steps"
                raise UserError("launcher", problem=problem, fix=fix)
            oom_splits += 1
        return oom_splits


def token_shares(counts: list[dict[str, int]]) -> list[dict[str, float]]:
    """Return token shares, proportional to the number of positions or examples that each term's mean is over.

    With them, accumulating 8 x 1 equals 1 x 8 exactly, though micro-batches differ in their number of masked tokens.
    """
    totals = {name: max(sum(count[name] for count in counts), 1) for name in counts[0]}
    return [{name: count[name] / totals[name] for name in count} for count in counts]


def scaled_sum(terms: Mapping[str, Tensor], term_scales: Mapping[str, float]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """Return the result of `TrainingJob.loss`, from plain means with gradients."""
    exact = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in terms.items()}
    total = sum((term_scales[name] * value for name, value in exact.items()), torch.zeros(()))
    return total, {name: value.detach() for name, value in terms.items()}


def step_seed(seed: int, *numbers: int) -> int:
    """Return a 63-bit seed that depends on all of its arguments (for dropout: seed, step, micro-batch)."""
    digest = hashlib.blake2b(",".join(map(str, (seed, *numbers))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
