"""The estimates of fine-tuning and scoring."""

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from tinydistilbert.data.compressed import is_compressed
from tinydistilbert.dry_run.basis import SECONDS_A_FOLDER, TOKENIZER_BYTES, Basis, Line, joint_state, state_of
from tinydistilbert.dry_run.sizes import TaskSize
from tinydistilbert.finetuning.augment import passes_of
from tinydistilbert.finetuning.schedule import candidate_rates, distillation_phases, finetune_steps, intermediate_steps
from tinydistilbert.models.dropout import keeps_attention_weights
from tinydistilbert.models.size import FORWARD_AND_BACKWARD, TRAINING_BYTES, Size
from tinydistilbert.notices import counted
from tinydistilbert.pipeline.jobs import Job
from tinydistilbert.recipe.schema import Finetune
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.baselines import MOST_EXAMPLES
from tinydistilbert.tasks.mapped_tables import is_large
from tinydistilbert.tasks.splits import file_of
from tinydistilbert.training.memory import SHARE, free_bytes, splits_that_fit, taken, why_smaller

SCORES_BYTES_PER_EXAMPLE = 100
SECONDS_A_BASELINE_TOKEN = 2e-5
"""Seconds per token for fitting and scoring a cheap baseline on one core: 0.8e-5 (SST-2, TF-IDF) to 3e-5 (MRPC)."""
RATIO_OF_TEXT = 10
"""About the size of a text, divided by that of its compressed file."""
BASELINES = "evaluate baselines"
"""The line of the cheap baselines."""
MOST_FINETUNE_ROWS = 12
"""If there are more, all rows of a task are one line."""


def finetune_lines(basis: Basis) -> Iterator[Line]:
    """Yield lines for stored rows of large files, then one for each row of each task, or if many, one per task."""
    run = basis.run
    for name in run.task_names():
        yield from _rows_line(basis, name)
    groups: dict[tuple[str, str], list[Job]] = {}
    for job in (job for job in run.jobs if not job.is_given):
        groups.setdefault((job.task, job.row), []).append(job)
    if len(groups) <= MOST_FINETUNE_ROWS:
        for (task, row), members in groups.items():
            yield _finetune_line(basis, f"finetune {row}, {run.tasks[task].title}", members)
        return
    for task, keys in itertools.groupby(groups, key=lambda key: key[0]):
        members = [job for key in keys for job in groups[key]]
        yield _finetune_line(basis, f"finetune {run.tasks[task].title}", members)


def _rows_line(basis: Basis, name: str) -> Iterator[Line]:
    """Yield the line of the stored rows of large files, if a custom task has any."""
    run, task = basis.run, basis.run.tasks[name]
    if not task.files:
        return
    splits = {split: file_of(task, split, basis.recipe.data) for split in (task.train, *run.inputs.read_splits(task))}
    large = {split: file for split, file in splits.items() if file is not None and is_large(file)}
    left = {file for split, file in large.items() if not atomic.is_finished(run.folder.rows(name, split))}
    if large:
        packed = {file: RATIO_OF_TEXT if is_compressed(file) else 1 for file in left}
        disk = sum(ratio * file.stat().st_size for file, ratio in packed.items())
        yield Line(f"rows of {task.title}", "to do" if left else "finished", "checked once and mapped", 0.0, disk)


def _finetune_line(basis: Basis, title: str, members: Sequence[Job]) -> Line:
    """Return one line for several fine-tunings on one task."""
    states = {job: state_of(job.model(basis.run.folder)) for job in members}
    left = [job for job in members if states[job][0] != "finished"]
    state = joint_state([words for words, _ in states.values()])
    if not left:
        return Line(title, state, counted(len(members), "model"))
    name, models = members[0].task, f"{len(members)} models × " if len(members) > 1 else ""
    size = basis.task_sizes.get(name)
    disk = sum(4 * basis.task_model(job).parameters + TOKENIZER_BYTES for job in left)
    if size is None:
        return Line(title, state, models + "unknown until the corpus is prepared", None, disk)
    trainings = [_training(basis, job, states[job][1], size) for job in left]
    each = [_settings(basis, job) for job in members]
    seconds = sum(_times(basis, job) * training.seconds for job, training in zip(left, trainings, strict=True))
    if any(job.is_second_distillation for job in left):
        seconds += soft_target_seconds(basis, name, size)
    kind = basis.run.tasks[name].kind
    steps = _range(_steps(job, settings, size, kind) for job, settings in zip(members, each, strict=True))
    what = f"{models}{steps} steps × {_range(map(_examples_a_step, each))}, {size.examples:,} examples"
    return Line(
        title, state, f"{what} of {size.length:.0f} tokens", seconds, disk,
        max(basis.checkpoints(basis.task_model(job), t.seconds) for job, t in zip(left, trainings, strict=True)),
        max(training.memory for training in trainings),
        tuple(dict.fromkeys(f"{name}, {note}" for note in (*size.notes, *(t.smaller for t in trainings if t.smaller)))),
    )  # fmt: skip


