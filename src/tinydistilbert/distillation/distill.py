"""distill: teacher + token blocks → student; also the control, the same cut of the teacher without distillation."""

import copy
import math
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tinydistilbert import results
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import (
    PretrainingSetup,
    pretrain,
    pretraining_measurements,
    validation_losses,
)
from tinydistilbert.distillation.teacher_cache import CachedBatches, make_cache
from tinydistilbert.distillation.teacher_shards import is_in_shards, place_teacher
from tinydistilbert.errors import UserError
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.matching import Matches, match_layers
from tinydistilbert.models.pooling import write_pooling
from tinydistilbert.models.student import cut_student
from tinydistilbert.models.teacher import LoadedTeacher
from tinydistilbert.notices import notice
from tinydistilbert.progress import say
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.types import seconds_of
from tinydistilbert.run_folder import MEASUREMENTS
from tinydistilbert.storage import atomic, cache

SCHEDULE = "schedule.json"
"""In a student folder whose steps were fitted to a time budget: their number, and the measured speed."""
PROBE_STEPS, PROBE_SHARE = 20, 0.05
"""To fit a time budget, speed is measured over this many steps, or those that fit into this share of it, at least 2."""


def distill_steps(settings: schema.Distill, objective: schema.Objective, train_blocks: int) -> int:
    """Return the optimiser steps of a distillation without a time budget: those of the epochs, at most `max_steps`.

    Prints a notice if `max_steps` is more than the epochs take.
    """
    optimization = settings.optimization
    blocks_per_step = optimization.batch_size * optimization.gradient_accumulation_steps
    if objective.reduction == "notebook":  # TinyDistilBERT's steps end with its epochs
        steps = math.ceil(settings.epochs * math.ceil(train_blocks / blocks_per_step))
    else:
        steps = math.ceil(settings.epochs * train_blocks / blocks_per_step)
    if settings.max_steps > steps:
        text = (
            f"the limit is {settings.max_steps:,} steps, but distill.epochs = {settings.epochs:g} ends after {steps:,}"
        )
        notice("distill.max_steps", f"{text}; raise distill.epochs for more")
    return min(steps, settings.max_steps) if settings.max_steps else steps


def distill(
    settings: schema.Distill,
    objective: schema.Objective,
    cut: schema.Student,
    teacher: LoadedTeacher,
    setup: PretrainingSetup,
    output: Path,
    *,
    origin: results.Origin,
    control: bool = False,
    log: Callable[[str], None] = print,
) -> None:
    """Write the finished student folder `output`, which `AutoModelForMaskedLM` and `pipeline("fill-mask")` read.

    Args:
        settings: how long to train, with which optimiser, with or without a cache.
        objective: what the student minimises.
        cut: how the student is cut from the teacher.
        teacher: the model to learn from; it is not changed.
        setup: the text, its masks, what is measured on it, and where to compute.
        output: folder to make; it also holds `log.jsonl` and `measurements.jsonl`.
        origin: the recipe that the measurements name.
        control: skip the distillation and keep the cut as it is, to show what distillation adds.
        log: called with a line about the teacher's cache and the steps that fit into a time budget.

    Raises:
        UserError: the student cannot be cut from this teacher, a cache does not fit on the disk, or no step fits into
            the time budget.
        Interrupted: the user asked to stop; the same call resumes from a checkpoint.
    """
    student = cut_student(teacher.model, cut, seed=setup.seed).to(setup.compute.device)
    # One process makes a cache alone, and needs the whole teacher for it.
    sharding = "never" if settings.cache.kind != "none" else setup.sharding
    taught_by = place_teacher(teacher.model, setup.compute, sharding, trained=parameter_count(student), log=log)
    with setup.compute.ranks.unfinished(output) as folder:
        seconds, steps = 0.0, 0
        if not control:
            parts = _prepared(settings, objective, cut, taught_by, student, setup, log)
            if settings.time_budget:
                steps = _steps_in_budget(parts, student, folder, log)
            else:
                steps = distill_steps(settings, objective, len(setup.blocks.train))
            seconds = _train(parts, student, steps, folder, label="distill student")
        student.eval()
        losses = validation_losses(student, taught_by, setup, precision="fp32")
        if not setup.compute.ranks.is_main:
            return
        save_model(student, teacher.tokenizer, folder)
        write_pooling(teacher.pooling, student.config, folder)
        optimization = settings.optimization
        blocks_per_step = optimization.batch_size * optimization.gradient_accumulation_steps
        rows = pretraining_measurements(
            "control" if control else "student", losses, setup, origin, seconds, steps=steps,
            positions=steps * blocks_per_step * setup.blocks.train.shape[1],
        )  # fmt: skip
        results.write(folder / MEASUREMENTS, rows)


