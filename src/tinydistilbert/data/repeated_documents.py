"""Documents that were there before, found by their hash in bounded memory."""

from collections.abc import Iterable, Iterator

from tinydistilbert.data.document_tokens import batches_of
from tinydistilbert.data.seen_texts import SeenTexts, hashes_of

CHARACTERS_AT_ONCE = 1_000_000
"""Of the documents that are looked up together."""


class SeenDocuments:
    """The hashes of all documents so far."""

    def __init__(self) -> None:
        self.repeated = 0
        """Documents that were left out."""
        self._seen = SeenTexts()

    def further(self, documents: Iterable[str]) -> Iterator[str]:
        """Those of further documents that were not there before, in their order.

        White space at the ends or doubled makes no other document.
        """
        for batch in batches_of(documents, CHARACTERS_AT_ONCE):
            is_new = self._seen.add(hashes_of([(" ".join(document.split()),) for document in batch]))
            self.repeated += len(batch) - int(is_new.sum())
            yield from (document for document, new in zip(batch, is_new.tolist(), strict=True) if new)
