"""The speed of this machine, and what a parameter costs in memory traffic, checkpoints and time.

Good enough to tell minutes from hours before a run, not to compare machines.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Self

import torch
from transformers import BertConfig, BertModel, PretrainedConfig

from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.pruned import keep
from tinydistilbert.models.size import FORWARD_AND_BACKWARD, Size, layer_shapes
from tinydistilbert.training.cores import processor_seconds
from tinydistilbert.training.precision import Precision, multiplying

EFFICIENCY_GPU, EFFICIENCY_GPU_SCORING = 0.33, 0.58
"""Shares of the matrix-multiply rate that a training on a GPU reaches (`results/gpu`, BERT-base to 6 layers on an H100)
and that predictions reach, which was not measured. On a CPU, a layer itself is measured."""
BYTES_PER_UPDATE = 48
"""Bytes of memory traffic per parameter and step: a new gradient touched and written, its norm taken, gradient scaled
(5 x 4 bytes), AdamW (7 x 4)."""
CHECKPOINT_BYTES = 12
"""Bytes per parameter: weight and AdamW's two moments."""
PROCESS_BYTES = 900_000_000
"""Bytes of Python, torch and transformers after a first computation, with data and the allocator's reserve."""
PROBE_SIZE_GPU, PROBE_SECONDS = 4096, 0.15
"""Width of the square matrices that a GPU multiplies to measure a rate, and how long anything is measured."""
PROBE_INPUTS, PROBE_LENGTH = 16, 32
"""The batch that a layer is measured with: half as many tokens as a batch of pairs has."""
PRUNED = 0.25
"""Share of its heads and neurons that a layer keeps for its second measurement."""
DTYPES: Mapping[Precision, torch.dtype] = {
    "fp32": torch.float32, "fp32-onednn": torch.float32, "bf16": torch.bfloat16,
}  # fmt: skip
COPIED = 16_000_000
"""Numbers that are copied to measure the memory: 64 MB, more than caches hold."""
CPU = torch.device("cpu")


@dataclass(frozen=True)
class LayerShape:
    """The shape of a model's layers, on which its speed depends most."""

    width: int = 768
    heads: int = 12
    inner: int = 3072
    """Feed-forward neurons."""

    @classmethod
    def of(cls, config: PretrainedConfig) -> Self:
        """Return the shape of a model's unpruned layers; BERT-base's for a recurrent model, a rougher estimate."""
        shapes = layer_shapes(config)
        return cls(shapes[1][0], config.num_attention_heads, shapes[1][1]) if shapes else cls()

    def model(self) -> BertModel:
        """A model of one such layer, with random weights."""
        config = BertConfig(
            hidden_size=self.width, num_attention_heads=self.heads, intermediate_size=self.inner, num_hidden_layers=1,
            vocab_size=PROBE_LENGTH, max_position_embeddings=PROBE_LENGTH,
        )  # fmt: skip
        return BertModel(config, add_pooling_layer=False)


@dataclass(frozen=True)
class Machine:
    """Measured rates, in floating-point operations of matrix products per second, everything else included."""

    device: str
    threads: int
    scoring: float
    """Rate of predictions of batches in fp32."""
    one_core: float
    """Rate of predictions of single inputs in fp32 on one core of the CPU."""
    traffic: float
    """Bytes read and written per second in the device's memory."""
    precision: Precision
    """Precision of matrix products in training; scored predictions are made in fp32."""
    training: float
    """Rate of training in that precision."""
    unpruned: float = 0.0
    """Share of a layer's training time that remains when all heads and neurons are gone."""

    def seconds(self, operations: float) -> float:
        """Return the time of that many operations of predictions in fp32."""
        return operations / self.scoring

    def training_seconds(self, operations: float, *, traffic: float = 0.0) -> float:
        """Return the time of that many operations and bytes of memory traffic in training or what it learns from."""
        return operations / self.training + traffic / self.traffic

    def pruned(self, share: float) -> float:
        """Return a layer's training time with that share of its heads and neurons, as a share of the whole layer's."""
        return self.unpruned + (1 - self.unpruned) * share

    def seconds_on_one_core(self, operations: float) -> float:
        """Return the time of a prediction of that many operations on one core."""
        return operations / self.one_core


def measure(device: torch.device, precision: Precision, layer: LayerShape) -> Machine:
    """Measure the rates of this machine, in one or two seconds.

    Args:
        device: where models are trained and scored.
        precision: precision of the training.
        layer: layer shape of the model that takes most of the time.
    """
    with torch.random.fork_rng(devices=[]):  # for weights and dropout: a run's own random numbers stay the same
        return _measured(device, precision, layer)


def _measured(device: torch.device, precision: Precision, layer: LayerShape) -> Machine:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one_core = _predictions(layer, inputs=1)
        if device.type != "cpu":
            fp32, rate = (_multiply(device, dtype) for dtype in (torch.float32, DTYPES[precision]))
            return Machine(
                device.type, threads, EFFICIENCY_GPU_SCORING * fp32, one_core, _copy(device), precision,
                EFFICIENCY_GPU * rate,
            )  # fmt: skip
        scoring, training, unpruned = _predictions(layer), _training(layer, precision), _unpruned(layer, precision)
        copying = _copy(CPU)
    finally:
        torch.set_num_threads(threads)
    if threads > 1:  # at least as fast as one, however busy other programs are
        scoring, training = max(scoring, _predictions(layer)), max(training, _training(layer, precision))
    # Two cores are enough to keep the memory of most machines busy.
    return Machine("cpu", threads, scoring, one_core, copying * min(threads, 2), precision, training, unpruned)


def _predictions(layer: LayerShape, inputs: int = PROBE_INPUTS) -> float:
    """Return the rate of the layer's predictions in fp32, with torch's threads."""
    model = layer.model().eval()
    ids = _ids(inputs)
    with torch.inference_mode():
        seconds = _least_seconds(lambda: model(input_ids=ids), CPU)
    return Size.of(model).forward(ids.numel(), PROBE_LENGTH) / seconds


def _training(layer: LayerShape, precision: Precision) -> float:
    """Return the rate of the layer's forward and backward passes, with torch's threads."""
    model = layer.model()
    operations = FORWARD_AND_BACKWARD * Size.of(model).forward(PROBE_INPUTS * PROBE_LENGTH, PROBE_LENGTH)
    return operations / _passes_seconds(model, precision)


def _unpruned(layer: LayerShape, precision: Precision) -> float:
    """Return the share of a layer's training time that remains when all heads and neurons are gone."""
    whole, small = layer.model(), layer.model()
    keep(small, [range(max(1, round(PRUNED * layer.heads)))], [range(max(1, round(PRUNED * layer.inner)))])
    left = Size.of(small).matrices / Size.of(whole).matrices
    share = _passes_seconds(small, precision) / _passes_seconds(whole, precision)
    return min(max((share - left) / (1 - left), 0.0), 1.0)


def _passes_seconds(model: BertModel, precision: Precision) -> float:
    """Return the seconds of a forward and a backward pass of a batch, computed as in training."""
    ids = _ids(PROBE_INPUTS)

    def passes() -> None:
        with multiplying(CPU, precision):
            output = model(input_ids=ids).last_hidden_state
        output.sum(dtype=torch.float32).backward()

    with quick_dropout(model.train()):
        return _least_seconds(passes, CPU)


def _ids(inputs: int) -> torch.Tensor:
    return torch.arange(PROBE_LENGTH).expand(inputs, -1)


def _multiply(device: torch.device, dtype: torch.dtype) -> float:
    left, right = torch.ones(2, PROBE_SIZE_GPU, PROBE_SIZE_GPU, device=device, dtype=dtype)
    return 2 * PROBE_SIZE_GPU**3 / _least_seconds(lambda: left @ right, device)


def _copy(device: torch.device) -> float:
    source = torch.zeros(COPIED, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _least_seconds(lambda: target.copy_(source), device)


def _least_seconds(operation: Callable[[], object], device: torch.device) -> float:
    """Return the shortest of several times: longer ones contain something other than the operation.

    On one core, processor time is measured, which other programs change little.
    """
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter

    def whole() -> None:
        operation()
        _wait(device)

    whole()
    least, end = float("inf"), time.perf_counter() + PROBE_SECONDS
    while least == float("inf") or time.perf_counter() < end:
        least = min(least, processor_seconds(whole, clock))
    return least


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()
