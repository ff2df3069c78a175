"""The tables of the paper, with this run's numbers beside the published ones: pure functions of measurements."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert.evaluation.scoring import HAS_ANSWER, NO_ANSWER
from tinydistilbert.recipe.names import BASELINE_NAMES
from tinydistilbert.report import published, scores
from tinydistilbert.report.compression import compressed_models, compression_table
from tinydistilbert.report.kept import (
    TeacherAboveMajority,
    kept_on,
    kept_over,
    raw_share,
    teacher_above_majority,
)
from tinydistilbert.report.read import read_run
from tinydistilbert.report.scores import ROWS, TEACHER, TITLES, Score, ScoresByRow, metric_title
from tinydistilbert.report.speed import speed_table
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, as_printed, points
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS, tables_of, tasks_of
from tinydistilbert.tasks.base import ScoreTable, Task

MARK_REPLACED = "‡"
MOST_TYPES = 12
"""Number of entity types that a note names."""
PRETRAINING = {
    "kl": "KL to teacher, nats", "mlm": "Masked-LM loss, nats", "perplexity": "Perplexity", "cosine": "1 − cosine",
}  # fmt: skip


@dataclass(frozen=True)
class MetricColumn:
    """A metric of a task as a column."""

    title: str
    task: Task
    metric: str

    def published(self, model: str) -> float | None:
        """Return the printed figure for a model, in points."""
        return self.task.published.get(self.metric, {}).get(model)


@dataclass(frozen=True)
class Mean:
    """A column with the mean of the headline scores over some tasks."""

    title: str
    tasks: tuple[Task, ...]
    printed: Mapping[str, float] | None = None
    """The mean as printed, by model; None if it is computed from the printed scores."""

    def published(self, model: str) -> float | None:
        """Return the mean of a published model, in points."""
        return published.mean_over(model, self.tasks) if self.printed is None else self.printed.get(model)


def _one_decimal(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1f}"


def score_cell(score: Score | None) -> Cell:
    """Return median, marks and, for several seeds, the range."""
    if score is None:
        return Cell(NOTHING)
    detail = f"{points(score.range[0])}–{points(score.range[1])}" if score.range else ""
    return Cell(points(score.value), score.marks, detail)


def _footnotes(used: Sequence[tuple[str, MetricColumn, Score]]) -> list[str]:
    """Return one sentence per mark, with the counts and the warnings behind it."""
    titled = [(f"{TITLES[model]}, {column.task.title}", column.task.title, score) for model, column, score in used]
    notes = scores.notes_on_marks(titled) + scores.note_on_lengths((title, score.middle) for _, title, score in titled)
    repeats = {len(score.runs) for model, _, score in used if model not in BASELINE_NAMES}
    if repeats - {1}:
        notes.append(
            f"Medians over {' or '.join(map(str, sorted(repeats)))} seeds; in small below: lowest and highest."
        )
    elif repeats:
        notes.append("One seed: the spread between trainings was not measured.")
    if any(model == "control" for model, _, _ in used):
        notes.append("Control: the same layers cut from the teacher, fine-tuned without distillation.")
    return notes


def _kept_row(
    all_scores: ScoresByRow,
    model: str,
    means: Sequence[Mean],
    columns: Sequence[MetricColumn],
    above: TeacherAboveMajority,
) -> TableRow:
    """Return what a row keeps of the teacher above the majority baseline, with the raw share in small."""
    cells = []
    for mean in means:
        kept = kept_over(all_scores, model, mean.tasks, above)
        has_mean = scores.mean(all_scores, model, mean.tasks) is not None  # of every task, as in the rows above
        some = f"{len(kept.counted)} of {len(mean.tasks)}; " if kept.counted and kept.left_out else ""
        cells.append(_share_cell(kept.share if has_mean else None, kept.raw, some))
    for column in columns:
        row, teacher = (scores.of_task(all_scores, name, column.task, column.metric) for name in (model, TEACHER))
        raw = raw_share(row.value, teacher.value) if row and teacher else None
        cells.append(_share_cell(kept_on(all_scores, model, column.task, above, column.metric), raw))
    return TableRow("derived", (Cell(f"{TITLES[model]}, % kept"), *cells))


def _share_cell(kept: float | None, raw: float | None, some: str = "") -> Cell:
    if raw is None and kept is None:
        return Cell(NOTHING)
    detail = some + (f"raw {100 * raw:z.1f}" if raw is not None else "")
    if kept is None:
        return Cell(NOTHING, detail=detail)
    return Cell(f"{100 * kept:z.1f}", detail=detail, share=max(0.0, min(kept, 1.0)))


def _kept_notes(
    all_scores: ScoresByRow, tasks: Sequence[Task], above: TeacherAboveMajority, models: Sequence[str]
) -> list[str]:
    """Explain "kept", and list the tasks on which there is nothing to keep."""
    if TEACHER not in models or len(models) < 2:
        return []
    scored = [task for task in tasks if scores.of_task(all_scores, TEACHER, task) is not None]
    nothing = [task.title for task in scored if task.name not in above.beyond]
    untested = [task.title for task in scored if task.name in above.untested]
    notes = [
        "Kept: (score − majority) / (teacher − majority), for each task, then averaged; raw: share of the teacher’s "
        "score."
    ]
    if nothing:
        notes.append(
            f"Not counted in what is kept, because the teacher does not beat the majority baseline beyond chance: "
            f"{', '.join(nothing)}."
        )
    if untested:
        notes.append(
            f"No paired test of teacher against majority baseline for {', '.join(untested)}: the teacher’s own "
            "95 % interval decided whether they count."
        )
    return notes


def _published_row(model: str, means: Sequence[Mean], columns: Sequence[MetricColumn]) -> TableRow:
    averages = [Cell(_one_decimal(mean.published(model))) for mean in means]
    cells = [Cell(as_printed(c.published(model)), MARK_REPLACED * (model in c.task.corrected)) for c in columns]
    return TableRow("published", (Cell(model), *averages, *cells))


def _measured_row(
    all_scores: ScoresByRow, model: str, means: Sequence[Mean], columns: Sequence[MetricColumn]
) -> TableRow:
    """Return a measured row; a mean has the marks of every score in it."""
    averages = []
    for mean in means:
        value = scores.mean(all_scores, model, mean.tasks)
        parts = [scores.of_task(all_scores, model, task) for task in mean.tasks]
        marks = "" if value is None else scores.merged_marks([score.marks for score in parts if score is not None])
        averages.append(Cell(points(value), marks))
    cells = [score_cell(scores.of_task(all_scores, model, column.task, column.metric)) for column in columns]
    return TableRow("baseline" if model in BASELINE_NAMES else "measured", (Cell(TITLES[model]), *averages, *cells))


def _majority_row(
    used: Sequence[tuple[str, MetricColumn, Score]], means: Sequence[Mean], columns: Sequence[MetricColumn]
) -> TableRow:
    majority = {(c.task.name, c.metric): s.majority for _, c, s in used if s.majority is not None}
    values: list[float | None] = []
    for mean in means:
        keys = [(task.name, task.headline) for task in mean.tasks]
        values.append(statistics.fmean(majority[key] for key in keys) if all(key in majority for key in keys) else None)
    values += [majority.get((column.task.name, column.metric)) for column in columns]
    return TableRow("baseline", (Cell("Majority baseline"), *(Cell(points(value)) for value in values)))


def _score_rows(
    all_scores: ScoresByRow,
    means: Sequence[Mean],
    columns: Sequence[MetricColumn],
    published_models: Sequence[str],
    above: TeacherAboveMajority,
) -> tuple[tuple[TableRow, ...], list[str]]:
    """Return published rows, baselines, measured rows and what they keep of the teacher; and the footnotes."""
    used = [
        (model, column, score)
        for model in ROWS
        for column in columns
        if (score := scores.of_task(all_scores, model, column.task, column.metric)) is not None
    ]
    body = [_published_row(model, means, columns) for model in published_models]
    if used:
        body.append(_majority_row(used, means, columns))
    models = list(dict.fromkeys(model for model, _, _ in used))
    body += [_measured_row(all_scores, model, means, columns) for model in models if model in BASELINE_NAMES]
    body += [_measured_row(all_scores, model, means, columns) for model in models if model not in BASELINE_NAMES]
    if TEACHER in models:
        body += [_kept_row(all_scores, model, means, columns, above) for model in models if model != TEACHER]
    tasks = list(dict.fromkeys(column.task for column in columns))
    return tuple(body), [*_footnotes(used), *_kept_notes(all_scores, tasks, above, models)]


def _shared_tasks(all_scores: ScoresByRow, tasks: Sequence[Task]) -> tuple[Task, ...]:
    """Return the tasks over which rows can be compared: those of both teacher and student (or whoever was scored)."""
    present = [model for model in ROWS if scores.tasks_scored(all_scores, tasks, [model])] or [""]
    pair = [model for model in present if model in (TEACHER, "student")] or present[:1]
    return scores.tasks_scored(all_scores, tasks, pair)


def _missing_splits(measurements: Sequence[Measurement], tasks: Sequence[Task]) -> list[str]:
    """Return a note for each task with a split that the data folder lacks, such as MNLI's mismatched one."""
    lacking = {m.task: m.details["missing"] for m in measurements if m.details.get("missing")}
    return [
        f"{task.title}: no {', '.join(lacking[task.name])} in the data, so not scored."
        for task in tasks
        if task.name in lacking
    ]


