"""The estimates of fine-tuning and scoring."""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from tinydistilbert.dry_run import machine
from tinydistilbert.dry_run.basis import (
    SECONDS_A_FOLDER,
    TOKENIZER_BYTES,
    Basis,
    Line,
    encoder_size,
    state_of,
    together,
)
from tinydistilbert.dry_run.sizes import TaskSize, task_size
from tinydistilbert.finetuning.augment import passes_of
from tinydistilbert.finetuning.trainer import finetune_steps, intermediate_steps
from tinydistilbert.models.size import Size
from tinydistilbert.pipeline.jobs import Job, jobs
from tinydistilbert.recipe.schema import Finetune
from tinydistilbert.storage import atomic

SCORES_BYTES_PER_EXAMPLE = 100
MOST_FINETUNE_ROWS = 12
"""With more, the rows of one task are told in one line."""


class TaskEstimates:
    """The lines of the stages finetune and evaluate."""

    def __init__(self, basis: Basis) -> None:
        self._basis, self._run, self._recipe = basis, basis.run, basis.recipe

    def finetune(self) -> Iterator[Line]:
        """A line for each row of each task, or where those are many, for each task."""
        groups: dict[tuple[str, str], list[Job]] = {}
        for job in (job for job in jobs(self._recipe) if not job.is_given):
            groups.setdefault((job.task, job.row), []).append(job)
        if len(groups) <= MOST_FINETUNE_ROWS:
            for (task, row), members in groups.items():
                yield self._jobs_line(f"finetune {row}, {self._run.known[task].title}", members)
            return
        for task, keys in itertools.groupby(groups, key=lambda key: key[0]):
            members = [job for key in keys for job in groups[key]]
            yield self._jobs_line(f"finetune {self._run.known[task].title}", members)

    def _jobs_line(self, title: str, members: Sequence[Job]) -> Line:
        """Fine-tunings on one task as one line."""
        states = {job: state_of(job.model(self._run.folder)) for job in members}
        left = [job for job in members if states[job][0] != "finished"]
        state = together([found for found, _ in states.values()])
        if not left:
            return Line(title, state, f"{len(members)} model{'s' if len(members) > 1 else ''}")
        name, models = members[0].task, f"{len(members)} models × " if len(members) > 1 else ""
        size, settings = self.sizes.get(name), self._recipe.finetune.settings(name)
        disk = sum(4 * self._size(job).parameters + TOKENIZER_BYTES for job in left)
        if size is None:
            return Line(title, state, models + "unknown until the corpus is prepared", None, disk)
        trainings = [self._training(job, states[job][1], settings, size) for job in left]
        seconds = max(1, len(settings.learning_rates)) * sum(training.seconds for training in trainings)
        if any(job.is_second_distillation for job in left):
            seconds += self._lesson_seconds(name, settings, size)
        steps = sorted({finetune_steps(settings, _features(job, settings, size)) for job in members})
        told = f"{steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else f"{steps[0]:,}"
        what = f"{models}{told} steps × {_examples_a_step(settings)}, {size.examples:,} examples"
        return Line(
            title, state, f"{what} of {size.length:.0f} tokens", seconds, disk,
            max(self._basis.checkpoints(self._size(job), t.seconds) for job, t in zip(left, trainings, strict=True)),
            max(training.memory for training in trainings),
        )  # fmt: skip

    def _training(self, job: Job, done: int, settings: Finetune, size: TaskSize) -> "_Training":
        """What is left of one fine-tuning after `done` steps."""
        model, features = self._size(job), _features(job, settings, size)
        steps = finetune_steps(settings, features)
        tokens = _examples_a_step(settings) * size.length
        operations = machine.FORWARD_AND_BACKWARD * model.forward((steps - done) * tokens, size.length)
        memory = model.training_memory(settings.optimization.batch_size * size.longest, 0)
        distillation = settings.distillation
        if job.is_second_distillation and (distillation.hidden or distillation.attention or distillation.relation):
            taught = intermediate_steps(settings, features) or steps  # the teacher runs in these
            operations += self._task_teacher.forward(max(taught - done, 0) * tokens, size.length)
            memory += 4 * self._task_teacher.parameters
        return _Training(self._basis.training_seconds(model, operations, steps - done), memory)

    def _lesson_seconds(self, task: str, settings: Finetune, size: TaskSize) -> float:
        """Time of what is made once for all second distillations of a task: augmented copies, the teachers' answers."""
        folder, operations = self._run.folder, 0.0
        if settings.distillation.augment and not atomic.is_finished(folder.augmented(task)):
            guesser = self._given if self._recipe.finetune.model else self._basis.teacher
            words = size.length  # nearly
            passes = int(passes_of(np.array([round(words)]))[0])
            operations += guesser.forward(size.examples * passes * size.length, size.length)
            operations += guesser.vocabulary_head(size.examples * words)
        if not atomic.is_finished(folder.soft_targets(task)):
            asked = self._teachers() * _features_taught(settings, size) * size.length
            operations += self._task_teacher.forward(asked, size.length)
        return self._basis.machine.seconds(operations)

    def _size(self, job: Job) -> Size:
        if job.row == "teacher":
            return self._task_teacher
        return self._given if self._recipe.finetune.model else self._basis.student

    @cached_property
    def _given(self) -> Size:
        """The size of the model that is fine-tuned instead of a student."""
        return encoder_size(self._recipe.finetune.model)

    @cached_property
    def _task_teacher(self) -> Size:
        """The size of a fine-tuned teacher."""
        given = self._recipe.finetune.distillation.teachers
        return encoder_size(given[0]) if isinstance(given, tuple) else self._basis.teacher

    def _teachers(self) -> int:
        """How many teachers a second distillation asks."""
        chosen = self._recipe.finetune.distillation.teachers
        if isinstance(chosen, tuple):
            return len(chosen)
        return len(self._recipe.finetune.seeds) if chosen == "all" else 1

    @cached_property
    def sizes(self) -> dict[str, TaskSize | None]:
        """Of every task with something left to do."""
        unfinished = [job for job in jobs(self._recipe) if not atomic.is_finished(job.scores(self._run.folder))]
        return {
            name: task_size(self._recipe, name, self._basis.tokenizer)
            for name in dict.fromkeys(job.task for job in unfinished)
        }

    def evaluate(self) -> Line:
        """The line of all scores."""
        states = {job: state_of(job.scores(self._run.folder))[0] for job in jobs(self._recipe)}
        if not states:
            return Line("evaluate", "nothing to do", "no tasks")
        left = [job for job, found in states.items() if found != "finished"]
        sizes = {job: self.sizes[job.task] for job in left}
        what = f"{len(states)} models on {len(self._recipe.finetune.tasks)} tasks"
        seconds: float | None = 0.0
        disk = 0.0
        for job, size in sizes.items():
            if size is None or seconds is None:
                seconds = None
                continue
            length = size.evaluation_tokens / size.evaluation_examples
            operations = self._size(job).forward(size.evaluation_tokens, length)
            seconds += self._basis.machine.seconds(operations) + SECONDS_A_FOLDER
            disk += size.evaluation_examples * SCORES_BYTES_PER_EXAMPLE
        return Line("evaluate", together(list(states.values())), what, seconds, disk)


@dataclass(frozen=True)
class _Training:
    """One fine-tuning."""

    seconds: float
    memory: float
    """Bytes at its peak."""


def _features(job: Job, settings: Finetune, size: TaskSize) -> int:
    """Inputs that a fine-tuning goes through in an epoch."""
    return _features_taught(settings, size) if job.is_second_distillation else size.features


def _features_taught(settings: Finetune, size: TaskSize) -> int:
    """Those of a second distillation; an example may have fewer copies than the recipe asks for."""
    return size.features * (1 + settings.distillation.augment) + size.unlabelled


def _examples_a_step(settings: Finetune) -> int:
    return settings.optimization.batch_size * settings.optimization.gradient_accumulation_steps
