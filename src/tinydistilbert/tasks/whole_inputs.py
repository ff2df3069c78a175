"""Inputs of whole texts and pairs: token ids and the special tokens around them, cut to a length, and not padded."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.data.word_tokens import WordTokens, is_cut_at_spaces
from tinydistilbert.models.plain_tokenizer import Encodings, PlainTokenizer

if TYPE_CHECKING:  # a served model has neither
    from tokenizers import Tokenizer
    from transformers import BatchEncoding, PreTrainedTokenizerFast

FastTokenizer: TypeAlias = "PreTrainedTokenizerFast | PlainTokenizer"
Encoded: TypeAlias = "BatchEncoding | Encodings"


@dataclass(frozen=True)
class Inputs:
    """The inputs of consecutive examples, one after the other."""

    ids: NDArray[Any]
    """int32 tokens; of ELMo (tokens, 50) int16, the characters of each word."""
    types: NDArray[np.int8]
    lengths: NDArray[np.int64]
    """Tokens of each example."""
    cut: int
    """Examples that lost tokens because they are too long."""


Encoder: TypeAlias = Callable[[Sequence[str], Sequence[str] | None], Inputs]
"""From texts, or the first and the second ones of pairs."""


def encoder_of(tokenizer: FastTokenizer, max_length: int) -> Encoder:
    """What makes inputs of at most `max_length` tokens: from the tokens of words, where that gives the same ones.

    Pairs that are too long lose tokens from the longer text.
    """
    whole = partial(_whole, tokenizer, max_length)
    if is_only_by_call(tokenizer) or not is_cut_at_spaces(tokenizer.backend_tokenizer):
        return whole
    ends = _special_tokens(tokenizer.backend_tokenizer)
    if ends is None:
        return whole
    return partial(_by_words, WordTokens(tokenizer.backend_tokenizer), ends, max_length, whole)


def is_only_by_call(tokenizer: FastTokenizer) -> bool:
    """Whether the Rust tokenizer alone does not make the inputs: ELMo's characters are made by its Python wrapper."""
    return bool(getattr(tokenizer, "only_by_call", False))


def _special_tokens(backend: "Tokenizer") -> tuple[int, int] | None:
    """The tokens before a text and behind each, as in BERT; None where they stand in another way."""
    backend.no_truncation()
    backend.no_padding()
    text, pair = backend.encode(""), backend.encode("", "")
    if len(text.ids) != 2 or pair.ids != [*text.ids, text.ids[1]]:
        return None
    return (text.ids[0], text.ids[1]) if (text.type_ids, pair.type_ids) == ([0, 0], [0, 0, 1]) else None


def _by_words(
    tokens_of: WordTokens, ends: tuple[int, int], max_length: int, whole: Encoder, texts: Sequence[str],
    pairs: Sequence[str] | None,
) -> Inputs:  # fmt: skip
    """As `_whole`, from the tokens of the different words."""
    given = texts if pairs is None else [*itertools.chain.from_iterable(zip(texts, pairs, strict=True))]
    tokens, counts = tokens_of(given)
    of_texts = counts.reshape(len(texts), -1) + 1  # each with the token behind it
    of_texts[:, 0] += 1
    lengths = of_texts.sum(1)
    first, last = np.cumsum(lengths) - lengths, np.cumsum(of_texts) - 1
    ids = np.full(int(lengths.sum()), ends[1], dtype=np.int32)
    is_word = np.ones(len(ids), dtype=bool)
    is_word[first] = is_word[last] = False
    ids[is_word] = tokens
    ids[first] = ends[0]
    types = np.repeat(np.tile(np.arange(of_texts.shape[1], dtype=np.int8), len(texts)), of_texts.ravel())
    long = np.flatnonzero(lengths > max_length).tolist()
    if not long:
        return Inputs(ids, types, lengths, 0)
    shortened = whole([texts[row] for row in long], [pairs[row] for row in long] if pairs else None)
    kept = lengths.copy()
    kept[long] = shortened.lengths
    return Inputs(
        _exchanged(ids, lengths, long, shortened.ids, shortened.lengths),
        _exchanged(types, lengths, long, shortened.types, shortened.lengths), kept, shortened.cut,
    )  # fmt: skip


def _exchanged(
    flat: NDArray[Any], lengths: NDArray[np.int64], rows: Sequence[int], others: NDArray[Any],
    other_lengths: NDArray[np.int64],
) -> NDArray[Any]:  # fmt: skip
    """All rows one after the other, those of `rows` exchanged for others."""
    every = np.split(flat, np.cumsum(lengths)[:-1])
    for row, other in zip(rows, np.split(others, np.cumsum(other_lengths)[:-1]), strict=True):
        every[row] = other
    return np.concatenate(every)


def _whole(tokenizer: FastTokenizer, max_length: int, texts: Sequence[str], pairs: Sequence[str] | None) -> Inputs:
    def by_call(count: int) -> Encoded:
        return tokenizer(
            texts[:count], pairs[:count] if pairs else None, truncation=True, max_length=max_length,
            return_token_type_ids=True, return_attention_mask=False,
        )  # fmt: skip

    rows: Sequence[Any]
    if is_only_by_call(tokenizer):
        encoded = by_call(len(texts))
        rows, of_types, encodings = encoded["input_ids"], encoded["token_type_ids"], encoded.encodings
    else:
        by_call(1)  # the Rust tokenizer then cuts so; what a call does beside takes a quarter of its time
        encodings = tokenizer.backend_tokenizer.encode_batch_fast(
            list(zip(texts, pairs, strict=True)) if pairs else texts
        )
        rows, of_types = [e.ids for e in encodings], [e.type_ids for e in encodings]
    ids = np.concatenate(rows) if isinstance(rows[0], np.ndarray) else _joined(rows, np.int32)
    lengths = np.array([len(row) for row in rows], dtype=np.int64)
    cut = sum(len(e) >= max_length and bool(e.overflowing) for e in encodings)
    return Inputs(ids, _joined(of_types, np.int8), lengths, cut)


def _joined(rows: Sequence[Sequence[int]], kind: type[np.integer[Any]]) -> NDArray[Any]:
    """The numbers of all rows."""
    return np.fromiter(itertools.chain.from_iterable(rows), kind, sum(map(len, rows)))
