"""From a task model's logits to predictions, and from predictions to the task's metrics, intervals and warnings."""

import json
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import softmax

from tinydistilbert.evaluation import metrics, resampling, sanity
from tinydistilbert.evaluation.answer_units import without_blanks
from tinydistilbert.evaluation.by_type import scores_by_type
from tinydistilbert.evaluation.resampling import Statistic
from tinydistilbert.tasks import entities
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features
from tinydistilbert.tasks.inference import Logits
from tinydistilbert.tasks.label_thresholds import PLAIN, best_thresholds, given_labels, sigmoid, stored_label_thresholds
from tinydistilbert.tasks.squad import best_answers, null_score, stored_null_threshold
from tinydistilbert.tasks.words import WORDS, in_words, word_predictions

Threshold = float | NDArray[np.float64]
"""A null threshold, or (labels,) probabilities from which on a label is predicted."""
HAS_ANSWER, NO_ANSWER = "has_ans_", "no_ans_"
"""Prefixes of the metrics of questions with and without an answer (HasAns and NoAns in SQuAD 2.0's script)."""


@dataclass(frozen=True)
class Predictions:
    """Predictions on one split, in the order of its examples."""

    values: NDArray[Any]
    """(n,) classes, scores or answer texts; (n, labels) of 0 and 1 in multi-label tasks; (n, 3) numbers of entities of
    each text: correctly predicted, predicted, and in the labels."""
    texts: list[Any]
    """The predictions as shown to a reader: class names, scores, answer texts."""
    gold: list[Any]
    """The labels as shown to a reader; for each span example the list of its answers."""
    extra: dict[str, list[Any]]
    """Further columns of the predictions file: logits and probabilities, or the best answers as JSON."""
    not_finite: int = 0
    """Number of answers from logits that are not all finite."""
    null_differences: NDArray[np.float64] | None = None
    """Span tasks: (n,) score of "no answer" minus that of the best answer."""
    tags: tuple[list[list[str]], list[list[str]]] | None = None
    """Token classification: the tags of each text's words, true and predicted."""


def read_predictions(
    examples: Examples, features: Features, logits: Logits, *, threshold: Threshold | None = None
) -> Predictions:
    """Return the predictions from logits, aligned with the examples by `features.example`.

    Args:
        examples: the predicted examples.
        features: their inputs.
        logits: of each feature.
        threshold: for span models that may give no answer: they give none if "no answer" scores more than this above
            the best answer; None = always give an answer. For several labels: the probability from which on each is
            predicted; None = 0.5.
    """
    assert len(logits) == len(features), "one row of logits a feature"
    if examples.task.kind == "span":
        assert not isinstance(threshold, np.ndarray), "one null threshold"
        return _read_answers(examples, features, list(logits), threshold)
    if examples.task.kind == "token-classification":
        return _read_tags(examples, features, logits)
    rows = np.stack(list(logits))
    assert np.array_equal(features.example, np.arange(len(examples))), "one feature an example, in order"
    return predictions_of_rows(examples, rows, threshold)


def predictions_of_rows(examples: Examples, rows: NDArray[Any], threshold: Threshold | None = None) -> Predictions:
    """Return the predictions of (n, classes) logits or (n, 1) numbers, a row per example; see `read_predictions`."""
    if examples.task.kind == "multi-label":
        return _read_labels(examples, rows, plain_threshold(examples) if threshold is None else threshold)
    labels, names = [*examples.columns["label"]], examples.task.labels
    if examples.task.kind == "regression":
        scores = rows[:, 0].astype(np.float64)
        return Predictions(scores, scores.tolist(), labels, {})
    classes = np.where(np.isfinite(rows).all(-1), rows.argmax(-1), metrics.NO_CLASS)
    texts = [names[i] if i != metrics.NO_CLASS else "" for i in classes]
    with np.errstate(invalid="ignore"):  # NaN for logits that are not finite, which the class above shows
        probabilities = softmax(rows.astype(np.float64), axis=-1)
    extra = {"logits": rows.tolist(), "probabilities": probabilities.tolist()}
    return Predictions(classes, texts, [names[i] for i in labels], extra)


