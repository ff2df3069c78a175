"""The words of texts that can be replaced: their place in the text, and their tokens."""

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int
from tokenizers import Encoding
from transformers import PreTrainedTokenizerFast

from tinydistilbert.tasks.encoding import CHUNK

JOINTS = "'’."
"""Characters that join a word to the letters before it: don't, U.S."""


@dataclass(frozen=True)
class Words:
    """The words of examples, and their tokens, one example after another."""

    token_ends: Int[np.ndarray, " examples_and_one"]
    """The tokens of example i are those from token_ends[i] to before token_ends[i + 1]."""
    input_ids: Int[np.ndarray, " tokens"]
    token_type_ids: Int[np.ndarray, " tokens"]
    word: Int[np.ndarray, " tokens"]
    """Number of the word that the token belongs to, from 0 in each example; -1 if it belongs to none."""
    word_ends: Int[np.ndarray, " examples_and_one"]
    """The words of example i are those from word_ends[i] to before word_ends[i + 1]."""
    second: Bool[np.ndarray, " words"]
    """Whether the word is in the second text of a pair."""
    begin: Int[np.ndarray, " words"]
    """First character."""
    end: Int[np.ndarray, " words"]
    """Character after the last one."""


def find_words(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: PreTrainedTokenizerFast, max_length: int
) -> Words:
    """Return the words of each example that consist of letters only, of one or several pieces.

    Numbers do not count as words, nor do the t of don't and the letters of U.S.

    Args:
        texts: first texts.
        pairs: second texts, if any, as many as first ones.
        tokenizer: cuts them into tokens.
        max_length: tokens of an example; words that are not wholly among them are left out.
    """
    ids, types, numbers, spans = [], [], [], []
    for begin in range(0, len(texts), CHUNK):
        part = slice(begin, begin + CHUNK)
        examples = list(zip(texts[part], *([pairs[part]] if pairs else []), strict=True))
        encoded = tokenizer(
            texts[part], pairs[part] if pairs else None, truncation=True, max_length=max_length,
            return_token_type_ids=True, return_attention_mask=False,
        )  # fmt: skip
        for example, encoding in zip(examples, encoded.encodings, strict=True):
            words = list(_words_of(encoding, example))
            number = np.full(len(encoding.ids), -1, dtype=np.int32)
            for index, word in enumerate(words):
                number[word.tokens] = index
            ids.append(np.array(encoding.ids, dtype=np.int32))
            types.append(np.array(encoding.type_ids, dtype=np.int8))
            numbers.append(number)
            spans.append(np.array([(word.text, word.begin, word.end) for word in words], np.int32).reshape(-1, 3))
    second, begins, ends = np.concatenate(spans).T
    return Words(
        _ends(ids), np.concatenate(ids), np.concatenate(types), np.concatenate(numbers),
        _ends(spans), second == 1, begins, ends,
    )  # fmt: skip


def _ends(rows: Sequence[np.ndarray]) -> Int[np.ndarray, " rows_and_one"]:
    return np.cumsum([0, *map(len, rows)])


@dataclass
class _Word:
    text: int
    """0, or 1 in the second text of a pair."""
    begin: int
    end: int
    tokens: slice


def _words_of(encoding: Encoding, texts: Sequence[str]) -> Iterator[_Word]:
    """Yield the words of one example, in the order of their tokens."""
    words: list[_Word] = []
    before = None
    tokens = zip(encoding.sequence_ids, encoding.word_ids, encoding.offsets, strict=True)
    for token, (text, number, (begin, end)) in enumerate(tokens):
        if text is None or not any(map(str.isalnum, texts[text][begin:end])):
            before = None  # SentencePiece gives the comma after a word the word's number
        elif (text, number) == before:
            words[-1].end, words[-1].tokens = end, slice(words[-1].tokens.start, token + 1)
        else:
            words.append(_Word(text, begin, end, slice(token, token + 1)))
            before = text, number
    for word, text_of_next in zip(words, [*(other.text for other in words[1:]), None], strict=True):
        if _fits(word, texts[word.text], is_last=text_of_next != word.text):
            yield word


def _fits(word: _Word, text: str, *, is_last: bool) -> bool:
    """Correct the borders of a word, and return whether it may be replaced."""
    word.begin += len(text[word.begin : word.end]) - len(text[word.begin : word.end].lstrip())
    while _is_mark(text[word.end : word.end + 1]):  # normalisers that strip accents drop them from the token
        word.end += 1
    behind = text[word.end : word.end + 2]
    is_cut = is_last and behind[:1].isalnum()
    is_joined = word.begin > 1 and text[word.begin - 1] in JOINTS and text[word.begin - 2].isalnum()
    is_abbreviated = behind[:1] == "." and behind[1:].isalnum()
    return is_word(text[word.begin : word.end]) and not (is_cut or is_joined or is_abbreviated)


def is_word(text: str) -> bool:
    """Return whether a text consists only of letters and their combining marks."""
    return text.isalpha() or (text[:1].isalpha() and all(sign.isalpha() or _is_mark(sign) for sign in text))


def _is_mark(sign: str) -> bool:
    return sign > "\x7f" and unicodedata.category(sign).startswith("M")
