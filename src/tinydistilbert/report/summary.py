"""The result of a run in a sentence and a few figures: score kept, speed-up, size, and how certain they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.report import compression, scores
from tinydistilbert.report.differences import RowDifference, row_differences
from tinydistilbert.report.kept import Kept, kept_over, teacher_above_majority
from tinydistilbert.report.scores import HIGHER, LOWER, TEACHER, WARNING, ScoresByRow
from tinydistilbert.report.speed import measured_seconds
from tinydistilbert.report.table import signed
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS, tables_of
from tinydistilbert.tasks.base import Task

SUBJECTS = {
    "student": "The student", "student (D)": "The student", "model (D)": "The distilled model", "model": "The model",
}  # fmt: skip
"""Names in a sentence for the row that a run is about: the first of these that was scored."""


@dataclass(frozen=True)
class BigFigure:
    """One number to remember, and what it was measured on."""

    value: str
    label: str
    detail: str


@dataclass(frozen=True)
class Summary:
    """The top of the page."""

    verdict: str
    figures: tuple[BigFigure, ...]
    sure: tuple[str, ...]
    kept: Kept | None
    """What the main row keeps of the teacher; None if not both were scored."""
    speed_up: float | None
    """Teacher's seconds over the student's."""
    basis: str
    """The tasks that were compared, for a sentence."""


def _basis(run_scores: ScoresByRow, tasks: Mapping[str, Task], models: Sequence[str]) -> tuple[tuple[Task, ...], str]:
    """Return where models are compared: the scored tasks of the first table that has any."""
    for table, members in tables_of(tasks).items():
        shared = scores.tasks_scored(run_scores, members, models)
        if shared:
            several = f"mean of {len(shared)} {table.unit}s"
            return shared, several if len(shared) > 1 else f"1 {table.unit}: {shared[0].title}"
    return (), ""


def _subject(run_scores: ScoresByRow, tasks: Mapping[str, Task]) -> str:
    scored = (model for model in SUBJECTS if scores.tasks_scored(run_scores, list(tasks.values()), [model]))
    return next(scored, "student")


def summarize(measurements: Sequence[Measurement], tasks: Mapping[str, Task] = TASKS) -> Summary:
    """Return the summary of a run, without what was not measured.

    Args:
        measurements: measurements of one run.
        tasks: by name, as `tasks_of` gives them for the run's recipe.
    """
    run_scores = scores.collect(measurements)
    subject = _subject(run_scores, tasks)
    compared, basis = _basis(run_scores, tasks, [TEACHER, subject])
    if not compared:
        compared, basis = _basis(run_scores, tasks, [subject])
    teacher, student, control = (scores.mean(run_scores, model, compared) for model in (TEACHER, subject, "control"))
    kept = None
    if teacher is not None and student is not None:
        kept = kept_over(run_scores, subject, compared, teacher_above_majority(measurements, tasks))
    seconds = {
        model: m for (model, *timing), m in measured_seconds(measurements).items() if timing == ["cpu", "true-length"]
    }
    speed_up = seconds["teacher"].value / seconds["student"].value if {"teacher", "student"} <= seconds.keys() else None
    size = {m.model: m for m in measurements if m.task == "size" and m.metric == "parameters"}

    parts, figures = [], []
    if kept is not None and kept.share is not None and teacher is not None and student is not None:
        over = _counted(kept, basis)
        raw = f"raw share {100 * kept.raw:z.1f} %" if kept.raw is not None else "no raw share"
        parts.append(f"keeps {100 * kept.share:z.1f} % of the teacher’s score above the majority ({over}; {raw})")
        detail = f"{over}; {raw}: {100 * student:.1f} of {100 * teacher:.1f} points, {basis}"
        figures.append(
            BigFigure(f"{100 * kept.share:z.1f} %", "of the teacher’s score above the majority kept", detail)
        )
    elif student is not None:
        parts.append(f"scores {100 * student:.1f} points ({basis})")
    if student is not None and kept is None:
        figures.append(BigFigure(f"{100 * student:.1f}", "points", basis))
    if speed_up is not None:
        parts.append(f"is {speed_up:.2f} times as fast on one core")
        student_ms, teacher_ms = (seconds[model].details["p50_ms"] for model in ("student", "teacher"))
        detail = f"{student_ms:.1f} ms a pair (median), the teacher {teacher_ms:.1f}"
        if "bert-base" in seconds:
            detail += f"; {seconds['bert-base'].value / seconds['student'].value:.1f} × against BERT-base"
        figures.append(BigFigure(f"{speed_up:.2f} ×", "speed-up over the teacher", detail))
    if {"teacher", "student"} <= size.keys():
        share = size["student"].value / size["teacher"].value
        parts.append(f"has {100 * share:.0f} % of its parameters")
        megabytes = size["student"].details["megabytes_fp32"]
        detail = f"{100 * share:.0f} % of {size['teacher'].value / 1e6:.1f} M; {megabytes:.0f} MB in fp32"
        figures.append(BigFigure(f"{size['student'].value / 1e6:.1f} M", "parameters", detail))
    if control is not None and student is not None:
        detail = f"student {100 * student:.1f}, the same cut without distillation {100 * control:.1f}, {basis}"
        figures.append(BigFigure(signed(student - control), "points from distilling", detail))
    verdict = (
        f"{SUBJECTS[subject]} "
        + (", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts))
        + "."
    )
    if kept is not None and kept.share is None and parts:
        verdict = f"How much of the teacher is kept cannot be determined: {kept.reason}. {verdict}"
    compressed = [compression.verdict(model) for model in compression.compressed_models(measurements, tasks)]
    if not parts and compressed:
        verdict, *compressed = compressed
    elif not parts:
        verdict = "This run has not yet measured teacher and student side by side."
    tests = {
        d.task.name: d
        for d in row_differences(measurements, tasks)
        if (d.row, d.against) == (subject, TEACHER) and d.is_headline
    }
    sure = (
        *compressed,
        *_sure_of_scores(run_scores, compared, subject, tests),
        *_sure_of_speed(list(seconds.values())),
    )
    return Summary(verdict, tuple(figures), sure, kept, speed_up, basis)


def _counted(kept: Kept, basis: str) -> str:
    """Return the tasks over which the kept score is averaged, for a sentence."""
    every = len(kept.counted) + len(kept.left_out)
    if not kept.left_out:
        return basis
    return f"{len(kept.counted)} of {every} tasks: {', '.join(task.title for task in kept.counted)}"


def _sure_of_scores(
    run_scores: ScoresByRow, tasks: Sequence[Task], subject: str, tests: Mapping[str, RowDifference]
) -> list[str]:
    pairs = [
        (task.title, scores.of_task(run_scores, TEACHER, task), student)
        for task in tasks
        if (student := scores.of_task(run_scores, subject, task)) is not None
    ]
    if not pairs:
        return []
    seeds = min(len(student.runs) for _, _, student in pairs)
    sentences = [
        f"Scores are medians over at least {seeds} trainings with different seeds."
        if seeds > 1
        else "Every score is of one training with one seed: how much it depends on the seed was not measured."
    ]
    parts = [title for title, _, student in pairs if student.middle.is_subset]
    if parts:
        sentences.append(f"Scored on a part of the examples (*): {', '.join(parts)}.")
    parts = [title for title, _, student in pairs if student.middle.is_trained_on_subset]
    if parts:
        sentences.append(
            f"Fine-tuned on a part of the train split (†); all of it would probably score higher: {', '.join(parts)}."
        )
    sentences += _sure_of_differences(
        tests, [task for task in tasks if scores.of_task(run_scores, TEACHER, task)], subject
    )
    unbeaten = [f"{title}: {', '.join(u.sentence for u in s.unbeaten)}" for title, _, s in pairs if s.unbeaten]
    if unbeaten:
        sentences.append(
            f"{WARNING} No better than a cheap baseline, as far as these examples show: {'; '.join(unbeaten)}."
        )
    warned = [title for title, t, s in pairs if (t is not None and t.sanity_warnings) or s.sanity_warnings]
    if warned:
        score = "the share kept there means little" if any(t for _, t, _ in pairs) else "that score means little"
        sentences.append(f"{WARNING} A sanity check failed on {', '.join(warned)}: {score}. See the notes.")
    return sentences


def _sure_of_differences(tests: Mapping[str, RowDifference], tasks: Sequence[Task], subject: str) -> list[str]:
    """Return what the paired test says of teacher and subject, as the table of differences marks it."""
    if not tasks:
        return []
    if not tests:
        return ["The predictions are missing, so teacher and student were not tested against each other."]
    sentences = []
    for mark, what in ((LOWER, "lower than"), (HIGHER, "higher than")):
        titles = [task.title for task in tasks if task.name in tests and tests[task.name].mark == mark]
        if titles:
            sentences.append(
                f"By the paired test the {subject} is significantly {what} the teacher on {len(titles)} of "
                f"{len(tasks)} tasks ({', '.join(titles)})."
            )
    alike = [task.title for task in tasks if task.name in tests and not tests[task.name].mark]
    if alike:
        sentences.append(
            f"By the paired test the difference between teacher and {subject} may be chance on {len(alike)} of "
            f"{len(tasks)} tasks ({', '.join(alike)})."
        )
    return sentences


def _sure_of_speed(timed: Sequence[Measurement]) -> list[str]:
    if not timed:
        return []
    widest = 100 * (max(m.details["spread"] for m in timed) - 1)
    noise = " That is a lot: time it again on an idle machine." if any(m.details["noisy"] for m in timed) else ""
    sentences = [f"The rounds of the timing differed by at most {widest:.0f} %.{noise}"]
    if any(m.details["synthetic"] for m in timed):
        sentences.append(f"Timed on {timed[0].details['inputs']}.")
    return sentences
