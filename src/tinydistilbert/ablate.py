"""ablate: the same experiment over and over, each time with one thing changed, to see which choices pay.

`base/` holds what all rows share: the teacher, and as references the scores of the teacher and of the cut that was not
distilled. `rows/NAME/seed-N/` is an ordinary run folder of the recipe with a row's settings, made by `pipeline.run`;
a finished one is never entered again, so what only its scoring needed is deleted.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert import results
from tinydistilbert.distillation.distill import distill_steps
from tinydistilbert.dry_run.basis import Basis, basis_of
from tinydistilbert.dry_run.stages import ESTIMATES
from tinydistilbert.dry_run.stages import check_inputs as check_dry_run_inputs
from tinydistilbert.errors import NonFiniteLoss, UserError
from tinydistilbert.pipeline.context import RunContext, Sources
from tinydistilbert.pipeline.jobs import jobs
from tinydistilbert.pipeline.preflight import check_data_folder
from tinydistilbert.pipeline.run import check_inputs, run_context, run_stages
from tinydistilbert.progress import duration
from tinydistilbert.recipe.objective import TERMS
from tinydistilbert.recipe.schema import Ablate, Adapt, Recipe, Teacher, to_dict
from tinydistilbert.recipe.toml import from_dict, merge, to_toml
from tinydistilbert.report import published
from tinydistilbert.report.ablation import (
    BASELINE,
    FINETUNE_SEED,
    REFERENCES,
    Ablation,
    Variation,
    write_ablation,
)
from tinydistilbert.report.read import read_log
from tinydistilbert.report.table import Table
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import LOG, MEASUREMENTS, AblationFolder, RunFolder, flat
from tinydistilbert.storage import atomic, disk, locks

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
SCORED_ON = "tasks are scored on examples held out of their train splits: settings must not be chosen on reported ones"


@dataclass(frozen=True)
class Trial:
    """One run of the ablation: a row with a seed, or the references (`variation` is None)."""

    variation: Variation | None
    seed: int
    recipe: Recipe
    folder: RunFolder

    @property
    def title(self) -> str:
        """Its name in the log."""
        return f"{self.variation.name}, seed {self.seed}" if self.variation else "references"

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
        """The run in its folder."""
        return run_context(self.recipe, self.folder.path, until=self.until, log=log)

    def measured(self) -> list[Measurement]:
        """What it measured, under the name of its row; `seed` is that of the distillation."""
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
    """The name of a row as that of a folder: small letters and digits, all else as hyphens."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def variations(recipe: Recipe) -> tuple[Variation, ...]:
    """The rows of the recipe's ablation: the baseline, the paper's Table 4, its own.

    A row of Table 4 that would change nothing (a term that has no weight anyhow) is left out, and so is one that would
    leave no term.

    Raises:
        UserError: a row of the recipe has no usable name, the name of another one, changes nothing, or changes
            something by which rows are compared.
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
    """The recipe of one run: scored on held-out examples of train, one fine-tuning a model and seed."""
    alone = dataclasses.replace(recipe.finetune.distillation, tasks="none")
    finetune = dataclasses.replace(
        recipe.finetune,
        distillation=alone,
        models=models,
        score_on="train",
        select="fixed",
        learning_rates=(),
    )
    # The rows of the ablation are left out, so that adding one does not make another recipe of the finished ones.
    return dataclasses.replace(recipe, name=f"{recipe.name}/{row}", finetune=finetune, ablate=Ablate())


@dataclass(frozen=True)
class Study:
    """The runs of one ablation in one folder; made by `study_of`."""

    recipe: Recipe
    folder: AblationFolder
    variations: tuple[Variation, ...]
    references: Trial
    trials: tuple[Trial, ...]
    """Every row with the first seed, then with the next, so that what there is can be compared early."""
    log: Callable[[str], None]

    @property
    def runs(self) -> tuple[Trial, ...]:
        """References and rows, in the order in which they are made."""
        return (self.references, *self.trials)

    @property
    def first_of_each(self) -> tuple[Trial, ...]:
        """One trial of each row: its seeds differ in nothing that can be wrong."""
        return self.trials[: len(self.variations)]


def study_of(recipe: Recipe, output: Path, *, log: Callable[[str], None]) -> Study:
    """The runs that the recipe's section `ablate` asks for.

    Raises:
        UserError: a row is wrong, as in `variations`.
    """
    folder, rows = AblationFolder(output), variations(recipe)
    references = Trial(None, recipe.seed, _plain(recipe, "references", tuple(REFERENCES)), folder.references)
    trials = tuple(_trial(recipe, folder, row, seed) for seed in recipe.ablate.seeds for row in rows)
    return Study(recipe, folder, rows, references, trials, log)


def _trial(recipe: Recipe, folder: AblationFolder, row: Variation, seed: int) -> Trial:
    plain = dataclasses.replace(_plain(recipe, row.name, ("student",)), seed=seed)
    if recipe.adapt.tokens:  # once for all rows, in the run of the references
        teacher = Teacher(model=str(folder.references.teacher.resolve()))
        adapt = Adapt(tokens=0, optimization=plain.adapt.optimization)
        plain = dataclasses.replace(plain, teacher=teacher, adapt=adapt)
    return Trial(row, seed, _changed(plain, row), folder.row(slug(row.name), seed))


def check_study(study: Study) -> None:
    """Look for whatever can be wrong in any run, before the first one.

    Raises:
        UserError: the folder belongs to something else, a run in it to another recipe, or an input is wrong; of a row
            it begins with its name.
    """
    check_folder(study)
    references = study.references.run(study.log)
    references.check_machine()
    check_data_folder(study.recipe.data)
    if not references.is_begun():
        check_inputs(references)
    for trial in study.first_of_each:
        if not atomic.is_finished(trial.folder.student):
            with _naming(trial):
                check_inputs(_before_adapting(study, trial, until="distill", sources=references.sources))


def check_folder(study: Study) -> None:
    """Refuse a folder with something else in it, and runs of other recipes.

    Raises:
        UserError: there are some.
    """
    output = study.folder.path
    if not study.folder.recipe.is_file() and not atomic.is_new(output):
        expected, fix = "a new or empty folder, or an ablation", "give another --output"
        raise UserError(f"--output {output}", expected=expected, found="other files", fix=fix)
    for trial in study.runs:
        run = trial.run(study.log)
        if run.is_begun() and trial is study.references:  # the rows have the same text and tasks
            run.inputs.check()


def _before_adapting(study: Study, trial: Trial, *, until: str, sources: Sources) -> RunContext:
    """The run of a trial with the teacher as it comes, for the adapted one may not be made yet."""
    recipe = dataclasses.replace(trial.recipe, teacher=study.recipe.teacher, adapt=study.recipe.adapt)
    return run_context(recipe, trial.folder.path, until=until, log=study.log, sources=sources)


def run_study(study: Study, command: str) -> tuple[Table, dict[str, str]]:
    """Do what is not done yet; table and page are written anew after every row.

    Returns:
        The table, and of the rows that failed, why.
    """
    output, failures = study.folder.path, dict[str, str]()
    with locks.alone(output / atomic.LOCK, where=f"--output {output}"):
        atomic.sweep(output)
        atomic.write_text(study.folder.recipe, to_toml(study.recipe))
        for trial in study.runs:
            if trial.is_finished():
                trial.free()
                study.log(f"{trial.title}: finished before, skipped")
                continue
            for failure in _run_trial(study, trial):
                # What a row breaks is a finding about that row, and no reason to keep the others waiting.
                name = trial.variation.name if trial.variation else "references"
                failures[name] = "; ".join([*([failures[name]] if name in failures else []), failure])
            if trial.is_finished():
                trial.free()
                publish(study, failures, command)
        return publish(study, failures, command), failures


def _run_trial(study: Study, trial: Trial) -> list[str]:
    """Run a trial; gives what failed in it."""

    def log(line: str) -> None:
        study.log(f"{trial.title}: {line}")

    try:
        with _naming(trial):
            failures = run_stages(trial.run(log))
    except NonFiniteLoss as error:
        if trial.variation is None:
            raise
        failures = (str(error),)
    for failure in failures:
        log(f"failed, {failure}")
    return [f"seed {trial.seed}: {failure}" for failure in failures]


def publish(study: Study, failures: Mapping[str, str], command: str) -> Table:
    """Write results, table and page of what is finished so far."""
    measurements = [m for trial in study.runs if trial.is_finished() for m in trial.measured()]
    results.write(study.folder.results, measurements)
    ablation = Ablation(study.recipe, study.variations, measurements, failures)
    return write_ablation(study.folder.path, ablation, command=command)


@contextmanager
def _naming(trial: Trial) -> Iterator[None]:
    """Put the name of the row before the user's mistakes."""
    try:
        yield
    except UserError as error:
        if trial.variation is None:
            raise
        where = f"row {trial.variation.name!r}, {error.where}"
        raise UserError(where, problem=error.problem, fix=error.fix) from None


