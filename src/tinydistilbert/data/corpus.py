"""From documents to token blocks: rows of equal length on disk, memory-mapped for reading."""

import dataclasses
import hashlib
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int64, UInt16, UInt32
from transformers import PreTrainedTokenizerFast

from tinydistilbert.data.repeated_documents import SeenDocuments
from tinydistilbert.data.sources import Source, open_source
from tinydistilbert.data.token_blocks import ByLine, Packed, token_counts, write_split
from tinydistilbert.data.word_pieces import continues_word
from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.storage import atomic, disk, locks, scratch

FORMAT = 2
"""Part of the folder's key; raise it when the same source and settings give other blocks than before."""
SPLITS = ("train", "validation")


@dataclass(frozen=True, eq=False)
class TokenBlocks:
    """The blocks of a prepared corpus and the facts that masking and padding need; all arrays are memory-mapped."""

    train: UInt16[np.ndarray, "train_blocks block_size"] | UInt32[np.ndarray, "train_blocks block_size"]
    validation: UInt16[np.ndarray, "other_blocks block_size"] | UInt32[np.ndarray, "other_blocks block_size"]
    token_counts: Int64[np.ndarray, " vocabulary"]
    """How often each token occurs in the training blocks."""
    continues_word: Bool[np.ndarray, " vocabulary"]
    """Whether each token is a later piece of a word."""
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


def tokenizer_hash(tokenizer: PreTrainedTokenizerFast) -> str:
    """Return the SHA-256 of the settings that determine how the tokenizer turns text into tokens.

    Truncation and padding are left out: the tokenizer merely keeps them from its last call.
    """
    content = json.loads(tokenizer.backend_tokenizer.to_str())
    content["truncation"] = content["padding"] = None
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def makes_capitals_small(tokenizer: PreTrainedTokenizerFast) -> bool:
    """Whether the tokenizer lower-cases text."""
    normalizer = tokenizer.backend_tokenizer.normalizer
    return normalizer is not None and normalizer.normalize_str("A") == "a"


