"""Comparison of two runs, or the rows of one, example by example: differences with their intervals and tests."""

import dataclasses
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import resampling
from tinydistilbert.evaluation.resampling import Paired
from tinydistilbert.recipe.names import BASELINE_NAMES
from tinydistilbert.report.disagreements import Disagreement, disagreement, examples_at_hand
from tinydistilbert.report.predictions import (
    Pairing,
    ScoredRun,
    majority_of,
    pair,
    read_predicted,
    scored_run,
    splits_of,
)
from tinydistilbert.report.scores import COMPRESSED, MAJORITY, TEACHER, mark_of
from tinydistilbert.results import COMPARE, Measurement, Origin
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples, Task

PAIRS = (
    ("student", TEACHER), ("student (D)", TEACHER), ("student (D)", "student"), ("student", "control"),
    ("student (D)", "control"),
    ("model", TEACHER), ("model (D)", TEACHER), ("model (D)", "model"),
    *((row, baseline) for row in ("student", "student (D)", "model", "model (D)") for baseline in BASELINE_NAMES),
)  # fmt: skip
"""Rows of one run that are compared with one another."""


@dataclass(frozen=True)
class ComparedRun:
    """One side of a comparison: a run, or one row of it."""

    run: Path
    row: str | None = None


@dataclass(frozen=True)
class Difference:
    """A metric of two rows on one split of a task."""

    pairing: Pairing
    metric: str
    paired: Paired
    adjusted: float
    """`paired.p` adjusted by Holm over everything that was compared at the same time."""
    disagreement: Disagreement | None = None
    """Kept once for a task and split: with exact match for spans, else with the headline metric."""

    @property
    def task(self) -> Task:
        """The task on which both were scored."""
        return self.pairing.task

    @property
    def row(self) -> str:
        """The row of the first side."""
        return self.pairing.first.side.row

    @property
    def seeds(self) -> tuple[int, int]:
        """Number of trainings behind each side."""
        return len(self.pairing.first.answers), len(self.pairing.second.answers)

    @property
    def mark(self) -> str:
        """`▲` or `▼` where the first side is surely higher or lower: Holm's p below 0.05 and an interval without 0."""
        return mark_of(self.paired.interval, self.adjusted)


@dataclass(frozen=True)
class Comparison:
    """Everything that was compared at the same time."""

    first: ComparedRun
    second: ComparedRun | None
    """None: the rows of the first are compared with one another."""
    differences: tuple[Difference, ...]


def parse_run(text: str) -> ComparedRun:
    """Return the run that `RUN` or `RUN:ROW` on the command line names, such as `runs/a` or `runs/a:student (D)`.

    Raises:
        UserError: there is no such run folder.
    """
    folder, colon, row = text.rpartition(":")
    for candidate in (ComparedRun(Path(text)), *([ComparedRun(Path(folder), row.strip())] if colon else [])):
        if os.path.isfile(RunFolder(candidate.run).recipe):  # noqa: PTH113 # False for a long text
            return candidate
    fix = "give a folder that `tinydistilbert replicate` or `finetune` wrote, or FOLDER:ROW"
    raise UserError(text, expected="a run folder with recipe.toml", found="none", fix=fix)


def compare(first: ComparedRun, second: ComparedRun | None = None, *, seed: int = 0) -> Comparison:
    """Compare two runs row by row, or the rows of one run with one another.

    If no row is named, every row that both runs have is compared with the same row of the other run. A named row is
    compared with the row named there, or with the same one. In one run alone, `PAIRS` are compared, and the teacher
    with the majority baseline; a compressed model (`COMPRESSED`), which is compared only if it is named, with every
    other row.

    Args:
        first: the differences are its scores minus those of the second.
        second: the other side; None to compare the rows of `first` with one another.
        seed: seed of the resamples, and of which examples are shown first.

    Raises:
        UserError: there is nothing to compare, or the two sides have different examples or labels.
    """
    compressed = COMPRESSED in (first.row, second.row if second else None)
    one = scored_run(first.run, compressed=compressed)
    other = scored_run(second.run, compressed=compressed) if second else one
    for run, row in ((one, first.row), (other, second.row if second else None)):
        if row is not None and row not in run.rows:
            fix = f"use one of {', '.join(run.rows)}"
            raise UserError(f"{run.folder}:{row}", expected="a row that was scored", found=repr(row), fix=fix)
    pairings = list(_pairings(one, other, _row_pairs(first, one, second, other)))
    majority = list(_majority_pairings(one)) if second is None and first.row in (None, TEACHER) else []
    if not pairings and not majority:
        rows = f"{_rows_and_tasks(one)}" + (f"; {_rows_and_tasks(other)}" if second else "")
        fix = "see the rows of each in its report.html"
        raise UserError("compare", problem=f"no task has rows on both sides that can be compared: {rows}", fix=fix)
    at_hand: dict[tuple[str, str], Examples | None] = {}
    differences = []
    for difference in _all_differences(pairings, majority, seed):
        pairing = difference.pairing
        if pairing.second.side.row == MAJORITY:
            differences.append(difference)
            continue
        if difference.metric == difference.task.table_metrics[0]:
            key = pairing.task.name, pairing.split
            if key not in at_hand:
                at_hand[key] = examples_at_hand(pairing, (one.recipe, other.recipe))
            cases = disagreement(pairing, at_hand[key], seed)
            difference = dataclasses.replace(difference, disagreement=cases)
        differences.append(difference)
    return Comparison(first, second, tuple(differences))