def ablate(
    recipe: Recipe, output: Path, *, log: Callable[[str], None], command: str = ""
) -> tuple[Table, Mapping[str, str]]:
    """Run every row of the recipe's ablation that is not finished in the folder `output`.

    Args:
        recipe: the baseline, and in its section ablate the rows and seeds.
        output: folder of the ablation; made if missing, continued if it is one of this recipe.
        log: called with a line for each stage of each row.
        command: the command line that the report shows as the way to get the same again.

    Returns:
        The table, and of the rows that failed with a loss that is not finite, why.

    Raises:
        UserError: an input is wrong; when it was found before the first run, nothing was written.
        Interrupted: the user asked to stop; the same call goes on.
        NonFiniteLoss: adapting the teacher.
    """
    study = study_of(recipe, output, log=log)
    if not all(trial.is_finished() for trial in study.runs):
        check_study(study)
    else:
        check_folder(study)
    if recipe.finetune.tasks:
        log(f"ablate: {SCORED_ON}")
    return run_study(study, command)


@dataclass(frozen=True)
class PlannedRow:
    """What is left to do for one row of an ablation, its seeds together."""

    row: str
    changes: str
    steps: str
    """Of each distillation; of a time budget its words."""
    seeds: int
    seeds_left: int
    seconds: float


