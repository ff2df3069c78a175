"""Reasons to distrust a score: the majority baseline's score, and predictions that cannot be right."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from tinydistilbert.evaluation.answer_units import Units
from tinydistilbert.evaluation.metrics import NO_CLASS, Array, metric_of, normalize_answer


def majority_predictions(labels: Array) -> Array:
    """Return the predictions of the majority baseline: the most frequent label, or the mean of labels that are floats.

    For several labels (n, labels): always the same most frequent ones, as many as give the best micro F1.
    """
    if labels.ndim == 2:
        counts = labels.sum(0)
        order = np.argsort(-counts, kind="stable")
        size = np.arange(1, len(order) + 1)
        best = int(np.argmax(2 * np.cumsum(counts[order]) / (size * max(len(labels), 1) + max(counts.sum(), 1))))
        constant = np.isin(np.arange(len(order)), order[: best + 1]).astype(labels.dtype)
        return np.broadcast_to(constant, labels.shape)
    if np.issubdtype(labels.dtype, np.floating):
        return np.full(labels.shape, labels.mean())
    values, counts = np.unique(labels, return_counts=True)
    return np.full(labels.shape, values[counts.argmax()])


def majority_score(metric: str, labels: Array) -> float:
    """Return the metric of `majority_predictions`; 0 for correlations, which are undefined for a constant."""
    return float(metric_of(metric, labels)(labels, majority_predictions(labels)))


def majority_answer(answers: Sequence[Sequence[str]], units: Units = "words") -> str:
    """Return the most frequent normalised answer, "" meaning no answer: the majority baseline of a span task."""
    return Counter(normalize_answer(gold[0], units) if gold else "" for gold in answers).most_common(1)[0][0]


def sanity_warnings(
    predictions: Sequence[Any] | Array, *, examples: int, value: float, majority: float, ids: Sequence[Any] = (),
    not_finite: int = 0, texts: Sequence[Any] = (),
) -> list[str]:  # fmt: skip
    """Return reasons to distrust a value, one sentence each; empty if there are none.

    Args:
        predictions: classes (`NO_CLASS` for none), scores or answer texts; (n, labels) for several labels.
        examples: expected number of predictions.
        value: the metric's value.
        majority: the same metric of the majority baseline.
        ids: of the predicted examples, to check that none occurs twice.
        not_finite: number of answer texts from logits that are not all finite; classes and scores show it themselves.
        texts: the predictions as shown to a reader, if different.
    """
    predicted = np.asarray(predictions)
    warnings = []
    if len(predicted) != examples:
        warnings.append(f"{len(predicted)} predictions for {examples} examples")
    if doubled := len(ids) - len(set(ids)):
        warnings.append(f"{doubled} of {len(ids)} predictions are for an example that already has one")
    if np.issubdtype(predicted.dtype, np.floating):
        not_finite = int((~np.isfinite(predicted)).sum())
    elif np.issubdtype(predicted.dtype, np.integer):
        not_finite = int((predicted == NO_CLASS).reshape(len(predicted), -1).any(-1).sum())
    if not_finite:
        warnings.append(f"{not_finite} of {len(predicted)} predictions are not finite numbers")
    if len(predicted) > 1 and _are_the_same(predicted):
        warnings.append(f"every prediction is the same: {str(texts[0] if len(texts) else predicted[0]) or 'no answer'}")
    if value <= majority:
        warnings.append(f"{value:.3f} is not above the {majority:.3f} of the majority baseline")
    return warnings


def _are_the_same(predictions: Array) -> bool:
    """Return whether all predictions are equal; for scores, up to rounding of float32."""
    if np.issubdtype(predictions.dtype, np.floating) and np.isfinite(predictions).all():
        return bool(np.ptp(predictions) <= np.finfo(np.float32).eps * np.abs(predictions).max())
    return len(np.unique(predictions, axis=0 if predictions.ndim == 2 else None)) == 1