def prepare(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, cache: Path, data: str | None, *, jobs: int = 1
) -> Path:
    """Return the folder of a corpus's token blocks, `cache/tokens-<key>`; create it if it does not exist.

    With `packing = "documents"`, each document is followed by [SEP], and the stream of all tokens is cut into pieces of
    `block_size` - 2, each wrapped as [CLS] … [SEP]; the last, incomplete piece of a split is dropped, so nothing is
    padded. With `packing = "lines"`, each line is wrapped, cut and padded separately.

    Damaged blocks are reported on standard error and made again. If another process is making the same blocks, this one
    waits for it; if one was killed while making them, this one continues after its last shard.

    Args:
        corpus: the recipe's section `corpus`.
        tokenizer: the teacher's.
        cache: folder of prepared corpora. The key is a hash of source, settings and tokenizer.
        data: folder with `wikitext2/`; None for the hub.
        jobs: processes that tokenise; 1 = this one, with its threads. The blocks do not depend on it.

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
        if (folder / atomic.CHECKPOINTS).exists():  # its process may have died before deleting them
            with locks.alone(lock, where=f"the cache {folder}", wait=True):
                atomic.tidy(folder)
        _report_losses(corpus, atomic.read_manifest(folder, verify=False)["splits"])
        return folder
    with locks.alone(lock, where=f"the cache {folder}", wait=True):
        if damage := _damage(folder):  # otherwise another process made it while this one waited
            if atomic.is_finished(folder):
                sys.stderr.write(f"making token blocks again: {damage}\n")
                disk.remove(folder)
            facts["splits"] = {}  # filled below; written with the other facts when the folder is finished
            with atomic.unfinished(folder, **facts) as partial, scratch.beside(partial):
                try:
                    facts["splits"].update(_write_splits(partial, source, corpus, tokenizer, jobs))
                except UserError:  # an error in the text: none of it may stay in the cache
                    disk.remove(partial)
                    raise
                np.save(partial / "continues_word.npy", continues_word(tokenizer), allow_pickle=False)
    _report_losses(corpus, atomic.read_manifest(folder, verify=False)["splits"])
    return folder


def _report_losses(corpus: Corpus, splits: Mapping[str, Mapping[str, int]]) -> None:
    """Report what the tokenizer and the blocks lose of the text; earlier versions did not count it."""

    def total(name: str) -> int:
        return sum(counts.get(name, 0) for counts in splits.values())

    lost = []
    if repeated := total("repeated"):
        notice(f"corpus.source {corpus.source}", f"{counted(repeated, 'repeated document')} left out")
    if unknown := total("unknown"):
        lost.append(f"{counted(unknown, 'token')} unknown to the tokenizer ({unknown / total('tokens'):.2%})")
    if capitals := total("with_capitals"):
        documents = counted(total("documents"), "document")
        lost.append(f"the capitals in {capitals:,} of {documents}, which the tokenizer lower-cases")
    if cut := total("cut"):
        place = (
            "cut off lines that are longer than a block"
            if corpus.packing == "lines"
            else "at the end, too few for a block"
        )
        lost.append(f"{counted(cut, 'token')} {place}")
    if lost:
        notice(
            f"corpus.source {corpus.source}",
            f"lost of the {total('tokens'):,} tokens of its text: {'; '.join(lost)}",
        )


def _damage(folder: Path) -> str | None:
    """Return what is wrong with the folder according to its manifest; None if it is intact."""
    try:
        atomic.read_manifest(folder)
    except UserError as error:
        return str(error)
    return None


def prepared_splits(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, source: Source, cache: Path
) -> dict[str, dict[str, int]] | None:
    """Return documents, tokens and blocks of each split; None if `prepare` has not made the folder yet."""
    folder = _folder(cache, _facts(corpus, tokenizer, source))
    if not atomic.is_finished(folder):
        return None
    splits: dict[str, dict[str, int]] = atomic.read_manifest(folder, verify=False)["splits"]
    return splits


def _facts(corpus: Corpus, tokenizer: PreTrainedTokenizerFast, source: Source) -> dict[str, Any]:
    """Return all facts on which the blocks depend."""
    settings = dataclasses.asdict(corpus)
    del settings["attention"], settings["streaming"]  # they change attention and what is stored, not the blocks
    if corpus.quoting == "auto":  # earlier versions had no other value
        del settings["quoting"]
    if not corpus.deduplicate:
        del settings["deduplicate"]
    endings = {"endings": source.endings} if source.endings else {}
    return endings | {
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
    """Return the blocks in a folder that `prepare` returned; they are memory-mapped, not read.

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


def _write_splits(
    folder: Path, source: Source, corpus: Corpus, tokenizer: PreTrainedTokenizerFast, jobs: int
) -> dict[str, dict[str, int]]:
    """Tokenise the splits of a source into `<split>.npy`, a part at a time; count the tokens of the training split.

    Raises:
        UserError: a split is shorter than a block.
    """
    cls, sep, size = tokenizer.cls_token_id, tokenizer.sep_token_id, corpus.block_size
    is_packed = corpus.packing == "documents"
    cutter = Packed(size, cls, sep) if is_packed else ByLine(size, cls, sep, tokenizer.pad_token_id)
    lowers = makes_capitals_small(tokenizer)
    splits: dict[str, dict[str, int]] = {}
    seen = SeenDocuments()
    for split in SPLITS:
        documents, repeated = source.train() if split == "train" else source.validation(), seen.repeated
        if corpus.deduplicate:
            documents = seen.further(documents)
        path = folder / f"{split}.npy"
        counts = write_split(path, documents, tokenizer, cutter, size, lowers=lowers, jobs=jobs)
        if not counts.blocks:
            where = f"corpus.source {source.name}, {split} split"
            expected = f"text for a block of {size} tokens"
            found = f"{counts.tokens} tokens in {counts.documents} documents"
            fix = "give more text, a larger corpus.validation_share or a smaller corpus.block_size"
            raise UserError(where, expected=expected, found=found, fix=fix)
        of_split = dataclasses.asdict(counts)
        splits[split] = of_split | ({"repeated": seen.repeated - repeated} if corpus.deduplicate else {})
    np.save(folder / "token_counts.npy", token_counts(folder / "train.npy", len(tokenizer)), allow_pickle=False)
    return splits
