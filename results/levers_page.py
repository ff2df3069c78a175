"""The tables of docs/decisions/0031-levers.md, from results/levers: a line for each lever, and the rows behind them."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert import results
from tinydistilbert.report.differences import row_differences
from tinydistilbert.report.paper_tables import score_cell
from tinydistilbert.report.scores import HIGHER, LOWER, collect, notes_on_marks, of_task
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, format_p, points, signed, to_markdown
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Task

FOLDER = Path(__file__).resolve().parent / "levers"


@dataclass(frozen=True)
class Levers:
    """What was measured, and the rows that were planned."""

    plan: Mapping[str, Any]
    measurements: Sequence[Measurement]

    @classmethod
    def read(cls) -> "Levers":
        """What is committed."""
        plan, path = tomllib.loads((FOLDER / "rows.toml").read_text(encoding="utf-8")), FOLDER / "results.jsonl"
        return cls(plan, results.read(path) if path.exists() else [])

    @property
    def task(self) -> Task:
        """The one task."""
        (name,) = self.plan["base"]["finetune"]["tasks"]
        return TASKS[name]


def levers_section() -> str:
    """What each lever gives, and the scores of the rows."""
    levers = Levers.read()
    return "\n".join([to_markdown(lever_table(levers)), to_markdown(row_table(levers))])


def mnli_first_section() -> str:
    """What teacher and student gain where MNLI comes first."""
    path = FOLDER / "mnli-first.jsonl"
    return to_markdown(mnli_first_table(results.read(path) if path.exists() else []))


def mnli_first_table(measurements: Sequence[Measurement]) -> Table:
    """The headline scores after MNLI and without it, and their difference, of each task that was measured."""
    rows = []
    for d in (each for each in row_differences(measurements, TASKS) if each.is_headline):
        low, high = d.paired.interval
        row = "Student (e)" if "student" in d.row else "Its teacher"
        cells = (
            Cell(d.task.title), Cell(row), Cell(points(d.paired.second)), Cell(points(d.paired.first)),
            Cell(signed(d.paired.difference), d.mark), Cell(f"{signed(low)} to {signed(high)}"),
            Cell(format_p(d.adjusted)),
        )  # fmt: skip
        rows.append(TableRow("measured", cells))
    notes = (
        f"p: paired bootstrap over the examples, adjusted by Holm over all lines. {HIGHER} surely higher, {LOWER} "
        "surely lower. One seed: the spread between trainings is in no interval.",
    )
    columns = ("Task", "Row", "Without", "After MNLI", "Difference", "95 % interval", "p")
    return Table("mnli-first", "Another task first", "In points.", columns, tuple(rows), notes)


def lever_table(levers: Levers) -> Table:
    """The difference that each lever makes, with its interval and p."""
    by_pair = {(d.row, d.against): d for d in row_differences(levers.measurements, TASKS) if d.is_headline}
    titles = {row["name"]: row["title"] for row in levers.plan["rows"]}
    rows = []
    for pair in levers.plan["compared"]:
        d = by_pair.get((pair["first"], pair["second"]))
        cells = [Cell("not measured"), Cell(NOTHING), Cell(NOTHING)]
        if d is not None:
            low, high = d.paired.interval
            cells = [
                Cell(signed(d.paired.difference), d.mark), Cell(f"{signed(low)} to {signed(high)}"),
                Cell(format_p(d.adjusted)),
            ]  # fmt: skip
        described = f"{titles[pair['first']]} − {titles[pair['second']]}"
        rows.append(TableRow("measured", (Cell(pair["lever"]), *cells, Cell(described))))
    notes = (
        f"p: paired bootstrap over the examples, adjusted by Holm over {len(by_pair)} comparisons. {HIGHER} surely "
        f"higher, {LOWER} surely lower. One seed: the spread between trainings is in no interval.",
    )  # fmt: skip
    columns = ("Lever", "Gives", "95 % interval", "p", "First − second")
    return Table("levers", f"The levers on {levers.task.title}", "In points.", columns, tuple(rows), notes)


def row_table(levers: Levers) -> Table:
    """The score of each row."""
    scored = collect(levers.measurements)
    rows, used = [], []
    for row in levers.plan["rows"]:
        score = of_task(scored, row["name"], levers.task)
        rows.append(TableRow("measured", (Cell(row["title"]), score_cell(score))))
        if score is not None:
            used.append((row["title"], levers.task.title, score))
    title = f"The rows on {levers.task.title}"
    return Table("rows", title, "In points.", ("Row", "Score"), tuple(rows), tuple(notes_on_marks(used)))
