"""The labels of multi-label tasks: from lists, from texts with a separator, or from columns of 0 and 1."""

import ast
import dataclasses
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.schema import CustomTask
from tinydistilbert.tasks.answers import DROP
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.classes import (
    MOST_CLASSES,
    class_name,
    class_names,
    class_positions,
    in_order,
    refuse_unlabelled,
    unknown_class,
    warn_of_twins,
)
from tinydistilbert.tasks.rows import Rows, shortened, shown

_GIVEN = {"1": True, "1.0": True, "true": True, "0": False, "0.0": False, "false": False}
_OTHER_SEPARATORS = (";", ",", "/")


def with_label_lists(task: Task, split: str, rows: Rows) -> Rows:
    """Return the rows with a list of labels in the column `task.label`; notices report what was split or dropped.

    Raises:
        UserError: a value is not a list of labels, or, with one column per label, neither 0 nor 1; or the lists hold 0
            or 1 for each label instead of names.
    """
    lists = _of_columns(task, rows) if task.label_columns else _of_lists(task, split, rows)
    where = f"{rows.where}, column {task.label}"
    if repeats := sum(len(labels) - len(set(labels)) for labels in lists):
        _refuse_vectors(where, lists)
        notice(where, f"{counted(repeats, 'label')} named twice in a row, counted once")
    if empty := sum(not labels for labels in lists):
        notice(where, f"{empty:,} of {len(lists):,} rows have no label")
    column = pa.array([[*dict.fromkeys(labels)] for labels in lists], pa.list_(pa.string()))
    names = rows.table.column_names
    if task.label in names:
        table = rows.table.set_column(names.index(task.label), task.label, column)
    else:
        table = rows.table.append_column(task.label, column)
    return dataclasses.replace(rows, table=table)


def labels_of(task: Task, rows: Rows) -> tuple[str, ...]:
    """Return the labels of a train split after `with_label_lists`: in column order, else by size or alphabetically.

    Raises:
        UserError: no row has the label of a column, or there are fewer than two or more than a thousand labels.
    """
    count = Counter(name for labels in rows.values(task.label) for name in labels)
    where, total = f"{rows.where}, column {task.label}", rows.table.num_rows
    for name in task.label_columns:
        if not count[name]:
            problem = f"no train example has the label {name!r}, so it cannot be learned"
            raise UserError(f"{rows.where}, column {name}", problem=problem, fix=f"leave it out of the labels {DROP}")
    labels = task.label_columns or in_order(set(count))
    if not 2 <= len(labels) <= MOST_CLASSES:
        expected, found = f"2 to {MOST_CLASSES:,} labels", f"{len(labels):,}"
        fix = 'set kind = "classification" for a single yes-or-no label' if len(labels) == 1 else "correct them"
        raise UserError(where, expected=expected, found=found, fix=fix)
    warn_of_twins(where, labels)
    if everywhere := [name for name in labels if count[name] == total]:
        notice(where, f"every row has {shortened(', '.join(map(repr, everywhere)))}, so nothing can be learned from it")
    return tuple(labels)


def with_label_numbers(task: Task, rows: Rows) -> Rows:
    """Return the rows with 0 or 1 for each of `task.labels` instead of the list.

    Raises:
        UserError: a label is not one of the task's.
    """
    lists = rows.values(task.label)
    names = {name for labels in lists for name in labels}
    positions = class_positions(names, task.labels)
    vectors = []
    for row, labels in enumerate(lists):
        for name in labels:
            if name not in positions:
                raise unknown_class(task, rows, row, name)
        given = {positions[name] for name in labels}
        vectors.append([int(position in given) for position in range(len(task.labels))])
    other = sorted(name for name in names if name != task.labels[positions[name]])
    for name in other:
        taken = f"the label {name!r} read as {task.labels[positions[name]]!r}"
        notice(f"{rows.where}, column {task.label}", taken)
    column = rows.table.column_names.index(task.label)
    numbers = pa.array(vectors, pa.list_(pa.int8()))
    return dataclasses.replace(rows, table=rows.table.set_column(column, task.label, numbers))


