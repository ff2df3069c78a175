"""distill: teacher + token blocks → student; and the control, the same cut of the teacher without distillation."""

import math
from pathlib import Path

import torch

from tinydistilbert import fsio, results
from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.student import cut_student
from tinydistilbert.models.teacher import LoadedTeacher
from tinydistilbert.pretraining import PretrainingLoss, pretrain, pretraining_measurements, validation_losses
from tinydistilbert.recipe import Recipe


def distill_steps(recipe: Recipe, train_blocks: int) -> int:
    """Optimiser steps of the distillation: as many as the epochs need, at most `recipe.distill.max_steps`."""
    optimization = recipe.distill.optimization
    blocks_per_step = optimization.batch_size * optimization.gradient_accumulation_steps
    steps = math.ceil(recipe.distill.epochs * train_blocks / blocks_per_step)
    return min(steps, recipe.distill.max_steps) if recipe.distill.max_steps else steps


def distill(
    recipe: Recipe,
    teacher: LoadedTeacher,
    blocks: TokenBlocks,
    output: Path,
    device: torch.device,
    *,
    control: bool = False,
) -> None:
    """Make the finished student folder `output`, which `AutoModelForMaskedLM` and `pipeline("fill-mask")` read.

    Args:
        recipe: its sections student, objective, masking, distill and validation are read.
        teacher: the model to learn from; it is not changed.
        blocks: the text.
        output: folder to make; beside the model it holds `log.jsonl` and `measurements.jsonl`.
        device: where to compute.
        control: leave the distillation out: the cut alone, to show what distilling it added.

    Raises:
        UserError: the student cannot be cut from this teacher.
        Interrupted: the user asked to stop; the same call goes on from a checkpoint.
    """
    student = cut_student(teacher.model, recipe.student, seed=recipe.seed).to(device)
    teacher.model.to(device).eval()
    with fsio.unfinished(output) as folder:
        seconds, steps = 0.0, 0 if control else distill_steps(recipe, len(blocks.train))
        if steps:
            loss = PretrainingLoss(recipe.objective, teacher.model)
            seconds = pretrain(
                student, loss, blocks, recipe, recipe.distill.optimization, steps=steps, folder=folder,
                device=device, label="distill student",
            )  # fmt: skip
        student.eval()
        values = validation_losses(
            student, teacher.model, blocks, recipe.masking,
            limit=recipe.validation.blocks, device=device,
        )  # fmt: skip
        save_model(student, teacher.tokenizer, folder)
        row = "control" if control else "student"
        results.write(
            folder / "measurements.jsonl", pretraining_measurements(row, values, recipe, blocks, seconds, steps=steps)
        )
