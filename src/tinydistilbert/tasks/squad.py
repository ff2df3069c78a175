"""Question answering on SQuAD (Rajpurkar et al. 2016, 2018), and how start and end logits become an answer."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from tinydistilbert.errors import UserError
from tinydistilbert.tasks.base import ScoreTable, Task
from tinydistilbert.tasks.imdb import TABLE

PUBLISHED_EXACT_MATCH = {
    "BERT-base": 81.2, "DistilBERT": 77.7, "DistilBERT (D)": 79.1, "TinyDistilBERT": 10.36, "TinyDistilBERT (D)": 10.98,
}  # fmt: skip
PUBLISHED_F1 = {
    "BERT-base": 88.5, "DistilBERT": 85.8, "DistilBERT (D)": 86.9, "TinyDistilBERT": 18.58, "TinyDistilBERT (D)": 19.62,
}  # fmt: skip
UNANSWERABLE_TABLE = ScoreTable(
    "squad2",
    "SQuAD 2.0",
    "SQuAD 2.0 (Rajpurkar et al. 2018) on its development set, in points. A question without an answer is right where "
    "the model gives none.",
    has_mean=False,
)
SQUAD = Task(
    name="squad",
    title="SQuAD",
    table=TABLE,
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
    typical_length=173,
    official={"train": 87_599, "validation": 10_570},
    published={"exact_match": PUBLISHED_EXACT_MATCH, "f1": PUBLISHED_F1},
)
SQUAD_V2 = replace(
    SQUAD,
    name="squad_v2",
    title="SQuAD 2.0",
    table=UNANSWERABLE_TABLE,
    folder="squad_v2",
    hub=("rajpurkar/squad_v2", None),
    may_lack_answer=True,
    official={"train": 130_319, "validation": 11_873},
    published={},
)
TASKS = (SQUAD, SQUAD_V2)

MAX_ANSWER_TOKENS = 30
"""Maximum answer length in tokens, as in BERT's run_squad.py."""
NULL_THRESHOLD = "null_threshold"
"""Key in the `config.json` of a model that may give no answer."""


@dataclass(frozen=True)
class SpanAnswer:
    """A span of a context as an answer, with the sum of its start and end logits."""

    text: str
    score: float
    start: int = 0
    """First character of the answer in the context."""


def best_answers(
    logits: Sequence[NDArray[np.float32]], offsets: Sequence[NDArray[np.int32]], context: str, *, n_best: int = 3
) -> list[SpanAnswer]:
    """Return the `n_best` answers with different texts over all windows of one example, best first.

    The search is exact: every pair of tokens inside the context with start <= end and at most 30 tokens is tried.
    Answers have no white space at their ends, and the highest score of their occurrences.

    Args:
        logits: for each window, (length, 2) start and end logits.
        offsets: for each window, (length, 2) first character and end of each token, (-1, -1) outside the context.
        context: the text that contains the answers.
        n_best: maximum number of answers.

    Returns:
        At least one answer: an empty one with score -inf if no window has a finite logit inside the context.
    """
    candidates: list[SpanAnswer] = []
    for window, window_offsets in zip(logits, offsets, strict=True):
        candidates += _window_answers(window, window_offsets, context, n_best)
    best: dict[str, SpanAnswer] = {}
    for answer in sorted(candidates, key=lambda answer: -answer.score):
        best.setdefault(answer.text, answer)
    return list(best.values())[:n_best] or [SpanAnswer("", -np.inf)]


def null_window(logits: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return the window of one example, each (length, 2), whose [CLS] has the lowest sum of start and end logit.

    Its [CLS] gives the score of "no answer", as in BERT's run_squad.py. The first token is [CLS] in every model family.
    """
    return min(logits, key=lambda window: float(window[0].sum()))


def null_score(logits: Sequence[NDArray[np.float32]]) -> float:
    """Return the score of "no answer" over all windows of one example, each (length, 2)."""
    return float(null_window(logits)[0].astype(np.float64).sum())


def stored_null_threshold(config: Any, where: str) -> float | None:
    """Return the null threshold in a model's config: how much higher "no answer" must score than the best answer.

    None for a model that always gives an answer.

    Args:
        config: the model's config, as a transformers object or as the content of its file.
        where: the model, for errors.

    Raises:
        UserError: it is not a finite number.
    """
    threshold = config.get(NULL_THRESHOLD) if isinstance(config, dict) else getattr(config, NULL_THRESHOLD, None)
    if threshold is None:
        return None
    if isinstance(threshold, bool) or not isinstance(threshold, (int, float)) or not np.isfinite(threshold):
        place, fix = f"{where}, config.json, key {NULL_THRESHOLD}", "correct it, or remove it"
        raise UserError(place, expected="a finite number", found=repr(threshold), fix=fix)
    return float(threshold)


def _window_answers(
    logits: NDArray[np.float32], offsets: NDArray[np.int32], context: str, n_best: int
) -> list[SpanAnswer]:
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    if inside.size == 0:
        return []
    start, end = np.where(np.isfinite(logits[inside]), logits[inside], -np.inf).astype(np.float64).T
    end = np.concatenate([end, np.full(MAX_ANSWER_TOKENS - 1, -np.inf)])
    scores = (start[:, None] + sliding_window_view(end, MAX_ANSWER_TOKENS)).ravel()  # [s, l]: from token s to s + l
    by_text: dict[str, SpanAnswer] = {}
    # Many spans may have the same text: words repeat, and a byte-level token can be a part of a character.
    for span in _best_first(scores, 8 * n_best):
        first, length = divmod(span, MAX_ANSWER_TOKENS)
        begin = int(offsets[inside[first], 0])
        piece = context[begin : offsets[inside[first + length], 1]]
        if text := piece.strip():
            by_text.setdefault(text, SpanAnswer(text, float(scores[span]), begin + piece.index(text)))
        if len(by_text) == n_best:
            break
    return list(by_text.values())


def _best_first(scores: NDArray[np.float64], count: int) -> Iterator[int]:
    """Yield indices of the finite scores, highest first, equal ones in order.

    The caller seldom needs more than about `count`, so the rest is sorted only when reached.
    """
    count = min(scores.size, count)
    least = np.partition(scores, -count)[-count]
    for part in (scores >= least, scores < least):
        indices = np.flatnonzero(part & np.isfinite(scores))
        yield from indices[np.argsort(-scores[indices], kind="stable")].tolist()