def _range(numbers: Iterable[int]) -> str:
    """Return the smallest and the largest number, or the one that they all are."""
    distinct = sorted({*numbers})
    return f"{distinct[0]:,} to {distinct[-1]:,}" if len(distinct) > 1 else f"{distinct[0]:,}"


def _times(basis: Basis, job: Job) -> int:
    """Return how often a model is trained to choose the best learning rate."""
    return len(candidate_rates(_settings(basis, job), is_distilled=job.is_second_distillation))


def training_seconds(basis: Basis, job: Job) -> float | None:
    """Return the time left for the fine-tuning of one task model; None = unknown."""
    state, done = state_of(job.model(basis.run.folder))
    if state == "finished" or job.is_given:
        return 0.0
    size = basis.task_sizes.get(job.task)
    return None if size is None else _times(basis, job) * _training(basis, job, done, size).seconds


def _settings(basis: Basis, job: Job) -> Finetune:
    return basis.recipe.finetune.settings(job.task, is_distilled=job.is_second_distillation)


def _training(basis: Basis, job: Job, done: int, size: TaskSize) -> "_Training":
    """Return what is left of one fine-tuning after `done` steps."""
    settings = _settings(basis, job)
    model, features = basis.task_model(job), _features(job, settings, size)
    steps = _steps(job, settings, size, basis.run.tasks[job.task].kind)
    tokens = _examples_a_step(settings) * size.length
    operations = FORWARD_AND_BACKWARD * model.forward((steps - done) * tokens, size.length)
    memory, smaller = _memory(basis, model, settings, size)
    distillation = settings.distillation
    if job.is_second_distillation and (distillation.hidden or distillation.attention or distillation.relation):
        with_teacher = intermediate_steps(settings, features) or steps  # the teacher runs in these
        operations += basis.task_teacher.forward(max(with_teacher - done, 0) * tokens, size.length)
        memory += 4 * basis.task_teacher.parameters
    seconds = basis.training_seconds(model, operations, steps - done, words=size.words)
    return _Training(seconds, memory, smaller)


def _memory(basis: Basis, model: Size, settings: Finetune, size: TaskSize) -> tuple[float, str]:
    """Return the bytes of a fine-tuning, and why, if so, its micro-batches are halved before the first step to fit."""
    device, optimization = basis.run.device, settings.optimization
    precision = basis.machine.precision
    is_kept = keeps_attention_weights(device, precision, optimization.attention_dropout)

    def needed(splits: int) -> float:
        examples = math.ceil(optimization.batch_size / 2**splits)
        activations = model.activation_memory(examples * size.longest, length=size.longest if is_kept else 0)
        return TRAINING_BYTES * model.parameters + taken(activations, device, precision)

    free = free_bytes(device) / basis.at_once
    splits = splits_that_fit(needed, int(math.log2(optimization.batch_size)), SHARE * free)
    return needed(splits), f"trained {why_smaller(splits, needed(0), free)}" if splits else ""


def soft_target_seconds(basis: Basis, task: str, size: TaskSize) -> float:
    """Return the time of what all second distillations of a task share: augmented copies and the soft targets."""
    folder, operations, settings = basis.run.folder, 0.0, basis.recipe.finetune.settings(task)
    if settings.distillation.augment and not atomic.is_finished(folder.augmented(task)):
        proposer = basis.given_model if basis.recipe.finetune.model else basis.teacher
        words = size.length  # approximately
        passes = int(passes_of(np.array([round(words)]))[0])
        operations += proposer.forward(size.examples * passes * size.length, size.length)
        operations += proposer.vocabulary_head(size.examples * words)
    if not atomic.is_finished(folder.soft_targets(task)):
        only_originals = settings.distillation.ends_with_originals(basis.run.tasks[task].kind)
        answered = size.features if only_originals else _distilled_features(settings, size)
        tokens = _teachers(basis.recipe.finetune) * answered * size.length
        operations += basis.task_teacher.forward(tokens, size.length)
    return basis.machine.training_seconds(operations)


