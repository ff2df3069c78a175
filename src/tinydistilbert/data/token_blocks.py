"""The blocks of one split on disk, written shard by shard: after a kill, the work resumes after the last shard."""

import dataclasses
import itertools
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from jaxtyping import UInt32
from transformers import PreTrainedTokenizerFast

from tinydistilbert.data import document_tokens
from tinydistilbert.data.document_tokens import DocumentTokenizer, TokenizedDocuments, batches_of
from tinydistilbert.data.npy import RowFile
from tinydistilbert.data.token_workers import tokenized
from tinydistilbert.notices import counted
from tinydistilbert.progress import say
from tinydistilbert.storage import atomic

BATCHES_OF_SHARD = 16
"""Batches of documents after which the work is made durable: about 16 million characters."""
ROWS_AT_ONCE = 2**16
"""Blocks whose tokens are counted together."""


@dataclass
class SplitCounts:
    """The facts about a split in the manifest. `tokens` counts the text before anything is added or cut."""

    documents: int = 0
    tokens: int = 0
    blocks: int = 0
    unknown: int = 0
    """[UNK] tokens: text for which the tokenizer has no piece."""
    with_capitals: int = 0
    """Documents with capitals, if the tokenizer lower-cases text."""
    cut: int = 0
    """Tokens left out: beyond the end of a line's block, or in the last, incomplete block of documents."""


@dataclass
class SplitProgress:
    """The progress on a split, sufficient to resume from."""

    counts: SplitCounts = field(default_factory=SplitCounts)
    rest: list[int] = field(default_factory=list)
    """Tokens of finished documents that do not fill a block yet."""
    sha256: str = ""
    """SHA-256 of the blocks so far."""


class Cutter(Protocol):
    """Makes blocks from tokenised documents."""

    def __call__(self, done: TokenizedDocuments, progress: SplitProgress) -> UInt32[np.ndarray, "blocks block_size"]:
        """Return the full blocks; put the remaining tokens into `progress.rest`, and count what is cut."""
        ...


def write_split(
    path: Path, documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, cutter: Cutter, block_size: int,
    *, lowers: bool, jobs: int,
) -> SplitCounts:  # fmt: skip
    """Tokenise the documents of a split into the blocks of a `.npy` file; resume where an earlier process ended.

    The blocks depend neither on the number of processes nor on interruptions.

    Args:
        path: the file, in a folder that only this process uses.
        documents: all documents of the split, including those already done.
        tokenizer: turns text into tokens.
        cutter: makes blocks from the tokens.
        block_size: tokens per block.
        lowers: whether the tokenizer lower-cases text.
        jobs: processes that tokenise; 1 = this one.
    """
    saved = path.parent / atomic.CHECKPOINTS / f"{path.stem}.json"
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    progress, rows = _resumed(saved, path, block_size, dtype)
    counts = progress.counts
    left = itertools.islice(documents, counts.documents, None)
    of_text = DocumentTokenizer(tokenizer.backend_tokenizer, tokenizer.unk_token, tokenizer.unk_token_id, lowers)
    with rows:
        batches = tokenized(batches_of(left, document_tokens.CHARACTERS_AT_ONCE), of_text, jobs)
        for shard in _shards(batches):
            for done in shard:
                counts.documents += len(done.lengths)
                counts.tokens += len(done.ids)
                counts.unknown += done.unknown
                counts.with_capitals += done.with_capitals
                rows.append(cutter(done, progress))
            counts.blocks, progress.sha256 = rows.rows, rows.digest
            rows.sync()
            atomic.write_text(saved, json.dumps(dataclasses.asdict(progress)))
    counts.cut += len(progress.rest)
    return counts


def _shards(batches: Iterator[TokenizedDocuments]) -> Iterator[Iterator[TokenizedDocuments]]:
    for first in batches:
        yield itertools.chain([first], itertools.islice(batches, BATCHES_OF_SHARD - 1))


def _resumed(saved: Path, path: Path, block_size: int, dtype: np.dtype[Any]) -> tuple[SplitProgress, RowFile]:
    """Return the progress of an earlier process and its file; a fresh start if there is none or it is damaged."""
    if saved.is_file():
        try:
            facts = atomic.read_json(saved)
            progress = SplitProgress(SplitCounts(**facts["counts"]), [int(i) for i in facts["rest"]], facts["sha256"])
            rows = RowFile(path, (block_size,), dtype, kept=progress.counts.blocks)
        except (OSError, ValueError, LookupError, TypeError) as error:
            say(f"{path}: starting again, as the earlier part cannot be read: {error}")
        else:
            if rows.digest == progress.sha256:
                done = counted(progress.counts.documents, "document")
                say(f"{path.stem}: {done} and {counted(rows.rows, 'block')} were done before; continuing from there")
                return progress, rows
            rows.__exit__(None, None, None)
            say(f"{path}: starting again, as the earlier blocks were changed or damaged")
    return SplitProgress(), RowFile(path, (block_size,), dtype)


def token_counts(path: Path, vocabulary: int) -> np.ndarray:
    """Return how often each token occurs in the blocks of a file: (vocabulary,) int64."""
    blocks = np.load(path, mmap_mode="r", allow_pickle=False)
    counts = np.zeros(vocabulary, dtype=np.int64)
    for begin in range(0, len(blocks), ROWS_AT_ONCE):
        counts += np.bincount(blocks[begin : begin + ROWS_AT_ONCE].ravel(), minlength=vocabulary)
    return counts


@dataclass(frozen=True)
class Packed:
    """Cuts the stream of all documents, each followed by [SEP], into blocks that are wrapped as [CLS] … [SEP]."""

    block_size: int
    cls_token_id: int
    sep_token_id: int

    def __call__(self, done: TokenizedDocuments, progress: SplitProgress) -> UInt32[np.ndarray, "blocks block_size"]:
        """Return the full blocks; empty documents add nothing to the stream."""
        length = self.block_size - 2
        ends = np.cumsum(done.lengths[done.lengths > 0])
        rest = np.array(progress.rest, dtype=np.uint32)
        stream = np.concatenate([rest, np.insert(done.ids, ends, self.sep_token_id)])
        complete = len(stream) // length
        blocks = np.empty((complete, self.block_size), dtype=np.uint32)
        blocks[:, 0], blocks[:, -1] = self.cls_token_id, self.sep_token_id
        blocks[:, 1:-1] = stream[: complete * length].reshape(complete, length)
        progress.rest = stream[complete * length :].tolist()
        return blocks


@dataclass(frozen=True)
class ByLine:
    """Makes one block from each document, cut and padded."""

    block_size: int
    cls_token_id: int
    sep_token_id: int
    pad_token_id: int

    def __call__(self, done: TokenizedDocuments, progress: SplitProgress) -> UInt32[np.ndarray, "blocks block_size"]:
        """Return one block per document."""
        blocks = np.full((len(done.lengths), self.block_size), self.pad_token_id, dtype=np.uint32)
        kept = np.minimum(done.lengths, self.block_size - 2)
        progress.counts.cut += int((done.lengths - kept).sum())
        ends = np.cumsum(done.lengths)
        for block, begin, count in zip(blocks, ends - done.lengths, kept, strict=True):
            block[0], block[1 : count + 1], block[count + 1] = (
                self.cls_token_id, done.ids[begin : begin + count], self.sep_token_id,
            )  # fmt: skip
        return blocks