def _read_labels(examples: Examples, rows: NDArray[Any], thresholds: Threshold) -> Predictions:
    task = examples.task
    finite = np.isfinite(rows).all(-1)
    values = np.where(finite[:, None], given_labels(rows, np.asarray(thresholds)), metrics.NO_CLASS)
    texts = [task.text_of(given) if is_known else "" for given, is_known in zip(values, finite, strict=True)]
    extra = {"logits": rows.tolist(), "probabilities": sigmoid(rows).tolist()}
    return Predictions(values, texts, [task.text_of(label) for label in examples.columns["label"]], extra)


def _read_tags(examples: Examples, features: Features, logits: Logits) -> Predictions:
    assert features.word_tokens is not None, "features of words have their tokens"
    predicted, probabilities, not_finite = [], [], 0
    for row, tokens in zip(logits, features.word_tokens, strict=True):
        tagged = word_predictions(row, tokens, examples.task.labels)
        predicted.append(tagged.tags)
        probabilities.append(tagged.probabilities.tolist())
        not_finite += not tagged.are_finite
    return predictions_of_tags(examples, predicted, {"probabilities": probabilities}, not_finite)


def predictions_of_tags(
    examples: Examples, predicted: list[list[str]], extra: dict[str, list[Any]] | None = None, not_finite: int = 0
) -> Predictions:
    """Return the predictions from an IOB2 tag for each word of each text."""
    gold = [[examples.task.labels[tag] for tag in tags] for tags in examples.columns["label"]]
    values = np.array([entities.counts(*pair) for pair in zip(gold, predicted, strict=True)], dtype=np.int64)
    texts = (examples.columns["text"], examples.columns[WORDS])
    read, right = (
        [", ".join(in_words(*row)) or entities.NO_ENTITIES for row in zip(*texts, tags, strict=True)]
        for tags in (predicted, gold)
    )
    return Predictions(values, read, right, extra or {}, not_finite, tags=(gold, predicted))


def _read_answers(
    examples: Examples, features: Features, logits: list[NDArray[np.float32]], null_threshold: float | None
) -> Predictions:
    assert features.offsets is not None, "span features have offsets"
    windows: list[list[int]] = [[] for _ in range(len(examples))]
    for window, example in enumerate(features.example):
        windows[example].append(window)
    texts, best, differences, not_finite = [], [], [], 0
    for context, indices in zip(examples.columns["context"], windows, strict=True):
        answers = best_answers([logits[i] for i in indices], [features.offsets[i] for i in indices], context)
        differences.append(null_score([logits[i] for i in indices]) - answers[0].score)
        is_given = null_threshold is None or not differences[-1] > null_threshold
        texts.append(answers[0].text if is_given else "")
        not_finite += not all(np.isfinite(logits[i]).all() for i in indices)
        finite = [{"text": a.text, "score": round(a.score, 4)} for a in answers if np.isfinite(a.score)]
        best.append(json.dumps(finite, ensure_ascii=False))
    gold = [answer["text"] for answer in examples.columns["answers"]]
    extra: dict[str, list[Any]] = {"best": best}
    if null_threshold is not None:
        extra["null_difference"] = differences
    return Predictions(np.array(texts), texts, gold, extra, not_finite, np.array(differences))


def threshold_for(config: Any, examples: Examples, order: list[int] | None = None) -> Threshold | None:
    """Return the threshold to score a model with: its own, or 0 if it has none and needs one.

    For several labels: its own for each, or 0.5.

    Args:
        config: the model's.
        examples: to score it on.
        order: for each label the model's output; None = the same order.

    Raises:
        UserError: its own threshold is not a number.
    """
    if examples.task.kind == "multi-label":
        thresholds = stored_label_thresholds(config, str(config.name_or_path), len(examples.task.labels))
        return thresholds if order is None else thresholds[order]
    stored = stored_null_threshold(config, str(config.name_or_path)) if examples.task.kind == "span" else None
    return 0.0 if stored is None and examples.has_unanswerable else stored


def plain_threshold(examples: Examples) -> Threshold:
    """Return the default threshold: 0 for "no answer", 0.5 for each of several labels."""
    return np.full(len(examples.task.labels), PLAIN) if examples.task.kind == "multi-label" else 0.0


