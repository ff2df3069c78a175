"""Which tokens of a vocabulary continue the word of the token before them."""

import json
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerFast

BYTE_LEVEL_SPACE, SENTENCE_PIECE_SPACE = "Ġ", "▁"
"""The mark for a space before a word in tokens of byte-level BPE and of SentencePiece."""


def continues_word(tokenizer: PreTrainedTokenizerFast) -> Bool[np.ndarray, " vocabulary"]:
    """Return for each id whether the token is a later piece of a word.

    WordPiece marks later pieces (`##`); byte-level BPE and SentencePiece mark first pieces (`Ġ`, `▁`), so with these a
    comma belongs to the word before it. Special and added tokens are separate words. Without such marks, every token is
    a word.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    later, first = content["model"].get("continuing_subword_prefix"), _first_mark(content)
    words = {token["content"] for token in content["added_tokens"]} | set(tokenizer.all_special_tokens)
    continues = np.zeros(len(tokenizer), dtype=bool)
    for token, number in tokenizer.get_vocab().items():
        if token in words:
            continue
        continues[number] = token.startswith(later) if later else bool(first) and not token.startswith(first)
    return continues


def _first_mark(content: dict[str, Any]) -> str:
    """Return the mark of first pieces according to the pre-tokenizers; empty if there is none."""
    kinds = set()
    pre_tokenizers = [content["pre_tokenizer"]]
    while pre_tokenizers:
        pre_tokenizer = pre_tokenizers.pop()
        if pre_tokenizer:
            kinds.add(pre_tokenizer["type"])
            pre_tokenizers += pre_tokenizer.get("pretokenizers", [])
    if "ByteLevel" in kinds:
        return BYTE_LEVEL_SPACE
    return SENTENCE_PIECE_SPACE if "Metaspace" in kinds or content["model"]["type"] == "Unigram" else ""
