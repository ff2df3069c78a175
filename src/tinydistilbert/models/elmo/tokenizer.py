"""ELMo's input: words, each as fifty character ids, in AllenNLP's numbering (that of its `ELMoCharacterMapper`).

A word is the bytes of its UTF-8 form between two marks, filled up to fifty. All ids are one higher than the bytes, so
that 0 is free to pad words that are not there. The models add the boundaries of a sentence themselves.
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
"""Rows of the table of characters: 0 for no word, 256 bytes, five marks."""
SPECIAL = {
    "pad_token": "[PAD]",
    "unk_token": "[UNK]",
    "cls_token": "[CLS]",
    "sep_token": "[SEP]",
    "mask_token": "[MASK]",
}
"""Nominal: encoders have them. None is ever added to a text, and only the id of the first, 0, is used."""


def spelled(ids: Iterable[int]) -> NDArray[np.int16]:
    """(50,) a word's character ids: its own between the marks, and filling."""
    inner = list(ids)[: WORD_LENGTH - 2]
    word = np.full(WORD_LENGTH, FILLING, dtype=np.int16)
    word[: len(inner) + 2] = [BEGIN_OF_WORD, *inner, END_OF_WORD]
    return word


@lru_cache(maxsize=100_000)
def word_ids(word: str) -> NDArray[np.int16]:
    """(50,) the character ids of a word; not to be written to."""
    ids = spelled(byte + 1 for byte in word.encode("utf-8", "ignore"))
    ids.setflags(write=False)
    return ids


def _row(encoding: Encoding, texts: Sequence[str]) -> NDArray[np.int16]:
    """(length, 50) the words of one input; padding is 0. A text without words is read as one empty word."""
    places = zip(encoding.sequence_ids, encoding.offsets, strict=True)
    no_word = np.zeros(WORD_LENGTH, dtype=np.int16)
    rows = [no_word if text is None else word_ids(texts[text][begin:end]) for text, (begin, end) in places]
    return np.stack(rows or [word_ids("")])


class ElmoTokenizer(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Words and punctuation marks, cased; called like every fast tokenizer, but `input_ids` are (length, 50) a row.

    Offsets, truncation, windows that overlap and token types are those of the words; made by `elmo_tokenizer`.
    """

    model_input_names = ("input_ids", "attention_mask", "token_type_ids")

    def _encode_plus(self, text: Any, text_pair: Any = None, **settings: Any) -> BatchEncoding:
        if settings.get("is_split_into_words"):
            raise ValueError("ELMo's tokenizer splits texts by itself: give whole texts")
        as_tensors = settings.pop("return_tensors", None)
        encoded = super()._encode_plus(text, text_pair, **settings)
        alone = isinstance(text, str)
        columns = [[part] if alone else part for part in (text, text_pair) if part is not None]
        texts = list(zip(*columns, strict=True))
        sources = encoded.get("overflow_to_sample_mapping", range(len(texts)))
        rows = [_row(encoding, texts[i]) for encoding, i in zip(encoded.encodings, sources, strict=True)]
        unwrapped = alone and "overflow_to_sample_mapping" not in encoded
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
    """The tokenizer of every ELMo model: nothing about it is trained."""
    vocabulary = {token: index for index, token in enumerate(SPECIAL.values())}
    raw = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    raw.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    raw.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B:1", special_tokens=[])
    return ElmoTokenizer(tokenizer_object=raw, **SPECIAL)
