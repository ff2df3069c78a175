"""Where and in which precision a training computes."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Literal, Self

import torch

from tinydistilbert.errors import DeviceLost, OutOfMemory, UserError
from tinydistilbert.progress import say
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.training.cores import busy_elsewhere, own_cores, usable_cores
from tinydistilbert.training.launcher import processes_here
from tinydistilbert.training.precision import Precision, chosen_precision
from tinydistilbert.training.ranks import ALONE, Ranks

_FAILURES = re.compile(r"CUDA error|CUDA driver error|HIP error|CUBLAS_STATUS_|CUDNN_STATUS_|MPS backend|NVML")
_OUR_OWN = re.compile("device-side assert|invalid argument|invalid configuration|out of memory")
"""Of CUDA's errors, those that tell of a mistake in a program, or of too little memory."""
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
    ranks: Ranks = field(default=ALONE)
    """The processes that share each step."""

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
    """Let torch use so many threads; None = as many as it takes by itself, but no more than there are cores to use.

    Of several processes that train together each has its share of them.
    """
    torch.set_num_threads(threads or max(1, min(torch.get_num_threads(), usable_cores() // processes_here())))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error tells that memory ran out; PyTorch's own class for it is raised by its GPU allocator only."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(words in text for words in ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Raise the failure of a GPU in the body as `DeviceLost`; an error in our own use of it stays what it is.

    Raises:
        DeviceLost: the GPU does not answer any more, or fell out of use in another way.
        OutOfMemory: memory ran out where nothing could be made smaller: a training halves its micro-batches.
    """
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            fix = "close other programs that use it, lower max_length, or give --device cpu"
            raise OutOfMemory(f"out of memory on the {device.type} device; {fix}; the same command goes on") from error
        text = str(error).split("\n", 1)[0]
        if device.type == "cpu" or not _FAILURES.search(text) or _OUR_OWN.search(text):
            raise
        raise DeviceLost(
            f"the {device.type} device failed: {text[:160]}; what is finished and the last checkpoint are on the disk: "
            "the same command goes on from there once the device works again, or with --device cpu"
        ) from error


@cache
def say_if_busy() -> None:
    """Say, once in a process, that other processes use the cores that a training with torch's threads would need."""
    threads, cores, others = torch.get_num_threads(), len(own_cores()), busy_elsewhere()
    free = cores - others
    if free > threads - BUSY:
        return
    fix = f"--threads {max(1, round(free))}, or wait for them" if threads > max(1, round(free)) else "wait for them"
    say(
        f"other processes keep {others:.1f} of {cores} cores busy, and this training uses {threads} "
        f"thread{'s' if threads > 1 else ''}: each may slow the others several times; {fix}"
    )
