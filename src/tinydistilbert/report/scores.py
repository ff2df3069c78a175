"""From single measurements to a table cell: the median over seeds, its range, and its marks."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.models.lengths import MAX_LENGTH
from tinydistilbert.recipe.names import BASELINE_NAMES
from tinydistilbert.report.table import METRICS, format_p, signed
from tinydistilbert.results import COMPARE, Measurement
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Task

SUBSET, TRAINED_ON_SUBSET, FROM_TRAIN, CHOSEN, WARNING = MARKS = ("*", "†", "§", "¶", "⚠")
CHOSEN_ON_REPORTED = ("reported", "published")
"""Values of `finetune.select` by which the reported examples chose the epoch; earlier versions wrote the second."""
TEACHER, MAJORITY = "teacher", "majority"
COMPRESSED = "compressed"
"""Row of a comparison: the variant that a compression chose, in the folder `best`."""
ROWS = (TEACHER, "student", "student (D)", "control", "model", "model (D)", *BASELINE_NAMES)
"""Measured rows in the order of the tables; a given model (`finetune.model`) replaces student and control."""
LEVEL = 0.05
HIGHER, LOWER = "▲", "▼"
TITLES = {
    "teacher": "Teacher",
    "student": "Student",
    "student (D)": "Student (D)",
    "control": "Control",
    "model": "Model",
    "model (D)": "Model (D)",
    "tf-idf": "TF-IDF",
    "static embeddings": "Static embeddings",
    "most frequent tag": "Most frequent tag",
}


def row_title(row: str) -> str:
    """Return a row's name as tables print it."""
    return {MAJORITY: "Majority baseline", COMPRESSED: "Compressed model"}.get(row) or TITLES.get(row, row)


def metric_title(task: Task, metric: str) -> str:
    """Return the name of a task's metric; F1 also says what it counts unless that is words."""
    title = METRICS.get(metric, metric.replace("_", " "))
    return title.replace("F1", "F1 of characters") if task.answer_units == "characters" else title


def mark_of(interval: tuple[float, float], adjusted: float) -> str:
    """Return `▲` or `▼` if a difference is surely above or below 0: Holm's p below 0.05 and an interval without 0."""
    low, high = interval
    if adjusted >= LEVEL or low <= 0 <= high:
        return ""
    return HIGHER if low > 0 else LOWER


@dataclass(frozen=True)
class Unbeaten:
    """A cheap baseline that a score does not beat beyond chance."""

    baseline: str
    """Its title in tables."""
    by: str
    """The difference in points, and Holm's p."""

    @property
    def sentence(self) -> str:
        """What a warning says."""
        return f"it does not beat {self.baseline} beyond chance ({self.by})"


