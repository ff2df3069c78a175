"""From single measurements to a table cell: the median over seeds, its range, and the marks that go with it."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.results import Measurement
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Task

SUBSET, TRAINED_ON_SUBSET, FROM_TRAIN, CHOSEN, WARNING = MARKS = ("*", "†", "§", "¶", "⚠")
CHOSEN_ON_REPORTED = ("reported", "published")
"""Values of `finetune.select` with which the reported examples chose the epoch; earlier versions wrote the second."""
ROWS = ("teacher", "student", "student (D)", "control", "model", "model (D)")
"""Measured rows in the order of the tables; a given model (`finetune.model`) takes the place of student and control."""
TITLES = {
    "teacher": "Teacher",
    "student": "Student",
    "student (D)": "Student (D)",
    "control": "Control",
    "model": "Model",
    "model (D)": "Model (D)",
}


@dataclass(frozen=True)
class Score:
    """One quantity, measured once a seed; `runs` is ordered by value and never empty."""

    runs: tuple[Measurement, ...]

    @property
    def value(self) -> float:
        """Median over the seeds."""
        return statistics.median(run.value for run in self.runs)

    @property
    def range(self) -> tuple[float, float] | None:
        """Smallest and largest value, if there are several seeds."""
        return (self.runs[0].value, self.runs[-1].value) if len(self.runs) > 1 else None

    @property
    def middle(self) -> Measurement:
        """The run at the median (the lower one of two): where interval and counts are taken from."""
        return self.runs[(len(self.runs) - 1) // 2]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap 95 % interval over examples, of the middle run."""
        interval = self.middle.details.get("interval")
        return (float(interval[0]), float(interval[1])) if interval else None

    @property
    def majority(self) -> float | None:
        """The score of always predicting the most frequent label, or the mean of numbers."""
        majority = self.middle.details.get("majority")
        return None if majority is None else float(majority)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sanity warnings of any of the runs."""
        return tuple(dict.fromkeys(warning for run in self.runs for warning in run.details.get("warnings", ())))

    @property
    def marks(self) -> str:
        """What must be known of it.

        `*` scored on a subset, `†` trained on one, `§` scored on a part of the train split, `¶` its epoch was chosen by
        the very examples that are scored, `⚠` a sanity check warned.
        """
        scored = any(run.is_subset for run in self.runs)
        trained = any(run.is_trained_on_subset for run in self.runs)
        held_out = any(run.split == HELD_OUT for run in self.runs)
        chosen = any(run.details.get("selected", {}).get("by") in CHOSEN_ON_REPORTED for run in self.runs)
        marks = SUBSET * scored + TRAINED_ON_SUBSET * trained + FROM_TRAIN * held_out + CHOSEN * chosen
        return marks + WARNING * bool(self.warnings)


Scores = Mapping[tuple[str, str, str, str], Score]
"""By model, task, split and metric."""


def collect(measurements: Iterable[Measurement]) -> Scores:
    """Group task and pretraining measurements over seeds; of a number measured again, the last one counts."""
    latest: dict[tuple[str, str, str, str], dict[int, Measurement]] = {}
    for m in measurements:
        latest.setdefault((m.model, m.task, m.split, m.metric), {})[m.seed] = m
    return {key: Score(tuple(sorted(seeds.values(), key=lambda m: m.value))) for key, seeds in latest.items()}


def of_task(scores: Scores, model: str, task: Task, metric: str = "") -> Score | None:
    """The score of a model on the first evaluation split of a task, by the task's headline metric or another one.

    Where the recipe scores on what it held out of the train split, that, and it is marked.
    """
    splits = (task.evaluation[0], HELD_OUT)
    return next((s for split in splits if (s := scores.get((model, task.name, split, metric or task.headline)))), None)


def tasks_scored(scores: Scores, tasks: Sequence[Task], models: Sequence[str] = ()) -> tuple[Task, ...]:
    """Those of `tasks` on which each of `models` has a headline score; with no models, on which any row has one."""
    if models:
        return tuple(task for task in tasks if all(of_task(scores, model, task) for model in models))
    return tuple(task for task in tasks if any(of_task(scores, model, task) for model in ROWS))


def mean(scores: Scores, model: str, tasks: Sequence[Task]) -> float | None:
    """Plain mean of the headline scores over `tasks`; None where one of them is missing."""
    values = [score.value for task in tasks if (score := of_task(scores, model, task))]
    return statistics.fmean(values) if values and len(values) == len(tasks) else None


def retention(student: float | None, teacher: float | None) -> float | None:
    """Student's score as a share of the teacher's; None where there is nothing to keep (a teacher at or below zero)."""
    return student / teacher if student is not None and teacher is not None and teacher > 0 else None


def merged_marks(marks: Iterable[str]) -> str:
    """The marks of several scores as those of one."""
    every = "".join(marks)
    return "".join(mark for mark in MARKS if mark in every)


def notes_on_marks(found: Iterable[tuple[str, str, Score]]) -> list[str]:
    """One sentence a mark, with the counts and the warnings behind it, of (whose score, title of the task, score)."""
    scored: dict[str, None] = {}
    trained: dict[str, None] = {}
    held_out: dict[str, None] = {}
    chosen: dict[str, None] = {}
    warned: dict[str, None] = {}
    in_train: dict[str, None] = {}
    for whose, title, score in found:
        m = score.middle
        if m.is_subset:
            scored[f"{title} {m.examples:,} of {m.examples_total:,}"] = None
        if m.is_trained_on_subset:
            left_out = m.details.get("left_out", 0)
            why = f" ({left_out:,} repeat a text that is held out)" if left_out else ""
            trained[f"{title} {m.train_examples:,} of {m.train_examples_total:,}{why}"] = None
        if m.split == HELD_OUT:
            held_out[f"{title} {m.examples:,}"] = None
        if CHOSEN in score.marks:
            chosen[whose] = None
        if (shared := m.details.get("shared_texts", 0)) and not score.warnings:
            in_train[f"{title} {shared:,} of {m.examples:,}"] = None
        if score.warnings:
            count = sum(bool(run.details.get("warnings")) for run in score.runs)
            seeds = f" ({count} of {len(score.runs)} seeds)" if len(score.runs) > 1 else ""
            warned[f"{whose}{seeds}: {'; '.join(score.warnings[:2])}"] = None
    counts_by_mark = {
        f"{SUBSET} scored on a part of the split, in examples": scored,
        f"{TRAINED_ON_SUBSET} fine-tuned on a part of the train split, in examples": trained,
        f"{FROM_TRAIN} scored on examples of the train split that were not trained on": held_out,
        f"{CHOSEN} best epoch by the scored examples themselves, as TinyDistilBERT chose it, hence too high": chosen,
    }
    notes = [f"{mark}: {', '.join(counts)}." for mark, counts in counts_by_mark.items() if counts]
    if in_train:
        notes.append(f"Scored texts that are in the train split too, few enough to be no alarm: {', '.join(in_train)}.")
    return notes + [f"{WARNING} {warning.rstrip('.')}." for warning in warned]
