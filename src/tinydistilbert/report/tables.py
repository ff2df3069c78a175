"""The tables of the paper, this run's numbers beside the published ones: pure functions of measurements."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinydistilbert.names import GLUE_NAMES, PROBE_NAMES
from tinydistilbert.report import published, scores
from tinydistilbert.report.cells import NOTHING, Cell, Row, Table
from tinydistilbert.report.published import Published
from tinydistilbert.report.scores import ROWS, SUBSET, TITLES, TRAINED_ON_SUBSET, WARNING, Score, Scores
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Task

MARK_REPLACED = "‡"
METRICS = {
    "matthews_correlation": "Matthews correlation", "f1": "F1", "exact_match": "exact match", "accuracy": "accuracy",
    "pearson": "Pearson", "spearman": "Spearman", "f1_accuracy_mean": "mean of F1 and accuracy",
    "pearson_spearman_mean": "mean of Pearson and Spearman",
}  # fmt: skip
PRETRAINING = {
    "kl": "KL to teacher, nats", "mlm": "Masked-LM loss, nats", "perplexity": "Perplexity", "cosine": "1 − cosine",
}  # fmt: skip


@dataclass(frozen=True)
class Column:
    """A metric of a task as a column, and where a published row keeps it."""

    title: str
    task: Task
    metric: str
    printed: Callable[[Published], float | None] = lambda row: None


@dataclass(frozen=True)
class Mean:
    """A column with the mean of the headline scores over some tasks."""

    title: str
    tasks: tuple[str, ...]
    printed: Callable[[Published], float | None] = lambda row: None


def _points(value: float | None) -> str:
    return NOTHING if value is None else f"{100 * value:.1f}"


def _printed(value: float | None, digits: int = 1) -> Cell:
    return Cell(NOTHING if value is None else f"{value:.{digits}f}")


def _score_cell(score: Score | None) -> Cell:
    if score is None:
        return Cell(NOTHING)
    detail = f"{_points(score.range[0])}–{_points(score.range[1])}" if score.range else ""
    return Cell(_points(score.value), score.marks, detail)


def _merged(marks: Sequence[str]) -> str:
    return "".join(mark for mark in (SUBSET, TRAINED_ON_SUBSET, WARNING) if any(mark in text for text in marks))


def _footnotes(used: Sequence[tuple[str, Column, Score]]) -> list[str]:
    """One sentence a mark, with the counts and the warnings behind it."""
    scored: dict[str, None] = {}
    trained: dict[str, None] = {}
    warned: dict[str, None] = {}
    for model, column, score in used:
        m, title = score.middle, column.task.title
        if m.is_subset:
            scored[f"{title} {m.examples:,} of {m.examples_total:,}"] = None
        if m.is_trained_on_subset:
            trained[f"{title} {m.train_examples:,} of {m.train_examples_total:,}"] = None
        if score.warnings:
            count = sum(bool(run.details.get("warnings")) for run in score.runs)
            seeds = f" ({count} of {len(score.runs)} seeds)" if len(score.runs) > 1 else ""
            warned[f"{TITLES[model]}, {title}{seeds}: {score.warnings[0]}"] = None
    notes = []
    if scored:
        notes.append(f"{SUBSET} scored on a part of the split, in examples: {', '.join(scored)}.")
    if trained:
        notes.append(f"{TRAINED_ON_SUBSET} fine-tuned on a part of the train split, in examples: {', '.join(trained)}.")
    notes += [f"{WARNING} {warning.rstrip('.')}." for warning in warned]
    repeats = {len(score.runs) for _, _, score in used}
    if repeats - {1}:
        notes.append(
            f"Medians over {' or '.join(map(str, sorted(repeats)))} seeds; below, in small, lowest and highest."
        )
    elif used:
        notes.append("One seed: no spread between trainings is known.")
    if any(model == "control" for model, _, _ in used):
        notes.append("Control: the same cut of the teacher, fine-tuned without having been distilled.")
    return notes


def _retention_row(name: str, own: Sequence[float | None], teacher: Sequence[float | None]) -> Row:
    shares = [scores.retention(mine, other) for mine, other in zip(own, teacher, strict=True)]
    cells = [Cell(NOTHING) if s is None else Cell(f"{100 * s:.1f}", share=max(0.0, min(s, 1.0))) for s in shares]
    return Row("derived", (Cell(f"{name}, % of teacher"), *cells))


def _score_rows(
    found: Scores, means: Sequence[Mean], columns: Sequence[Column], rows: Sequence[Published]
) -> tuple[tuple[Row, ...], list[str]]:
    """Published rows, the majority class, measured rows and retention; and the footnotes of the measured cells."""
    body = []
    for row in rows:
        mark = MARK_REPLACED if row is published.BERT_BASE and means else ""
        cells = [_printed(mean.printed(row)) for mean in means]
        for column in columns:
            cell = _printed(column.printed(row), 2 if column.task.family != "glue" else 1)
            cells.append(Cell(cell.text, mark if column.task.name == "mnli" else ""))
        body.append(Row("published", (Cell(row.name), *cells)))

    used: list[tuple[str, Column, Score]] = []
    values: dict[str, list[float | None]] = {}
    measured = []
    for model in ROWS:
        own = [scores.of_task(found, model, column.task, column.metric) for column in columns]
        if not any(own):
            continue
        used += [(model, column, score) for column, score in zip(columns, own, strict=True) if score]
        averages = [scores.mean(found, model, mean.tasks) for mean in means]
        headlines = {mean.title: [scores.of_task(found, model, TASKS[name]) for name in mean.tasks] for mean in means}
        mean_cells = [
            Cell(
                _points(average), _merged([s.marks for s in headlines[mean.title] if s]) if average is not None else ""
            )
            for mean, average in zip(means, averages, strict=True)
        ]
        values[model] = [*averages, *(score.value if score else None for score in own)]
        measured.append(Row("measured", (Cell(TITLES[model]), *mean_cells, *map(_score_cell, own))))

    if used:
        majority = {(c.task.name, c.metric): s.majority for _, c, s in reversed(used)}
        by_column = [majority.get((column.task.name, column.metric)) for column in columns]
        averages = []
        for mean in means:
            parts = [majority.get((name, TASKS[name].headline)) for name in mean.tasks]
            known = [part for part in parts if part is not None]
            averages.append(statistics.fmean(known) if known and len(known) == len(parts) else None)
        cells = [Cell(_points(value)) for value in (*averages, *by_column)]
        body.append(Row("baseline", (Cell("Always the same answer"), *cells)))
    body += measured
    if "teacher" in values:
        body += [
            _retention_row(TITLES[model], own, values["teacher"]) for model, own in values.items() if model != "teacher"
        ]
    return tuple(body), _footnotes(used)


def _shared_tasks(found: Scores, names: tuple[str, ...]) -> tuple[str, ...]:
    """Tasks over which rows can be compared: those that teacher and student (or whoever was scored) both have."""
    present = [model for model in ROWS if scores.tasks_scored(found, names, [model])] or [""]
    pair = [model for model in present if model in ("teacher", "student")] or present[:1]
    return scores.tasks_scored(found, names, pair)


def _glue_column(task: Task) -> Column:
    return Column(task.title, task, task.headline, lambda row: row.glue.get(task.name))


def glue_table(measurements: Sequence[Measurement]) -> Table:
    """Table 1: the nine GLUE tasks. With fewer than nine measured, a second mean is over just those."""
    found = scores.collect(measurements)
    means = [Mean("Score", GLUE_NAMES, lambda row: row.score)]
    shared = _shared_tasks(found, GLUE_NAMES)
    notes = []
    if 0 < len(shared) < len(GLUE_NAMES):
        means.append(Mean(f"Mean of {len(shared)}", shared, lambda row: published.mean_over(row, shared)))
        titles = ", ".join(TASKS[name].title for name in shared)
        notes.append(
            f"Score needs all nine tasks. “Mean of {len(shared)}” is taken in every row, published ones too, "
            f"over the tasks that this run scored: {titles}."
        )
    columns = [_glue_column(TASKS[name]) for name in GLUE_NAMES]
    rows, marks = _score_rows(found, means, columns, published.GLUE_ROWS)
    sources = (
        f"{MARK_REPLACED} {published.BERT_MNLI_NOTE}",
        f"Published: {published.PAPER}; {published.REPLICATION}. TinyDistilBERT prints means of five runs; "
        "the row below it holds the medians of its run table.",
    )
    caption = (
        "Development sets, in points. CoLA: Matthews correlation; MNLI: matched accuracy; MRPC and QQP: mean of F1 and "
        "accuracy; STS-B: mean of Pearson and Spearman; the others: accuracy. Score: plain mean of the nine."
    )
    headings = ("Model", *(mean.title for mean in means), *(column.title for column in columns))
    return Table("glue", "Table 1. GLUE", caption, headings, rows, (*marks, *notes, *sources))


def downstream_table(measurements: Sequence[Measurement]) -> Table:
    """Table 2: IMDb and SQuAD v1.1, with the rows after a second distillation, "(D)"."""
    columns = [
        Column("IMDb accuracy", TASKS["imdb"], "accuracy", lambda row: row.imdb),
        Column("SQuAD EM", TASKS["squad"], "exact_match", lambda row: row.squad_exact_match),
        Column("SQuAD F1", TASKS["squad"], "f1", lambda row: row.squad_f1),
    ]
    rows, notes = _score_rows(scores.collect(measurements), [], columns, published.DOWNSTREAM_ROWS)
    caption = (
        "IMDb test accuracy, SQuAD v1.1 development exact match and F1, in points. "
        "(D): distilled a second time while fine-tuned, from a teacher that was itself fine-tuned."
    )
    source = f"Published: {published.PAPER}; {published.REPLICATION}."
    headings = ("Model", *(column.title for column in columns))
    return Table("downstream", "Table 2. IMDb and SQuAD", caption, headings, rows, (*notes, source))


def probe_table(measurements: Sequence[Measurement]) -> Table:
    """The probes: tasks made out of the corpus itself. Nothing published stands beside them."""
    found = scores.collect(measurements)
    names = scores.tasks_scored(found, PROBE_NAMES)
    columns = []
    for task in (TASKS[name] for name in names):
        metrics = ("exact_match", "f1") if task.kind == "span" else (task.headline,)
        columns += [Column(f"{task.title}, {METRICS.get(metric, metric)}", task, metric) for metric in metrics]
    shared = _shared_tasks(found, PROBE_NAMES)
    means = [Mean(f"Mean of {len(shared)}", shared)] if len(shared) > 1 else []
    rows, notes = _score_rows(found, means, columns, ())
    caption = (
        "Tasks made out of text without labels, held out by document, in points. They tell teacher, student and "
        "control apart; they are not GLUE and must not be compared with it."
    )
    headings = ("Model", *(mean.title for mean in means), *(column.title for column in columns))
    return Table("probes", "Probes", caption, headings, rows, tuple(notes))


def _plain(score: Score | None) -> Cell:
    """A number with a unit of its own, not in points."""
    if score is None:
        return Cell(NOTHING)
    digits = 0 if score.value >= 100 else 3
    return Cell(f"{score.value:,.{digits}f}")


def pretraining_table(measurements: Sequence[Measurement]) -> Table:
    """What the masked-LM objective says of teacher, student and control on held-out text."""
    pretraining = [m for m in measurements if m.task == "pretraining"]
    found = {(model, metric): score for (model, _, _, metric), score in scores.collect(pretraining).items()}
    present = {metric for _, metric in found}
    metrics = [m for m in PRETRAINING if m in present] + sorted(present - set(PRETRAINING))
    rows = []
    for model in ROWS:
        if any((model, metric) in found for metric in metrics):
            cells = [_plain(found.get((model, metric))) for metric in metrics]
            rows.append(Row("measured", (Cell(TITLES[model]), *cells)))
    runs = [score.middle for score in found.values()]
    counts = dict.fromkeys(f"{m.examples:,} of {m.examples_total:,}" for m in runs if m.examples)
    notes = [f"On {' or '.join(counts)} held-out blocks."] if counts else []
    if any(model == "control" for model, _ in found):
        notes.append("Control: the same cut of the teacher before distillation.")
    headings = ("Model", *(PRETRAINING.get(m, m.replace("_", " ")) for m in metrics))
    caption = "Measured on text that no model was trained on. Lower is better throughout."
    return Table("pretraining", "Masked language model", caption, headings, tuple(rows), tuple(notes))


def variants_table(measurements: Sequence[Measurement]) -> Table:
    """Every metric variant of every task and split, with 95 % intervals and the number of examples behind it."""
    found = scores.collect(m for m in measurements if m.task in TASKS)
    rows = []
    for task in TASKS.values():
        own = {key: score for key, score in found.items() if key[1] == task.name}
        splits = dict.fromkeys([*task.evaluation, *(split for _, _, split, _ in own)])
        metrics = dict.fromkeys([*task.metrics, *(metric for _, _, _, metric in own)])
        for split, metric, model in ((s, m, r) for s in splits for m in metrics for r in ROWS):
            if score := own.get((model, task.name, split, metric)):
                rows.append(_variant_row(task, split, metric, model, score))
    columns = (
        "Task",
        "Split",
        "Metric",
        "Model",
        "Score",
        "95 % interval",
        "Same answer",
        "Seeds",
        "Scored on",
        "Trained on",
    )
    caption = (
        "In points; median over seeds. The interval is a bootstrap over the examples of the run at the median; "
        "it does not hold the spread between trainings. “Same answer”: the score of always giving the same answer. "
        "A star: enters the tables above."
    )
    return Table("variants", "Every metric, with intervals", caption, columns, tuple(rows))


def _variant_row(task: Task, split: str, metric: str, model: str, score: Score) -> Row:
    m, name = score.middle, METRICS.get(metric, metric.replace("_", " "))
    is_headline = metric == task.headline and split == task.evaluation[0]
    interval = f"{_points(score.interval[0])} to {_points(score.interval[1])}" if score.interval else NOTHING
    trained = f"{m.train_examples:,} of {m.train_examples_total:,}" if m.train_examples_total else NOTHING
    texts = (
        task.title, split, name + " ★" * is_headline, TITLES[model], None, interval, _points(score.majority),
        str(len(score.runs)), f"{m.examples:,} of {m.examples_total:,}", trained,
    )  # fmt: skip
    return Row("measured", tuple(_score_cell(score) if text is None else Cell(text) for text in texts))
