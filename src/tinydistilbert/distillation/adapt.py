"""adapt: a teacher from anywhere → a teacher in the run folder, trained on this text if the recipe says so."""

import math
from collections.abc import Callable
from pathlib import Path

from tinydistilbert import results
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import (
    PretrainingSetup,
    pretrain,
    pretraining_measurements,
    validation_losses,
)
from tinydistilbert.distillation.teacher_shards import place_teacher
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.pooling import write_pooling
from tinydistilbert.models.teacher import LoadedTeacher
from tinydistilbert.recipe.schema import Adapt, Objective
from tinydistilbert.run_folder import MEASUREMENTS

MASKED_LM_ONLY = Objective(kl=0, mlm=1, cosine=0, kl_positions="masked")


def adapt_steps(settings: Adapt, block_size: int) -> int:
    """Return the optimiser steps that the section's `tokens` take when packed in blocks of this size."""
    optimization = settings.optimization
    blocks_per_step = optimization.batch_size * optimization.gradient_accumulation_steps
    return math.ceil(settings.tokens / (blocks_per_step * block_size))


def check_head(settings: Adapt, teacher: LoadedTeacher) -> None:
    """Refuse a teacher whose masked-LM head is new and would stay untrained.

    Raises:
        UserError: the teacher has no trained masked-LM head and `adapt.tokens` is 0.
    """
    if not (settings.tokens or teacher.has_trained_head):
        fix = "set it (the preset minilm has 3,000,000), or give a teacher with a masked-LM head"
        raise UserError("adapt.tokens", problem="it is 0, but the teacher's new head has to be trained", fix=fix)


def adapt(
    settings: Adapt,
    teacher: LoadedTeacher,
    setup: PretrainingSetup,
    output: Path,
    *,
    origin: results.Origin,
    log: Callable[[str], None] = print,
) -> None:
    """Write the finished teacher folder `output`: model, tokenizer, validation loss, and the log of any training.

    With `settings.tokens`, the encoder and its masked-LM head are trained on the corpus first (Gururangan et al. 2020).
    The whole encoder is trained, because a new head on a frozen encoder stalls (docs/decisions/0006).

    Raises:
        Interrupted: the user asked to stop; the same call resumes from a checkpoint.
    """
    steps, optimization = adapt_steps(settings, setup.blocks.train.shape[1]), settings.optimization
    model = teacher.model
    with setup.compute.ranks.unfinished(output) as folder:
        if not (settings.tokens or teacher.has_trained_head):  # only fine-tuning uses it; its head is untrained
            save_model(model, teacher.tokenizer, folder)
            write_pooling(teacher.pooling, model.config, folder)
            results.write(folder / MEASUREMENTS, [])
            return
        # A model that is trained is whole in every process.
        sharding = "never" if settings.tokens else setup.sharding
        measured = place_teacher(model, setup.compute, sharding, trained=0, log=log)
        before = validation_losses(measured, None, setup, precision="fp32")
        seconds = 0.0
        if settings.tokens:
            loss = PretrainingLoss(MASKED_LM_ONLY, steps=steps)
            batches = setup.batches(MASKED_LM_ONLY, optimization, steps=steps)
            seconds = pretrain(model, loss, batches, setup, optimization, folder=folder, label="adapt teacher")
        after = validation_losses(model, None, setup, precision="fp32") if settings.tokens else before
        model.to("cpu")  # the stages that follow read the folder
        if not setup.compute.ranks.is_main:
            return
        save_model(model, teacher.tokenizer, folder)
        write_pooling(teacher.pooling, model.config, folder)
        rows = pretraining_measurements("teacher", after, setup, origin, seconds, mlm_before=before["mlm"])
        results.write(folder / MEASUREMENTS, rows)
