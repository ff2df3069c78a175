"""The uncertainty of scores and differences: bootstrap intervals, paired tests, correction for several comparisons."""

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
    """Return the 95 % percentile interval of each statistic over resamples of the examples, drawn with replacement.

    It shows how much the value depends on the examples in the split, not on the seed of the training.
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
    """Two-sided: twice the share of resamples whose difference does not have the sign of the majority."""

    @property
    def difference(self) -> float:
        """First side minus second side."""
        return self.first - self.second

    @property
    def mirrored(self) -> "Paired":
        """The same test with the sides swapped."""
        low, high = self.interval
        return Paired(self.second, self.first, (-high, -low), self.p)


PAIRED_RESAMPLES = 10_000
PAIRED_RESAMPLES_OF_CORRELATIONS = 5_000
"""Fewer than for other metrics: ranks are recomputed in every resample, which is slower than counting hits."""


def paired_test(kind: Kind, metric: str, labels: Array, first: Array, second: Array, *, seed: int = 0) -> Paired:
    """Run the paired test of two sides on a task; all comparisons use it, so equal predictions give equal numbers.

    Args:
        kind: of the task.
        metric: one of its metrics.
        labels: (n,) classes or numbers, (n, labels) of several labels; ignored in span tasks and, with the shape
            (n, 3), in token classification.
        first: (seeds, n) predictions of one side, (seeds, n, labels) of several labels; in span tasks the metric of
            each answer; in token classification (seeds, n, 3) counts of entities.
        second: predictions of the other side, in the same form.
        seed: of the resamples.
    """
    used = mean_score if kind == "span" else metric_of(metric, labels)
    resamples = PAIRED_RESAMPLES_OF_CORRELATIONS if kind == "regression" else PAIRED_RESAMPLES
    return paired_bootstrap(used, labels, first, second, seed=seed, resamples=resamples)


def paired_bootstrap(
    metric: Metric, labels: Array, first: Array, second: Array, *, seed: int, resamples: int = 10_000
) -> Paired:
    """Test whether two sides would differ on other examples of this kind (Efron and Tibshirani 1993).

    A resample draws examples with replacement, the same ones for every seed of both sides. Examples with equal labels
    and predictions are drawn as one kind with a multinomial count, which is the same draw in less time. Swapping the
    sides gives the same p and the mirrored interval.

    Args:
        metric: of labels, predictions and counts.
        labels: (n,) or (n, labels).
        first: (seeds, n) or (seeds, n, labels) predictions of one side.
        second: those of the other side; its number of seeds may differ.
        seed: of the draws.
        resamples: number of draws; reduced, but never below 1000, if more would take longer than some seconds.
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
        drawn.append(np.round(one - other, 12))  # so that rounding does not make equal sides differ
    differences = np.concatenate(drawn)
    low, high = np.percentile(differences, (2.5, 97.5))
    tail = 1 + min((differences <= 0).sum(), (differences >= 0).sum())
    (first_value,), (second_value,) = values(sizes[None].astype(np.float64))
    p = min(1.0, float(2 * tail / (1 + resamples)))
    return Paired(float(first_value), float(second_value), (float(low), float(high)), p)


def mcnemar(first_right: Array, second_right: Array) -> float:
    """Return the exact two-sided p of McNemar's test (1947), from which of the examples (n,) each side gets right.

    Under the null hypothesis, an example that only one side gets right belongs to either side with probability 1/2.
    """
    first_only, second_only = int((first_right & ~second_right).sum()), int((second_right & ~first_right).sum())
    if first_only + second_only == 0:
        return 1.0
    from scipy.stats import binomtest  # its import would take every command half a second

    return float(binomtest(first_only, first_only + second_only).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values, in order, raised so that in at most one of 20 tables any falls below 0.05 by chance.

    It is the step-down method of Holm (1979), valid for any dependence between the comparisons and at any level.
    """
    order = np.argsort(p_values)
    raised = np.minimum(1, np.maximum.accumulate(np.asarray(p_values)[order] * np.arange(len(order), 0, -1)))
    adjusted = np.empty(len(order))
    adjusted[order] = raised
    return [float(p) for p in adjusted]
