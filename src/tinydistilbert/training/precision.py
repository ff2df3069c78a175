"""The precision of a training's matrix products: found by a probe, then kept, and set only in this module."""

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
from tinydistilbert.training.cores import processor_seconds

Precision = Literal["fp32", "fp32-onednn", "bf16"]
"""`fp32-onednn`: single precision by oneDNN instead of the CPU's default library, such as MKL or OpenBLAS."""
PRECISIONS: tuple[Precision, ...] = get_args(Precision)
Shape = tuple[int, int]
"""Inner size and columns of a matrix product, from the shape of a weight."""

BF16_GAIN = 1.3
"""Smallest gain in speed for which products are in bf16, because it rounds to three digits."""
ONEDNN_GAIN = 1.15
"""Smaller gains cannot be told from noise in a fifth of a second."""
LARGEST_ERROR = 1e-6
"""Largest relative error of a oneDNN product against float64; a CPU with AMX uses bf16 in this setting: 2e-3."""
ROWS, PROBE_SECONDS = 256, 0.2
"""Rows of the probe's products, and its duration; each precision is timed at least twice."""
LEAST_WIDTH = 128
"""Narrower models are not probed: matrix products are not the bottleneck of their training."""
_CHECKED_ROWS = 32
PREPARED, CAPACITY = 4096, "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
_OLD_CAPACITY = "DNNL_PRIMITIVE_CACHE_CAPACITY"


def keep_prepared_products() -> None:
    """Let oneDNN cache 4,096 prepared products instead of 1,024, unless its environment variable is already set.

    oneDNN prepares a product for each new size, which takes time, and drops the oldest. A training has some 40 lengths
    of batches, times the weights of a layer, times three passes, times the number of layers if these are pruned: with
    1,024 it prepared every product again in every epoch (`benchmarks/prepared_products.py`). oneDNN reads the variable
    at the first product of a process, which may be the probe's.
    """
    if _OLD_CAPACITY not in os.environ:
        os.environ.setdefault(CAPACITY, str(PREPARED))


keep_prepared_products()


def prepares_products(device: torch.device, precision: Precision) -> bool:
    """Return whether products are oneDNN's, which prepares one for each size of its matrices."""
    return device.type == "cpu" and precision != "fp32"


@dataclass(frozen=True)
class Choice:
    """The result of a probe."""

    precision: Precision
    why: str
    """For a line in the log."""


