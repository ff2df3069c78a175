"""Soft targets: the logits of fine-tuned teachers for the examples of a task, computed once, in shards, and stored."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.data.npy import RowFile
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.label_scale import PLAIN, LabelScale
from tinydistilbert.finetuning.objective import SOFT_WORDS
from tinydistilbert.finetuning.teacher_check import check_teacher
from tinydistilbert.models.lengths import trained_length
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.progress import say
from tinydistilbert.run_folder import SOFT_TARGETS
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.compatible import check_classes, check_same_tokenizer
from tinydistilbert.tasks.encoding import Features, encode
from tinydistilbert.tasks.inference import Logits, predict
from tinydistilbert.tasks.words import is_first_piece
from tinydistilbert.training.job import Batch
from tinydistilbert.training.ranks import ALONE, Ranks

SHARD = 2**13
"""Examples after which the teachers' logits are written durably."""
CHECKED = 2048
"""With more than a shard of examples, a teacher is first checked on at most so many labelled ones, evenly spread."""
DTYPE = np.dtype(np.float32)


@dataclass(frozen=True)
class SoftTargetSource:
    """What a second distillation learns from in addition to the labels."""

    targets: Path
    """Folder of `make_soft_targets`."""
    teachers: tuple[Path, ...]
    """Fine-tuned models; if the recipe compares layers, they are the first model's."""
    augmented: Path | None = None
    """File with augmented copies of the train examples, if the recipe asks for them."""
    copied_layers: tuple[int, ...] = ()
    """The first teacher's layers that the student's were copied from, if known."""


