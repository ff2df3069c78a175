"""Masked batches for pretraining, made from token blocks as a pure function of the step."""

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, Integer
from torch import Tensor

from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masking import IGNORED, mask_tokens, token_chances
from tinydistilbert.data.order import epoch_part, stream_part
from tinydistilbert.data.randomness import generator
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.types import ramp_at

VALIDATION_BATCH = 16
"""Blocks whose masks are drawn together on validation text, whatever the training batch size."""
VALIDATION_SEED = 1
"""Seed of the validation masks, whatever the seed of the run, so that runs can be compared."""
VALIDATION_RATE = 0.15
"""Mask rate of validation, whatever the recipe's masking (Devlin et al. 2019)."""
VALIDATION_MASKING = schema.Masking(
    rate=VALIDATION_RATE, mask_share=0.8, random_share=0.1, whole_words=False, smoothing=0.0
)

KlPositions = Literal["all", "masked", "sampled"]
Attention = Literal["block", "documents"]


@dataclass(frozen=True)
class Drawn:
    """What was drawn for some blocks: the tokens to predict, and the positions of the KL."""

    input_ids: Int64[np.ndarray, "batch length"]
    """The tokens, with the chosen ones masked."""
    labels: Int64[np.ndarray, "batch length"]
    """The original token where it was chosen, -100 elsewhere."""
    soft: Bool[np.ndarray, "batch length"]
    """The positions at which the KL is taken."""


