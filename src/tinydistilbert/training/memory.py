"""The memory that is free for a training, and micro-batches that fit into a share of it from the first step on."""

import os
from collections.abc import Callable
from pathlib import Path

import psutil
import torch

from tinydistilbert.progress import size_in_words
from tinydistilbert.training.cores import AT_ONCE, group_folders
from tinydistilbert.training.launcher import processes_here
from tinydistilbert.training.precision import Precision

SHARE = 0.8
"""Share of the free memory that a training plans with: the estimate is not exact, and other programs need some too."""
OPTIMIZER_BYTES = 12
"""Bytes of a trained parameter in addition to its weight: its gradient and AdamW's two moments."""
HELD, HALF = 1.6, 0.6
"""Memory of a CPU process relative to its tensors (freed memory stays in it, `allocator.py`), and of bf16 tensors
relative to fp32 (not all tensors are bf16); `benchmarks/step_memory.py` compares them with the growth of processes."""
_LIMITS = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)
"""Files of a control group of version 2 and 1, and the line of `memory.stat` with memory that can be freed at once."""


def free_bytes(device: torch.device) -> float:
    """Return the bytes that this process can still take on the device.

    The processes of `--jobs` share them; on a CPU, those of a launcher too.
    """
    at_once = int(os.environ.get(AT_ONCE) or 1)
    if device.type == "cuda":
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return float(torch.cuda.mem_get_info(device)[0] + cached) / at_once
    groups = [free for folder in group_folders("memory") if (free := _free_in(folder)) is not None]
    free = max(0.0, min([float(psutil.virtual_memory().available), *groups]))
    return free / max(processes_here(), at_once)


def _free_in(folder: Path) -> float | None:
    """Return the bytes that a control group may still take; None if it has no limit."""
    for limit, used, droppable in _LIMITS:
        try:
            lines = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            taken = int((folder / used).read_text()) - int(lines.get(droppable, 0))
            return float(int((folder / limit).read_text()) - taken)
        except (OSError, ValueError):  # no such file, or `max`
            continue
    return None


def taken(activations: float, device: torch.device, precision: Precision) -> float:
    """Return the bytes that a training takes for so many bytes of tensors in single precision."""
    held = HELD if device.type == "cpu" else 1.0
    return activations * held * (HALF if precision == "bf16" else 1.0)


def splits_that_fit(memory: Callable[[int], float], most: int, budget: float) -> int:
    """Return how often micro-batches have to be halved to fit, at most `most` times.

    Args:
        memory: bytes that a step takes after so many halvings.
        most: how often they can be halved.
        budget: bytes available.
    """
    return next((splits for splits in range(most) if memory(splits) <= budget), most)


def why_smaller(splits: int, whole: float, free: float) -> str:
    """Return a message that micro-batches are smaller than `batch_size`, and why.

    Args:
        splits: how often they are halved.
        whole: bytes that a step would take with whole micro-batches.
        free: bytes that are free.
    """
    return (
        f"in micro-batches of 1/{2**splits} of their size, with as many examples in a step: whole ones need "
        f"about {size_in_words(whole)}, and a training may use {SHARE:.0%} of the {size_in_words(free)} that are "
        "free"
    )
