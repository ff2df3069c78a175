"""Question answering on SQuAD v1.1 (Rajpurkar et al. 2016), and how an answer is read from start and end logits."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tinydistilbert.tasks.base import Task

TASKS = (
    Task(
        name="squad",
        title="SQuAD",
        family="squad",
        kind="span",
        text="question",
        text_pair="context",
        labels=(),
        metrics=("exact_match", "f1"),
        headline="f1",
        folder="squad",
        hub=("rajpurkar/squad", None),
        max_length=384,
        doc_stride=128,
        official={"train": 87_599, "validation": 10_570},
    ),
)

MAX_ANSWER_TOKENS = 30
"""Longest answer in tokens, as in BERT's run_squad.py."""


@dataclass(frozen=True)
class Answer:
    """A piece of a context, and the sum of its start and end logit."""

    text: str
    score: float


def best_answers(
    logits: Sequence[NDArray[np.float32]], offsets: Sequence[NDArray[np.int32]], context: str, *, n_best: int = 3
) -> list[Answer]:
    """The `n_best` answers with different texts over all windows of one example, best first.

    The search is exact: every pair of tokens inside the context with start <= end and at most 30 tokens is looked at.

    Args:
        logits: for each window, (length, 2) start and end logits.
        offsets: for each window, (length, 2) first character and end of each token, (-1, -1) outside the context.
        context: the text that answers are cut from.
        n_best: how many answers to return at most.

    Returns:
        At least one answer: the empty one with score -inf where no window has a finite logit inside the context.
    """
    found: list[Answer] = []
    for window, places in zip(logits, offsets, strict=True):
        found += _window_answers(window, places, context, n_best)
    best: dict[str, Answer] = {}
    for answer in sorted(found, key=lambda answer: -answer.score):
        best.setdefault(answer.text, answer)
    return list(best.values())[:n_best] or [Answer("", -np.inf)]


def _window_answers(logits: NDArray[np.float32], offsets: NDArray[np.int32], context: str, n_best: int) -> list[Answer]:
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    start, end = np.where(np.isfinite(logits[inside]), logits[inside], -np.inf).astype(np.float64).T
    end = np.concatenate([end, np.full(MAX_ANSWER_TOKENS - 1, -np.inf)])
    if inside.size == 0:
        return []
    scores = (start[:, None] + sliding_window_view(end, MAX_ANSWER_TOKENS)).ravel()  # [s, l]: from token s to s + l
    # Several spans may be the same text (a byte-level token is a part of a character), hence more than n_best at first.
    candidates = min(scores.size, 8 * n_best)
    top = np.sort(
        np.argpartition(-scores, candidates - 1)[:candidates]
    )  # sorted, so that of equals the first comes first
    answers = []
    for place in top[np.isfinite(scores[top])]:
        first, last = inside[place // MAX_ANSWER_TOKENS], inside[place // MAX_ANSWER_TOKENS] + place % MAX_ANSWER_TOKENS
        answers.append(Answer(context[offsets[first, 0] : offsets[last, 1]], float(scores[place])))
    return answers