def make_soft_targets(
    examples: Examples,
    teachers: Sequence[Path],
    output: Path,
    *,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    device: torch.device,
    given_labels: tuple[str, ...] | None = None,
    soft_labels: NDArray[np.float64] | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Write the finished folder `output`: the mean of the teachers' logits for every example.

    A teacher of a classification, regression or token classification task reads the examples with its own tokenizer; in
    span tasks its tokens must be the student's. Logits are durable after every `SHARD` examples: after a kill, the same
    call continues from there.

    Args:
        examples: the student's training examples.
        teachers: folders of models with the task's head.
        output: folder to make, with `logits.npy`: (n, classes), (n, 1), or (tokens, 2) of all windows concatenated, or
            (words, tags) of all texts concatenated, NaN for words that a teacher did not read.
        tokenizer: the student's.
        max_length: longest input in tokens.
        device: to compute on.
        given_labels: for teachers from elsewhere, the class of each of their outputs; empty = by the names in their
            config. Their predictions are compared with the labels. None = the run's own teachers.
        soft_labels: (n, classes) logits that replace the teachers', NaN where there are none.
        ranks: the processes that share the teachers' passes; rank 0 writes the logits.

    Raises:
        UserError: a teacher has another head, other classes, or in a span task another tokenizer; or the predictions of
            one from elsewhere do not match the labels.
    """
    asked = _Asked(tokenizer, max_length, device, given_labels or (), ranks)
    # One teacher at a time is in memory; a single teacher stays there.
    opened = lru_cache(maxsize=1)(lambda folder: _Teacher.open(folder, examples.task, asked))
    is_checked = given_labels is not None and examples.task.kind != "span"
    facts = {"examples": examples.fingerprint, "teachers": [str(teacher) for teacher in teachers]}
    settings = [max_length, list(asked.labels), None if soft_labels is None else _hash_of(soft_labels)]
    with (
        ranks.unfinished(output, **facts) as to,
        _Shards(to, {**facts, "settings": settings}, ranks) as shards,
    ):
        done = shards.resume(len(examples))
        if is_checked and not done and len(examples) > SHARD:  # before hours of passes, on a spread sample
            labelled = [row for row, label in enumerate(examples.columns["label"]) if label is not None]
            some = examples.take(labelled[:: -(-len(labelled) // CHECKED) or 1])
            for folder in teachers if len(some) else ():
                opened(folder).check(some, opened(folder).logits(some), is_given=bool(given_labels))
        for begin in range(done, len(examples), SHARD):
            part, total = examples.take(range(begin, min(begin + SHARD, len(examples)))), np.zeros(())
            for folder in teachers:
                logits = opened(folder).logits(part)
                if is_checked and len(part) == len(examples):
                    opened(folder).check(part, logits, is_given=bool(given_labels))
                total = total + logits
            mean = total / len(teachers)
            if soft_labels is not None:
                given = soft_labels[begin : begin + len(part)]
                mean = np.where(np.isnan(given), mean, given)
            shards.append(mean, begin + len(part), len(examples))


@dataclass(frozen=True)
class _Asked:
    """How the teachers are run."""

    tokenizer: PreTrainedTokenizerFast
    """The student's."""
    max_length: int
    device: torch.device
    labels: tuple[str, ...]
    """The class of each output; empty = by the names in the teacher's config."""
    ranks: Ranks


@dataclass(frozen=True)
class _Teacher:
    """A loaded teacher."""

    folder: Path
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerFast
    max_length: int
    order: list[int] | None
    """For each class, the teacher's output that stands for it; None = in the teacher's order."""
    asked: _Asked

    @classmethod
    def open(cls, folder: Path, task: Task, asked: _Asked) -> Self:
        """Load a teacher.

        Raises:
            UserError: it does not fit the task.
        """
        tokenizer, max_length = load_tokenizer(folder), asked.max_length
        if task.kind == "span":
            check_same_tokenizer(folder, tokenizer, asked.tokenizer)
        config = load_config(folder)
        order = check_classes(folder, config, task, asked.labels)
        model = load_model(folder, task.kind, require_head=True)
        trained = trained_length(folder, tokenizer.model_max_length, longest_input(config))
        if trained is not None and task.kind != "span":  # span windows must equal the student's
            max_length = min(max_length, trained)
        return cls(folder, model, tokenizer, max_length, order, asked)

    def logits(self, examples: Examples) -> NDArray[np.float64]:
        """Return the logits of every example, or of all windows or words concatenated; classes in the task's order."""
        features = encode(examples, self.tokenizer, self.max_length)
        pad_token_id = int(self.tokenizer.pad_token_id)
        device, ranks = self.asked.device, self.asked.ranks
        predicted: Logits = predict(self.model, features, pad_token_id=pad_token_id, device=device, ranks=ranks)
        if features.word_tokens is not None:
            predicted = [_of_words(row, tokens) for row, tokens in zip(predicted, features.word_tokens, strict=True)]
        logits = np.concatenate(predicted) if isinstance(predicted, list) else predicted
        return logits[:, self._order(logits.shape[-1])].astype(np.float64)

    def _order(self, outputs: int) -> list[int]:
        return [*range(outputs)] if self.order is None else self.order

    def check(self, examples: Examples, logits: NDArray[np.float64], *, is_given: bool) -> None:
        """Compare its predictions with the labels.

        Raises:
            UserError: they do not match.
        """
        check_teacher(
            str(self.folder), logits, examples, order=self._order(logits.shape[-1]), is_given=is_given
        )  # fmt: skip


class _Shards:
    """The growing file of soft targets; with several processes, only rank 0 has one.

    Args:
        folder: the unfinished folder.
        facts: what the targets are made from; a file begun with other facts is not continued.
        ranks: the processes.
    """

    def __init__(self, folder: Path, facts: dict[str, Any], ranks: Ranks) -> None:
        self._path, self._state = folder / SOFT_TARGETS, folder / atomic.CHECKPOINTS / "soft-targets.json"
        self._facts, self._ranks = facts, ranks
        self._rows: RowFile | None = None

    def resume(self, examples: int) -> int:
        """Return the number of examples that an earlier process has done."""
        done = 0
        if self._ranks.is_main and self._state.is_file():
            state = atomic.read_json(self._state)
            if state.get("facts") == self._facts:
                try:
                    self._rows = RowFile(self._path, (state["width"],), DTYPE, kept=state["rows"])
                except OSError as error:
                    say(f"{self._path}: starting again: {error}")
                else:
                    done = state["done"] if self._rows.digest == state["sha256"] else 0
            if not done and self._rows is not None:
                say(f"{self._path}: starting again, as the earlier part was changed or damaged")
                self._rows.__exit__(None, None, None)
                self._rows = None
        done = int(self._ranks.broadcast(done))
        if done and done < examples:
            say(f"soft targets: {done:,} of {examples:,} examples were answered before; continuing from there")
        return done

    def append(self, logits: NDArray[np.float64], done: int, examples: int) -> None:
        """Append the logits of a shard; `done` is the number of examples up to its end."""
        if not self._ranks.is_main:
            return
        width = logits.shape[-1]
        if self._rows is None:
            self._rows = RowFile(self._path, (width,), DTYPE)
        self._rows.append(logits)
        if done == examples and not self._state.is_file():  # one shard: the finished folder comes next
            return
        self._rows.sync()
        state = {"facts": self._facts, "done": done, "rows": self._rows.rows, "width": width}
        atomic.write_json(self._state, {**state, "sha256": self._rows.digest})
        say(f"soft targets: {done:,} of {examples:,} examples answered")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._rows is not None:
            self._rows.__exit__(kind, error, traceback)


def _hash_of(values: NDArray[np.float64]) -> str:
    return hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()


def _of_words(logits: NDArray[np.float32], tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """Return the (words, tags) logits of each word's first token; NaN for words without a token of their own."""
    return np.where(is_first_piece(tokens)[:, None], logits[np.maximum(tokens, 0)], np.float32(np.nan))


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """The teachers' logits, indexed by the student's features."""

    logits: NDArray[np.float32]
    features: Features
    """The student's."""
    scale: LabelScale = PLAIN
    """The units that a regression is trained in; the stored logits are in the labels' units."""

    @classmethod
    def open(cls, folder: Path, examples: Examples, features: Features, scale: LabelScale = PLAIN) -> Self:
        """Open a folder of `make_soft_targets` for features of the same examples.

        Raises:
            UserError: the folder was made from other examples.
        """
        stored_hash = atomic.read_manifest(folder)["examples"]
        if stored_hash != examples.fingerprint:
            expected, found = f"the examples of sha256 {stored_hash[:12]}…", f"sha256 {examples.fingerprint[:12]}…"
            fix = "restore the old data, or give another --output"
            raise UserError(str(folder), expected=expected, found=found, fix=fix)
        logits: NDArray[np.float32] = np.load(folder / SOFT_TARGETS, mmap_mode="r")
        rows = int(features.lengths.sum()) if features.offsets is not None else len(features)
        if features.word_tokens is not None:
            rows = sum(map(len, features.word_tokens))
        assert len(logits) == rows, (len(logits), rows)
        return cls(logits, features, scale)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """The row of each window's first token, or of each text's first word."""
        words = self.features.word_tokens
        counts = self.features.lengths if words is None else np.array([len(of_text) for of_text in words])
        return np.asarray(np.cumsum(counts) - counts)

    def batch(self, indices: NDArray[np.int64], length: int | None = None) -> Batch:
        """Return the soft targets of the features at `indices`.

        Args:
            indices: of the features of a batch.
            length: tokens that the batch is padded to; None = those of its longest.

        Returns:
            `teacher_logits` (batch, classes); in span tasks `teacher_start` and `teacher_end` (batch, length), padded
            with zeros, which the loss does not count. In token classification `teacher_logits` (batch, length, tags)
            and `teacher_words` (batch, length), which tokens have soft targets.
        """
        if self.features.word_tokens is not None:
            return self._of_tokens(indices, self.features.word_tokens, length)
        if self.features.offsets is None:
            logits = np.asarray(self.logits[indices])
            return {"teacher_logits": torch.from_numpy(logits if self.scale.is_plain else self.scale.standard(logits))}
        lengths = self.features.lengths[indices]
        padded = np.zeros((len(indices), length or int(lengths.max()), 2), dtype=np.float32)
        for row, start, tokens in zip(padded, self._starts[indices], lengths, strict=True):
            row[:tokens] = self.logits[start : start + tokens]
        return {"teacher_start": torch.from_numpy(padded[..., 0]), "teacher_end": torch.from_numpy(padded[..., 1])}

    def _of_tokens(
        self, indices: NDArray[np.int64], word_tokens: Sequence[NDArray[np.int32]], length: int | None
    ) -> Batch:
        shape = len(indices), length or int(self.features.lengths[indices].max())
        padded, counted = np.zeros((*shape, self.logits.shape[-1]), dtype=np.float32), np.zeros(shape, dtype=bool)
        for row, index in enumerate(indices):
            tokens, start = word_tokens[index], self._starts[index]
            logits = np.asarray(self.logits[start : start + len(tokens)])
            is_taught = is_first_piece(tokens) & np.isfinite(logits).all(-1)
            padded[row, tokens[is_taught]], counted[row, tokens[is_taught]] = logits[is_taught], True
        return {"teacher_logits": torch.from_numpy(padded), SOFT_WORDS: torch.from_numpy(counted)}
