"""Inputs of whole texts and pairs: token ids with special tokens, truncated but not padded."""

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from tinydistilbert.data.word_tokens import WordTokens, is_cut_at_spaces
from tinydistilbert.models.plain_tokenizer import Encodings, PlainTokenizer

if TYPE_CHECKING:  # a served model runs without it
    from transformers import BatchEncoding, PreTrainedTokenizerFast

FastTokenizer: TypeAlias = "PreTrainedTokenizerFast | PlainTokenizer"
Encoded: TypeAlias = "BatchEncoding | Encodings"

FEW_TEXTS = 32
"""Fewer texts go directly to the tokenizer: for few texts, looking up known words is not faster."""


@dataclass(frozen=True)
class InputArrays:
    """The concatenated inputs of consecutive examples."""

    ids: NDArray[Any]
    """int32 tokens; for ELMo (tokens, 50) int16, the characters of each word."""
    types: NDArray[np.int8]
    lengths: NDArray[np.int64]
    """Tokens of each example."""
    lost: NDArray[np.int64]
    """Number of tokens cut from each example because it is too long."""


Encoder: TypeAlias = Callable[[Sequence[str], Sequence[str] | None], InputArrays]
"""Makes inputs from texts, or from the first and second texts of pairs."""


def joined_inputs(parts: Sequence[InputArrays]) -> InputArrays:
    """Return the inputs of all parts, of which there must be at least one."""
    if len(parts) == 1:
        return parts[0]
    ids, types = np.concatenate([part.ids for part in parts]), np.concatenate([part.types for part in parts])
    lengths, lost = (np.concatenate([getattr(part, name) for part in parts]) for name in ("lengths", "lost"))
    return InputArrays(ids, types, lengths, lost)


def encoder_of(tokenizer: FastTokenizer, max_length: int) -> Encoder:
    """Return an encoder for inputs of at most `max_length` tokens, by words if that gives the same tokens.

    Pairs that are too long lose tokens from the longer text.
    """
    whole = _Whole(tokenizer, max_length)
    if _only_by_call(tokenizer) or not is_cut_at_spaces(tokenizer.backend_tokenizer):
        return whole
    ends = _special_tokens(tokenizer.backend_tokenizer)
    if ends is None:
        return whole
    return partial(_by_words, WordTokens(tokenizer.backend_tokenizer), ends, max_length, whole)


def _only_by_call(tokenizer: FastTokenizer) -> bool:
    return bool(getattr(tokenizer, "only_by_call", False))  # ELMo's characters are made by its Python wrapper


def _special_tokens(backend: Tokenizer) -> tuple[int, int] | None:
    """Return the tokens before the first and after each text, as in BERT; None if they are placed differently."""
    backend.no_truncation()
    backend.no_padding()
    text, pair = backend.encode(""), backend.encode("", "")
    if len(text.ids) != 2 or pair.ids != [*text.ids, text.ids[1]]:
        return None
    return (text.ids[0], text.ids[1]) if (text.type_ids, pair.type_ids) == ([0, 0], [0, 0, 1]) else None


def _by_words(
    tokens_of: WordTokens, ends: tuple[int, int], max_length: int, whole: Encoder, texts: Sequence[str],
    pairs: Sequence[str] | None,
) -> InputArrays:  # fmt: skip
    """Encode like `_Whole`, from the tokens of the distinct words."""
    if len(texts) < FEW_TEXTS:
        return whole(texts, pairs)
    given = texts if pairs is None else [*itertools.chain.from_iterable(zip(texts, pairs, strict=True))]
    tokens, counts = tokens_of(given)
    of_texts = counts.reshape(len(texts), -1) + 1  # each with the token after it
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
        return InputArrays(ids, types, lengths, np.zeros_like(lengths))
    shortened = whole([texts[row] for row in long], [pairs[row] for row in long] if pairs else None)
    kept = lengths.copy()
    kept[long] = shortened.lengths
    return InputArrays(
        _exchanged(ids, lengths, long, shortened.ids, shortened.lengths),
        _exchanged(types, lengths, long, shortened.types, shortened.lengths), kept, lengths - kept,
    )  # fmt: skip


