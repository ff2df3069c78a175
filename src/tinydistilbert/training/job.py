"""What a training is, apart from how it goes: batches, terms and their weights, as pure functions of the step.

Nothing of it is a state that could be lost, so a resumed training does the same as one that was never interrupted.
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
        """Those of one step; after `oom_splits` each is of 1 / 2^oom_splits the size, and the step reads the same."""
        ...


@dataclass(frozen=True)
class Phase:
    """A part of a training with a warm-up and a decay of its own, before which AdamW forgets its moments."""

    steps: int
    learning_rate: float
    """The highest."""


@dataclass(frozen=True)
class TrainingJob:
    """What to train on and towards."""

    steps: int
    micro_batches: MicroBatches
    token_shares: Callable[[list[Batch]], list[dict[str, float]]]
    """For each micro-batch of a step, how much of each term's mean over the step falls to it."""
    term_weights: Callable[[int], Mapping[str, float]]
    """The weight of each term at a step; the names are the same at all."""
    loss: Callable[[nn.Module, Batch, Mapping[str, float], int], tuple[Tensor, Mapping[str, Tensor]]]
    """Of model, micro-batch, term scales (term weight x token share) and step: the scaled sum, to call backward on, and
    each term's plain mean over the micro-batch, detached."""
    tokens: Callable[[Batch], int]
    """Useful tokens (no padding) in a micro-batch."""
    validate: Callable[[int], dict[str, float]] | None = None
    """Of the number of finished steps: what is measured then."""
    validate_after: frozenset[int] = field(default_factory=frozenset)
    """Numbers of finished steps after which to validate."""
    oom_splits: int = 0
    """How often micro-batches can be halved when memory runs out."""
    memory: Callable[[int], float] | None = None
    """Bytes that the largest micro-batch takes beside the model after so many halvings, at most; None = unknown."""
    phases: tuple[Phase, ...] = ()
    """They add up to `steps`; none = a single one with the learning rate of the settings."""
    keep_pace: Callable[[Batch, int], object] | None = None
    """Of a micro-batch and the step: what a process does that has none of its own while others compute one, where it
    takes all of them to compute any; such a step cannot be done again in smaller parts."""
    layer_decay: float = 1.0
    """Learning rate of each layer as a share of that of the layer above."""

    def phase_at(self, step: int, learning_rate: float) -> tuple[int, Phase]:
        """The first step of the phase that a step belongs to, and the phase; `learning_rate` is the settings'."""
        first = 0
        for phase in self.phases:
            if step < first + phase.steps:
                return first, phase
            first += phase.steps
        return 0, Phase(self.steps, learning_rate)

    def splits_for(self, world: int, oom_splits: int) -> int:
        """How often micro-batches are halved so that each of `world` processes has one in a step: `oom_splits` or more.

        Raises:
            UserError: even the smallest are too few.
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
    """Token shares, in proportion to how many positions or examples each term's mean was taken over.

    With them 8 x 1 accumulated is 1 x 8 exactly, though micro-batches have different numbers of masked tokens.
    """
    totals = {name: max(sum(count[name] for count in counts), 1) for name in counts[0]}
    return [{name: count[name] / totals[name] for name in count} for count in counts]


def scaled_sum(terms: Mapping[str, Tensor], term_scales: Mapping[str, float]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What `TrainingJob.loss` returns, from plain means that can be derived."""
    exact = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in terms.items()}
    total = sum((term_scales[name] * value for name, value in exact.items()), torch.zeros(()))
    return total, {name: value.detach() for name, value in terms.items()}


def step_seed(seed: int, *numbers: int) -> int:
    """A 63-bit seed that depends on all of its arguments (for dropout: seed, step, micro-batch)."""
    digest = hashlib.blake2b(",".join(map(str, (seed, *numbers))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
