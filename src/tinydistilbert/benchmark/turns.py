"""What ways that are measured in turns did, and how they compare: medians, ratios, shares, tables.

The ways themselves (ours, others' implementations) and the processes that run them are in `benchmarks/`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from tinydistilbert.models.size import FORWARD_AND_BACKWARD, Size


@dataclass(frozen=True)
class Sample:
    """What one way did in its turn."""

    tokens: float
    """Useful ones: not padding."""
    operations: float
    """Useful ones, see `distillation_operations`; of others' implementations they are not counted."""
    seconds: float
    peak_mib: float

    @property
    def speed(self) -> float:
        """Useful tokens a second."""
        return self.tokens / self.seconds


Samples = dict[str, dict[int, Sample]]
"""Of each way by round."""


def quartiles(values: Sequence[float]) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile."""
    low, middle, high = np.percentile(values, (25, 50, 75))
    return float(low), float(middle), float(high)


def ratio(samples: Samples, way: str, other: str) -> float | None:
    """Speed of one way over another's: the median over the rounds in which both were measured; None without any."""
    of_way, of_other = samples.get(way, {}), samples.get(other, {})
    speed_ups = [of_way[number].speed / of_other[number].speed for number in of_way.keys() & of_other.keys()]
    return round(quartiles(speed_ups)[1], 3) if speed_ups else None


def peak_share(samples: Samples, way: str, rates: Sequence[float]) -> float | None:
    """Useful operations a second of a way, over the machine's rate; both medians. None where it was not measured."""
    reached = [sample.operations / sample.seconds for sample in samples.get(way, {}).values()]
    return round(quartiles(reached)[1] / quartiles(rates)[1], 3) if reached else None


def pooled(steps: Sequence[Sample], tokens_per_step: float) -> Sample:
    """Single steps as one sample, with the tokens that so many steps have on average."""
    seconds, peak_mib = sum(step.seconds for step in steps), max(step.peak_mib for step in steps)
    return Sample(len(steps) * tokens_per_step, 0.0, seconds, peak_mib)


def distillation_operations(
    student: Size, teacher: Size, tokens: float, length: float, positions: float, *, cached: bool
) -> float:
    """Floating-point operations that a distillation step cannot do without; a multiplication and an addition are two.

    Of the student: the matrices of its layers, the two products of attention, the masked-LM head at the positions of
    the KL; each three times, forward and for two gradients. Of the teacher: the same once, and its layers not at all
    where they are read from a cache. Nothing for embeddings, softmax, GELU, normalisation, dropout and the optimiser.
    """
    of_student = FORWARD_AND_BACKWARD * (student.forward(tokens, length) + student.vocabulary_head(positions))
    of_teacher = teacher.vocabulary_head(positions) + (0.0 if cached else teacher.forward(tokens, length))
    return of_student + of_teacher


def break_even(build_seconds: float, live_epoch_seconds: float, cached_epoch_seconds: float) -> float | None:
    """Epochs after which a cache has saved what it cost; None where its epochs are not faster."""
    saved = live_epoch_seconds - cached_epoch_seconds
    return build_seconds / saved if saved > 0 else None


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Rows as a Markdown table with aligned columns."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([shown[0], "| " + " | ".join("-" * width for width in widths) + " |", *shown[1:]])
