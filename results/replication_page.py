"""The tables of docs/explanation/replication.md, from results/replication/results.jsonl and rows.toml."""

import dataclasses
import json
import math
import statistics
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import drawings
import replication_ladder

from tinydistilbert import results
from tinydistilbert.report import scores
from tinydistilbert.report.compression import CompressedModel
from tinydistilbert.report.differences import RowDifference, row_differences
from tinydistilbert.report.kept import Kept, TeacherAboveMajority, kept_on, kept_over, teacher_above_majority
from tinydistilbert.report.paper_tables import score_cell
from tinydistilbert.report.scores import HIGHER, LOWER, TEACHER, WARNING, Score, ScoresByRow, collect, of_task
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, format_p, points, signed, to_markdown
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Task

FOLDER = Path(__file__).resolve().parent / "replication"
JOBS = FOLDER / "jobs.jsonl"
GPUS = {
    "da49111af797": "H100, 12 processes, 2026-11-26",
    "dd72c37eb476": "H200, 13 processes under MPS, 2026-11-27",
}  # fmt: skip
"""By the commit that ran there; a line of `JOBS` has the machine but not its GPU."""
NOT_MEASURED = "not measured"
QUANTILE = 1.96
"""Of the normal distribution, for the interval of a mean over tasks."""
WIKITEXT, NOTEBOOK, STUDENT, PUBLISHED = "wikitext2", "notebook", "task-student", "minilm-l3"
"""Rows that the goals speak of."""


@dataclass(frozen=True)
class MeanDifference:
    """Of two rows, over the tasks that both were scored on."""

    value: float
    interval: tuple[float, float]
    tasks: tuple[Task, ...]
    lower_on: tuple[Task, ...]
    """Where the first is surely lower."""

    @property
    def mark(self) -> str:
        """`▲` or `▼` where the interval does not contain 0."""
        low, high = self.interval
        return HIGHER if low > 0 else LOWER if high < 0 else ""


@dataclass(frozen=True)
class Replication:
    """What was measured, as the page shows it."""

    plan: Mapping[str, Any]
    measurements: Sequence[Measurement]

    @classmethod
    def read(cls) -> "Replication":
        """What is committed; nothing is measured where there is no results.jsonl yet."""
        plan, path = tomllib.loads((FOLDER / "rows.toml").read_text(encoding="utf-8")), FOLDER / "results.jsonl"
        return cls(plan, results.read(path) if path.exists() else [])

    @cached_property
    def scores(self) -> ScoresByRow:
        """The scores."""
        return collect(self.measurements)

    @cached_property
    def differences(self) -> list[RowDifference]:
        """The paired tests."""
        return row_differences(self.measurements, TASKS)

    @property
    def rows(self) -> Mapping[str, Mapping[str, str]]:
        """By name, as rows.toml has them."""
        return {row["name"]: row for row in self.plan["rows"]}

    @property
    def tasks(self) -> tuple[Task, ...]:
        """All, the complete ones first."""
        names = [*self.plan["small"], *self.plan["large"]]
        return tuple(TASKS[name] for name in sorted(names, key=lambda name: name in self.plan["partial"]))

    @property
    def complete(self) -> tuple[Task, ...]:
        """Tasks of which all examples are at hand."""
        return tuple(task for task in self.tasks if task.name not in self.plan["partial"])

    def scored(self, row: str, among: Sequence[Task]) -> tuple[Task, ...]:
        """Those of some tasks on which a row was scored."""
        return tuple(task for task in among if of_task(self.scores, row, task))

    def _beside(self, teacher: str) -> tuple[ScoresByRow, TeacherAboveMajority]:
        """The scores with that row as the teacher, and where it beats the majority class."""
        others = [m for m in self.measurements if m.model != TEACHER or teacher == TEACHER]
        renamed = [dataclasses.replace(m, model=TEACHER) if m.model == teacher else m for m in others]
        return collect(renamed), teacher_above_majority(renamed, TASKS)

    def kept(self, row: str) -> Kept | None:
        """What a row keeps of its teacher over the complete tasks that both were scored on; None of a teacher."""
        teacher = self.rows[row].get("teacher")
        if not teacher:
            return None
        scored, above = self._beside(teacher)
        shared = tuple(task for task in self.complete if of_task(scored, TEACHER, task) and of_task(scored, row, task))
        return kept_over(scored, row, shared, above) if shared else None

    def kept_by_task(self, row: str) -> dict[Task, float]:
        """What a row keeps on each of the tasks that count in `kept`."""
        kept = self.kept(row)
        if kept is None:
            return {}
        scored, above = self._beside(self.rows[row]["teacher"])
        shares = {task: kept_on(scored, row, task, above) for task in kept.counted}
        return {task: share for task, share in shares.items() if share is not None}

    def mean_difference(self, first: str, second: str, among: Sequence[Task]) -> MeanDifference | None:
        """Mean over tasks of the difference in the headline metric; the tasks' errors are independent of each other."""
        by_task = {d.task: d for d in self.differences if (d.row, d.against) == (first, second) and d.is_headline}
        of_tasks = [by_task[task] for task in among if task in by_task]
        if not of_tasks:
            return None
        value = statistics.fmean(d.paired.difference for d in of_tasks)
        errors = [(d.paired.interval[1] - d.paired.interval[0]) / (2 * QUANTILE) for d in of_tasks]
        half = QUANTILE * math.sqrt(sum(error**2 for error in errors)) / len(errors)
        return MeanDifference(
            value, (value - half, value + half), tuple(d.task for d in of_tasks),
            tuple(d.task for d in of_tasks if d.mark == LOWER),
        )  # fmt: skip


