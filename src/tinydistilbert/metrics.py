"""Metrics, their intervals and the warnings about them: pure functions on arrays.

Each metric works along the last axis, so that the same definition gives the value and, over a stack of resamples, its
bootstrap interval. Shares lie in 0..1, correlations in -1..1.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

Array = NDArray[Any]
Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From indices of examples (…, n) to the metric on these examples (…)."""

NO_CLASS = -1
"""Prediction of a classifier whose logits are not numbers; never right."""


def accuracy(labels: Array, predictions: Array) -> NDArray[np.float64]:
    """Share of the examples (…, n) whose predicted class is the label."""
    return np.asarray((labels == predictions).mean(-1))


def f1(labels: Array, predictions: Array) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall of class 1, over (…, n) examples; 0 where class 1 is nowhere."""
    right = ((labels == 1) & (predictions == 1)).sum(-1)
    return _ratio(2.0 * right, (labels == 1).sum(-1) + (predictions == 1).sum(-1))


def f1_accuracy_mean(labels: Array, predictions: Array) -> NDArray[np.float64]:
    """Mean of accuracy and F1."""
    return (accuracy(labels, predictions) + f1(labels, predictions)) / 2


def matthews_correlation(labels: Array, predictions: Array) -> NDArray[np.float64]:
    """Correlation of the two class indicators over (…, n) examples; 0 where one of them is constant.

    Matthews 1975 for two classes, Gorodkin 2004 for more.
    """
    classes = np.union1d(labels, predictions)
    gold = [labels == c for c in classes]
    guess = [predictions == c for c in classes]

    def covariance(one: list[Array], two: list[Array]) -> Array:
        each = [(x & y).mean(-1) - x.mean(-1) * y.mean(-1) for x, y in zip(one, two, strict=True)]
        return np.asarray(np.sum(each, axis=0))

    return _ratio(covariance(gold, guess), np.sqrt(covariance(gold, gold) * covariance(guess, guess)))


def pearson(labels: Array, predictions: Array) -> NDArray[np.float64]:
    """Pearson's correlation over (…, n) examples; 0 where it is undefined: a constant, or a NaN among them."""
    x = labels - labels.mean(-1, keepdims=True)
    y = predictions - predictions.mean(-1, keepdims=True)
    return _ratio((x * y).sum(-1), np.sqrt((x * x).sum(-1) * (y * y).sum(-1)))


def spearman(labels: Array, predictions: Array) -> NDArray[np.float64]:
    """Pearson's correlation of the ranks, ties at their mean rank."""
    return pearson(rankdata(labels, axis=-1), rankdata(predictions, axis=-1))


def pearson_spearman_mean(labels: Array, predictions: Array) -> NDArray[np.float64]:
    """Mean of both correlations."""
    return (pearson(labels, predictions) + spearman(labels, predictions)) / 2


def _ratio(above: Array, below: Array) -> NDArray[np.float64]:
    """`above / below`, and 0 where `below` is zero (up to rounding) or either is no number."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    defined = (below > 1e-12) & np.isfinite(above)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=defined))


METRICS: dict[str, Callable[[Array, Array], NDArray[np.float64]]] = {
    metric.__name__: metric
    for metric in (accuracy, f1, f1_accuracy_mean, matthews_correlation, pearson, spearman, pearson_spearman_mean)
}
"""Metrics of labels and predictions; a span task's are the means of `squad_scores`."""


def normalize_answer(text: str) -> str:
    """An answer as SQuAD v1.1 compares it: lower case, without ASCII punctuation, articles and extra white space."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def squad_exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 if the prediction is one of the answers after normalisation, else 0."""
    return float(any(normalize_answer(prediction) == normalize_answer(answer) for answer in answers))


def squad_f1(prediction: str, answers: Sequence[str]) -> float:
    """Best F1 of the normalised words against one of the answers; 0 where no word is shared."""
    return max(_word_f1(normalize_answer(prediction).split(), normalize_answer(answer).split()) for answer in answers)


def _word_f1(prediction: list[str], answer: list[str]) -> float:
    shared = (Counter(prediction) & Counter(answer)).total()
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


def squad_scores(predictions: Sequence[str], answers: Sequence[Sequence[str]]) -> dict[str, NDArray[np.float64]]:
    """`exact_match` and `f1` of each example by the rules of the official SQuAD v1.1 script, here in 0..1."""
    pairs = list(zip(predictions, answers, strict=True))
    return {
        "exact_match": np.array([squad_exact_match(prediction, gold) for prediction, gold in pairs]),
        "f1": np.array([squad_f1(prediction, gold) for prediction, gold in pairs]),
    }


def bootstrap(
    statistics: Mapping[str, Statistic], examples: int, *, seed: int, resamples: int = 1000
) -> dict[str, tuple[float, float]]:
    """95 % percentile interval of each statistic over resamples of the examples, drawn with replacement.

    Says how much the value depends on which examples the split holds, not on the seed of the training.
    """
    random = np.random.default_rng(seed)
    rows = max(1, 1_000_000 // examples)  # resamples at a time, to bound memory
    drawn: dict[str, list[Array]] = {name: [] for name in statistics}
    for begin in range(0, resamples, rows):
        indices = random.integers(examples, size=(min(rows, resamples - begin), examples))
        for name, statistic in statistics.items():
            drawn[name].append(statistic(indices))
    ends = {name: np.percentile(np.concatenate(values), (2.5, 97.5)) for name, values in drawn.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def majority_predictions(labels: Array) -> Array:
    """What a model without eyes would always say: the most frequent label, or the mean of labels that are floats."""
    if np.issubdtype(labels.dtype, np.floating):
        return np.full(labels.shape, labels.mean())
    values, counts = np.unique(labels, return_counts=True)
    return np.full(labels.shape, values[counts.argmax()])


def majority_score(metric: str, labels: Array) -> float:
    """The metric of `majority_predictions`; 0 for correlations, which are undefined for a constant."""
    return float(METRICS[metric](labels, majority_predictions(labels)))


def majority_answer(answers: Sequence[Sequence[str]]) -> str:
    """The most frequent normalised answer: the majority class of a span task."""
    return Counter(normalize_answer(gold[0]) for gold in answers).most_common(1)[0][0]


def guards(predictions: Sequence[Any] | Array, *, examples: int, value: float, majority: float) -> list[str]:
    """What makes a value not worth believing, one sentence each; empty when nothing does.

    Args:
        predictions: classes (`NO_CLASS` for none), scores or answer texts.
        examples: how many predictions there should be.
        value: the metric's value.
        majority: the same metric for the majority class alone.
    """
    found = np.asarray(predictions)
    warnings = []
    if len(found) != examples:
        warnings.append(f"{len(found)} predictions for {examples} examples")
    broken = 0
    if np.issubdtype(found.dtype, np.floating):
        broken = int(np.isnan(found).sum())
    elif np.issubdtype(found.dtype, np.integer):
        broken = int((found == NO_CLASS).sum())
    if broken:
        warnings.append(f"{broken} of {len(found)} predictions are not numbers")
    rounded = np.round(found, 5) if np.issubdtype(found.dtype, np.floating) else found
    if len(found) > 1 and len(np.unique(rounded)) == 1:
        warnings.append(f"every prediction is the same: {found[0]!s}")
    if value <= majority:
        warnings.append(f"{value:.3f} is not above the {majority:.3f} of the majority class alone")
    return warnings
