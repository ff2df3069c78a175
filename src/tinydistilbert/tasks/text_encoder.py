"""Texts that a predictor is asked about as inputs of its model, and how many tokens each of them lost.

Unlike `encoding.encode` it is for few texts as for many: one text goes to the Rust tokenizer without a detour.
"""

from collections.abc import Sequence
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

from tinydistilbert.tasks.encoding import CHUNK
from tinydistilbert.tasks.whole_inputs import FastTokenizer, is_only_by_call

NO_TYPES = np.zeros(0, np.int64)
"""Of a model that does not read them."""


class TextInput(NamedTuple):
    """A text, or a pair, as the input of a model."""

    ids: NDArray[Any]
    types: NDArray[Any]
    cut: int
    """Tokens that it lost because it was too long."""


class TextEncoder:
    """Texts and pairs to inputs, cut as in training.

    Args:
        tokenizer: the model's.
        max_length: tokens that are read of a text with its pair, special ones included.
        token_types: whether the model reads them.
    """

    def __init__(self, tokenizer: FastTokenizer, max_length: int, *, token_types: bool) -> None:
        self._tokenizer, self._backend = tokenizer, tokenizer.backend_tokenizer
        self._max_length, self._token_types = max_length, token_types
        self._by_call = is_only_by_call(tokenizer)

    def inputs(self, texts: Sequence[str], pairs: Sequence[str] | None) -> list[TextInput]:
        """The input of each text."""
        if self._by_call:
            return [self._called(text, pairs[i] if pairs else None) for i, text in enumerate(texts)]
        if len(texts) == 1:
            return [self._encoded(texts[0], pairs[0] if pairs else None)]
        given: list[Any] = list(zip(texts, pairs, strict=True)) if pairs else list(texts)
        parts = (given[begin : begin + CHUNK] for begin in range(0, len(given), CHUNK))
        return [row for part in parts for row in self._encoded_together(part)]

    def _encoded(self, text: str, pair: str | None) -> TextInput:
        """The text as the Rust tokenizer has it: transformers' wrapper takes longer than the tokenizer itself."""
        encoded = self._backend.encode(text, pair)
        cut = max(0, len(encoded) - self._max_length)
        if cut:
            encoded = self._cutting.encode(text, pair)
        return TextInput(np.array(encoded.ids, np.int64), np.array(encoded.type_ids, np.int64), cut)

    def _encoded_together(self, given: list[Any]) -> list[TextInput]:
        """The same for many texts or pairs, in one call that works out no offsets."""
        encodings: list[Encoding] = self._backend.encode_batch_fast(given)
        cut = [max(0, len(encoding) - self._max_length) for encoding in encodings]
        long = [i for i, tokens in enumerate(cut) if tokens]
        if long:
            for i, encoding in zip(long, self._cutting.encode_batch_fast([given[i] for i in long]), strict=True):
                encodings[i] = encoding
        if self._token_types:
            types = [np.array(encoding.type_ids, np.int64) for encoding in encodings]
        else:
            types = [NO_TYPES] * len(encodings)
        return [
            TextInput(np.array(encoding.ids, np.int64), of_types, tokens)
            for encoding, of_types, tokens in zip(encodings, types, cut, strict=True)
        ]

    def _called(self, text: str, pair: str | None) -> TextInput:
        """The text as the tokenizer's wrapper has it."""
        inputs = self._tokenizer(text, pair, return_token_type_ids=True, verbose=False)
        cut = max(0, len(inputs["input_ids"]) - self._max_length)
        if cut:
            inputs = self._tokenizer(
                text, pair, truncation=True, max_length=self._max_length, return_token_type_ids=True
            )
        return TextInput(np.asarray(inputs["input_ids"], np.int64), np.asarray(inputs["token_type_ids"], np.int64), cut)

    @cached_property
    def _cutting(self) -> Tokenizer:
        """The tokenizer with truncation as in training; the other one has none, so as to see what is too long."""
        cutting = Tokenizer.from_str(self._backend.to_str())
        cutting.enable_truncation(self._max_length, direction=self._tokenizer.truncation_side)
        return cutting
