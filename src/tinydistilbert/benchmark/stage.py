"""The stage benchmark: the latency of every row in every protocol, its size and its memory."""

import dataclasses
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerFast

from tinydistilbert import results
from tinydistilbert.benchmark.backends import ONNX, OPENVINO, TORCH, clamp_ids
from tinydistilbert.benchmark.gpu import measure_on_gpu
from tinydistilbert.benchmark.memory import measure_memory
from tinydistilbert.benchmark.pairs import Pairs, load_pairs
from tinydistilbert.benchmark.protocols import PairInputs, encoded_pairs, slices_of
from tinydistilbert.benchmark.record import Record
from tinydistilbert.benchmark.rows import (
    ARCHITECTURES,
    Architectures,
    BenchmarkRow,
    Subject,
    check_installed,
    make_rows,
    make_subject,
)
from tinydistilbert.benchmark.timing import load_average, one_core, time_in_turns
from tinydistilbert.models.runtimes import BF16
from tinydistilbert.recipe.schema import Benchmark, Recipe, recipe_hash
from tinydistilbert.run_folder import BENCHMARK_TIMES, MEASUREMENTS
from tinydistilbert.storage import atomic, json_lines

_LIBRARIES = {TORCH: "torch", ONNX: "onnxruntime", OPENVINO: "openvino"}
"""By the first part of a back end's name; a second part is a precision, or says that the model is compiled."""


def benchmark(
    models: Mapping[str, Path | None],
    settings: Benchmark,
    *,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    architectures: Architectures = ARCHITECTURES,
) -> None:
    """Measure size, latency and memory of `models` by every back end and write the finished folder `output`.

    Args:
        models: rows of the table: a model folder, an exported folder, or None for one of `architectures` with random
            weights.
        settings: back ends, protocols, number of pairs and of rounds.
        recipe: has the location of the data, the seed, and the name and hash for the measurements.
        tokenizer: of the rows without a folder.
        output: gets `measurements.jsonl` and `latencies.jsonl` (each individual time, in milliseconds).
        architectures: functions that build the rows without a folder.

    Raises:
        UserError: a back end is not installed, or a folder is not one that it can be made from.
    """
    check_installed(settings.backends)
    pairs = load_pairs(recipe, tokenizer)
    record = Record(pairs)
    work = output.with_name(output.name + ".models")
    shutil.rmtree(work, ignore_errors=True)  # of a run that was killed
    work.mkdir(parents=True)
    try:
        subjects = [
            make_subject(name, given, architectures=architectures, tokenizer=tokenizer, seed=recipe.seed, work=work)
            for name, given in models.items()
        ]
        _measure(subjects, make_rows(subjects, settings.backends, work), settings, record, seed=recipe.seed)
        if torch.cuda.is_available() and recipe.device in ("auto", "cuda"):
            measure_on_gpu(subjects, settings, record, seed=recipe.seed)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    signature: dict[str, Any] = {"seed": recipe.seed, "recipe": recipe.name, "recipe_hash": recipe_hash(recipe)}
    with atomic.unfinished(output) as folder:
        signed = [dataclasses.replace(m, **signature) for m in record.measurements]
        results.write(folder / MEASUREMENTS, signed)
        json_lines.write(folder / BENCHMARK_TIMES, record.raw)


def _measure(
    subjects: Sequence[Subject], rows: Sequence[BenchmarkRow], settings: Benchmark, record: Record, *, seed: int
) -> None:
    """Measure sizes, latencies on one core, and memory."""
    for subject in subjects:
        record.add(
            subject, "size", "parameters", subject.parameters, megabytes_fp32=subject.parameters * 4 / 1e6,
            counted=subject.counted,
        )  # fmt: skip
    for row in rows:
        if row.megabytes is not None:
            record.add(row.subject, "size", "megabytes", row.megabytes, backend=row.backend)
    inputs = _inputs(rows, record.pairs)
    for protocol in settings.protocols:
        timed = {row.name: inputs[row.name].timed(protocol, row.runtime) for row in rows}
        before = load_average()
        with one_core():
            slices = slices_of(inputs[rows[0].name].features, settings, protocol, seed)
            seconds = time_in_turns(timed, slices, label=f"benchmark, {protocol}")
        for row in rows:
            record.add_latency(
                row.subject, seconds[row.name], backend=row.backend, device="cpu", protocol=protocol, gpu="",
                precision=_precision(row.backend), library=_version(row.backend),
                load_average=before, load_average_after=load_average(),
            )  # fmt: skip
    for row in rows if settings.memory else ():
        pair_inputs = inputs[row.name]
        longest = pair_inputs.at(int(pair_inputs.features.lengths.argmax()))
        longest = longest if row.subject.vocabulary_size is None else clamp_ids(longest, row.subject.vocabulary_size)
        sizes = measure_memory(row.name, row.folder, row.backend, longest)
        record.add(
            row.subject, "memory", "peak_memory_mib", sizes["peak_mib"], backend=row.backend, device="cpu",
            baseline_mib=sizes["baseline_mib"], loaded_mib=sizes["loaded_mib"],
        )  # fmt: skip


def _inputs(rows: Sequence[BenchmarkRow], pairs: Pairs) -> dict[str, PairInputs]:
    features = encoded_pairs([row.subject for row in rows], pairs)
    return {
        row.name: PairInputs(row.subject, row.runtime.token_types, pairs, features[row.subject.name]) for row in rows
    }


def _precision(backend: str) -> str:
    part = backend.partition("-")[2]
    return part if part in ("int8", BF16) else "fp32"


def _version(backend: str) -> str:
    library = _LIBRARIES[backend.partition("-")[0]]
    return f"{library} {results.version_of_module(library)}"
