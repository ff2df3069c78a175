"""Standardised labels of a regression: minus their mean, divided by their standard deviation.

A head begins near 0, and AdamW moves a weight by about the learning rate in a step, so it never reaches labels of
100,000. Training uses labels, and a teacher's scores, in standard units. Afterwards mean and deviation go into weight
and bias of the head's last matrix, so that the model predicts labels. Labels of the order of one stay as they are.
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
"""Labels stay as they are if neither the absolute value of their mean nor their deviation is above this …"""
SMALLEST_PLAIN = 0.1
"""… and their deviation is not below this: for example STS-B's 0 to 5, five stars, or shares from 0 to 1."""
LARGEST, SMALLEST = 1e18, 1e-15
"""Limits of a label, and of their deviation: their squares must be representable in single precision."""
STEPS_A_DEVIATION = 20
"""Single-precision numbers that must lie in a deviation around the largest label, so that predictions can differ."""


@dataclass(frozen=True)
class LabelScale:
    """Mean and deviation of a train split's labels; `PLAIN` if labels stay as they are."""

    mean: float = 0.0
    deviation: float = 1.0

    @classmethod
    def of(cls, examples: Examples) -> Self:
        """Return the scale of the examples that have a label; `PLAIN` in tasks other than regression.

        Raises:
            UserError: single precision cannot distinguish the labels.
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
        """Return labels or scores in standard units; the mean is subtracted in double precision."""
        return ((_numbers(values) - self.mean) / self.deviation).astype(np.float32)

    def labels(self, standard: NDArray[np.float32]) -> NDArray[np.float64]:
        """Return standard units as labels."""
        return standard.astype(np.float64) * self.deviation + self.mean

    @torch.no_grad()
    def to_standard(self, model: PreTrainedModel) -> None:
        """Convert a regression model that predicts labels to standard units."""
        if not self.is_plain:
            layer = output_layer(model)
            layer.weight.copy_(layer.weight.double() / self.deviation)
            layer.bias.copy_((layer.bias.double() - self.mean) / self.deviation)

    @torch.no_grad()
    def to_labels(self, model: PreTrainedModel) -> None:
        """Convert a regression model that predicts standard units to labels."""
        if not self.is_plain:
            layer = output_layer(model)
            layer.weight.copy_(layer.weight.double() * self.deviation)
            layer.bias.copy_(layer.bias.double() * self.deviation + self.mean)


PLAIN = LabelScale()


def _numbers(values: Sequence[float | None] | NDArray[np.floating]) -> NDArray[np.float64]:
    """Return the values in double precision; NaN for None."""
    if isinstance(values, np.ndarray):
        return values.astype(np.float64)
    return np.array([np.nan if value is None else float(value) for value in values], dtype=np.float64)


def _check(where: str, values: NDArray[np.float64], mean: float, deviation: float) -> None:
    """Refuse labels whose squares, or whose differences, are lost in single precision.

    Raises:
        UserError: they are lost.
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