@dataclass(frozen=True)
class ChosenThreshold:
    """A threshold, and the facts about its choice."""

    value: Threshold
    score: float
    """The task's headline metric on the examples that chose it."""
    examples: int
    unanswerable: int = 0
    """In span tasks, the number of those examples without an answer."""


def choose_threshold(examples: Examples, features: Features, logits: Logits) -> ChosenThreshold | None:
    """Return the threshold with the best headline metric on these examples; None if all or no questions have answers.

    Examples whose logits are not finite do not count.
    """
    if examples.task.kind == "multi-label":
        rows = np.stack(list(logits))
        finite, gold = np.isfinite(rows).all(-1), np.array(examples.columns["label"])
        thresholds = best_thresholds(rows[finite], gold[finite])
        guesses = given_labels(rows[finite], thresholds)
        reached = metrics.metric_of(examples.task.headline, gold)(gold[finite], guesses)
        return ChosenThreshold(thresholds, float(reached), len(examples))
    predictions = read_predictions(examples, features, logits)
    assert predictions.null_differences is not None, "span predictions have them"
    unanswerable = len(examples) - sum(map(bool, predictions.gold))
    finite = np.isfinite(predictions.null_differences)
    if unanswerable in (0, len(examples)) or not finite.any():
        return None
    given, withheld = (
        metrics.squad_scores(texts, predictions.gold, examples.task.answer_units)[examples.task.headline][finite]
        for texts in (predictions.texts, [""] * len(examples))
    )
    value, best = metrics.best_null_threshold(given, withheld, predictions.null_differences[finite])
    return ChosenThreshold(value, best, len(examples), unanswerable)


def score(examples: Examples, predictions: Predictions, *, seed: int) -> dict[str, tuple[float, dict[str, Any]]]:
    """Return for each metric of the task its value, and `interval`, `majority` (the baseline) and `warnings`.

    In token classification, the details of the headline metric have `by_type`, the scores of each entity type. If some
    questions have no answer, there are also metrics of the questions with and of those without an answer, as in the
    script of SQuAD 2.0, with `examples`, their number.
    """
    statistics, majority = _statistics(examples, predictions)
    everything = np.arange(len(examples))
    intervals = resampling.bootstrap(statistics, len(examples), seed=seed)
    scores: dict[str, tuple[float, dict[str, Any]]] = {}
    for name, statistic in statistics.items():
        value = float(statistic(everything))
        ids = examples.columns["id" if "id" in examples.columns else "idx"]
        shown = np.array(predictions.texts, dtype=object) if predictions.tags else predictions.values
        warnings = sanity.sanity_warnings(
            shown, examples=len(examples), value=value, majority=majority[name], ids=ids,
            not_finite=predictions.not_finite, texts=predictions.texts if shown.ndim == 2 else (),
        )  # fmt: skip
        details = {"interval": list(intervals[name]), "majority": majority[name], "warnings": warnings}
        scores[name] = value, details
    if predictions.tags:
        scores[examples.task.headline][1]["by_type"] = scores_by_type(*predictions.tags)
    if examples.task.kind == "span" and examples.has_unanswerable:
        scores |= _scores_by_answer(examples, predictions, seed=seed)
    return scores


def notes_on_answers(examples: Examples) -> list[str]:
    """Return notes for readers of the scores about a span task's answers, a sentence each."""
    if examples.task.kind != "span" or examples.task.answer_units != "words":
        return []
    answers = [answer["text"][0] for answer in examples.columns["answers"] if answer["text"]]
    count = without_blanks(answers)
    if 2 * count <= len(answers):
        return []
    fix = "; --answer-units characters compares characters" if examples.task.labels_from_data else ""
    return [
        f"{count:,} of {len(answers):,} answers are in a script without blanks between words, so "
        f"F1 hardly differs from exact match{fix}"
    ]


