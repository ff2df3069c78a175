"""Duplicate documents, found by their hash in bounded memory."""

from collections.abc import Iterable, Iterator

from tinydistilbert.data.document_tokens import batches_of
from tinydistilbert.data.seen_texts import SeenTexts, hashes_of

CHARACTERS_AT_ONCE = 1_000_000
"""Characters of the documents looked up together."""


class SeenDocuments:
    """The hashes of all documents so far."""

    def __init__(self) -> None:
        self.repeated = 0
        """Number of documents left out."""
        self._seen = SeenTexts()

    def further(self, documents: Iterable[str]) -> Iterator[str]:
        """Yield those of further documents that did not occur before, in order.

        Leading, trailing and repeated white space is ignored in the comparison.
        """
        for batch in batches_of(documents, CHARACTERS_AT_ONCE):
            is_new = self._seen.add(hashes_of([(" ".join(document.split()),) for document in batch]))
            self.repeated += len(batch) - int(is_new.sum())
            yield from (document for document, new in zip(batch, is_new.tolist(), strict=True) if new)
