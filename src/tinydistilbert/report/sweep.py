"""A sweep as a table, a figure and a page: every trial, the best so far, and which setting mattered."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tinydistilbert.progress import duration
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report.figures import best_so_far
from tinydistilbert.report.html import figure, render
from tinydistilbert.report.page import facts
from tinydistilbert.report.table import NOTHING, Cell, RowKind, Table, TableRow, to_markdown
from tinydistilbert.run_folder import SweepFolder
from tinydistilbert.storage import atomic

STATES = {"COMPLETE": "", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "not finished"}


@dataclass(frozen=True)
class TrialRow:
    """One trial."""

    number: int
    state: str
    """Its state as Optuna names it."""
    value: float | None
    values: Mapping[str, Any]
    """Its settings."""
    seconds: float | None
    why: str
    """Why it failed."""


@dataclass(frozen=True)
class Swept:
    """The content of table, figure and page."""

    recipe: Recipe
    trials: Sequence[TrialRow]
    best: TrialRow | None
    is_scored: bool
    basis: str
    """What trials are compared by."""
    importance: Mapping[str, float]

    @property
    def best_in_words(self) -> str:
        """The best trial in a sentence."""
        if self.best is None:
            return "No trial is finished."
        settings = ", ".join(f"{key} = {_formatted(value)}" for key, value in self.best.values.items())
        return f"Best of {self.done}: trial {self.best.number}, {_value(self.best, self.is_scored)}, with {settings}."

    @property
    def done(self) -> int:
        """Number of finished trials."""
        return sum(trial.state == "COMPLETE" for trial in self.trials)


def _formatted(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _value(trial: TrialRow, is_scored: bool) -> str:
    if trial.value is None or trial.state != "COMPLETE":
        return NOTHING
    return f"{trial.value:.1f} points" if is_scored else f"{trial.value:.4f} nats"


def sweep_table(swept: Swept) -> Table:
    """Return a table with a line for each trial, the best first, then those that are not finished."""
    keys = list(dict.fromkeys(key for trial in swept.trials for key in trial.values))
    sign = -1 if swept.is_scored else 1

    def order(trial: TrialRow) -> tuple[bool, float, int]:
        is_done = trial.state == "COMPLETE"
        return (not is_done, sign * (trial.value or 0.0) if is_done else 0.0, trial.number)

    rows = []
    for trial in sorted(swept.trials, key=order):
        settings = [Cell(_formatted(trial.values[key])) if key in trial.values else Cell(NOTHING) for key in keys]
        took = NOTHING if trial.seconds is None else duration(trial.seconds)
        value = Cell(_value(trial, swept.is_scored).split()[0], detail=STATES.get(trial.state, trial.state))
        kind: RowKind = "measured" if swept.best and trial.number == swept.best.number else "derived"
        rows.append(TableRow(kind, (Cell(str(trial.number)), value, *settings, Cell(took))))
    title = "Score" if swept.is_scored else "KL"
    notes = [f"Trial {trial.number} failed: {trial.why}." for trial in swept.trials if trial.why]
    notes.append(
        "One training each: among close trials, chance decides which is first. Train the best with other seeds."
    )
    if swept.importance:
        shares = ", ".join(f"{key} {100 * share:.0f} %" for key, share in swept.importance.items())
        notes.append(f"Share of the differences that a setting explains (fANOVA): {shares}.")
    caption = f"{swept.basis[:1].upper()}{swept.basis[1:]}."
    columns = ("Trial", title, *keys, "Time")
    return Table("sweep", "Every trial", caption, columns, tuple(rows), tuple(notes))


def write_sweep(folder: SweepFolder, swept: Swept, *, command: str) -> Table:
    """Write `sweep.md` and `report.html`, and return the table."""
    table = sweep_table(swept)
    points = [
        (trial.number, trial.value) for trial in swept.trials if trial.state == "COMPLETE" and trial.value is not None
    ]
    unit = "score, points" if swept.is_scored else "KL, nats"
    drawing = best_so_far(points, unit, highest=swept.is_scored) if points else None
    html = render(
        "sweep.html", name=swept.recipe.name, table=table, verdict=swept.best_in_words,
        figures=figure(drawing, "Every finished trial, and the best up to it."),
        importance=[(key, f"{100 * share:.0f} %") for key, share in swept.importance.items()],
        facts=facts(command, swept.recipe, []), recipe_toml=to_toml(swept.recipe),
    )  # fmt: skip
    atomic.write_text(folder.table, to_markdown(table))
    atomic.write_text(folder.report, html)
    return table
