"""Differences between the rows of a run, read from its measurements with their intervals and p-values."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.evaluation.resampling import Paired
from tinydistilbert.recipe.names import BASELINE_NAMES
from tinydistilbert.report.scores import HIGHER, LEVEL, LOWER, MAJORITY, mark_of, metric_title, row_title
from tinydistilbert.report.table import Cell, Table, TableRow, format_p, points, signed
from tinydistilbert.results import COMPARE, Measurement
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Task

CAPTION = (
    "In points; medians over seeds. Difference: first minus second, with its 95 % interval by a paired bootstrap over "
    "the examples; the spread between trainings is not in it."
)
ONE_SEED = "One seed on a side: another training of the same model may differ by more than the interval shows."


@dataclass(frozen=True)
class RowDifference:
    """A metric of two rows of a run on one split of a task."""

    task: Task
    split: str
    metric: str
    row: str
    against: str
    paired: Paired
    adjusted: float
    """`paired.p` adjusted by Holm."""
    seeds: tuple[int, int]
    """Number of trainings behind each side; 1 if nothing is random."""
    examples: int

    @property
    def mark(self) -> str:
        """`▲` or `▼` where the row is surely higher or lower."""
        return mark_of(self.paired.interval, self.adjusted)

    @property
    def is_headline(self) -> bool:
        """Whether it is about the task's headline metric."""
        return self.metric == self.task.headline and self.split in (self.task.evaluation[0], HELD_OUT)


def row_differences(measurements: Sequence[Measurement], tasks: Mapping[str, Task]) -> list[RowDifference]:
    """Return the differences among a run's measurements, in order; of repeated ones, the last."""
    latest: dict[tuple[str, ...], RowDifference] = {}
    for m in measurements:
        if m.task == COMPARE and m.details["of"] in tasks:
            details = m.details
            low, high = details["interval"]
            one, other = details["seeds"]
            difference = RowDifference(
                tasks[details["of"]], m.split, m.metric, m.model, details["against"],
                Paired(details["first"], details["second"], (low, high), details["p"]), details["p_adjusted"],
                (one, other), m.examples,
            )  # fmt: skip
            latest[difference.task.name, difference.split, difference.metric, difference.row, difference.against] = (
                difference
            )
    return list(latest.values())


def split_title(task: Task, split: str) -> str:
    """Return the task, and its split if it is not the one of the tables."""
    return task.title if split == task.evaluation[0] else f"{task.title}, {split.replace('_', ' ')}"


def score_cells(title: str, where: str, rows: str, paired: Paired, mark: str, adjusted: float) -> tuple[Cell, ...]:
    """Return the first cells of a line: task and metric, rows, scores, their difference with its interval, and p."""
    low, high = paired.interval
    return (
        Cell(where, detail=title), Cell(rows), Cell(points(paired.first)),
        Cell(points(paired.second)), Cell(signed(paired.difference), mark, f"{signed(low)} to {signed(high)}"),
        Cell(format_p(paired.p)), Cell(format_p(adjusted)),
    )  # fmt: skip


def legend(count: int, *, majority: bool) -> str:
    """Say what the p-values are adjusted for, and what the marks mean."""
    apart = f"; those with the {row_title(MAJORITY).lower()} are adjusted by themselves" if majority else ""
    return (
        f"{count} comparison{'s' * (count != 1)}: “p, Holm” is adjusted for them all{apart}. {HIGHER} significantly "
        f"higher, {LOWER} significantly lower: this p is below {LEVEL} and the interval does not contain 0."
    )


def seeds_text(seeds: tuple[int, int]) -> str:
    """Say how many trainings are on both sides, or on each."""
    return " / ".join(dict.fromkeys(map(str, seeds)))


def differences_table(differences: Sequence[RowDifference]) -> Table | None:
    """Return a table that compares the rows of one run; None if nothing was compared."""
    if not differences:
        return None
    rows = []
    for d in differences:
        cells = score_cells(
            metric_title(d.task, d.metric), split_title(d.task, d.split),
            f"{row_title(d.row)} − {row_title(d.against)}", d.paired, d.mark, d.adjusted,
        )  # fmt: skip
        rows.append(
            TableRow("measured" if d.mark else "derived", (*cells, Cell(seeds_text(d.seeds)), Cell(f"{d.examples:,}")))
        )
    headings = ("Task", "Rows", "First", "Second", "Difference", "p", "p, Holm", "Seeds", "Examples")
    return Table(
        "comparison", "Differences between the rows", CAPTION, headings, tuple(rows), tuple(_notes(differences))
    )


def _notes(differences: Sequence[RowDifference]) -> Iterator[str]:
    against = [d.against for d in differences]
    yield legend(len(against) - against.count(MAJORITY), majority=MAJORITY in against)
    if any(1 in d.seeds for d in differences if d.against not in (MAJORITY, *BASELINE_NAMES)):
        yield ONE_SEED
