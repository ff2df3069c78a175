"""Labels of a regression in units in which a head learns: minus their mean, over their deviation.

A head begins near 0, and AdamW moves a weight by about the learning rate in a step, so labels of 100,000 are never
reached. The training sees labels, and a teacher's scores, in standard units; afterwards mean and deviation go into
weight and bias of the head's last matrix, and the model gives labels. Labels of the order of one stay as they are.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tinydistilbert.errors import UserError
from tinydistilbert.models.task_head import output_layer
from tinydistilbert.notices import notice
from tinydistilbert.tasks.base import Examples

LARGEST_PLAIN = 10.0
"""Labels stay as they are where neither the size of their mean nor their deviation is above this …"""
SMALLEST_PLAIN = 0.1
"""… nor their deviation below this: STS-B's 0 to 5, five stars, shares of one that are spread out."""
LARGEST, SMALLEST = 1e18, 1e-15
"""Of labels, and of their deviation: their squares must stay single-precision numbers."""
STEPS_A_DEVIATION = 20
"""Single-precision numbers that must lie in a deviation around the largest label, for predictions to be told apart."""


@dataclass(frozen=True)
class LabelScale:
    """Mean and deviation of a train split's labels; `PLAIN` where they are left alone."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, examples: Examples) -> Self:
        """The scale of the examples that have a label; `PLAIN` in tasks that are no regression.

        Raises:
            UserError: single-precision numbers cannot tell the labels apart.
        """
        task = examples.task
        values = _numbers(examples.columns["label"]) if task.kind == "regression" else np.array([])
        values = values[~np.isnan(values)]
        if not values.size:
            return cls()
        mean, deviation = float(values.mean()), float(values.std())
        if values.min() == values.max():
            mean, deviation = float(values[0]), 0.0
        _check(f"the labels of {task.title}", values, mean, deviation)
        is_spread = SMALLEST_PLAIN <= deviation <= LARGEST_PLAIN or not deviation
        if is_spread and abs(mean) <= LARGEST_PLAIN:
            return cls()
        shown = f"{values.min():,.7g} to {values.max():,.7g}, mean {mean:,.4g}, standard deviation {deviation:,.4g}"
        text = "they are standardised for the training, and the head converts back"
        notice(f"the labels of {task.title}", f"{shown}; {text}")
        return cls(mean, deviation or 1.0)

    @property
    def is_plain(self) -> bool:
        """Whether labels stay as they are."""
        return (self.mean, self.deviation) == (0.0, 1.0)

    def standard(self, values: Sequence[float | None] | NDArray[np.floating]) -> NDArray[np.float32]:
        """Labels or scores in standard units; the difference to the mean is taken in double precision."""
        return ((_numbers(values) - self.mean) / self.deviation).astype(np.float32)

    def labels(self, standard: NDArray[np.float32]) -> NDArray[np.float64]:
        """What standard units stand for."""
        return standard.astype(np.float64) * self.deviation + self.mean

    @torch.no_grad()
    def to_standard(self, model: PreTrainedModel) -> None:
        """Make a regression model that gives labels give standard units."""
        if not self.is_plain:
            layer = output_layer(model)
            layer.weight.copy_(layer.weight.double() / self.deviation)
            layer.bias.copy_((layer.bias.double() - self.mean) / self.deviation)

    @torch.no_grad()
    def to_labels(self, model: PreTrainedModel) -> None:
        """Make a regression model that gives standard units give labels."""
        if not self.is_plain:
            layer = output_layer(model)
            layer.weight.copy_(layer.weight.double() * self.deviation)
            layer.bias.copy_(layer.bias.double() * self.deviation + self.mean)


PLAIN = LabelScale()


def _numbers(values: Sequence[float | None] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Double precision; NaN for None."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def _check(where: str, values: NDArray[np.float64], mean: float, deviation: float) -> None:
    """Refuse labels whose squares, or whose differences, are lost in single precision.

    Raises:
        UserError: they are.
    """
    largest = float(np.abs(values).max())
    if largest > LARGEST:
        expected, fix = f"numbers up to {LARGEST:g}", f"divide all labels by {10 ** np.floor(np.log10(largest)):g}"
        raise UserError(where, expected=expected, found=f"{largest:g}", fix=fix)
    if 0 < deviation < SMALLEST:
        expected, fix = f"a standard deviation of at least {SMALLEST:g}", f"multiply all labels by {1 / SMALLEST:g}"
        raise UserError(where, expected=expected, found=f"{deviation:g}", fix=fix)
    step = float(np.spacing(np.float32(largest)))
    if deviation and step * STEPS_A_DEVIATION > deviation:
        problem = (
            f"their deviation is {deviation:.4g}, but single-precision numbers near {largest:,.7g} are {step:g} apart"
        )
        raise UserError(where, problem=problem, fix=f"subtract {round(mean):,} from every label")
