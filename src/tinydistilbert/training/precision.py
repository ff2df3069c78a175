"""In which precision a training multiplies matrices: found by a probe, then kept, and set here alone."""

import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any, Literal, get_args

import torch
from torch import Tensor, nn

from tinydistilbert.errors import UserError

Precision = Literal["fp32", "fp32-onednn", "bf16"]
"""`fp32-onednn`: single precision by oneDNN in place of the CPU's default library, where that is MKL or OpenBLAS."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Shape = tuple[int, int]
"""Inner size and columns of a matrix product: those of a weight."""

BF16_GAIN = 1.3
"""bf16 rounds to three digits, so it has to be worth it: products are made in it from this gain in speed on."""
ONEDNN_GAIN = 1.15
"""Below it two libraries are equally fast, as far as a fifth of a second can tell."""
LARGEST_ERROR = 1e-6
"""Of a product by oneDNN against float64, relative; on a CPU with AMX the same setting multiplies in bf16: 2e-3."""
ROWS, PROBE_SECONDS = 256, 0.2
"""Rows of the products of the probe, and the time that it is given; each precision is timed at least twice."""
LEAST_WIDTH = 128
"""Narrower models are not probed: multiplying matrices is not what their training waits for."""
_CHECKED_ROWS = 32
PREPARED, CAPACITY = 4096, "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_OLD_CAPACITY = "DNNL_PRIMITIVE_CACHE_CAPACITY"


def keep_prepared_products() -> None:
    """Let oneDNN keep 4,096 prepared products instead of 1,024, unless its environment variable says how many.

    It prepares a product for each size that it meets, which takes time, and drops the oldest. A training meets
    some 40 lengths of batches, times the weights of a layer and three passes, times the layers where these are pruned:
    with 1,024 it prepared every product anew in every epoch (`benchmarks/prepared_products.py`). oneDNN reads the
    variable at its first product in a process, which the probe may be.
    """
    if _OLD_CAPACITY not in os.environ:
        os.environ.setdefault(CAPACITY, str(PREPARED))


keep_prepared_products()


def prepares_products(device: torch.device, precision: Precision) -> bool:
    """Whether products are oneDNN's, which prepares one for each size of its matrices."""
    return device.type == "cpu" and precision != "fp32"


@dataclass(frozen=True)
class Choice:
    """What a probe came to."""

    precision: Precision
    why: str
    """For a line in the log."""


