"""The examples of one fine-tuning: what it trains on, with or without labels, and what chooses an epoch."""

from dataclasses import dataclass, replace
from pathlib import Path

from tinydistilbert.finetuning.soft_targets import SoftTargetSource
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.unlabelled import read_unlabelled


@dataclass(frozen=True)
class TaskExamples:
    """The examples of one fine-tuning."""

    train: Examples
    labelled: int
    """How many of those, which come first, have a label; only soft targets teach anything about the others."""
    selection: Examples | None = None
    """Those that choose an epoch, if any do."""

    @property
    def task(self) -> Task:
        """The task, with its classes."""
        return self.train.task


def task_examples(recipe: Recipe, task: Task, soft_targets: SoftTargetSource | None) -> TaskExamples:
    """The examples that a recipe wants of a task, for a fine-tuning with soft targets or without.

    Nothing that is scored is read, unless the recipe selects as published; what is held out of the train split chooses
    an epoch and never trains.

    Raises:
        UserError: the data are wrong.
    """
    train, labelled = training_examples(
        recipe, task, augmented=soft_targets.augmented if soft_targets else None, soft=soft_targets is not None
    )
    settings = recipe.finetune.settings(task.name)
    if settings.select == "fixed":
        return TaskExamples(train, labelled)
    split = HELD_OUT if settings.select == "heldout" else train.task.evaluation[0]
    selection = recipe_examples(recipe, train.task, split, limit=settings.validation_examples)
    return TaskExamples(train, labelled, selection)


def training_examples(recipe: Recipe, task: Task, *, augmented: Path | None, soft: bool) -> tuple[Examples, int]:
    """The examples that a model is trained on, and how many of them, which come first, have a label.

    Only with `soft` targets there are others: the recipe's unlabelled texts, and the augmented copies.

    Raises:
        UserError: the data are wrong.
    """
    settings = recipe.finetune.settings(task.name)
    labelled = recipe_examples(recipe, task, task.train, limit=settings.train_examples)
    unlabelled = []
    if soft and settings.distillation.unlabelled:
        unlabelled.append(read_unlabelled(Path(settings.distillation.unlabelled), labelled.task))
    if soft and augmented is not None:
        unlabelled.append(read_unlabelled(augmented, labelled.task, may_be_empty=True))
    columns = {
        name: [*values, *(value for part in unlabelled for value in part.columns[name])]
        for name, values in labelled.columns.items()
    }
    return replace(labelled, columns=columns), len(labelled)
