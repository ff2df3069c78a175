"""Soft targets: the logits of fine-tuned teachers for a task's examples, computed once, read in every epoch."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.label_scale import PLAIN, LabelScale
from tinydistilbert.finetuning.objective import SOFT_WORDS
from tinydistilbert.finetuning.teacher_check import check_teacher
from tinydistilbert.models.lengths import trained_length
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.run_folder import SOFT_TARGETS
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.compatible import check_classes, check_same_tokenizer
from tinydistilbert.tasks.encoding import Features, encode
from tinydistilbert.tasks.inference import Logits, predict
from tinydistilbert.tasks.words import is_first_piece
from tinydistilbert.training.job import Batch
from tinydistilbert.training.ranks import ALONE, Ranks


@dataclass(frozen=True)
class SoftTargetSource:
    """What a second distillation learns from beside the labels."""

    targets: Path
    """Folder of `make_soft_targets`."""
    teachers: tuple[Path, ...]
    """Fine-tuned models; layers are compared with the first one's where the recipe compares layers."""
    augmented: Path | None = None
    """File with augmented copies of the train examples, if the recipe wants them."""
    copied_layers: tuple[int, ...] = ()
    """The first teacher's layers that the student's were copied from, where that is known."""


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
    """Make the finished folder `output`: the mean of the teachers' logits for every example.

    A teacher of a classification or regression task, or one that tags words, reads the examples with its own tokenizer;
    in span tasks its positions must be the student's.

    Args:
        examples: what the student is going to be trained on.
        teachers: folders of models with the task's head.
        output: folder to make, with `logits.npy`: (n, classes), (n, 1), or of all windows laid end to end (tokens, 2),
            or of all texts laid end to end (words, tags), NaN for words that a teacher did not read.
        tokenizer: the student's.
        max_length: longest input in tokens.
        device: to compute on.
        given_labels: of teachers from elsewhere, what each of their outputs stands for; empty = what their names say.
            What they say is compared with the labels. None = the run's own teachers.
        soft_labels: (n, classes) logits that stand in place of the teachers', NaN where there are none.
        ranks: the processes that share the teachers' passes; rank 0 writes what they say.

    Raises:
        UserError: a teacher has another head, other classes, or in a span task another tokenizer; or what one from
            elsewhere says does not go with the labels.
    """
    total: NDArray[np.float64] | None = None
    with ranks.unfinished(output, examples=examples.fingerprint, teachers=[str(teacher) for teacher in teachers]) as to:
        for teacher in teachers:
            logits, order = _teacher_logits(teacher, examples, tokenizer, max_length, device, given_labels or (), ranks)
            if given_labels is not None and examples.task.kind != "span":
                check_teacher(str(teacher), logits, examples, order=order, is_given=bool(given_labels))
            total = logits if total is None else total + logits
        if not ranks.is_main:
            return
        assert total is not None, "there is a teacher"
        mean = total / len(teachers)
        if soft_labels is not None:
            mean = np.where(np.isnan(soft_labels), mean, soft_labels)
        np.save(to / SOFT_TARGETS, mean.astype(np.float32))


def _teacher_logits(
    teacher: Path, examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int, device: torch.device,
    labels: tuple[str, ...], ranks: Ranks,
) -> tuple[NDArray[np.float64], list[int]]:  # fmt: skip
    """One teacher's logits for every example, classes in the task's order; of all windows or words laid end to end.

    Returns:
        They, and for each class the output that was taken for it.
    """
    task, teacher_tokenizer = examples.task, load_tokenizer(teacher)
    if task.kind == "span":
        check_same_tokenizer(teacher, teacher_tokenizer, tokenizer)
    config = load_config(teacher)
    order = check_classes(teacher, config, task, labels)
    model = load_model(teacher, task.kind, require_head=True)
    trained = trained_length(teacher, teacher_tokenizer.model_max_length, longest_input(config))
    if trained is not None and task.kind != "span":  # of windows both have the same
        max_length = min(max_length, trained)
    features = encode(examples, teacher_tokenizer, max_length)
    pad_token_id = int(teacher_tokenizer.pad_token_id)
    predicted: Logits = predict(model, features, pad_token_id=pad_token_id, device=device, ranks=ranks)
    if features.word_tokens is not None:
        predicted = [_of_words(row, tokens) for row, tokens in zip(predicted, features.word_tokens, strict=True)]
    logits = np.concatenate(predicted) if isinstance(predicted, list) else predicted
    order = [*range(logits.shape[-1])] if order is None else order
    return logits[:, order].astype(np.float64), order


