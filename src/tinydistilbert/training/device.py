"""Where and in which precision a training computes."""

from dataclasses import dataclass
from functools import cache
from typing import Literal, Self

import torch

from tinydistilbert.errors import UserError
from tinydistilbert.progress import say
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.training.cores import busy_elsewhere, own_cores, usable_cores
from tinydistilbert.training.precision import Precision, chosen_precision

BUSY = 0.5
"""Cores that a training may lack before it is said."""


@dataclass(frozen=True)
class Compute:
    """How every training of a run computes, and how often it saves what it has; nothing of what it learns."""

    device: torch.device
    precision: Precision | Literal["auto"]
    """Of matrix products; `auto`: see `chosen_precision`, which probes nothing."""
    checkpoint_minutes: float
    """Minutes between checkpoints."""

    @property
    def chosen(self) -> Precision:
        """The precision of matrix products.

        Raises:
            UserError: the device does not compute so.
        """
        return chosen_precision(self.device, self.precision)

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> Self:
        """As a recipe wants it, on a device that was chosen."""
        return cls(device, recipe.precision, recipe.checkpoint_minutes)


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).split("\n", 1)[0][:120]
        expected = "auto, cpu, cuda or mps, and present"
        raise UserError("--device", expected=expected, found=f"{name!r} ({found})", fix="use --device auto") from None
    return device


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads; None = as many as it takes by itself, but no more than there are cores to use."""
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))


@cache
def say_if_busy() -> None:
    """Say, once in a process, that other processes use the cores that a training with torch's threads would need."""
    threads, cores, others = torch.get_num_threads(), len(own_cores()), busy_elsewhere()
    free = cores - others
    if free > threads - BUSY:
        return
    fix = f"--threads {max(1, round(free))}, or wait for them" if threads > max(1, round(free)) else "wait for them"
    say(
        f"other processes keep {others:.1f} of {cores} cores busy, and this training takes {threads} "
        f"thread{'s' if threads > 1 else ''}: each may slow the other several times; {fix}"
    )
