"""The students (e) of the replication made smaller and faster: results of `compress`, beside the task's teacher."""

from collections.abc import Sequence
from pathlib import Path

from tinydistilbert import results
from tinydistilbert.report.compression import (
    CHOSEN,
    TEACHER_SIZE,
    TEACHER_TIME,
    CompressedModel,
    compressed_models,
)
from tinydistilbert.report.scores import SUBSET, WARNING
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, format_p, points, signed, to_markdown
from tinydistilbert.tasks import TASKS

FOLDER = Path(__file__).resolve().parent / "replication" / "compressed"
INT8 = "int8"
"""The variant that the goals speak of."""


def ladder_section() -> str:
    """The students (e) made smaller and faster."""
    return to_markdown(ladder_table(ladders()))


def ladders() -> list[CompressedModel]:
    """What `compress` made of the students (e), a file a task."""
    files = sorted(FOLDER.glob("*.jsonl"), key=lambda path: list(TASKS).index(path.stem))
    return [model for path in files for model in compressed_models(list(results.read(path)), TASKS)]


def ladder_table(models: Sequence[CompressedModel]) -> Table:
    """Score, time and size of each variant, beside the task's teacher in eager torch."""
    rows = []
    for model in models:
        timed, size = model.teacher[TEACHER_TIME], model.teacher[TEACHER_SIZE]
        rows.append(TableRow("teacher", (
            Cell(model.task.title), Cell("Teacher, eager torch"), Cell(NOTHING), Cell(NOTHING),
            Cell(f"{timed.value:.2f}", WARNING * timed.details["noisy"]), Cell("1.0 ×"),
            Cell(f"{size.value / 1e6:.1f}"),
        )))  # fmt: skip
        for score, one, bytes_ in zip(model.scores, model.times, model.sizes, strict=True):
            difference, is_first = score.details["difference"], score is model.scores[0]
            against = Cell(NOTHING) if is_first else Cell(
                signed(difference["value"]), detail=f"p {format_p(difference['p'])}"
            )  # fmt: skip
            rows.append(TableRow("measured", (
                Cell(""), Cell(score.model, f" {CHOSEN}" * score.details["best"]),
                Cell(points(score.value), SUBSET * score.is_subset), against,
                Cell(f"{one.value:.2f}", WARNING * one.details["noisy"]), Cell(f"{timed.value / one.value:.1f} ×"),
                Cell(f"{bytes_.value / 1e6:.1f}"),
            )))  # fmt: skip
    notes = [f"{CHOSEN} the variant in the folder `best`. p: paired bootstrap against the first variant."]
    notes += [
        f"{SUBSET} {model.task.title}: {m.examples:,} of {m.examples_total:,} examples."
        for model in models for m in model.scores[:1] if m.is_subset
    ]  # fmt: skip
    if models:
        cpu = models[0].times[0].environment.get("cpu")
        notes.append(
            f"Medians of single inputs on one core of an {cpu}, all variants and the teacher in turns. The machine had "
            "other work: milliseconds are those in which an input had the core (`compress.clock`), to be compared with "
            f"one another; {WARNING} the rounds differ by more than 10 % all the same."
        )
    return Table(
        "ladder", "The students (e), compressed", "Seed 0; milliseconds of one input at its true length.",
        ("Task", "Variant", "Score", "Against the first", "ms", "× its teacher", "MB"), tuple(rows), tuple(notes),
    )  # fmt: skip


def int8_goals(models: Sequence[CompressedModel], *, missing: str) -> list[tuple[str, str, str, str]]:
    """The goals of int8, as lines of the table: how many times as fast as its teacher, and what it loses."""
    faster, lost = dict[str, float](), dict[str, float]()
    for model in models:
        for score, timed in zip(model.scores, model.times, strict=True):
            if score.model == INT8:
                faster[model.task.title] = model.teacher[TEACHER_TIME].value / timed.value
                lost[model.task.title] = -score.details["difference"]["value"]
    speed = "(e) in int8 against its teacher in eager torch", "≥ 12 ×"
    score_lost = "points that int8 loses against its own float", "≤ 1"
    if not faster:
        return [(*speed, missing, ""), (*score_lost, missing, "")]
    each = "; ".join(f"{title} {value:.1f} ×" for title, value in faster.items())
    losses = "; ".join(f"{title} {signed(value)}" for title, value in lost.items())
    return [
        (*speed, f"{min(faster.values()):.1f} ×", f"the least of {each}"),
        (*score_lost, signed(max(lost.values())), f"the most of {losses}"),
    ]
