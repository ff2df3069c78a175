"""Choosing an epoch by scored examples: weights are kept whenever the score is the best so far."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tinydistilbert.storage import atomic, disk

WEIGHTS, FACTS = "best.safetensors", "best.json"


@dataclass(frozen=True)
class Best:
    """The best epoch so far."""

    score: float
    step: int
    """Finished optimiser steps."""
    seconds: float | None = None
    """Of the whole training; None while it goes on."""


class Chooser:
    """Keeps the weights with the best score in a folder; of equals, the earliest.

    A resumed training looks again at epochs after its checkpoint and finds the same, so nothing has to be undone; it
    does not look again at those before it, so what was kept must stay until the work is finished.

    Args:
        model: whose weights are kept.
        folder: where to keep them; made if missing. Beside the training's checkpoints, they stay as long as those.
        score: the score of the model as it is.
    """

    def __init__(self, model: nn.Module, folder: Path, score: Callable[[], float]) -> None:
        self._model, self._folder, self._score = model, folder, score

    @property
    def best(self) -> Best | None:
        """What was kept."""
        path = self._folder / FACTS
        return Best(**atomic.read_json(path)) if path.is_file() else None

    def look(self, step: int) -> dict[str, float]:
        """Score the model after so many steps, and keep it if it is the best."""
        score, best = self._score(), self.best
        if best is None or score > best.score:
            weights = {name: parameter.detach().contiguous() for name, parameter in self._model.named_parameters()}
            disk.make_folder(self._folder)
            temporary = self._folder / f".{WEIGHTS}.tmp"
            save_file(weights, temporary)
            atomic.adopt(temporary, self._folder / WEIGHTS)
            atomic.write_json(self._folder / FACTS, asdict(Best(score, step)))
        return {"score": score}

    @property
    def is_finished(self) -> bool:
        """Whether the training went on to its end, so that no better one can follow."""
        best = self.best
        return best is not None and best.seconds is not None

    def finish(self, seconds: float) -> Best:
        """Put the kept weights into the model, and mark the choice as final, after a training of so many seconds."""
        assert self.best is not None, "the last epoch is always looked at"
        best = self.best if self.is_finished else replace(self.best, seconds=seconds)
        atomic.write_json(self._folder / FACTS, asdict(best))
        weights = load_file(self._folder / WEIGHTS)
        with torch.no_grad():
            for name, parameter in self._model.named_parameters():
                parameter.copy_(weights[name])
        return best
