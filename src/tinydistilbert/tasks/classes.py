"""Class names: how a file's labels become names, and which spellings mean the same class.

A text is used as the name: `01`, `1` and `1E0` are three classes. A name is made only for values that are not text
(numbers and booleans of Parquet and JSON). Nothing is converted to a float on the way.
"""

import dataclasses
import json
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from decimal import Decimal
from typing import Any

import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.tasks.answers import DROP
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.row_checks import nearest
from tinydistilbert.tasks.rows import Rows, shortened, shown

MOST_CLASSES = 1000
"""With more distinct labels than this, the column is not accepted as classes."""
LARGEST_IN_A_FLOAT = 2**53
"""Beyond it, several whole numbers share one float, so different codes may have become equal in the file."""

_PLAIN = re.compile(r"[+-]?(0|[1-9][0-9]{0,99})(\.[0-9]{1,99})?([eE][+-]?[0-9]{1,3})?")
"""A number as programs write measurements: without leading zeros."""
_ORDERED = re.compile(r"[+-]?[0-9]{1,99}(\.[0-9]{1,99})?")
_WHOLE_WITH_POINT = re.compile(r"([+-]?[0-9]+)\.0+")
_NOT_A_LABEL = re.compile(r"[+-]?(nan|inf|infinity)", re.IGNORECASE)
"""What programs write for a missing or undefined number."""


def class_name(label: Any) -> str | None:
    """Return the class name of a label; None if it does not name a class.

    Texts are used without surrounding white space, whole numbers (including the float 2.0) in decimal form, and
    booleans as `false` and `true`. A list of one label counts as that label. Other numbers name no class.
    """
    if isinstance(label, str):
        name = label.strip()
        return None if not name or _NOT_A_LABEL.fullmatch(name) else name
    if isinstance(label, bool):
        return str(label).lower()
    if isinstance(label, list):
        return class_name(label[0]) if len(label) == 1 and not isinstance(label[0], list) else None
    if isinstance(label, int):
        return str(label)
    if isinstance(label, float):
        return str(int(label)) if label.is_integer() and abs(label) <= LARGEST_IN_A_FLOAT else None
    if isinstance(label, Decimal) and label.is_finite() and label == label.to_integral_value():
        return str(int(label))
    return None


def class_names(table: pa.Table, column: str) -> list[str] | None:
    """Return the names of numbers in a column or its lists, as `datasets` stores them in Parquet; None if unknown."""
    try:
        described = json.loads((table.schema.metadata or {})[b"huggingface"])["info"]["features"][column]
        names = described.get("feature", described)["names"]
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return [str(name) for name in names]


def refuse_unlabelled(where: str, number: Any) -> None:
    """Refuse a number below 0 in a column whose numbers have `class_names`: it is no class.

    Raises:
        UserError: the number is below 0.
    """
    if type(number) is int and number < 0:
        problem = f"the label is missing: among the numbers of a `ClassLabel`, {number} marks a row without one"
        raise UserError(where, problem=problem, fix=f"fill it in {DROP}")


def spelling_key(name: str) -> str:
    """Return a key that spellings of one class share: `True` and `true`, `1.0` and `1`; for other names, the name."""
    if name.lower() in ("true", "false"):
        return name.lower()
    whole = _WHOLE_WITH_POINT.fullmatch(name)
    return whole[1] if whole else name


def class_positions(names: Iterable[str], classes: Sequence[str]) -> dict[str, int]:
    """Return the class position of each name that is a class, by exact name or else by a unique spelling key."""
    exact = {name: position for position, name in enumerate(classes)}
    keys = Counter(map(spelling_key, classes))
    spelled = {spelling_key(name): position for position, name in enumerate(classes) if keys[spelling_key(name)] == 1}
    return {
        name: exact.get(name, spelled.get(spelling_key(name), -1))
        for name in names
        if name in exact or spelling_key(name) in spelled
    }


def classes_of(task: Task, rows: Rows) -> tuple[str, ...]:
    """Return the classes in a train split, in order: numbers by size, words alphabetically.

    If the file has both `1.0` and `1`, they count as one class, with a notice.

    Raises:
        UserError: a label is missing or not a class, or there is only one class or more than a thousand.
    """
    names = _names(task, rows)
    kept = set(names)
    classes = sorted(name for name in kept if not (_WHOLE_WITH_POINT.fullmatch(name) and spelling_key(name) in kept))
    where = f"{rows.where}, column {task.label}"
    if len(classes) == 1:
        fix = "add examples of another class"
        raise UserError(where, expected="two classes or more", found=f"{classes[0]!r} in every row", fix=fix)
    if len(classes) > MOST_CLASSES:
        fix = f"if the labels are measurements, {_regression(task)}"
        expected = f"at most {MOST_CLASSES:,} classes"
        raise UserError(where, expected=expected, found=f"{len(classes):,}", fix=fix)
    _refuse_measurements(task, rows, names)
    warn_of_twins(where, classes)
    return in_order(classes)


def in_order(names: Collection[str]) -> tuple[str, ...]:
    """Return class names in order: numbers by size, words alphabetically."""
    return tuple(sorted(names, key=(lambda n: (Decimal(n), n)) if all(map(_ORDERED.fullmatch, names)) else None))