def _teachers(finetune: Finetune) -> int:
    """Return how many teachers a second distillation has."""
    chosen = finetune.distillation.teachers
    if isinstance(chosen, tuple):
        return len(chosen)
    return len(finetune.seeds) if chosen == "all" else 1


def evaluate_line(basis: Basis) -> Line:
    """The line of all scores."""
    states = {job: state_of(job.scores(basis.run.folder))[0] for job in basis.run.jobs}
    if not states:
        return Line("evaluate", "nothing to do", "no tasks")
    left = [job for job, state in states.items() if state != "finished"]
    what = f"{counted(len(states), 'model')} on {counted(len(basis.recipe.finetune.tasks), 'task')}"
    seconds: float | None = 0.0
    disk = 0.0
    for job in left:
        size, of_job = basis.task_sizes[job.task], scoring_seconds(basis, job)
        seconds = None if seconds is None or of_job is None else seconds + of_job
        disk += size.evaluation_examples * SCORES_BYTES_PER_EXAMPLE if size else 0
    return Line("evaluate", joint_state(list(states.values())), what, seconds, disk)


def scoring_seconds(basis: Basis, job: Job) -> float | None:
    """Return the time to score one task model, if it is not scored yet; None = unknown."""
    if state_of(job.scores(basis.run.folder))[0] == "finished":
        return 0.0
    size = basis.task_sizes.get(job.task)
    if size is None:
        return None
    length = size.evaluation_tokens / size.evaluation_examples
    operations = basis.task_model(job).forward(size.evaluation_tokens, length)
    return basis.machine.seconds(operations) + SECONDS_A_FOLDER


def baselines_line(basis: Basis) -> Line:
    """The line of the cheap baselines."""
    jobs = basis.run.baselines
    states = {job: state_of(job.scores(basis.run.folder))[0] for job in jobs}
    names = ", ".join(dict.fromkeys(job.row for job in jobs))
    what = f"{names} on {counted(len({job.task for job in jobs}), 'task')}"
    seconds: float | None = 0.0
    disk = 0.0
    for job in (job for job, state in states.items() if state != "finished"):
        size = basis.task_sizes.get(job.task)
        if size is None or seconds is None:
            seconds = None
            continue
        tokens = min(size.examples, MOST_EXAMPLES) * size.length + size.evaluation_tokens
        seconds += SECONDS_A_FOLDER + SECONDS_A_BASELINE_TOKEN * tokens
        disk += size.evaluation_examples * SCORES_BYTES_PER_EXAMPLE
    return Line(BASELINES, joint_state(list(states.values())), what, seconds, disk)


@dataclass(frozen=True)
class _Training:
    """One fine-tuning."""

    seconds: float
    memory: float
    """Bytes at its peak."""
    smaller: str
    """Why its micro-batches are smaller than `batch_size`; empty if they are not."""


def _features(job: Job, settings: Finetune, size: TaskSize) -> int:
    """Return the number of inputs that a fine-tuning reads in an epoch."""
    return _distilled_features(settings, size) if job.is_second_distillation else size.features


def _steps(job: Job, settings: Finetune, size: TaskSize, kind: str) -> int:
    """Return the optimiser steps of a fine-tuning."""
    features = _features(job, settings, size)
    if not job.is_second_distillation:
        return finetune_steps(settings, features)
    originals = size.features if settings.distillation.ends_with_originals(kind) else 0
    return sum(phase.steps for phase in distillation_phases(settings, features, originals))


def _distilled_features(settings: Finetune, size: TaskSize) -> int:
    """Return the inputs of a second distillation; an example may have fewer copies than the recipe asks for."""
    return size.features * (1 + settings.distillation.augment) + size.unlabelled


def _examples_a_step(settings: Finetune) -> int:
    return settings.optimization.batch_size * settings.optimization.gradient_accumulation_steps
