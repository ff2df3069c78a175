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
from tinydistilbert.dry_run import Planner
from tinydistilbert.errors import NonFiniteLoss, UserError
from tinydistilbert.pipeline.jobs import jobs
from tinydistilbert.pipeline.run import Run, run
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
    flat,
    write_ablation,
)
from tinydistilbert.report.read import read_log
from tinydistilbert.report.table import Table
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import LOG, MEASUREMENTS, AblationFolder, RunFolder
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
        """What the console calls it."""
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

    def run(self, log: Callable[[str], None]) -> Run:
        """The run in its folder."""
        return Run(self.recipe, self.folder.path, until=self.until, log=log)

    def measured(self) -> list[Measurement]:
        """What it measured, under the name of its row; `seed` is that of the distillation."""
        found = []
        log = read_log(self.folder.student / LOG)
        tokens = max((line["tokens"] for line in log if "tokens" in line), default=0)
        for part in self.parts.values():
            for m in results.read(part / MEASUREMENTS):
                own: dict[str, Any] = {"tokens": tokens} if m.task == "pretraining" else {FINETUNE_SEED: m.seed}
                name = self.variation.name if self.variation else m.model
                found.append(dataclasses.replace(m, model=name, seed=self.seed, details={**m.details, **own}))
        return found

    def free(self) -> None:
        """Delete what was needed only until the scores were there; `is_finished` does not ask for it."""
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
    found = [Variation(BASELINE, {}), *(row for row in paper if _changed(plain, row) != plain)]
    taken = {slug(row.name): row.name for row in (*found, *paper)} | {name: name for name in REFERENCES}
    for name, changes in recipe.ablate.rows.items():
        row, where = Variation(name, changes), f"row {name!r} of ablate.rows"
        if not slug(name) or slug(name) in taken:
            other = f"the folder name of {taken[slug(name)]!r}" if slug(name) else "no letter or digit in it"
            raise UserError(where, expected="a name of its own", found=other, fix="rename it")
        for key, _ in flat(changes):
            if not any(key == allowed or key.startswith(f"{allowed}.") for allowed in CHANGEABLE):
                fix = "make another ablation of it"
                raise UserError(where, expected=f"changes of {', '.join(CHANGEABLE)}", found=key, fix=fix)
        if _changed(plain, row) == plain:
            raise UserError(
                where, expected="a change", found=f"the recipe's own {row.description}", fix="delete the row"
            )
        taken[slug(name)] = name
        found.append(row)
    return tuple(found)


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


class Study:
    """The runs of one ablation in one folder."""

    def __init__(self, recipe: Recipe, output: Path, *, log: Callable[[str], None]) -> None:
        self.recipe, self.folder, self.log = recipe, AblationFolder(output), log
        self.variations = variations(recipe)
        self.references = Trial(
            None, recipe.seed, _plain(recipe, "references", tuple(REFERENCES)), self.folder.references
        )
        self.trials = tuple(self._trials())
        self.failures: dict[str, str] = {}

    def _trials(self) -> Iterator[Trial]:
        """Every row with the first seed, then with the next, so that what there is can be compared early."""
        for seed in self.recipe.ablate.seeds:
            for row in self.variations:
                plain = dataclasses.replace(_plain(self.recipe, row.name, ("student",)), seed=seed)
                if self.recipe.adapt.tokens:  # once for all rows, in base/
                    teacher = Teacher(model=str(self.folder.references.teacher.resolve()))
                    adapt = Adapt(tokens=0, optimization=plain.adapt.optimization)
                    plain = dataclasses.replace(plain, teacher=teacher, adapt=adapt)
                folder = self.folder.row(slug(row.name), seed)
                yield Trial(row, seed, _changed(plain, row), folder)

    def check(self) -> None:
        """Look at whatever can be wrong in any run, before the first one.

        Raises:
            UserError: the folder belongs to something else, a run in it to another recipe, or an input is wrong; of a
                row it begins with its name.
        """
        self.check_folder()
        run = self.references.run(self.log)
        run.check_data_folder()
        if not run.is_begun():
            run.check_inputs()
        for trial in self.first_of_each():
            if not atomic.is_finished(trial.folder.student):
                own = Run(self.before_adapting(trial), trial.folder.path, until="distill", log=self.log)
                own.original_teacher = run.original_teacher
                if trial.recipe.corpus == self.recipe.corpus:
                    own.blocks = run.blocks
                with _naming(trial):
                    own.check_inputs()

    def check_folder(self) -> None:
        """Refuse a folder with something else in it, and runs of other recipes.

        Raises:
            UserError: there are some.
        """
        output = self.folder.path
        if not self.folder.recipe.is_file() and not atomic.is_new(output):
            expected, fix = "a new or empty folder, or an ablation", "give another --output"
            raise UserError(f"--output {output}", expected=expected, found="other files", fix=fix)
        for trial in (self.references, *self.trials):
            trial.run(self.log).is_begun()

    def first_of_each(self) -> tuple[Trial, ...]:
        """One trial of each row: its seeds differ in nothing that can be wrong."""
        return self.trials[: len(self.variations)]

    def before_adapting(self, trial: Trial) -> Recipe:
        """A trial's recipe with the teacher as it comes, for the adapted one may not be there yet."""
        return dataclasses.replace(trial.recipe, teacher=self.recipe.teacher, adapt=self.recipe.adapt)

    def run(self, command: str) -> Table:
        """Do what is not done yet; table and page are written anew after every row."""
        output = self.folder.path
        with locks.alone(output / atomic.LOCK, where=f"--output {output}"):
            atomic.sweep(output)
            atomic.write_text(self.folder.recipe, to_toml(self.recipe))
            for trial in (self.references, *self.trials):
                if trial.is_finished():
                    trial.free()
                    self.log(f"{trial.title}: finished before, skipped")
                    continue
                self._run(trial)
                if trial.is_finished():
                    trial.free()
                    self.publish(command)
            return self.publish(command)

    def _run(self, trial: Trial) -> None:
        def log(line: str) -> None:
            self.log(f"{trial.title}: {line}")

        try:
            with _naming(trial):
                failures = run(Run(trial.recipe, trial.folder.path, until=trial.until, log=log))
        except NonFiniteLoss as error:
            if trial.variation is None:
                raise
            failures = (str(error),)
        # What a row breaks is a finding about that row, and no reason to keep the others waiting.
        name = trial.variation.name if trial.variation else "references"
        for failure in failures:
            before = [self.failures[name]] if name in self.failures else []
            self.failures[name] = "; ".join([*before, f"seed {trial.seed}: {failure}"])
            log(f"failed, {failure}")

    def publish(self, command: str) -> Table:
        """Write results, table and page of what is finished so far."""
        finished = [trial for trial in (self.references, *self.trials) if trial.is_finished()]
        measurements = [m for trial in finished for m in trial.measured()]
        results.write(self.folder.results, measurements)
        ablation = Ablation(self.recipe, self.variations, measurements, self.failures)
        return write_ablation(self.folder.path, ablation, command=command)


