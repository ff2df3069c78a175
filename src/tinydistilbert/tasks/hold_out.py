"""The hold-out of a train split: texts are drawn, not rows, so that no text is both trained on and scored."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.tasks.base import Examples, Task, sample_rows
from tinydistilbert.tasks.entities import OUTSIDE, type_of, types_of

SHARE = 0.1
"""Share of the distinct texts, if the recipe gives no number."""
SEED = 0
"""The same for all recipes: whatever the seed of a run, the same examples are held out."""
MOST_COPIES = 2
"""Texts with more than this many times the mean number of rows are drawn only if the others do not suffice: one of them
could cost most of the rows."""


def classes_to_draw_by(examples: Examples) -> Sequence[int] | None:
    """Return the class of each example that both sides should have; for several labels, the example's rarest one.

    An example without any label has an additional class after the last label. None if there are no classes.
    """
    given = labels_given(examples)
    if given is None:
        return [*examples.columns["label"]] if examples.task.kind == "classification" else None
    counts = given.sum(0)
    rarest = np.argsort(counts, kind="stable").tolist()
    return [next((label for label in rarest if of_row[label]), len(counts)) for of_row in given]


def labels_given(examples: Examples) -> NDArray[np.int8] | None:
    """Return (n, labels) 0 or 1 for each of several labels, or entity types; None if an example has one class."""
    if examples.task.kind == "multi-label":
        return np.array(examples.columns["label"], dtype=np.int8)
    if examples.task.kind != "token-classification":
        return None
    types = types_of(examples.task.labels)
    of_tags = [types.index(type_of(tag)) if tag != OUTSIDE else -1 for tag in examples.task.labels]
    given = np.zeros((len(examples), len(types)), dtype=np.int8)
    for row, tags in zip(given, examples.columns["label"], strict=True):
        row[[of_tags[tag] for tag in {*tags} if of_tags[tag] >= 0]] = 1
    return given


def names_to_draw_by(task: Task) -> tuple[str, ...]:
    """Return the names of the classes of `classes_to_draw_by`."""
    return types_of(task.labels) if task.kind == "token-classification" else task.labels


@dataclass(frozen=True)
class HoldOut:
    """The rows of a train split in three parts: scored, trained on, and `left_out`."""

    scored: NDArray[np.int64]
    """One row of each drawn text."""
    trained: NDArray[np.int64]
    """All rows of all other texts."""
    left_out: int
    """Number of further rows of the drawn texts."""
    missing: tuple[int, ...] = ()
    """Classes without a scored row or without a trained row."""


@dataclass(frozen=True)
class _Texts:
    """The distinct texts, in order of first occurrence."""

    of_row: NDArray[np.integer[Any]]
    """(rows,) the text of each row."""
    copies: NDArray[np.int64]
    """(texts,) the number of rows of each text."""
    labels: NDArray[np.int64]
    """(texts,) the most frequent class of its rows, the first of equally frequent ones; 0 without classes."""
    rows: NDArray[np.int64]
    """(texts,) the first row with that class."""

    def __len__(self) -> int:
        return len(self.copies)


def draw(keys: Sequence[Hashable] | NDArray[np.integer[Any]], classes: Sequence[int] | None, count: int) -> HoldOut:
    """Draw texts that are scored and not trained on; if all texts differ, these are `sample_rows` of the rows.

    Each class with two texts has one on both sides, if the number allows it.

    Args:
        keys: the text of each row, or its number as in `Examples.text_numbers`.
        classes: the class of each row, if there are classes.
        count: number of texts, fewer than there are; 0 = a tenth, and at least one per class.
    """
    texts = _texts(keys, classes)
    most = MOST_COPIES * len(keys) / len(texts)
    pool = np.flatnonzero(texts.copies <= most)
    others = np.flatnonzero(texts.copies > most)
    others = others[np.argsort(texts.copies[others], kind="stable")]
    several = int((np.bincount(texts.labels) > 1).sum()) if classes is not None else 0
    count = count or min(max(1, round(SHARE * len(texts)), several), len(texts) - 1)
    pool = np.concatenate([pool, others[: max(0, count - len(pool))]])
    is_drawn = np.zeros(len(texts), dtype=bool)
    is_drawn[pool[sample_rows(len(pool), count, SEED)]] = True
    if classes is not None:
        _give_every_class(is_drawn, texts)
    scored = texts.rows[is_drawn]
    trained = np.flatnonzero(~is_drawn[texts.of_row])
    missing: list[int] = []
    if classes is not None:
        of_row = np.asarray(classes, dtype=np.int64)
        sides = [{*np.unique(of_row[side]).tolist()} for side in (scored, trained)]
        missing = [label for label in np.unique(of_row).tolist() if not all(label in side for side in sides)]
    return HoldOut(scored, trained, len(keys) - len(scored) - len(trained), tuple(missing))


def _texts(keys: Sequence[Hashable] | NDArray[np.integer[Any]], classes: Sequence[int] | None) -> _Texts:
    if isinstance(keys, np.ndarray):
        of_row: NDArray[np.integer[Any]] = keys
    else:
        numbers: dict[Hashable, int] = {}
        of_row = np.array([numbers.setdefault(key, len(numbers)) for key in keys], dtype=np.int64)
    copies = np.bincount(of_row)
    order = np.argsort(of_row, kind="stable")
    begins = np.cumsum(copies) - copies
    rows = order[begins]
    if classes is None:
        return _Texts(of_row, copies, np.zeros(len(copies), dtype=np.int64), rows)
    of_class = np.asarray(classes, dtype=np.int64)
    labels = of_class[rows]
    for text in np.flatnonzero(copies > 1).tolist():
        same = order[begins[text] : begins[text] + copies[text]].tolist()
        labels[text] = Counter(int(of_class[row]) for row in same).most_common(1)[0][0]
        rows[text] = next(row for row in same if of_class[row] == labels[text])
    return _Texts(of_row, copies, labels, rows)


def _give_every_class(is_drawn: NDArray[np.bool_], texts: _Texts) -> None:
    """Exchange some drawn texts, so that each class with a text to spare is on both sides."""
    labels = dict.fromkeys(texts.labels.tolist())
    if all({*labels} == {*np.unique(texts.labels[side]).tolist()} for side in (is_drawn, ~is_drawn)):
        return
    inside = {label: np.flatnonzero(is_drawn & (texts.labels == label)).tolist() for label in labels}
    outside = {label: np.flatnonzero(~is_drawn & (texts.labels == label)).tolist() for label in labels}
    for side in outside.values():
        side.sort(key=texts.copies.__getitem__)  # first those that cost the fewest rows
    # First the classes that training lacks, even if the scored side loses its only text; then those it lacks.
    for lacking, having, spare in ((outside, inside, 0), (inside, outside, 1)):
        for label in [label for label, numbers in lacking.items() if not numbers]:
            richest = max(lacking, key=lambda other: len(lacking[other]))
            if len(having[label]) > spare and len(lacking[richest]) > 1:
                lacking[label].append(having[label].pop(0))
                having[richest].append(lacking[richest].pop())
    is_drawn[:] = False
    is_drawn[[number for numbers in inside.values() for number in numbers]] = True
