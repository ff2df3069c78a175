"""What the estimates of all stages share: a line of the plan, the sizes of the models, the speed of the machine."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from transformers import (
    AutoModel,
    AutoModelForMaskedLM,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tinydistilbert.dry_run import machine as costs
from tinydistilbert.dry_run.machine import LayerShape, Machine
from tinydistilbert.dry_run.sizes import TaskSize, TextSize, task_size, text_size
from tinydistilbert.models.loading import load_config, load_tokenizer, longest_input
from tinydistilbert.models.pruned import give_shapes, is_pruned, shapes_of
from tinydistilbert.models.size import Size, layer_shapes
from tinydistilbert.models.student import cut_student, task_student_config
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.jobs import Job
from tinydistilbert.pipeline.parts import left_parts, task_parts
from tinydistilbert.recipe.schema import OFFLINE_TEACHER, Recipe
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.recipe_splits import length_for
from tinydistilbert.training import checkpoint
from tinydistilbert.training.precision import Precision, choose
from tinydistilbert.workers.jobs import sharing
from tinydistilbert.workers.run import visible_gpus

SECONDS_A_FOLDER = 1.0
"""Loading, tokenising, saving and hashing for each training or evaluation; 0.7 to 1.4 s in a quickstart on 2 cores."""
TOKENIZER_BYTES = 750_000
"""`tokenizer.json` of 30,000 pieces."""


@dataclass(frozen=True)
class Line:
    """One line of the plan: a stage, or a part of it."""

    stage: str
    state: str
    what: str
    seconds: float | None = 0.0
    """Time left to compute; None = unknown."""
    disk: float = 0.0
    """Bytes that will still be written and stay."""
    temporary_disk: float = 0.0
    """Bytes of checkpoints, which are deleted when the stage is finished."""
    memory: float = 0.0
    """Bytes at its peak, in addition to the bare process."""
    notes: tuple[str, ...] = ()
    """What a user should know beforehand, one sentence each."""


@dataclass(frozen=True)
class Shared:
    """What estimates of recipes with the same teacher and text share, each determined on first use."""

    run: RunContext

    @cached_property
    def _machines(self) -> dict[tuple[Precision, LayerShape], Machine]:
        return {}

    def machine(self, precision: Precision, layer: LayerShape) -> Machine:
        """Return the speed of this machine, measured once for each training precision and each shape of layers.

        Args:
            precision: precision of the training.
            layer: layer shape of the model that takes most of the time.
        """
        if (precision, layer) not in self._machines:
            self._machines[precision, layer] = costs.measure(self.run.device, precision, layer)
        return self._machines[precision, layer]

    @cached_property
    def teacher_is_local(self) -> bool:
        """Whether the teacher is read from this machine, not from the hub."""
        teacher = self.run.recipe.teacher
        return teacher.model == OFFLINE_TEACHER or Path(teacher.model).exists()

    @cached_property
    def tokenizer(self) -> PreTrainedTokenizerFast:
        """The tokenizer of the teacher, or of the given model."""
        if name := self.run.recipe.finetune.model:
            return load_tokenizer(name)
        if self.teacher_is_local:
            return self.run.sources.original_teacher.tokenizer
        return load_tokenizer(self.run.recipe.teacher.model, self.run.recipe.teacher.revision)

    @cached_property
    def text(self) -> TextSize | None:
        """The corpus; None if it is on the hub and its size is unknown."""
        return text_size(self.run.recipe, self.tokenizer)


@dataclass(frozen=True)
class Basis:
    """What the estimates of one recipe in one folder are computed from."""

    run: RunContext
    shared: Shared

    @property
    def recipe(self) -> Recipe:
        """What is estimated."""
        return self.run.recipe

    @cached_property
    def machine(self) -> Machine:
        """The speed of this machine in the precision that the run has or would begin with."""
        given = self.recipe.finetune.model or self.recipe.compress.model
        config = load_config(given) if given else self.models[0].config
        known = self.run.known_precision
        precision = known or choose(self.run.device, layer_shapes(config)).precision
        return self.shared.machine(precision, LayerShape.of(config))

    @cached_property
    def at_once(self) -> int:
        """The number of task models that share the memory of the device: the jobs on this machine, or on each GPU."""
        run = self.run
        if run.workers is None or run.workers.by_ray:
            return 1
        at_once = max(1, min(run.workers.at_once, len(left_parts(run, task_parts(run)))))
        return sharing(at_once, 0 if run.device.type == "cpu" else len(visible_gpus()))

    @property
    def text(self) -> TextSize | None:
        """The corpus; None if it is on the hub and its size is unknown."""
        return self.shared.text

    @cached_property
    def models(self) -> tuple[PreTrainedModel, PreTrainedModel]:
        """Teacher and student on the meta device, without weights; of a teacher on the hub, only the config is read."""
        named = self.recipe.teacher
        if self.shared.teacher_is_local:
            config = self.run.sources.original_teacher.model.config
        else:
            config = load_config(named.model, named.revision)
        with torch.device("meta"):
            teacher = AutoModelForMaskedLM.from_config(config)
            return teacher, cut_student(teacher, self.recipe.student, seed=self.recipe.seed)

    @cached_property
    def teacher(self) -> Size:
        """The size of the teacher."""
        return Size.of(self.models[0])

    @cached_property
    def student(self) -> Size:
        """The size of the student, and of the control."""
        return Size.of(self.models[1])

    @cached_property
    def task_sizes(self) -> dict[str, TaskSize | None]:
        """The examples of every task with something left to do; None for those made from a text on the hub."""
        folder = self.run.folder
        unfinished = [job.task for job in self.run.jobs if not atomic.is_finished(job.scores(folder))]
        unfinished += [job.task for job in self.run.baselines if not atomic.is_finished(job.scores(folder))]
        return {name: self.task_size(name) for name in dict.fromkeys(unfinished)}

    def task_size(self, name: str) -> TaskSize | None:
        """The examples of a task, for the model that is fine-tuned on it, or compressed."""
        recipe, task = self.recipe, self.run.tasks[name]
        if given := recipe.compress.model:
            config, tokenizer = load_config(given), load_tokenizer(given)
            max_length = length_for(recipe.finetune, task, given)
        else:
            config = load_config(recipe.finetune.model) if recipe.finetune.model else self.models[1].config
            tokenizer, max_length = self.shared.tokenizer, recipe.finetune.max_length(name, task.max_length)
        return task_size(recipe, name, tokenizer, reach=longest_input(config), max_length=max_length)

    @cached_property
    def given_model(self) -> Size:
        """The size of the model that is fine-tuned instead of a student."""
        return encoder_size(self.recipe.finetune.model)

    @cached_property
    def task_teacher(self) -> Size:
        """The size of a fine-tuned teacher."""
        given = self.recipe.finetune.distillation.teachers
        if isinstance(given, tuple):
            return encoder_size(given[0])
        if named := self.recipe.task_encoder:
            return encoder_size(named)
        return self.given_model if self.recipe.finetune.model else self.teacher

    @cached_property
    def cut_teacher(self) -> Size:
        """The size of a student that is cut from the fine-tuned teacher of its task."""
        given = self.recipe.finetune.distillation.teachers
        finetune = self.recipe.finetune
        teacher = given[0] if isinstance(given, tuple) else finetune.model or self.recipe.task_encoder
        config = load_config(teacher) if teacher else self.models[0].config
        return _size_of(task_student_config(config, self.recipe.student))

    def task_model(self, job: Job) -> Size:
        """The size of a task model."""
        if job.row == "teacher":
            return self.task_teacher
        if job.is_second_distillation and self.recipe.finetune.distillation.start == "teacher":
            return self.cut_teacher
        return self.given_model if self.recipe.finetune.model else self.student

    def training_seconds(self, model: Size, operations: float, steps: int, *, words: int = 0) -> float:
        """Return the time of a training with that many updates and operations of forward and backward passes.

        Args:
            model: what is trained.
            operations: operations of all steps.
            steps: steps of the optimiser.
            words: size of the vocabulary that the texts use, if other words are left out of updates; 0 = all are
                updated.
        """
        unused = (model.vocabulary - words) * model.width if words else 0
        traffic = steps * (model.parameters - unused) * costs.BYTES_PER_UPDATE
        return self.machine.training_seconds(operations, traffic=traffic) + SECONDS_A_FOLDER

    def checkpoints(self, model: Size, seconds: float) -> float:
        """Return the bytes of the checkpoints that are kept, and of one being written."""
        if seconds < self.recipe.checkpoint_minutes * 60:
            return 0.0
        return (checkpoint.KEPT + 1) * costs.CHECKPOINT_BYTES * model.parameters


def basis_of(run: RunContext) -> Basis:
    """Return the basis of a recipe that shares nothing with another."""
    return Basis(run, Shared(run))


def encoder_size(name: str) -> Size:
    """Return the size of a model's encoder; only its config is read."""
    return _size_of(load_config(name))


def _size_of(config: PretrainedConfig) -> Size:
    with torch.device("meta"):
        model = AutoModel.from_config(config)
        if is_pruned(config):
            give_shapes(model, shapes_of(config))
        return Size.of(model)


def state_of(folder: Path) -> tuple[str, int]:
    """Return the state of a stage's folder, in words, and the step from which the run would continue."""
    if atomic.is_finished(folder):
        return "finished", 0
    step = checkpoint.newest_step(atomic.partial(folder) / atomic.CHECKPOINTS)
    return (f"resumes at step {step:,}" if step else "to do"), step


def joint_state(states: Sequence[str]) -> str:
    """Return the state of several folders as one."""
    finished = states.count("finished")
    begun = next((state for state in states if state.startswith("resumes")), None)
    if len(set(states)) == 1:
        return states[0]
    return ", ".join(([f"{finished} of {len(states)} finished"] if finished else []) + ([begun] if begun else []))
