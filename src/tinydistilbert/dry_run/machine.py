"""How fast this machine is, and what a parameter costs in memory traffic, checkpoints and time.

Good enough to know minutes from hours before a run, not to compare machines.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch

from tinydistilbert.training.precision import chosen_precision

EFFICIENCY = 0.58
"""Share of the matrix-multiply rate that training reaches. From a finished quickstart (2 cores without hyper-threading,
2 x 165 GFLOP/s; its training.json and measurements.jsonl): fine-tuning the teacher on 14,036, 29,121 and 61,366 tokens
took 6.6, 11.7 and 23.1 s, which is 190 GFLOP/s beside 1.9 s for 38 updates of AdamW. On GPUs it was not measured."""
BYTES_PER_UPDATE = 48
"""Memory traffic of one parameter in one step: a new gradient touched and written, its norm taken, gradient scaled
(5 x 4 bytes), AdamW (7 x 4)."""
CHECKPOINT_BYTES = 12
"""Of a parameter: weight and AdamW's two moments."""
PROCESS_BYTES = 900_000_000
"""Python, torch and transformers once they have computed something, with data and the allocator's reserve."""
PROBE_SIZE, PROBE_SIZE_GPU, PROBE_SECONDS = 768, 4096, 0.15
"""Width of the square matrices that are multiplied to measure a rate, and for how long."""
COPIED = 16_000_000
"""Numbers that are copied to measure the memory: 64 MB, more than caches hold."""


@dataclass(frozen=True)
class Machine:
    """Measured rates."""

    device: str
    threads: int
    operations: float
    """Floating-point operations a second in multiplications of matrices on the device; on a CPU: one core's rate times
    `threads`, because another program that is busy just now would spoil a measurement on all of them."""
    one_core: float
    """The same on one core of the CPU."""
    traffic: float
    """Bytes a second that are read and written in the device's memory."""

    def seconds(self, operations: float, *, traffic: float = 0.0) -> float:
        """Time of a training or a prediction of so many operations and so many bytes of memory traffic."""
        return operations / (EFFICIENCY * self.operations) + traffic / self.traffic

    def seconds_on_one_core(self, operations: float) -> float:
        """Time of a prediction of so many operations on one core."""
        return operations / (EFFICIENCY * self.one_core)


def measure(device: torch.device) -> Machine:
    """The rates of this machine, in about half a second."""
    threads = torch.get_num_threads()
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    try:
        one_core, copying = _multiply(cpu, PROBE_SIZE, torch.float32), _copy(cpu)
    finally:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        # Two cores are enough to keep the memory of most machines busy.
        return Machine("cpu", threads, one_core * threads, one_core, copying * min(threads, 2))
    dtype = torch.bfloat16 if chosen_precision(device) == "bf16" else torch.float32
    return Machine(device.type, threads, _multiply(device, PROBE_SIZE_GPU, dtype), one_core, _copy(device))


def _multiply(device: torch.device, size: int, dtype: torch.dtype) -> float:
    left, right = torch.ones(2, size, size, device=device, dtype=dtype)
    return 2 * size**3 / _least_seconds(lambda: left @ right, device)


def _copy(device: torch.device) -> float:
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _least_seconds(lambda: target.copy_(source), device)


def _least_seconds(operation: Callable[[], object], device: torch.device) -> float:
    """The shortest of several times: whatever made the others longer was not the operation."""
    operation()
    least, end = float("inf"), time.perf_counter() + PROBE_SECONDS
    while least == float("inf") or time.perf_counter() < end:
        _wait(device)
        begin = time.perf_counter()
        operation()
        _wait(device)
        least = min(least, time.perf_counter() - begin)
    return least


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
