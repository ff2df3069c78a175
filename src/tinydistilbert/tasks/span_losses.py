"""Answers of a span task that a model cannot learn or give: counted, one sentence each."""

from collections.abc import Iterator

import numpy as np

from tinydistilbert.tasks.base import Examples, is_answerable
from tinydistilbert.tasks.encoding import Features
from tinydistilbert.tasks.squad import MAX_ANSWER_TOKENS


def span_losses(examples: Examples, features: Features, *, total: int = 0) -> list[str]:
    """Return what of train answers is not learned, or of scored answers cannot be predicted.

    Args:
        examples: examples of a span task; other tasks have no such losses.
        features: the windows of the examples.
        total: if these are a sample, the number of all examples; the counts are then estimates for all.
    """
    if examples.task.kind != "span" or not len(examples):
        return []
    scale = total / len(examples) if total > len(examples) else 1.0
    about = "about " if scale > 1 else ""

    def share(count: int, of: int, what: str) -> str:
        return f"{about}{round(scale * count):,} of {round(scale * of):,} {examples.split} {what}"

    is_train = examples.split == examples.task.train
    sentences = _train_losses(examples, features) if is_train else _scoring_losses(examples, features)
    return [share(count, of, what) for count, of, what in sentences if count]


def _train_losses(examples: Examples, features: Features) -> Iterator[tuple[int, int, str]]:
    answers = examples.columns["answers"]
    answered = sum(map(is_answerable, answers))
    nowhere, long = _whole(examples, features)
    several = sum(len({*zip(a["text"], a["answer_start"], strict=True)}) > 1 for a in answers)
    yield nowhere, answered, "answers fit into no window and are learned as no answer; a larger max_length reads more"
    yield long, answered, f"answers are longer than the {MAX_ANSWER_TOKENS} tokens that an answer may have"
    yield several, answered, "questions have several answers; the first is learned"


def _scoring_losses(examples: Examples, features: Features) -> Iterator[tuple[int, int, str]]:
    answers = examples.columns["answers"]
    answered = sum(map(is_answerable, answers))
    nowhere, long = _whole(examples, features)
    elsewhere = sum(
        is_answerable(answer) and not any(text in context for text in answer["text"])
        for answer, context in zip(answers, examples.columns["context"], strict=True)
    )
    yield elsewhere, answered, "questions have no answer that occurs in their context"
    yield nowhere + long, answered, f"first answers are longer than {MAX_ANSWER_TOKENS} tokens or fit into no window"


def _whole(examples: Examples, features: Features) -> tuple[int, int]:
    """Return how many first answers fit into no window, and how many that fit are too long to be predicted."""
    lengths = np.where(features.labels[:, 0] > 0, features.labels[:, 1] - features.labels[:, 0] + 1, 0)
    longest = np.zeros(len(examples), dtype=np.int64)
    np.maximum.at(longest, features.example, lengths)
    answered = np.array([is_answerable(answer) for answer in examples.columns["answers"]])
    return int((answered & (longest == 0)).sum()), int((answered & (longest > MAX_ANSWER_TOKENS)).sum())
