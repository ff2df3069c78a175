"""From documents to token ids. Worker processes import this file, so it needs neither torch nor transformers."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Int64, UInt32
from numpy.typing import NDArray
from tokenizers import Tokenizer

from tinydistilbert.data.wikitext import UNKNOWN
from tinydistilbert.data.word_tokens import WordTokens, is_cut_at_spaces

CHARACTERS_AT_ONCE = 1_000_000
"""Characters per tokenizer call; this limits memory for corpora of any size."""


@dataclass(frozen=True, eq=False)
class TokenizedDocuments:
    """The token ids of consecutive documents, without special tokens, and what the tokenizer lost."""

    ids: UInt32[np.ndarray, " tokens"]
    lengths: Int64[np.ndarray, " documents"]
    unknown: int
    """[UNK] tokens: text for which the tokenizer has no piece."""
    with_capitals: int
    """Documents with capitals, if the tokenizer lower-cases text."""


@dataclass(frozen=True)
class DocumentTokenizer:
    """Turns documents into token ids."""

    backend: Tokenizer
    unk_token: str | None
    unk_id: int | None
    lowers: bool
    """Whether the tokenizer lower-cases text."""

    def __call__(self, documents: Sequence[str]) -> TokenizedDocuments:
        """Return the token ids of documents."""
        texts = documents
        if self.unk_token is not None:
            texts = [document.replace(UNKNOWN, self.unk_token) for document in documents]
        ids, lengths = self._tokens_of(texts)
        return TokenizedDocuments(
            ids, lengths,
            unknown=0 if self.unk_id is None else int(np.count_nonzero(ids == self.unk_id)),
            with_capitals=sum(text != text.lower() for text in documents) if self.lowers else 0,
        )  # fmt: skip

    @cached_property
    def _tokens_of(self) -> Callable[[Sequence[str]], tuple[NDArray[np.uint32], NDArray[np.int64]]]:
        """Return a function from texts to their ids and the number of ids of each; by words if that is equivalent."""
        if is_cut_at_spaces(self.backend):
            by_words = WordTokens(self.backend)

            def of_words(texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
                ids, lengths = by_words(texts)
                return ids.astype(np.uint32), lengths

            return of_words
        return self._whole

    def _whole(self, texts: Sequence[str]) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        self.backend.no_truncation()
        self.backend.no_padding()
        rows = [encoding.ids for encoding in self.backend.encode_batch_fast(texts, add_special_tokens=False)]
        ids = np.fromiter(itertools.chain.from_iterable(rows), dtype=np.uint32, count=sum(map(len, rows)))
        return ids, np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))


def batches_of(documents: Iterable[str], characters_at_once: int) -> Iterator[list[str]]:
    """Yield groups of consecutive documents with about `characters_at_once` characters each."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document) + 1
        if characters >= characters_at_once:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch
