"""Size and latency: parameters, and the time of a full pass over STS-B validation at batch 1 on one pinned core.

The setting of DistilBERT's Table 3 (Sanh et al. 2019), with what the paper leaves open stated: one thread, fp32, inputs
padded to 128 (as TinyDistilBERT timed them) and, beside it, at their true length.
"""

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tinydistilbert import fsio, results
from tinydistilbert.errors import UserError
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.loading import load_model
from tinydistilbert.recipe import Benchmark, Recipe, recipe_hash
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS, load_examples
from tinydistilbert.tasks.encoding import Features, collate, encode

Architectures = Mapping[str, Callable[[], PreTrainedModel]]

ARCHITECTURES: Architectures = {
    "bert-base": lambda: BertForSequenceClassification(BertConfig.from_dict({"num_labels": 1})),
    "distilbert": lambda: DistilBertForSequenceClassification(DistilBertConfig.from_dict({"num_labels": 1})),
}
"""Rows with random weights: their speed does not depend on what the weights are."""

PADDED, TRUE_LENGTH = "padded-128", "true-length"
PADDED_LENGTH = 128
PAIRS = 1500
"""Sentence pairs in STS-B validation."""
LOG_MEAN, LOG_STD, SHORTEST = 3.35, 0.43, 10
"""Word pieces of an STS-B validation pair, in BERT's uncased vocabulary: log-normal, mean 31, from 11 to 87."""
WARM_UP = 2
"""Passes before each slice that are not timed: the model before it has filled the caches."""
NOISE_LIMIT = 1.10
"""A spread between rounds above this is reported as noise of the machine."""


@dataclass(frozen=True)
class Inputs:
    """The pairs to be timed."""

    features: Features
    total: int
    """Pairs of the whole pass."""
    source: str
    """What they are, in words."""
    synthetic: bool
    fingerprint: str


def synthetic_features(vocab_size: int, seed: int) -> Features:
    """Random token ids at 1,500 lengths distributed as STS-B's: no time depends on the ids."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(np.rint(generator.lognormal(LOG_MEAN, LOG_STD, PAIRS)), SHORTEST, PADDED_LENGTH).astype(np.int64)
    ids = [generator.integers(0, vocab_size, length).astype(np.int32) for length in lengths]
    types = [(np.arange(length) >= length // 2).astype(np.int32) for length in lengths]
    return Features(ids, types, np.zeros(PAIRS, np.float32), np.arange(PAIRS), None)


def load_inputs(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Inputs:
    """STS-B validation where the recipe has it (a data folder, or the task itself); else random ids at such lengths."""
    if recipe.data is not None or "stsb" in recipe.finetune.tasks:
        try:
            examples = load_examples(
                TASKS["stsb"], "validation", data=recipe.data, corpus=recipe.corpus, limit=0, seed=recipe.seed
            )
        except (UserError, OSError):
            pass  # no such file, or no network: timing does not need the words, and the report says what was timed
        else:
            features = encode(examples, tokenizer, PADDED_LENGTH)
            return Inputs(features, examples.total, "STS-B validation", False, examples.fingerprint)
    source = "random ids at lengths distributed as STS-B validation's (mean 31 word pieces)"
    return Inputs(synthetic_features(len(tokenizer), recipe.seed), PAIRS, source, True, "")


def slices_of_like_lengths(lengths: Sequence[int], examples: int, rounds: int, seed: int) -> list[list[int]]:
    """Indices of `examples` pairs drawn without return (0 = all), dealt into rounds of the same lengths.

    Pairs in order of length are dealt to and fro, as cards are; so the mean time of one round can be compared with
    another's, and what differs between them is the machine. The order within a round is random.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(lengths))[: examples or len(lengths)]
    by_length = sorted(chosen.tolist(), key=lambda index: lengths[index])
    rounds = min(rounds, len(by_length))
    slices: list[list[int]] = [[] for _ in range(rounds)]
    for position, index in enumerate(by_length):
        lap, place = divmod(position, rounds)
        slices[place if lap % 2 == 0 else rounds - 1 - place].append(index)
    return [generator.permutation(part).tolist() for part in slices]


@contextmanager
def one_core() -> Iterator[None]:
    """Run the body with one torch thread, pinned to one core where the system can; both are restored afterwards."""
    threads = torch.get_num_threads()
    cores = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else None
    try:
        torch.set_num_threads(1)
        if cores:
            os.sched_setaffinity(0, {max(cores)})
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            os.sched_setaffinity(0, cores)


def _seconds(model: PreTrainedModel, batch: dict[str, Tensor], device: torch.device) -> float:
    """Seconds of one forward pass; on a GPU between two events of its stream."""
    if device.type != "cuda":
        start = time.perf_counter()
        model(**batch)
        return time.perf_counter() - start
    event: Any = torch.cuda.Event  # its constructor has no annotations
    begin, end = event(enable_timing=True), event(enable_timing=True)
    begin.record()
    model(**batch)
    end.record()
    torch.cuda.synchronize(device)
    return float(begin.elapsed_time(end)) / 1000


def _batch(
    model: PreTrainedModel, inputs: Inputs, index: int, pad_to: int | None, pad_token_id: int
) -> dict[str, Tensor]:
    token_types = getattr(model.config, "type_vocab_size", 0) > 1
    batch = collate(inputs.features, [index], pad_token_id, token_types=token_types, pad_to=pad_to)
    batch.pop("labels")
    # A row with random weights may have fewer words than the teacher's tokenizer; its time does not depend on ids.
    batch["input_ids"] = batch["input_ids"].clamp(max=model.config.vocab_size - 1)
    return {name: tensor.to(model.device) for name, tensor in batch.items()}