def has_bf16_units() -> bool:
    """Whether this CPU multiplies matrices in bf16 by instructions of its own; others are several times slower so."""
    if not _has_onednn() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return bool(not is_x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _has_onednn() -> bool:
    return bool(torch._C._has_mkldnn)


def is_possible(device: torch.device, precision: Precision) -> bool:
    """Whether the device computes so."""
    if precision == "bf16" and device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if precision == "bf16":
        return device.type == "cpu" and has_bf16_units()
    return precision == "fp32" or (device.type == "cpu" and onednn_error(((768, 768), (768, 3072))) < LARGEST_ERROR)


def missing(device: torch.device, precision: Precision) -> tuple[str, str]:
    """What would be needed for a precision that is not possible, and what there is: for an error."""
    if precision == "bf16":
        return "a device that multiplies in bf16", f"{device.type} without bf16 units"
    if device.type != "cpu":
        return "a CPU, for oneDNN's products in single precision", device.type
    return (
        f"oneDNN's products in single precision (relative error below {LARGEST_ERROR:g})",
        f"{onednn_error(((768, 768), (768, 3072))):.0e}",
    )


def chosen_precision(device: torch.device, wanted: str = "auto") -> Precision:
    """The precision that is wanted; without a probe `auto` is bf16 on GPUs that have it, and fp32 elsewhere.

    Raises:
        UserError: the device does not compute so, or several times slower than in fp32.
    """
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and is_possible(device, "bf16") else "fp32"
    precision = next(name for name in PRECISIONS if name == wanted)
    if not is_possible(device, precision):
        expected, found = missing(device, precision)
        raise UserError("precision", expected=expected, found=found, fix="leave it at auto, or set fp32")
    return precision


def choose(device: torch.device, weights: Sequence[Shape]) -> Choice:
    """The fastest precision for products with such weights on this device, where it is worth its error; see `decide`.

    Args:
        device: where the training is going to compute; on a CPU with as many threads as torch uses now.
        weights: inner size and columns of the model's matrices; none = the model is not to be probed.
    """
    if device.type != "cpu":
        precision = chosen_precision(device)
        return Choice(precision, f"{precision} on {device.type}")
    if not weights or max(inner for inner, _ in weights) < LEAST_WIDTH:
        return Choice("fp32", "fp32; matrix products this small do not limit the speed of a training")
    candidates: tuple[Precision, ...] = ("fp32", "bf16") if has_bf16_units() else ("fp32",)
    error = onednn_error(weights)
    if error < LARGEST_ERROR:
        candidates += ("fp32-onednn",)
    return decide(product_seconds(weights, candidates), error)


def decide(seconds: Mapping[Precision, float], error: float) -> Choice:
    """bf16 where it is at least 1.3 times as fast as fp32, else oneDNN where that is faster and as exact, else fp32.

    Args:
        seconds: of the same products in each precision that is possible; fp32 is among them.
        error: relative, of oneDNN's against float64.
    """
    gains = {name: seconds["fp32"] / each for name, each in seconds.items()}
    bf16, onednn = gains.get("bf16", 0.0), gains.get("fp32-onednn", 0.0)
    if bf16 >= BF16_GAIN and bf16 > onednn:
        return Choice("bf16", f"bf16; this model's matrix products take 1/{bf16:.1f} of the time of fp32 here")
    if onednn >= ONEDNN_GAIN and error < LARGEST_ERROR:
        line = f"fp32 by oneDNN; this model's matrix products take 1/{onednn:.1f} of the time of {library()} here"
        return Choice("fp32-onednn", f"{line}, with a relative error of {error:.0e}")
    known = [f"bf16 would be {bf16:.1f} times as fast"] if bf16 else ["this CPU has no units for bf16"]
    if not onednn and error >= LARGEST_ERROR and _has_onednn():
        known.append(f"oneDNN's fast products have an error of {error:.0e}")
    return Choice("fp32", f"fp32; {', '.join(known)}")


def library() -> str:
    """The library that multiplies matrices in fp32 on CPUs, as torch was built."""
    if torch._C.has_mkl:
        return "MKL"
    (blas,) = [part.split("=")[1] for part in torch.__config__.show().split(", ") if "BLAS_INFO=" in part] or ["BLAS"]
    return blas


def product_seconds(weights: Sequence[Shape], precisions: Sequence[Precision]) -> dict[Precision, float]:
    """Seconds of the products of a forward and a backward pass through such weights, the least of several times.

    Of processor time, summed over the threads: what other processes do hardly changes it. The precisions take turns.
    """
    passes = {name: [_passes(shape, name) for shape in weights] for name in precisions}
    least: dict[Precision, list[float]] = {name: [float("inf")] * len(weights) for name in precisions}
    end, rounds = time.perf_counter() + PROBE_SECONDS, 0
    while rounds < 3 or time.perf_counter() < end:  # the first round is not counted: it pays for what happens once
        for name in precisions:
            with onednn(name):
                for index, run in enumerate(passes[name]):
                    begin = time.process_time()
                    run()
                    if rounds:
                        least[name][index] = min(least[name][index], time.process_time() - begin)
        rounds += 1
    return {name: sum(each) for name, each in least.items()}


def _passes(shape: Shape, precision: Precision) -> Callable[[], object]:
    """The three products of one weight: its output, and the gradients by its input and by itself."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    inner, columns = shape
    inputs, weight = torch.ones(ROWS, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    gradient = torch.ones(ROWS, columns, dtype=dtype)
    return lambda: (inputs @ weight.t(), gradient @ weight, gradient.t() @ inputs)


@cache
def onednn_error(weights: tuple[Shape, ...]) -> float:
    """Largest relative error of oneDNN's products with such weights against float64, in both passes."""
    if not _has_onednn():
        return float("inf")
    random = torch.Generator().manual_seed(0)
    worst = 0.0
    for inner, columns in weights:
        inputs, weight, gradient = (
            torch.randn(*size, generator=random) for size in ((ROWS, inner), (columns, inner), (ROWS, columns))
        )
        for left, right in ((inputs, weight.t()), (gradient, weight), (gradient.t(), inputs)):
            with onednn("fp32-onednn"):
                found = (left @ right)[:_CHECKED_ROWS]
            worst = max(worst, _relative_error(found, left[:_CHECKED_ROWS].double() @ right.double()))
    return worst


def _relative_error(found: Tensor, exact: Tensor) -> float:
    return float((found.double() - exact).norm() / exact.norm())


@contextmanager
def onednn(precision: Precision) -> Iterator[None]:
    """Inside the `with`, products of this process in fp32 are oneDNN's where the precision says so."""
    if precision != "fp32-onednn":
        yield
        return
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    # The setting permits rounding to bf16, which oneDNN makes use of with AMX alone: `onednn_error` finds out.
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Torch's autocast, which does something in bf16 alone; for forward passes."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def frozen(model: nn.Module | None, precision: Precision) -> Iterator[None]:
    """Inside the `with`, a model that is not trained holds the matrices of its linear layers as they are multiplied.

    Autocast keeps what it has converted of trained weights only, and converts those of a teacher in every pass.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)] if model and precision == "bf16" else []
    layers = [layer for layer in layers if type(layer.weight) is nn.Parameter]  # not a shard, which FSDP gathers
    whole = [layer.weight for layer in layers]
    for layer in layers:  # a new parameter: the old one may be tied to an embedding, which stays as it is
        layer.weight = nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in zip(layers, whole, strict=True):
            layer.weight = weight


@contextmanager
def multiplying(device: torch.device, precision: Precision) -> Iterator[None]:
    """Inside the `with`, forward passes on the device are in this precision."""
    with onednn(precision), autocast(device, precision):
        yield
