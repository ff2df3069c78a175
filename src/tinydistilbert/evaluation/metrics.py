"""Metrics, their intervals and tests, and the warnings about them: pure functions on arrays.

Each metric works along the last axis, so that the same definition gives the value and, over a stack of resamples, its
bootstrap interval. Shares lie in 0..1, correlations in -1..1. `counts` says how often each example occurs, once for
each resample (…, n); without them each occurs once.
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest, rankdata

from tinydistilbert.evaluation.answer_units import UNITS, Units

Array = NDArray[Any]
Metric = Callable[..., NDArray[np.float64]]
"""From labels, predictions and, if wanted, counts to the value of each resample."""
Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From indices of examples (…, n) to the metric on these examples (…)."""

NO_CLASS = -1
"""Prediction of a classifier whose logits are not finite numbers; never right."""


def _sum(values: Array, counts: Array | None) -> Array:
    return np.asarray(values.sum(-1) if counts is None else np.einsum("...n,...n", values, counts))


def _mean(values: Array, counts: Array | None) -> Array:
    return np.asarray(values.mean(-1) if counts is None else _sum(values, counts) / counts.sum(-1))


def accuracy(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Share of the examples (…, n) whose predicted class is the label."""
    return _mean(labels == predictions, counts)


def f1(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Harmonic mean of precision and recall of class 1, over (…, n) examples; 0 where class 1 is nowhere."""
    return _ratio(*_f1_of(1, labels, predictions, counts))


def _f1_of(label: Any, labels: Array, predictions: Array, counts: Array | None) -> tuple[Array, Array]:
    """Numerator and denominator of the F1 of one class; the denominator is 0 where the class is nowhere."""
    gold, guess = labels == label, predictions == label
    return 2.0 * _sum(gold & guess, counts), _sum(gold, counts) + _sum(guess, counts)


def f1_accuracy_mean(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Mean of accuracy and F1."""
    return (accuracy(labels, predictions, counts) + f1(labels, predictions, counts)) / 2


def macro_f1(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Plain mean of the F1 of each class that occurs among the labels or the predictions of (…, n) examples."""
    each = [_f1_of(label, labels, predictions, counts) for label in np.union1d(labels, predictions)]
    return _ratio(np.sum([_ratio(*parts) for parts in each], axis=0), np.sum([below > 0 for _, below in each], axis=0))


def matthews_correlation(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Correlation of the two class indicators over (…, n) examples; 0 where one of them is constant.

    Matthews 1975 for two classes, Gorodkin 2004 for more.
    """
    classes = np.union1d(labels, predictions)
    gold = [labels == c for c in classes]
    guess = [predictions == c for c in classes]

    def covariance(one: list[Array], two: list[Array]) -> Array:
        each = [_mean(x & y, counts) - _mean(x, counts) * _mean(y, counts) for x, y in zip(one, two, strict=True)]
        return np.asarray(np.sum(each, axis=0))

    return _ratio(covariance(gold, guess), np.sqrt(covariance(gold, gold) * covariance(guess, guess)))


def pearson(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Pearson's correlation over (…, n) examples, whatever their unit.

    It is 0 where it is undefined: all are exactly the same, or one of them is not a finite number.
    """
    with np.errstate(invalid="ignore"):  # infinity minus infinity
        x = labels - _mean(labels, counts)[..., None]
        y = predictions - _mean(predictions, counts)[..., None]
        above, below = _sum(x * y, counts), np.sqrt(_sum(x * x, counts) * _sum(y * y, counts))
    # The mean of equal numbers can be another one by rounding, so that they are compared, not their deviations.
    defined = _vary(labels, counts) & _vary(predictions, counts) & (below > 0) & np.isfinite(above)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=defined))


def _vary(values: Array, counts: Array | None) -> Array:
    """Whether the values (…, n) that occur are not all the same."""
    if counts is None:
        return np.asarray(values.max(-1) > values.min(-1))
    occurs = counts > 0
    largest, smallest = np.where(occurs, values, -np.inf).max(-1), np.where(occurs, values, np.inf).min(-1)
    return np.asarray(largest > smallest)


def spearman(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Pearson's correlation of the ranks, ties at their mean rank."""
    return pearson(_ranks(labels, counts), _ranks(predictions, counts), counts)


def _ranks(values: Array, counts: Array | None) -> Array:
    """Rank from 1 of each value (…, n), ties at their mean; with `counts`, of values (n,) that occur so often."""
    if counts is None:
        return np.asarray(rankdata(values, axis=-1))
    distinct, inverse = np.unique(values, return_inverse=True)
    by_value = np.argsort(inverse, kind="stable")
    first = np.searchsorted(inverse[by_value], np.arange(len(distinct)))
    tied = np.add.reduceat(counts[..., by_value], first, axis=-1)
    ranks = np.cumsum(tied, axis=-1) - (tied - 1) / 2
    return np.asarray(np.where(np.isnan(values), np.nan, ranks[..., inverse]))


def pearson_spearman_mean(labels: Array, predictions: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Mean of both correlations."""
    return (pearson(labels, predictions, counts) + spearman(labels, predictions, counts)) / 2


def mean_score(labels: Array, scores: Array, counts: Array | None = None) -> NDArray[np.float64]:
    """Mean of scores that each example has by itself, as an answer has from `squad_scores`; labels do not matter."""
    return _mean(scores, counts)


def _ratio(above: Array, below: Array) -> NDArray[np.float64]:
    """`above / below`, and 0 where `below` is zero (up to rounding) or either is no number; of counts or shares."""
    above, below = np.asarray(above, dtype=np.float64), np.asarray(below, dtype=np.float64)
    defined = (below > 1e-12) & np.isfinite(above)
    return np.asarray(np.divide(above, below, out=np.zeros_like(above), where=defined))


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


def normalize_answer(text: str, units: Units = "words") -> str:
    """An answer as SQuAD compares it: lower case, without ASCII punctuation, articles and extra white space."""
    return " ".join(UNITS[units](text))


def squad_exact_match(prediction: str, answers: Sequence[str], units: Units = "words") -> float:
    """1 if the prediction is one of the answers after normalisation, else 0; of no answers, if it is empty."""
    split = UNITS[units]
    return float(split(prediction) in [split(answer) for answer in answers or [""]])


def squad_f1(prediction: str, answers: Sequence[str], units: Units = "words") -> float:
    """Best F1 of the normalised words against one of the answers; 0 where no word is shared.

    Where there is no answer, 1 if the prediction is empty, else 0.
    """
    split = UNITS[units]
    return _best_f1(split(prediction), [split(answer) for answer in answers] or [[]], of_nothing=float(not answers))


def _best_f1(prediction: list[str], answers: list[list[str]], *, of_nothing: float) -> float:
    """Best F1 against one of the answers; `of_nothing` where neither has a word: 0 by SQuAD v1.1, 1 by SQuAD 2."""
    return max(_word_f1(prediction, answer) if prediction or answer else of_nothing for answer in answers)


def _word_f1(prediction: list[str], answer: list[str]) -> float:
    shared = (Counter(prediction) & Counter(answer)).total()
    return 2 * shared / (len(prediction) + len(answer)) if shared else 0.0


def squad_scores(
    predictions: Sequence[str], answers: Sequence[Sequence[str]], units: Units = "words"
) -> dict[str, NDArray[np.float64]]:
    """`exact_match` and `f1` of each example by the rules of the official SQuAD scripts, here in 0..1.

    Where every question has an answer, the rules are those of the script for v1.1. Where one has none, they are those
    of the script for 2.0: an empty prediction is the right one for it, and of the answers those without a word after
    normalisation do not count.

    Args:
        predictions: texts; empty ones say that there is no answer.
        answers: of each question; none where the context does not answer it.
        units: what is compared, by the official rules words.
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
    """The null threshold with the highest mean score, and that score: `find_best_thresh` of the SQuAD 2.0 script.

    An answer is given where the difference is at most the threshold. Of equally good thresholds the one that gives the
    fewest answers is taken, and it lies half way to the next difference (in the script on the last one that is given
    an answer, which is the same on these questions); below or above all of them, 1 away.

    Args:
        given: (n,) score of each question if its best answer is given.
        withheld: (n,) score if none is: 1 where there is no answer.
        differences: (n,) score of "no answer" less that of the best answer.
    """
    order = np.argsort(differences, kind="stable")
    ordered = differences[order]
    totals = withheld.sum() + np.concatenate([[0.0], np.cumsum((given - withheld)[order])])
    between = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])  # of equal differences all or none are given
    count = int(np.argmax(np.where(between, np.round(totals, 9), -np.inf)))
    ends = np.concatenate([[ordered[0] - 2], ordered, [ordered[-1] + 2]])
    return float(ends[count : count + 2].mean()), float(totals[count] / len(order))


def bootstrap(
    statistics: Mapping[str, Statistic], examples: int, *, seed: int, resamples: int = 1000
) -> dict[str, tuple[float, float]]:
    """95 % percentile interval of each statistic over resamples of the examples, drawn with replacement.

    It shows how much the value depends on which examples the split holds, not on the seed of the training.
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


@dataclass(frozen=True)
class Paired:
    """Two sides on the same examples, each side's value the median over its seeds."""

    first: float
    second: float
    interval: tuple[float, float]
    """95 % percentile interval of `difference` over resamples of the examples."""
    p: float
    """Two-sided: how often a resample's difference does not have the sign of most of them, doubled."""

    @property
    def difference(self) -> float:
        """First minus second."""
        return self.first - self.second

    @property
    def mirrored(self) -> "Paired":
        """The same with the sides in the other order."""
        low, high = self.interval
        return Paired(self.second, self.first, (-high, -low), self.p)


PAIRED_RESAMPLES = 10_000
PAIRED_RESAMPLES_OF_CORRELATIONS = 5_000
"""Fewer, because ranks are computed anew in every resample, which takes longer than counting right answers."""


def paired_test(
    kind: Literal["classification", "regression", "span"], metric: str, labels: Array, first: Array, second: Array, *,
    seed: int = 0,
) -> Paired:  # fmt: skip
    """The one paired test of two sides on a task: whoever compares the same predictions gets the same numbers.

    Args:
        kind: of the task.
        metric: one of its metrics.
        labels: (n,) classes or numbers; of span tasks anything.
        first: (seeds, n) predictions of one side; of span tasks the metric of each answer.
        second: (seeds, n) those of the other.
        seed: of the resamples.
    """
    used = mean_score if kind == "span" else METRICS[metric]
    resamples = PAIRED_RESAMPLES_OF_CORRELATIONS if kind == "regression" else PAIRED_RESAMPLES
    return paired_bootstrap(used, labels, first, second, seed=seed, resamples=resamples)


def paired_bootstrap(
    metric: Metric, labels: Array, first: Array, second: Array, *, seed: int, resamples: int = 10_000
) -> Paired:
    """How sure it is that two sides differ on other examples of this kind (Efron and Tibshirani 1993).

    A resample draws examples with replacement, the same ones for every seed of both sides. Examples with equal labels
    and predictions are drawn as one kind with its multinomial count, which is the same draw in less time. In the other
    order the sides get the same p and the mirrored interval.

    Args:
        metric: of labels, predictions and counts.
        labels: (n,).
        first: (seeds, n) predictions of one side.
        second: (seeds, n) predictions of the other; the number of seeds may be another.
        seed: of the draws.
        resamples: how many draws; fewer, but never under 1000, where more would take longer than some seconds.
    """
    if np.asarray(second, dtype=np.float64).tobytes() < np.asarray(first, dtype=np.float64).tobytes():
        return paired_bootstrap(metric, labels, second, first, seed=seed, resamples=resamples).mirrored
    kinds, sizes = np.unique(np.column_stack([labels, *first, *second]), axis=0, return_counts=True)
    gold, *predictions = np.ascontiguousarray(kinds.T)

    def values(counts: Array) -> Array:
        each = [metric(gold, guesses, counts) for guesses in predictions]
        return np.stack([np.median(each[: len(first)], axis=0), np.median(each[len(first) :], axis=0)])

    random = np.random.default_rng(seed)
    resamples = min(resamples, max(1000, 60_000_000 // len(kinds)))
    rows = max(1, 1_000_000 // len(kinds))  # resamples at a time, to bound memory
    drawn = []
    for begin in range(0, resamples, rows):
        counts = random.multinomial(len(labels), sizes / len(labels), size=min(rows, resamples - begin))
        one, other = values(counts.astype(np.float64))
        drawn.append(np.round(one - other, 12))  # equal sides stay equal, whatever the order of a sum
    differences = np.concatenate(drawn)
    low, high = np.percentile(differences, (2.5, 97.5))
    tail = 1 + min((differences <= 0).sum(), (differences >= 0).sum())
    (first_value,), (second_value,) = values(sizes[None].astype(np.float64))
    p = min(1.0, float(2 * tail / (1 + resamples)))
    return Paired(float(first_value), float(second_value), (float(low), float(high)), p)


def mcnemar(first_right: Array, second_right: Array) -> float:
    """Exact two-sided p of McNemar's test (1947), from which of the examples (n,) each side has right.

    Without a difference, an example that one side alone has right belongs to either side with chance one half.
    """
    first_only, second_only = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    if first_only + second_only == 0:
        return 1.0
    return float(binomtest(first_only, first_only + second_only).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values in their order, raised so that any of them falls below 0.05 by chance in at most one of 20 tables.

    (The step-down method of Holm 1979; true whatever the comparisons have to do with one another, at any level.)
    """
    order = np.argsort(p_values)
    raised = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1)))
    adjusted = np.empty(len(order))
    adjusted[order] = raised
    return [float(p) for p in adjusted]


def majority_predictions(labels: Array) -> Array:
    """The majority baseline: always the most frequent label, or the mean of labels that are floats."""
    if np.issubdtype(labels.dtype, np.floating):
        return np.full(labels.shape, labels.mean())
    values, counts = np.unique(labels, return_counts=True)
    return np.full(labels.shape, values[counts.argmax()])


def majority_score(metric: str, labels: Array) -> float:
    """The metric of `majority_predictions`; 0 for correlations, which are undefined for a constant."""
    return float(METRICS[metric](labels, majority_predictions(labels)))


def majority_answer(answers: Sequence[Sequence[str]], units: Units = "words") -> str:
    """The most frequent normalised answer, or an empty one for none: the majority baseline of a span task."""
    return Counter(normalize_answer(gold[0], units) if gold else "" for gold in answers).most_common(1)[0][0]


def sanity_warnings(
    predictions: Sequence[Any] | Array, *, examples: int, value: float, majority: float, ids: Sequence[Any] = (),
    not_finite: int = 0,
) -> list[str]:  # fmt: skip
    """Reasons to distrust a value, one sentence each; empty when there are none.

    Args:
        predictions: classes (`NO_CLASS` for none), scores or answer texts.
        examples: how many predictions there should be.
        value: the metric's value.
        majority: the same metric of the majority baseline.
        ids: names of the predicted examples, if they are to be checked.
        not_finite: how many answer texts were read from logits of which some are not finite numbers; classes and scores
            show it themselves.
    """
    predicted = np.asarray(predictions)
    warnings = []
    if len(predicted) != examples:
        warnings.append(f"{len(predicted)} predictions for {examples} examples")
    if doubled := len(ids) - len(set(ids)):
        warnings.append(f"{doubled} of {len(ids)} predictions are of an example that already has one")
    if np.issubdtype(predicted.dtype, np.floating):
        not_finite = int((~np.isfinite(predicted)).sum())
    elif np.issubdtype(predicted.dtype, np.integer):
        not_finite = int((predicted == NO_CLASS).sum())
    if not_finite:
        warnings.append(f"{not_finite} of {len(predicted)} predictions are not finite numbers")
    if len(predicted) > 1 and _are_the_same(predicted):
        warnings.append(f"every prediction is the same: {str(predicted[0]) or 'no answer'}")
    if value <= majority:
        warnings.append(f"{value:.3f} is not above the {majority:.3f} of the majority baseline")
    return warnings


def _are_the_same(predictions: Array) -> bool:
    """Whether there is only one prediction; scores also where they differ by the rounding of float32 alone."""
    if np.issubdtype(predictions.dtype, np.floating) and np.isfinite(predictions).all():
        return bool(np.ptp(predictions) <= np.finfo(np.float32).eps * np.abs(predictions).max())
    return len(np.unique(predictions)) == 1
