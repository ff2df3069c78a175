"""The runs of an ablation: which rows there are, and the recipe and folder of each."""

import dataclasses
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.jobs import jobs
from tinydistilbert.pipeline.run import run_context
from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.objective import TERMS
from tinydistilbert.recipe.schema import Ablate, Adapt, Recipe, TaskDistillation, Teacher, to_dict
from tinydistilbert.recipe.toml import from_dict, merge
from tinydistilbert.report import published
from tinydistilbert.report.ablation import (
    BASELINE,
    FINETUNE_SEED,
    REFERENCES,
    Variation,
)
from tinydistilbert.report.read import read_log
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import LOG, MEASUREMENTS, AblationFolder, RunFolder
from tinydistilbert.storage import atomic, disk

TABLE_4 = (
    *(
        Variation(f"without {TERMS[name].label}", {"objective": {name: 0.0}}, change)
        for name, change in published.TABLE_4.items()
        if name in TERMS
    ),
    Variation("random initialisation", {"student": {"initialization": "random"}}, published.TABLE_4["random"]),
)
CHANGEABLE = ("student", "objective", "masking", "distill", "precision")
"""What a row may change: how the student is made. Text, teacher, tasks and measuring are what rows are compared by."""
OF_A_TEACHER = ("start", "cut", "unlabelled", "augment", "soft_labels")
"""Settings of a second distillation that have no meaning without one."""
SCORED_ON = (
    "tasks are scored on examples held out of their train splits, as settings must not be chosen on reported scores"
)


@dataclass(frozen=True)
class Trial:
    """One run of the ablation: a row with a seed, or the references (`variation` is None)."""

    variation: Variation | None
    seed: int
    recipe: Recipe
    folder: RunFolder
    references: RunFolder
    """The run of the references, whose precision all rows use that do not name their own."""

    @property
    def title(self) -> str:
        """Its name in the log."""
        return f"{self.variation.name}, seed {self.seed}" if self.variation else "references"

    @property
    def part(self) -> str:
        """Its name on the command line of the process that runs it."""
        return f"{self.folder.path.parent.name}/{self.folder.path.name}"

    @property
    def until(self) -> str:
        """The last stage."""
        return "evaluate" if self.recipe.finetune.tasks or self.variation is None else "distill"

    @property
    def parts(self) -> dict[str, Path]:
        """The folders that make it finished, by name of the model or task; each holds `measurements.jsonl`."""
        models = ("student",) if self.variation else tuple(REFERENCES)
        scored = {f"{job.row} {job.task} {job.seed}": job.scores(self.folder) for job in jobs(self.recipe)}
        return {**{name: self.folder.encoder(name) for name in models}, **scored}

    def is_finished(self) -> bool:
        """Whether nothing is left to do in it."""
        return all(map(atomic.is_finished, self.parts.values()))

    def run(self, log: Callable[[str], None]) -> RunContext:
        """Return the run in its folder."""
        return run_context(self.recipe, self.folder.path, until=self.until, log=log, compared_with=self.references)

    def measured(self) -> list[Measurement]:
        """Return what it measured, under the name of its row; `seed` is the distillation's."""
        measurements = []
        log = read_log(self.folder.student / LOG)
        tokens = max((line["tokens"] for line in log if "tokens" in line), default=0)
        for part in self.parts.values():
            for m in results.read(part / MEASUREMENTS):
                more: dict[str, Any] = {"tokens": tokens} if m.task == "pretraining" else {FINETUNE_SEED: m.seed}
                name = self.variation.name if self.variation else m.model
                measurements.append(dataclasses.replace(m, model=name, seed=self.seed, details={**m.details, **more}))
        return measurements

    def free(self) -> None:
        """Delete what only the scoring needed; `is_finished` does not depend on it."""
        for model in self.folder.all_task_models():
            disk.remove(model)
        if self.variation:
            disk.remove(self.folder.teacher)


