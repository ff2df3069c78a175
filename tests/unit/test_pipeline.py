"""The stages of a run: which ones a recipe has, and that a run is data until something asks for more."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.run import STAGES, claimed, run_context, stage_names
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.training.ranks import Ranks


def recipe_with(**changes: object) -> Recipe:
    return toml.from_dict(changes, "test")


def test_a_recipe_has_the_stages_up_to_the_one_asked_for() -> None:
    every = tuple(stage.name for stage in STAGES)
    assert stage_names(Recipe(), "report") == every and stage_names(Recipe(), "distill") == every[:3]
    with pytest.raises(UserError, match=r"prepare.*'distil'; did you mean distill"):
        stage_names(Recipe(), "distil")


@pytest.mark.parametrize(
    ("recipe", "stages"),
    [
        (recipe_with(finetune={"model": "m", "tasks": ["cola"]}), ("finetune", "evaluate", "compress", "report")),
        (recipe_with(finetune={"tasks": ["cola"]}, compress={"model": "m", "tasks": ["cola"]}), ("compress", "report")),
    ],
)
def test_a_given_model_needs_no_text_and_no_student(recipe: Recipe, stages: tuple[str, ...]) -> None:
    assert stage_names(recipe, "report") == stages


def wrong(folder: Path, **changes: object) -> RunContext:
    return run_context(recipe_with(**changes), folder / "run", until="report", log=pytest.fail)


MISTAKES: dict[str, Callable[[Path], RunContext]] = {
    "abacus": lambda folder: wrong(folder, device="abacus"),
    "nowhere": lambda folder: wrong(folder, data=str(folder / "nowhere")),
    "no-teacher": lambda folder: wrong(folder, teacher={"model": str(folder / "no-teacher")}),
}


@pytest.mark.parametrize("word", MISTAKES)
def test_a_run_is_made_without_a_look_at_its_inputs_and_refused_before_anything_is_written(
    word: str, tmp_path: Path
) -> None:
    run = MISTAKES[word](tmp_path)
    with pytest.raises(UserError, match=word), claimed(run):
        pytest.fail("claimed")
    assert list(tmp_path.iterdir()) == []


@dataclass(frozen=True)
class MainOfTwo(Ranks):
    """Rank 0, whose other process differs."""

    differs: dict[str, str] = field(default_factory=dict)

    def broadcast(self, value: dict[str, str], source: int = 0) -> dict[str, str]:
        return value | self.differs if source else value


@pytest.mark.parametrize(
    "name", ["version", "torch", "device", "precision", "--output", "last stage", "distill.epochs"]
)
def test_processes_that_were_not_started_for_the_same_are_refused(name: str, tmp_path: Path) -> None:
    recipe = Recipe(device="cpu")
    run = run_context(recipe, tmp_path, until="report", log=pytest.fail)
    run.__dict__["ranks"] = MainOfTwo(0, 2, differs={name: "another"})
    with pytest.raises(UserError, match=rf"launcher: rank 1 has {name} = another, rank 0 {name} = \S+"):
        run.check_alike()


def test_a_launcher_is_refused_where_it_has_nothing_to_share_or_too_many_processes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(until: str) -> None:
        run_context(Recipe(), tmp_path, until=until, log=pytest.fail).check_machine()

    monkeypatch.setenv("WORLD_SIZE", "2")
    check("report")
    with pytest.raises(UserError, match=r"prepare: expected one process, found 2, by a launcher"):
        check("prepare")
    monkeypatch.setenv("WORLD_SIZE", "5000")
    with pytest.raises(UserError, match=r"there are 5000 processes, but a step of distill"):
        check("distill")
    monkeypatch.setenv("WORLD_SIZE", "two")
    with pytest.raises(UserError, match=r"WORLD_SIZE: .*'two'"):
        check("report")