def _of_columns(task: Task, rows: Rows) -> list[list[str]]:
    lists: list[list[str]] = [[] for _ in range(rows.table.num_rows)]
    for name in task.label_columns:
        for row, value in enumerate(rows.values(name)):
            given = _GIVEN.get(str(value).strip().lower())
            if given is None:
                raise UserError(rows.at(row, name), expected="0 or 1", found=shown(value), fix=f"correct it {DROP}")
            if given:
                lists[row].append(name)
    return lists


def _of_lists(task: Task, split: str, rows: Rows) -> list[list[str]]:
    values = rows.values(task.label)
    lists: list[list[str]] = []
    parted, written = 0, 0
    has_names = class_names(rows.table, task.label) is not None
    for row, value in enumerate(values):
        labels: list[Any]
        if isinstance(value, list):
            labels = value
        elif isinstance(value, str) and (parsed := written_list(value)) is not None:
            labels, written = parsed, written + 1
        elif isinstance(value, str):
            labels = [part for part in value.split(task.label_separator) if part.strip() or part != value]
            parted += len(labels) > 1
        elif value is None:
            fix = f"write an empty list for a text without a label {DROP}"
            raise UserError(rows.at(row, task.label), problem="the labels are missing", fix=fix)
        else:
            labels = [value]
        for label in labels if has_names else ():
            refuse_unlabelled(rows.at(row, task.label), label)
        lists.append(list(_names(task, rows, row, labels)))
    where = f"{rows.where}, column {task.label}"
    texts = [value for value in values if isinstance(value, str)]
    if parted:
        count = sum(map(len, lists))
        notice(where, f"{parted:,} of {len(texts):,} cells split at {task.label_separator!r}; {count:,} labels in all")
    if written:
        notice(where, f"{counted(written, 'cell')} read as a list in brackets")
    if texts and not parted and not written and split == task.train:
        _refuse_other_separator(task, where, texts)
    return lists


def _names(task: Task, rows: Rows, row: int, labels: list[Any]) -> Iterator[str]:
    for label in labels:
        name = None if isinstance(label, list) else class_name(label)
        if name is None:
            expected, fix = "a list of words or whole numbers that name labels", f"correct it {DROP}"
            raise UserError(rows.at(row, task.label), expected=expected, found=f"{shown(label)} in it", fix=fix)
        yield name


def written_list(text: str) -> list[Any] | None:
    """Parse a cell with a list such as `["a", "b"]` or, as pandas writes one, `['a', 'b']`; None for other texts."""
    text = text.strip()
    if not (text.startswith("[") and text.endswith("]")):
        return None
    try:
        parsed = json.loads(text)
    except (ValueError, RecursionError):
        try:
            parsed = ast.literal_eval(text)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return None
    return parsed if isinstance(parsed, list) else None


def _refuse_vectors(where: str, lists: list[list[str]]) -> None:
    """Refuse lists of one length with only 0 and 1, of which some repeat: read as names, they would all be two labels.

    Raises:
        UserError: the lists are such vectors.
    """
    lengths, names = {len(labels) for labels in lists}, {name.lower() for labels in lists for name in labels}
    if len(lengths) == 1 and names <= _GIVEN.keys():
        problem = f"each list has 0 or 1 for each of {lengths.pop()} labels, but not their names"
        fix = "list the names of the labels that a text has, or make a column of 0 and 1 for each label (--label A B)"
        raise UserError(where, problem=problem, fix=fix)


def _refuse_other_separator(task: Task, where: str, texts: list[str]) -> None:
    """Refuse cells if none has the default separator, the user set no other, and some have another one.

    Raises:
        UserError: this is the case.
    """
    if task.label_separator != CustomTask().label_separator:
        return
    for separator in _OTHER_SEPARATORS:
        if having := [text for text in texts if separator in text]:
            problem = (
                f"no cell has {task.label_separator!r}, but {len(having):,} have {separator!r}: {shown(having[0])}"
            )
            raise UserError(where, problem=problem, fix=f'set label_separator (--label-separator "{separator}")')
