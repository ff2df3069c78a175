"""Checkpoints by themselves: what is kept, which is read, what is refused. With a training: test_training.py."""

import hashlib
import json
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from tinydistilbert.errors import UserError
from tinydistilbert.recipe import schema
from tinydistilbert.storage import atomic, disk
from tinydistilbert.training import checkpoint
from tinydistilbert.training.optimizer import make_optimizer
from tinydistilbert.training.ranks import ALONE, Ranks


def new(seed: int = 0) -> tuple[nn.Linear, torch.optim.Optimizer]:
    """A model of one layer that took one step, and its optimizer."""
    torch.manual_seed(seed)
    model = nn.Linear(3, 2)
    optimizer = make_optimizer(model, schema.Optimization())
    model(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    return model, optimizer


def step(model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    optimizer.zero_grad()
    model(torch.ones(1, 3)).square().sum().backward()
    optimizer.step()


def test_what_was_loaded_goes_on_as_what_was_saved(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_bytes(b"abc, and lines of steps that are done again")
    saved, loaded = new(), new(1)
    state = checkpoint.State(7, 320, 3, hashlib.sha256(b"abc").hexdigest(), 1.5, 2)
    checkpoint.save(tmp_path / "checkpoints", *saved, state, training="fit")
    assert checkpoint.load(tmp_path / "checkpoints", *loaded, training="fit", log=log) == state
    for _ in range(3):
        for name, parameter in saved[0].named_parameters():
            assert torch.equal(parameter, loaded[0].get_parameter(name))
        step(*saved)
        step(*loaded)


def test_a_checkpoint_is_plain_files_that_others_can_read(tmp_path: Path) -> None:
    model, optimizer = new()
    checkpoint.save(tmp_path, model, optimizer, checkpoint.State(3), training="fit")
    folder = tmp_path / "step-00000003"
    files = ["manifest.json", "model.safetensors", "optimizer.safetensors", "state.json"]
    assert sorted(path.name for path in folder.iterdir()) == files
    assert atomic.read_manifest(folder)["training"] == "fit"
    assert json.loads((folder / "state.json").read_text()) == {
        "step": 3,
        "tokens": 0,
        "log_bytes": 0,
        "log_sha256": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",  # of nothing
        "seconds": 0.0,
        "oom_splits": 0,
    }
    weights, moments = load_file(folder / "model.safetensors"), load_file(folder / "optimizer.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in weights.items()} == {"weight": (2, 3), "bias": (2,)}
    assert {name: tuple(tensor.shape) for name, tensor in moments.items()} == {
        "step/weight": (), "exp_avg/weight": (2, 3), "exp_avg_sq/weight": (2, 3),
        "step/bias": (), "exp_avg/bias": (2,), "exp_avg_sq/bias": (2,),
    }  # fmt: skip
    assert moments["step/bias"] == 1 and torch.equal(weights["bias"], model.bias)


def test_the_state_of_version_0_1_is_read(tmp_path: Path) -> None:
    state = checkpoint.State(3, oom_splits=2)
    checkpoint.save(tmp_path, *new(), state, training="fit")
    stored = json.loads((tmp_path / "step-00000003" / "state.json").read_text())
    stored["halvings"] = stored.pop("oom_splits")
    made_again(tmp_path / "step-00000003", "state.json", json.dumps(stored).encode())
    assert checkpoint.load(tmp_path, *new(1), training="fit", log=tmp_path / "log") == state


def test_a_parameter_that_never_moved_has_no_moments_afterwards(tmp_path: Path) -> None:
    model = nn.Linear(3, 2)
    model.bias.requires_grad_(False)
    optimizer = make_optimizer(model, schema.Optimization())
    step(model, optimizer)
    checkpoint.save(tmp_path, model, optimizer, checkpoint.State(1), training="fit")
    other = nn.Linear(3, 2)
    fresh = make_optimizer(other, schema.Optimization())
    checkpoint.load(tmp_path, other, fresh, training="fit", log=tmp_path / "log")
    assert {*fresh.state} == {other.weight}
    assert {*fresh.state[other.weight]} == {"step", "exp_avg", "exp_avg_sq"}


def test_moments_and_their_counts_lie_where_torch_itself_would_put_them(tmp_path: Path) -> None:
    """A fused AdamW on a GPU reads its counts of steps there; `meta` is a device that every machine has."""
    model, optimizer = new()
    checkpoint.save(tmp_path, model, optimizer, checkpoint.State(1), training="fit")
    devices = []
    for by_torch in (True, False):
        moved = nn.Linear(3, 2, device="meta")
        moved_optimizer = make_optimizer(moved, schema.Optimization())
        if by_torch:
            moved_optimizer.load_state_dict(optimizer.state_dict())
        else:
            checkpoint.load(tmp_path, moved, moved_optimizer, training="fit", log=tmp_path / "log")
        devices.append({key: value.device.type for key, value in moved_optimizer.state[moved.weight].items()})
    assert devices[0] == devices[1] == {"step": "meta", "exp_avg": "meta", "exp_avg_sq": "meta"}


def test_a_whole_checkpoint_of_this_training_is_not_written_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, *new(), checkpoint.State(4), training="fit")
    operations: list[disk.Operation] = []

    def watch(operation: disk.Operation) -> AbstractContextManager[object]:
        operations.append(operation)
        return nullcontext()

    monkeypatch.setattr(disk, "hook", watch)
    checkpoint.save(tmp_path, *new(), checkpoint.State(4), training="fit")
    assert not operations
    checkpoint.save(tmp_path, *new(), checkpoint.State(4), training="another")
    assert atomic.read_manifest(tmp_path / "step-00000004")["training"] == "another"


def test_the_two_newest_stay_and_what_is_no_checkpoint(tmp_path: Path) -> None:
    for name in ("step-00000002.partial", "step-00000011.partial", "steps", "notes.partial"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    pair = new()
    for count in (2, 9, 10):
        checkpoint.save(tmp_path, *pair, checkpoint.State(count), training="fit")
    kept = {"step-00000009", "step-00000010"}
    assert {path.name for path in tmp_path.iterdir()} == kept | {"steps", "notes.partial"}
    (tmp_path / "step-00000011.partial").mkdir()
    checkpoint.forget(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"steps", "notes.partial"}
    assert (tmp_path / "steps" / "file").exists()


def test_a_doomed_checkpoint_loses_its_name_durably_before_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checkpoint.save(tmp_path, *new(), checkpoint.State(1), training="fit")
    name, doomed = tmp_path / "step-00000001", tmp_path / "step-00000001.partial"
    operations: list[disk.Operation] = []

    def watch(operation: disk.Operation) -> AbstractContextManager[object]:
        operations.append(operation)
        return nullcontext()

    monkeypatch.setattr(disk, "hook", watch)
    checkpoint.forget(tmp_path)
    assert operations == [
        disk.Operation("remove", doomed),
        disk.Operation("rename", name, target=doomed),
        disk.Operation("sync folder", tmp_path),
        disk.Operation("remove", doomed),
    ]
    assert not list(tmp_path.iterdir())


def test_the_newest_step_is_that_of_the_newest_folder_that_was_finished(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    assert checkpoint.newest_step(folder) == 0
    folder.mkdir()
    assert checkpoint.newest_step(folder) == 0
    for name, finished in {"9": True, "10": True, "11": False, "12.partial": True}.items():
        number, _, rest = name.partition(".")
        path = (folder / f"step-{int(number):08d}").with_suffix(f".{rest}" if rest else "")
        path.mkdir()
        if finished:
            atomic.write_manifest(path)
    assert checkpoint.newest_step(folder) == 10


def test_the_newest_that_is_whole_is_read_and_the_others_are_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, log = tmp_path / "checkpoints", tmp_path / "log"
    assert checkpoint.load(folder, *new(), training="fit", log=log) is None, "there was none"
    for count in (9, 10):
        checkpoint.save(folder, *new(), checkpoint.State(count), training="fit")
    assert checkpoint.load(folder, *new(1), training="fit", log=log) == checkpoint.State(10)
    assert not capsys.readouterr().err
    (folder / "step-00000010" / "state.json").unlink()
    assert checkpoint.load(folder, *new(1), training="fit", log=log) == checkpoint.State(9)
    path = folder / "step-00000010"
    assert capsys.readouterr().err == (
        f"skipping checkpoint step-00000010: {path / 'state.json'}: expected a file that the manifest lists, "
        f"found no file; delete {path} and run the command again\n"
    )


def test_with_none_that_is_whole_it_says_so_after_it_named_each(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for count in (9, 10):
        checkpoint.save(tmp_path, *new(), checkpoint.State(count), training="fit")
    with pytest.raises(UserError) as error:
        checkpoint.load(tmp_path, *new(), training="another", log=tmp_path / "log")
    assert str(error.value) == (
        f"{tmp_path}: expected a whole checkpoint, found 2 that were skipped; "
        "restore one from a copy, or delete the folder to train from the start"
    )
    assert [line.split(":")[0] for line in capsys.readouterr().err.splitlines()] == [
        "skipping checkpoint step-00000010",
        "skipping checkpoint step-00000009",
    ]


def made_again(checkpoint_folder: Path, name: str, content: bytes | None, training: str | None = "fit") -> None:
    """Replace a file, or delete it, and close the folder again, as a program with another idea of its content would."""
    if content is None:
        (checkpoint_folder / name).unlink()
    else:
        (checkpoint_folder / name).write_bytes(content)
    atomic.write_manifest(checkpoint_folder, **({} if training is None else {"training": training}))


ANOTHER = "keep it for another training, or delete it"
MODEL = "differ from this model's"
FROM_THE_START = "delete the folder to train from the start"
LATER = b'{"step": 4, "log_bytes": 3}'
MISFITS: dict[str, tuple[Callable[[Path], object], Callable[[], nn.Module], str, str, str]] = {
    "of another training": (
        lambda path: made_again(path, "rest", b"", "another"),
        lambda: nn.Linear(3, 2), "a checkpoint of fit", "one of another", ANOTHER,
    ),
    "of nobody": (
        lambda path: made_again(path, "rest", b"", None),
        lambda: nn.Linear(3, 2), "a checkpoint of fit", "one of None", ANOTHER,
    ),
    "a state that is no JSON": (
        lambda path: made_again(path, "state.json", b'{"step": 4'),
        lambda: nn.Linear(3, 2), "the files of a checkpoint",
        "Expecting ',' delimiter: line 1 column 11 (char 10)", ANOTHER,
    ),
    "a state with more in it": (
        lambda path: made_again(path, "state.json", b'{"epoch": 1}'),
        lambda: nn.Linear(3, 2), "the files of a checkpoint",
        "State.__init__() got an unexpected keyword argument 'epoch'", ANOTHER,
    ),
    "another log": (
        lambda path: made_again(path, "state.json", LATER),
        lambda: nn.Linear(3, 2), "log.jsonl", "changed since step 4",
        "restore it from a copy",
    ),
    "a wider model": (
        lambda path: None, lambda: nn.Linear(4, 2), MODEL, "weight (2, 3)", FROM_THE_START,
    ),
    "a model with fewer parameters": (
        lambda path: None, lambda: nn.Linear(3, 2, bias=False), MODEL, "bias (2,)", FROM_THE_START,
    ),
    "a model with more parameters": (
        lambda path: None, lambda: nn.Bilinear(1, 3, 2), MODEL, "weight (2, 1, 3)", FROM_THE_START,
    ),
    "a model with other names": (
        lambda path: None, lambda: nn.Sequential(nn.Linear(3, 2)), MODEL, "0.bias (2,)",
        FROM_THE_START,
    ),
}  # fmt: skip
"""What was done to the checkpoint, into which model it is loaded, and key words of the message."""


@pytest.mark.parametrize("misfit", MISFITS)
def test_what_does_not_fit_is_told_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], misfit: str
) -> None:
    does, make, wanted, stored, fix = MISFITS[misfit]
    checkpoint.save(tmp_path, *new(), checkpoint.State(4), training="fit")
    path = tmp_path / "step-00000004"
    does(path)
    model = make()
    optimizer = make_optimizer(model, schema.Optimization())
    before = [parameter.detach().clone() for parameter in model.parameters()]
    with pytest.raises(UserError, match="1 that were skipped"):
        checkpoint.load(tmp_path, model, optimizer, training="fit", log=tmp_path / "log.jsonl")
    line = capsys.readouterr().err
    assert line.startswith(f"skipping checkpoint step-00000004: {path}: ") and line.count("\n") == 1
    assert wanted in line and stored in line and line.endswith(f"; {fix}\n")
    assert all(torch.equal(*both) for both in zip(before, model.parameters(), strict=True)) and not optimizer.state


def test_a_checkpoint_without_one_of_its_files_is_skipped(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("state.json", "model.safetensors", "optimizer.safetensors"):
        checkpoint.save(tmp_path, *new(), checkpoint.State(4), training="fit")
        path = tmp_path / "step-00000004"
        made_again(path, name, None)
        with pytest.raises(UserError, match="1 that were skipped"):
            checkpoint.load(tmp_path, *new(1), training="fit", log=tmp_path / "log")
        line = capsys.readouterr().err
        assert line.startswith(f"skipping checkpoint step-00000004: {path}: expected the files of a checkpoint, found ")
        assert name in line
        checkpoint.forget(tmp_path)


def test_a_damaged_checkpoint_of_the_same_step_is_made_anew(tmp_path: Path) -> None:
    for damages in (True, False):
        checkpoint.save(tmp_path, *new(), checkpoint.State(4), training="fit")
        weights = tmp_path / "step-00000004" / "model.safetensors"
        if damages:
            weights.write_bytes(weights.read_bytes()[:-1])
    assert checkpoint.load(tmp_path, *new(1), training="fit", log=tmp_path / "log") == checkpoint.State(4)


def test_a_checkpoint_with_another_log_is_made_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log, states = tmp_path / "log", []
    for content in (b"abc", b"abd"):  # the log was changed, and its steps are done again
        log.write_bytes(content)
        states.append(checkpoint.State(4, log_bytes=3, log_sha256=hashlib.sha256(content).hexdigest()))
        checkpoint.save(tmp_path, *new(), states[-1], training="fit")
    assert checkpoint.load(tmp_path, *new(1), training="fit", log=log) == states[1]
    assert capsys.readouterr().err == ""


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


@dataclass(frozen=True)
class OneOfThree(Ranks):
    """Rank 0 leaves in `sent` what it says, for the other two, which come later."""

    world: int = 3
    sent: list[Any] = field(default_factory=list)

    def broadcast(self, value: Any, source: int = 0) -> Any:
        if self.is_main:
            self.sent.append(json.dumps(value))
        return json.loads(self.sent[0])

    def broadcast_(self, tensors: Iterable[torch.Tensor]) -> None:
        if self.is_main:
            self.sent.extend(tensor.detach().clone() for tensor in tensors)
            return
        for tensor, received in zip(tensors, self.sent[1:], strict=True):
            assert tensor.shape == received.shape
            tensor.detach().copy_(received)


def beginner(model: nn.Module) -> tuple[nn.Module, torch.optim.Optimizer]:
    """A model that took no step yet, and its optimizer."""
    return model, make_optimizer(model, schema.Optimization())


def test_every_process_goes_on_with_what_rank_0_has_loaded() -> None:
    state = checkpoint.State(7, 320, 3, hashlib.sha256(b"abc").hexdigest(), 1.5, 2)
    alone, sent = new(), []
    processes = [new(), beginner(nn.Linear(3, 2)), beginner(nn.Linear(3, 2))]
    for rank, process in enumerate(processes):
        assert checkpoint.share(None if rank else state, *process, OneOfThree(rank, sent=sent)) == state
    for _ in range(3):
        for model, optimizer in processes:
            for name, parameter in alone[0].named_parameters():
                assert torch.equal(model.get_parameter(name), parameter)
            step(model, optimizer)
        step(*alone)


def test_without_a_checkpoint_every_process_begins_with_the_weights_of_rank_0() -> None:
    sent: list[Any] = []
    processes = [beginner(nn.Linear(3, 2)) for _ in range(3)]
    for rank, process in enumerate(processes):
        assert checkpoint.share(None, *process, OneOfThree(rank, sent=sent)) is None
    for model, optimizer in processes:
        assert torch.equal(model.get_parameter("weight"), processes[0][0].get_parameter("weight"))
        assert not optimizer.state


def test_moments_that_were_shared_lie_where_the_parameters_are_and_only_of_those_that_moved() -> None:
    """As after `load`; a parameter's name may have a slash in it."""
    sent: list[Any] = []
    for rank, device in enumerate(("cpu", "meta")):
        linear = nn.Linear(3, 2, device=device)
        linear.bias.requires_grad_(False)
        model, optimizer = beginner(nn.ModuleDict({"a/b": linear}))
        if not rank:
            linear(torch.ones(1, 3)).sum().backward()
            optimizer.step()
        checkpoint.share(None, model, optimizer, OneOfThree(rank, sent=sent))
    assert {*optimizer.state} == {linear.weight}
    moments = optimizer.state[linear.weight]
    assert {name: (tensor.device.type, tuple(tensor.shape)) for name, tensor in moments.items()} == {
        "step": ("meta", ()), "exp_avg": ("meta", (2, 3)), "exp_avg_sq": ("meta", (2, 3)),
    }  # fmt: skip


def test_a_process_alone_keeps_what_it_has() -> None:
    state, pair = checkpoint.State(7), beginner(nn.Linear(3, 2))
    assert checkpoint.share(state, *pair, ALONE) is state and checkpoint.share(None, *pair, ALONE) is None