@torch.inference_mode()
def time_models(
    models: Mapping[str, PreTrainedModel],
    inputs: Inputs,
    rounds: Sequence[Sequence[int]],
    pad_to: int | None,
    pad_token_id: int,
) -> dict[str, list[list[float]]]:
    """Seconds of each pair, by model and round; each round goes through every model, the first of them in turn."""
    names = list(models)
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    for number, indices in enumerate(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            model = models[name]
            batches = [_batch(model, inputs, index, pad_to, pad_token_id) for index in indices]
            for batch in batches[:WARM_UP]:
                _seconds(model, batch, model.device)
            seconds[name].append([_seconds(model, batch, model.device) for batch in batches])
    return seconds


def summarize(rounds: Sequence[Sequence[float]], total: int) -> dict[str, Any]:
    """What a row of Table 3 needs, from the seconds of each pair by round.

    `seconds_per_pass` is `total` times the mean; `spread` the largest over the smallest mean of a round (1.0 = alike).
    """
    every = np.concatenate([np.asarray(part) for part in rounds])
    means = [float(np.mean(part)) for part in rounds]
    spread = max(means) / min(means)
    return {
        "seconds_per_pass": total * float(every.mean()),
        "p50_ms": 1000 * float(np.median(every)),
        "p90_ms": 1000 * float(np.quantile(every, 0.9)),
        "mean_ms": 1000 * float(every.mean()),
        "spread": spread,
        "noisy": spread > NOISE_LIMIT,
        "rounds": len(rounds),
        "estimated": len(every) < total,
    }


def _size(name: str, model: PreTrainedModel) -> Measurement:
    count = parameter_count(model.base_model)
    # As published counts are made (110 M, 66 M).
    details = {"megabytes_fp32": count * 4 / 1e6, "counted": "encoder without task head, tied tensors once"}
    return Measurement(name, "size", "parameters", count, higher_is_better=False, details=details)


def _latency(name: str, rounds: Sequence[Sequence[float]], inputs: Inputs, **details: Any) -> Measurement:
    row = summarize(rounds, inputs.total)
    return Measurement(
        name,
        "latency",
        "seconds_per_pass",
        row.pop("seconds_per_pass"),
        split="validation",
        higher_is_better=False,
        examples=sum(map(len, rounds)),
        examples_total=inputs.total,
        seconds=sum(map(sum, rounds)),
        data_fingerprint=inputs.fingerprint,
        details={**details, **row, "inputs": inputs.source, "synthetic": inputs.synthetic},
    )


def _load(models: Mapping[str, Path | None], architectures: Architectures, seed: int) -> dict[str, PreTrainedModel]:
    loaded = {}
    for name, folder in models.items():
        torch.manual_seed(seed)
        model = architectures[name]() if folder is None else load_model(folder, head="regression")
        loaded[name] = model.float().eval()
    return loaded


def _devices(recipe: Recipe) -> list[torch.device]:
    gpu = torch.cuda.is_available() and recipe.device in ("auto", "cuda")
    return [torch.device("cpu"), *([torch.device("cuda")] if gpu else [])]


def benchmark(
    models: Mapping[str, Path | None],
    settings: Benchmark,
    *,
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    output: Path,
    architectures: Architectures = ARCHITECTURES,
) -> None:
    """Measure size and latency of `models` and write the finished folder `output`.

    Args:
        models: rows of the table: a model folder, or None for one of `architectures` with random weights.
        settings: how many pairs, in how many rounds.
        recipe: where the data is, the seed, and what the measurements are signed with.
        tokenizer: the teacher's; every row is timed on the same tokens.
        output: gets `measurements.jsonl` and `latencies.jsonl` (every single time, in milliseconds).
        architectures: what the rows without a folder are built with.
    """
    inputs = load_inputs(recipe, tokenizer)
    loaded = _load(models, architectures, recipe.seed)
    lengths = inputs.features.lengths.tolist()
    pad_token_id = int(tokenizer.pad_token_id or 0)
    measurements = [_size(name, model) for name, model in loaded.items()]
    raw = []
    for device in _devices(recipe):
        for model in loaded.values():
            nn.Module.to(model, device)
        gpu = torch.cuda.get_device_name(device) if device.type == "cuda" else ""
        for protocol, examples, pad_to in (
            (PADDED, settings.padded_examples, PADDED_LENGTH),
            (TRUE_LENGTH, settings.examples, None),
        ):
            rounds = slices_of_like_lengths(lengths, examples, settings.rounds, recipe.seed)
            with one_core():
                seconds = time_models(loaded, inputs, rounds, pad_to, pad_token_id)
            conditions = {
                "protocol": protocol, "batch_size": 1, "threads": 1, "precision": "fp32", "backend": "torch eager",
                "device": device.type, "gpu": gpu,
                "load_average": os.getloadavg()[0] if hasattr(os, "getloadavg") else None,
            }  # fmt: skip
            for name, times in seconds.items():
                weights = "random" if models[name] is None else "trained"
                measurements.append(_latency(name, times, inputs, weights=weights, **conditions))
                milliseconds = [[round(1000 * s, 4) for s in part] for part in times]
                raw.append({"model": name, "device": device.type, "protocol": protocol, "milliseconds": milliseconds})
    signature: dict[str, Any] = {"seed": recipe.seed, "recipe": recipe.name, "recipe_hash": recipe_hash(recipe)}
    with fsio.unfinished(output) as folder:
        results.write(folder / "measurements.jsonl", [dataclasses.replace(m, **signature) for m in measurements])
        fsio.write_text(folder / "latencies.jsonl", "".join(json.dumps(line) + "\n" for line in raw))
