"""How sure a score and a difference are: bootstrap intervals, paired tests, and correction for several at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.evaluation.metrics import Array, Metric, mean_score, metric_of
from tinydistilbert.tasks.base import Kind

Statistic = Callable[[NDArray[np.int64]], NDArray[np.float64]]
"""From indices of examples (…, n) to the metric on these examples (…)."""


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


def paired_test(kind: Kind, metric: str, labels: Array, first: Array, second: Array, *, seed: int = 0) -> Paired:
    """The one paired test of two sides on a task: whoever compares the same predictions gets the same numbers.

    Args:
        kind: of the task.
        metric: one of its metrics.
        labels: (n,) classes or numbers; of span tasks anything; (n, labels) of several labels; of token classification
            (n, 3) of anything.
        first: (seeds, n) predictions of one side, (seeds, n, labels) of several labels; of span tasks the metric of
            each answer; of token classification (seeds, n, 3) counts of entities.
        second: (seeds, n) those of the other.
        seed: of the resamples.
    """
    used = mean_score if kind == "span" else metric_of(metric, labels)
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
        labels: (n,) or (n, labels).
        first: (seeds, n) or (seeds, n, labels) predictions of one side.
        second: those of the other; the number of seeds may be another.
        seed: of the draws.
        resamples: how many draws; fewer, but never under 1000, where more would take longer than some seconds.
    """
    if np.asarray(second, dtype=np.float64).tobytes() < np.asarray(first, dtype=np.float64).tobytes():
        return paired_bootstrap(metric, labels, second, first, seed=seed, resamples=resamples).mirrored
    every = [np.asarray(part).reshape(len(labels), -1) for part in (labels, *first, *second)]
    kinds, sizes = np.unique(np.column_stack(every), axis=0, return_counts=True)
    if labels.ndim == 1:
        gold, *predictions = np.ascontiguousarray(kinds.T)
    else:
        gold, *predictions = np.split(kinds, len(every), axis=1)

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
    from scipy.stats import binomtest  # half a second of every command that compares nothing

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
