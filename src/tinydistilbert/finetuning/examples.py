"""The examples of one fine-tuning: those it trains on, with or without labels, and those that select an epoch."""

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from tinydistilbert.finetuning.soft_targets import SoftTargetSource
from tinydistilbert.notices import notice
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.tasks import HELD_OUT, hold_out
from tinydistilbert.tasks.base import Examples, Task, is_answerable
from tinydistilbert.tasks.columns import chained
from tinydistilbert.tasks.further_texts import further_texts
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.unlabelled import question_copies, read_unlabelled


@dataclass(frozen=True)
class TaskExamples:
    """The examples of one fine-tuning."""

    train: Examples
    labelled: int
    """Number of train examples with a label, which come first; the others are learned from soft targets only."""
    selection: Examples | None = None
    """The examples that select an epoch, if any."""
    threshold: Examples | None = None
    """The train examples that set thresholds: in multi-label tasks, or where questions may have no answer."""

    @property
    def task(self) -> Task:
        """The task, with its classes."""
        return self.train.task

    @cached_property
    def originals(self) -> Examples:
        """The examples that have a label, without copies and further texts."""
        return self.train.take(range(self.labelled)) if self.labelled < len(self.train) else self.train


def task_examples(recipe: Recipe, task: Task, soft_targets: SoftTargetSource | None) -> TaskExamples:
    """Return the examples of a task for a recipe's fine-tuning, with or without soft targets.

    No example that is scored is read, unless the recipe selects as published. Examples held out of the train split
    select an epoch and are never trained on.

    Raises:
        UserError: the data are wrong.
    """
    settings = recipe.finetune.settings(task.name)
    of_split, threshold = less_threshold(
        recipe, recipe_examples(recipe, task, task.train, limit=settings.train_examples)
    )
    train, labelled = _with_unlabelled(
        recipe, of_split, augmented=soft_targets.augmented if soft_targets else None, soft=soft_targets is not None
    )
    if settings.select == "fixed":
        return TaskExamples(train, labelled, threshold=threshold)
    split = HELD_OUT if settings.select == "heldout" else train.task.evaluation[0]
    selection = recipe_examples(recipe, train.task, split, limit=settings.validation_examples)
    if threshold is None and split == HELD_OUT and train.needs_threshold:
        threshold = selection
    return TaskExamples(train, labelled, selection, threshold)


def training_examples(recipe: Recipe, task: Task, *, augmented: Path | None, soft: bool) -> tuple[Examples, int]:
    """Return the examples that a model is trained on, and the number of those with a label, which come first.

    Only with `soft` targets are there examples without one: the recipe's unlabelled texts, and the augmented copies.

    Raises:
        UserError: the data are wrong.
    """
    settings = recipe.finetune.settings(task.name)
    of_split, _ = less_threshold(recipe, recipe_examples(recipe, task, task.train, limit=settings.train_examples))
    return _with_unlabelled(recipe, of_split, augmented=augmented, soft=soft)


def _with_unlabelled(recipe: Recipe, labelled: Examples, *, augmented: Path | None, soft: bool) -> tuple[Examples, int]:
    """Return labelled examples followed by unlabelled ones, and the number of the former; see `training_examples`."""
    unlabelled = []
    if soft and (texts := further_texts(recipe, labelled.task)) is not None:
        unlabelled.append(texts)
    if soft and augmented is not None and labelled.task.kind == "span":
        unlabelled.append(question_copies(augmented, labelled))
    elif soft and augmented is not None:
        unlabelled.append(read_unlabelled(augmented, labelled.task, may_be_empty=True))
    if not unlabelled:
        return labelled, len(labelled)
    columns = {
        name: chained([values, *(part.columns[name] for part in unlabelled)])
        for name, values in labelled.columns.items()
    }
    return replace(labelled, columns=columns), len(labelled)


def less_threshold(recipe: Recipe, train: Examples) -> tuple[Examples, Examples | None]:
    """Return the train examples without those that set thresholds, and those that do, if any.

    If some question has no answer, a tenth of the questions sets the null threshold. They are drawn by whole contexts,
    the same for every seed, and are neither trained on nor scored. In multi-label tasks, a tenth of the texts sets the
    thresholds; it contains every label that at least two texts have. With `select = "heldout"`, the examples that
    select the epoch also set the thresholds, unless they are scored.
    """
    finetune = recipe.finetune
    if not train.needs_threshold or (finetune.select == "heldout" and finetune.score_on != "train"):
        return train, None
    if train.task.kind == "multi-label":
        return _less_label_thresholds(train)
    rows = threshold_rows(train)
    rest = sorted({*range(len(train))} - {*rows})
    held_out = f"{len(rows):,} of {len(train):,} train questions are not trained on, to choose the null threshold"
    too_few = "too few train questions with and without an answer to hold some out, so the null threshold is 0"
    notice(train.task.title, held_out if rows else too_few)
    return train.take(rest), (train.take(rows) if rows else None)


def _less_label_thresholds(train: Examples) -> tuple[Examples, Examples | None]:
    if not train.text_numbers.any():
        notice(train.task.title, "there is only one train text, so the threshold of each label is 0.5")
        return train, None
    parts = hold_out.draw(train.text_numbers, hold_out.classes_to_draw_by(train), 0)
    held_out = f"{len(parts.scored):,} of {len(train):,} train texts are not trained on, to choose the thresholds"
    left_out = f"; {parts.left_out:,} rows that repeat one of them are left out" if parts.left_out else ""
    notice(train.task.title, held_out + left_out)
    return train.take(parts.trained), train.take(parts.scored)


def threshold_rows(train: Examples) -> list[int]:
    """Return the rows of the questions that set the null threshold; none if there are too few of either kind.

    Whole contexts are drawn, or single questions if there is only one context, until they hold a tenth of the
    questions, some with and some without an answer; some of both kinds must remain.
    """
    contexts, answerable = train.columns["context"], [is_answerable(a) for a in train.columns["answers"]]
    keys = contexts if len(set(contexts)) > 1 else range(len(train))
    groups: dict[Any, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(key, []).append(row)
    wanted, taken = max(1, round(hold_out.SHARE * len(train))), set[int]()
    left = [answerable.count(False), answerable.count(True)]
    drawn = [0, 0]
    members = list(groups.values())
    for index in np.random.default_rng(hold_out.SEED).permutation(len(members)):
        group = members[index]
        kinds = [sum(not answerable[row] for row in group), sum(answerable[row] for row in group)]
        is_needed = len(taken) < wanted or any(kinds[kind] and not drawn[kind] for kind in (0, 1))
        if is_needed and all(left[kind] > kinds[kind] or not kinds[kind] for kind in (0, 1)):
            taken |= {*group}
            left = [before - now for before, now in zip(left, kinds, strict=True)]
            drawn = [before + now for before, now in zip(drawn, kinds, strict=True)]
    return sorted(taken) if all(drawn) else []
