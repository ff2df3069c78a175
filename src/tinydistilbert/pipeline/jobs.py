"""Which task models a recipe has: every row of the tables, on every task, with every seed."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert.evaluation.baselines import SEED
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.baselines import BASELINES


@dataclass(frozen=True)
class Job:
    """One task model: a row of the tables, on one task, with one seed."""

    task: str
    row: str
    """Row of the tables: `teacher`, `student`, `control`, `student (D)`, or `model` and `model (D)`."""
    encoder: str
    """What the fine-tuning starts from: a folder in the run, or a model from elsewhere."""
    seed: int
    is_given: bool = False
    """Whether `encoder` is a task model already, which is only scored."""

    @property
    def is_second_distillation(self) -> bool:
        """Whether it learns from fine-tuned teachers in addition to the labels."""
        return self.row.endswith("(D)")

    def model(self, run: RunFolder) -> Path:
        """Folder of the task model."""
        return Path(self.encoder) if self.is_given else run.task_model(self.task, self.row, self.seed)

    def scores(self, run: RunFolder) -> Path:
        """Folder of its scores."""
        return run.scores(self.task, self.row, self.seed)


@dataclass(frozen=True)
class BaselineJob:
    """A cheap baseline on one task, which is fitted when it is scored."""

    task: str
    row: str
    """`tf-idf`, `static embeddings` or `most frequent tag`."""

    def scores(self, run: RunFolder) -> Path:
        """Folder of its scores."""
        return run.scores(self.task, self.row, SEED)


def baseline_jobs(recipe: Recipe) -> Iterator[BaselineJob]:
    """The cheap baselines of the recipe: for every task whose predictions are classes, numbers or tags."""
    if recipe.finetune.baselines:
        for name, task in tasks_of(recipe.finetune).items():
            if name in recipe.finetune.tasks:
                yield from (BaselineJob(name, row) for row in BASELINES.get(task.kind, ()))


def jobs(recipe: Recipe) -> Iterator[Job]:
    """Every task model of the recipe, in the order in which they are made; a (D) comes after its teachers."""
    for name, task in tasks_of(recipe.finetune).items():
        if name in recipe.finetune.tasks:
            for row in _rows(recipe, task):
                yield from row


def _rows(recipe: Recipe, task: Task) -> Iterator[list[Job]]:
    finetune = recipe.finetune
    teachers, kinds = finetune.distillation.teachers, finetune.distillation.tasks
    distilled = kinds == "all" or (kinds == "span" and task.kind == "span")

    def row(title: str, encoder: str) -> list[Job]:
        return [Job(task.name, title, encoder, seed) for seed in finetune.seeds]

    if finetune.model:
        if distilled and isinstance(teachers, tuple):
            yield [Job(task.name, "teacher", path, index, is_given=True) for index, path in enumerate(teachers)]
            yield row("model (D)", finetune.model)
        elif distilled and finetune.distillation.start == "teacher":
            yield row("teacher", finetune.model)
            yield row("model (D)", finetune.model)
        else:
            yield row("model", finetune.model)
        return
    for name in finetune.models:
        yield row(name, name)
    if distilled and finetune.has_student_of_teachers:
        yield row("student (D)", "student")
