"""The result of a run in a sentence and a few figures: score kept, speed-up, size, and how sure they are."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.report import compression, scores
from tinydistilbert.report.scores import WARNING, Scores
from tinydistilbert.report.speed import measured_seconds
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS, tables_of
from tinydistilbert.tasks.base import Task

SUBJECTS = {"student": "The student", "model (D)": "The distilled model", "model": "The model"}
"""What a sentence calls the row that a run is about: the first of these that was scored."""


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
    raw_share: float | None
    """Student's mean score as a share of the teacher's."""
    speed_up: float | None
    """Teacher's seconds over the student's."""
    basis: str
    """The tasks behind `raw_share`, for a sentence."""


def _basis(found: Scores, tasks: Mapping[str, Task], models: Sequence[str]) -> tuple[tuple[Task, ...], str]:
    """Where models are compared: the scored tasks of the first table in which there are any."""
    for table, members in tables_of(tasks).items():
        shared = scores.tasks_scored(found, members, models)
        if shared:
            several = f"mean of {len(shared)} {table.unit}s"
            return shared, several if len(shared) > 1 else f"1 {table.unit}: {shared[0].title}"
    return (), ""


def _subject(found: Scores, tasks: Mapping[str, Task]) -> str:
    scored = (model for model in SUBJECTS if scores.tasks_scored(found, list(tasks.values()), [model]))
    return next(scored, "student")


def summarize(measurements: Sequence[Measurement], tasks: Mapping[str, Task] = TASKS) -> Summary:
    """The summary of a run; what was not measured is left out of it.

    Args:
        measurements: of one run.
        tasks: by name, as `tasks_of` gives them for the run's recipe.
    """
    found = scores.collect(measurements)
    subject = _subject(found, tasks)
    compared, basis = _basis(found, tasks, ["teacher", subject])
    if not compared:
        compared, basis = _basis(found, tasks, [subject])
    teacher, student, control = (scores.mean(found, model, compared) for model in ("teacher", subject, "control"))
    raw_share = scores.retention(student, teacher)
    seconds = {
        model: m for (model, *timing), m in measured_seconds(measurements).items() if timing == ["cpu", "true-length"]
    }
    speed_up = seconds["teacher"].value / seconds["student"].value if {"teacher", "student"} <= seconds.keys() else None
    size = {m.model: m for m in measurements if m.task == "size" and m.metric == "parameters"}

    parts, figures = [], []
    if raw_share is not None and teacher is not None and student is not None:
        parts.append(f"keeps {100 * raw_share:.1f} % of the teacher’s score ({basis})")
        detail = f"{100 * student:.1f} of {100 * teacher:.1f} points, {basis}"
        figures.append(BigFigure(f"{100 * raw_share:.1f} %", "of the teacher’s score kept", detail))
    elif student is not None:
        parts.append(f"scores {100 * student:.1f} points ({basis})")
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
        gain = 100 * (student - control)
        detail = f"student {100 * student:.1f}, the same cut without distillation {100 * control:.1f}, {basis}"
        figures.append(BigFigure(f"{gain:+.1f}".replace("-", "−"), "points from distilling", detail))
    verdict = (
        f"{SUBJECTS[subject]} "
        + (", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts))
        + "."
    )
    compressed = [compression.verdict(model) for model in compression.compressed_models(measurements, tasks)]
    if not parts and compressed:
        verdict, *compressed = compressed
    elif not parts:
        verdict = "This run has not yet measured teacher and student side by side."
    sure = (*compressed, *_sure_of_scores(found, compared, subject), *_sure_of_speed(list(seconds.values())))
    return Summary(verdict, tuple(figures), sure, raw_share, speed_up, basis)


def _overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def _sure_of_scores(found: Scores, tasks: Sequence[Task], subject: str) -> list[str]:
    pairs = [
        (task.title, scores.of_task(found, "teacher", task), student)
        for task in tasks
        if (student := scores.of_task(found, subject, task)) is not None
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
    alike = [title for title, t, s in pairs if t is not None and _overlap(t.interval, s.interval)]
    if alike:
        sentences.append(
            f"The 95 % intervals of teacher and {subject} overlap on {len(alike)} of {len(pairs)} tasks "
            f"({', '.join(alike)}): there the difference may be chance."
        )
    warned = [title for title, t, s in pairs if (t is not None and t.warnings) or s.warnings]
    if warned:
        score = "the share kept there means little" if any(t for _, t, _ in pairs) else "that score means little"
        sentences.append(f"{WARNING} A sanity check failed on {', '.join(warned)}: {score}. See the notes.")
    return sentences


def _sure_of_speed(timed: Sequence[Measurement]) -> list[str]:
    if not timed:
        return []
    widest = 100 * (max(m.details["spread"] for m in timed) - 1)
    noise = " That is much: time it again on an idle machine." if any(m.details["noisy"] for m in timed) else ""
    sentences = [f"The rounds of the timing differed by at most {widest:.0f} %.{noise}"]
    if any(m.details["synthetic"] for m in timed):
        sentences.append(f"Timed on {timed[0].details['inputs']}.")
    return sentences
