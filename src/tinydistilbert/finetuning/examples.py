"""The examples of one fine-tuning: what it trains on, with or without labels, and what chooses an epoch."""

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
    """How many of those, which come first, have a label; only soft targets teach anything about the others."""
    selection: Examples | None = None
    """Those that choose an epoch, if any do."""
    threshold: Examples | None = None
    """Of the train split, those that choose thresholds: of several labels, or where questions may have no answer."""

    @property
    def task(self) -> Task:
        """The task, with its classes."""
        return self.train.task

    @cached_property
    def originals(self) -> Examples:
        """The examples that have a label, without copies and further texts."""
        return self.train.take(range(self.labelled)) if self.labelled < len(self.train) else self.train


def task_examples(recipe: Recipe, task: Task, soft_targets: SoftTargetSource | None) -> TaskExamples:
    """The examples that a recipe wants of a task, for a fine-tuning with soft targets or without.

    Nothing that is scored is read, unless the recipe selects as published; what is held out of the train split chooses
    an epoch and never trains.

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
    """The examples that a model is trained on, and how many of them, which come first, have a label.

    Only with `soft` targets there are others: the recipe's unlabelled texts, and the augmented copies.

    Raises:
        UserError: the data are wrong.
    """
    settings = recipe.finetune.settings(task.name)
    of_split, _ = less_threshold(recipe, recipe_examples(recipe, task, task.train, limit=settings.train_examples))
    return _with_unlabelled(recipe, of_split, augmented=augmented, soft=soft)


def _with_unlabelled(recipe: Recipe, labelled: Examples, *, augmented: Path | None, soft: bool) -> tuple[Examples, int]:
    """Labelled examples with the others behind them, and how many are labelled; see `training_examples`."""
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
    """The train examples without those that choose thresholds, and those, if there are any.

    Where some question has no answer, the null threshold is chosen by a tenth of the questions, of whole contexts, the
    same for every seed: they are not trained on and not scored. The thresholds of several labels are chosen by a tenth
    of the texts, in which every label occurs that has two. With `select = "heldout"` what chooses the epoch chooses
    them too, unless that is scored.
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
    """The rows of the questions that choose the null threshold; none where too few are left with and without answers.

    Whole contexts are drawn, or single questions where there is only one context, until they have a tenth of the
    questions, some with and some without an answer, and leave some of both.
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
