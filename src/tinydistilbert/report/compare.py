"""Two runs, or the rows of one, compared example by example: differences with their intervals and tests."""

import dataclasses
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import metrics
from tinydistilbert.evaluation.metrics import Paired
from tinydistilbert.report.disagreements import Disagreement, disagreement, examples_at_hand
from tinydistilbert.report.predictions import Pairing, ScoredRun, pair, read_predicted, scored_run, splits_of
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.tasks.base import Examples, Task

TEACHER = "teacher"
PAIRS = (
    ("student", TEACHER), ("student (D)", TEACHER), ("student (D)", "student"), ("student", "control"),
    ("model", TEACHER), ("model (D)", TEACHER), ("model (D)", "model"),
)  # fmt: skip
"""Rows of one run that are compared with one another."""
RESAMPLES = 10_000
RESAMPLES_OF_CORRELATIONS = 5_000
"""Ranks are found anew in every resample, which takes far longer than counting what is right."""
LEVEL = 0.05
HIGHER, LOWER = "▲", "▼"


@dataclass(frozen=True)
class Operand:
    """What is compared: a run, or one row of it."""

    run: Path
    row: str | None = None


@dataclass(frozen=True)
class Difference:
    """A metric of two rows on one split of a task."""

    pairing: Pairing
    metric: str
    paired: Paired
    adjusted: float
    """`paired.p` adjusted by Holm over everything that was compared at once."""
    disagreement: Disagreement | None = None
    """Kept once for a task and split: with exact match for spans, else with the headline."""

    @property
    def task(self) -> Task:
        """What both were scored on."""
        return self.pairing.task

    @property
    def row(self) -> str:
        """Row of the first side."""
        return self.pairing.first.side.row

    @property
    def seeds(self) -> tuple[int, int]:
        """How many trainings are behind each side."""
        return len(self.pairing.first.answers), len(self.pairing.second.answers)

    @property
    def mark(self) -> str:
        """`▲` or `▼` where the first side is surely higher or lower: Holm's p below 0.05 and an interval without 0."""
        low, high = self.paired.interval
        if self.adjusted >= LEVEL or low <= 0 <= high:
            return ""
        return HIGHER if low > 0 else LOWER


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared at once."""

    first: Operand
    second: Operand | None
    """None: the rows of the first with one another."""
    differences: tuple[Difference, ...]


def operand(text: str) -> Operand:
    """What `RUN` or `RUN:ROW` on the command line names, such as `runs/a` or `runs/a:student (D)`.

    Raises:
        UserError: there is no such run folder.
    """
    folder, colon, row = text.rpartition(":")
    for found in (Operand(Path(text)), *([Operand(Path(folder), row.strip())] if colon else [])):
        if RunFolder(found.run).recipe.is_file():
            return found
    fix = "give a folder that `tinydistilbert replicate` or `finetune` wrote, if wanted with :ROW"
    raise UserError(text, expected="a run folder with recipe.toml", found="none", fix=fix)


def compare(first: Operand, second: Operand | None = None, *, seed: int = 0) -> Comparison:
    """Compare two runs row by row, or the rows of one run with one another.

    Where no row is named, every row that both runs have is compared with the same row of the other; where one is, with
    the row that is named there, or with the same. Of one run alone, `PAIRS` are compared.

    Args:
        first: from its scores those of the other are taken away.
        second: the other; None for the rows of `first` alone.
        seed: of the resamples, and of which examples are shown first.

    Raises:
        UserError: nothing to compare, or other examples or labels on the two sides.
    """
    one = scored_run(first.run)
    other = scored_run(second.run) if second else one
    for run, row in ((one, first.row), (other, second.row if second else None)):
        if row is not None and row not in run.rows:
            fix = f"use one of {', '.join(run.rows)}"
            raise UserError(f"{run.folder}:{row}", expected="a row that was scored", found=repr(row), fix=fix)
    pairings = list(_pairings(one, other, _row_pairs(first, one, second, other)))
    if not pairings:
        expected, fix = "a task and a row that both have", "see the rows of each in its report.html"
        found = f"{_having(one)}" + (f"; {_having(other)}" if second else "")
        raise UserError("compare", expected=expected, found=found, fix=fix)
    at_hand: dict[tuple[str, str], Examples | None] = {}
    differences = []
    for difference in _differences(pairings, seed):
        pairing = difference.pairing
        if difference.metric == difference.task.table_metrics[0]:
            key = pairing.task.name, pairing.split
            if key not in at_hand:
                at_hand[key] = examples_at_hand(pairing, (one.recipe, other.recipe))
            cases = disagreement(pairing, at_hand[key], seed)
            difference = dataclasses.replace(difference, disagreement=cases)
        differences.append(difference)
    return Comparison(first, second, tuple(differences))


def compare_rows(run: Path) -> Comparison:
    """The rows of one run with one another, without examples; nothing where it has no two of `PAIRS`, or no scores.

    Raises:
        UserError: a file of scores that is not as it was written.
    """
    first = Operand(run)
    if not RunFolder(run).all_scores():
        return Comparison(first, None, ())
    scored = scored_run(run)
    pairings = list(_pairings(scored, scored, [pair for pair in PAIRS if set(pair) <= set(scored.rows)]))
    return Comparison(first, None, tuple(_differences(pairings, scored.recipe.seed)))


def _having(run: ScoredRun) -> str:
    return f"{run.folder} has {', '.join(run.rows)} on {', '.join(run.tasks)}"


def _row_pairs(first: Operand, one: ScoredRun, second: Operand | None, other: ScoredRun) -> list[tuple[str, str]]:
    if second is None:
        return [pair for pair in PAIRS if first.row in (None, pair[0])]
    if first.row or second.row:
        pairs = [(first.row or second.row or "", second.row or first.row or "")]
    else:
        pairs = [(row, row) for row in one.rows if row in other.rows]
    if one.folder.resolve() == other.folder.resolve() and all(row == same for row, same in pairs):
        fix = "give one run alone to compare its rows, or name a row of each"
        raise UserError("compare", expected="two runs or two rows", found="the same one twice", fix=fix)
    return pairs


def _pairings(one: ScoredRun, other: ScoredRun, rows: Iterable[tuple[str, str]]) -> Iterator[Pairing]:
    for name, task in one.tasks.items():
        for row, its in rows:
            if name not in other.tasks or row not in one.scores[name] or its not in other.scores[name]:
                continue
            if other.tasks[name].kind != task.kind:
                where, fix = f"{name} of {other.folder}", "compare runs of the same task"
                raise UserError(where, expected=task.kind, found=other.tasks[name].kind, fix=fix)
            there = splits_of(other, name, its)
            for split in (split for split in splits_of(one, name, row) if split in there):
                yield pair(task, split, read_predicted(one, task, row, split), read_predicted(other, task, its, split))


def _differences(pairings: Sequence[Pairing], seed: int) -> list[Difference]:
    """The differences in the metrics of the tables, with Holm's adjustment over all of them."""
    found = [
        (pairing, metric, _paired(pairing, metric, seed))
        for pairing in pairings
        for metric in pairing.task.table_metrics
    ]
    adjusted = metrics.holm([paired.p for _, _, paired in found])
    return [Difference(*one, p) for one, p in zip(found, adjusted, strict=True)]


def _paired(pairing: Pairing, metric: str, seed: int) -> Paired:
    used = metrics.mean_score if pairing.task.kind == "span" else metrics.METRICS[metric]
    resamples = RESAMPLES_OF_CORRELATIONS if pairing.task.kind == "regression" else RESAMPLES
    return metrics.paired_bootstrap(used, pairing.labels, *pairing.predictions(metric), seed=seed, resamples=resamples)
