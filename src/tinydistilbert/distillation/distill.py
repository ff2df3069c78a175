"""distill: teacher + token blocks → student; and the control, the same cut of the teacher without distillation."""

import copy
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tinydistilbert import results
from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masked_batches import MaskedBatches
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import pretrain, pretraining_measurements, validation_losses
from tinydistilbert.distillation.teacher_cache import make_cache
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.matching import match_layers
from tinydistilbert.models.student import cut_student
from tinydistilbert.models.teacher import LoadedTeacher
from tinydistilbert.progress import say
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.types import seconds_of
from tinydistilbert.run_folder import MEASUREMENTS
from tinydistilbert.storage import atomic, cache
from tinydistilbert.training.loop import MicroBatches

SCHEDULE = "schedule.json"
"""In a student folder whose steps were fitted to a time budget: their number, and what was measured."""
PROBE_STEPS, PROBE_SHARE = 20, 0.05
"""A budget's speed is measured over so many steps, or as many as fit into this share of it, at least two."""


def distill_steps(recipe: Recipe, train_blocks: int) -> int:
    """Optimiser steps of the distillation without a time budget: as the epochs need, at most `distill.max_steps`."""
    optimization = recipe.distill.optimization
    blocks_per_step = optimization.batch_size * optimization.gradient_accumulation_steps
    if recipe.objective.reduction == "notebook":  # TinyDistilBERT's steps end with its epochs
        steps = math.ceil(recipe.distill.epochs * math.ceil(train_blocks / blocks_per_step))
    else:
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
    log: Callable[[str], None] = print,
) -> None:
    """Make the finished student folder `output`, which `AutoModelForMaskedLM` and `pipeline("fill-mask")` read.

    Args:
        recipe: its sections student, objective, masking, distill and validation are read.
        teacher: the model to learn from; it is not changed.
        blocks: the text.
        output: folder to make; beside the model it holds `log.jsonl` and `measurements.jsonl`.
        device: where to compute.
        control: leave the distillation out: the cut alone, to show what distilling it added.
        log: called with a line about the teacher's cache and the steps that fit into a time budget.

    Raises:
        UserError: the student cannot be cut from this teacher, a cache does not fit on the disk, or no step fits into
            the time budget.
        Interrupted: the user asked to stop; the same call goes on from a checkpoint.
    """
    student = cut_student(teacher.model, recipe.student, seed=recipe.seed).to(device)
    teacher.model.to(device).eval()
    with atomic.unfinished(output) as folder:
        seconds, steps = 0.0, 0
        if not control:
            training = _Training(recipe, teacher.model, student, blocks, folder, device, log)
            steps = training.steps
            seconds = training.run(student, steps, folder)
        student.eval()
        values = validation_losses(student, teacher.model, blocks, recipe, device)
        save_model(student, teacher.tokenizer, folder)
        row = "control" if control else "student"
        optimization = recipe.distill.optimization
        tokens = steps * optimization.batch_size * optimization.gradient_accumulation_steps * recipe.corpus.block_size
        results.write(
            folder / MEASUREMENTS,
            pretraining_measurements(row, values, recipe, blocks, seconds, steps=steps, positions=tokens),
        )


class _Training:
    """One distillation: its batches, its objective, and how many steps it has."""

    def __init__(
        self,
        recipe: Recipe,
        teacher: PreTrainedModel,
        student: PreTrainedModel,
        blocks: TokenBlocks,
        folder: Path,
        device: torch.device,
        log: Callable[[str], None],
    ) -> None:
        self.recipe, self.teacher, self.blocks, self.device, self.log = recipe, teacher, blocks, device, log
        self.matches = match_layers(recipe.objective, recipe.student, teacher.config, student.config)
        if recipe.distill.compile:
            compile_encoders(teacher, student)
        self.cached = None
        if recipe.distill.cache.kind != "none":
            self.cached = make_cache(teacher, blocks, recipe, cache.folder(), device, log)
        if recipe.distill.time_budget:
            self.steps = self._fitted(student, folder)
        else:
            self.steps = distill_steps(recipe, len(blocks.train))

    def batches(self, steps: int) -> MicroBatches:
        """The micro-batches of a training of so many steps."""
        if self.cached is not None:
            return self.cached.micro_batches
        return MaskedBatches.of(
            self.recipe, self.recipe.distill.optimization, self.blocks, steps=steps,
            epochs_end_steps=self.recipe.objective.reduction == "notebook",
        )  # fmt: skip

    def run(self, student: PreTrainedModel, steps: int, folder: Path, *, label: str = "distill student") -> float:
        """Train `student`; returns the seconds."""
        optimization = self.recipe.distill.optimization
        loss = PretrainingLoss(
            self.recipe.objective, self.teacher, self.matches, steps, optimization.gradient_accumulation_steps
        )
        return pretrain(
            student, loss, self.batches(steps), self.blocks, self.recipe, optimization, folder=folder,
            device=self.device, label=label,
        )  # fmt: skip

    def _fitted(self, student: PreTrainedModel, folder: Path) -> int:
        """Steps that fit into the time budget, measured on a copy of the student; a resumed run keeps their number."""
        path = folder / SCHEDULE
        if path.is_file():
            steps: int = atomic.read_json(path)["steps"]
            return steps
        budget, begun = seconds_of(self.recipe.distill.time_budget), time.monotonic()
        twin = copy.deepcopy(student)
        if self.recipe.distill.compile:  # which a copy forgets
            compile_encoders(twin)
        self._probe(twin, 1)  # the first step pays for what happens once
        step = self._probe(twin, 1)
        count = max(2, min(PROBE_STEPS, int(PROBE_SHARE * budget / step)))
        step = self._probe(twin, count) / count
        measured = time.monotonic()
        validation_losses(twin.eval(), self.teacher, self.blocks, self.recipe, self.device)
        validation = time.monotonic() - measured
        spent = time.monotonic() - begun
        steps = fit_steps(budget - spent, step, validation * (self.recipe.validation.times + 1))
        if steps < 1:
            where, expected = "distill.time_budget", "time for a step"
            found = (
                f"{self.recipe.distill.time_budget}, of which measuring took {spent:.0f} s; a step takes {step:.1f} s"
            )
            raise UserError(where, expected=expected, found=found, fix="give more time, or validate less often")
        atomic.write_json(path, {"steps": steps, "seconds_per_step": step, "seconds_per_validation": validation})
        self.log(f"distill: {steps:,} steps of {step:.2f} s fit into {self.recipe.distill.time_budget}")
        return steps

    def _probe(self, twin: PreTrainedModel, steps: int) -> float:
        """Seconds of so many steps, validation left out."""
        with tempfile.TemporaryDirectory() as scratch:
            quick = replace(self.recipe.validation, times=1, blocks=1)
            probe = copy.copy(self)
            probe.recipe = replace(self.recipe, validation=quick)
            return probe.run(twin, steps, Path(scratch), label="measure the speed")


def fit_steps(budget: float, step: float, validation: float) -> int:
    """Steps of `step` seconds that fit into `budget` seconds beside `validation` seconds of measuring."""
    return max(0, math.floor((budget - validation) / step))


def compile_encoders(*models: PreTrainedModel) -> None:
    """Compile the encoders in place; where that fails they run as they are, with a warning by torch."""
    torch._dynamo.config.suppress_errors = True
    for model in models:
        encoder = model.base_model
        assert isinstance(encoder, torch.nn.Module)
        encoder.compile()
    say("torch.compile: the first steps take about a minute")
