"""Soft labels from a file: predictions of a teacher that is not a model folder (an LLM, an API, an ensemble)."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.data.seen_texts import hashes_of
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.readers import read_rows
from tinydistilbert.tasks.row_checks import nearest, number
from tinydistilbert.tasks.rows import Rows, shortened, shown
from tinydistilbert.tasks.splits import read_split

ID = "id"
"""The column to join by if the file has no texts."""
TOLERANCE = 0.02
"""How far the sum of rounded probabilities may be from 1."""
SMALLEST = 1e-6
"""Probabilities are clipped to at least this, in multi-label tasks also to at most 1 - this: 0 has no logarithm."""
KINDS = ("classification", "multi-label")


@dataclass(frozen=True)
class SoftLabels:
    """The content of such a file."""

    by_text: bool
    keys: NDArray[np.uint64]
    """(n,) hashes of the values that each row is joined by."""
    logits: NDArray[np.float64]
    """(n, classes) or (n, labels), in the task's order."""


def joined_soft_labels(path: Path, examples: Examples, data: str | None) -> NDArray[np.float64]:
    """Return the file's logits for each example, NaN where it has none; a notice reports what found no match.

    Rows are joined by hashes of their texts or ids, so that memory holds only numbers for each row.

    Args:
        path: a table with a column for each class or label, and either the task's text columns or a column `id`.
        examples: of a task with classes; those after the train split (further texts, copies) join by text only.
        data: folder of the data sets.

    Raises:
        UserError: the file is wrong, has other classes than the task, or two rows for one example.
    """
    task = examples.task
    soft = read_soft_labels(path, task)
    keys, has_key = _keys(examples, data, soft.by_text, path)
    order = np.argsort(soft.keys)
    rows = order[np.minimum(np.searchsorted(soft.keys, keys, sorter=order), len(order) - 1)]
    joined = has_key & (soft.keys[rows] == keys)
    logits = np.full((len(examples), len(task.labels)), np.nan)
    logits[joined] = soft.logits[rows[joined]]
    with_label = int(np.isfinite(logits).all(-1).sum())
    by = "text" if soft.by_text else ID
    if not with_label:
        problem = f"none of its {len(order):,} rows matches a train example by {by}"
        raise UserError(str(path), problem=problem, fix="give the soft labels of these examples")
    text = f"joined by {by} to {with_label:,} of {len(examples):,} train examples"
    if with_label < len(examples):
        text += "; the others learn from the teacher model"
    if without := len(order) - len(np.unique(rows[joined])):
        text += f"; {counted(without, 'row')} without a match left out"
    notice(str(path), text)
    return logits


def read_soft_labels(path: Path, task: Task) -> SoftLabels:
    """Read a file of soft labels.

    Values are probabilities, which sum to 1; or whole numbers, which are votes; or, if some are negative, scores
    (logits). In multi-label tasks each label has an independent probability, or a score.

    Raises:
        UserError: the task is of another kind, the classes differ, a value is not a number or a probability, a sum is
            not 1, or a key occurs twice.
    """
    if task.kind not in KINDS:
        expected, found = " or ".join(KINDS), f"the {task.kind} task {task.title}"
        raise UserError(f"soft labels {path}", expected=expected, found=found, fix="leave them out")
    rows = read_rows(path, task.quoting)
    names = rows.table.column_names
    texts = [task.text, *([task.text_pair] if task.text_pair else [])]
    by_text = all(text in names for text in texts)
    if not by_text and ID not in names:
        columns = " and ".join(map(repr, texts))
        expected, found = f"the column {columns} or {ID!r} to join by", ", ".join(names)
        raise UserError(rows.where, expected=expected, found=shortened(found), fix="add it")
    beside = {*texts, ID, task.label}
    others = [name for name in names if name not in beside and name not in task.labels]
    missing = [name for name in task.labels if name not in names]
    if missing or others:
        near = nearest(missing[0], others) if missing else None
        found = f"without {shortened(', '.join(missing))}" if missing else f"also {shortened(', '.join(others))}"
        fix = f"did you mean {missing[0]!r} by {near!r}?" if near else "name the columns after them"
        what = "labels" if task.kind == "multi-label" else "classes"
        raise UserError(rows.where, expected=f"the {what} {', '.join(task.labels)}", found=found, fix=fix)
    values = _values(rows, task.labels)
    joined_by = texts if by_text else [ID]
    keys = _keys_of_rows(rows, joined_by)
    logits = _logits_of_labels(rows, values, task.labels) if task.kind == "multi-label" else _logits(rows, values)
    return SoftLabels(by_text, keys, logits)