def _of_words(logits: NDArray[np.float32], tokens: NDArray[np.int32]) -> NDArray[np.float32]:
    """(words, tags) logits of each word's first token; NaN for words without one of their own."""
    return np.where(is_first_piece(tokens)[:, None], logits[np.maximum(tokens, 0)], np.float32(np.nan))


@dataclass(frozen=True, eq=False)
class SoftTargets:
    """The teachers' logits, read by the student's features."""

    logits: NDArray[np.float32]
    features: Features
    """The student's."""
    scale: LabelScale = PLAIN
    """In which units a regression is trained; the logits are labels."""

    @classmethod
    def open(cls, folder: Path, examples: Examples, features: Features, scale: LabelScale = PLAIN) -> Self:
        """Those in a folder of `make_soft_targets`, for features that were made of the same examples.

        Raises:
            UserError: the folder was made from other examples.
        """
        stored_hash = atomic.read_manifest(folder)["examples"]
        if stored_hash != examples.fingerprint:
            expected, found = f"the examples of sha256 {stored_hash[:12]}…", f"sha256 {examples.fingerprint[:12]}…"
            fix = "bring the old data back, or give another --output"
            raise UserError(str(folder), expected=expected, found=found, fix=fix)
        logits: NDArray[np.float32] = np.load(folder / SOFT_TARGETS, mmap_mode="r")
        rows = int(features.lengths.sum()) if features.offsets is not None else len(features)
        if features.word_tokens is not None:
            rows = sum(map(len, features.word_tokens))
        assert len(logits) == rows, (len(logits), rows)
        return cls(logits, features, scale)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Row of each window's first token, or of each text's first word."""
        words = self.features.word_tokens
        counts = self.features.lengths if words is None else np.array([len(of_text) for of_text in words])
        return np.asarray(np.cumsum(counts) - counts)

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """The soft targets of the features at `indices`.

        Returns:
            `teacher_logits` (batch, classes); in span tasks `teacher_start` and `teacher_end` (batch, length), padded
            with zeros, which the loss does not count. In token classification `teacher_logits` (batch, length, tags)
            and `teacher_words` (batch, length), whether a token has some.
        """
        if self.features.word_tokens is not None:
            return self._of_tokens(indices, self.features.word_tokens)
        if self.features.offsets is None:
            logits = np.asarray(self.logits[indices])
            return {"teacher_logits": torch.from_numpy(logits if self.scale.is_plain else self.scale.standard(logits))}
        lengths = self.features.lengths[indices]
        padded = np.zeros((len(indices), int(lengths.max()), 2), dtype=np.float32)
        for row, start, length in zip(padded, self._starts[indices], lengths, strict=True):
            row[:length] = self.logits[start : start + length]
        return {"teacher_start": torch.from_numpy(padded[..., 0]), "teacher_end": torch.from_numpy(padded[..., 1])}

    def _of_tokens(self, indices: NDArray[np.int64], word_tokens: Sequence[NDArray[np.int32]]) -> Batch:
        shape = len(indices), int(self.features.lengths[indices].max())
        padded, counted = np.zeros((*shape, self.logits.shape[-1]), dtype=np.float32), np.zeros(shape, dtype=bool)
        for row, index in enumerate(indices):
            tokens, start = word_tokens[index], self._starts[index]
            logits = np.asarray(self.logits[start : start + len(tokens)])
            is_taught = is_first_piece(tokens) & np.isfinite(logits).all(-1)
            padded[row, tokens[is_taught]], counted[row, tokens[is_taught]] = logits[is_taught], True
        return {"teacher_logits": torch.from_numpy(padded), SOFT_WORDS: torch.from_numpy(counted)}
