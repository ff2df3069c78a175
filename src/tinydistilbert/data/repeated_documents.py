"""Documents that were there before, found by their hash in bounded memory."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import UInt64

from tinydistilbert.data.document_tokens import batches_of

HASHES_IN_MEMORY = 1_000_000
"""Of those that came last; earlier ones are in sorted files that are mapped into memory."""
CHARACTERS_AT_ONCE = 1_000_000
"""Of the documents that are looked up together."""


class SeenDocuments:
    """The hashes of all documents so far.

    A hash has 64 bits: of 100 million different documents one is taken for another with a chance of 1 in 3,700.

    Args:
        folder: an existing one for files of hashes, 8 bytes a document.
    """

    def __init__(self, folder: Path) -> None:
        self.repeated = 0
        """Documents that were left out."""
        self._folder = folder
        self._recent: set[int] = set()
        self._sorted: list[UInt64[np.ndarray, " hashes"]] = []

    def further(self, documents: Iterable[str]) -> Iterator[str]:
        """Those of further documents that were not there before, in their order.

        White space at the ends or doubled makes no other document.
        """
        for batch in batches_of(documents, CHARACTERS_AT_ONCE):
            hashes = [_hash(document) for document in batch]
            known = self._in_files(hashes)
            for document, number, is_known in zip(batch, hashes, known, strict=True):
                if is_known or number in self._recent:
                    self.repeated += 1
                else:
                    self._recent.add(number)
                    yield document
            if len(self._recent) >= HASHES_IN_MEMORY:
                self._to_file()

    def _in_files(self, hashes: Sequence[int]) -> list[bool]:
        wanted = np.array(hashes, dtype=np.uint64)
        is_known = np.zeros(len(wanted), dtype=bool)
        for file in self._sorted:
            places = np.minimum(np.searchsorted(file, wanted), len(file) - 1)
            is_known |= file[places] == wanted
        found: list[bool] = is_known.tolist()
        return found

    def _to_file(self) -> None:
        path = self._folder / f"{len(self._sorted):06d}.npy"
        np.save(path, np.sort(np.fromiter(self._recent, dtype=np.uint64)), allow_pickle=False)
        self._sorted.append(np.load(path, mmap_mode="r", allow_pickle=False))
        self._recent.clear()


def _hash(document: str) -> int:
    digest = hashlib.blake2b(" ".join(document.split()).encode("utf-8", "surrogatepass"), digest_size=8)
    return int.from_bytes(digest.digest(), "little")
