"""Checks of the rows of a split: texts, labels, answers and names; every error names its file and line."""

import difflib
import math
import re
from array import array
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np

from tinydistilbert.errors import UserError
from tinydistilbert.notices import notice
from tinydistilbert.tasks.answers import DROP, checked_answers
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.rows import Rows, shortened, shown
from tinydistilbert.tasks.words import WORDS

_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")
"""A number in ASCII digits."""
LONGEST_TEXT = 1_000_000
"""Maximum characters of a text: it is tokenised at once, which takes 150 bytes of memory per character."""


def check_columns(rows: Rows, wanted: Sequence[str], fix: str = "") -> None:
    """Refuse a table without the required columns; the error names the most similar existing column.

    Args:
        rows: the rows that were read.
        wanted: names of the required columns.
        fix: a fix other than renaming a column.

    Raises:
        UserError: a column is missing.
    """
    names = rows.table.column_names
    missing = [name for name in wanted if name not in names]
    if not missing:
        return
    meant = [f"did you mean {near!r} for {name!r}?" for name in missing if (near := nearest(name, names))]
    fix = " ".join([*meant, *([f"{fix}, or"] if fix else []), f"rename or add {', '.join(missing)}"])
    if len(names) == 1 and any(sign in names[0] for sign in ";\t|,"):
        fix = "separate the columns with commas (.csv) or tabs (.tsv)"
    found = shortened(", ".join(names))
    raise UserError(rows.where, expected=f"the columns {', '.join(wanted)}", found=found, fix=fix)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """Return the name in `known` that `name` probably means, ignoring case; None if none is similar."""
    plain = {other.strip().casefold(): other for other in known}
    near = difflib.get_close_matches(name.strip().casefold(), plain, n=1)
    return plain[near[0]] if near else None


def checked_columns(task: Task, split: str, rows: Rows) -> dict[str, Sequence[Any]]:
    """Check all rows and return them as columns of `Examples`.

    Args:
        task: the task with its classes; the label column has their numbers.
        split: the split of the task that the rows belong to.
        rows: rows with the columns of the task.

    Raises:
        UserError: a text is missing, or empty although it is trained on or no published data set is known to have empty
            ones (published splits are taken as they are); a label is invalid or out of range; an answer is not at its
            position; two rows have the same name.
    """
    is_published = rows.table.num_rows == task.official.get(split)
    may_be_empty = is_published or (split != task.train and bool(task.official))
    first = texts_of(rows, task.text, may_be_empty=may_be_empty)
    second = texts_of(rows, task.text_pair, may_be_empty=may_be_empty) if task.text_pair else None
    if task.kind != "span":
        for column in ("idx", "id"):
            if column not in (task.text, task.text_pair, task.label, *task.label_columns):
                _names(rows, column, may_lack=True)
        more: dict[str, Sequence[Any]] = {"text_pair": second} if second else {}
        if task.kind == "token-classification":
            more = {WORDS: [tuple(map(tuple, words)) for words in rows.values(WORDS)]}
        return {"idx": range(len(first)), "text": first, **more, "label": _labels(task, rows)}
    assert second is not None, "span tasks have a context"
    ids = [str(name) for name in _names(rows, "id", may_lack=False)]
    answers = checked_answers(task, rows, second, must_match=split == task.train)
    return {"id": ids, "question": first, "context": second, "answers": answers}


def texts_of(rows: Rows, column: str, *, may_be_empty: bool) -> Sequence[str]:
    """Check and return the texts of a column.

    Raises:
        UserError: a value is missing, not text, too long, or empty where that is not allowed.
    """
    values = rows.values(column)
    for row, value in enumerate(values):
        found = ""
        if not isinstance(value, str):
            found = shown(value)
        elif len(value) > LONGEST_TEXT:
            expected, found = f"a text of at most {LONGEST_TEXT:,} characters", f"{len(value):,}"
            raise UserError(rows.at(row, column), expected=expected, found=found, fix=f"cut it into several {DROP}")
        elif not may_be_empty and (not value or value.isspace()):
            found = "white space alone" if value else "an empty one"
        if found:
            raise UserError(rows.at(row, column), expected="a text", found=found, fix=f"fill it in {DROP}")
    return values


def _all_differ(names: Sequence[Any]) -> bool:
    """Whether all names certainly exist and differ; also for many rows, with eight bytes each."""
    kinds = {type(name) for name in names}
    if not kinds <= {str, int}:
        return False
    hashes = np.sort(np.fromiter(map(hash, names), np.int64, len(names)))
    return bool((hashes[1:] != hashes[:-1]).all())


def _names(rows: Rows, column: str, *, may_lack: bool) -> Sequence[Any]:
    """Return the unique names of the rows; their numbers if there is no such column."""
    if column not in rows.table.column_names:
        return list(range(rows.table.num_rows))
    if may_lack and _all_differ(rows.values(column)):
        return ()
    names = [None if name == "" or name != name else name for name in rows.values(column)]  # "": from CSV; NaN: pandas
    if not may_lack and all(name is None for name in names):
        notice(
            f"{rows.where}, column {column}", f"it is empty in all rows; they are numbered from 0 to {len(names) - 1:,}"
        )
        return list(range(len(names)))
    first_rows: dict[Any, int] = {}
    for row, name in enumerate(names):
        is_lacking = name is None
        if is_lacking and may_lack:
            continue
        if isinstance(name, (dict, list)):
            raise UserError(rows.at(row, column), expected="a number or a text", found=shown(name), fix="write one")
        first = first_rows.setdefault(name, row)
        if is_lacking or first != row:
            found = "nothing" if is_lacking else f"{shown(name)} again, as in {rows.location(first)}"
            fix = f"give it one{', rename the column if it does not name the examples,' * may_lack} {DROP}"
            raise UserError(rows.at(row, column), expected="a name that no other row has", found=found, fix=fix)
    return names


def number(value: Any) -> int | float | None:
    """Return a score or class number, also from text as in CSV; whole numbers as int; None if it is not a number.

    It is for measurements and for the class numbers 0, 1, … of published tasks. Class names (`classes.class_name`) and
    names of examples never go through it.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return value
    if not isinstance(value, (float, str, Decimal)) or (isinstance(value, str) and not _NUMBER.fullmatch(value)):
        return None
    parsed = float(value)
    return int(parsed) if parsed.is_integer() else parsed


def _labels(task: Task, rows: Rows) -> Sequence[Any]:
    if task.kind in ("multi-label", "token-classification"):  # already checked when their names were read
        return [tuple(label) for label in rows.values(task.label)]
    is_class = task.kind == "classification"
    low, high = (0, len(task.labels) - 1) if is_class else task.label_range
    labels: array[Any] = array("q" if is_class else "d")
    for row, value in enumerate(rows.values(task.label)):
        label = number(value)
        if label is None or not math.isfinite(label) or not low <= label <= high or (is_class and type(label) is float):
            expected = f"a number from {low} to {high}" if math.isfinite(high) else "a finite number"
            expected += f" ({', '.join(task.labels)})" if task.labels else ""
            fix = f"correct the label {DROP}" + (" (-1 marks an unlabelled test split)" if label == -1 else "")
            raise UserError(rows.at(row, task.label), expected=expected, found=shown(value), fix=fix)
        labels.append(label if is_class else float(label))
    return labels