@contextmanager
def _naming(trial: Trial) -> Iterator[None]:
    """Tell the user's mistakes with the name of the row."""
    try:
        yield
    except UserError as error:
        if trial.variation is None:
            raise
        where = f"row {trial.variation.name!r}, {error.where}"
        raise UserError(where, expected=error.expected, found=error.found, fix=error.fix) from None


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
    study = Study(recipe, output, log=log)
    if not all(trial.is_finished() for trial in (study.references, *study.trials)):
        study.check()
    else:
        study.check_folder()
    if recipe.finetune.tasks:
        log(f"ablate: {SCORED_ON}")
    return study.run(command), study.failures


def plan_ablation(recipe: Recipe, output: Path) -> str:
    """What `ablate` with the same arguments would do, and about how long it would take; nothing is written.

    Fine-tuning and scoring are taken to last as long in every row as in the baseline.

    Raises:
        UserError: an input is wrong: the same as of the run.
    """
    study = Study(recipe, output, log=lambda _: None)
    study.check_folder()
    shared = Planner(study.references.run(study.log))
    shared.run.check_data_folder()
    shared.check_inputs()

    def planner(trial: Trial, until: str) -> Planner:
        """For a trial from its beginning, with what the rows have in common found once."""
        made = Planner(Run(study.before_adapting(trial), output / "rows", until=until, log=study.log))
        made.machine = shared.machine
        if trial.recipe.corpus == recipe.corpus:
            made.text = shared.text
        return made

    scoring = _seconds(planner(study.trials[0], "evaluate"), "finetune", "evaluate")
    left = _seconds(shared, "adapt", "distill", "finetune", "evaluate")
    cells = [("row", "what it changes", "steps", "seeds left", "time")]
    cells.append(("references", "teacher and control, fine-tuned once", "–", "–", duration(left)))
    for trial in study.first_of_each():
        assert trial.variation, "the references are no trial"
        own = planner(trial, "distill")
        with _naming(trial):
            own.check_inputs()
        seeds = [other for other in study.trials if other.variation == trial.variation]
        waiting = sum(not other.is_finished() for other in seeds)
        seconds = waiting * (_seconds(own, "distill") + scoring)
        left += seconds
        budget = trial.recipe.distill.time_budget
        steps = budget or (f"{distill_steps(trial.recipe, own.text.train):,}" if own.text else "unknown")
        of_all = f"{waiting} of {len(seeds)}"
        cells.append((trial.variation.name, trial.variation.description, steps, of_all, duration(seconds)))
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    lines = ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in cells]
    notes = [f"{SCORED_ON}."] if recipe.finetune.tasks else []
    notes.append(f"time left: about {duration(left)}; an estimate, good to about 40 %. Nothing was written.")
    return "\n".join([*lines, "", *notes])


def _seconds(planner: Planner, *stages: str) -> float:
    return sum(line.seconds or 0.0 for stage in stages for line in planner.lines(stage))
