"""Metrics: pure functions on arrays.

Each metric works along the last axis, so that the same definition computes the value and, over a stack of resamples,
its bootstrap interval. Shares lie in 0..1, correlations in -1..1. `counts` (…, n) is how often each example occurs in
each resample; without it each occurs once.
"""

import math
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.evaluation.answer_units import UNITS, Units

Array = NDArray[Any]
Metric = Callable[..., NDArray[np.float64]]
"""From labels, predictions and optional counts to the value of each resample."""

NO_CLASS = -1
"""Prediction of a classifier whose logits are not finite numbers; never correct."""


def _sum(values: Array, counts: Array | None) -> Array:
    return np.asarray(values.sum(-1) if counts is None else np.einsum("...n,...n", values, counts))


def _mean(values: Array, counts: Array | None) -> Array:
    return np.asarray(values.mean(-1) if counts is None else _sum(values, counts) / counts.sum(-1))


def accuracy(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the share of the examples (…, n) whose predicted class is the label."""
    return _mean(labels == predictions, counts)


def f1(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the harmonic mean of precision and recall of class 1, over (…, n) examples; 0 if class 1 never occurs."""
    gold, guess = labels == 1, predictions == 1
    return _ratio(2.0 * _sum(gold & guess, counts), _sum(gold, counts) + _sum(guess, counts))


def f1_accuracy_mean(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the mean of accuracy and F1."""
    return (accuracy(labels, predictions, counts) + f1(labels, predictions, counts)) / 2


def macro_f1(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the plain mean of the F1 of each class that occurs in labels or predictions of (…, n) examples."""
    gold, guess, right = _by_class(labels, predictions, counts)
    return _ratio(_ratio(2 * right, gold + guess).sum(-1), (gold + guess > 0).sum(-1))


def _by_class(labels: Array, predictions: Array, counts: Array | None) -> tuple[Array, Array, Array]:
    """Count the examples (…, n) with each class as their label, as their prediction, and as both: (…, classes) each.

    Classes are those that occur anywhere. One pass over the examples counts all classes.
    """
    classes = np.union1d(labels, predictions)
    gold, guess = np.searchsorted(classes, labels), np.searchsorted(classes, predictions)
    weights = np.ones(gold.shape) if counts is None else counts
    resamples = math.prod(weights.shape[:-1])
    first = np.arange(resamples).reshape(*weights.shape[:-1], 1) * len(classes)

    def summed(of_class: Array, weights: Array) -> Array:
        sums = np.bincount((first + of_class).ravel(), weights.ravel(), minlength=resamples * len(classes))
        return sums.reshape(*weights.shape[:-1], len(classes))

    return summed(gold, weights), summed(guess, weights), summed(gold, weights * (gold == guess))


def matthews_correlation(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the correlation of the two class indicators over (…, n) examples; 0 if one of them is constant.

    Matthews 1975 for two classes, Gorodkin 2004 for more.
    """
    gold, guess, right = _by_class(labels, predictions, counts)
    total = gold.sum(-1)

    def covariance(both: Array, one: Array, two: Array) -> Array:
        return np.asarray(both.sum(-1) / total - (one * two).sum(-1) / total**2)

    variances = covariance(gold, gold, gold) * covariance(guess, guess, guess)
    return _ratio(covariance(right, gold, guess), np.sqrt(np.maximum(variances, 0)))


def pearson(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return Pearson's correlation over (…, n) examples, in any unit.

    It is 0 where it is undefined: all values are equal, or one of them is not a finite number.
    """
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        x = labels - _mean(labels, counts)[..., None]
        y = predictions - _mean(predictions, counts)[..., None]
        above, below = _sum(x * y, counts), np.sqrt(_sum(x * x, counts) * _sum(y * y, counts))
    # Rounding can move the mean of equal numbers, so the numbers are compared, not their deviations.
    defined = _vary(labels, counts) & _vary(predictions, counts) & (below > 0) & np.isfinite(above)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=defined))


def _vary(values: Array, counts: Array | None) -> Array:
    """Return whether the values (…, n) that occur differ."""
    if counts is None:
        return np.asarray(values.max(-1) > values.min(-1))
    occurs = counts > 0
    largest, smallest = np.where(occurs, values, -np.inf).max(-1), np.where(occurs, values, np.inf).min(-1)
    return np.asarray(largest > smallest)


def spearman(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return Pearson's correlation of the ranks, ties at their mean rank."""
    return pearson(_ranks(labels, counts), _ranks(predictions, counts), counts)


def _ranks(values: Array, counts: Array | None) -> Array:
    """Return the rank from 1 of each value (…, n), ties at their mean; `counts` is how often values (n,) occur."""
    if counts is None:
        from scipy.stats import rankdata  # its import would take every command half a second

        return np.asarray(rankdata(values, axis=-1))
    distinct, inverse = np.unique(values, return_inverse=True)
    by_value = np.argsort(inverse, kind="stable")
    first = np.searchsorted(inverse[by_value], np.arange(len(distinct)))
    tied = np.add.reduceat(counts[..., by_value], first, axis=-1)
    ranks = np.cumsum(tied, axis=-1) - (tied - 1) / 2
    return np.asarray(np.where(np.isnan(values), np.nan, ranks[..., inverse]))


def pearson_spearman_mean(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the mean of both correlations."""
    return (pearson(labels, predictions, counts) + spearman(labels, predictions, counts)) / 2


def mean_score(labels: Array, scores: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the mean of each example's own score, such as an answer's from `squad_scores`; ignores the labels."""
    return _mean(scores, counts)


def _ratio(above: Array, below: Array) -> NDArray[np.float64]:
    """Return `above / below` of counts or shares; 0 where `below` is zero (up to rounding) or either is NaN."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    defined = (below > 1e-12) & np.isfinite(above)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=defined))


def micro_f1(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the F1 of all labels of (n, labels) examples together; 0 if no label is given or predicted."""
    hits, both = _hits_by_label(labels, predictions, counts)
    return _ratio(2 * hits.sum(-1), both.sum(-1))


def macro_f1_of_labels(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the mean F1 of the labels of (n, labels) examples; 0 for a label that never occurs, as in scikit-learn."""
    hits, both = _hits_by_label(labels, predictions, counts)
    return np.asarray(_ratio(2 * hits, both).mean(-1))


def equal_sets(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the share of the (n, labels) examples whose predicted labels are exactly their labels."""
    return _mean((labels == predictions).all(-1), counts)


def _hits_by_label(labels: Array, predictions: Array, counts: Array | None) -> tuple[Array, Array]:
    """Return, for each label, its correct predictions, and the number of times it is given plus those predicted."""
    gold, guess = labels == 1, predictions == 1
    weights = np.ones(len(gold)) if counts is None else counts
    return weights @ (gold & guess).astype(np.float64), weights @ (gold.astype(np.float64) + guess)


def scores_by_label(labels: Array, predictions: Array) -> tuple[Array, Array, Array]:
    """Return precision, recall and F1 of each label, of arrays (n, labels) of 0 and 1; NaN instead of a division by 0.

    Precision is NaN for a label that is never predicted, recall for one that no text has, F1 if both are true.
    """
    hits, either = _hits_by_label(labels, predictions, None)
    support = (labels == 1).sum(0)
    with np.errstate(invalid="ignore"):
        return hits / (either - support), hits / support, 2 * hits / either


def entity_precision(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the share of the predicted entities that are correct, over all texts together; 0 if none is predicted.

    As in conlleval and seqeval, an entity is correct if type, first and last word are.

    Args:
        labels: ignored.
        predictions: (n, 3) numbers of entities of each text: correctly predicted, predicted, and in the labels.
        counts: how often each text occurs.
    """
    right, predicted, _ = _entities(predictions, counts)
    return _ratio(right, predicted)


def entity_recall(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the share of the entities that are correctly predicted; 0 if there is none. See `entity_precision`."""
    right, _, gold = _entities(predictions, counts)
    return _ratio(right, gold)


def entity_f1(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Return the harmonic mean of both; 0 if no entity is predicted or in the labels. See `entity_precision`."""
    right, predicted, gold = _entities(predictions, counts)
    return _ratio(2 * right, predicted + gold)


def _entities(predictions: Array, counts: Array | None) -> tuple[Array, Array, Array]:
    weights = np.ones(len(predictions)) if counts is None else counts
    sums = weights @ predictions.astype(np.float64)
    return sums[..., 0], sums[..., 1], sums[..., 2]


METRICS: dict[str, Metric] = {
    "accuracy": accuracy,
    "f1": f1,
    "f1_accuracy_mean": f1_accuracy_mean,
    "macro_f1": macro_f1,
    "matthews_correlation": matthews_correlation,
    "pearson": pearson,
    "spearman": spearman,
    "pearson_spearman_mean": pearson_spearman_mean,
}
"""Metrics of labels and predictions; a span task's are the means of `squad_scores`."""
METRICS_OF_LABELS: dict[str, Metric] = {
    "micro_f1": micro_f1, "macro_f1": macro_f1_of_labels, "exact_match": equal_sets, "entity_f1": entity_f1,
    "entity_precision": entity_precision, "entity_recall": entity_recall,
}  # fmt: skip
"""Metrics of multi-label tasks, of arrays (n, labels) of 0, 1 or `NO_CLASS`, and of token classification, of arrays
(n, 3) of counts; for resamples they need `counts`."""


def metric_of(name: str, labels: Array) -> Metric:
    """Return the metric of classes or numbers (n,), of several labels (n, labels) or of entity counts (n, 3)."""
    return (METRICS_OF_LABELS if labels.ndim == 2 else METRICS)[name]


def normalize_answer(text: str, units: Units = "words") -> str:
    """Return an answer as SQuAD compares it: lower case, without ASCII punctuation, articles and extra white space."""
    return " ".join(UNITS[units](text))


def squad_exact_match(prediction: str, answers: Sequence[str], units: Units = "words") -> float:
    """Return 1 if the prediction equals one of the answers after normalisation (empty if there are none), else 0."""
    split = UNITS[units]
    return float(split(prediction) in [split(answer) for answer in answers or [""]])


def squad_f1(prediction: str, answers: Sequence[str], units: Units = "words") -> float:
    """Return the best F1 of the normalised words against one of the answers; 0 if no word is shared.

    If there is no answer, it is 1 for an empty prediction, else 0.
    """
    split = UNITS[units]
    return _best_f1(split(prediction), [split(answer) for answer in answers] or [[]], of_nothing=float(not answers))


def _best_f1(prediction: list[str], answers: list[list[str]], *, of_nothing: float) -> float:
    """Return the best F1 against one of the answers; `of_nothing` if neither has a word: 0 in SQuAD v1.1, 1 in 2.0."""
    return max(_word_f1(prediction, answer) if prediction or answer else of_nothing for answer in answers)


def _word_f1(prediction: list[str], answer: list[str]) -> float:
    shared = (Counter(prediction) & Counter(answer)).total()
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


def squad_scores(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], units: Units = "words"
) -> dict[str, NDArray[np.float64]]:
    """Return `exact_match` and `f1` of each example by the rules of the official SQuAD scripts, here in 0..1.

    If every question has an answer, the rules are those of the script for v1.1. If one has none, they are those of the
    script for 2.0: an empty prediction is correct for it, and answers without a word after normalisation do not count.

    Args:
        predictions: texts; an empty one means "no answer".
        answers: of each question; empty if the context does not answer it.
        units: what is compared; words in the official rules.
    """
    split, second = UNITS[units], not all(answers)
    exact_match, f1_scores = [], []
    for prediction, gold in zip(predictions, answers, strict=True):
        guess, right = split(prediction), [split(answer) for answer in gold]
        if second:
            right = [answer for answer in right if answer] or [[]]
        exact_match.append(float(guess in right))
        f1_scores.append(_best_f1(guess, right, of_nothing=float(second)))
    return {"exact_match": np.array(exact_match), "f1": np.array(f1_scores)}


def best_null_threshold(given: Array, withheld: Array, differences: Array) -> tuple[float, float]:
    """Return the null threshold with the highest mean score, and that score: `find_best_thresh` of SQuAD 2.0's script.

    An answer is given if the difference is at most the threshold. Of equally good thresholds, the one with the fewest
    answers is taken. It lies half way between the last difference with an answer and the next (in the script on the
    last one, which is equivalent for these questions), or 1 below or above all of them.

    Args:
        given: (n,) score of each question if its best answer is given.
        withheld: (n,) score if no answer is given: 1 for questions without an answer.
        differences: (n,) score of "no answer" minus that of the best answer.
    """
    order = np.argsort(differences, kind="stable")
    ordered = differences[order]
    totals = withheld.sum() + np.concatenate([[0.0], np.cumsum((given - withheld)[order])])
    between = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])  # no threshold splits equal differences
    count = int(np.argmax(np.where(between, np.round(totals, 9), -np.inf)))
    ends = np.concatenate([[ordered[0] - 2], ordered, [ordered[-1] + 2]])
    return float(ends[count : count + 2].mean()), float(totals[count] / len(order))
