"""Time budgets, and the allocator; the distillation itself runs in tests/pipeline."""

import sys
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests import tiny
from tinydistilbert.distillation import distill
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.types import ramp_at, seconds_of
from tinydistilbert.training import allocator
from tinydistilbert.training.device import Compute
from tinydistilbert.training.ranks import Ranks


@pytest.mark.parametrize(
    ("budget", "step", "validation", "steps"),
    [(60.0, 2.0, 10.0, 25), (60.0, 2.0, 60.0, 0), (10.0, 2.0, 11.0, 0), (7.9, 2.0, 0.0, 3)],
)
def test_steps_that_fit_into_a_budget(budget: float, step: float, validation: float, steps: int) -> None:
    assert distill.fit_steps(budget, step, validation) == steps


@dataclass(frozen=True)
class OtherRank(Ranks):
    """Rank 1 of two, which hears what rank 0 has measured."""

    received: list[Any] = field(default_factory=list)

    def broadcast(self, value: Any, source: int = 0) -> Any:
        return self.received.pop(0)


def test_the_clock_of_rank_0_alone_fits_the_steps(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ranks = OtherRank(1, 2, received=[0, 0.5, 0.25, 77])  # no schedule yet, seconds of one step and of several, steps
    setup = SimpleNamespace(validation=schema.Validation(), compute=Compute(torch.device("cpu"), "fp32", 1, ranks))
    parts: Any = SimpleNamespace(settings=schema.Distill(time_budget="1h"), setup=setup, teacher=None)
    trained: list[int] = []

    def seconds_here(_parts: object, _student: object, steps: int) -> float:
        trained.append(steps)
        return 9.0 * steps  # a slower machine

    monkeypatch.setattr(distill, "_seconds_of_steps", seconds_here)
    monkeypatch.setattr(distill, "validation_losses", lambda *_, **__: {})
    assert distill._steps_in_budget(parts, tiny.model(), tmp_path, print) == 77
    assert trained == [1, 1, distill.PROBE_STEPS] and ranks.received == [], (
        "the others train as many steps in the probe"
    )
    assert list(tmp_path.iterdir()) == [], "rank 0 alone writes"


def test_durations_and_ramps_by_hand() -> None:
    assert [seconds_of(text) for text in ("20m", "1h30m", "90s", "1.5h", "")] == [1200, 5400, 90, 5400, 0]
    assert [ramp_at((0.3, 0.15), step, 4) for step in range(4)] == pytest.approx([0.3, 0.25, 0.2, 0.15])
    assert ramp_at(2.0, 3, 4) == 2.0 and ramp_at((5.0, 1.0), 0, 1) == 5.0


def test_steps_of_a_recipe() -> None:
    optimization = schema.Optimization(batch_size=4, gradient_accumulation_steps=2)
    settings = schema.Distill(epochs=2, optimization=optimization)
    assert distill.distill_steps(settings, schema.Objective(), 100) == 25
    notebook = schema.Objective(reduction="notebook")
    assert distill.distill_steps(settings, notebook, 100) == 26  # 13 an epoch, the last of which has half of the blocks


def test_a_limit_of_steps_beyond_the_epochs_is_told(caplog: pytest.LogCaptureFixture) -> None:
    settings = schema.Distill(epochs=2, max_steps=60, optimization=schema.Optimization(batch_size=4))
    assert distill.distill_steps(settings, schema.Objective(), 200) == 60 and not caplog.messages
    assert distill.distill_steps(settings, schema.Objective(), 100) == 50
    assert [word in caplog.text for word in ("distill.max_steps", "60", "50", "distill.epochs")] == [True] * 4


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="glibc alone has these settings")
def test_freed_memory_is_kept_where_glibc_can() -> None:
    libc = pytest.importorskip("ctypes").CDLL(None)
    if not hasattr(libc, "gnu_get_libc_version"):
        pytest.skip("another C library")
    assert allocator.keep_freed_memory() is True


def test_without_glibc_nothing_happens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert allocator.keep_freed_memory() is False


def test_compiled_encoders_keep_their_weights_names(monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny.model()
    names, compiled = list(model.state_dict()), []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self: compiled.append(self))
    distill.compile_encoders(model)
    assert compiled == [model.base_model] and list(model.state_dict()) == names
