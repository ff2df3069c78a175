"""The hold-out of a train split: texts are drawn and not rows, no class is lost, and what is left out is counted."""

import random
from collections import Counter

import numpy as np
import pytest

from tinydistilbert.tasks.base import sample_rows
from tinydistilbert.tasks.hold_out import draw


@pytest.mark.parametrize("seed", range(150))
def test_every_row_is_trained_on_scored_or_counted_and_no_text_is_on_both_sides(seed: int) -> None:
    chance = random.Random(seed)
    texts, kinds, rows = chance.randint(2, 40), chance.randint(2, 6), chance.randint(2, 120)
    label_of = [chance.randrange(kinds) for _ in range(texts)]
    keys = [min(chance.randrange(texts), chance.randrange(texts)) for _ in range(rows)]
    classes = [label_of[key] if chance.random() < 0.95 else chance.randrange(kinds) for key in keys]
    different = len(set(keys))
    if different < 2:
        return
    count = chance.choice([0, chance.randint(1, different - 1)])
    parts = draw(keys, classes, count)
    scored, trained = ([keys[row] for row in side] for side in (parts.scored, parts.trained))
    assert not set(scored) & set(trained) and len(set(scored)) == len(scored)
    assert len(scored) + len(trained) + parts.left_out == rows and scored and trained
    assert set(scored) | set(trained) == set(keys), "no text is lost"
    assert len(scored) == count or not count
    if not count:
        assert len(scored) <= max(1, round(different / 10), kinds)
        assert parts.left_out + len(scored) <= 2 * len(scored) * rows / different + kinds * max(Counter(keys).values())
        label = {key: Counter(c for k, c in zip(keys, classes, strict=True) if k == key).most_common(1) for key in keys}
        several = {kind for kind, n in Counter(top[0][0] for top in label.values()).items() if n > 1}
        assert not several & set(parts.missing), "a class with two texts is on both sides"


def test_where_all_texts_differ_the_rows_are_drawn_as_ever() -> None:
    for total, count in ((300, 40), (1000, 0), (67, 0)):
        parts = draw([str(row) for row in range(total)], [row % 2 for row in range(total)], count)
        expected = sample_rows(total, count or round(total / 10), 0)
        assert np.array_equal(parts.scored, expected) and parts.left_out == 0 and not parts.missing
        assert np.array_equal(draw(range(total), None, count).scored, expected), "of numbers too"


def test_a_few_short_texts_leave_most_rows_for_training() -> None:
    texts = [f"{word} {sign}" for word in ("chair", "cloud", "table", "stone", "river", "bread") for sign in "+-"]
    keys = texts * 25
    parts = draw(keys, [text.endswith("+") for text in keys], 0)
    assert len(parts.trained) == 250 and parts.left_out == 48
    assert sorted(keys[row][-1] for row in parts.scored) == ["+", "-"], "one text of each class"


@pytest.mark.parametrize("count", [0, 30])
def test_a_text_with_most_of_the_rows_is_not_drawn(count: int) -> None:
    keys = ["ok"] * 900 + [f"a longer text {number}" for number in range(100)]
    parts = draw(keys, [row % 2 for row in range(1000)], count)
    assert len(parts.scored) == (count or 10) and parts.left_out == 0 and keys.index("ok") in parts.trained


def test_a_class_with_one_text_stays_in_training_and_is_named() -> None:
    keys, classes = [f"text {n}" for n in range(40)], [0, 1] * 19 + [2, 3]
    for count in (0, 5, 20):
        parts = draw(keys, classes, count)
        assert parts.missing == (2, 3) and {38, 39} <= set(parts.trained)


def test_a_text_is_scored_by_its_most_frequent_label() -> None:
    keys, classes = ["a", "b", "a", "a", "b", *"cdef"], [1, 0, 0, 0, 1, 0, 1, 0, 1]
    rows = {keys[row]: row for count in range(1, 6) for row in draw(keys, classes, count).scored}
    assert rows.get("a", 2) == 2 and rows.get("b", 1) == 1
