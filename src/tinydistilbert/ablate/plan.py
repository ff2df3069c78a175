"""What an ablation would do and how long that would take: `ablate --dry-run`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert.ablate.run import before_adapting, check_folder, naming
from tinydistilbert.ablate.study import SCORED_ON, Trial, study_of
from tinydistilbert.distillation.distill import distill_steps
from tinydistilbert.dry_run.basis import Basis, basis_of
from tinydistilbert.dry_run.stages import ESTIMATES
from tinydistilbert.dry_run.stages import check_inputs as check_dry_run_inputs
from tinydistilbert.progress import duration
from tinydistilbert.recipe.schema import Recipe


@dataclass(frozen=True)
class PlannedRow:
    """What is left to do for one row of an ablation, all its seeds together."""

    row: str
    changes: str
    steps: str
    """Steps of each distillation; for a time budget, its text."""
    seeds: int
    seeds_left: int
    seconds: float


def planned_rows(recipe: Recipe, output: Path) -> list[PlannedRow]:
    """Return what `ablate` with the same arguments would do, and about how long it would take; nothing is written.

    Fine-tuning and scoring are assumed to take as long in every row as in the baseline. The first row is that of the
    references, for which seeds are not counted.

    Raises:
        UserError: an input is wrong, as in the run itself.
    """
    study = study_of(recipe, output, log=lambda _: None)
    check_folder(study)
    references = basis_of(study.references.run(study.log))
    references.run.check_machine()
    check_dry_run_inputs(references)

    def basis(trial: Trial, until: str) -> Basis:
        """Return the basis of a trial from its beginning, with what the rows share estimated once."""
        sources = references.run.sources
        unmade = dataclasses.replace(trial, folder=study.folder.row("", trial.seed))  # a name that no row has
        return Basis(before_adapting(study, unmade, until=until, sources=sources), references.shared)

    scoring = _seconds(basis(study.trials[0], "evaluate"), "finetune", "evaluate")
    left = _seconds(references, "adapt", "distill", "finetune", "evaluate")
    rows = [PlannedRow("references", "teacher and control, fine-tuned once", "", 0, 0, left)]
    for trial in study.first_of_each:
        assert trial.variation, "the references are no trial"
        of_row = basis(trial, "distill")
        with naming(trial):
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
    """Return the rows of `planned_rows` as a table in plain text.

    Raises:
        UserError: an input is wrong, as in the run itself.
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
    notes.append(f"time left: about {duration(left)}; an estimate, within about 40 %. Nothing was written.")
    return "\n".join([*lines, "", *notes])


def _seconds(basis: Basis, *stages: str) -> float:
    return sum(line.seconds or 0.0 for stage in stages for line in ESTIMATES[stage](basis))
