"""From documents to token blocks: rows of equal length on disk, memory-mapped when they are read."""

import dataclasses
import hashlib
import itertools
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt16, UInt32
from transformers import PreTrainedTokenizerFast

from tinydistilbert.data.npy import RowFile
from tinydistilbert.data.sources import Source, open_source
from tinydistilbert.data.wikitext import UNKNOWN
from tinydistilbert.data.word_pieces import continues_word
from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.storage import atomic, disk, locks

FORMAT = 2
"""Part of a folder's key; raise it when the same source and settings give other blocks than before."""
SPLITS = ("train", "validation")
CHARACTERS_AT_ONCE = 1_000_000
"""Characters that are tokenised in one parallel call, which bounds the memory for corpora of any size."""


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """The blocks of a prepared corpus and the facts that masking and padding need; all arrays are memory-mapped."""

    train: UInt16[np.ndarray, "train_blocks block_size"] | UInt32[np.ndarray, "train_blocks block_size"]
    validation: UInt16[np.ndarray, "other_blocks block_size"] | UInt32[np.ndarray, "other_blocks block_size"]
    token_counts: Int64[np.ndarray, " vocabulary"]
    """How often each token occurs in the training blocks."""
    continues_word: Bool[np.ndarray, " vocabulary"]
    """The tokens that are later pieces of a word."""
    pad_token_id: int
    sep_token_id: int
    """The token at the end of a document, and of a block."""
    special_ids: tuple[int, ...]
    """All special tokens, [UNK] included."""
    mask_token_id: int
    vocab_size: int
    """Number of tokens of the tokenizer."""
    fingerprint: str
    """SHA-256 of the source's content."""
    folder: Path
    manifest: dict[str, Any]