def headline_section() -> str:
    """The goals, and how far they were reached."""
    return goals(Replication.read(), replication_ladder.ladders())


def goals(replication: Replication, compressed: Sequence[CompressedModel] = ()) -> str:
    """The goals as a table; what is not measured says so."""
    lines = [("(e) keeps of its teacher above the majority class", "≥ 97 %", *_kept(replication, STUDENT))]
    sst2, squad = TASKS["sst2"], TASKS["squad"]
    score = of_task(replication.scores, STUDENT, sst2)
    lines.append(("(e) on SST-2", "≥ 88", points(score.value) if score else NOT_MEASURED, ""))
    student, teacher = (of_task(replication.scores, row, squad, "f1") for row in (STUDENT, TEACHER))
    if student and teacher:
        reached = f"{100 * student.value / teacher.value:.1f} %"
        lines.append(("(e) on SQuAD, F1 as a share of its teacher’s", "≥ 92 %", reached,
                      f"{points(student.value)} of {points(teacher.value)}"))  # fmt: skip
    else:
        lines.append(("(e) on SQuAD, F1 as a share of its teacher’s", "≥ 92 %", NOT_MEASURED, ""))
    glue = [task for task in replication.tasks if task.name not in ("imdb", "squad")]
    lines.append(
        ("(d) above (b), GLUE", "≥ 10 points", *_difference(replication.mean_difference(WIKITEXT, NOTEBOOK, glue)))
    )
    against = replication.mean_difference(STUDENT, PUBLISHED, replication.complete)
    below = f"; surely below it on {', '.join(t.title for t in against.lower_on) or 'none'}" if against else ""
    shown, detail = _difference(against)
    lines.append(("(e) above (i) in the mean, on no task below", "beyond chance", shown, detail + below))
    lines += replication_ladder.int8_goals(compressed, missing=NOT_MEASURED)
    head = ["| goal | wanted | reached | |", "| :-- | :-- | --: | :-- |"]
    return "\n".join([*head, *(f"| {' | '.join(line)} |" for line in lines)]) + "\n"


def _kept(replication: Replication, row: str) -> tuple[str, str]:
    kept = replication.kept(row)
    if kept is None:
        return NOT_MEASURED, ""
    if kept.share is None:
        return NOTHING, kept.reason
    left_out = f"; not counted: {', '.join(task.title for task in kept.left_out)}" if kept.left_out else ""
    return f"{100 * kept.share:.1f} %", f"mean over {', '.join(task.title for task in kept.counted)}{left_out}"


def _difference(difference: MeanDifference | None) -> tuple[str, str]:
    if difference is None:
        return NOT_MEASURED, ""
    low, high = difference.interval
    over = ", ".join(task.title for task in difference.tasks)
    return f"{signed(difference.value)}{difference.mark}", f"{signed(low)} to {signed(high)}, over {over}"


def scores_section() -> str:
    """Every row on every task."""
    return to_markdown(score_table(Replication.read()))