def _means(table: ScoreTable, tasks: tuple[Task, ...], shared: tuple[Task, ...]) -> list[Mean]:
    """Return the table's score, and the mean over the tasks that were scored unless it is the same."""
    means = [Mean(table.score, tasks, table.published_scores)] if table.score else []
    if (0 < len(shared) < len(tasks)) if table.score else (table.has_mean and len(shared) > 1):
        means.append(Mean(f"Mean of {len(shared)}", shared))
    return means


def _notes_on_answers(all_scores: ScoresByRow, members: Sequence[Task]) -> list[str]:
    """Return notes on answers: of several labels, of span tasks, and of questions with and without an answer."""
    notes: dict[str, None] = {}
    for task in (task for task in members if task.kind == "multi-label"):
        if any(scores.of_task(all_scores, model, task) for model in ROWS):
            rule = "a text may have several labels, each above a threshold that was chosen on held-out train examples"
            notes[f"{task.title}: {rule}; the majority baseline always predicts those with the best micro F1."] = None
    for task in (task for task in members if task.kind == "token-classification"):
        if any(scores.of_task(all_scores, model, task) for model in ROWS):
            rule = "an entity is right in type, first and last word, all texts together (seqeval's rule)"
            notes[f"{task.title}: {rule}; the majority baseline finds none."] = None
        for model in ROWS:
            score = scores.of_task(all_scores, model, task)
            if score and (by_type := score.middle.details.get("by_type")):
                largest = sorted(by_type, key=lambda kind: -by_type[kind]["entities"])[:MOST_TYPES]
                each = ", ".join(f"{k} {points(by_type[k]['f1'])} ({by_type[k]['entities']:,})" for k in largest)
                more = f" and {len(by_type) - len(largest)} more types" if len(by_type) > len(largest) else ""
                title = f"{TITLES[model]}, {task.title}"
                notes[f"{title}: entity F1 of each type, with its number of entities: {each}{more}."] = None
    for task in (task for task in members if task.kind == "span"):
        for metric in task.table_metrics:
            by_model = {model: scores.of_task(all_scores, model, task, HAS_ANSWER + metric) for model in ROWS}
            others = {model: scores.of_task(all_scores, model, task, NO_ANSWER + metric) for model in ROWS}
            pairs = [(TITLES[m], one, two) for m in ROWS if (one := by_model[m]) and (two := others[m])]
            if pairs:
                counts = " and ".join(f"{score.middle.examples:,}" for score in pairs[0][1:])
                values = ", ".join(f"{title} {points(one.value)} and {points(two.value)}" for title, one, two in pairs)
                title = f"{task.title}, {metric_title(task, metric)}"
                notes[f"{title} of the {counts} questions with and without an answer: {values}."] = None
        for score in (scores.of_task(all_scores, model, task) for model in ROWS):
            notes |= dict.fromkeys(f"{task.title}: {note}." for note in (score.notes if score else ()))
        if task.answer_units == "characters" and any(scores.of_task(all_scores, model, task) for model in ROWS):
            rule = "characters of scripts without blanks, other words whole (MLQA's rule for Chinese)"
            notes[f"{task.title}: answers are compared by {rule}."] = None
    return [*notes]


