"""GPU timings: the time between two events of a stream, graphs that are captured once, and the best batch size."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from tinydistilbert.benchmark.backends import open_model
from tinydistilbert.benchmark.pairs import PADDED_LENGTH
from tinydistilbert.benchmark.protocols import PADDED, WITH_TOKENIZER, PairInputs, encoded_pairs, slices_of
from tinydistilbert.benchmark.record import Record
from tinydistilbert.benchmark.rows import Subject
from tinydistilbert.benchmark.timing import Timed, load_average, time_in_turns
from tinydistilbert.models.heads import vocabulary_size
from tinydistilbert.models.runtimes import is_exported
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.recipe.schema import Benchmark

GpuInputs = Mapping[str, Tensor]
Forward = Callable[[GpuInputs], object]

EAGER, COMPILED, GRAPH = "torch", "torch-compile", "torch-graph"
MODES = (EAGER, COMPILED, GRAPH)
PASSES_OF_CAPTURE = 3
"""Warm-up passes before a capture, on a separate stream, as torch's documentation of CUDA graphs requires."""
LARGEST_BATCH = 2**14
GAIN = 1.02
"""The search for a batch size ends when doubling it raises the throughput by less than this factor."""
TIMED_PASSES = 10
"""Passes of each batch size, of which the mean is taken."""


class Captured:
    """A model whose forward pass is captured as a CUDA graph at the first call of each shape, and replayed afterwards.

    A graph launches all kernels of a pass at once. At batch 1, launching kernels takes longer than running them.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self._model = model
        self._graphs: dict[tuple[int, ...], tuple[Any, dict[str, Tensor], Tensor]] = {}

    def __call__(self, batch: GpuInputs) -> Tensor:
        """Return the logits, in memory that the next call of this shape overwrites."""
        shape = tuple(batch["input_ids"].shape)
        if shape not in self._graphs:
            self._graphs[shape] = self._capture(batch)
        graph, inputs, logits = self._graphs[shape]
        for name, tensor in inputs.items():
            tensor.copy_(batch[name])
        graph.replay()
        return logits

    def _capture(self, batch: GpuInputs) -> tuple[Any, dict[str, Tensor], Tensor]:
        inputs = {name: tensor.clone() for name, tensor in batch.items()}
        stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(PASSES_OF_CAPTURE):
                self._model(**inputs)
        torch.cuda.current_stream().wait_stream(stream)
        graph: Any = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            logits = self._model(**inputs).logits
        return graph, inputs, logits


def forward_of(model: PreTrainedModel, mode: str) -> Forward:
    """Return the forward pass of a model on a GPU in one of `MODES`."""
    if mode == GRAPH:
        return Captured(model)
    run: Any = torch.compile(model, dynamic=True) if mode == COMPILED else model
    return lambda batch: run(**batch).logits


def event_clock(answer: Callable[[Any], object], prepared: Any) -> float:
    """Return the seconds of one call between two events of the current stream."""
    event: Any = torch.cuda.Event  # its constructor has no annotations
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    answer(prepared)
    end.record()
    torch.cuda.synchronize()
    return float(begin.elapsed_time(end)) / 1000


def full_batch(model: PreTrainedModel, size: int, *, token_types: bool) -> dict[str, Tensor]:
    """Return `size` inputs of 128 random tokens without padding, on the model's device; equal ones would be faster."""
    tokens = vocabulary_size(model)
    input_ids = torch.randint(tokens, (size, PADDED_LENGTH), generator=torch.Generator().manual_seed(0))
    ones = torch.ones_like(input_ids)
    batch = {"input_ids": input_ids, "attention_mask": ones, **({"token_type_ids": 0 * ones} if token_types else {})}
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


@dataclass(frozen=True)
class Throughput:
    """Inputs per second at the best batch size, and at every size that was tried."""

    batch_size: int
    per_second: float
    tried: dict[int, float]


