"""The search for the best answer: worked cases, and the exact search against a slow one."""

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydistilbert.tasks.squad import MAX_ANSWER_TOKENS, best_answers

CONTEXT = "Paris is the capital"
OFFSETS = np.array([[-1, -1], [-1, -1], [0, 5], [6, 8], [9, 12], [13, 20], [-1, -1]], dtype=np.int32)


def logits(start: list[float], end: list[float]) -> NDArray[np.float32]:
    return np.array([start, end], dtype=np.float32).T


def test_the_answer_is_the_best_pair_inside_the_context() -> None:
    # [CLS] and the question have the highest logits, and the best end lies before the best start: neither may count.
    window = logits([9, 9, 1, 0, 3, 0, 9], [9, 9, 4, 0, 0, 2.5, 9])
    found = best_answers([window], [OFFSETS], CONTEXT)
    assert [(a.text, a.score) for a in found] == [("the capital", 5.5), ("Paris", 5), ("Paris is the capital", 3.5)]


def test_windows_compete_and_a_text_is_named_once() -> None:
    low, high = logits([0] * 7, [0] * 7), logits([0, 0, 7, 0, 0, 0, 0], [0, 0, 7, 0, 0, 0, 0])
    found = best_answers([low, high], [OFFSETS, OFFSETS], CONTEXT, n_best=20)
    assert (found[0].text, found[0].score) == ("Paris", 14)
    assert len({a.text for a in found}) == len(found) == 10  # 4 + 3 + 2 + 1 spans of four tokens
    assert [a.score for a in found] == sorted((a.score for a in found), reverse=True)


def test_without_a_place_for_an_answer_it_is_empty() -> None:
    nowhere = np.full((7, 2), -1, dtype=np.int32)
    assert [a.text for a in best_answers([logits([1] * 7, [1] * 7)], [nowhere], CONTEXT)] == [""]
    assert [a.text for a in best_answers([logits([np.nan] * 7, [np.nan] * 7)], [OFFSETS], CONTEXT)] == [""]
    assert [a.text for a in best_answers([], [], CONTEXT)] == [""]


def test_no_answer_is_longer_than_the_limit() -> None:
    context = " ".join("abcdefgh"[i % 8] for i in range(60))
    offsets = np.array([[2 * i, 2 * i + 1] for i in range(60)], dtype=np.int32)
    window = logits([10.0] + [0.0] * 59, [0.0] * 59 + [10.0])
    assert max(len(a.text.split()) for a in best_answers([window], [offsets], context, n_best=50)) <= MAX_ANSWER_TOKENS


@pytest.mark.parametrize("seed", range(5))
def test_the_search_finds_what_a_slow_one_finds(seed: int) -> None:
    random = np.random.default_rng(seed)
    context = " ".join(f"w{i:02d}" for i in range(70))
    offsets = np.array([[-1, -1], *[[4 * i, 4 * i + 3] for i in range(70)], [-1, -1]], dtype=np.int32)
    window = random.normal(size=(72, 2)).astype(np.float32)
    spans = [(s, e) for s in range(1, 71) for e in range(s, min(s + MAX_ANSWER_TOKENS, 71))]
    slow = sorted(spans, key=lambda span: -(float(window[span[0], 0]) + float(window[span[1], 1])))[:3]
    expected = [context[offsets[s, 0] : offsets[e, 1]] for s, e in slow]
    assert [a.text for a in best_answers([window], [offsets], context)] == expected
