"""Teachers from elsewhere: how their outputs are read, and whether what they say goes with the labels."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.cli.flags import short_flags, value_of
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.teacher_check import check_teacher
from tinydistilbert.recipe.keys import sections
from tinydistilbert.recipe.schema import Finetune, Recipe, TaskDistillation, recipe_hash
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.compatible import check_classes

DRAW = np.random.default_rng(0)
CLASSES = ("contradiction", "entailment", "neutral")


def examples(labels: Any, kind: str = "classification", names: tuple[str, ...] = CLASSES) -> Examples:
    task = replace(TASKS["mnli"], labels=names) if kind == "classification" else TASKS["stsb"]
    return Examples(task, "train", {"label": [None if label is None else label for label in labels]}, len(labels))


def logits_of(predicted: Any, classes: int = 3) -> Any:
    return np.eye(classes)[np.asarray(predicted)]


def check(predicted: Any, labels: Any, *, order: Any = (0, 1, 2), is_given: bool = False, names: Any = CLASSES) -> None:
    check_teacher(
        "there", logits_of(predicted, len(names)), examples(labels, names=names), order=order, is_given=is_given
    )


def test_a_better_order_is_named_and_is_the_one_of_the_teachers_outputs(caplog: pytest.LogCaptureFixture) -> None:
    labels = [0, 1, 2] * 9
    # Outputs 0, 1, 2 mean entailment, neutral, contradiction, and are taken for the classes in their order.
    means = np.array([1, 2, 0])
    outputs = [int(np.flatnonzero(means == label)[0]) for label in labels]
    with pytest.raises(
        UserError, match=r"right in 0\.0%, and in 100\.0% if .* entailment, neutral, contradiction; "
    ) as error:
        check(outputs, labels)
    assert error.value.fix == "give that order: --teacher-labels entailment,neutral,contradiction"
    # Taken for other classes by a wrong order of the user's, what is right does not change.
    order = (2, 1, 0)
    read = [order.index(output) for output in outputs]
    notices.begin()
    check(read, labels, order=order, is_given=True)
    assert "if its outputs are entailment, neutral, contradiction; it is used as it is" in caplog.text


@pytest.mark.parametrize("size", [12, 200])
def test_two_classes_the_wrong_way_round(size: int) -> None:
    labels = np.arange(size) % 2
    predicted = np.where(DRAW.random(size) < (0.05 if size > 12 else 0), labels, 1 - labels)
    with pytest.raises(UserError, match=r"give that order: finetune\.distillation\.teacher_labels = .*not so, so"):
        check(predicted, labels.tolist(), order=(0, 1), names=("so", "not so, so"))


def test_good_teachers_of_any_order_in_the_file_pass(caplog: pytest.LogCaptureFixture) -> None:
    notices.begin()
    for labels in ([0, 1, 2] * 40, [0] * 100 + [1] * 10 + [2] * 10, [0, 1, None, 2] * 30, [None] * 9, [0, 1]):
        right = np.array([0 if label is None else label for label in labels])
        noisy = np.where(DRAW.random(len(labels)) < 0.04, (right + 1) % 3, right) if len(labels) > 50 else right
        check(noisy, labels)
    assert not caplog.text


def test_a_teacher_that_knows_nothing_is_refused_and_one_that_knows_little_is_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    labels = [0] * 80 + [1] * 20 + [2] * 20
    with pytest.raises(
        UserError, match=r"not above the majority class's 66\.7%; give a teacher fine-tuned on this task"
    ):
        check([0] * 120, labels)
    notices.begin()
    check([0] * 40 + [1] * 40 + [1] * 18 + [2] * 22, labels)  # finds rare classes, and is right less often than 0 alone
    assert "not above the majority class" in caplog.text


def test_scores_in_other_units_or_of_something_else_are_refused() -> None:
    labels = (DRAW.random(50) * 5).tolist()
    good = np.array(labels)[:, None] + DRAW.normal(size=(50, 1)) * 0.3
    check_teacher("there", good, examples(labels, "regression"), order=[0], is_given=False)
    for scores, message in ((good * 1e5, "other units"), (5 - good, "correlation of -0.9"), (0 * good, "of 0.00")):
        with pytest.raises(UserError, match=message):
            check_teacher("there", scores, examples(labels, "regression"), order=[0], is_given=False)
    same = examples([2.0] * 9, "regression")
    check_teacher("there", np.ones((9, 1)), same, order=[0], is_given=False)


def config(*names: str) -> Any:
    return tiny.config(id2label=dict(enumerate(names)), label2id={name: number for number, name in enumerate(names)})


def test_how_outputs_are_read_is_told(caplog: pytest.LogCaptureFixture) -> None:
    task = replace(TASKS["mnli"], labels=CLASSES)
    for names, order, text in (
        (CLASSES, None, ""),
        (
            ("LABEL_0", "LABEL_1", "LABEL_2"),
            None,
            "LABEL_2 are read as contradiction, entailment, neutral of MNLI; --teach",
        ),
        (("0", "1", "2"), None, "0, 1, 2 are read as contradiction"),
        (("ENTAILMENT", "Neutral", "contradiction "), [2, 0, 1], "are read as entailment, neutral, contradiction"),
        (("neutral", "contradiction", "entailment"), [1, 2, 0], ""),
    ):
        notices.begin()
        caplog.clear()
        assert check_classes(Path("there"), config(*names), task) == order
        assert text in caplog.text if text else not caplog.text


def test_the_user_may_say_what_the_outputs_are() -> None:
    task, unnamed = replace(TASKS["mnli"], labels=CLASSES), config("x", "y", "z")
    assert check_classes(Path("there"), unnamed, task, ("entailment", "neutral", "contradiction")) == [2, 0, 1]
    with pytest.raises(UserError, match=r"found x, y, z; .*, or name what its outputs stand for: --teacher-labels"):
        check_classes(Path("there"), unnamed, task)
    for wrong in (("entailment", "neutral"), ("entailment", "entailment", "neutral")):
        with pytest.raises(
            UserError, match=r"teacher_labels: expected the classes contradiction, entailment, neutral, f"
        ):
            check_classes(Path("there"), unnamed, task, wrong)


def test_the_flag_takes_commas_and_leaves_the_hash_of_recipes_without_it_alone() -> None:
    flag = short_flags("finetune", given_model=True)["teacher-labels"]
    assert flag == short_flags("compress", given_model=False)["teacher-labels"]
    (key,) = (key for part in sections() for key in part.keys if key.name == flag)
    assert value_of(key, "--teacher-labels", ["b,c,a"]) == value_of(key, "--teacher-labels", ["b", "c", "a"])
    labels = TaskDistillation(teacher_labels=("b", "a"))
    assert recipe_hash(Recipe(name="x", finetune=Finetune(distillation=labels))) != recipe_hash(Recipe(name="x"))
