"""Checkpoints of a training: folders of plain files, written whole or not at all, verified before use.

Batches, dropout and the learning rate are pure functions of (seed, step). So a checkpoint holds only the weights,
AdamW's moments, and a few counts: steps, tokens, seconds, and the length of the log.
"""

import contextlib
import hashlib
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.storage import atomic, disk
from tinydistilbert.training.ranks import Ranks

KEPT = 2
"""Checkpoints to keep: the newest, and the one before in case the newest is damaged."""
_MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class State:
    """The state of a training, except weights and moments."""

    step: int = 0
    """Finished optimiser steps; the validation after the last of them is not done yet."""
    tokens: int = 0
    log_bytes: int = 0
    log_sha256: str = hashlib.sha256().hexdigest()
    """Of the log's first `log_bytes` bytes."""
    seconds: float = 0.0
    oom_splits: int = 0
    """How often the micro-batches were halved for lack of memory."""


def _moments(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    kept = {}
    for name, parameter in model.named_parameters():
        for key, value in optimizer.state.get(parameter, {}).items():
            kept[f"{key}/{name}"] = value
    return kept


def save(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: State, *, training: str) -> None:
    """Write `folder/step-N`, unless it exists, is whole and has this log, and delete all but the newest `KEPT`.

    Args:
        folder: of the checkpoints.
        model: its parameters are saved.
        optimizer: its moments are saved.
        state: of the training.
        training: name of the training; `load` with another name refuses the checkpoint.

    Raises:
        DiskError: the disk is full or failing; the older checkpoints are unchanged.
    """
    target = folder / f"step-{state.step:08d}"
    with contextlib.suppress(UserError, KeyError):  # missing, damaged or of another training: write it
        is_of_this = atomic.read_manifest(target).get("training") == training
        # Nothing could be loaded from one with another log: the log was changed, and its steps are done again.
        if is_of_this and atomic.read_json(target / "state.json")["log_sha256"] == state.log_sha256:
            return
    with atomic.unfinished(target, training=training) as partial:
        parameters = {name: parameter.detach().contiguous() for name, parameter in model.named_parameters()}
        save_file(parameters, partial / "model.safetensors")
        save_file(_moments(model, optimizer), partial / "optimizer.safetensors")
        atomic.write_json(partial / "state.json", asdict(state))
    for old in (*folder.glob("step-*.partial"), *_newest_first(folder)[KEPT:]):
        _drop(old)


def _newest_first(folder: Path) -> list[Path]:
    return sorted((path for path in folder.glob("step-*") if path.suffix != ".partial"), reverse=True)


def forget(folder: Path) -> None:
    """Delete the checkpoints in `folder`, and no other files."""
    for path in folder.glob("step-*"):
        _drop(path)


def _drop(checkpoint: Path) -> None:
    """Rename a checkpoint, then delete it, so that a half-deleted one is not taken for a damaged one."""
    doomed = checkpoint.with_suffix(".partial")
    if doomed != checkpoint:
        disk.remove(doomed)
        disk.rename(checkpoint, doomed)
        disk.sync_folder(doomed.parent)
    disk.remove(doomed)


def newest_step(folder: Path) -> int:
    """Return the step of the newest checkpoint in `folder`, by its name, not verified; 0 if there is none."""
    whole = [path for path in _newest_first(folder) if atomic.is_finished(path)]
    return int(whole[0].name.removeprefix("step-")) if whole else 0


def load(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, training: str, log: Path) -> State | None:
    """Load the newest valid checkpoint into `model` and `optimizer`; return None if there is no checkpoint at all.

    Each checkpoint that is skipped is reported on standard error.

    Args:
        folder: of the checkpoints.
        model: gets the parameters; it must have exactly those that were saved.
        optimizer: gets the moments.
        training: the name that it was saved with.
        log: of the training; a checkpoint is valid only if the log still begins with the same bytes.

    Raises:
        UserError: there are checkpoints but none is valid; starting from zero would hide the loss.
    """
    candidates = _newest_first(folder)
    for path in candidates:
        try:
            state, weights, moments = _read(path, training, log)
            _put(path, model, optimizer, weights, moments)
        except UserError as error:
            sys.stderr.write(f"skipping checkpoint {path.name}: {error}\n")
            continue
        return state
    if candidates:
        fix = "restore one from a copy, or delete the folder to train from the start"
        found = f"{len(candidates)} that were skipped"
        raise UserError(str(folder), expected="a whole checkpoint", found=found, fix=fix)
    return None


def share(state: State | None, model: nn.Module, optimizer: torch.optim.Optimizer, ranks: Ranks) -> State | None:
    """Share what rank 0 has loaded or begins with, with every process: state, weights and moments.

    The number of processes when the checkpoint was saved does not matter: it holds nothing that depends on it.
    """
    if ranks.world == 1:
        return state
    facts = {"state": asdict(state) if state else None, "moments": [*_moments(model, optimizer)]}
    facts = ranks.broadcast(facts)
    parameters = dict(model.named_parameters())
    if not ranks.is_main:
        for each in facts["moments"]:
            key, _, name = each.partition("/")
            parameter = parameters[name]
            empty = torch.zeros((), device=parameter.device) if key == "step" else torch.zeros_like(parameter)
            optimizer.state[parameter][key] = empty
    moments = _moments(model, optimizer)
    ranks.broadcast_([*parameters.values(), *(moments[name] for name in facts["moments"])])
    return State(**facts["state"]) if facts["state"] else None


def _read(path: Path, training: str, log: Path) -> tuple[State, dict[str, Tensor], dict[str, Tensor]]:
    """Read state, weights and moments of one checkpoint.

    Raises:
        UserError: it is not whole, or does not belong to this training and its log.
    """
    fix = "keep it for another training, or delete it"
    stored = atomic.read_manifest(path).get("training")
    if stored != training:
        raise UserError(str(path), expected=f"a checkpoint of {training}", found=f"one of {stored}", fix=fix)
    with as_user_error(str(path), expected="the files of a checkpoint", fix=fix):
        content = atomic.read_json(path / "state.json")
        if "halvings" in content:  # the name in version 0.1
            content["oom_splits"] = content.pop("halvings")
        state = State(**content)
        weights, moments = load_file(path / "model.safetensors"), load_file(path / "optimizer.safetensors")
    if not atomic.begins_with(log, state.log_bytes, state.log_sha256):
        problem = f"the beginning of {log.name} changed since step {state.step}"
        raise UserError(str(path), problem=problem, fix="restore it from a copy")
    return state, weights, moments


def _put(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, weights: dict[str, Tensor],
    moments: dict[str, Tensor],
) -> None:  # fmt: skip
    """Copy weights and moments into model and optimizer, after checking that they fit.

    Raises:
        UserError: they do not; then nothing was changed.
    """
    differing = sorted(set(_shapes(weights.items())) ^ set(_shapes(model.named_parameters())))
    if differing:
        name, shape = differing[0]
        problem = f"its parameters differ from this model's: {name} {shape} is in only one of the two"
        raise UserError(str(path), problem=problem, fix="delete the folder to train from the start")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
            entry: dict[str, Any] = {}
            for key in _MOMENTS:
                if f"{key}/{name}" in moments:
                    # Also the step count: a fused AdamW keeps it on the parameter's device.
                    entry[key] = moments[f"{key}/{name}"].to(parameter.device)
            if entry:
                optimizer.state[parameter] = entry


def _shapes(tensors: Any) -> Iterator[tuple[str, tuple[int, ...]]]:
    return ((name, tuple(tensor.shape)) for name, tensor in tensors)
