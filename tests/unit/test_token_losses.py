"""Texts of which a tokenizer loses something that their labels may depend on."""

import dataclasses

from transformers import PreTrainedTokenizerFast

from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.token_losses import token_losses


def losses(tokenizer: PreTrainedTokenizerFast, rows: list[tuple[str, int | None]], max_length: int = 32) -> list[str]:
    columns = {"idx": list(range(len(rows))), "text": [text for text, _ in rows], "label": [label for _, label in rows]}
    examples = Examples(TASKS["sst2"], "train", columns, len(rows))
    return token_losses(examples, encode(examples, tokenizer, max_length), tokenizer)


def test_unknown_tokens_are_counted_where_they_are_many(tokenizer: PreTrainedTokenizerFast) -> None:
    (sentence,) = losses(tokenizer, [("日本 語", 0), ("the student", 1), ("the teacher", 0)])
    # [CLS] and [SEP] around three, two and two tokens: BERT makes a word of each character of Chinese.
    assert "in 1 of 3 train examples" in sentence and "23% of the tokens are [UNK]" in sentence
    rows = [("the student learns from the teacher", i % 2) for i in range(60)]
    assert losses(tokenizer, rows) == []
    assert losses(tokenizer, [*rows, ("日", 0)]) == [], "one in a few hundred is no warning"


def test_texts_that_the_tokenizer_makes_the_same_are_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    (sentence,) = losses(tokenizer, [("Paris", 0), ("paris", 1), ("the river", 1), ("The river", 1)])
    assert "2 train examples" in sentence and "'Paris' and 'paris'" in sentence
    assert losses(tokenizer, [("Paris", 0), ("paris", 0), ("paris", None)]) == [], "the labels are the same"
    assert losses(tokenizer, [("paris", 0), ("paris", 1)]) == [], "one text, which is checked elsewhere"
    (sentence,) = losses(tokenizer, [("the old house " * 9 + end, i) for i, end in enumerate(("good", "bad"))], 16)
    assert "2 train examples" in sentence, "behind the cut"


def test_of_other_tasks_only_unknown_tokens_are_counted(tokenizer: PreTrainedTokenizerFast) -> None:
    task = dataclasses.replace(TASKS["stsb"], text_pair=None)
    columns = {"idx": [0, 1], "text": ["Paris", "paris"], "label": [0.0, 5.0]}
    examples = Examples(task, "train", columns, 2)
    assert token_losses(examples, encode(examples, tokenizer, 16), tokenizer) == []