def score_table(replication: Replication) -> Table:
    """Every row on every task, and what it keeps of its teacher."""
    columns = ("", "Row", "Kept, %", *(task.title for task in replication.tasks))
    rows, used, missing = [], [], []
    for name, row in replication.rows.items():
        of_row = [(task, of_task(replication.scores, name, task)) for task in replication.tasks]
        if not any(score for _, score in of_row):
            missing.append(f"({row['letter']}) {row['title']}" if row["letter"] else row["title"])
            continue
        kept = replication.kept(name)
        share = Cell(NOTHING) if kept is None or kept.share is None else Cell(
            f"{100 * kept.share:.1f}", detail=f"{len(kept.counted)} tasks; raw {100 * kept.raw:.1f}" if kept.raw else ""
        )  # fmt: skip
        cells = [score_cell(score) for _, score in of_row]
        rows.append(
            TableRow("measured", (Cell(row["letter"] and f"({row['letter']})"), Cell(row["title"]), share, *cells))
        )
        used += [(row, task, score) for task, score in of_row if score]
    notes = [
        "Medians over the seeds of the small sets, with the lowest and the highest; one seed of the large ones. "
        "SQuAD: F1.",
        "Kept: (score − majority) / (teacher − majority) over the complete tasks on which the row’s teacher beats the "
        "majority class beyond chance; raw: share of its mean. Teacher of (a) to (d): the adapted one; of the others "
        "the encoder as it comes.",
        f"{NOTHING}: {NOT_MEASURED}, or nothing to keep.",
        *([f"Not measured yet: {'; '.join(missing)}."] if missing else []),
        *notes_on(used),
    ]
    majority = [
        next(
            (
                s.majority
                for row in replication.rows
                if (s := of_task(replication.scores, row, task)) and s.majority is not None
            ),
            None,
        )
        for task in replication.tasks
    ]
    rows.insert(
        0,
        TableRow(
            "baseline", (Cell(""), Cell("Majority baseline"), Cell(NOTHING), *(Cell(points(v)) for v in majority))
        ),
    )
    return Table(
        "replication", "Scores", "In points, on the validation splits, of IMDb on test.", columns, tuple(rows),
        tuple(notes),
    )  # fmt: skip


def notes_on(used: Sequence[tuple[Mapping[str, Any], Task, Score]]) -> list[str]:
    """The notes of the table on (row, task, score): what many rows share is one sentence, not one for each."""
    majority, baselines, others = dict[str, list[str]](), dict[str, dict[str, list[str]]](), []
    for row, task, score in used:
        low = [run for run in score.runs if (least := run.details.get("majority")) is not None and run.value <= least]
        if score.sanity_warnings and low:
            majority.setdefault(task.title, []).append(f"{row['short']} {len(low)}/{len(score.runs)}")
        elif score.sanity_warnings:
            others.append((f"{row['title']}, {task.title}", task.title, score))
        for unbeaten in score.unbeaten:
            by_task = baselines.setdefault(unbeaten.baseline, {})
            by_task.setdefault(task.title, []).append(f"{row['short']} ({unbeaten.by})")
    marks = scores.notes_on_marks((row["title"], task.title, score) for row, task, score in used)
    notes = [note for note in marks if not note.startswith(WARNING)]
    shared = {"Not above the majority baseline, in how many seeds": majority} if majority else {}
    shared |= {f"Not above {name} beyond chance": by_task for name, by_task in baselines.items()}
    for what, by_task in shared.items():
        rows = "; ".join(f"{task}: {', '.join(names)}" for task, names in by_task.items())
        notes.append(f"{WARNING} {what}: {rows}.")
    return notes + [note for note in scores.notes_on_marks(others) if note.startswith(WARNING)]


def kept_section() -> str:
    """What each row keeps on each task."""
    return to_markdown(kept_table(Replication.read()))


def kept_table(replication: Replication) -> Table:
    """What each row keeps of its teacher, task by task: where the mean of the first table comes from."""
    by_row = {row: shares for row in replication.rows if (shares := replication.kept_by_task(row))}
    tasks = [task for task in replication.complete if any(task in shares for shares in by_row.values())]
    rows = [
        TableRow("measured", (
            Cell(replication.rows[row]["letter"] and f"({replication.rows[row]['letter']})"),
            Cell(replication.rows[row]["title"]),
            Cell(f"{100 * statistics.fmean(shares.values()):.1f}"),
            *(Cell(f"{100 * shares[task]:.1f}".replace("-", "−") if task in shares else NOTHING) for task in tasks),
        ))
        for row, shares in by_row.items()
    ]  # fmt: skip
    of_student = by_row.get(STUDENT, {})
    costly = min(of_student, key=lambda task: of_student[task], default=None)
    notes = [
        "0: no better than the majority class, 100: as good as the teacher. Means are over other tasks in other rows."
    ]
    if costly and len(of_student) > 1:
        others = statistics.fmean(share for task, share in of_student.items() if task != costly)
        title = replication.rows[STUDENT]["title"]
        notes.append(f"{title}: {costly.title} costs it most; over the others it keeps {100 * others:.1f}.")
    return Table(
        "kept", "Kept, task by task", "% of what the row’s teacher has above the majority class.",
        ("", "Row", "Mean", *(task.title for task in tasks)), tuple(rows),
        tuple(notes),
    )  # fmt: skip


