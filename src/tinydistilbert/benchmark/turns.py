"""Results of implementations ("ways") that are measured in turns, and their comparison: medians, ratios, tables.

The implementations (this package's and others') and the processes that run them are in `benchmarks/`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinydistilbert.models.size import FORWARD_AND_BACKWARD, Size


@dataclass(frozen=True)
class Sample:
    """The result of one way in one turn."""

    tokens: float
    """Useful tokens, without padding."""
    operations: float
    """Useful operations, see `distillation_operations`; not counted for others' implementations."""
    seconds: float
    peak_mib: float

    @property
    def speed(self) -> float:
        """Useful tokens per second."""
        return self.tokens / self.seconds


Samples = dict[str, dict[int, Sample]]
"""Samples of each way by round."""


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Return lower quartile, median and upper quartile."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def ratio(samples: Samples, way: str, other: str) -> float | None:
    """Return the median speed-up of one way over another in the rounds with both; None without any."""
    of_way, of_other = samples.get(way, {}), samples.get(other, {})
    speed_ups = [of_way[number].speed / of_other[number].speed for number in of_way.keys() & of_other.keys()]
    return round(quartiles(speed_ups)[1], 3) if speed_ups else None


def peak_share(samples: Samples, way: str, rates: Sequence[float]) -> float | None:
    """Return a way's median useful operations per second over the machine's median rate; None if not measured."""
    reached = [sample.operations / sample.seconds for sample in samples.get(way, {}).values()]
    return round(quartiles(reached)[1] / quartiles(rates)[1], 3) if reached else None


def pooled(steps: Sequence[Sample], tokens_per_step: float) -> Sample:
    """Return single steps as one sample, with the average number of tokens of so many steps."""
    seconds, peak_mib = sum(step.seconds for step in steps), max(step.peak_mib for step in steps)
    return Sample(len(steps) * tokens_per_step, 0.0, seconds, peak_mib)


def distillation_operations(
    student: Size, teacher: Size, tokens: float, length: float, positions: float, *, cached: bool
) -> float:
    """Return the floating-point operations that a distillation step needs; multiplication and addition count as two.

    For the student: the matrices of its layers, the two products of attention, the masked-LM head at the positions of
    the KL; each three times, forward and for two gradients. For the teacher: the same once, without its layers if they
    come from a cache. Embeddings, softmax, GELU, normalisation, dropout and the optimiser are not counted.
    """
    of_student = FORWARD_AND_BACKWARD * (student.forward(tokens, length) + student.vocabulary_head(positions))
    of_teacher = teacher.vocabulary_head(positions) + (0.0 if cached else teacher.forward(tokens, length))
    return of_student + of_teacher


def break_even(build_seconds: float, live_epoch_seconds: float, cached_epoch_seconds: float) -> float | None:
    """Return the epochs after which a cache has saved the time of its build; None if its epochs are not faster."""
    saved = live_epoch_seconds - cached_epoch_seconds
    return build_seconds / saved if saved > 0 else None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return rows as a Markdown table with aligned columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([shown[0], "| " + " | ".join("-" * width for width in widths) + " |", *shown[1:]])
