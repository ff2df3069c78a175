"""From the logits of a task model to predictions, and from those to the task's metrics, intervals and warnings."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tinydistilbert.evaluation import metrics
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features
from tinydistilbert.tasks.inference import Logits
from tinydistilbert.tasks.squad import best_answers


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
    not_finite: int = 0
    """Answers that were read from logits of which some are not finite numbers."""


def read_predictions(examples: Examples, features: Features, logits: Logits) -> Predictions:
    """The predictions of the logits, aligned with the examples by `features.example`."""
    assert len(logits) == len(features), "one row of logits a feature"
    if examples.task.kind == "span":
        return _read_answers(examples, features, list(logits))
    rows = np.stack(list(logits))
    assert np.array_equal(features.example, np.arange(len(examples))), "one feature an example, in order"
    labels, names = examples.columns["label"], examples.task.labels
    if examples.task.kind == "regression":
        scores = rows[:, 0].astype(np.float64)
        return Predictions(scores, scores.tolist(), labels, {})
    classes = np.where(np.isfinite(rows).all(-1), rows.argmax(-1), metrics.NO_CLASS)
    words = [names[i] if i != metrics.NO_CLASS else "" for i in classes]
    with np.errstate(invalid="ignore"):  # of logits that are not finite they are NaN; the class above says so
        probabilities = softmax(rows.astype(np.float64), axis=-1)
    extra = {"logits": rows.tolist(), "probabilities": probabilities.tolist()}
    return Predictions(classes, words, [names[i] for i in labels], extra)


def _read_answers(examples: Examples, features: Features, logits: list[NDArray[np.float32]]) -> Predictions:
    assert features.offsets is not None, "span features have offsets"
    windows: list[list[int]] = [[] for _ in range(len(examples))]
    for window, example in enumerate(features.example):
        windows[example].append(window)
    texts, best, not_finite = [], [], 0
    for context, indices in zip(examples.columns["context"], windows, strict=True):
        answers = best_answers([logits[i] for i in indices], [features.offsets[i] for i in indices], context)
        texts.append(answers[0].text)
        not_finite += not all(np.isfinite(logits[i]).all() for i in indices)
        finite = [{"text": a.text, "score": round(a.score, 4)} for a in answers if np.isfinite(a.score)]
        best.append(json.dumps(finite, ensure_ascii=False))
    gold = [answer["text"] for answer in examples.columns["answers"]]
    return Predictions(np.array(texts), texts, gold, {"best": best}, not_finite)


def score(examples: Examples, predictions: Predictions, *, seed: int) -> dict[str, tuple[float, dict[str, Any]]]:
    """For each metric of the task its value, and `interval`, `majority` (the baseline) and `warnings`."""
    statistics, majority = _statistics(examples, predictions)
    everything = np.arange(len(examples))
    intervals = metrics.bootstrap(statistics, len(examples), seed=seed)
    scores: dict[str, tuple[float, dict[str, Any]]] = {}
    for name, statistic in statistics.items():
        value = float(statistic(everything))
        ids = examples.columns["id" if "id" in examples.columns else "idx"]
        warnings = metrics.sanity_warnings(
            predictions.values, examples=len(examples), value=value, majority=majority[name], ids=ids,
            not_finite=predictions.not_finite,
        )  # fmt: skip
        details = {"interval": list(intervals[name]), "majority": majority[name], "warnings": warnings}
        scores[name] = value, details
    return scores


def headline_score(examples: Examples, features: Features, logits: Logits) -> float:
    """The task's headline metric, alone."""
    statistics, _ = _statistics(examples, read_predictions(examples, features, logits))
    return float(statistics[examples.task.headline](np.arange(len(examples))))


def _statistics(examples: Examples, predictions: Predictions) -> tuple[dict[str, metrics.Statistic], dict[str, float]]:
    """The task's metrics as functions of the examples that are counted, and the majority baseline's score in each."""
    names = examples.task.metrics
    if examples.task.kind == "span":
        each = metrics.squad_scores(predictions.words, predictions.gold)
        baseline = [metrics.majority_answer(predictions.gold)] * len(examples)
        baseline_scores = metrics.squad_scores(baseline, predictions.gold)
        majority = {name: float(values.mean()) for name, values in baseline_scores.items()}
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
