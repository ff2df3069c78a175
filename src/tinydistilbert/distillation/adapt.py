"""adapt: a teacher from anywhere → a teacher in the run folder, moved to this text if the recipe says so."""

import math
from pathlib import Path

import torch

from tinydistilbert import results
from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masked_batches import MaskedBatches
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import pretrain, pretraining_measurements, validation_losses
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.teacher import LoadedTeacher
from tinydistilbert.recipe.schema import Objective, Recipe
from tinydistilbert.run_folder import MEASUREMENTS
from tinydistilbert.storage import atomic

MASKED_LM_ONLY = Objective(kl=0, mlm=1, cosine=0, kl_positions="masked")


def adapt_steps(recipe: Recipe) -> int:
    """Optimiser steps that `recipe.adapt.tokens` tokens of packed text need."""
    optimization = recipe.adapt.optimization
    blocks_per_step = optimization.batch_size * optimization.gradient_accumulation_steps
    return math.ceil(recipe.adapt.tokens / (blocks_per_step * recipe.corpus.block_size))


def check_head(recipe: Recipe, teacher: LoadedTeacher) -> None:
    """Refuse a teacher whose masked-LM head is new and would stay untrained.

    Raises:
        UserError: the teacher has no trained masked-LM head and `recipe.adapt.tokens` is 0.
    """
    if not (recipe.adapt.tokens or teacher.has_trained_head):
        fix = "set adapt.tokens (the preset minilm has 3,000,000), or give a teacher with a masked-LM head"
        raise UserError("adapt.tokens", expected="a budget to train the teacher's new head", found="0", fix=fix)


def adapt(recipe: Recipe, teacher: LoadedTeacher, blocks: TokenBlocks, output: Path, device: torch.device) -> None:
    """Make the finished teacher folder `output`: model, tokenizer, validation loss, and the log of the training if any.

    With `recipe.adapt.tokens`, the whole encoder and its masked-LM head are trained on the corpus first (Gururangan et
    al. 2020). All of it, because a new head on a frozen encoder stalls (docs/decisions/0006).

    Raises:
        UserError: the teacher has no trained masked-LM head and `recipe.adapt.tokens` is 0.
        Interrupted: the user asked to stop; the same call goes on from a checkpoint.
    """
    check_head(recipe, teacher)
    steps, optimization = adapt_steps(recipe), recipe.adapt.optimization
    loss = PretrainingLoss(MASKED_LM_ONLY, steps=steps)
    with atomic.unfinished(output) as folder:
        model = teacher.model.to(device)

        def measure() -> dict[str, float]:
            return validation_losses(model, None, blocks, recipe, device)

        before = measure()
        seconds = 0.0
        if recipe.adapt.tokens:
            batches = MaskedBatches.of(recipe, optimization, blocks, steps=steps, epochs_end_steps=False)
            seconds = pretrain(
                model, loss, batches, blocks, recipe, optimization, folder=folder, device=device, label="adapt teacher"
            )
        after = measure() if recipe.adapt.tokens else before
        save_model(model, teacher.tokenizer, folder)
        rows = pretraining_measurements("teacher", after, recipe, blocks, seconds, mlm_before=before["mlm"])
        results.write(folder / MEASUREMENTS, rows)
