"""The search for the best answer: worked cases, and the exact search against a slow one."""

import json

import numpy as np
import pytest
from numpy.typing import NDArray

from tinydistilbert.evaluation.scoring import read_predictions
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features
from tinydistilbert.tasks.squad import MAX_ANSWER_TOKENS, best_answers

CONTEXT = "Paris is the capital"
OFFSETS = np.array([[-1, -1], [-1, -1], [0, 5], [6, 8], [9, 12], [13, 20], [-1, -1]], dtype=np.int32)


def logits(start: list[float], end: list[float]) -> NDArray[np.float32]:
    return np.array([start, end], dtype=np.float32).T


def test_the_answer_is_the_best_pair_inside_the_context() -> None:
    # [CLS] and the question have the highest logits, and the best end lies before the best start: neither may count.
    window = logits([9, 9, 1, 0, 3, 0, 9], [9, 9, 4, 0, 0, 2.5, 9])
    answers = best_answers([window], [OFFSETS], CONTEXT)
    assert [(a.text, a.score) for a in answers] == [("the capital", 5.5), ("Paris", 5), ("Paris is the capital", 3.5)]


def test_windows_compete_and_a_text_is_named_once() -> None:
    low, high = logits([0] * 7, [0] * 7), logits([0, 0, 7, 0, 0, 0, 0], [0, 0, 7, 0, 0, 0, 0])
    answers = best_answers([low, high], [OFFSETS, OFFSETS], CONTEXT, n_best=20)
    assert (answers[0].text, answers[0].score) == ("Paris", 14)
    assert len({a.text for a in answers}) == len(answers) == 10  # 4 + 3 + 2 + 1 spans of four tokens
    assert [a.score for a in answers] == sorted((a.score for a in answers), reverse=True)


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


def test_a_text_that_comes_again_and_again_leaves_room_for_the_others() -> None:
    # A span of tokens i to j scores about 10 * (i - j): first come the 60 places of "ha", then the 59 of "ha ha".
    context = "ha " * 60 + "no"
    offsets = np.array([[3 * i, 3 * i + 2] for i in range(61)], dtype=np.int32)
    window = logits([10.01 * i for i in range(60)] + [600.0], [-10.0 * i for i in range(60)] + [-615.0])
    answers = best_answers([window], [offsets], context, n_best=4)
    assert [a.text for a in answers] == ["ha", "ha ha", "no", "ha ha ha"]


def test_of_equal_answers_the_first_in_the_context_is_taken() -> None:
    assert [a.text for a in best_answers([logits([0] * 7, [0] * 7)], [OFFSETS], CONTEXT)] == [
        "Paris", "Paris is", "Paris is the",
    ]  # fmt: skip


def test_white_space_is_no_part_of_an_answer_and_no_answer() -> None:
    # tokens that hold the space before them, and one that is nothing but space
    offsets = np.array([[0, 5], [5, 8], [8, 9], [9, 9], [9, 13]], dtype=np.int32)
    window = logits([-1, 4, 9, 9, 0], [0, 1, 9, 9, 0])
    answers = best_answers([window], [offsets], "Paris is  big", n_best=20)
    assert [(a.text, a.score) for a in answers[:2]] == [("is", 13), ("big", 9)]
    assert all(a.text == a.text.strip() != "" for a in answers)


def slow_search(
    windows: list[NDArray[np.float32]], offsets: list[NDArray[np.int32]], context: str, n_best: int
) -> list[tuple[str, float]]:
    """Every window, every start, every end: the highest score of each text."""
    best: dict[str, float] = {}
    for window, window_offsets in zip(windows, offsets, strict=True):
        for start in range(len(window_offsets)):
            for end in range(start, min(start + MAX_ANSWER_TOKENS, len(window_offsets))):
                if window_offsets[start, 0] < 0 or window_offsets[end, 0] < 0:
                    continue
                text = context[window_offsets[start, 0] : window_offsets[end, 1]].strip()
                if text:
                    best[text] = max(float(window[start, 0]) + float(window[end, 1]), best.get(text, -np.inf))
    return sorted(best.items(), key=lambda item: -item[1])[:n_best]


@pytest.mark.parametrize("n_best", [1, 3, 20])
@pytest.mark.parametrize("words", [3, 1000])
@pytest.mark.parametrize("seed", range(4))
def test_the_search_finds_what_a_slow_one_finds(seed: int, words: int, n_best: int) -> None:
    # With three words nearly every short text comes in several places. Some tokens share their place with the one
    # before, as the bytes of a character do, and windows overlap.
    random = np.random.default_rng(seed)
    context = " ".join(f"w{random.integers(words):03d}" for _ in range(60))
    count = np.sort(random.integers(60, size=80))
    tokens = np.array([[5 * i, 5 * i + 4] for i in count], dtype=np.int32)
    outside = np.full((3, 2), -1, dtype=np.int32)
    offsets = [np.concatenate([outside, tokens[a:b], outside[:1]]) for a, b in ((0, 40), (20, 60), (40, 80), (0, 0))]
    windows = [random.normal(size=window_offsets.shape).astype(np.float32) for window_offsets in offsets]
    windows[0][5:9, 0] = -np.inf
    answers = best_answers(windows, offsets, context, n_best=n_best)
    assert [(a.text, a.score) for a in answers] == slow_search(windows, offsets, context, n_best)


def test_the_best_answers_are_kept_for_each_example() -> None:
    answers = [{"text": ["the capital"], "answer_start": [9]}, {"text": ["Paris"], "answer_start": [0]}]
    columns = {"id": ["a", "b"], "question": ["?", "?"], "context": [CONTEXT, CONTEXT], "answers": answers}
    examples = Examples(TASKS["squad"], "validation", columns, 2)
    ids = [np.zeros(7, dtype=np.int32)] * 3
    features = Features(ids, ids, np.zeros((3, 2), dtype=np.int64), np.array([0, 0, 1]), [OFFSETS] * 3)
    low = logits([0, 0, 2, 0, 0, 0, 0], [0, 0, 2, 0, 0, 0, 0])
    high = logits([9, 9, 1, 0, 3, 0, 9], [9, 9, 4, 0, 0, 2.5, 9])
    predictions = read_predictions(examples, features, [low, high, low])
    assert predictions.texts == ["the capital", "Paris"]
    best = [json.loads(text) for text in predictions.extra["best"]]
    assert [(a["text"], a["score"]) for a in best[0]] == [
        ("the capital", 5.5),
        ("Paris", 5),
        ("Paris is the capital", 3.5),
    ]
    assert best[1][0] == {"text": "Paris", "score": 4} and len({answer["text"] for answer in best[1]}) == 3
