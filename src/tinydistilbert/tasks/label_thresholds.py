"""The probability from which a multi-label model predicts a label: one threshold for each label."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.errors import UserError

LABEL_THRESHOLDS = "label_thresholds"
"""Key in a model's config: a list of probabilities, in the order of its labels."""
PLAIN = 0.5
"""The threshold of a label if none was chosen."""


def stored_label_thresholds(config: Any, where: str, labels: int) -> NDArray[np.float64]:
    """Return the thresholds in a model's config; 0.5 for each label if it has none.

    Args:
        config: the model's config, as a transformers object or as the content of its file.
        where: the model, for errors.
        labels: number of labels.

    Raises:
        UserError: they are not one probability for each label.
    """
    found = config.get(LABEL_THRESHOLDS) if isinstance(config, dict) else getattr(config, LABEL_THRESHOLDS, None)
    if found is None:
        return np.full(labels, PLAIN)
    is_right = isinstance(found, list) and len(found) == labels
    if not is_right or not all(type(value) in (int, float) and 0 <= value <= 1 for value in found):
        place, fix = f"{where}, config.json, key {LABEL_THRESHOLDS}", "correct it, or remove it"
        raise UserError(place, expected=f"{labels} numbers from 0 to 1", found=repr(found)[:80], fix=fix)
    return np.array(found, dtype=np.float64)


def sigmoid(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Return the probabilities of logits."""
    with np.errstate(over="ignore"):  # the probability of very negative logits is 0
        return np.asarray(1 / (1 + np.exp(-logits.astype(np.float64))))


def given_labels(logits: NDArray[Any], thresholds: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return (n, labels): whether a model predicts each label."""
    return np.asarray(sigmoid(logits) >= thresholds)


def best_thresholds(logits: NDArray[Any], labels: NDArray[Any], rounds: int = 50) -> NDArray[np.float64]:
    """Return the thresholds with the best micro F1 on these examples; 0.5 for a label that none of them has.

    Micro F1 is a ratio of two sums over the labels: with the best ratio so far as the price of a predicted label, the
    best threshold of each label can be found separately, and their ratio is the next price (Dinkelbach 1967). Among
    equally good thresholds, the one nearest to 0.5 is chosen; it is halfway between two probabilities.

    Args:
        logits: (n, labels).
        labels: (n, labels) of 0 and 1.
        rounds: maximum number of rounds; a handful is enough.
    """
    probabilities = sigmoid(logits)
    candidates = [_candidates(column, gold) for column, gold in zip(probabilities.T, labels.T, strict=True)]
    total, price, chosen = labels.sum(), -1.0, np.full(labels.shape[1], PLAIN)
    for _ in range(rounds):
        best = [int(np.lexsort((distance, -(2 * hits - max(price, 0.0) * given)))[0])
                for _, hits, given, distance in candidates]  # fmt: skip
        hits, given = (sum(part[side][at] for part, at in zip(candidates, best, strict=True)) for side in (1, 2))
        ratio = float(2 * hits / (total + given)) if total + given else 0.0
        if ratio <= price + 1e-12:
            break
        price = ratio
        chosen = np.array([part[0][at] for part, at in zip(candidates, best, strict=True)])
    return chosen


def _candidates(
    probabilities: NDArray[np.float64], labels: NDArray[Any]
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.float64], NDArray[np.float64]]:
    """Return a label's candidate thresholds, its correct and all predictions for each, and their distance to 0.5.

    Thresholds between two neighbouring probabilities are equally good: each interval is represented by its middle, or
    by 0.5 if that is in it. If no text has the label, 0.5 is the only candidate.
    """
    if not labels.any():
        given = np.array([(probabilities >= PLAIN).sum()], dtype=np.float64)
        return np.array([PLAIN]), np.zeros(1), given, np.zeros(1)
    order = np.argsort(-probabilities, kind="stable")
    ordered, right = probabilities[order], np.concatenate([[0], np.cumsum(labels[order])])
    ends = np.concatenate([[1.0], ordered, [0.0]])  # with k predictions, the threshold is above ends[k + 1]
    counts = np.flatnonzero(np.concatenate([[True], ordered[1:] < ordered[:-1], [True]]))
    high, low = ends[counts], ends[counts + 1]
    middles = np.where((low < PLAIN) & (high >= PLAIN), PLAIN, (low + high) / 2)
    return middles, right[counts].astype(np.float64), counts.astype(np.float64), np.abs(middles - PLAIN)