def compare_rows(run: Path) -> Comparison:
    """As `compare` of one run, with the same numbers, but without examples; empty if there is nothing to compare.

    Raises:
        UserError: a file of scores differs from how it was written.
    """
    first = ComparedRun(run)
    if not any(map(atomic.is_finished, RunFolder(run).all_scores())):
        return Comparison(first, None, ())
    scored = scored_run(run)
    pairings = list(_pairings(scored, scored, [pair for pair in PAIRS if set(pair) <= set(scored.rows)]))
    return Comparison(first, None, tuple(_all_differences(pairings, list(_majority_pairings(scored)), seed=0)))


def measured_differences(run: Path, origin: Origin) -> list[Measurement]:
    """Return what `compare_rows` finds as measurements, from which tables, page and card are made.

    Raises:
        UserError: a file of scores differs from how it was written.
    """
    return [
        Measurement(
            d.row, COMPARE, d.metric, d.paired.difference, d.pairing.split, examples=len(d.pairing.first.ids),
            examples_total=d.pairing.whole[0], recipe=origin.recipe, recipe_hash=origin.recipe_hash,
            data_fingerprint=d.pairing.first.fingerprint,
            details={
                "of": d.task.name, "against": d.pairing.second.side.row, "first": d.paired.first,
                "second": d.paired.second, "interval": list(d.paired.interval), "p": d.paired.p,
                "p_adjusted": d.adjusted, "seeds": list(d.seeds),
            },
        )
        for d in compare_rows(run).differences
    ]  # fmt: skip


def _rows_and_tasks(run: ScoredRun) -> str:
    return f"{run.folder} has {', '.join(run.rows)} on {', '.join(run.tasks)}"


def _row_pairs(
    first: ComparedRun, one: ScoredRun, second: ComparedRun | None, other: ScoredRun
) -> list[tuple[str, str]]:
    if second is None and first.row == COMPRESSED:
        return [(COMPRESSED, row) for row in one.rows if row != COMPRESSED]
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
        for row, other_row in rows:
            if name not in other.tasks or row not in one.scores[name] or other_row not in other.scores[name]:
                continue
            if other.tasks[name].kind != task.kind:
                where, fix = f"{name} of {other.folder}", "compare runs of the same task"
                raise UserError(where, expected=task.kind, found=other.tasks[name].kind, fix=fix)
            for split in sorted(set(splits_of(one, name, row)) & set(splits_of(other, name, other_row))):
                first, second = read_predicted(one, task, row, split), read_predicted(other, task, other_row, split)
                yield pair(task, split, first, second)


def _majority_pairings(run: ScoredRun) -> Iterator[Pairing]:
    """Yield the teacher paired with the majority baseline on the same examples."""
    for name, task in run.tasks.items():
        for split in splits_of(run, name, TEACHER) if TEACHER in run.scores[name] else []:
            teacher = read_predicted(run, task, TEACHER, split)
            yield pair(task, split, teacher, majority_of(task, teacher))


def _all_differences(pairings: Sequence[Pairing], majority: Sequence[Pairing], seed: int) -> list[Difference]:
    """Return the differences between rows and with the majority baseline: two families, each adjusted separately.

    Whether a teacher has learned anything must not depend on the number of students it is compared with.
    """
    return [*_differences(pairings, seed), *_differences(majority, seed)]


def _differences(pairings: Sequence[Pairing], seed: int) -> list[Difference]:
    """Return the differences in the metrics of the tables, with Holm's adjustment over all of them."""
    unadjusted = [
        (pairing, metric, _paired(pairing, metric, seed))
        for pairing in pairings
        for metric in pairing.task.table_metrics
    ]
    adjusted = resampling.holm([paired.p for _, _, paired in unadjusted])
    return [Difference(*one, p) for one, p in zip(unadjusted, adjusted, strict=True)]


def _paired(pairing: Pairing, metric: str, seed: int) -> Paired:
    return resampling.paired_test(pairing.task.kind, metric, pairing.labels, *pairing.predictions(metric), seed=seed)