def slug(name: str) -> str:
    """Return the name of a row as a folder name: lower-case letters and digits, hyphens for everything else."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def variations(recipe: Recipe) -> tuple[Variation, ...]:
    """Return the rows of the recipe's ablation: the baseline, the paper's Table 4, its own.

    A row of Table 4 that would change nothing (a term without weight), or that would leave no term, is left out.

    Raises:
        UserError: a row of the recipe has no usable name, another row's name, changes nothing, or changes something by
            which rows are compared.
    """
    weighted = recipe.objective.terms
    alone = {"objective": {weighted[0]: 0.0}} if len(weighted) == 1 else None
    paper = [row for row in TABLE_4 if row.changes != alone] if recipe.ablate.table4 else []
    plain = dataclasses.replace(recipe, ablate=Ablate())
    rows = [Variation(BASELINE, {}), *(row for row in paper if _changed(plain, row) != plain)]
    taken = {slug(row.name): row.name for row in (*rows, *paper)} | {name: name for name in REFERENCES}
    for name, changes in recipe.ablate.rows.items():
        row, where = Variation(name, changes), f"row {name!r} of ablate.rows"
        if not slug(name) or slug(name) in taken:
            other = f"the folder name of {taken[slug(name)]!r}" if slug(name) else "no letter or digit in it"
            raise UserError(where, problem=f"its name has {other}", fix="rename it")
        for key, _ in flat(changes):
            if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE):
                fix = "make another ablation of it"
                raise UserError(where, expected=f"changes of {', '.join(CHANGEABLE)}", found=key, fix=fix)
        if _changed(plain, row) == plain:
            raise UserError(where, problem=f"changes nothing ({row.description})", fix="delete the row")
        taken[slug(name)] = name
        rows.append(row)
    return tuple(rows)


def _changed(recipe: Recipe, row: Variation) -> Recipe:
    return from_dict(merge(to_dict(recipe), row.changes), f"row {row.name!r}")


def _plain(recipe: Recipe, row: str, models: tuple[Any, ...]) -> Recipe:
    """Return the recipe of one run: scored on held-out train examples, one fine-tuning per model and seed."""
    # What belongs to a second distillation, or to the row `teacher`, is refused in a recipe without them.
    without: dict[str, Any] = {key: getattr(TaskDistillation(), key) for key in OF_A_TEACHER}
    finetune = dataclasses.replace(
        recipe.finetune,
        distillation=dataclasses.replace(recipe.finetune.distillation, tasks="none", **without),
        teacher=recipe.finetune.teacher if "teacher" in models else "",
        models=models,
        score_on="train",
        baselines=False,
        select="fixed",
        learning_rates=(),
    )
    # The rows of the ablation are left out, so that adding one does not change the recipe of the finished ones.
    return dataclasses.replace(recipe, name=f"{recipe.name}/{row}", finetune=finetune, ablate=Ablate())


@dataclass(frozen=True)
class Study:
    """The runs of one ablation in one folder; made by `study_of`."""

    recipe: Recipe
    folder: AblationFolder
    variations: tuple[Variation, ...]
    references: Trial
    trials: tuple[Trial, ...]
    """Every row with the first seed, then with the next, so that rows can be compared early."""
    log: Callable[[str], None]

    @property
    def runs(self) -> tuple[Trial, ...]:
        """References and rows, in the order in which they are made."""
        return (self.references, *self.trials)

    @property
    def first_of_each(self) -> tuple[Trial, ...]:
        """One trial of each row: its seeds do not differ in anything that can be wrong."""
        return self.trials[: len(self.variations)]


def study_of(recipe: Recipe, output: Path, *, log: Callable[[str], None]) -> Study:
    """Return the runs that the recipe's section `ablate` asks for.

    Raises:
        UserError: a row is wrong, as in `variations`.
    """
    folder, rows = AblationFolder(output), variations(recipe)
    references = Trial(
        None, recipe.seed, _plain(recipe, "references", tuple(REFERENCES)), folder.references, folder.references
    )
    trials = tuple(_trial(recipe, folder, row, seed) for seed in recipe.ablate.seeds for row in rows)
    return Study(recipe, folder, rows, references, trials, log)


def _trial(recipe: Recipe, folder: AblationFolder, row: Variation, seed: int) -> Trial:
    plain = dataclasses.replace(_plain(recipe, row.name, ("student",)), seed=seed)
    if recipe.adapt.tokens:  # once for all rows, in the run of the references
        teacher = Teacher(model=str(folder.references.teacher.resolve()))
        adapt = Adapt(tokens=0, optimization=plain.adapt.optimization)
        plain = dataclasses.replace(plain, teacher=teacher, adapt=adapt)
    return Trial(row, seed, _changed(plain, row), folder.row(slug(row.name), seed), folder.references)
