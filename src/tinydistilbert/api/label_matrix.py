"""scikit-learn targets with several labels per text: a matrix of 0 and 1, or lists of labels."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from tinydistilbert.errors import UserError
from tinydistilbert.tasks.classes import class_name

LISTS = (list, tuple, set, frozenset, np.ndarray)
FIX = "give a matrix of 0 and 1 with a column for each label, or a list of labels for each text"


def label_matrix(y: Any) -> tuple[NDArray[Any], NDArray[np.int64]] | None:
    """Return the labels, and (n, labels) of 0 and 1; None if each text has one label.

    Lists of 0 and 1 of equal length are a matrix, as in scikit-learn. The labels of a matrix are the names of a data
    frame's columns, or their numbers; those of lists are sorted.

    Raises:
        UserError: a matrix of other numbers, or labels of several types.
    """
    if (matrix := _as_array(y)) is not None:
        names = getattr(y, "columns", None)
        labels = np.arange(matrix.shape[1]) if names is None else np.asarray(names)
        _check_names(labels)
        return labels, matrix
    if sparse.issparse(y) or getattr(y, "ndim", 1) == 2:
        found = f"other values in a matrix of the shape {y.shape}"
        raise UserError("y", expected="0 or 1 for each label of each text", found=found, fix=FIX)
    rows = _as_lists(y)
    if rows is None:
        return None
    try:
        labels = np.array(sorted({label for row in rows for label in row}))
    except TypeError:
        raise UserError("y", expected="labels of one kind", found="several kinds", fix="give all as texts") from None
    _check_names(labels)
    return labels, matrix_of(rows, labels)


def indicators(y: Any, labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return (n, labels) of 0 and 1: the targets by which a model with these labels is scored.

    Raises:
        UserError: they are not such targets, or contain another label.
    """
    matrix = _as_array(y)
    rows = None if matrix is not None else _as_lists(y)
    if matrix is None and rows is not None:
        return matrix_of(rows, labels)
    if matrix is None or matrix.shape[1] != len(labels):
        found = f"the shape {np.shape(y)}"
        raise UserError("y", expected=f"0 or 1 for each of {len(labels)} labels", found=found, fix=FIX)
    return matrix


def matrix_of(rows: Sequence[Iterable[Any]], labels: NDArray[Any]) -> NDArray[np.int64]:
    """Return (n, labels) of 0 and 1.

    Raises:
        UserError: a row contains another label.
    """
    columns = {label: column for column, label in enumerate(labels.tolist())}
    matrix = np.zeros((len(rows), len(labels)), dtype=np.int64)
    for number, row in enumerate(rows):
        for label in row:
            if label not in columns:
                fix = "leave it out, or train again with it"
                raise UserError(f"y, row {number}", expected="a label of the training data", found=repr(label), fix=fix)
            matrix[number, columns[label]] = 1
    return matrix


def _as_array(y: Any) -> NDArray[np.int64] | None:
    """Return a matrix of 0 and 1 with at least two columns; None if it is not one."""
    try:
        array = np.asarray(y.toarray() if hasattr(y, "toarray") else y)
    except ValueError:  # lists of different lengths
        return None
    is_matrix = array.ndim == 2 and array.shape[1] > 1 and array.dtype.kind in "biuf"
    return array.astype(np.int64) if is_matrix and np.isin(array, (0, 1)).all() else None


def _as_lists(y: Any) -> list[list[Any]] | None:
    """Return a list of labels for each text; None if it is not such lists."""
    rows = [*y]
    if not rows or not all(isinstance(row, LISTS) for row in rows):
        return None
    return [[*row] for row in rows]


def _check_names(labels: NDArray[Any]) -> None:
    """Refuse labels that cannot be distinguished or are empty.

    Raises:
        UserError: some are.
    """
    names = [class_name(label) for label in labels.tolist()]
    if wrong := [label for label, name in zip(labels.tolist(), names, strict=True) if name is None]:
        raise UserError("y", expected="words or whole numbers as labels", found=repr(wrong[0]), fix="rename it")
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise UserError("y", expected="labels with different names", found=f"{twice!r} twice", fix="rename one")