@dataclass(frozen=True)
class _Parts:
    """The parts of a distillation that do not depend on its number of steps."""

    settings: schema.Distill
    objective: schema.Objective
    teacher: PreTrainedModel
    matches: Matches
    setup: PretrainingSetup
    cached: CachedBatches | None
    """Micro-batches with the teacher's outputs, if there is a cache."""


def _prepared(
    settings: schema.Distill, objective: schema.Objective, cut: schema.Student, teacher: PreTrainedModel,
    student: PreTrainedModel, setup: PretrainingSetup, log: Callable[[str], None],
) -> _Parts:  # fmt: skip
    """Match layers and, if the settings say so, compile the encoders and make the teacher's cache."""
    matches = match_layers(objective, cut, teacher.config, student.config)
    if settings.compile:
        compile_encoders(*(() if is_in_shards(teacher) else (teacher,)), student)
    cached = None
    if settings.cache.kind != "none":
        batches = setup.batches(objective, settings.optimization, steps=1)
        with setup.compute.ranks.main_first("teacher cache"):
            cached = make_cache(settings.cache, batches, teacher, cache.folder(), setup.compute, log)
    return _Parts(settings, objective, teacher, matches, setup, cached)


def _train(parts: _Parts, student: PreTrainedModel, steps: int, folder: Path, *, label: str) -> float:
    """Train `student` in place and return the seconds."""
    optimization = parts.settings.optimization
    loss = PretrainingLoss(
        parts.objective, parts.teacher, parts.matches, steps, optimization.gradient_accumulation_steps,
        parts.settings.compile,
    )  # fmt: skip
    batches = parts.cached or parts.setup.batches(parts.objective, optimization, steps=steps)
    return pretrain(student, loss, batches, parts.setup, optimization, folder=folder, label=label)


def _steps_in_budget(parts: _Parts, student: PreTrainedModel, folder: Path, log: Callable[[str], None]) -> int:
    """Return the steps that fit into the time budget, measured on a copy of the student; a resumed run keeps them.

    Raises:
        UserError: not even one step fits.
    """
    path, time_budget, ranks = folder / SCHEDULE, parts.settings.time_budget, parts.setup.compute.ranks
    steps: int = ranks.broadcast(atomic.read_json(path)["steps"] if path.is_file() else 0)
    if steps:
        return steps
    budget, begun = seconds_of(time_budget), time.monotonic()
    twin = copy.deepcopy(student)
    if parts.settings.compile:  # a copy is not compiled
        compile_encoders(twin)
    _seconds_of_steps(parts, twin, 1)  # the first step includes one-time costs
    step_seconds = ranks.broadcast(_seconds_of_steps(parts, twin, 1))  # all processes decide by rank 0's clock
    count = max(2, min(PROBE_STEPS, int(PROBE_SHARE * budget / step_seconds)))
    step_seconds = ranks.broadcast(_seconds_of_steps(parts, twin, count) / count)
    before_validation = time.monotonic()
    validation_losses(twin.eval(), parts.teacher, parts.setup, precision=parts.setup.compute.chosen)
    validation_seconds = time.monotonic() - before_validation
    spent = time.monotonic() - begun
    validations = parts.setup.validation.times + 1
    steps = ranks.broadcast(fit_steps(budget - spent, step_seconds, validation_seconds * validations))
    if steps < 1:
        problem = (
            f"no step fits into {time_budget}: measuring the speed took {spent:.0f} s of it; a step takes "
            f"{step_seconds:.1f} s, and {validations} validations {validation_seconds:.1f} s each"
        )
        raise UserError("distill.time_budget", problem=problem, fix="give more time, or validate less often")
    if ranks.is_main:
        seconds = {"seconds_per_step": step_seconds, "seconds_per_validation": validation_seconds}
        atomic.write_json(path, {"steps": steps, **seconds})
    log(f"distill: {steps:,} steps of {step_seconds:.2f} s fit into {time_budget}")
    return steps


def _seconds_of_steps(parts: _Parts, student: PreTrainedModel, steps: int) -> float:
    """Return the seconds of a training of so many steps in a scratch folder, with as little validation as possible."""
    little = replace(parts.setup, validation=replace(parts.setup.validation, times=1, blocks=1))
    with tempfile.TemporaryDirectory() as scratch:
        return _train(replace(parts, setup=little), student, steps, Path(scratch), label="measure the speed")


def fit_steps(budget: float, step: float, validation: float) -> int:
    """Return the steps of `step` seconds that fit into `budget` seconds minus `validation` seconds of validation."""
    return max(0, math.floor((budget - validation) / step))


def compile_encoders(*models: PreTrainedModel) -> None:
    """Compile the encoders in place; if that fails, they run uncompiled, with a warning from torch."""
    torch._dynamo.config.suppress_errors = True
    for model in models:
        encoder = model.base_model
        assert isinstance(encoder, torch.nn.Module)
        encoder.compile()
    say("torch.compile: the first steps take about a minute")
