"""The ablation as a table, a figure and a page: the effect of each change of the recipe."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report import published, scores
from tinydistilbert.report.figures import Effect, effects
from tinydistilbert.report.html import figure, render
from tinydistilbert.report.page import facts
from tinydistilbert.report.paper_tables import score_cell
from tinydistilbert.report.scores import Score
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, points, signed, to_markdown
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import AblationFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.base import Task

BASELINE = "baseline"
REFERENCES = {"teacher": "the teacher itself", "control": "the baseline's cut, not distilled"}
"""Rows that the others are compared with; they are fine-tuned once."""
FINETUNE_SEED = "finetune_seed"
"""Key in a measurement's details, because `seed` is the distillation's here."""


@dataclass(frozen=True)
class Variation:
    """One row: the recipe with these settings changed."""

    name: str
    changes: Mapping[str, Any]
    """Sections and keys as in the recipe; none for the baseline."""
    published: float | None = None
    """Change of the score in the paper's Table 4, in points."""

    @property
    def description(self) -> str:
        """The changes as a user would write them: `objective.kl = 0`."""
        return ", ".join(f"{key} = {_formatted(value)}" for key, value in flat(self.changes)) or "the recipe as it is"


@dataclass(frozen=True)
class Ablation:
    """The content of table, figure and page."""

    recipe: Recipe
    variations: Sequence[Variation]
    """The baseline first."""
    measurements: Sequence[Measurement]
    """`model` is the row and `seed` the distillation's seed; the fine-tuning's seed is in `details`."""
    failures: Mapping[str, str] = field(default_factory=dict)
    """Why a row could not be finished, by row."""

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks that the recipe fine-tunes on."""
        known = tasks_of(self.recipe.finetune)
        return tuple(known[name] for name in self.recipe.finetune.tasks)

    def numbers(self, row: str) -> "Numbers":
        """Return what was measured of a row."""
        return Numbers(tuple(m for m in self.measurements if m.model == row), self.tasks)

    def change(self, row: str) -> list[float]:
        """Return the task mean minus the baseline's, for each pair of seeds that both have, sorted.

        References were fine-tuned once, not once for each distillation, so they are compared by the seed of the
        fine-tuning alone.
        """
        baseline, means = self.numbers(BASELINE).means, self.numbers(row).means
        if row in REFERENCES:
            once = {tuned: value for (_, tuned), value in means.items()}
            means = {(seed, tuned): once[tuned] for seed, tuned in baseline if tuned in once}
        return sorted(value - baseline[key] for key, value in means.items() if key in baseline)


@dataclass(frozen=True)
class Numbers:
    """What was measured of one row."""

    measurements: tuple[Measurement, ...]
    tasks: tuple[Task, ...]

    def score(self, task: Task) -> Score | None:
        """Return the headline score of a task over all seeds."""
        runs = self._of(task.name, task.headline)
        return Score(tuple(sorted(runs, key=lambda m: m.value))) if runs else None

    @property
    def means(self) -> dict[tuple[int, int], float]:
        """Return the mean headline scores by the seeds of distillation and fine-tuning, where no task is missing."""
        by_seeds: dict[tuple[int, int], list[float]] = {}
        for task in self.tasks:
            if score := self.score(task):
                for m in score.runs:
                    by_seeds.setdefault((m.seed, m.details[FINETUNE_SEED]), []).append(m.value)
        return {key: statistics.fmean(values) for key, values in by_seeds.items() if len(values) == len(self.tasks)}

    @property
    def kl(self) -> list[float]:
        """Return the KL to the teacher on held-out text, in nats, one value per seed, sorted."""
        return sorted(m.value for m in self._of("pretraining", "kl"))

    @property
    def mlm(self) -> list[float]:
        """Return the masked-LM loss on held-out text, as `kl`."""
        return sorted(m.value for m in self._of("pretraining", "mlm"))

    def median_of(self, fact: str) -> float | None:
        """Return the median over seeds of `steps`, `tokens` or `seconds` of the distillation."""
        runs = self._of("pretraining", "mlm")
        values = [m.seconds if fact == "seconds" else m.details.get(fact) for m in runs]
        known = [float(value) for value in values if value is not None]
        return statistics.median(known) if known else None

    def _of(self, task: str, metric: str) -> list[Measurement]:
        return [m for m in self.measurements if m.task == task and m.metric == metric]


def _formatted(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:g}"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _printed_change(value: float) -> str:
    return f"{value:+.2f}".replace("-", "−")


def _spread_cell(values: Sequence[float], formatted: Any) -> Cell:
    if not values:
        return Cell(NOTHING)
    ends = [formatted(min(values)), formatted(max(values))]
    return Cell(formatted(statistics.median(values)), detail=f"{ends[0]} to {ends[1]}" if len(values) > 1 else "")


def _amount(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value / 1e6:.2f} M" if value >= 1e6 else f"{value:,.0f}"


def ablation_table(ablation: Ablation) -> Table:
    """Return a table with a line for each row, with a dash for what is not finished yet."""
    tasks = ablation.tasks
    titles = [task.title for task in tasks]
    headings = ["Row", "Published Δ", *([f"Mean of {len(tasks)}", "Δ", *titles] if tasks else [])]
    headings += ["KL", "Masked LM", "Steps", "Tokens", "Minutes"]
    references = [Variation(name, {}) for name in REFERENCES if ablation.numbers(name).measurements]
    rows = [_row(ablation, variation) for variation in (*references, *ablation.variations)]
    caption = "Δ: change against the row “baseline”. KL to the teacher and masked-LM loss, on held-out text, in nats."
    if tasks:
        caption += " Scores in points, on examples held out of the train splits, because settings are chosen by them."
    return Table("ablation", "The effect of each change", caption, tuple(headings), tuple(rows), _notes(ablation))


def _row(ablation: Ablation, variation: Variation) -> TableRow:
    name, tasks = variation.name, ablation.tasks
    numbers = ablation.numbers(name)
    task_scores = [numbers.score(task) for task in tasks]
    seconds = numbers.median_of("seconds")
    is_reference = name in REFERENCES
    cells = [Cell(name, detail=REFERENCES.get(name) or variation.description)]
    cells.append(Cell(NOTHING if variation.published is None else _printed_change(variation.published)))
    if tasks:
        mean = _spread_cell(list(numbers.means.values()), points)
        marks = scores.merged_marks(score.marks for score in task_scores if score)
        cells.append(Cell(mean.text, marks if numbers.means else "", mean.detail))
        cells.append(Cell(NOTHING) if name == BASELINE else _spread_cell(ablation.change(name), signed))
        cells += [score_cell(score) for score in task_scores]
    cells += [_spread_cell(numbers.kl, "{:.3f}".format), _spread_cell(numbers.mlm, "{:.3f}".format)]
    if is_reference:
        cells += [Cell(NOTHING)] * 3
    else:
        minutes = NOTHING if seconds is None else f"{seconds / 60:.1f}"
        cells += [Cell(_amount(numbers.median_of("steps"))), Cell(_amount(numbers.median_of("tokens"))), Cell(minutes)]
    return TableRow("baseline" if is_reference else "measured" if name == BASELINE else "derived", tuple(cells))


def _notes(ablation: Ablation) -> tuple[str, ...]:
    tasks = ablation.tasks
    row_scores = [
        (f"{row}, {task.title}", task.title, score)
        for row in (*REFERENCES, *(variation.name for variation in ablation.variations))
        for task in tasks
        if (score := ablation.numbers(row).score(task)) is not None
    ]
    notes = scores.notes_on_marks(row_scores)
    seeds, tuned = ablation.recipe.ablate.seeds, ablation.recipe.finetune.seeds if tasks else (0,)
    if len(seeds) * len(tuned) > 1:
        notes.append(
            f"Medians over {len(seeds)} seed{'s' * (len(seeds) > 1)} of the distillation"
            + (f" × {len(tuned)} of the fine-tuning" if len(tuned) > 1 else "")
            + "; in small below: lowest and highest. Δ is taken seed by seed."
        )
    else:
        notes.append("One seed: the spread between trainings was not measured, so small differences mean nothing.")
    notes += [f"{name}: failed, {why}." for name, why in ablation.failures.items()]
    done = {v.name: {m.seed for m in ablation.numbers(v.name).measurements} for v in ablation.variations}
    waiting = [name for name, finished in done.items() if len(finished) < len(seeds) and name not in ablation.failures]
    if waiting:
        notes.append(f"Not finished yet, or not with every seed: {', '.join(waiting)}.")
    if any(v.published is not None for v in ablation.variations):
        notes.append(
            f"Published Δ: {published.ABLATION}. It used other tasks, splits and sizes, so compare only the order."
        )
    return tuple(notes)


def findings(ablation: Ablation) -> list[str]:
    """Say which row has the lowest KL and which the highest task mean, one sentence each, as far as measured."""
    sentences = []
    kls = {v.name: statistics.median(kl) for v in ablation.variations if (kl := ablation.numbers(v.name).kl)}
    if BASELINE in kls:
        best = min(kls, key=lambda row: kls[row])
        beside = "" if best == BASELINE else f"; the baseline has {kls[BASELINE]:.3f}"
        sentences.append(f"Lowest KL: {best}, {kls[best]:.3f} nats{beside}.")
    rows = [v.name for v in ablation.variations if v.name != BASELINE]
    changes = {row: change for row in rows if (change := ablation.change(row))}
    if changes:
        best = max(changes, key=lambda row: statistics.median(changes[row]))
        lowest, middle, highest = changes[best][0], statistics.median(changes[best]), changes[best][-1]
        several = f", over the seeds {signed(lowest)} to {signed(highest)}"
        spread = several if len(changes[best]) > 1 else ", with one seed"
        opening = "Highest task mean" if middle > 0 else "No row has a higher task mean than the baseline; the next"
        sentences.append(f"{opening}: {best}, {signed(middle)} points{spread}.")
    return sentences


def write_ablation(output: Path, ablation: Ablation, *, command: str) -> Table:
    """Write `ablation.md` and `report.html` into `output`, and return the table.

    Args:
        output: folder of the ablation.
        ablation: what was done and measured so far.
        command: the command that reproduces it.
    """
    table = ablation_table(ablation)
    rows = [
        Effect(
            name, [100 * value for value in ablation.change(name)] if name != BASELINE else [],
            next((v.published for v in ablation.variations if v.name == name), None),
            ablation.numbers(name).kl,
        )
        for name in (*REFERENCES, *(v.name for v in ablation.variations))
    ]  # fmt: skip
    caption = "Change of the task mean against the baseline, and KL to the teacher. Squares: published, on GLUE."
    finished = sum(bool(ablation.numbers(v.name).measurements) for v in ablation.variations)
    html = render(
        "ablation.html", name=ablation.recipe.name, table=table, figures=figure(effects(rows), caption),
        verdict=f"The effect of each choice: {finished} of {len(ablation.variations)} rows measured",
        findings=findings(ablation), facts=facts(command, ablation.recipe, ablation.measurements),
        has_tasks=bool(ablation.recipe.finetune.tasks), recipe_toml=to_toml(ablation.recipe),
    )  # fmt: skip
    folder = AblationFolder(output)
    atomic.write_text(folder.table, to_markdown(table))
    atomic.write_text(folder.report, html)
    return table