def has_bf16_units() -> bool:
    """Return whether this CPU has instructions for bf16 matrix products; without them bf16 is several times slower."""
    if not _has_onednn() or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    is_x86 = platform.machine().lower() in ("x86_64", "amd64")
    return bool(not is_x86 or torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _has_onednn() -> bool:
    return bool(torch._C._has_mkldnn)


def is_possible(device: torch.device, precision: Precision) -> bool:
    """Return whether the device supports the precision."""
    if precision == "bf16" and device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if precision == "bf16":
        return device.type == "cpu" and has_bf16_units()
    return precision == "fp32" or (device.type == "cpu" and onednn_error(((768, 768), (768, 3072))) < LARGEST_ERROR)


def missing(device: torch.device, precision: Precision) -> tuple[str, str]:
    """Return, for an error, what a precision that is not possible would need, and what the device has."""
    if precision == "bf16":
        return "a device that multiplies in bf16", f"{device.type} without bf16 units"
    if device.type != "cpu":
        return "a CPU, for oneDNN's products in single precision", device.type
    return (
        f"oneDNN's products in single precision (relative error below {LARGEST_ERROR:g})",
        f"{onednn_error(((768, 768), (768, 3072))):.0e}",
    )


def chosen_precision(device: torch.device, wanted: str = "auto") -> Precision:
    """Return the wanted precision, without a probe; `auto` is bf16 on GPUs that have it, and fp32 elsewhere.

    Raises:
        UserError: the device does not support it, or is several times slower with it than in fp32.
    """
    if wanted == "auto":
        return "bf16" if device.type == "cuda" and is_possible(device, "bf16") else "fp32"
    precision = next(name for name in PRECISIONS if name == wanted)
    if not is_possible(device, precision):
        expected, found = missing(device, precision)
        raise UserError("precision", expected=expected, found=found, fix="leave it at auto, or set fp32")
    return precision


def choose(device: torch.device, weights: Sequence[Shape]) -> Choice:
    """Return the fastest precision for products with such weights on this device, if worth its error; see `decide`.

    Args:
        device: where the training will compute; on a CPU, with as many threads as torch uses now.
        weights: inner size and columns of the model's matrices; empty = do not probe.
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
    """Choose bf16 if it is at least 1.3 times as fast as fp32, else oneDNN if it is faster and as exact, else fp32.

    Args:
        seconds: of the same products in each possible precision, including fp32.
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
    """Return the name of the library that this build of torch uses for fp32 matrix products on CPUs."""
    if torch._C.has_mkl:
        return "MKL"
    (blas,) = [part.split("=")[1] for part in torch.__config__.show().split(", ") if "BLAS_INFO=" in part] or ["BLAS"]
    return blas


def product_seconds(weights: Sequence[Shape], precisions: Sequence[Precision]) -> dict[Precision, float]:
    """Return the seconds of the products of a forward and a backward pass with such weights, the best of several runs.

    It measures processor time, summed over the threads, which other processes hardly change. The precisions take turns.
    """
    passes = {name: [_passes(shape, name) for shape in weights] for name in precisions}
    least: dict[Precision, list[float]] = {name: [float("inf")] * len(weights) for name in precisions}
    end, rounds = time.perf_counter() + PROBE_SECONDS, 0
    while rounds < 3 or time.perf_counter() < end:  # the first round is a warm-up
        for name in precisions:
            with onednn(name):
                for index, run in enumerate(passes[name]):
                    seconds = processor_seconds(run)
                    if rounds:
                        least[name][index] = min(least[name][index], seconds)
        rounds += 1
    return {name: sum(each) for name, each in least.items()}


def _passes(shape: Shape, precision: Precision) -> Callable[[], object]:
    """Return the three products of one weight: its output, and the gradients of its input and of itself."""
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    inner, columns = shape
    inputs, weight = torch.ones(ROWS, inner, dtype=dtype), torch.ones(columns, inner, dtype=dtype)
    gradient = torch.ones(ROWS, columns, dtype=dtype)
    return lambda: (inputs @ weight.t(), gradient @ weight, gradient.t() @ inputs)


@cache
def onednn_error(weights: tuple[Shape, ...]) -> float:
    """Return the largest relative error of oneDNN's products with such weights against float64, in both passes."""
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
                product = (left @ right)[:_CHECKED_ROWS]
            worst = max(worst, _relative_error(product, left[:_CHECKED_ROWS].double() @ right.double()))
    return worst


def _relative_error(product: Tensor, exact: Tensor) -> float:
    return float((product.double() - exact).norm() / exact.norm())


@contextmanager
def onednn(precision: Precision) -> Iterator[None]:
    """Inside the `with`, fp32 products of this process are oneDNN's if the precision is `fp32-onednn`."""
    if precision != "fp32-onednn":
        yield
        return
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    # The setting permits rounding to bf16, but oneDNN does that only with AMX: `onednn_error` detects it.
    products.fp32_precision = "bf16"
    try:
        yield
    finally:
        products.fp32_precision = before


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return torch's autocast for forward passes; it has an effect only in bf16."""
    return torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16")


@contextmanager
def frozen(model: nn.Module | None, precision: Precision) -> Iterator[None]:
    """Inside the `with`, a model that is not trained holds its linear layers' matrices in the precision of products.

    Autocast caches converted weights only if they are trained; it would convert a teacher's in every pass.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)] if model and precision == "bf16" else []
    layers = [layer for layer in layers if type(layer.weight) is nn.Parameter]  # no shards: FSDP gathers them
    whole = [layer.weight for layer in layers]
    for layer in layers:  # a new parameter: the old one may be tied to an embedding, which must not change
        layer.weight = nn.Parameter(layer.weight.detach().bfloat16(), requires_grad=False)
    try:
        yield
    finally:
        for layer, weight in zip(layers, whole, strict=True):
            layer.weight = weight


@contextmanager
def multiplying(device: torch.device, precision: Precision) -> Iterator[None]:
    """Inside the `with`, forward passes on the device use this precision."""
    with onednn(precision), autocast(device, precision):
        yield
