"""The device and the precision that a training computes with."""

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
"""CUDA errors caused by a mistake in a program or by too little memory, not by a failing device."""
DEVICES = "auto, cpu, cuda or mps, and present"
"""What a device may be, for an error."""
BUSY = 0.5
"""Cores that a training may lack before it warns."""


@dataclass(frozen=True)
class Compute:
    """How every training of a run computes, and how often it saves; nothing that changes what it learns."""

    device: torch.device
    precision: Precision | Literal["auto"]
    """Of matrix products; `auto` is resolved by `chosen_precision`, without a probe."""
    checkpoint_minutes: float
    """Minutes between checkpoints."""
    ranks: Ranks = field(default=ALONE)
    """The processes that share each step."""

    @property
    def chosen(self) -> Precision:
        """The precision of matrix products.

        Raises:
            UserError: the device does not support it.
        """
        return chosen_precision(self.device, self.precision)

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> Self:
        """Return the settings of a recipe, on a device that was chosen."""
        return cls(device, recipe.precision, recipe.checkpoint_minutes)


def choose_device(name: str) -> torch.device:
    """Return the device of that name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: this machine has no such device.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).split("\n", 1)[0][:120]
        raise UserError("--device", expected=DEVICES, found=f"{name!r} ({found})", fix="use --device auto") from None
    if device.type not in ("cpu", "cuda", "mps"):
        raise UserError("--device", expected=DEVICES, found=repr(name), fix="use --device auto")
    return device


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads; None = torch's default, but no more than there are usable cores.

    Processes that train together share the cores.

    Raises:
        UserError: it is not a number of threads.
    """
    if threads is not None and (isinstance(threads, bool | str | float) or threads < 0):
        raise UserError("--threads", expected="a whole number >= 1", found=repr(threads), fix="change the value")
    torch.set_num_threads(threads or max(1, min(torch.get_num_threads(), usable_cores() // processes_here())))


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether the error means that memory ran out; only PyTorch's GPU allocator raises its class for that."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return any(message in text for message in ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED"))


@contextmanager
def device_errors(device: torch.device) -> Iterator[None]:
    """Raise the failure of a GPU in the body as `DeviceLost`; errors in this package's use of it stay as they are.

    Raises:
        DeviceLost: the GPU no longer responds, or failed in another way.
        OutOfMemory: memory ran out where nothing can be made smaller; a training halves its micro-batches instead.
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
    """Warn, once per process, if other processes use cores that a training with torch's threads needs."""
    threads, cores, others = torch.get_num_threads(), len(own_cores()), busy_elsewhere()
    free = cores - others
    if free > threads - BUSY:
        return
    fix = f"--threads {max(1, round(free))}, or wait for them" if threads > max(1, round(free)) else "wait for them"
    say(
        f"other processes keep {others:.1f} of {cores} cores busy, and this training uses {threads} "
        f"thread{'s' if threads > 1 else ''}: each may slow the others several times; {fix}"
    )
