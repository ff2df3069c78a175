"""What fine-tuned teachers say of a task's examples, computed once and read in every epoch and by every seed."""

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer
from tinydistilbert.run_folder import SOFT_TARGETS
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.compatible import check_classes, check_same_tokenizer
from tinydistilbert.tasks.encoding import Features, encode
from tinydistilbert.tasks.inference import Logits, predict
from tinydistilbert.training.loop import Batch


def make_targets(
    examples: Examples,
    teachers: Sequence[Path],
    output: Path,
    *,
    tokenizer: PreTrainedTokenizerFast,
    max_length: int,
    device: torch.device,
) -> None:
    """Make the finished folder `output`: the mean of the teachers' logits for every example.

    A teacher of a classification or regression task reads the examples with its own tokenizer; in span tasks its
    positions must be the student's.

    Args:
        examples: what the student is going to be trained on.
        teachers: folders of models with the task's head.
        output: folder to make, with `logits.npy`: (n, classes), (n, 1), or of all windows laid end to end (tokens, 2).
        tokenizer: the student's.
        max_length: longest input in tokens.
        device: to compute on.

    Raises:
        UserError: a teacher has another head, other classes, or in a span task another tokenizer.
    """
    total: NDArray[np.float64] | None = None
    with atomic.unfinished(
        output, examples=examples.fingerprint, teachers=[str(teacher) for teacher in teachers]
    ) as to:
        for teacher in teachers:
            said = _said_by(teacher, examples, tokenizer, max_length, device)
            total = said if total is None else total + said
        assert total is not None, "somebody teaches"
        np.save(to / SOFT_TARGETS, (total / len(teachers)).astype(np.float32))


def _said_by(
    teacher: Path, examples: Examples, tokenizer: PreTrainedTokenizerFast, max_length: int, device: torch.device
) -> NDArray[np.float64]:
    task, own = examples.task, load_tokenizer(teacher)
    if task.kind == "span":
        check_same_tokenizer(teacher, own, tokenizer)
    order = check_classes(teacher, load_config(teacher), task)
    model = load_model(teacher, task.kind, require_head=True)
    features = encode(examples, own, max_length)
    logits: Logits = predict(model, features, pad_token_id=int(own.pad_token_id), device=device)
    said = np.concatenate(logits) if isinstance(logits, list) else logits
    return (said if order is None else said[:, order]).astype(np.float64)


class Targets:
    """The teachers' logits, read by the student's features.

    Args:
        folder: made by `make_targets`.
        examples: that the features were made of.
        features: the student's.

    Raises:
        UserError: the folder was made from other examples.
    """

    def __init__(self, folder: Path, examples: Examples, features: Features) -> None:
        there = atomic.read_manifest(folder)["examples"]
        if there != examples.fingerprint:
            expected, found = f"the examples of sha256 {there[:12]}…", f"sha256 {examples.fingerprint[:12]}…"
            fix = "bring the old data back, or give another --output"
            raise UserError(str(folder), expected=expected, found=found, fix=fix)
        self._logits: NDArray[np.float32] = np.load(folder / SOFT_TARGETS, mmap_mode="r")
        self._features = features
        rows = int(features.lengths.sum()) if features.offsets is not None else len(features)
        assert len(self._logits) == rows, (len(self._logits), rows)

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """Row of each window's first token."""
        return np.cumsum(self._features.lengths) - self._features.lengths

    def batch(self, indices: NDArray[np.int64]) -> Batch:
        """What the teachers say of the features at `indices`.

        Returns:
            `teacher_logits` (batch, classes); in span tasks `teacher_start` and `teacher_end` (batch, length), padded
            with zeros, which the loss does not count.
        """
        if self._features.offsets is None:
            return {"teacher_logits": torch.from_numpy(np.asarray(self._logits[indices]))}
        lengths = self._features.lengths[indices]
        padded = np.zeros((len(indices), int(lengths.max()), 2), dtype=np.float32)
        for place, start, length in zip(padded, self._starts[indices], lengths, strict=True):
            place[:length] = self._logits[start : start + length]
        return {"teacher_start": torch.from_numpy(padded[..., 0]), "teacher_end": torch.from_numpy(padded[..., 1])}