def _exchanged(
    flat: NDArray[Any], lengths: NDArray[np.int64], rows: Sequence[int], others: NDArray[Any],
    other_lengths: NDArray[np.int64],
) -> NDArray[Any]:  # fmt: skip
    """Return all rows concatenated, with those in `rows` replaced by others."""
    every = np.split(flat, np.cumsum(lengths)[:-1])
    for row, other in zip(rows, np.split(others, np.cumsum(other_lengths)[:-1]), strict=True):
        every[row] = other
    return np.concatenate(every)


@dataclass(frozen=True)
class _Called:
    """An input made by a call of the wrapper, with the interface of an `Encoding`."""

    ids: NDArray[np.int16]
    type_ids: list[int]

    def __len__(self) -> int:
        return len(self.ids)


class _Whole:
    """Encodes with the tokenizer itself, which is called a second time for texts that are too long.

    Args:
        tokenizer: the model's. A copy truncates long texts, because other threads may be using this one.
        max_length: maximum tokens of an input.
    """

    def __init__(self, tokenizer: FastTokenizer, max_length: int) -> None:
        self._tokenizer, self._max_length = tokenizer, max_length

    def __call__(self, texts: Sequence[str], pairs: Sequence[str] | None) -> InputArrays:
        """See `Encoder`."""
        encodings = self._encoded(texts, pairs, cut=False)
        whole = np.fromiter(map(len, encodings), np.int64, len(encodings))
        long = np.flatnonzero(whole > self._max_length).tolist()
        if long:
            long_pairs = [pairs[row] for row in long] if pairs else None
            shortened = self._encoded([texts[row] for row in long], long_pairs, cut=True)
            for row, one in zip(long, shortened, strict=True):
                encodings[row] = one
        lengths = np.fromiter(map(len, encodings), np.int64, len(encodings))
        rows: list[Any] = [one.ids for one in encodings]
        ids = np.concatenate(rows) if isinstance(rows[0], np.ndarray) else _joined(rows, np.int32)
        return InputArrays(ids, _joined([one.type_ids for one in encodings], np.int8), lengths, whole - lengths)

    def _encoded(self, texts: Sequence[str], pairs: Sequence[str] | None, *, cut: bool) -> "list[Encoding | _Called]":
        if _only_by_call(self._tokenizer):
            limit: dict[str, Any] = {"truncation": True, "max_length": self._max_length} if cut else {}
            columns = self._tokenizer(
                texts, pairs, return_token_type_ids=True, return_attention_mask=False, verbose=False, **limit
            )
            return [*map(_Called, columns["input_ids"], columns["token_type_ids"])]
        backend = self._cutting if cut else self._tokenizer.backend_tokenizer
        if not cut and (backend.truncation or backend.padding):  # left by an earlier call
            backend.no_truncation()
            backend.no_padding()
        # The wrapper's overhead would be a quarter of the time of the Rust tokenizer.
        return [*backend.encode_batch_fast(list(zip(texts, pairs, strict=True)) if pairs else texts)]

    @cached_property
    def _cutting(self) -> Tokenizer:
        backend = self._tokenizer.backend_tokenizer
        cutting = Tokenizer.from_str(backend.to_str())
        cutting.encode_special_tokens = backend.encode_special_tokens  # not stored in its file
        cutting.enable_truncation(self._max_length, direction=self._tokenizer.truncation_side)
        cutting.no_padding()
        return cutting


def _joined(rows: Sequence[Sequence[int]], kind: type[np.integer[Any]]) -> NDArray[Any]:
    """Return the concatenated numbers of all rows."""
    return np.fromiter(itertools.chain.from_iterable(rows), kind, sum(map(len, rows)))
