"""What of a train split is held out: texts are drawn, not rows, so that none is both trained on and scored."""

from collections import Counter
from collections.abc import Hashable, Sequence
from dataclasses import dataclass

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


def classes_to_draw_by(examples: Examples) -> list[int] | None:
    """The class of each example, of which both sides shall have some; of several labels the rarest that it has.

    An example without any of the labels has the class behind the last of them. None where there are no classes.
    """
    given = labels_given(examples)
    if given is None:
        return examples.columns["label"] if examples.task.kind == "classification" else None
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
class _Text:
    """A text with its rows."""

    rows: list[int]
    label: int | None
    """The most frequent one of its rows, the first of equally frequent ones."""
    row: int
    """The first row with that label."""


def draw(keys: Sequence[Hashable], classes: Sequence[int] | None, count: int) -> HoldOut:
    """Draw texts that are scored and not trained on; where all texts differ, these are `sample_rows` of the rows.

    Each class has a text on both sides, where it has two and the number allows it.

    Args:
        keys: the text of each row.
        classes: the class of each row, where there are classes.
        count: of texts, less than there are; 0 = a tenth, and at least one a class.
    """
    texts = _texts(keys, classes)
    most = MOST_COPIES * len(keys) / len(texts)
    pool = [number for number, text in enumerate(texts) if len(text.rows) <= most]
    others = sorted(set(range(len(texts))) - set(pool), key=lambda number: len(texts[number].rows))
    several = [label for label, n in Counter(text.label for text in texts).items() if label is not None and n > 1]
    count = count or min(max(1, round(SHARE * len(texts)), len(several)), len(texts) - 1)
    pool += others[: max(0, count - len(pool))]
    drawn = [pool[index] for index in sample_rows(len(pool), count, SEED)]
    if classes is not None:
        drawn = _with_every_class(drawn, texts)
    inside = set(drawn)
    scored = np.array([texts[number].row for number in sorted(inside)], dtype=np.int64)
    trained = np.array(sorted(row for n, text in enumerate(texts) if n not in inside for row in text.rows), np.int64)
    missing: list[int] = []
    if classes is not None:
        sides = [{classes[row] for row in side} for side in (scored, trained)]
        missing = [label for label in sorted(set(classes)) if not all(label in side for side in sides)]
    return HoldOut(scored, trained, len(keys) - len(scored) - len(trained), tuple(missing))


def _texts(keys: Sequence[Hashable], classes: Sequence[int] | None) -> list[_Text]:
    """The different texts, in the order in which they first occur."""
    rows_of: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        rows_of.setdefault(key, []).append(row)
    if classes is None:
        return [_Text(rows, None, rows[0]) for rows in rows_of.values()]
    texts = []
    for rows in rows_of.values():
        label = Counter(classes[row] for row in rows).most_common(1)[0][0] if len(rows) > 1 else classes[rows[0]]
        texts.append(_Text(rows, label, next(row for row in rows if classes[row] == label)))
    return texts


def _with_every_class(drawn: Sequence[int], texts: Sequence[_Text]) -> list[int]:
    """The drawn texts, some of them exchanged, so that no class is on one side alone that has a text to spare."""
    inside = {label: list[int]() for label in dict.fromkeys(text.label for text in texts)}
    outside = {label: list[int]() for label in inside}
    chosen = set(drawn)
    for number, text in enumerate(texts):
        (inside if number in chosen else outside)[text.label].append(number)
    for side in outside.values():
        side.sort(key=lambda number: len(texts[number].rows))  # those first with which the fewest rows are lost
    # First what training lacks, which may take a class's only text from the scored ones; then what they lack.
    for lacking, having, spare in ((outside, inside, 0), (inside, outside, 1)):
        for label in [label for label, numbers in lacking.items() if not numbers]:
            richest = max(lacking, key=lambda other: len(lacking[other]))
            if len(having[label]) > spare and len(lacking[richest]) > 1:
                lacking[label].append(having[label].pop(0))
                having[richest].append(lacking[richest].pop())
    return [number for numbers in inside.values() for number in numbers]
