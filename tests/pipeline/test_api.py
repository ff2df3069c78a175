"""From Python: fine-tuned from a data frame, distilled, compressed, scored, compared; every step of it logged."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

import tinydistilbert as td
from tinydistilbert.api.outcomes import TaskModel
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import toml

pytestmark = pytest.mark.long
QUICK = {
    "finetune.epochs": 4, "finetune.min_steps": 0, "finetune.optimization.learning_rate": 3e-3,
    "finetune.optimization.batch_size": 8, "finetune.baselines": False,
}  # fmt: skip


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory, reviews: Callable[[Path, int, int], Path]) -> tuple[Any, Any]:
    folder = tmp_path_factory.mktemp("reviews")
    return pd.read_csv(reviews(folder / "a.csv", 80, 0)), pd.read_csv(reviews(folder / "b.csv", 40, 1))


@pytest.fixture(scope="module")
def made(
    frames: tuple[Any, Any], teacher: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[TaskModel, TaskModel, list[dict[str, Any]]]:
    """A teacher of a data frame, a student of the teacher, and what was logged."""
    folder, events = tmp_path_factory.mktemp("api"), list[dict[str, Any]]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_CACHE", str(folder / "cache"))
        train, validation = frames
        tuned = td.finetune(
            teacher, train=train, validation=validation, text="review", label="stars", settings=QUICK,
            output=folder / "teacher", on_log=events.append, quiet=True,
        )  # fmt: skip
        student = td.distill(tuned, output=folder / "student", settings=QUICK, quiet=True)
    return tuned, student, events


def test_a_teacher_and_its_student(made: tuple[TaskModel, TaskModel, list[dict[str, Any]]], frames: Any) -> None:
    tuned, student, events = made
    assert [tuned.row, student.row] == ["model", "model (D)"] and student.columns.text == "review"
    recipe = toml.read(student.recipe_file)
    assert recipe.finetune.distillation.start == "teacher" and recipe.finetune.custom["examples"].text == "review"
    losses = [event["loss"] for event in events if "loss" in event]
    assert len(losses) == 4 * 10 and all(map(math.isfinite, losses)) and "finetune model" in str(events)
    assert any("message" in event for event in events)
    assert tuned.predict(["the tower"])[0]["label"] in ("good", "bad")
    scores = tuned.score(frames[1])
    of_run = {m.metric: m.value for m in tuned.measurements if m.model == "model"}
    assert scores["accuracy"] == of_run["accuracy"] and len(scores) == 3 and scores.examples == 40
    assert td.evaluate(tuned.model, frames[1], text="review", label="stars") == scores
    assert "accuracy" in repr(scores) and "<table>" in scores._repr_html_()
    assert tuned.page and str(tuned.page) in tuned._repr_html_() and "examples, accuracy" in repr(tuned)
    comparison = td.compare(student, tuned)
    assert comparison.differences[0].row == "model (D)" and "<table" in comparison._repr_html_()


def test_the_same_call_finds_its_run_again(
    made: tuple[TaskModel, TaskModel, list[dict[str, Any]]], frames: Any, teacher: Path, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    tuned, _, _ = made
    events: list[dict[str, Any]] = []
    again = td.finetune(
        teacher, train=frames[0], validation=frames[1], text="review", label="stars", settings=QUICK,
        output=tuned.folder, on_log=events.append, quiet=True,
    )  # fmt: skip
    assert again.model == tuned.model and not any("loss" in event for event in events)
    with pytest.raises(UserError, match="other data"):
        td.finetune(teacher, train=frames[1], text="review", label="stars", output=tuned.folder, quiet=True)


def test_compressed_and_what_was_missed_is_said(made: tuple[TaskModel, TaskModel, Any], tmp_path: Path) -> None:
    tuned, student, _ = made
    settings = {"compress.keep": [], "compress.timed_examples": 10}
    small = td.compress(student, to="1kB", teacher=tuned, settings=settings, output=tmp_path / "small", quiet=True)
    assert "instead of 1kB" in small.missed and small.model.name == "best"
    assert small.missed in small._repr_html_().replace("&#x27;", "'")
    times = {m.model for m in small.measurements if "milliseconds" in m.metric}
    assert times == {"as it is, torch", "ONNX Runtime, fp32", "int8", "teacher, torch"}
    assert small.predict("the tower")[0]["label"] in ("good", "bad")
    written = td.export(student.model, tmp_path / "exported")
    assert td.load(written).predict("the tower")[0]["label"] in ("good", "bad")


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"train": [{"text": f"a {n}", "label": "x"} for n in range(30)]}, ["two classes"]),
        ({"label": "starz"}, ["starz", "did you mean 'stars'"]),
        ({"validation": [{"review": "a", "stars": "odd"}]}, ["a class of the train split", "odd"]),
        ({"model": "/no/such/folder"}, ["/no/such/folder"]),
        ({"train": "/no/such/file.csv"}, ["/no/such/file.csv"]),
    ],
)
def test_a_mistake_is_one_line_and_leaves_nothing(
    change: dict[str, Any], parts: list[str], frames: Any, teacher: Path, tmp_path: Path
) -> None:
    given = {"model": teacher, "train": frames[0], "text": "review", "label": "stars"} | change
    if "train" in change and not isinstance(change["train"], str):
        given |= {"text": "text", "label": "label"}
    with pytest.raises(UserError) as caught:
        td.finetune(given.pop("model"), **given, output=tmp_path / "run", settings=QUICK, quiet=True)
    assert all(part in str(caught.value) for part in parts) and "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_missing_label_is_named_by_its_row(frames: Any, teacher: Path, tmp_path: Path) -> None:
    broken = frames[0].assign(stars=[None if row == 3 else value for row, value in enumerate(frames[0]["stars"])])
    with pytest.raises(UserError, match=r"row 3, column stars"):
        td.finetune(teacher, train=broken, text="review", label="stars", output=tmp_path / "run", quiet=True)
