"""Every metric of every task, split and model, with its interval: the long table below the paper's."""

from collections.abc import Mapping, Sequence

from tinydistilbert.report import scores
from tinydistilbert.report.kept import kept_share, teacher_above_majority
from tinydistilbert.report.paper_tables import score_cell
from tinydistilbert.report.scores import ROWS, TEACHER, TITLES, Score, metric_title
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, points
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import HELD_OUT, TASKS
from tinydistilbert.tasks.base import Task


def variants_table(measurements: Sequence[Measurement], tasks: Mapping[str, Task] = TASKS) -> Table:
    """Return every metric of every task and split, with 95 % intervals and the number of examples."""
    run_scores, above, rows = scores.collect(measurements), teacher_above_majority(measurements, tasks), []
    for task in tasks.values():
        of_this_task = {key: score for key, score in run_scores.items() if key[1] == task.name}
        splits = dict.fromkeys([*task.evaluation, *(split for _, _, split, _ in of_this_task)])
        metrics = dict.fromkeys([*task.metrics, *(metric for _, _, _, metric in of_this_task)])
        for split, metric, model in ((s, m, r) for s in splits for m in metrics for r in ROWS):
            if score := of_this_task.get((model, task.name, split, metric)):
                teacher = of_this_task.get((TEACHER, task.name, split, metric)) if model != TEACHER else None
                kept = kept_share(score.value, teacher.value, teacher.majority) if teacher else None
                rows.append(
                    _variant_row(task, split, metric, model, score, kept if task.name in above.beyond else None)
                )
    columns = (
        "Task",
        "Split",
        "Metric",
        "Model",
        "Score",
        "95 % interval",
        "Majority baseline",
        "% kept",
        "Seeds",
        "Scored on",
        "Trained on",
    )
    caption = (
        "In points; median over seeds. The interval is a bootstrap over the examples of the run at the median; "
        "the spread between trainings is not in it. Majority baseline: always predicting the most frequent label. "
        "Kept: (score − majority) / (teacher − majority), where the teacher beats the baseline beyond chance. "
        "★: the score in the tables above."
    )
    return Table("variants", "Every metric, with intervals", caption, columns, tuple(rows))


def _variant_row(task: Task, split: str, metric: str, model: str, score: Score, kept: float | None) -> TableRow:
    m, name = score.middle, metric_title(task, metric)
    is_headline = metric == task.headline and split in (task.evaluation[0], HELD_OUT)
    interval = f"{points(score.interval[0])} to {points(score.interval[1])}" if score.interval else NOTHING
    trained = f"{m.train_examples:,} of {m.train_examples_total:,}" if m.train_examples_total else NOTHING
    texts = (
        task.title, split, name + " ★" * is_headline, TITLES[model], None, interval, points(score.majority),
        points(kept), str(len(score.runs)), f"{m.examples:,} of {m.examples_total:,}", trained,
    )  # fmt: skip
    return TableRow("measured", tuple(score_cell(score) if text is None else Cell(text) for text in texts))
