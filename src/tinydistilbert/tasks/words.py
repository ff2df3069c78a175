"""The words of a text that are tagged, and the model's tokens that represent them."""

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.tasks.entities import OUTSIDE, entities_of, type_of

WORDS = "words"
"""The column of `Examples` with the words of each text: their start and end characters."""
Word = tuple[int, int]
"""The first character of a word in its text, and the one after its last."""

_PUNCTUATION = r"!-/:-@\[-`{-~"
_ASCII_WORD = re.compile(rf"[^\s{_PUNCTUATION}]+|[{_PUNCTUATION}]")
_IDEOGRAPHS = (
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0x20000, 0x2A6DF), (0x2A700, 0x2CEAF), (0x2F800, 0x2FA1F),
)  # fmt: skip


def words_in(text: str) -> tuple[Word, ...]:
    """Return the words of a text: split at spaces, with each punctuation mark and Chinese character separate.

    BERT's tokenizer splits a text like this before it looks for pieces (Devlin et al. 2019).
    """
    if text.isascii():
        return tuple(match.span() for match in _ASCII_WORD.finditer(text))
    words: list[Word] = []
    is_open = False
    for place, sign in enumerate(text):
        if sign.isspace():
            is_open = False
        elif _is_alone(sign):
            words.append((place, place + 1))
            is_open = False
        elif is_open:
            words[-1] = (words[-1][0], place + 1)
        else:
            words.append((place, place + 1))
            is_open = True
    return tuple(words)


def _is_alone(sign: str) -> bool:
    if sign.isascii():
        return not sign.isalnum() and sign.isprintable()
    code = ord(sign)
    return unicodedata.category(sign).startswith("P") or any(first <= code <= last for first, last in _IDEOGRAPHS)


def joined(words: Sequence[str]) -> tuple[str, tuple[Word, ...]]:
    """Return words joined by spaces as one text, and their positions in it."""
    positions, begin = [], 0
    for word in words:
        positions.append((begin, begin + len(word)))
        begin += len(word) + 1
    return " ".join(words), tuple(positions)


def word_tokens(words: Sequence[Word], offsets: Sequence[tuple[int, int]]) -> NDArray[np.int32]:
    """Return for each word the first token that overlaps it; -1 if none does, as after truncation.

    Args:
        words: the words of the text, in order.
        offsets: start and end character of each token, equal for tokens that represent no text.
    """
    spans = np.array(offsets, dtype=np.int64).reshape(-1, 2)
    tokens = np.flatnonzero(spans[:, 0] < spans[:, 1])
    if not len(tokens) or not len(words):
        return np.full(len(words), -1, dtype=np.int32)
    begins, ends = spans[tokens].T
    of_words = np.array(words, dtype=np.int64)
    candidates = np.searchsorted(ends, of_words[:, 0], side="right")
    inside = np.minimum(candidates, len(tokens) - 1)
    is_there = (candidates < len(tokens)) & (begins[inside] < of_words[:, 1])
    return np.where(is_there, tokens[inside], -1).astype(np.int32)


def is_first_piece(tokens: NDArray[np.int32]) -> NDArray[np.bool_]:
    """Return (words,) whether a word has a token of its own, not shared with the previous word."""
    return np.asarray((tokens >= 0) & (np.diff(tokens, prepend=np.int32(-1)) != 0))


def read_tags(classes: NDArray[np.int64], tokens: NDArray[np.int32], labels: Sequence[str]) -> list[str]:
    """Return the IOB2 tags of a text's words.

    A word without a token is outside; one that shares its token with the previous word continues that word's tag.

    Args:
        classes: (words,) the class of each word's token.
        tokens: as returned by `word_tokens`.
        labels: the tag that each class stands for.
    """
    tags: list[str] = []
    for number, (word_class, token, is_first) in enumerate(
        zip(classes.tolist(), tokens.tolist(), is_first_piece(tokens).tolist(), strict=True)
    ):
        if token < 0:
            tags.append(OUTSIDE)
        elif is_first:
            tags.append(labels[word_class])
        else:
            before = tags[number - 1]
            tags.append(OUTSIDE if before == OUTSIDE else f"I-{type_of(before)}")
    return tags


@dataclass(frozen=True)
class WordPredictions:
    """A model's predictions for the words of a text."""

    tags: list[str]
    """IOB2 tags."""
    probabilities: NDArray[np.float64]
    """(words,) probabilities of the tags; 1 for words that the model did not read."""
    are_finite: bool


def word_predictions(logits: NDArray[np.float32], tokens: NDArray[np.int32], labels: Sequence[str]) -> WordPredictions:
    """Return the tags of a text's words from the logits of its tokens; words with non-finite logits are outside.

    Args:
        logits: (length, tags).
        tokens: as returned by `word_tokens`.
        labels: the tag that each output stands for.
    """
    of_words = logits[np.maximum(tokens, 0)].astype(np.float64)
    is_finite = np.asarray(np.isfinite(of_words).all(-1))
    is_read = (tokens >= 0) & is_finite
    tags = read_tags(of_words.argmax(-1), np.where(is_read, tokens, -1), labels)
    powers = np.exp(of_words[is_read] - of_words[is_read].max(-1, keepdims=True))
    probabilities = np.ones(len(tokens))
    probabilities[is_read] = powers.max(-1) / powers.sum(-1)
    return WordPredictions(tags, probabilities, bool(is_finite[tokens >= 0].all()))


def in_words(text: str, words: Sequence[Word], tags: Sequence[str]) -> list[str]:
    """Return the entities of a text in readable form: `Paris (LOC)`."""
    return [f"{text[words[first][0] : words[last][1]]} ({kind})" for kind, first, last in entities_of(tags)]
