"""How fast this machine is, and what a parameter costs in memory traffic, checkpoints and time.

Good enough to know minutes from hours before a run, not to compare machines.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch

from tinydistilbert.training.precision import Precision, Shape, product_seconds

EFFICIENCY = 0.58
"""Share of the matrix-multiply rate that training reaches. From a finished quickstart (2 cores without hyper-threading,
2 x 165 GFLOP/s; its training.json and measurements.jsonl): fine-tuning the teacher on 14,036, 29,121 and 61,366 tokens
took 6.6, 11.7 and 23.1 s, which is 190 GFLOP/s beside 1.9 s for 38 updates of AdamW."""
EFFICIENCY_GPU = 0.33
"""The same on a GPU, in training: `results/gpu`, BERT-base to 6 layers on an H100."""
REST_IN_BF16 = 0.5
"""Time of what is no matrix product in a training in bf16 on a CPU, by that in fp32: tensors are half as large. With
products 4.8 times as fast a step is then 3.0 times as fast; `benchmarks/distill_throughput.py` measures by how much."""
BYTES_PER_UPDATE = 48
"""Memory traffic of one parameter in one step: a new gradient touched and written, its norm taken, gradient scaled
(5 x 4 bytes), AdamW (7 x 4)."""
CHECKPOINT_BYTES = 12
"""Of a parameter: weight and AdamW's two moments."""
PROCESS_BYTES = 900_000_000
"""Python, torch and transformers once they have computed something, with data and the allocator's reserve."""
PROBE_SIZE, PROBE_SIZE_GPU, PROBE_SECONDS = 768, 4096, 0.15
"""Width of the square matrices that are multiplied to measure a rate, and for how long."""
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32, "fp32-onednn": torch.float32, "bf16": torch.bfloat16,
}  # fmt: skip
COPIED = 16_000_000
"""Numbers that are copied to measure the memory: 64 MB, more than caches hold."""


@dataclass(frozen=True)
class Machine:
    """Measured rates."""

    device: str
    threads: int
    operations: float
    """Floating-point operations a second in fp32 multiplications of matrices on the device; on a CPU: one core's rate
    times `threads`, because another program that is busy just now would spoil a measurement on all of them."""
    one_core: float
    """The same on one core of the CPU."""
    traffic: float
    """Bytes a second that are read and written in the device's memory."""
    precision: Precision
    """Of matrix products in training; predictions that are scored are made in fp32."""
    training: float
    """Operations a second that a training in it reaches."""

    def seconds(self, operations: float) -> float:
        """Time of predictions of so many operations in fp32."""
        return operations / (EFFICIENCY * self.operations)

    def training_seconds(self, operations: float, *, traffic: float = 0.0) -> float:
        """Time of so many operations and so many bytes of memory traffic in training, and of what it learns from."""
        return operations / self.training + traffic / self.traffic

    def seconds_on_one_core(self, operations: float) -> float:
        """Time of a prediction of so many operations on one core."""
        return operations / (EFFICIENCY * self.one_core)


def measure(device: torch.device, precision: Precision, weights: Sequence[Shape]) -> Machine:
    """The rates of this machine, in about half a second.

    Args:
        device: where models are trained and scored.
        precision: of the training.
        weights: inner size and columns of the matrices of the model that most of the time goes to.
    """
    threads = torch.get_num_threads()
    cpu = torch.device("cpu")
    torch.set_num_threads(1)
    try:
        one_core, copying = _multiply(cpu, PROBE_SIZE, torch.float32), _copy(cpu)
    finally:
        torch.set_num_threads(threads)
    if device.type == "cpu":
        operations, gain = one_core * threads, 1.0
        if precision != "fp32" and weights:
            seconds = product_seconds(weights, ("fp32", precision))
            gain = seconds["fp32"] / seconds[precision]
        # Two cores are enough to keep the memory of most machines busy.
        traffic = copying * min(threads, 2)
        return Machine(
            "cpu", threads, operations, one_core, traffic, precision, training_rate(operations, precision, gain)
        )
    fp32, rate = (_multiply(device, PROBE_SIZE_GPU, dtype) for dtype in (torch.float32, DTYPES[precision]))
    return Machine(device.type, threads, fp32, one_core, _copy(device), precision, EFFICIENCY_GPU * rate)


def training_rate(operations: float, precision: Precision, gain: float) -> float:
    """Operations a second that a training on a CPU reaches.

    Args:
        operations: a second, of matrix products in fp32.
        precision: of the training.
        gain: how many times as fast the products are in it.
    """
    rest = (1 - EFFICIENCY) * (REST_IN_BF16 if precision == "bf16" else 1.0)
    return EFFICIENCY * operations / (EFFICIENCY / gain + rest)


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