@dataclass
class _Counts:
    """The facts about a split in the manifest. `tokens` counts the text before anything is added or cut off."""

    documents: int = 0
    tokens: int = 0
    blocks: int = 0
    unknown: int = 0
    """Tokens of text that the tokenizer has no piece for, [UNK]."""
    with_capitals: int = 0
    """Documents with capitals, where the tokenizer makes them small."""
    cut: int = 0
    """Tokens beyond the end of a block, of lines, or in the last, incomplete block, of documents: they are left out."""


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """SHA-256 of the settings by which the tokenizer turns text into tokens.

    Truncation and padding do not enter: they are settings of the last call, which the tokenizer keeps.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def makes_capitals_small(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether capitals are lost on the way to tokens."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("A") == "a"


def prepare(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, cache: Path, data: str | None) -> Path:
    """The folder of token blocks of a corpus: `cache/tokens-<key>`, made if it does not exist.

    With `packing = "documents"` each document is followed by [SEP], and the stream of all tokens is cut into pieces of
    `block_size` - 2, each wrapped as [CLS] … [SEP]; the last, incomplete piece of a split is dropped, so nothing is
    padded. With `packing = "lines"` each line is wrapped, cut and padded by itself.

    Damaged blocks are reported on standard error and made again. If another process is making the same blocks, this
    one waits for it.

    Args:
        corpus: the recipe's section.
        tokenizer: the teacher's.
        cache: folder of prepared corpora. The key is a hash of source, settings and tokenizer.
        data: folder with `wikitext2/`; None for the hub.

    Raises:
        UserError: the source is wrong (see `open_source`), a split is shorter than a block, or the tokenizer lacks a
            special token.
    """
    source = open_source(corpus, data)
    facts = _facts(corpus, tokenizer, source)
    folder = _folder(cache, facts)
    lock = cache / f".{folder.name}{atomic.LOCK}"
    if _damage(folder) is None:
        locks.tidy(lock)
        _tell_of_losses(corpus, atomic.read_manifest(folder, verify=False)["splits"])
        return folder
    with locks.alone(lock, where=f"the cache {folder}", wait=True):
        if damage := _damage(folder):  # else another process has made it while this one waited
            if atomic.is_finished(folder):
                sys.stderr.write(f"making token blocks again: {damage}\n")
                disk.remove(folder)
            facts["splits"] = {}  # filled below, and written with the other facts when the folder is finished
            with atomic.unfinished(folder, **facts) as partial:
                try:
                    for split in SPLITS:
                        facts["splits"][split] = _write_split(partial, source, split, corpus, tokenizer)
                except UserError:  # a mistake in the text: nothing of it may stay in the cache
                    disk.remove(partial)
                    raise
                np.save(partial / "continues_word.npy", continues_word(tokenizer), allow_pickle=False)
    _tell_of_losses(corpus, atomic.read_manifest(folder, verify=False)["splits"])
    return folder


def _tell_of_losses(corpus: Corpus, splits: Mapping[str, Mapping[str, int]]) -> None:
    """Say what the tokenizer and the blocks lose of the text; earlier versions did not count it."""

    def total(name: str) -> int:
        return sum(counts.get(name, 0) for counts in splits.values())

    lost = []
    if unknown := total("unknown"):
        lost.append(f"{counted(unknown, 'token')} unknown to the tokenizer ({unknown / total('tokens'):.2%})")
    if capitals := total("with_capitals"):
        documents = counted(total("documents"), "document")
        lost.append(f"the capitals of {capitals:,} of {documents}, which the tokenizer makes small")
    if cut := total("cut"):
        place = "beyond the blocks of their lines" if corpus.packing == "lines" else "at the end, too few for a block"
        lost.append(f"{counted(cut, 'token')} {place}")
    if lost:
        notice(f"corpus.source {corpus.source}", f"lost on the way to {total('tokens'):,} tokens: {'; '.join(lost)}")


def _damage(folder: Path) -> str | None:
    """What is wrong with the folder by its manifest; None when it is complete."""
    try:
        atomic.read_manifest(folder)
    except UserError as error:
        return str(error)
    return None


def prepared_splits(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, source: Source, cache: Path
) -> dict[str, dict[str, int]] | None:
    """Documents, tokens and blocks of each split; None if `prepare` has not made the folder yet."""
    folder = _folder(cache, _facts(corpus, tokenizer, source))
    if not atomic.is_finished(folder):
        return None
    splits: dict[str, dict[str, int]] = atomic.read_manifest(folder, verify=False)["splits"]
    return splits


def _facts(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, source: Source) -> dict[str, Any]:
    """All facts on which the blocks depend."""
    settings = dataclasses.asdict(corpus)
    del settings["attention"]  # it changes what tokens attend to, and no block
    if corpus.quoting == "auto":  # the blocks of versions before had no other
        del settings["quoting"]
    return {
        "format": FORMAT,
        "source": source.name,
        "fingerprint": source.fingerprint,
        "settings": settings,
        "tokenizer_hash": tokenizer_hash(tokenizer),
        "vocab_size": len(tokenizer),
        "special_tokens": _special_tokens(tokenizer),
        "special_ids": sorted(tokenizer.all_special_ids),
    }


def _folder(cache: Path, facts: dict[str, Any]) -> Path:
    key = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]
    return cache / f"tokens-{key}"


def load_blocks(folder: Path) -> TokenBlocks:
    """The blocks in a folder that `prepare` returned; they are mapped into memory, not read.

    Raises:
        UserError: the folder is unfinished, or a file differs from the manifest.
    """
    manifest = atomic.read_manifest(folder)
    with as_user_error(str(folder), expected="token blocks", fix=f"delete {folder} and run the command again"):
        arrays = {
            name: np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            for name in (*SPLITS, "token_counts", "continues_word")
        }
        return TokenBlocks(
            **arrays,
            pad_token_id=manifest["special_tokens"]["pad"],
            sep_token_id=manifest["special_tokens"]["sep"],
            special_ids=tuple(manifest["special_ids"]),
            mask_token_id=manifest["special_tokens"]["mask"],
            vocab_size=manifest["vocab_size"],
            fingerprint=manifest["fingerprint"],
            folder=folder,
            manifest=manifest,
        )


def _special_tokens(tokenizer: PreTrainedTokenizerFast) -> dict[str, int]:
    tokens = {name: getattr(tokenizer, f"{name}_token_id") for name in ("cls", "sep", "pad", "mask")}
    missing = [name for name, token in tokens.items() if token is None]
    if missing:
        found, fix = f"none for {', '.join(missing)}", "use the tokenizer of a masked language model"
        raise UserError(f"tokenizer {tokenizer.name_or_path}", expected="special tokens", found=found, fix=fix)
    return tokens


def _write_split(
    folder: Path, source: Source, split: str, corpus: Corpus, tokenizer: PreTrainedTokenizerFast
) -> dict[str, int]:
    """Tokenise one split of a source into `<split>.npy`, a part at a time; tokens of the training split are counted."""
    counts = _Counts()
    documents = source.train() if split == "train" else source.validation()
    cut = _packed if corpus.packing == "documents" else _by_line
    dtype = np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.uint32)
    token_counts = np.zeros(len(tokenizer), dtype=np.int64)
    with RowFile(folder / f"{split}.npy", (corpus.block_size,), dtype) as rows:
        for blocks in cut(_tokenize(documents, tokenizer, counts), corpus.block_size, tokenizer, counts):
            rows.append(blocks)
            token_counts += np.bincount(blocks.ravel(), minlength=len(tokenizer))
    counts.blocks = rows.rows
    if not counts.blocks:
        where = f"corpus.source {source.name}, {split} split"
        expected = f"text for a block of {corpus.block_size} tokens"
        found = f"{counts.tokens} tokens in {counts.documents} documents"
        fix = "give more text, a larger corpus.validation_share or a smaller corpus.block_size"
        raise UserError(where, expected=expected, found=found, fix=fix)
    if split == "train":
        np.save(folder / "token_counts.npy", token_counts, allow_pickle=False)
    return dataclasses.asdict(counts)


def _batches(documents: Iterable[str]) -> Iterator[list[str]]:
    """Groups of consecutive documents with about `CHARACTERS_AT_ONCE` characters each."""
    batch: list[str] = []
    characters = 0
    for document in documents:
        batch.append(document)
        characters += len(document) + 1
        if characters >= CHARACTERS_AT_ONCE:
            yield batch
            batch, characters = [], 0
    if batch:
        yield batch


def _tokenize(
    documents: Iterable[str], tokenizer: PreTrainedTokenizerFast, counts: _Counts
) -> Iterator[list[list[int]]]:
    """Token ids of groups of documents, without special tokens; the documents of a group are tokenised in parallel."""
    lowers = makes_capitals_small(tokenizer)
    for batch in _batches(documents):
        if tokenizer.unk_token is not None:
            batch = [document.replace(UNKNOWN, tokenizer.unk_token) for document in batch]
        ids = tokenizer(
            batch,
            add_special_tokens=False,
            return_attention_mask=False,
            return_token_type_ids=False,
            verbose=False,  # no warning about articles longer than the model's input: they are cut into blocks
        )["input_ids"]
        counts.documents += len(batch)
        counts.tokens += sum(map(len, ids))
        counts.unknown += sum(row.count(tokenizer.unk_token_id) for row in ids)
        if lowers:
            counts.with_capitals += sum(document != document.lower() for document in batch)
        yield ids


def _packed(
    batches: Iterable[list[list[int]]], block_size: int, tokenizer: PreTrainedTokenizerFast, counts: _Counts
) -> Iterator[Int64[np.ndarray, "blocks block_size"]]:
    """Blocks of the stream of all documents."""
    length = block_size - 2
    rest: list[int] = []
    for batch in batches:
        followed = ((*ids, tokenizer.sep_token_id) for ids in batch if ids)
        stream = np.fromiter(itertools.chain(rest, *followed), dtype=np.int64)
        complete = len(stream) // length
        blocks = np.empty((complete, block_size), dtype=np.int64)
        blocks[:, 0], blocks[:, -1] = tokenizer.cls_token_id, tokenizer.sep_token_id
        blocks[:, 1:-1] = stream[: complete * length].reshape(complete, length)
        rest = stream[complete * length :].tolist()
        yield blocks
    counts.cut += len(rest)


def _by_line(
    batches: Iterable[list[list[int]]], block_size: int, tokenizer: PreTrainedTokenizerFast, counts: _Counts
) -> Iterator[Int64[np.ndarray, "blocks block_size"]]:
    """One block for each document, cut and padded."""
    for batch in batches:
        blocks = np.full((len(batch), block_size), tokenizer.pad_token_id, dtype=np.int64)
        for block, ids in zip(blocks, batch, strict=True):
            kept = ids[: block_size - 2]
            counts.cut += len(ids) - len(kept)
            block[: len(kept) + 2] = (tokenizer.cls_token_id, *kept, tokenizer.sep_token_id)
        yield blocks
