"""What of a train split is held out: texts are drawn, not rows, so that none is both trained on and scored."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.tasks.base import Examples, Task, sample_rows
from tinydistilbert.tasks.entities import OUTSIDE, type_of, types_of

SHARE = 0.1
"""Of the different texts, where the recipe says no number."""
SEED = 0
"""One for all recipes: whatever the seed of a run, the same examples are held out."""
MOST_COPIES = 2
"""Texts with more than so many times the mean number of rows are drawn only where the others do not suffice: with one
of them, most of the rows might be lost."""


def classes_to_draw_by(examples: Examples) -> Sequence[int] | None:
    """The class of each example, of which both sides shall have some; of several labels the rarest that it has.

    An example without any of the labels has the class behind the last of them. None where there are no classes.
    """
    given = labels_given(examples)
    if given is None:
        return [*examples.columns["label"]] if examples.task.kind == "classification" else None
    counts = given.sum(0)
    rarest = np.argsort(counts, kind="stable").tolist()
    return [next((label for label in rarest if of_row[label]), len(counts)) for of_row in given]


def labels_given(examples: Examples) -> NDArray[np.int8] | None:
    """(n, labels) 0 or 1 for each of several labels, or each type of entities; None where an example has one class."""
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
    """The names of those classes."""
    return types_of(task.labels) if task.kind == "token-classification" else task.labels


@dataclass(frozen=True)
class HoldOut:
    """The rows of a train split in three parts; what is in none of the two is `left_out`."""

    scored: NDArray[np.int64]
    """One row of each text that was drawn."""
    trained: NDArray[np.int64]
    """All rows of all other texts."""
    left_out: int
    """Further rows of the texts that were drawn."""
    missing: tuple[int, ...] = ()
    """Classes without a scored row, or without one that is trained on."""


@dataclass(frozen=True)
class _Texts:
    """The different texts, in the order in which they first occur."""

    of_row: NDArray[np.integer[Any]]
    """(rows,) the text of each row."""
    copies: NDArray[np.int64]
    """(texts,) its rows."""
    labels: NDArray[np.int64]
    """(texts,) the most frequent class of its rows, the first of equally frequent ones; 0 without classes."""
    rows: NDArray[np.int64]
    """(texts,) the first row with that class."""

    def __len__(self) -> int:
        return len(self.copies)


def draw(keys: Sequence[Hashable] | NDArray[np.integer[Any]], classes: Sequence[int] | None, count: int) -> HoldOut:
    """Draw texts that are scored and not trained on; where all texts differ, these are `sample_rows` of the rows.

    Each class has a text on both sides, where it has two and the number allows it.

    Args:
        keys: the text of each row, or its number as of `Examples.text_numbers`.
        classes: the class of each row, where there are classes.
        count: of texts, less than there are; 0 = a tenth, and at least one a class.
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
    """Exchange some drawn texts, so that no class is on one side alone that has a text to spare."""
    labels = dict.fromkeys(texts.labels.tolist())
    if all({*labels} == {*np.unique(texts.labels[side]).tolist()} for side in (is_drawn, ~is_drawn)):
        return
    inside = {label: np.flatnonzero(is_drawn & (texts.labels == label)).tolist() for label in labels}
    outside = {label: np.flatnonzero(~is_drawn & (texts.labels == label)).tolist() for label in labels}
    for side in outside.values():
        side.sort(key=texts.copies.__getitem__)  # those first with which the fewest rows are lost
    # First what training lacks, which may take a class's only text from the scored ones; then what they lack.
    for lacking, having, spare in ((outside, inside, 0), (inside, outside, 1)):
        for label in [label for label, numbers in lacking.items() if not numbers]:
            richest = max(lacking, key=lambda other: len(lacking[other]))
            if len(having[label]) > spare and len(lacking[richest]) > 1:
                lacking[label].append(having[label].pop(0))
                having[richest].append(lacking[richest].pop())
    is_drawn[:] = False
    is_drawn[[number for numbers in inside.values() for number in numbers]] = True
