"""What trackers of experiments get of a training."""

import re
from typing import Any

import pytest

from tinydistilbert import progress
from tinydistilbert.api.trackers import to_mlflow, to_tensorboard, to_trackio, to_wandb

STEP = {"training": "finetune model on a", "seed": 1, "steps": 9, "step": 3, "loss": 0.5, "tokens": 40}
LINE = {"message": "evaluate: 3 s"}


class Tracker:
    """Keeps what it is given."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def add_scalar(self, *arguments: Any) -> None:
        self.calls.append(arguments)

    def log(self, numbers: dict[str, float]) -> None:
        self.calls.append((numbers,))

    def log_metrics(self, numbers: dict[str, float], step: int) -> None:
        self.calls.append((numbers, step))


def test_each_gets_the_numbers_of_a_step_in_its_form_and_nothing_of_a_line() -> None:
    name = "finetune model on a, seed 1"
    expected = {
        to_tensorboard: [(f"{name}/loss", 0.5, 3)],
        to_wandb: [({f"{name}/loss": 0.5, f"{name}/step": 3},)],
        to_trackio: [({f"{name}/loss": 0.5, f"{name}/step": 3},)],
        to_mlflow: [({"finetune model on a seed 1/loss": 0.5}, 3)],
    }
    for adapter, calls in expected.items():
        tracker = Tracker()
        with progress.listening(adapter(tracker)):
            progress.emit(**STEP)
            progress.emit(**LINE)
        progress.emit(**STEP)
        assert tracker.calls == calls


def test_names_for_mlflow_have_only_characters_that_it_takes() -> None:
    """As `mlflow.log_metrics` checks them: it raises in mid-training."""
    tracker = Tracker()
    to_mlflow(tracker)({**STEP, "training": "finetune student (D) on rte@mnli", "validation/kl": 1.0})
    ((numbers, _),) = tracker.calls
    assert sorted(numbers) == [f"finetune student D on rtemnli seed 1/{name}" for name in ("loss", "validation/kl")]
    assert all(re.fullmatch(r"[/\w.\- ]*", name) for name in numbers)


def test_nobody_listens_behind_an_error() -> None:
    heard_events: list[dict[str, Any]] = []
    with pytest.raises(KeyError), progress.listening(heard_events.append):
        raise KeyError
    progress.emit(**LINE)
    with progress.listening(None):
        progress.emit(**LINE)
    assert heard_events == []
