"""Flags: keys of the recipe, short names of some, and the files of a task of one's own."""

from pathlib import Path

import pytest

from tinydistilbert.cli.flags import parse
from tinydistilbert.errors import UserError


def test_short_flags_stand_for_keys_of_the_recipe() -> None:
    request = parse(
        ["minilm", "--time-budget", "20m", "--seeds", "3", "4", "--select", "heldout", "--learning-rate=1e-3"]
    )
    assert request.recipe.distill.time_budget == "20m"
    assert request.recipe.finetune.seeds == (3, 4) and request.recipe.finetune.select == "heldout"
    assert request.recipe.finetune.optimization.learning_rate == 1e-3
    assert request.output == Path("runs/minilm") and not request.dry_run


def test_a_model_needs_no_recipe_and_gives_the_run_its_tasks_name() -> None:
    request = parse(["--model", "some/model", "--task", "cola", "rte", "--teacher", "a", "--dry-run"])
    finetune = request.recipe.finetune
    assert finetune.model == "some/model" and finetune.tasks == ("cola", "rte")
    assert finetune.distillation.teachers == ("a",)
    assert request.output == Path("runs/cola-rte") and request.dry_run
    assert parse(["quickstart", "--teacher", "all"]).recipe.finetune.distillation.teachers == "all"


def test_a_task_of_ones_own_is_called_after_its_train_file() -> None:
    given = ["--model", "m", "--data", "in/My Reviews.csv", "--validation", "v.csv", "--text", "t", "--label", "l"]
    request = parse([*given, "--text-pair", "u", "--kind", "regression", "--max-length", "64"])
    (name,) = request.recipe.finetune.tasks
    task = request.recipe.finetune.custom[name]
    assert name == "my-reviews" == request.recipe.name
    assert (task.train, task.validation, task.text, task.text_pair) == ("in/My Reviews.csv", "v.csv", "t", "u")
    assert (task.label, task.kind, task.max_length) == ("l", "regression", 64)
    assert request.recipe.data is None
    assert parse(["--model", "m", "--data", "squad.csv", "--text", "t", "--validation", "v"]).recipe.name == "own-squad"


def test_data_alone_is_the_folder_of_the_data_sets() -> None:
    assert parse(["minilm", "--data", "somewhere"]).recipe.data == "somewhere"


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        ([], "a recipe"),
        (["quickstart", "minilm"], "one recipe"),
        (["quickstart", "--seeds"], "a value"),
        (["quickstart", "--sed", "3"], "did you mean 'seed'"),
        (["--model", "m", "--label", "l"], "--data beside it"),
        (["--model", "m", "--task", "colla"], "did you mean 'cola'"),
        (["--model", "m", "--data", "size.csv", "--text", "t"], "validation"),
    ],
)
def test_mistakes_are_told_in_one_line(flags: list[str], part: str) -> None:
    with pytest.raises(UserError) as caught:
        parse(flags)
    assert part in str(caught.value) and "\n" not in str(caught.value)
