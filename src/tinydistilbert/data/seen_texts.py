"""Which texts occurred before: by their hashes, in bounded memory."""

import hashlib
import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Bool, UInt64

from tinydistilbert.storage import disk, scratch

HASHES_IN_MEMORY = 1_000_000
"""Number of latest hashes in memory; earlier ones are in sorted, memory-mapped files."""
TEXTS_AT_ONCE = 10_000
"""Texts that are looked up together."""


class SeenTexts:
    """The hashes of all texts so far.

    A hash has 64 bits: the chance that any two of 100 million different texts are confused is 1 in 3,700.
    """

    def __init__(self) -> None:
        self._recent: set[int] = set()
        self._sorted: list[UInt64[np.ndarray, " hashes"]] = []

    def holds(self, hashes: UInt64[np.ndarray, " texts"]) -> Bool[np.ndarray, " texts"]:
        """Return whether each hash was added before."""
        is_known = np.fromiter((number in self._recent for number in hashes.tolist()), dtype=bool, count=len(hashes))
        for file in self._sorted:
            positions = np.minimum(np.searchsorted(file, hashes), len(file) - 1)
            is_known |= file[positions] == hashes
        return is_known

    def add(self, hashes: UInt64[np.ndarray, " texts"]) -> Bool[np.ndarray, " texts"]:
        """Add hashes; return whether each is new, which among equal ones only the first is.

        Raises:
            DiskError: the disk is full or failing.
        """
        is_first = np.zeros(len(hashes), dtype=bool)
        is_first[np.unique(hashes, return_index=True)[1]] = True
        is_new: np.ndarray = is_first & ~self.holds(hashes)
        self._recent.update(hashes[is_new].tolist())
        if len(self._recent) >= HASHES_IN_MEMORY:
            self._to_file()
        return is_new

    def add_all(self, texts: Iterable[Sequence[str]]) -> None:
        """Add any number of texts.

        Raises:
            DiskError: the disk is full or failing.
        """
        each = iter(texts)
        while part := list(itertools.islice(each, TEXTS_AT_ONCE)):
            self.add(hashes_of(part))

    def _to_file(self) -> None:
        together = np.sort(np.fromiter(self._recent, dtype=np.uint64, count=len(self._recent)))
        self._recent.clear()
        with scratch.nameless() as stream:
            with disk.disk_errors(scratch.folder(), together.nbytes):
                stream.write(together.data)
                stream.flush()
            self._sorted.append(np.memmap(stream, np.uint64, "r", shape=together.shape))


def hashes_of(texts: Iterable[Sequence[str]]) -> UInt64[np.ndarray, " texts"]:
    """Return a hash of each text, or of the texts of each pair, the same in all processes."""
    return np.fromiter(map(_hash, texts), dtype=np.uint64)


def _hash(texts: Sequence[str]) -> int:
    contents = [text.encode("utf-8", "surrogatepass") for text in texts]
    together = b"".join(len(content).to_bytes(8, "little") + content for content in contents)
    return int.from_bytes(hashlib.blake2b(together, digest_size=8).digest(), "little")
