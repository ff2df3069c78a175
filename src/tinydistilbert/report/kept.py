"""What a student keeps of its teacher above the majority baseline: one definition for every table and headline."""

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.report import scores
from tinydistilbert.report.differences import row_differences
from tinydistilbert.report.scores import HIGHER, MAJORITY, TEACHER, ScoresByRow
from tinydistilbert.results import Measurement
from tinydistilbert.tasks.base import Task


def kept_share(student: float | None, teacher: float | None, majority: float | None) -> float | None:
    """Return (student - majority) / (teacher - majority): 1 = all of it, 0 = no more than a constant answer.

    Below 0 for a student that is worse than the constant answer, above 1 for one that is better than its teacher. None
    if a score is missing, or if the teacher is not above the majority baseline, so that there is nothing to keep.
    """
    if student is None or teacher is None or majority is None or teacher <= majority:
        return None
    return (student - majority) / (teacher - majority)


def raw_share(student: float | None, teacher: float | None) -> float | None:
    """Return the student's score as a share of the teacher's; None if the teacher's is at most zero."""
    return student / teacher if student is not None and teacher is not None and teacher > 0 else None


@dataclass(frozen=True)
class TeacherAboveMajority:
    """The tasks on which the teacher beats the majority baseline beyond chance."""

    beyond: frozenset[str]
    """Names of these tasks."""
    untested: frozenset[str]
    """Names of the tasks without a paired test, as in results of earlier versions. There the teacher's own 95 %
    interval decides, widened if the score of the baseline varies with the examples too."""


def teacher_above_majority(measurements: Sequence[Measurement], tasks: Mapping[str, Task]) -> TeacherAboveMajority:
    """Decide for each task by the paired test of teacher and majority baseline in its headline metric."""
    all_scores = scores.collect(measurements)
    tested = {
        d.task.name: d.mark == HIGHER
        for d in row_differences(measurements, tasks)
        if (d.row, d.against) == (TEACHER, MAJORITY) and d.is_headline
    }
    beyond = {name for name, is_higher in tested.items() if is_higher}
    untested = set[str]()
    for task in tasks.values():
        teacher = scores.of_task(all_scores, TEACHER, task)
        if task.name in tested or teacher is None or teacher.majority is None:
            continue
        untested.add(task.name)
        if teacher.interval is not None and _is_above(teacher.value, teacher.interval[0], teacher.majority):
            beyond.add(task.name)
    return TeacherAboveMajority(frozenset(beyond), frozenset(untested))


def _is_above(value: float, low: float, majority: float) -> bool:
    """Whether a score is above the majority baseline by more than its interval, where there is no paired test.

    A correlation of 0 is 0 on any examples. Shares of right answers vary in the baseline as in the teacher, and the
    difference of two independent ones varies by the square root of 2 times as much.
    """
    return value - majority > (value - low) * (2**0.5 if majority else 1.0) and low > majority


@dataclass(frozen=True)
class Kept:
    """What a row keeps over several tasks."""

    share: float | None
    """Mean over `counted` of the share kept above the majority baseline; None if no task is counted."""
    raw: float | None
    """Mean over all tasks of the score as a share of the teacher's."""
    counted: tuple[Task, ...]
    """The tasks on which the teacher beats the majority baseline beyond chance."""
    left_out: tuple[Task, ...]
    """The other tasks."""

    @property
    def reason(self) -> str:
        """The reason why there is no share, as the end of a sentence."""
        where = ", ".join(task.title for task in self.left_out)
        several = "any of " if len(self.left_out) > 1 else ""
        return f"the teacher does not beat the majority baseline beyond chance on {several}{where}"


def kept_on(
    all_scores: ScoresByRow, row: str, task: Task, above: TeacherAboveMajority, metric: str = ""
) -> float | None:
    """Return what a row keeps on one task, by the headline or another metric; None where the teacher may be chance."""
    if task.name not in above.beyond:
        return None
    teacher, student = (scores.of_task(all_scores, model, task, metric) for model in (TEACHER, row))
    if teacher is None or student is None:
        return None
    return kept_share(student.value, teacher.value, teacher.majority)


def kept_over(all_scores: ScoresByRow, row: str, tasks: Sequence[Task], above: TeacherAboveMajority) -> Kept:
    """Return what a row keeps over the tasks that teacher and row were scored on: per task, then averaged."""
    by_task = {task: kept_on(all_scores, row, task, above) for task in tasks}
    known = {task: share for task, share in by_task.items() if share is not None}
    raw = raw_share(scores.mean(all_scores, row, tasks), scores.mean(all_scores, TEACHER, tasks))
    left_out = tuple(task for task in tasks if task not in known)
    return Kept(statistics.fmean(known.values()) if known else None, raw, tuple(known), left_out)