@dataclass(frozen=True)
class Score:
    """One quantity, measured once per seed; `runs` is ordered by value and never empty."""

    runs: tuple[Measurement, ...]
    unbeaten: tuple[Unbeaten, ...] = ()
    """The cheap baselines that it does not beat beyond chance."""

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
        """The run at the median (the lower one of two), from which interval and counts are taken."""
        return self.runs[(len(self.runs) - 1) // 2]

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap 95 % interval over the examples, of the middle run."""
        interval = self.middle.details.get("interval")
        return (float(interval[0]), float(interval[1])) if interval else None

    @property
    def majority(self) -> float | None:
        """The score of always predicting the most frequent label, or the mean of numbers."""
        majority = self.middle.details.get("majority")
        return None if majority is None else float(majority)

    @property
    def warnings(self) -> tuple[str, ...]:
        """The sanity warnings of all runs, and the cheap baselines that are not beaten."""
        return (*self.sanity_warnings, *(unbeaten.sentence for unbeaten in self.unbeaten))

    @property
    def sanity_warnings(self) -> tuple[str, ...]:
        """The sanity warnings of all runs."""
        return tuple(dict.fromkeys(warning for run in self.runs for warning in run.details.get("warnings", ())))

    @property
    def notes(self) -> tuple[str, ...]:
        """Notes of the runs about their examples."""
        return tuple(dict.fromkeys(note for run in self.runs for note in run.details.get("notes", ())))

    @property
    def marks(self) -> str:
        """The marks of the score.

        `*` scored on a subset, `†` trained on a subset, `§` scored on a part of the train split, `¶` the scored
        examples chose its epoch, `⚠` a sanity check warned.
        """
        scored = any(run.is_subset for run in self.runs)
        trained = any(run.is_trained_on_subset for run in self.runs)
        held_out = any(run.split == HELD_OUT for run in self.runs)
        chosen = any(run.details.get("selected", {}).get("by") in CHOSEN_ON_REPORTED for run in self.runs)
        marks = SUBSET * scored + TRAINED_ON_SUBSET * trained + FROM_TRAIN * held_out + CHOSEN * chosen
        return marks + WARNING * bool(self.warnings)


ScoresByRow = Mapping[tuple[str, str, str, str], Score]
"""Scores by model, task, split and metric."""


def collect(measurements: Iterable[Measurement]) -> ScoresByRow:
    """Group task and pretraining measurements over seeds; of a number measured again, the last one counts.

    Comparisons of rows are not scores: those with a cheap baseline are added to the scores that do not beat it.
    """
    latest: dict[tuple[str, str, str, str], dict[int, Measurement]] = {}
    unbeaten: dict[tuple[str, str, str, str], dict[str, Unbeaten | None]] = {}
    for m in measurements:
        if m.task != COMPARE:
            latest.setdefault((m.model, m.task, m.split, m.metric), {})[m.seed] = m
        elif m.details["against"] in BASELINE_NAMES:
            baselines = unbeaten.setdefault((m.model, m.details["of"], m.split, m.metric), {})
            baselines[m.details["against"]] = _unbeaten(m)
    return {
        key: Score(
            tuple(sorted(seeds.values(), key=lambda m: m.value)), tuple(filter(None, unbeaten.get(key, {}).values()))
        )
        for key, seeds in latest.items()
    }


def _unbeaten(difference: Measurement) -> Unbeaten | None:
    """Return the baseline of a comparison unless it is beaten beyond chance."""
    details = difference.details
    low, high = details["interval"]
    if mark_of((low, high), details["p_adjusted"]) == HIGHER:
        return None
    by = f"{signed(difference.value)} points, p {format_p(details['p_adjusted'])}"
    return Unbeaten(row_title(details["against"]), by)


def of_task(scores: ScoresByRow, model: str, task: Task, metric: str = "") -> Score | None:
    """Return a model's score on the first evaluation split of a task, by the headline metric or another one.

    If the recipe scores on what it held out of the train split, return that score, with a mark.
    """
    splits = (task.evaluation[0], HELD_OUT)
    return next((s for split in splits if (s := scores.get((model, task.name, split, metric or task.headline)))), None)


def tasks_scored(scores: ScoresByRow, tasks: Sequence[Task], models: Sequence[str] = ()) -> tuple[Task, ...]:
    """Return the tasks on which each of `models` has a headline score; without models, on which any row has one."""
    if models:
        return tuple(task for task in tasks if all(of_task(scores, model, task) for model in models))
    return tuple(task for task in tasks if any(of_task(scores, model, task) for model in ROWS))


def mean(scores: ScoresByRow, model: str, tasks: Sequence[Task]) -> float | None:
    """Return the plain mean of the headline scores over `tasks`; None if one of them is missing."""
    values = [score.value for task in tasks if (score := of_task(scores, model, task))]
    return statistics.fmean(values) if values and len(values) == len(tasks) else None


def merged_marks(marks: Iterable[str]) -> str:
    """Return the marks of several scores as those of one."""
    every = "".join(marks)
    return "".join(mark for mark in MARKS if mark in every)


def note_on_lengths(titled_measurements: Iterable[tuple[str, Measurement]]) -> list[str]:
    """Return a sentence on texts longer than what a model reads, for (title of the task, score); or none."""
    cut: dict[str, None] = {}
    for title, m in titled_measurements:
        scored, trained = m.details.get("cut_texts", 0), m.details.get("cut_train_texts", 0)
        if scored or trained:
            counts = [f"{scored:,} of {m.examples:,} scored"] * bool(scored)
            counts += [f"{trained:,} of {m.train_examples:,} train texts"] * bool(trained)
            cut[f"{title} {' and '.join(counts)}, to {m.details[MAX_LENGTH]} tokens"] = None
    return [f"Cut because they are longer than the model reads: {'; '.join(cut)}."] if cut else []


def notes_on_marks(titled_scores: Iterable[tuple[str, str, Score]]) -> list[str]:
    """Return a sentence per mark, with counts and warnings, for (whose score, title of the task, score)."""
    scored: dict[str, None] = {}
    trained: dict[str, None] = {}
    held_out: dict[str, None] = {}
    chosen: dict[str, None] = {}
    warned: dict[str, None] = {}
    in_train: dict[str, None] = {}
    for whose, title, score in titled_scores:
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
            seeds = f" ({count} of {len(score.runs)} seeds)" if len(score.runs) > 1 and count else ""
            if score.sanity_warnings:
                warned[f"{whose}{seeds}: {'; '.join(score.sanity_warnings[:2])}"] = None
            if score.unbeaten:
                warned[f"{whose}: {'; '.join(unbeaten.sentence for unbeaten in score.unbeaten)}"] = None
    counts_by_mark = {
        f"{SUBSET} scored on a part of the split, in examples": scored,
        f"{TRAINED_ON_SUBSET} fine-tuned on a part of the train split, in examples": trained,
        f"{FROM_TRAIN} scored on examples of the train split that were not trained on": held_out,
        f"{CHOSEN} epoch chosen on the scored examples themselves, as in TinyDistilBERT, hence too high": chosen,
    }
    notes = [f"{mark}: {', '.join(counts)}." for mark, counts in counts_by_mark.items() if counts]
    if in_train:
        notes.append(f"Scored texts that are also in the train split, too few to be an alarm: {', '.join(in_train)}.")
    return notes + [f"{WARNING} {warning.rstrip('.')}." for warning in warned]
