"""Where and in which precision a training computes."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Self

import torch

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Recipe

Precision = Literal["auto", "fp32", "bf16"]


@dataclass(frozen=True)
class Compute:
    """How every training of a run computes, and how often it saves what it has; nothing of what it learns."""

    device: torch.device
    precision: Precision
    """Of matrix products; `auto`: see `chosen_precision`."""
    checkpoint_minutes: float
    """Minutes between checkpoints."""

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


def chosen_precision(device: torch.device, wanted: str = "auto") -> str:
    """`bf16` or `no`; by itself bf16 on GPUs that have it, and never on a CPU.

    Raises:
        UserError: bf16 is asked for on a device that computes it several times slower than fp32.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    if wanted == "bf16" and not has_bf16:
        expected, found = "a device that multiplies in bf16", f"{device.type} without units for it"
        raise UserError("precision", expected=expected, found=found, fix="leave it at auto, or set fp32")
    return "bf16" if wanted == "bf16" or (wanted == "auto" and has_bf16 and device.type == "cuda") else "no"


def usable_cores() -> int:
    """How many cores this process may use: those that it may run on, and no more than its control group's quota."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        return cores if quota == "max" else max(1, min(cores, int(quota) // int(period)))
    except (OSError, ValueError):
        return cores


def use_threads(threads: int | None) -> None:
    """Let torch use so many threads; None = as many as it takes by itself, but no more than there are cores to use."""
    torch.set_num_threads(threads or min(torch.get_num_threads(), usable_cores()))
