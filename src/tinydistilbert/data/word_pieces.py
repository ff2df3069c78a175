"""Which tokens of a vocabulary go on with the word of the token before them."""

import json
from typing import Any

import numpy as np
from jaxtyping import Bool
from transformers import PreTrainedTokenizerFast

BYTE_LEVEL_SPACE, SENTENCE_PIECE_SPACE = "Ġ", "▁"
"""What a space before a word has become in the tokens of byte-level BPE and of SentencePiece."""


def continues_word(tokenizer: PreTrainedTokenizerFast) -> Bool[np.ndarray, " vocabulary"]:
    """For each id, whether the token is a later piece of a word.

    WordPiece marks later pieces (`##`); byte-level BPE and SentencePiece mark first ones (`Ġ`, `▁`), so with these a
    comma belongs to the word before it. Special and added tokens stand for themselves. Where a tokenizer knows no such
    mark, every token is a word.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    later, first = content["model"].get("continuing_subword_prefix"), _first_mark(content)
    alone = {token["content"] for token in content["added_tokens"]} | set(tokenizer.all_special_tokens)
    continues = np.zeros(len(tokenizer), dtype=bool)
    for token, number in tokenizer.get_vocab().items():
        if token in alone:
            continue
        continues[number] = token.startswith(later) if later else bool(first) and not token.startswith(first)
    return continues


def _first_mark(content: dict[str, Any]) -> str:
    """The mark of first pieces, told by how the tokenizer cuts a text into words; empty if there is none."""
    kinds = set()
    waiting = [content["pre_tokenizer"]]
    while waiting:
        step = waiting.pop()
        if step:
            kinds.add(step["type"])
            waiting += step.get("pretokenizers", [])
    if "ByteLevel" in kinds:
        return BYTE_LEVEL_SPACE
    return SENTENCE_PIECE_SPACE if "Metaspace" in kinds or content["model"]["type"] == "Unigram" else ""
