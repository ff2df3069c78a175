"""Selecting an epoch by scored examples: weights are saved whenever the score is the best so far."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tinydistilbert.storage import atomic, disk

WEIGHTS, FACTS = "best.safetensors", "best.json"


@dataclass(frozen=True)
class BestEpoch:
    """The best epoch so far."""

    score: float
    step: int
    """Finished optimiser steps."""
    seconds: float | None = None
    """Of the whole training; None while it is running."""


@dataclass(frozen=True)
class EpochSelector:
    """Keeps the weights with the best score in a folder; of equal scores, the earliest.

    A resumed training scores the epochs after its checkpoint again, with the same result, so nothing has to be undone.
    It does not score earlier epochs again, so their weights must stay until the training is finished.
    """

    model: nn.Module
    """Whose weights are kept."""
    folder: Path
    """Where to keep them; made if missing. In the folder of the training's checkpoints, they stay as long as those."""
    score: Callable[[], float]
    """Returns the score of the current model."""

    @property
    def best(self) -> BestEpoch | None:
        """The best epoch so far, if any."""
        path = self.folder / FACTS
        return BestEpoch(**atomic.read_json(path)) if path.is_file() else None

    def score_epoch(self, step: int) -> dict[str, float]:
        """Score the model after so many steps, and save its weights if it is the best."""
        score, best = self.score(), self.best
        if best is None or score > best.score:
            weights = {name: parameter.detach().contiguous() for name, parameter in self.model.named_parameters()}
            disk.make_folder(self.folder)
            temporary = self.folder / f".{WEIGHTS}.tmp"
            save_file(weights, temporary)
            atomic.adopt(temporary, self.folder / WEIGHTS)
            atomic.write_json(self.folder / FACTS, asdict(BestEpoch(score, step)))
        return {"score": score}

    @property
    def is_finished(self) -> bool:
        """Whether the training reached its end, so that no better epoch can follow."""
        best = self.best
        return best is not None and best.seconds is not None

    def finish(self, seconds: float) -> BestEpoch:
        """Load the best weights into the model, and mark the choice as final, after a training of so many seconds."""
        assert self.best is not None, "the last epoch is always scored"
        best = self.best if self.is_finished else replace(self.best, seconds=seconds)
        atomic.write_json(self.folder / FACTS, asdict(best))
        weights = load_file(self.folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(weights[name])
        return best