def best_batch(seconds: Callable[[int], float], sizes: Iterable[int] | None = None) -> Throughput:
    """Double the batch until throughput stops rising or memory runs out.

    Args:
        seconds: of one pass of a batch of that size; raises torch's error when out of memory.
        sizes: to try; powers of two by default.
    """
    tried: dict[int, float] = {}
    for size in sizes or (2**power for power in range(LARGEST_BATCH.bit_length())):
        try:
            rate = size / seconds(size)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            break
        rising = not tried or rate > GAIN * max(tried.values())
        tried[size] = rate
        if not rising:
            break
    if not tried:
        raise torch.OutOfMemoryError("not even one input fits into the memory of the GPU")
    best = max(tried, key=lambda size: tried[size])
    return Throughput(best, tried[best], tried)


def throughput(model: PreTrainedModel, forward: Forward, *, token_types: bool) -> Throughput:
    """Measure the throughput of a forward pass over inputs of 128 tokens."""

    def seconds(size: int) -> float:
        batch = full_batch(model, size, token_types=token_types)
        forward(batch)

        def passes(inputs: GpuInputs) -> None:
            for _ in range(TIMED_PASSES):
                forward(inputs)

        return event_clock(passes, batch) / TIMED_PASSES

    return best_batch(seconds)


@dataclass(frozen=True)
class GpuRow:
    """A model on the GPU in one of `MODES`."""

    subject: Subject
    mode: str
    model: PreTrainedModel
    forward: Forward
    inputs: PairInputs

    @property
    def name(self) -> str:
        """`student/torch-graph`."""
        return f"{self.subject.name}/{self.mode}"

    def timed(self, protocol: str) -> Timed:
        """Return the inputs to put on the GPU before the first event, and the forward pass between the two."""
        pad_to = self.inputs.subject.max_length if protocol == PADDED else None

        def prepare(index: int) -> GpuInputs:
            arrays = self.inputs.at(index, pad_to)
            batch = {name: torch.from_numpy(array).to(self.model.device) for name, array in arrays.items()}
            if self.subject.vocabulary_size is not None:  # random weights may have fewer rows than the tokenizer
                batch["input_ids"].clamp_(max=self.subject.vocabulary_size - 1)
            return batch

        return Timed(prepare, self.forward)


def measure_on_gpu(subjects: Sequence[Subject], settings: Benchmark, record: Record, *, seed: int) -> None:
    """Measure latency at batch 1 and throughput of the torch models: eager, compiled, and captured as graphs.

    The protocol with the tokenizer is left out, because tokenizing does not use the GPU. ELMo, whose steps are a Python
    loop, runs only eager.
    """
    subjects = [subject for subject in subjects if not is_exported(subject.folder)]
    if not subjects:
        return
    gpu = {"device": "cuda", "gpu": torch.cuda.get_device_name(), "precision": "fp32"}
    library = f"torch {torch.__version__}"
    with torch.inference_mode():
        rows = list(_gpu_rows(subjects, record))
        for protocol in [protocol for protocol in settings.protocols if protocol != WITH_TOKENIZER]:
            timed = {row.name: row.timed(protocol) for row in rows}
            slices = slices_of(rows[0].inputs.features, settings, protocol, seed)
            for timed_row in timed.values():  # compile and capture every length before timing
                for index in (index for part in slices for index in part):
                    timed_row.answer(timed_row.prepare(index))
            seconds = time_in_turns(timed, slices, event_clock)
            for row in rows:
                record.add_latency(
                    row.subject, seconds[row.name], backend=row.mode, protocol=protocol, library=library,
                    load_average=load_average(), **gpu,
                )  # fmt: skip
        for row in [row for row in rows if row.subject.vocabulary_size is not None]:
            best = throughput(row.model, row.forward, token_types=row.inputs.token_types)
            record.add(
                row.subject, "throughput", "pairs_per_second", best.per_second, higher_is_better=True,
                backend=row.mode, protocol=PADDED, library=library, batch_size=best.batch_size,
                tried={str(size): rate for size, rate in best.tried.items()}, **gpu,
            )  # fmt: skip


def _gpu_rows(subjects: Sequence[Subject], record: Record) -> Iterator[GpuRow]:
    features = encoded_pairs(subjects, record.pairs)
    for subject in subjects:
        model, _ = open_model(subject.folder)
        torch.nn.Module.to(model, torch.device("cuda"))
        inputs = PairInputs(subject, uses_token_types(model), record.pairs, features[subject.name])
        for mode in MODES if subject.vocabulary_size is not None else (EAGER,):
            yield GpuRow(subject, mode, model, forward_of(model, mode), inputs)
