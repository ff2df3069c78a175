"""A task model and the splits of its task → predictions, samples and measurements, in one finished folder."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import torch
from numpy.typing import NDArray
from scipy.special import softmax

from tinydistilbert import fsio, metrics, results
from tinydistilbert.models.loading import load_model, load_tokenizer
from tinydistilbert.recipe import Recipe, recipe_hash
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import HELD_OUT, has_split, held_out_of_train, load_examples
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.encoding import Features, encode
from tinydistilbert.tasks.inference import Logits, predict
from tinydistilbert.tasks.squad import best_answers

SAMPLES = 8
"""Examples that are shown with their predictions."""


@dataclass(frozen=True)
class Predictions:
    """Predictions on one split, in the order of its examples."""

    values: NDArray[Any]
    """(n,) classes, scores or answer texts."""
    words: list[Any]
    """The same as a reader sees them: class names, scores, answer texts."""
    gold: list[Any]
    """The labels as a reader sees them; for each span example the list of its answers."""
    extra: dict[str, list[Any]]
    """Further columns of the predictions file: logits and probabilities, or the best answers as JSON."""


def read_predictions(examples: Examples, features: Features, logits: Logits) -> Predictions:
    """What the logits say, aligned with the examples by `features.example`."""
    assert len(logits) == len(features), "one row of logits a feature"
    if examples.task.kind == "span":
        return _read_answers(examples, features, list(logits))
    rows = np.stack(list(logits))
    assert np.array_equal(features.example, np.arange(len(examples))), "one feature an example, in order"
    labels, names = examples.columns["label"], examples.task.labels
    if examples.task.kind == "regression":
        scores = rows[:, 0].astype(np.float64)
        return Predictions(scores, scores.tolist(), labels, {})
    classes = np.where(np.isnan(rows).any(-1), metrics.NO_CLASS, rows.argmax(-1))
    words = [names[i] if i != metrics.NO_CLASS else "" for i in classes]
    extra = {"logits": rows.tolist(), "probabilities": softmax(rows.astype(np.float64), axis=-1).tolist()}
    return Predictions(classes, words, [names[i] for i in labels], extra)


def _read_answers(examples: Examples, features: Features, logits: list[NDArray[np.float32]]) -> Predictions:
    assert features.offsets is not None, "span features have offsets"
    windows: list[list[int]] = [[] for _ in range(len(examples))]
    for window, example in enumerate(features.example):
        windows[example].append(window)
    texts, best = [], []
    for context, own in zip(examples.columns["context"], windows, strict=True):
        answers = best_answers([logits[i] for i in own], [features.offsets[i] for i in own], context)
        texts.append(answers[0].text)
        finite = [{"text": a.text, "score": round(a.score, 4)} for a in answers if np.isfinite(a.score)]
        best.append(json.dumps(finite, ensure_ascii=False))
    gold = [answer["text"] for answer in examples.columns["answers"]]
    return Predictions(np.array(texts), texts, gold, {"best": best})


def score(examples: Examples, predictions: Predictions, *, seed: int) -> dict[str, tuple[float, dict[str, Any]]]:
    """For each metric of the task its value, and `interval`, `majority` and `warnings` to judge it by."""
    statistics, majority = _statistics(examples, predictions)
    everything = np.arange(len(examples))
    intervals = metrics.bootstrap(statistics, len(examples), seed=seed)
    scores: dict[str, tuple[float, dict[str, Any]]] = {}
    for name, statistic in statistics.items():
        value = float(statistic(everything))
        warnings = metrics.guards(predictions.values, examples=len(examples), value=value, majority=majority[name])
        details = {"interval": list(intervals[name]), "majority": majority[name], "warnings": warnings}
        scores[name] = value, details
    return scores


def _statistics(examples: Examples, predictions: Predictions) -> tuple[dict[str, metrics.Statistic], dict[str, float]]:
    """The task's metrics as functions of the examples that are counted, and the majority class's score in each."""
    names = examples.task.metrics
    if examples.task.kind == "span":
        each = metrics.squad_scores(predictions.words, predictions.gold)
        most = [metrics.majority_answer(predictions.gold)] * len(examples)
        majority = {name: float(values.mean()) for name, values in metrics.squad_scores(most, predictions.gold).items()}
        return {name: partial(_mean_at, each[name]) for name in names}, majority
    # Small integers, because a bootstrap looks at every example a thousand times.
    dtype = np.float64 if examples.task.kind == "regression" else np.int16
    labels, guesses = np.array(examples.columns["label"], dtype=dtype), predictions.values.astype(dtype)
    majority = {name: metrics.majority_score(name, labels) for name in names}
    return {name: partial(_metric_at, name, labels, guesses) for name in names}, majority


def _mean_at(values: NDArray[np.float64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(values[indices].mean(-1))


def _metric_at(
    name: str, labels: NDArray[Any], predictions: NDArray[Any], indices: NDArray[np.int64]
) -> NDArray[np.float64]:
    return metrics.METRICS[name](labels[indices], predictions[indices])


def predictions_table(examples: Examples, predictions: Predictions) -> pa.Table:
    """The predictions with the `idx` or `id` of their example, its label and all that the model said."""
    if examples.task.kind == "span":
        own = {"id": examples.columns["id"], "answers": predictions.gold, "prediction_text": predictions.words}
    else:
        columns = examples.columns
        own = {"idx": columns["idx"], "label": columns["label"], "prediction": predictions.values.tolist()}
    return pa.table({**own, **predictions.extra})


def samples(examples: Examples, predictions: Predictions, *, seed: int) -> list[dict[str, Any]]:
    """Up to eight examples, the same for every model, with label and prediction as words."""
    count = min(SAMPLES, len(examples))
    chosen = np.sort(np.random.default_rng(seed).choice(len(examples), count, replace=False))
    shown = [name for name in examples.columns if name not in ("label", "answers")]
    return [
        {
            "split": examples.split,
            **{name: examples.columns[name][i] for name in shown},
            "gold": predictions.gold[i],
            "prediction": _finite(predictions.words[i]),
        }
        for i in chosen
    ]


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not np.isfinite(value) else value


def evaluate(
    model_folder: Path, task: Task, *, row: str, seed: int, recipe: Recipe, output: Path, device: torch.device,
    train_examples: tuple[int, int], seconds_training: float,
) -> None:  # fmt: skip
    """Score a task model on every split of its task that there is, or on what is held out of the train split.

    Writes the finished folder `output`: `predictions-<split>.parquet`, `samples.jsonl` and `measurements.jsonl`. The
    sample of the split, the resamples and the shown examples depend on `recipe.seed`, so that every row and seed of a
    recipe is scored on the same ones.

    Args:
        model_folder: a model with the task's head, and its tokenizer.
        task: what to score it on.
        row: name of the model in the tables.
        seed: that the model was fine-tuned with.
        recipe: gives the data and the sizes.
        output: folder to write.
        device: to predict on.
        train_examples: how many examples the model was fine-tuned on, and how many the train split has.
        seconds_training: wall-clock seconds of the fine-tuning.

    Raises:
        UserError: the split of the tables is missing, or its content is wrong.
    """
    tokenizer = load_tokenizer(model_folder)
    model = load_model(model_folder, task.kind, labels=task.labels, require_head=True)
    wanted = (HELD_OUT,) if recipe.finetune.score_on == "train" else task.evaluation
    present = [split for split in wanted if split == HELD_OUT or has_split(task, split, recipe.data)]
    missing = [split for split in wanted if split not in present]
    measurements: list[Measurement] = []
    shown: list[dict[str, Any]] = []
    with fsio.unfinished(output, task=task.name, row=row, seed=seed) as folder:
        for split in present or wanted[:1]:  # with none there, loading the first says what is missing
            begin = time.perf_counter()
            examples = load_examples(
                task, split, data=recipe.data, corpus=recipe.corpus, seed=recipe.seed,
                limit=recipe.finetune.settings(task.name).validation_examples,
                held_out=held_out_of_train(recipe.finetune, task.name),
            )  # fmt: skip
            features = encode(examples, tokenizer, recipe.finetune.max_length(task.name, task.max_length))
            logits = predict(model, features, pad_token_id=_pad_token_id(tokenizer), device=device)
            predictions = read_predictions(examples, features, logits)
            scores = score(examples, predictions, seed=recipe.seed)
            seconds = time.perf_counter() - begin
            common: dict[str, Any] = {"device": str(device), "seconds_training": seconds_training}
            if missing:
                common["missing"] = missing
            measurements += [
                Measurement(
                    model=row, task=task.name, metric=metric, value=value, split=split, examples=len(examples),
                    examples_total=examples.total, train_examples=train_examples[0],
                    train_examples_total=train_examples[1], seed=seed, seconds=round(seconds_training + seconds, 3),
                    recipe=recipe.name, recipe_hash=recipe_hash(recipe), data_fingerprint=examples.fingerprint,
                    details={**details, **common},
                )
                for metric, (value, details) in scores.items()
            ]  # fmt: skip
            shown += samples(examples, predictions, seed=recipe.seed)
            _write_table(folder / f"predictions-{_slug(split)}.parquet", predictions_table(examples, predictions))
        _write_lines(folder / "samples.jsonl", shown)
        results.write(folder / "measurements.jsonl", measurements)


def _slug(split: str) -> str:
    return "train-held-out" if split == HELD_OUT else split


def _pad_token_id(tokenizer: Any) -> int:
    assert isinstance(tokenizer.pad_token_id, int), "encoders have a padding token"
    return tokenizer.pad_token_id


def _write_table(path: Path, table: pa.Table) -> None:
    buffer = pa.BufferOutputStream()
    pyarrow.parquet.write_table(table, buffer, compression="zstd")
    fsio.write_bytes(path, buffer.getvalue().to_pybytes())


def _write_lines(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    fsio.write_text(path, "".join(json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n" for row in rows))
