"""One sweep: its folder, Optuna's record of the trials, and the recipe of each trial."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert import optional, results, run_record
from tinydistilbert.errors import UserError
from tinydistilbert.pipeline.jobs import Job, jobs
from tinydistilbert.recipe.schema import Recipe, Teacher, recipe_hash
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.run_folder import MEASUREMENTS, RunFolder, SweepFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tuning.space import Space, Value

EXTRA = "sweep"
MADE_FOR = "sweep"
"""Attribute of a study in Optuna's record: a hash of recipe and space."""
STARTUP_TRIALS = 5
"""Trials that are drawn at random and never stopped early; later ones are judged by them (Optuna's own default)."""


@dataclass(frozen=True)
class SweepSetup:
    """The recipe, the settings to try, and the folder."""

    recipe: Recipe
    space: Space
    folder: SweepFolder
    storage: str
    """URL of a database that Optuna supports; empty = a journal in the folder."""
    log: Callable[[str], None]

    def log_of(self, number: int) -> Callable[[str], None]:
        """Return the function that prints a line of a trial."""
        return lambda line: self.log(f"trial {number}: {line}")

    @property
    def where(self) -> str:
        """The place of Optuna's record, for messages."""
        return self.storage or str(self.folder.journal)

    @property
    def is_scored(self) -> bool:
        """Whether trials are compared by tasks, or else by the KL to the teacher on held-out text."""
        return bool(self.recipe.finetune.tasks)

    @property
    def row(self) -> str:
        """The row whose scores are compared: the last that the recipe makes of its student."""
        return [job.row for job in jobs(self.recipe)][-1] if self.is_scored else "student"

    @property
    def until(self) -> str:
        """The last stage of a trial."""
        return "evaluate" if self.is_scored else "distill"

    @property
    def shares_teacher(self) -> bool:
        """Whether the teacher is adapted once, before the trials."""
        return self.recipe.adapt.tokens > 0 and not self.recipe.finetune.model

    def recipe_of(self, number: int, values: Mapping[str, Value]) -> Recipe:
        """Return the recipe of a trial, scored on examples held out of train because these choose settings.

        Raises:
            UserError: the values do not fit together.
        """
        recipe = self.space.recipe(self.recipe, values)
        finetune = dataclasses.replace(
            recipe.finetune, score_on="train", baselines=False, select="fixed", learning_rates=()
        )
        if finetune.distillation.tasks == "none" and not finetune.model:
            models = tuple(name for name in finetune.models if name == self.row)
            encoder = finetune.teacher if "teacher" in models else ""  # the encoder of a row that trials leave out
            finetune = dataclasses.replace(finetune, models=models, teacher=encoder)
        recipe = dataclasses.replace(recipe, name=f"{self.recipe.name}/{number}", finetune=finetune)
        if self.shares_teacher:
            teacher = Teacher(model=str(self.folder.base.teacher.resolve()))
            recipe = dataclasses.replace(recipe, teacher=teacher, adapt=dataclasses.replace(recipe.adapt, tokens=0))
        return recipe

    def value(self, run: RunFolder, recipe: Recipe) -> float:
        """Return a finished trial's value: mean headline score in points over tasks and seeds, or the KL in nats."""
        if not self.is_scored:
            measured = results.read(run.student / MEASUREMENTS)
            return next(m.value for m in measured if m.task == "pretraining" and m.metric == "kl")
        tasks = tasks_of(recipe.finetune)
        scores = [_headline(run, job, tasks[job.task].headline) for job in jobs(recipe) if job.row == self.row]
        return 100 * sum(scores) / len(scores)

    def study(self) -> Any:
        """Create or open Optuna's study.

        Raises:
            UserError: Optuna is not installed, the storage cannot be used, or it has a study of that name for another
                recipe or space.
        """
        optuna = optional.require("optuna", extra=EXTRA)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with storage_errors(self.where, "json"):
            if self.storage:
                storage: Any = self.storage
            else:
                backend = optuna.storages.journal.JournalFileBackend(
                    str(self.folder.journal),
                    lock_obj=optuna.storages.journal.JournalFileOpenLock(str(self.folder.journal)),
                )
                storage = optuna.storages.JournalStorage(backend)
            study = optuna.create_study(
                storage=storage, study_name=self.recipe.name, load_if_exists=True,
                direction="maximize" if self.is_scored else "minimize",
                pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS),
            )  # fmt: skip
            content = f"{recipe_hash(self.recipe)} {self.space.as_text()}"
            made_for = hashlib.sha256(content.encode()).hexdigest()[:12]
            stored = study.user_attrs.get(MADE_FOR)
            if stored is None:
                study.set_user_attr(MADE_FOR, made_for)
            elif stored != made_for:
                problem = f"it holds a sweep named {self.recipe.name!r} with another recipe or space"
                fix = "give the recipe another name, or give another --storage"
                raise UserError(f"storage {self.where}", problem=problem, fix=fix)
            self._refuse_other_kinds(study)
            return study

    def _refuse_other_kinds(self, study: Any) -> None:
        """Refuse a space whose text is that of the sweep, but whose values are not: `0` and `0.0`, or `1` and `"1"`.

        Raises:
            UserError: a setting has whole numbers, fractions or choices, and had others in earlier trials.
        """
        for trial in study.get_trials(deepcopy=False):
            for dimension in self.space.dimensions:
                before = trial.distributions.get(dimension.key)
                if before is not None and not dimension.is_of_kind(before):
                    problem = f"{dimension.key} had values of another kind when the sweep was begun: {before}"
                    fix = "write them as they were (1 is a whole number, 1.0 is not), or give another --output"
                    raise UserError(f"storage {self.where}", problem=problem, fix=fix)

    def claim(self) -> None:
        """Record what the sweep is; refuse the folder of another sweep.

        Raises:
            UserError: the folder has other files, or another recipe or space.
        """
        folder = self.folder
        if not folder.recipe.is_file() and not atomic.is_new(folder.path):
            fix = "give another --output"
            raise UserError(
                f"--output {folder.path}", expected="a new or empty folder, or a sweep", found="other files", fix=fix
            )
        if folder.recipe.is_file():  # perhaps of a version that had fewer keys, or for another device
            run_record.check_same_recipe(folder.recipe, self.recipe, what="a sweep")
        else:
            atomic.write_text(folder.recipe, to_toml(self.recipe))
        if not folder.space.is_file():
            atomic.write_text(folder.space, self.space.as_text())
        elif folder.space.read_text(encoding="utf-8") != self.space.as_text():
            problem = "the sweep there was begun with another space"
            raise UserError(f"--output {folder.path}", problem=problem, fix="give another --output")


