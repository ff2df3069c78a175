"""Texts that occur twice, in the train split and a scored split or within one split: counted, reported, marked."""

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, marked, notice
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Examples, Task, folded
from tinydistilbert.tasks.columns import VALUES_AT_ONCE, taken
from tinydistilbert.tasks.recipe_splits import held_out_of_train, recipe_examples, whole_train_split
from tinydistilbert.tasks.same import among
from tinydistilbert.tasks.splits import file_of

MOST_PUBLISHED = 0.05
"""Share of the scored texts of a published data set that may be in its train split before the score is marked. It is
1.5 % for CoLA's validation split, 0.5 % for IMDb's test split, 0.4 % for STS-B's, and scores are compared with those of
others on the same splits."""


def refuse_one_file_for_two(task: Task, data: str | None) -> None:
    """Refuse a custom task whose train file is also scored.

    Raises:
        UserError: one file is used for both.
    """
    if not task.files or task.scored_share:
        return
    train, *others = ((split, file_of(task, split, data)) for split in (task.train, *task.evaluation))
    for split, file in others:
        if file and train[1] and file.samefile(train[1]):
            where, problem = f"finetune.custom.{task.name}.{split}", f"{file} is also the train file"
            fix = 'name a file with other examples, or leave it out and set finetune.score_on = "train"'
            raise UserError(where, problem=problem, fix=fix)


def shared_with_train(train: Examples, scored: Examples) -> int:
    """Return how many scored examples have a text (of pairs, both) of the train split, ignoring capitals."""
    if scored.task.is_synthetic or scored.split == HELD_OUT:
        return 0
    known, asked = train.folded_hashes, scored.folded_hashes
    in_train = np.flatnonzero(among(known, asked))  # if hashes agree, the texts decide
    likely = np.flatnonzero(among(asked, known[in_train]))
    texts = {folded(key) for part in _parts(in_train) for key in train.keys_of(part)}
    return sum(folded(key) in texts for part in _parts(likely) for key in scored.keys_of(part))


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    return (rows[begin : begin + VALUES_AT_ONCE] for begin in range(0, len(rows), VALUES_AT_ONCE))


def shared_in_words(task: Task, split: str, shared: int, scored: int) -> str:
    """Return a sentence on how many scored texts are in the train split; empty if none are."""
    return f"{shared:,} of {scored:,} scored texts of {task.title} ({split}) are in the train split" if shared else ""


def is_alarming(task: Task, shared: int, scored: int) -> bool:
    """Whether a score must be marked because its model was trained on scored texts."""
    return shared > (MOST_PUBLISHED * scored if task.official else 0)


def check_repeated(recipe: Recipe, train: Examples, scored: Iterable[Examples]) -> None:
    """Report which texts occur twice, within a split of a task or in several.

    Args:
        recipe: the recipe of the task.
        train: the task's train split; what the recipe holds out of it is read again.
        scored: the task's scored splits.

    Raises:
        UserError: all scored examples of a task are in its train split.
    """
    if train.task.is_synthetic:
        return
    scored = [*scored]
    if any(examples.sampled_from for examples in (train, *scored)):
        with marked("in a sample,"):
            _check_repeated(recipe, train, scored)
    else:
        _check_repeated(recipe, train, scored)


def _check_repeated(recipe: Recipe, train: Examples, scored: Iterable[Examples]) -> None:
    if held_out_of_train(recipe.finetune, train.task.name) is not None:
        train = whole_train_split(recipe, train.task)
    _say_what_repeats(train)
    for examples in scored:
        _say_what_repeats(examples)
        shared, task = shared_with_train(train, examples), examples.task
        if shared == len(examples):
            file = file_of(task, examples.split, recipe.data)
            where = f"finetune.custom.{task.name}.{examples.split}" if task.files else str(file or task.name)
            problem = f"all of its {shared:,} texts are also in the train split"
            fix = 'name examples that are not trained on, or set finetune.score_on = "train"'
            raise UserError(where, problem=problem, fix=fix)
        if words := shared_in_words(task, examples.split, shared, len(examples)):
            notice(
                task.name,
                f"{words}; "
                + (
                    "⚠ marks these scores"
                    if is_alarming(task, shared, len(examples))
                    else f"the scores are not marked, as these are below {MOST_PUBLISHED:.0%} of a published split"
                ),
            )


def _say_what_repeats(examples: Examples) -> None:
    """Print one notice about rows that repeat a text, contradict another row, or have no text."""
    numbers, counts = examples.text_numbers, list[str]()
    if repeats := len(examples) - int(numbers.max(initial=-1)) - 1:
        counts.append(f"{repeats:,} of {len(examples):,} rows repeat a text")
    if repeats and "label" in examples.columns:
        copies = np.bincount(numbers)
        repeated = np.flatnonzero(copies[numbers] > 1)
        labels_of: dict[int, set[Any]] = {}
        for number, label in zip(numbers[repeated].tolist(), taken(examples.columns["label"], repeated), strict=True):
            labels_of.setdefault(number, set()).add(label)
        contradicting = [number for number, labels in labels_of.items() if len(labels) > 1]
        if contradicting:
            rows = counted(int(copies[contradicting].sum()), "row")
            counts.append(f"{counted(len(contradicting), 'text')} with more than one label ({rows})")
    if empty := examples.empty_texts:
        counts.append(f"{counted(empty, 'row')} with an empty text")
    if counts:
        notice(f"{examples.task.name} {examples.split}", "; ".join(counts))


def shared_texts(recipe: Recipe, task: Task, splits: Iterable[str]) -> dict[str, int]:
    """Return by split how many of the examples that a recipe scores have a text of the whole train split.

    Raises:
        UserError: a split is missing or wrong.
    """
    wanted = [split for split in splits if split != HELD_OUT]
    if task.is_synthetic or not wanted:
        return {}
    limit = recipe.finetune.settings(task.name).validation_examples
    train = whole_train_split(recipe, task)
    return {split: shared_with_train(train, recipe_examples(recipe, task, split, limit=limit)) for split in wanted}
