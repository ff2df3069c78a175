"""What a run comes to: what was kept, what was won and how sure that is, in a sentence and a few figures."""

from collections.abc import Sequence
from dataclasses import dataclass

from tinydistilbert.names import GLUE_NAMES, PROBE_NAMES
from tinydistilbert.report import scores
from tinydistilbert.report.scores import WARNING, Scores
from tinydistilbert.report.speed import measured_seconds
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS


@dataclass(frozen=True)
class BigFigure:
    """One number to remember, and what it is told from."""

    value: str
    label: str
    detail: str


@dataclass(frozen=True)
class Summary:
    """The top of the page."""

    verdict: str
    figures: tuple[BigFigure, ...]
    sure: tuple[str, ...]
    kept: float | None
    """Student's mean score as a share of the teacher's."""
    faster: float | None
    """Teacher's seconds over the student's."""
    basis: str
    """The tasks behind `kept`, in words."""


def _basis(found: Scores) -> tuple[tuple[str, ...], str]:
    """Where teacher and student are compared: GLUE if it was run, else IMDb and SQuAD, else the probes."""
    for names, words in ((GLUE_NAMES, "GLUE task"), (("imdb", "squad"), "task"), (PROBE_NAMES, "probe")):
        shared = scores.tasks_scored(found, names, ["teacher", "student"])
        if shared:
            return shared, f"mean of {len(shared)} {words}s" if len(
                shared
            ) > 1 else f"1 {words}: {TASKS[shared[0]].title}"
    return (), ""


def summarize(measurements: Sequence[Measurement]) -> Summary:
    """The summary of a run; what was not measured is left out of it."""
    found = scores.collect(measurements)
    names, basis = _basis(found)
    teacher, student, control = (scores.mean(found, model, names) for model in ("teacher", "student", "control"))
    kept = scores.retention(student, teacher)
    seconds = {
        model: m for (model, *timing), m in measured_seconds(measurements).items() if timing == ["cpu", "true-length"]
    }
    faster = seconds["teacher"].value / seconds["student"].value if {"teacher", "student"} <= seconds.keys() else None
    size = {m.model: m for m in measurements if m.task == "size" and m.metric == "parameters"}

    parts, figures = [], []
    if kept is not None and teacher is not None and student is not None:
        parts.append(f"keeps {100 * kept:.1f} % of the teacher’s score ({basis})")
        detail = f"{100 * student:.1f} of {100 * teacher:.1f} points, {basis}"
        figures.append(BigFigure(f"{100 * kept:.1f} %", "of the teacher’s score kept", detail))
    if faster is not None:
        parts.append(f"answers {faster:.2f} times as fast on one core")
        own, other = (seconds[model].details["p50_ms"] for model in ("student", "teacher"))
        detail = f"{own:.1f} ms a pair (median), the teacher {other:.1f}"
        if "bert-base" in seconds:
            detail += f"; {seconds['bert-base'].value / seconds['student'].value:.1f} times as fast as BERT-base"
        figures.append(BigFigure(f"{faster:.2f} ×", "as fast as the teacher", detail))
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
    verdict = "The student " + (", ".join(parts[:-1]) + " and " + parts[-1] if len(parts) > 1 else "".join(parts)) + "."
    if not parts:
        verdict = "This run has not yet measured teacher and student side by side."
    sure = (*_sure_of_scores(found, names), *_sure_of_speed(list(seconds.values())))
    return Summary(verdict, tuple(figures), sure, kept, faster, basis)


def _overlap(one: tuple[float, float] | None, other: tuple[float, float] | None) -> bool:
    return one is not None and other is not None and one[0] <= other[1] and other[0] <= one[1]


def _sure_of_scores(found: Scores, names: Sequence[str]) -> list[str]:
    pairs = [
        (TASKS[name].title, teacher, student)
        for name in names
        if (teacher := scores.of_task(found, "teacher", TASKS[name])) is not None
        and (student := scores.of_task(found, "student", TASKS[name])) is not None
    ]
    if not pairs:
        return []
    seeds = min(len(student.runs) for _, _, student in pairs)
    told = [
        f"Scores are medians over at least {seeds} trainings with different seeds."
        if seeds > 1
        else "Every score is of one training with one seed; how far another seed would move it was not measured."
    ]
    parts = [title for title, _, student in pairs if student.middle.is_subset]
    if parts:
        told.append(f"Scored on a part of the examples (*): {', '.join(parts)}.")
    parts = [title for title, _, student in pairs if student.middle.is_trained_on_subset]
    if parts:
        told.append(
            f"Fine-tuned on a part of the train split (†), the whole would probably give more: {', '.join(parts)}."
        )
    alike = [title for title, teacher, student in pairs if _overlap(teacher.interval, student.interval)]
    if alike:
        told.append(
            f"The 95 % intervals of teacher and student overlap on {len(alike)} of {len(pairs)} tasks "
            f"({', '.join(alike)}): there the difference may be chance."
        )
    warned = [title for title, t, s in pairs if t.warnings or s.warnings]
    if warned:
        told.append(
            f"{WARNING} A guard warned about {', '.join(warned)}; what was “kept” there means little. See the notes."
        )
    return told


def _sure_of_speed(timed: Sequence[Measurement]) -> list[str]:
    if not timed:
        return []
    widest = 100 * (max(m.details["spread"] for m in timed) - 1)
    noise = " That is noisy: repeat it on a quiet machine." if any(m.details["noisy"] for m in timed) else ""
    told = [f"Rounds of the timing differed by at most {widest:.0f} %.{noise}"]
    if any(m.details["synthetic"] for m in timed):
        told.append(f"Timed on {timed[0].details['inputs']}.")
    return told
