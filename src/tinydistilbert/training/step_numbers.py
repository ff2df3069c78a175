"""The numbers that a training step has computed, read only when needed, and its line in the log."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class StepNumbers:
    """A step whose numbers may still be on the device."""

    step: int
    sums: dict[str, Tensor]
    norm: Tensor
    term_weights: Mapping[str, float]
    learning_rate: float
    tokens: int

    def values(self) -> dict[str, float]:
        """Return the mean of each term; on a GPU this waits for the device."""
        return {name: float(value) for name, value in self.sums.items()}

    def line(self) -> dict[str, float]:
        """Return the step's line in the log."""
        terms = self.values()
        loss = sum(self.term_weights[name] * value for name, value in terms.items())
        line = {
            "step": self.step + 1, "loss": loss, **terms, "learning_rate": self.learning_rate, "tokens": self.tokens,
        }  # fmt: skip
        return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}