def picture(replication: Replication) -> str:
    """The mean differences of the rows, with their intervals, as SVG."""
    shown = [
        drawings.Difference(
            f"{replication.rows[first]['short']} − {replication.rows[second]['short']}", mean.value, mean.interval
        )
        for first, second in replication.plan["compared"]["pairs"]
        if (mean := replication.mean_difference(first, second, replication.complete))
    ]  # fmt: skip
    return drawings.differences(
        shown, "Mean differences between the rows, with 95 % intervals", "points, mean over tasks"
    )


def tests_section() -> str:
    """The rows compared with one another."""
    return to_markdown(tests_table(Replication.read()))


def tests_table(replication: Replication) -> Table:
    """For each pair the mean difference, and the difference on each task, with its p."""
    by_task = {(d.row, d.against, d.task.name): d for d in replication.differences if d.is_headline}
    rows, missing = [], 0
    for first, second in replication.plan["compared"]["pairs"]:
        mean = replication.mean_difference(first, second, replication.complete)
        if mean is None:
            missing += 1
            continue
        low, high = mean.interval
        detail = f"{signed(low)} to {signed(high)}, {len(mean.tasks)} task{'s' * (len(mean.tasks) > 1)}"
        shown = Cell(f"{signed(mean.value)}{mean.mark}", detail=detail)
        cells = [Cell(" − ".join(replication.rows[row]["title"] for row in (first, second))), shown]
        for task in replication.tasks:
            d = by_task.get((first, second, task.name))
            cells.append(Cell(signed(d.paired.difference), d.mark, f"p {format_p(d.adjusted)}") if d else Cell(NOTHING))
        rows.append(TableRow("measured", tuple(cells)))
    count = sum(
        (d.row, d.against) in {tuple(pair) for pair in replication.plan["compared"]["pairs"]}
        for d in replication.differences
    )
    notes = (
        f"In points. p: paired bootstrap over the examples, adjusted by Holm over {count} comparisons. {HIGHER} surely "
        f"higher, {LOWER} surely lower.",
        "Mean: over the complete tasks that both have; its interval takes the errors of the tasks as independent. The "
        "spread between trainings is in none of the intervals.",
        *([f"Left out: {missing} comparisons with rows that are {NOT_MEASURED} yet."] if missing else []),
    )  # fmt: skip
    columns = ("Rows", "Mean", *(t.title for t in replication.tasks))
    return Table("tests", "Row against row", "First minus second.", columns, tuple(rows), notes)


def days_section() -> str:
    """The jobs that were begun on both GPUs, with and without MPS."""
    lines = [json.loads(line) for line in JOBS.read_text(encoding="utf-8").splitlines()]
    names = dict.fromkeys(line["job"] for line in lines)
    shown = ["| job | " + " | ".join(GPUS.values()) + " |", "| :-- |" + " --: |" * len(GPUS)]
    for name in names:
        by_gpu = [[line for line in lines if (line["job"], line["packed"]) == (name, packed)] for packed in GPUS]
        if all(by_gpu):
            cells = [
                ("" if any(line["state"] == "done" for line in of_gpu) else "not done after ")
                + f"{sum(line['seconds'] for line in of_gpu):,.0f} s"
                for of_gpu in by_gpu
            ]
            shown.append(f"| {name} | {' | '.join(cells)} |")
    counts = [
        f"{sum(line['state'] == 'done' for line in lines if line['packed'] == packed)} jobs done ({title})"
        for packed, title in GPUS.items()
    ]
    return "\n".join([*shown, "", f"In all {' and '.join(counts)}."]) + "\n"


def cost_section() -> str:
    """What each row took."""
    return cost(Replication.read())


def cost(replication: Replication) -> str:
    """Seconds of training by row, and on which machine."""
    shown = [
        "| | row | pretraining, s | fine-tunings | seconds of them | on |",
        "| :-- | :-- | --: | --: | --: | :-- |",
    ]
    for name, row in replication.rows.items():
        of_row = [m for m in replication.measurements if m.model == name and m.task != results.COMPARE]
        pretraining = max((m.seconds for m in of_row if m.task == "pretraining"), default=0.0)
        trainings = {(m.task, m.seed): m.details.get("seconds_training", 0.0) for m in of_row if m.task in TASKS}
        devices = dict.fromkeys(str(m.details["device"]) for m in of_row if "device" in m.details)
        recipe = (
            f"[{row['title']}](../../results/replication/{row['recipe']}.toml)" if "recipe" in row else row["title"]
        )
        cells = [NOT_MEASURED, NOTHING, NOTHING, NOTHING]
        if of_row:
            spent = f"{pretraining:,.0f}" if pretraining else NOTHING
            cells = [spent, f"{len(trainings)}", f"{sum(trainings.values()):,.0f}", ", ".join(devices) or NOTHING]
        shown.append(f"| {row['letter'] and '(' + row['letter'] + ')'} | {recipe} | {' | '.join(cells)} |")
    return "\n".join(shown) + "\n"
