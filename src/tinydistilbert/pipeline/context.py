"""What the stages of one run work with: the recipe, the folder, and what several of them share, loaded once."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property

import torch

from tinydistilbert import __version__, run_record
from tinydistilbert.data.corpus import TokenBlocks, load_blocks, prepare
from tinydistilbert.errors import UserError
from tinydistilbert.models import hub
from tinydistilbert.models.loading import ELMO, load_config, load_model, load_tokenizer
from tinydistilbert.models.pooling import read_pooling
from tinydistilbert.models.size import layer_shapes
from tinydistilbert.models.teacher import LoadedTeacher, check_tokenizer, load_teacher
from tinydistilbert.notices import counted
from tinydistilbert.pipeline.inputs import Inputs
from tinydistilbert.pipeline.jobs import BaselineJob, Job, baseline_jobs, jobs
from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.names import STATIC_EMBEDDINGS
from tinydistilbert.recipe.schema import Corpus, Optimization, Recipe, Teacher, to_dict
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import cache, scratch
from tinydistilbert.tasks import read_once, tasks_of
from tinydistilbert.tasks.base import Task
from tinydistilbert.training.device import Compute, choose_device
from tinydistilbert.training.launcher import refuse_several, world_size
from tinydistilbert.training.precision import (
    PRECISIONS,
    Choice,
    Precision,
    choose,
    chosen_precision,
    is_possible,
    missing,
)
from tinydistilbert.training.ranks import ALONE, Ranks, join
from tinydistilbert.workers.jobs import Jobs

TOGETHER = ("adapt", "distill", "finetune", "evaluate")
"""The stages that all processes of a launcher run; rank 0 runs the others alone."""


@dataclass(frozen=True)
class Sources:
    """The original teacher and text, each loaded on first use."""

    teacher: Teacher
    corpus: Corpus
    data: str | None
    """Folder of the data sets; None = from the hub."""
    jobs: int = 1
    """Processes that tokenise the corpus."""

    @cached_property
    def original_teacher(self) -> LoadedTeacher:
        """The teacher that the recipe names."""
        return load_teacher(self.teacher)

    @cached_property
    def blocks(self) -> TokenBlocks:
        """The corpus as token blocks, from the cache or made now."""
        tokenizer = self.original_teacher.tokenizer
        return load_blocks(prepare(self.corpus, tokenizer, cache.folder(), self.data, jobs=self.jobs))


@dataclass(frozen=True)
class RunContext:
    """One recipe in one folder, for the stages of one command; made by `pipeline.run.run_context`."""

    recipe: Recipe
    folder: RunFolder
    """Made if missing, continued if it belongs to this recipe."""
    stages: tuple[str, ...]
    """Names of the stages, in their order."""
    sources: Sources
    log: Callable[[str], None]
    """Called with a line for each stage that was done or skipped."""
    command: str = ""
    """The command that the report shows for reproducing it."""
    compared_with: RunFolder | None = None
    """A run whose precision is used if the recipe leaves it open, because the two will be compared."""
    workers: Jobs | None = None
    """How task models are made in parallel; None = one after the other, in this process."""
    is_part: bool = False
    """Whether this process makes one part of a run that another process owns."""

    @cached_property
    def inputs(self) -> Inputs:
        """The data from elsewhere, and what each folder is made from."""
        return Inputs(self)

    @cached_property
    def device(self) -> torch.device:
        """The device for everything except latencies."""
        return choose_device(self.recipe.device)

    @cached_property
    def compute(self) -> Compute:
        """How models are trained here: in the precision that the run was begun with.

        Raises:
            UserError: this machine does not support that.
        """
        precision = self.precision.precision
        if not is_possible(self.device, precision):
            expected, found = missing(self.device, precision)
            fix = "continue on a machine that has it, or give another --output"
            where = f"--output {self.folder.path}, begun in {precision}"
            raise UserError(where, expected=expected, found=found, fix=fix)
        return Compute(self.device, precision, self.recipe.checkpoint_minutes, self.ranks)

    @property
    def compute_alone(self) -> Compute:
        """As `compute`, for what rank 0 trains alone."""
        return replace(self.compute, ranks=ALONE)

    @cached_property
    def ranks(self) -> Ranks:
        """This process among those of a launcher; connects to the others on first use.

        Raises:
            UserError: they cannot be connected.
        """
        return join(self.device)

    @cached_property
    def precision(self) -> Choice:
        """The precision that the run was begun with; of a new run, the one that the recipe names or a probe finds.

        A run of a version that kept none continues with that version's choice.

        Raises:
            UserError: this device does not support the recipe's precision, or the record is damaged.
        """
        known = self.known_precision
        return Choice(known, known) if known else choose(self.device, self._layer_shapes())

    @property
    def known_precision(self) -> Precision | None:
        """The precision that the run has or the recipe names; None if a probe has to find it.

        Raises:
            UserError: as `precision`.
        """
        is_open = self.recipe.precision == "auto"
        begun_in = run_record.begun_in(self.folder)
        if begun_in is None and is_open and self.compared_with:
            begun_in = run_record.begun_in(self.compared_with)
        if begun_in is None and is_open:
            return None
        known = next((name for name in PRECISIONS if name == begun_in), None)
        return known or chosen_precision(self.device, self.recipe.precision)

    def _layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """The layer shapes of the model that takes most of the time."""
        given = self.recipe.finetune.model or self.recipe.compress.model
        return layer_shapes(load_config(given) if given else self.sources.original_teacher.model.config)

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """All tasks by name, built-in ones and the recipe's."""
        return tasks_of(self.recipe.finetune)

    @cached_property
    def jobs(self) -> tuple[Job, ...]:
        """Every task model, in the order in which they are made."""
        return tuple(jobs(self.recipe))

    @cached_property
    def lost(self) -> dict[Job, str]:
        """The task models whose processes failed in this command, each with why."""
        return {}

    @property
    def compressed_tasks(self) -> tuple[str, ...]:
        """The tasks whose model can be compressed: all of the recipe's, except those whose model failed."""
        lost = {job.task for job in self.lost}
        return tuple(name for name in self.recipe.compress.tasks if name not in lost)

    @cached_property
    def baselines(self) -> tuple[BaselineJob, ...]:
        """Every cheap baseline; ELMo has no word embeddings to make one of."""
        given = self.recipe.finetune.model
        without = STATIC_EMBEDDINGS if given and load_config(given).model_type == ELMO else ""
        return tuple(job for job in baseline_jobs(self.recipe) if job.row != without)

    @cached_property
    def teacher(self) -> LoadedTeacher:
        """The teacher in the run folder, adapted if the recipe says so; exists after the stage adapt."""
        folder = self.folder.teacher
        model, tokenizer = load_model(folder, "masked-lm"), load_tokenizer(folder)
        loaded = LoadedTeacher(model, tokenizer, has_trained_head=True, pooling=read_pooling(folder))
        check_tokenizer(loaded.model, loaded.tokenizer, str(folder))
        return loaded

    @contextmanager
    def rows_at_hand(self) -> Iterator[None]:
        """In the body, large files' rows are looked up in the run folder, and temporary files lie on its disk."""
        with scratch.beside(self.folder.path), read_once.kept_in(self.folder.rows):
            yield

    def task_names(self) -> tuple[str, ...]:
        """The tasks that the stages read."""
        return self.recipe.finetune.tasks if "finetune" in self.stages else ()

    def given_models(self) -> tuple[str, ...]:
        """The models from elsewhere that the stages read, as the recipe names them."""
        recipe, names = self.recipe, list[str]()
        if "prepare" in self.stages:
            names.append(recipe.teacher.model)
        if "finetune" in self.stages:
            teachers = recipe.finetune.distillation.teachers
            names += [
                recipe.finetune.model,
                recipe.task_encoder,
                *(teachers if isinstance(teachers, tuple) else ()),
            ]
        if "compress" in self.stages:
            names += [recipe.compress.model, *recipe.compress.teachers]
        return tuple(dict.fromkeys(name for name in names if name))

    def makes_student(self) -> bool:
        """Whether any stage reads the student; fine-tuning teacher and control alone does not."""
        recipe = self.recipe
        is_read = "student" in recipe.finetune.models or "student" in recipe.benchmark.models
        if recipe.finetune.distillation.start == "teacher" and "finetune" in self.stages and not is_read:
            return False  # the only students are cut from teachers of tasks
        return self.stages[-1] not in ("finetune", "evaluate") or "student" in recipe.finetune.models

    def reads_masked_lm(self) -> bool:
        """Whether any stage reads the teacher's masked-LM head; fine-tuning it on tasks alone does not."""
        finetune = self.recipe.finetune
        augments = any(finetune.settings(job.task).distillation.augment for job in self.jobs)
        return self.makes_student() or augments or "control" in finetune.models

    def compressed_job(self, task: str) -> Job:
        """The task model that is compressed: that of the first seed of its row.

        Raises:
            UserError: the recipe does not fine-tune such a row on the task.
        """
        row, of_task = self.recipe.compress.row, [job for job in self.jobs if job.task == task]
        chosen = next((job for job in of_task if job.row == row), None)
        if chosen is None:
            expected, fix = (
                f"a row of {task} ({', '.join(dict.fromkeys(job.row for job in of_task))})",
                "name one of them",
            )
            raise UserError("compress.row", expected=expected, found=repr(row), fix=fix)
        return chosen

    def is_begun(self) -> bool:
        """Whether the folder holds a run of this recipe; if so, its revisions of hub models are used from now on.

        Raises:
            UserError: it belongs to another recipe or to something else.
        """
        is_begun = run_record.is_begun(self.folder, self.recipe)
        if is_begun:
            hub.pin_revisions(run_record.kept_revisions(self.folder))
        return is_begun

    def check_machine(self) -> None:
        """Refuse a device or a precision that this machine lacks, and more processes than can have work.

        A run that was begun may have nothing left to train, so `compute` refuses what this machine cannot continue.

        Raises:
            UserError: one of them was asked for.
        """
        device = self.device
        if run_record.begun_in(self.folder) is None:
            chosen_precision(device, self.recipe.precision)
        if not self.stages_together:
            refuse_several(self.stages[-1])
        for section, optimization in self._optimizations().items():
            _check_world(section, optimization)

    @property
    def stages_together(self) -> tuple[str, ...]:
        """Those of the stages that all processes of a launcher run."""
        return tuple(name for name in self.stages if name in TOGETHER)

    def _optimizations(self) -> dict[str, Optimization]:
        """The settings of every training that several processes share, by their section."""
        recipe, optimizations = self.recipe, dict[str, Optimization]()
        if "adapt" in self.stages_together and recipe.adapt.tokens:
            optimizations["adapt"] = recipe.adapt.optimization
        if "distill" in self.stages_together and self.makes_student():
            optimizations["distill"] = recipe.distill.optimization
        for job in (job for job in self.jobs if not job.is_given):
            settings = recipe.finetune.settings(job.task, is_distilled=job.is_second_distillation)
            optimizations[f"finetune {job.row} on {job.task}"] = settings.optimization
        return optimizations

    def check_alike(self) -> None:
        """Refuse processes of a launcher that differ in recipe, folder, last stage, versions or precision.

        Raises:
            UserError: they differ, or do not see the same folder.
        """
        recipe = {key: repr(value) for key, value in flat(to_dict(self.recipe))}
        self.ranks.check_alike(
            {
                "version": __version__, "torch": torch.__version__, "device": self.device.type,
                "--output": str(self.folder.path.resolve()), "last stage": self.stages[-1],
                "precision": chosen_precision(self.device, self.recipe.precision), **recipe,
            }
        )  # fmt: skip
        self.ranks.check_gpus(self.device)


def _check_world(section: str, optimization: Optimization) -> None:
    """Refuse more processes than a step has examples.

    Raises:
        UserError: some would have none.
    """
    world, examples = world_size(), optimization.batch_size * optimization.gradient_accumulation_steps
    if world > examples:
        problem = f"there are {world} processes, but a step of {section} has only {counted(examples, 'example')}"
        fix = "start fewer, or raise batch_size or gradient_accumulation_steps"
        raise UserError("launcher", problem=problem, fix=fix)