def score_table(table: ScoreTable, measurements: Sequence[Measurement], tasks: Mapping[str, Task] = TASKS) -> Table:
    """Return a table of scores: those of `tasks` that belong to it, if they were scored or have published scores.

    Args:
        table: the table to make.
        measurements: measurements of one run.
        tasks: by name, as `tasks_of` gives them for the run's recipe.
    """
    members = tuple(task for task in tasks.values() if task.table == table)
    all_scores = scores.collect(measurements)
    scored = scores.tasks_scored(all_scores, members)
    columns = [
        MetricColumn(
            f"{task.title}, {metric_title(task, metric)}" if table.metrics_in_headings else task.title, task, metric
        )
        for task in members
        if task in scored or task.published
        for metric in task.table_metrics
    ]
    shared = _shared_tasks(all_scores, members)
    means = _means(table, members, shared)
    models = published.models_of(members)
    above = teacher_above_majority(measurements, tasks)
    rows, notes = _score_rows(all_scores, means, columns, models, above)
    if len(means) == 2:
        notes.append(
            f"{means[0].title} needs all {len(members)} tasks. “{means[1].title}” is taken in every row, published "
            f"ones too, over the tasks that this run scored: {', '.join(task.title for task in shared)}."
        )
    notes += _notes_on_answers(all_scores, members)
    notes += [*_missing_splits(measurements, members), *table.notes]
    sources = dict.fromkeys(published.MODELS[model].source for model in models if model in published.MODELS)
    if sources:
        notes.append(f"Published: {'; '.join(sources)}.")
    headings = ("Model", *(mean.title for mean in means), *(column.title for column in columns))
    return Table(table.name, table.title, table.caption, headings, rows, tuple(notes))


