"""The real training loop on a model of a few weights, and what of it must survive any end of its process."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tinydistilbert.recipe import schema
from tinydistilbert.storage import atomic
from tinydistilbert.training.best_epoch import EpochSelector
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train

CPU = torch.device("cpu")
STEPS = 4
DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """With dropout, and weights that are always the same."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 1))
        random = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)

    def forward(self, rows: Tensor) -> Tensor:
        return self.layers(rows)


class Killed(BaseException):
    """The end of the process, as far as the training can tell."""


@dataclass
class Tiny:
    """A training of `STEPS` steps with a checkpoint after each, which becomes a finished folder.

    Args:
        die_at: step at whose beginning the process dies.
        steps: in all.
        scores: of the weights after so many steps, by which the best are chosen; None = the last ones are kept.
    """

    die_at: int | None = None
    steps: int = STEPS
    scores: Mapping[int, float] | None = None
    begun_at: int | None = None
    """The first step that was done."""

    def micro_batches(self, step: int, oom_splits: int = 0) -> list[Batch]:
        if self.begun_at is None:
            self.begun_at = step
        if step == self.die_at:
            raise Killed
        rows = DATA[[(step * 8 + i) % 64 for i in range(8)]]
        return [{"rows": part} for part in rows.split([5, 3])]

    @staticmethod
    def loss(
        model: nn.Module, batch: Batch, term_scales: Mapping[str, float], _step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        predicted = model(batch["rows"]).squeeze(-1)
        return scaled_sum({"fit": (predicted - batch["rows"].sum(-1)).square().mean()}, term_scales)

    def train(self, model: nn.Module, folder: Path) -> None:
        """In a folder that is there."""
        job = TrainingJob(
            steps=self.steps, micro_batches=self.micro_batches, loss=self.loss, term_weights=lambda _: {"fit": 2.0},
            token_shares=lambda batches: token_shares([{"fit": len(batch["rows"])} for batch in batches]),
            tokens=lambda batch: len(batch["rows"]),
            validate=lambda step: self.validate(model, folder, step),
            validate_after=frozenset({self.steps // 2, self.steps}),
        )  # fmt: skip
        settings = schema.Optimization(learning_rate=0.05, weight_decay=0.1)
        train(model, job, settings, Compute(CPU, "auto", 1e-9), seed=3, folder=folder, label="fit")

    def validate(self, model: nn.Module, folder: Path, step: int) -> dict[str, float]:
        selector = self.selector(model, folder, step)
        return {"always": 1.0} if selector is None else selector.score_epoch(step)

    def selector(self, model: nn.Module, folder: Path, step: int = 0) -> EpochSelector | None:
        """Of the best weights, if they are to be chosen."""
        scores = self.scores
        return None if scores is None else EpochSelector(model, folder / atomic.CHECKPOINTS, lambda: scores[step])

    def stage(self, output: Path) -> None:
        """All of it, as a stage of a run does it."""
        if atomic.is_finished(output):
            atomic.tidy(output)
            return
        with atomic.unfinished(output) as folder:
            model = Net()
            if (selector := self.selector(model, folder)) is None or not selector.is_finished:
                self.train(model, folder)
            if selector is not None:
                selector.finish(1.0)
            save_file(dict(model.named_parameters()), folder / "model.safetensors")
