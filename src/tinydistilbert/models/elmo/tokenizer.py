"""ELMo's input: words, each as fifty character ids, numbered as in AllenNLP's `ELMoCharacterMapper`.

A word is its UTF-8 bytes between two marks, filled up to fifty. Ids are bytes plus 1, so that 0 is free for padding.
The models add the sentence boundaries themselves.
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer, models, pre_tokenizers, processors
from transformers import BatchEncoding, PreTrainedTokenizerFast

WORD_LENGTH = 50
"""Character ids of a word, its two marks included; longer words are cut."""
BEGIN_OF_SENTENCE, END_OF_SENTENCE, BEGIN_OF_WORD, END_OF_WORD, FILLING = 257, 258, 259, 260, 261
CHARACTERS = 262
"""Rows of the character embeddings: 0 for padding, 256 bytes, five marks."""
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""Special tokens, because encoders need some. None is added to a text, and only the id of the first, 0, is used."""


def spelled(ids: Iterable[int]) -> NDArray[np.int16]:
    """Return the (50,) character ids of a word: `ids` between the marks, and filling."""
    inner = list(ids)[: WORD_LENGTH - 2]
    word = np.full(WORD_LENGTH, FILLING, dtype=np.int16)
    word[: len(inner) + 2] = [BEGIN_OF_WORD, *inner, END_OF_WORD]
    return word


@lru_cache(maxsize=100_000)
def word_ids(word: str) -> NDArray[np.int16]:
    """Return the (50,) character ids of a word, read-only."""
    ids = spelled(byte + 1 for byte in word.encode("utf-8", "ignore"))
    ids.setflags(write=False)
    return ids


def _row(encoding: Encoding, texts: Sequence[str]) -> NDArray[np.int16]:
    """Return the (length, 50) words of one input; padding is 0. A text without words is read as one empty word."""
    spans = zip(encoding.sequence_ids, encoding.offsets, strict=True)
    padding = np.zeros(WORD_LENGTH, dtype=np.int16)
    rows = [padding if text is None else word_ids(texts[text][begin:end]) for text, (begin, end) in spans]
    return np.stack(rows or [word_ids("")])


class ElmoTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Words and punctuation marks, cased; called like other fast tokenizers, but `input_ids` are (length, 50) per row.

    Offsets, truncation, overlapping windows and token types refer to words. Made by `elmo_tokenizer`.
    """

    only_by_call = True
    """Its Rust tokenizer alone cannot make the model's inputs."""
    model_input_names = ("input_ids", "attention_mask", "token_type_ids")

    def _encode_plus(self, text: Any, text_pair: Any = None, **settings: Any) -> BatchEncoding:
        if settings.get("is_split_into_words"):
            raise ValueError("ELMo's tokenizer splits texts into words by itself")
        as_tensors = settings.pop("return_tensors", None)
        encoded = super()._encode_plus(text, text_pair, **settings)
        is_single = isinstance(text, str)
        columns = [[part] if is_single else part for part in (text, text_pair) if part is not None]
        texts = list(zip(*columns, strict=True))
        sources = encoded.get("overflow_to_sample_mapping", range(len(texts)))
        rows = [_row(encoding, texts[i]) for encoding, i in zip(encoded.encodings, sources, strict=True)]
        unwrapped = is_single and "overflow_to_sample_mapping" not in encoded
        for name, of_empty_word in (("token_type_ids", 0), ("attention_mask", 1)):
            if name in encoded:
                values = [encoded[name]] if unwrapped else encoded[name]
                values = [row or [of_empty_word] for row in values]
                encoded[name] = values[0] if unwrapped else values
        encoded["input_ids"] = rows[0] if unwrapped else rows
        if as_tensors is None:
            return encoded
        tensors = {name: torch.from_numpy(np.array(values, dtype=np.int64)) for name, values in encoded.items()}
        batched = {name: tensor[None] if unwrapped else tensor for name, tensor in tensors.items()}
        return BatchEncoding(batched, encoded.encodings)


def elmo_tokenizer() -> ElmoTokenizer:
    """Return the tokenizer of all ELMo models; it does not depend on training data."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL.values())}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    raw.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return ElmoTokenizer(tokenizer_object=raw, **SPECIAL)
