"""Checkpoints by themselves: what is kept, which is read, what is refused. With a training: test_training.py."""

from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

import pytest
import torch
from torch import nn

from tinydistilbert import checkpoint, disk, recipe
from tinydistilbert.training import make_optimizer


def new(seed: int = 0) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A model of one layer that took one step, and its optimizer."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, recipe.Optimization())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def test_a_damaged_checkpoint_of_the_same_step_is_made_anew(tmp_path: Path) -> None:
    for damages in (True, False):
        checkpoint.save(tmp_path, *new(), checkpoint.State(4), training="fit")
        weights = tmp_path / "step-00000004" / "model.safetensors"
        if damages:
            weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpoint.load(tmp_path, *new(1), training="fit", log=tmp_path / "log") == checkpoint.State(4)


@pytest.mark.parametrize("at", range(8))
def test_forgetting_that_is_cut_short_leaves_no_damaged_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    for step in (1, 2):
        checkpoint.save(tmp_path, *new(), checkpoint.State(step), training="fit")
    seen: list[disk.Operation] = []

    def cut_short(operation: disk.Operation) -> AbstractContextManager[object]:
        if len(seen) == at:
            if operation.kind == "remove":  # in its middle
                for file in operation.path.glob("*.json"):
                    file.unlink()
            raise KeyboardInterrupt
        seen.append(operation)
        return nullcontext()

    monkeypatch.setattr(disk, "hook", cut_short)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.forget(tmp_path)
    monkeypatch.undo()
    state = checkpoint.load(tmp_path, *new(1), training="fit", log=tmp_path / "log")
    assert state is None or state.step in (1, 2)
    checkpoint.forget(tmp_path)
    assert not list(tmp_path.iterdir())
