"""Tokens of texts from the tokens of their words: each distinct word is tokenised only once.

A BERT-like tokenizer first cuts a text at spaces, so the tokens of a text are those of its parts between spaces, in
order. Few of these parts are distinct, so this takes a fraction of the time.
"""

import itertools
import threading
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

MOST_WORDS = 200_000
"""Maximum number of distinct words whose tokens are kept, about 50 MB."""


def is_cut_at_spaces(backend: Tokenizer) -> bool:
    """Whether the tokens of a text are certain to be those of its parts between spaces."""
    return (
        isinstance(backend.normalizer, normalizers.BertNormalizer | None)
        and isinstance(backend.pre_tokenizer, pre_tokenizers.BertPreTokenizer)
        and isinstance(backend.model, models.WordPiece)
        and not any(" " in token.content for token in backend.get_added_tokens_decoder().values())
    )


class WordTokens:
    """Turns texts into token ids, without special tokens, with a tokenizer for which `is_cut_at_spaces` holds.

    Args:
        backend: the tokenizer; a call switches off its truncation and padding.
    """

    def __init__(self, backend: Tokenizer) -> None:
        assert is_cut_at_spaces(backend), "else the tokens of a word depend on what stands around it"
        self._backend, self._lock = backend, threading.Lock()
        self._forget()

    def _forget(self) -> None:
        self._number: dict[str, int] = {}
        self._ids = np.zeros(0, dtype=np.int32)
        self._counts = np.zeros(0, dtype=np.int64)

    def __call__(self, texts: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all texts, concatenated, and how many each text has; threads take turns."""
        in_words = [text.split(" ") for text in texts]
        words = list(itertools.chain.from_iterable(in_words))
        with self._lock:
            ids, counts = self._of_words(words)
        ends = np.cumsum(counts)
        last_words = np.cumsum([len(parts) for parts in in_words], dtype=np.int64) - 1
        return ids, np.diff(ends[last_words], prepend=0)

    def _of_words(self, words: Sequence[str]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
        """Return the ids of all words, and how many each has."""
        if len(self._number) > MOST_WORDS:
            self._forget()
        self._learn([*({*words} - self._number.keys())])
        numbers = np.fromiter(map(self._number.__getitem__, words), np.int64, len(words))
        counts = self._counts[numbers]
        ends = np.cumsum(counts)
        # Position of each token among the stored ones: that of its word's first token plus its distance from it.
        firsts = (np.cumsum(self._counts) - self._counts)[numbers]
        positions = np.repeat(firsts - (ends - counts), counts) + np.arange(int(counts.sum()))
        return self._ids[positions], counts

    def _learn(self, words: Sequence[str]) -> None:
        if not words:
            return
        self._backend.no_truncation()
        self._backend.no_padding()
        encoding = self._backend.encode(words, is_pretokenized=True, add_special_tokens=False)
        of_word = np.array(encoding.word_ids, dtype=np.int64)
        self._number |= zip(words, range(len(self._number), len(self._number) + len(words)), strict=True)
        self._ids = np.concatenate([self._ids, np.array(encoding.ids, dtype=np.int32)])
        self._counts = np.concatenate([self._counts, np.bincount(of_word, minlength=len(words))])
