"""Tasks of your own: from the recipe's section `finetune.custom`, with the classes of the train file."""

import dataclasses
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import CustomTask
from tinydistilbert.tasks.answers import DROP
from tinydistilbert.tasks.base import Kind, ScoreTable, Task
from tinydistilbert.tasks.readers import Rows, shortened, shown
from tinydistilbert.tasks.row_checks import nearest, number

MOST_CLASSES = 1000
"""With more different labels than this, the column is not taken for one of classes."""

METRICS: dict[Kind, tuple[str, ...]] = {
    "classification": ("accuracy", "macro_f1", "matthews_correlation"),
    "regression": ("pearson", "spearman", "pearson_spearman_mean"),
    "span": ("exact_match", "f1"),
}
TABLE = ScoreTable(
    "custom", "Your tasks", "Tasks from the files or data sets that the recipe names in finetune.custom, in points."
)
HEADLINES: dict[Kind, str] = {
    "classification": "accuracy", "regression": "pearson_spearman_mean", "span": "f1",
}  # fmt: skip


def custom_task(name: str, settings: CustomTask) -> Task:
    """The task that a section of the recipe describes; its classes are known when its train split is read.

    Raises:
        UserError: one column for two things.
    """
    is_span = settings.kind == "span"
    text, text_pair = settings.text, settings.text_pair or None
    if is_span:
        text, text_pair = "question" if text == CustomTask().text else text, text_pair or "context"
    columns = [text, *([text_pair] if text_pair else []), *([] if is_span else [settings.label])]
    if len(set(columns)) < len(columns):
        where, found = f"finetune.custom.{name}", ", ".join(columns)
        fix = "name the column of each of text, text_pair and label"
        raise UserError(where, problem=f"one column stands for two things: {found}", fix=fix)
    return Task(
        name=name, title=name, table=TABLE, kind=settings.kind, text=text, text_pair=text_pair,
        label=settings.label, labels=(), labels_from_data=True,
        metrics=METRICS[settings.kind], headline=HEADLINES[settings.kind],
        files={"train": settings.train, "validation": settings.validation},
        max_length=settings.max_length or (384 if is_span else 128), doc_stride=128 if is_span else 0,
        may_lack_answer=is_span,
    )  # fmt: skip


def class_name(label: Any) -> str | None:
    """The name of the class that a label stands for; None where it is none.

    Whole numbers, also 2.0, have their decimal form; truth values are `false` and `true`; words are taken without white
    space around them. Other numbers are no classes.
    """
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, str) and label.strip().lower() in ("true", "false"):
        return label.strip().lower()
    value = number(label)
    if isinstance(value, int):
        return str(value)
    return (label.strip() or None) if isinstance(label, str) and value is None else None


def classes_of(task: Task, rows: Rows) -> tuple[str, ...]:
    """The classes in a train split, in order: whole numbers by size, words by the alphabet.

    Raises:
        UserError: a label that is missing or no class, one class alone, or more than a thousand.
    """
    classes = set(_names(task, rows))
    if len(classes) == 1:
        where, fix = f"{rows.where}, column {task.label}", "add examples of another class"
        raise UserError(where, expected="two classes or more", found=f"{classes.pop()!r} in every row", fix=fix)
    if len(classes) > MOST_CLASSES:
        fix = f'if the labels are measurements, set finetune.custom.{task.name}.kind = "regression" (--kind regression)'
        expected, where = f"at most {MOST_CLASSES:,} classes", f"{rows.where}, column {task.label}"
        raise UserError(where, expected=expected, found=f"{len(classes):,}", fix=fix)
    return tuple(sorted(classes, key=int if all(map(_is_whole, classes)) else None))


def with_class_numbers(task: Task, rows: Rows) -> Rows:
    """The rows with the numbers of the classes, in the order of `task.labels`, for labels.

    Raises:
        UserError: a label that is missing, no class, or not among the task's.
    """
    numbers = {name: number for number, name in enumerate(task.labels)}
    labels = []
    for row, name in enumerate(_names(task, rows)):
        if name not in numbers:
            near = nearest(name, task.labels)
            expected = f"a class that training knows: {shortened(', '.join(task.labels))}"
            fix = (f"did you mean {near!r}? " if near else "") + f"correct it, add it to the train split, {DROP}"
            raise UserError(rows.at(row, task.label), expected=expected, found=shown(name), fix=fix)
        labels.append(numbers[name])
    column = rows.table.column_names.index(task.label)
    return dataclasses.replace(rows, table=rows.table.set_column(column, task.label, pa.array(labels, pa.int64())))


def _names(task: Task, rows: Rows) -> Iterator[str]:
    for row, label in enumerate(rows.values(task.label)):
        name = class_name(label)
        if name is None:
            is_number = number(label) is not None
            kind = f'finetune.custom.{task.name}.kind = "regression" (--kind regression)'
            fix = f"set {kind} if the labels are measurements" if is_number else f"fill it in {DROP}"
            expected = "a word or a whole number that names a class"
            raise UserError(rows.at(row, task.label), expected=expected, found=shown(label), fix=fix)
        yield name


def _is_whole(name: str) -> bool:
    return isinstance(number(name), int)