def planned_rows(recipe: Recipe, output: Path) -> list[PlannedRow]:
    """What `ablate` with the same arguments would do, and about how long it would take; nothing is written.

    Fine-tuning and scoring are taken to last as long in every row as in the baseline. The first row is that of the
    references, which no seed is counted for.

    Raises:
        UserError: an input is wrong: the same as of the run.
    """
    study = study_of(recipe, output, log=lambda _: None)
    check_folder(study)
    references = basis_of(study.references.run(study.log))
    references.run.check_machine()
    check_dry_run_inputs(references)

    def basis(trial: Trial, until: str) -> Basis:
        """Of a trial from its beginning, with what the rows have in common estimated once."""
        sources = references.run.sources
        unmade = dataclasses.replace(trial, folder=study.folder.row("", trial.seed))  # which no row is called
        return Basis(_before_adapting(study, unmade, until=until, sources=sources), references.shared)

    scoring = _seconds(basis(study.trials[0], "evaluate"), "finetune", "evaluate")
    left = _seconds(references, "adapt", "distill", "finetune", "evaluate")
    rows = [PlannedRow("references", "teacher and control, fine-tuned once", "", 0, 0, left)]
    for trial in study.first_of_each:
        assert trial.variation, "the references are no trial"
        of_row = basis(trial, "distill")
        with _naming(trial):
            check_dry_run_inputs(of_row)
        seeds = [other for other in study.trials if other.variation == trial.variation]
        waiting = sum(not other.is_finished() for other in seeds)
        seconds = waiting * (_seconds(of_row, "distill") + scoring)
        budget = trial.recipe.distill.time_budget
        settings, objective = trial.recipe.distill, trial.recipe.objective
        steps = budget or (f"{distill_steps(settings, objective, of_row.text.train):,}" if of_row.text else "unknown")
        rows.append(PlannedRow(trial.variation.name, trial.variation.description, steps, len(seeds), waiting, seconds))
    return rows


def plan_ablation(recipe: Recipe, output: Path) -> str:
    """The rows of `planned_rows` as a table in plain text.

    Raises:
        UserError: an input is wrong: the same as of the run.
    """
    rows = planned_rows(recipe, output)
    cells = [("row", "what it changes", "steps", "seeds left", "time")]
    for row in rows:
        seeds = f"{row.seeds_left} of {row.seeds}" if row.seeds else "–"
        cells.append((row.row, row.changes, row.steps or "–", seeds, duration(row.seconds)))
    widths = [max(len(line[column]) for line in cells) for column in range(5)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip() for line in cells]
    left = sum(row.seconds for row in rows)
    notes = [f"{SCORED_ON}."] if recipe.finetune.tasks else []
    notes.append(f"time left: about {duration(left)}; an estimate, good to about 40 %. Nothing was written.")
    return "\n".join([*lines, "", *notes])


def _seconds(basis: Basis, *stages: str) -> float:
    return sum(line.seconds or 0.0 for stage in stages for line in ESTIMATES[stage](basis))