def score_tables(measurements: Sequence[Measurement], tasks: Mapping[str, Task] = TASKS) -> list[Table]:
    """Return the tables of scores: first those without published rows, if something was measured in them."""
    without, beside = [], []
    for table, members in tables_of(tasks).items():
        made = score_table(table, measurements, tasks)
        if published.models_of(members):
            beside.append(made)
        elif made.is_measured:
            without.append(made)
    return [*without, *beside]


def _plain(score: Score | None) -> Cell:
    """Return a number with its own unit, not in points."""
    if score is None:
        return Cell(NOTHING)
    digits = 0 if score.value >= 100 else 3
    return Cell(f"{score.value:,.{digits}f}")


def pretraining_table(measurements: Sequence[Measurement]) -> Table:
    """Return the masked-LM measurements of teacher, student and control on held-out text."""
    pretraining = [m for m in measurements if m.task == "pretraining"]
    measured = {(model, metric): score for (model, _, _, metric), score in scores.collect(pretraining).items()}
    present = {metric for _, metric in measured}
    metrics = [m for m in PRETRAINING if m in present] + sorted(present - set(PRETRAINING))
    rows = []
    for model in ROWS:
        if any((model, metric) in measured for metric in metrics):
            cells = [_plain(measured.get((model, metric))) for metric in metrics]
            rows.append(TableRow("measured", (Cell(TITLES[model]), *cells)))
    runs = [score.middle for score in measured.values()]
    counts = dict.fromkeys(f"{m.examples:,} of {m.examples_total:,}" for m in runs if m.examples)
    notes = [f"On {' or '.join(counts)} held-out blocks."] if counts else []
    if any(model == "control" for model, _ in measured):
        notes.append("Control: the same layers cut from the teacher, not distilled.")
    headings = ("Model", *(PRETRAINING.get(m, m.replace("_", " ")) for m in metrics))
    caption = "Measured on text that no model was trained on. Lower is better throughout."
    return Table("pretraining", "Masked language model", caption, headings, tuple(rows), tuple(notes))


def all_tables(measurements: Sequence[Measurement], tasks: Mapping[str, Task] = TASKS) -> list[Table]:
    """Return the tables of the report in its order.

    Args:
        measurements: measurements of one run.
        tasks: by name, as `tasks_of` gives them for the run's recipe.
    """
    return [*score_tables(measurements, tasks), speed_table(measurements), pretraining_table(measurements)]


def console_tables(run: Path) -> list[Table]:
    """Return the tables in which the run measured something, for the terminal.

    Raises:
        UserError: `run` is not a run folder.
    """
    settings, measurements = read_run(run)
    tasks = tasks_of(settings.finetune)
    compressed = [compression_table(model) for model in compressed_models(measurements, tasks)]
    return [*(table for table in all_tables(measurements, tasks) if table.is_measured), *compressed]