@dataclass(frozen=True)
class MaskedBatches:
    """The micro-batches of each optimiser step: a pure function of the seed and the step.

    Each micro-batch has `input_ids` and `labels` [batch length]; the flat positions `masked` (masked tokens), `counted`
    (all tokens except padding) and `soft` (tokens at which the KL is taken, the masked ones first); and, only if
    needed, `attention_mask`: [batch length] if there is padding, or [batch 1 length length] if documents are kept
    apart. The flat positions are computed on the CPU, so that no device has to wait for them.
    """

    blocks: TokenBlocks
    attention: Attention
    masking: schema.Masking
    objective: schema.Objective
    """Sets where the KL is taken."""
    optimization: schema.Optimization
    """Sets the batch size."""
    seed: int
    steps: int
    """Optimiser steps of the whole training, over which a mask rate given as two numbers changes."""

    @property
    def epochs_end_steps(self) -> bool:
        """Whether the last step of an epoch has only the remaining blocks, as in a loop over epochs.

        This is so in TinyDistilBERT. Otherwise the blocks are one stream, and a step may span two epochs.
        """
        return self.objective.reduction == "notebook"

    @property
    def blocks_per_step(self) -> int:
        """Blocks per optimiser step."""
        return self.optimization.batch_size * self.optimization.gradient_accumulation_steps

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch if epochs end steps; the last step may be smaller."""
        return -(-len(self.blocks.train) // self.blocks_per_step)

    def chosen(self, step: int) -> tuple[Int64[np.ndarray, " batch"], Int64[np.ndarray, " batch"]]:
        """Return the training blocks that `step` reads, and the epoch of each."""
        rows = len(self.blocks.train)
        if self.epochs_end_steps:
            epoch, part = divmod(step, self.steps_per_epoch)
            indices = epoch_part(part, epoch, rows, self.blocks_per_step, self.seed)
            return indices, np.full(len(indices), epoch)
        return stream_part(step, rows, self.blocks_per_step, self.seed)

    def draw(self, original: Int64[np.ndarray, "batch length"], *, rate: float, number: int) -> Drawn:
        """Draw masks and KL positions of some training blocks; another `number` gives others."""
        objective = self.objective
        return _draw(
            original, self.blocks, self.masking, rate, objective.kl_positions, objective.kl_sampled_share, self.seed,
            number,
        )  # fmt: skip

    def __call__(self, step: int, oom_splits: int = 0) -> list[dict[str, Tensor]]:
        """Return the micro-batches of `step`; masks are drawn for all at once, so they do not depend on the split."""
        indices, _ = self.chosen(step)
        original = self.blocks.train[indices].astype(np.int64)
        drawn = self.draw(original, rate=ramp_at(self.masking.rate, step, self.steps), number=step)
        return micro_batches(original, drawn, self.blocks, self.optimization.batch_size >> oom_splits, self.attention)


def validation_batches(blocks: TokenBlocks, limit: int, *, attention: Attention) -> Iterator[dict[str, Tensor]]:
    """Yield the first `limit` validation blocks (0 = all); masks depend on the blocks only, and `soft` is `masked`.

    15 % of the tokens are masked, 80/10/10, each token by itself, whatever the recipe, so that recipes can be compared.
    """
    count = min(limit or len(blocks.validation), len(blocks.validation))
    for start in range(0, count, VALIDATION_BATCH):
        original = blocks.validation[start : min(start + VALIDATION_BATCH, count)].astype(np.int64)
        drawn = _draw(original, blocks, VALIDATION_MASKING, VALIDATION_RATE, "masked", 0.0, VALIDATION_SEED, start)
        yield from micro_batches(original, drawn, blocks, VALIDATION_BATCH, attention)


@functools.lru_cache(maxsize=2)
def _chance(blocks: TokenBlocks, rate: float, smoothing: float) -> float | Float[np.ndarray, " vocabulary"]:
    """Return `chance` for `mask_tokens`; cached, because most rates stay the same from step to step."""
    return token_chances(blocks.token_counts, rate, smoothing, blocks.special_ids) if smoothing else rate


def _draw(
    original: Int64[np.ndarray, "batch length"],
    blocks: TokenBlocks,
    masking: schema.Masking,
    rate: float,
    kl_positions: KlPositions,
    kl_sampled_share: float,
    seed: int,
    number: int,
) -> Drawn:
    masked_ids, labels = mask_tokens(
        original, masking, chance=_chance(blocks, rate, masking.smoothing),
        continues_word=blocks.continues_word if masking.whole_words else None,
        special_ids=blocks.special_ids, mask_token_id=blocks.mask_token_id, vocab_size=blocks.vocab_size,
        seed=seed, step=number,
    )  # fmt: skip
    counted, soft = original != blocks.pad_token_id, labels != IGNORED
    if kl_positions == "all":
        soft = counted
    elif kl_positions == "sampled":
        sampled = generator("KL positions", seed, number).random(original.shape) < kl_sampled_share
        soft = soft | (counted & sampled)
    return Drawn(masked_ids, labels, soft)


def micro_batches(
    original: Int64[np.ndarray, "batch length"],
    drawn: Drawn,
    blocks: TokenBlocks,
    batch_size: int,
    attention: Attention,
) -> list[dict[str, Tensor]]:
    """Cut blocks and what was drawn for them into micro-batches (see `MaskedBatches`)."""
    batches = []
    for start in range(0, len(original), batch_size):
        part = slice(start, start + batch_size)
        counted = original[part] != blocks.pad_token_id
        is_masked = drawn.labels[part] != IGNORED
        masked, others = np.flatnonzero(is_masked), np.flatnonzero(drawn.soft[part] & ~is_masked)
        batch = {
            "input_ids": drawn.input_ids[part],
            "labels": drawn.labels[part],
            "masked": masked,
            "counted": np.flatnonzero(counted),
            "soft": np.concatenate([masked, others]),
        }
        if attention == "documents":
            batch["attention_mask"] = document_mask(original[part], blocks.sep_token_id, counted)
        elif not counted.all():
            batch["attention_mask"] = counted.astype(np.int64)
        batches.append({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()})
    return batches


def document_mask(
    input_ids: Integer[np.ndarray, "batch length"], sep_token_id: int, counted: Bool[np.ndarray, "batch length"]
) -> Bool[np.ndarray, "batch 1 length length"]:
    """Return which positions (last axis) each position (third axis) attends to: those of its document without padding.

    A document ends with its [SEP]; the [CLS] of a block belongs to the first document. Each position attends to itself,
    so that no row is empty: attention over nothing would be NaN, although nothing reads it at padding.
    """
    is_end = input_ids == sep_token_id
    document = np.cumsum(is_end, axis=1) - is_end
    visible: np.ndarray = (document[:, :, None] == document[:, None, :]) & counted[:, None, :]
    visible |= np.eye(input_ids.shape[1], dtype=bool)
    return visible[:, None]


def useful_tokens(batch: dict[str, Tensor]) -> int:
    """Return the number of text tokens in a batch: positions that are not padding."""
    return len(batch["counted"])