def _headline(run: RunFolder, job: Job, metric: str) -> float:
    return next(m.value for m in results.read(job.scores(run) / MEASUREMENTS) if m.metric == metric)


@contextmanager
def storage_errors(where: str, *libraries: str) -> Iterator[None]:
    """Report errors of the storage as user errors.

    Args:
        where: the storage.
        libraries: libraries whose errors count too, besides those of Optuna and of databases.

    Raises:
        UserError: the body met one.
    """
    try:
        yield
    except Exception as error:
        module = type(error).__module__.split(".")[0]
        if module not in ("optuna", "sqlalchemy", "sqlite3", *libraries):
            raise
        why = str(error.__cause__ or error).splitlines()[0]  # Optuna's own words are about a commit, not a lock
        problem = f"Optuna cannot use it ({why})"
        fix = "check that no other program locks it and that it is a storage of Optuna, or give another --storage"
        raise UserError(f"storage {where}", problem=problem, fix=fix) from None


def sweep_of(recipe: Recipe, space: Path, output: Path, *, storage: str, log: Callable[[str], None]) -> SweepSetup:
    """Return the sweep of a recipe.

    Raises:
        UserError: the space is wrong.
    """
    return SweepSetup(recipe, Space.read(space, recipe), SweepFolder(output), storage, log)