def _scores_by_answer(
    examples: Examples, predictions: Predictions, *, seed: int
) -> dict[str, tuple[float, dict[str, Any]]]:
    """Return the metrics of the questions with an answer, and of those without, separately."""
    each, majority = _answer_scores(examples, predictions)
    answerable = np.array(list(map(bool, predictions.gold)))
    scores: dict[str, tuple[float, dict[str, Any]]] = {}
    for prefix, chosen in ((HAS_ANSWER, answerable), (NO_ANSWER, ~answerable)):
        count = int(chosen.sum())
        if not count:
            continue
        statistics = {name: partial(_mean_at, each[name][chosen]) for name in examples.task.metrics}
        intervals = resampling.bootstrap(statistics, count, seed=seed)
        for name in examples.task.metrics:
            details = {
                "interval": list(intervals[name]), "majority": float(majority[name][chosen].mean()), "warnings": [],
                "examples": count,
            }  # fmt: skip
            scores[prefix + name] = float(each[name][chosen].mean()), details
    return scores


def headline_score(
    examples: Examples, features: Features, logits: Logits, *, threshold: Threshold | None = None
) -> float:
    """Return only the task's headline metric."""
    predictions = read_predictions(examples, features, logits, threshold=threshold)
    statistics, _ = _statistics(examples, predictions)
    return float(statistics[examples.task.headline](np.arange(len(examples))))


def majority_headline(examples: Examples) -> float:
    """Return the task's headline metric of the majority baseline."""
    if examples.task.kind == "token-classification":
        return 0.0  # the baseline predicts no entity
    empty = np.zeros(np.array(examples.columns["label"]).shape if examples.task.has_classes else len(examples))
    if examples.task.kind == "span":
        gold = [answer["text"] for answer in examples.columns["answers"]]
        return float(
            _answer_scores(examples, Predictions(empty, [""] * len(gold), gold, {}))[1][examples.task.headline].mean()
        )
    return _statistics(examples, Predictions(empty, [], [], {}))[1][examples.task.headline]


def _answer_scores(
    examples: Examples, predictions: Predictions
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Return each metric of each answer, and of the majority baseline's answers."""
    units = examples.task.answer_units
    baseline = [sanity.majority_answer(predictions.gold, units)] * len(examples)
    return (
        metrics.squad_scores(predictions.texts, predictions.gold, units),
        metrics.squad_scores(baseline, predictions.gold, units),
    )


def _statistics(examples: Examples, predictions: Predictions) -> tuple[dict[str, Statistic], dict[str, float]]:
    """Return the task's metrics as functions of example indices, and the majority baseline's score in each metric."""
    names = examples.task.metrics
    if examples.task.kind == "span":
        each, baseline = _answer_scores(examples, predictions)
        majority = {name: float(values.mean()) for name, values in baseline.items()}
        return {name: partial(_mean_at, each[name]) for name in names}, majority
    if examples.task.kind == "token-classification":
        labels, guesses = np.zeros_like(predictions.values), predictions.values
        majority = dict.fromkeys(names, 0.0)
    else:
        dtype = np.float64 if examples.task.kind == "regression" else np.int16
        labels, guesses = np.array(examples.columns["label"], dtype=dtype), predictions.values.astype(dtype)
        majority = {name: sanity.majority_score(name, labels) for name in names}
    at = {name: metrics.metric_of(name, labels) for name in names}
    cell = np.arange(len(labels))
    if examples.task.kind == "classification":  # examples with the same label and prediction are one cell
        cells, cell = np.unique(np.column_stack([labels, guesses]), axis=0, return_inverse=True)
        labels, guesses, cell = cells[:, 0], cells[:, 1], cell.reshape(-1)
    return {name: partial(_counted_at, at[name], labels, guesses, cell) for name in names}, majority


def _mean_at(values: NDArray[np.float64], indices: NDArray[np.int64]) -> NDArray[np.float64]:
    return np.asarray(values[indices].mean(-1))


def _counted_at(
    metric: metrics.Metric, labels: NDArray[Any], predictions: NDArray[Any], cell: NDArray[np.int64],
    indices: NDArray[np.int64],
) -> NDArray[np.float64]:  # fmt: skip
    """Return a metric of examples (…, n) from the count of each cell, a pair of label and prediction, among them.

    A bootstrap reads every example a thousand times, and counting cells is faster than copying every resample.
    """
    drawn = cell[indices].reshape(-1, indices.shape[-1])
    counts = np.stack([np.bincount(row, minlength=len(labels)) for row in drawn]).astype(np.float64)
    return metric(labels, predictions, counts.reshape(*indices.shape[:-1], len(labels)))