def with_class_numbers(task: Task, rows: Rows) -> Rows:
    """Return the rows with class numbers as labels, in the order of `task.labels`.

    Raises:
        UserError: a label is missing, not a class, or not one of the task's classes.
    """
    names = _names(task, rows)
    numbers = class_positions(set(names), task.labels)
    for row, name in enumerate(names):
        if name not in numbers:
            raise unknown_class(task, rows, row, name)
    other = Counter(name for name in names if name != task.labels[numbers[name]])
    for name, count in sorted(other.items()):
        text = f"{counted(count, 'label')} {name!r} read as the class {task.labels[numbers[name]]!r}"
        notice(f"{rows.where}, column {task.label}", text)
    column = rows.table.column_names.index(task.label)
    labels = pa.array([numbers[name] for name in names], pa.int64())
    return dataclasses.replace(rows, table=rows.table.set_column(column, task.label, labels))


def unknown_class(task: Task, rows: Rows, row: int, name: str) -> UserError:
    """Return the error for a label that is not one of the task's."""
    near = nearest(name, task.labels)
    what = {"multi-label": "label", "token-classification": "tag"}.get(task.kind, "class")
    expected = f"a {what} of the train split: {shortened(', '.join(task.labels))}"
    fix = (f"did you mean {near!r}? " if near else "") + f"correct it, add it to the train split, {DROP}"
    return UserError(rows.at(row, task.label), expected=expected, found=shown(name), fix=fix)


def _regression(task: Task) -> str:
    return f'set finetune.custom.{task.name}.kind = "regression" (--kind regression)'


def _names(task: Task, rows: Rows) -> list[str]:
    """Return each row's class name, with notices that count what was changed."""
    known: dict[Any, tuple[Any, str]] = {}  # each distinct label, examined once
    names, count = list[str](), Counter[Any]()
    has_names = class_names(rows.table, task.label) is not None
    for row, label in enumerate(rows.values(task.label)):
        key = label if type(label) is str else (type(label), repr(label))
        if key not in known:
            name = class_name(label)
            if name is None:
                raise _no_class(task, rows.at(row, task.label), label)
            if has_names:
                refuse_unlabelled(rows.at(row, task.label), label)
            known[key] = label, name
        count[key] += 1
        names.append(known[key][1])
    where = f"{rows.where}, column {task.label}"
    different = [(label[0] if isinstance(label, list) else label, name, count[k]) for k, (label, name) in known.items()]
    if spaced := sum(many for label, name, many in different if isinstance(label, str) and label != name):
        notice(where, f"white space around {counted(spaced, 'label')} is not part of the class's name")
    if floats := sum(many for label, _, many in different if isinstance(label, float)):
        notice(where, f"{counted(floats, 'label')} stored as floats: 1.0 is named 1")
    if lists := sum(count[key] for key, (label, _) in known.items() if isinstance(label, list)):
        notice(where, f"{counted(lists, 'label')} in a list of one, read as that label")
    return names


def _no_class(task: Task, where: str, label: Any) -> UserError:
    expected = "a word or a whole number that names a class"
    if isinstance(label, list):
        problem = f"an example has one class here, but this row lists {counted(len(label), 'label')}: {shown(label)}"
        several = (
            f'set finetune.custom.{task.name}.kind = "multi-label" (--kind multi-label) if rows have several labels'
        )
        return UserError(where, problem=problem, fix=f"{several}, or write the one class without a list {DROP}")
    is_number = isinstance(label, (float, Decimal)) or (isinstance(label, str) and bool(label.strip()))
    if is_number and _NOT_A_LABEL.fullmatch(str(label).strip()):
        problem = f"the label is missing: programs write {str(label).strip()!r} for a missing value"
        return UserError(where, problem=problem, fix=f"fill it in {DROP}")
    if isinstance(label, float) and label.is_integer():
        problem = f"{label!r} is a float, and floats round whole numbers as long as this one"
        return UserError(where, problem=problem, fix="write the codes as texts or as integers")
    fix = f"{_regression(task)} if the labels are measurements" if is_number else f"fill it in {DROP}"
    return UserError(where, expected=expected, found=shown(label), fix=fix)


def _refuse_measurements(task: Task, rows: Rows, names: Sequence[str]) -> None:
    """Refuse fractions if all labels are numbers: they are measurements, unless one has a leading zero, as codes do."""
    different = dict.fromkeys(names)  # in row order
    if all(map(_PLAIN.fullmatch, different)):
        for name in different:
            if Decimal(name) != Decimal(name).to_integral_value():
                fix = f"{_regression(task)} if they are measurements; else put a letter into the class names: v{name}"
                where, expected = rows.at(names.index(name), task.label), "words or whole numbers that name classes"
                raise UserError(where, expected=expected, found=shown(name), fix=fix)


def warn_of_twins(where: str, classes: Sequence[str]) -> None:
    """Report classes that differ only in capitals, in Unicode encoding, or in trailing zeros."""
    groups: dict[str, list[str]] = {}
    for name in classes:
        key = unicodedata.normalize("NFKC", spelling_key(name)).casefold()
        groups.setdefault(key, []).append(name)
    twins = [group for group in groups.values() if len(group) > 1]
    if twins:
        count = counted(len(twins), "group")
        first = ", ".join(map(repr, twins[0]))
        notice(where, f"{count} of classes with nearly the same name ({shortened(first)}) kept apart")
