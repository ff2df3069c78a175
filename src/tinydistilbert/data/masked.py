"""Masked batches for pretraining: token blocks in, tensors out, a pure function of the step."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from tinydistilbert import recipe
from tinydistilbert.data.batches import indices_at
from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masking import mask_tokens

VALIDATION_BATCH = 16
"""Blocks whose masks are drawn together on validation text, whatever the batches of the training are."""
VALIDATION_SEED = 1
"""Of the masks of validation, whatever the seed of the run, so that runs can be compared."""


@dataclass(frozen=True)
class MaskedBatches:
    """The micro-batches of each optimiser step.

    Each micro-batch has `input_ids` and `labels` (batch, length), `masked` and `counted` (flat positions of the masked
    tokens and of all that are not padding), and `attention_mask` only when there is padding. The flat positions are
    found here, on the CPU, so that no device has to wait for them.
    """

    blocks: TokenBlocks
    masking: recipe.Masking
    batch_size: int
    gradient_accumulation_steps: int
    seed: int

    @property
    def blocks_per_step(self) -> int:
        """Blocks that one optimiser step reads."""
        return self.batch_size * self.gradient_accumulation_steps

    def __call__(self, step: int) -> list[dict[str, Tensor]]:
        """The micro-batches of `step`; masks are drawn for all at once, so accumulation does not change them."""
        chosen = indices_at(step, len(self.blocks.train), self.blocks_per_step, self.seed)
        original = self.blocks.train[chosen].astype(np.int64)
        return _masked(original, self.blocks, self.masking, self.batch_size, self.seed, step)


def validation_batches(blocks: TokenBlocks, masking: recipe.Masking, limit: int) -> Iterator[dict[str, Tensor]]:
    """The first `limit` validation blocks (0 = all), with masks that depend on the blocks only."""
    count = min(limit or len(blocks.validation), len(blocks.validation))
    for start in range(0, count, VALIDATION_BATCH):
        original = blocks.validation[start : min(start + VALIDATION_BATCH, count)].astype(np.int64)
        yield from _masked(original, blocks, masking, VALIDATION_BATCH, VALIDATION_SEED, start)


def _masked(
    original: np.ndarray, blocks: TokenBlocks, masking: recipe.Masking, batch_size: int, seed: int, step: int
) -> list[dict[str, Tensor]]:
    masked_ids, labels = mask_tokens(
        original, masking, special_ids=blocks.special_ids, mask_token_id=blocks.mask_token_id,
        vocab_size=blocks.vocab_size, seed=seed, step=step,
    )  # fmt: skip
    batches = []
    for start in range(0, len(original), batch_size):
        part = slice(start, start + batch_size)
        counted = original[part] != blocks.pad_token_id
        batch = {
            "input_ids": masked_ids[part],
            "labels": labels[part],
            "masked": np.flatnonzero(labels[part] != -100),
            "counted": np.flatnonzero(counted),
        }
        if not counted.all():
            batch["attention_mask"] = counted.astype(np.int64)
        batches.append({name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in batch.items()})
    return batches


def useful_tokens(batch: dict[str, Tensor]) -> int:
    """Tokens of text in a batch: positions that are not padding."""
    return len(batch["counted"])
