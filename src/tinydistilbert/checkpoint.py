"""Checkpoints of a training: folders of plain files, made whole or not at all, verified before use.

A batch and its dropout are pure functions of (seed, step), and so is the learning rate; what must be kept is only the
weights, AdamW's moments, and a few counts: steps, tokens, seconds, and how long the log was.
"""

import json
import shutil
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tinydistilbert import fsio
from tinydistilbert.errors import UserError

KEPT = 2
"""Checkpoints that stay: the newest, and one before it in case the newest turns out damaged."""


@dataclass(frozen=True)
class State:
    """What a training is at, beside weights and moments."""

    step: int
    tokens: int
    log_bytes: int
    seconds: float


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    kept = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            kept[f"{key}/{name}"] = value
    return kept


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State) -> None:
    """Write `folder/step-N` and drop all but the newest `KEPT` checkpoints."""
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / f"step-{state.step:08d}"
    if fsio.is_finished(target):
        return
    with fsio.unfinished(target) as partial:
        parameters = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
        save_file(parameters, partial / "model.safetensors")
        save_file(_moments(model, optimizer), partial / "optimizer.safetensors")
        fsio.write_json(partial / "state.json", asdict(state))
    for old in _newest_first(folder)[KEPT:]:
        shutil.rmtree(old)


def _newest_first(folder: Path) -> list[Path]:
    found = [path for path in folder.glob("step-*") if path.suffix != ".partial"] if folder.is_dir() else []
    return sorted(found, reverse=True)


def newest_step(folder: Path) -> int:
    """Step of the newest checkpoint in `folder`, told by its name, not verified; 0 when there is none."""
    whole = [path for path in _newest_first(folder) if fsio.is_finished(path)]
    return int(whole[0].name.removeprefix("step-")) if whole else 0


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> State | None:
    """Put the newest checkpoint that verifies into `model` and `optimizer`; None when there is no checkpoint at all.

    Each one that is skipped is named on standard error.

    Raises:
        UserError: there are checkpoints but none is whole; starting from zero would hide the loss.
    """
    candidates = _newest_first(folder)
    for path in candidates:
        try:
            fsio.read_manifest(path)
        except UserError as error:
            sys.stderr.write(f"skipping checkpoint {path.name}: {error}\n")
            continue
        weights = load_file(path / "model.safetensors")
        moments = load_file(path / "optimizer.safetensors")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(weights[name])
                entry: dict[str, Any] = {}
                for key in ("step", "exp_avg", "exp_avg_sq"):
                    if f"{key}/{name}" in moments:
                        entry[key] = moments[f"{key}/{name}"].to(parameter.device if key != "step" else "cpu")
                if entry:
                    optimizer.state[parameter] = entry
        return State(**json.loads((path / "state.json").read_text(encoding="utf-8")))
    if candidates:
        cure = "restore one from a copy, or delete the folder to train from the start"
        raise UserError(str(folder), expected="a whole checkpoint", found=f"{len(candidates)} damaged ones", cure=cure)
    return None