def _values(rows: Rows, labels: Sequence[str]) -> NDArray[np.float64]:
    values = np.zeros((rows.table.num_rows, len(labels)))
    for place, label in enumerate(labels):
        for row, value in enumerate(rows.values(label)):
            parsed = number(value)
            if parsed is None or not math.isfinite(parsed):  # NumPy refuses whole numbers of more than 64 bits
                fix = "fill it in or drop the row"
                raise UserError(rows.at(row, label), expected="a number", found=shown(value), fix=fix)
            values[row, place] = parsed
    return values


def _are_scores(rows: Rows, values: NDArray[np.float64], function: str) -> bool:
    """Return whether the values are scores; a notice says so."""
    if negative := bool((values < 0).any()):
        notice(rows.where, f"some values are negative, so all are read as scores before a {function}")
    return negative


def _logits_of_labels(rows: Rows, values: NDArray[np.float64], labels: Sequence[str]) -> NDArray[np.float64]:
    """Return the logits of a multi-label task, whose values need not sum to 1."""
    if _are_scores(rows, values, "sigmoid"):
        return values
    above = np.argwhere(values > 1)
    if above.size:
        row, label = map(int, above[0])
        found = f"{values[row, label]:.4g} ({counted(len(above), 'such value')})"
        fix = "divide votes by the number of voters"
        raise UserError(rows.at(row, labels[label]), expected="a probability from 0 to 1", found=found, fix=fix)
    clipped = values.clip(SMALLEST, 1 - SMALLEST)
    return np.asarray(np.log(clipped) - np.log1p(-clipped))


def _logits(rows: Rows, values: NDArray[np.float64]) -> NDArray[np.float64]:
    if _are_scores(rows, values, "softmax"):
        return values
    sums = values.sum(-1)
    if (values == np.round(values)).all() and (sums > 1).any():
        notice(rows.where, "all values are whole numbers, so they are read as votes")
        wrong = np.flatnonzero(sums == 0)
    else:
        wrong = np.flatnonzero(np.abs(sums - 1) > TOLERANCE)
    if wrong.size:
        row = int(wrong[0])
        fix = "divide each row by its sum, or give votes as whole numbers"
        found = f"a sum of {sums[row]:.4g} ({counted(int(wrong.size), 'such row')})"
        raise UserError(rows.location(row), expected="probabilities that sum to 1", found=found, fix=fix)
    return np.asarray(np.log(np.maximum(values / sums[:, None], SMALLEST)))


def _keys_of_rows(rows: Rows, columns: Sequence[str]) -> NDArray[np.uint64]:
    """Return the (n,) hashes of the values in these columns; all of them must differ."""
    values = [rows.values(name) for name in columns]
    keys = hashes_of((_key(parts),) for parts in zip(*values, strict=True))
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    again = np.flatnonzero(first[which] != np.arange(len(keys)))
    if again.size:
        row, before = int(again[0]), int(first[which[again[0]]])
        found = f"{shown(_key(column[row] for column in values))} again, as in {rows.location(before)}"
        fix = "keep one row for each example"
        raise UserError(rows.at(row, columns[0]), expected=f"each {columns[0]} only once", found=found, fix=fix)
    return keys


def _keys(
    examples: Examples, data: str | None, by_text: bool, path: Path
) -> tuple[NDArray[np.uint64], NDArray[np.bool_]]:
    """Return the (n,) hashes that examples are joined by, and which have one: examples without a label have no id."""
    if by_text:
        return hashes_of((_key(texts),) for texts in examples.each_key()), np.ones(len(examples), dtype=bool)
    task = examples.task
    rows = read_split(task, task.train, data)
    if ID not in rows.table.column_names:
        problem = f"the train examples have no column {ID!r} to join {path} by"
        raise UserError(rows.where, problem=problem, fix=f"add it, or add the texts to {path}")
    ids, count = _keys_of_rows(rows, [ID]), len(examples)
    has_id = np.fromiter((label is not None for label in examples.columns["label"]), bool, count)
    indices = np.fromiter(examples.columns["idx"], np.int64, count)
    return ids[np.where(has_id, indices, 0)], has_id


def _key(values: Iterable[object]) -> str:
    """Return texts or an id without the white space that a spreadsheet or an API may have changed."""
    return "\t".join(" ".join(str(value).split()) for value in values)
