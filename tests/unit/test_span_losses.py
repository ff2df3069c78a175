"""What is lost of answers is counted: in no window, too long, several, none, and not in the context."""

import dataclasses
from typing import Any

import pytest

from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.span_losses import span_losses

CONTEXT = " ".join(["the"] * 40)


def examples(split: str, *answers: tuple[str, ...]) -> Examples:
    """Questions on 40 words; every answer begins at the first of them."""
    count = len(answers)
    columns = {
        "id": [*map(str, range(count))], "question": ["it"] * count, "context": [CONTEXT] * count,
        "answers": [{"text": [*texts], "answer_start": [0] * len(texts)} for texts in answers],
    }  # fmt: skip
    return Examples(dataclasses.replace(TASKS["squad_v2"], doc_stride=2), split, columns, count)


def of_words(count: int) -> str:
    return CONTEXT[: 4 * count - 1]


ANSWERS: list[tuple[str, ...]] = [
    (of_words(1),), (of_words(30), of_words(1)), (of_words(31),), (of_words(32),), (of_words(40), "the"), (),
]  # fmt: skip


@pytest.mark.parametrize(
    ("max_length", "expected"),
    [
        (64, ["3 of 5 train answers are longer",
              "2 of 5 train questions have several"]),
        # [CLS] it [SEP] … [SEP] leaves 35 words of the 40.
        (39, ["1 of 5 train answers fit into no window",
              "2 of 5 train answers are longer", "2 of 5 train questions have several"]),
    ],
)  # fmt: skip
def test_what_is_not_learned_is_counted(max_length: int, expected: list[str], tokenizer: Any) -> None:
    train = examples("train", *ANSWERS)
    losses = span_losses(train, encode(train, tokenizer, max_length))
    assert [loss.startswith(start) for loss, start in zip(losses, expected, strict=True)] == [True] * len(losses)


def test_what_cannot_be_given_is_counted(tokenizer: Any) -> None:
    scored = examples("validation", *ANSWERS, ("Eiffel",), ("Eiffel", "the"))
    losses = span_losses(scored, encode(scored, tokenizer, 39))
    assert [loss.split(" ")[:3] for loss in losses] == [["1", "of", "7"], ["3", "of", "7"]]
    assert "occurs in their context" in losses[0] and "longer than 30 tokens" in losses[1]


def test_where_nothing_is_lost_nothing_is_said(tokenizer: Any) -> None:
    train = examples("train", ("the",), (of_words(30),))
    features = encode(train, tokenizer, 64)
    assert span_losses(train, features) == []
    lost = examples("train", ("the",), ("the", of_words(2)))
    assert span_losses(lost, encode(lost, tokenizer, 64), total=2000)[0].startswith("about 1,000 of 2,000 train")
