"""Score, time and size of every variant of a compressed model, as a table and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tinydistilbert.report.figures import Tradeoff
from tinydistilbert.report.scores import SUBSET, TITLES, WARNING, note_on_lengths
from tinydistilbert.report.table import NOTHING, Cell, Table, TableRow, format_p, points, signed
from tinydistilbert.results import Measurement
from tinydistilbert.tasks.base import Task

COMPRESS = "compress"
"""`task` of these measurements; the name of the actual task is in their details."""
CHOSEN = "★"
TIMED, SIZE = "milliseconds", "bytes"
TEACHER_TIME, TEACHER_SIZE = "teacher_milliseconds", "teacher_bytes"
"""Metrics of the teacher that was timed together with the variants."""
COLUMNS = ("Variant", "Score", "Against the first", "p", "Held out", "p50/p90, ms", "Speed-up", "MB", "Parameters")


@dataclass(frozen=True)
class CompressedModel:
    """The variants of one model, in the order in which they were made; the first is the original model."""

    task: Task
    row: str
    scores: tuple[Measurement, ...]
    times: tuple[Measurement, ...]
    sizes: tuple[Measurement, ...]
    teacher: Mapping[str, Measurement] = field(default_factory=dict)
    """Time and size of the teacher that was timed together with them, by metric; empty if there was none."""

    @property
    def chosen(self) -> int:
        """The number of the variant in the folder `best`."""
        return next(index for index, m in enumerate(self.scores) if m.details["best"])


def compressed_models(measurements: Sequence[Measurement], tasks: Mapping[str, Task]) -> list[CompressedModel]:
    """Return the compressed models among the measurements of a run, by task and row."""
    relevant = [m for m in measurements if m.task == COMPRESS]
    models = []
    for name, row in dict.fromkeys(map(_key, relevant)):
        variants = sorted(
            (m for m in relevant if "place" in m.details and _key(m) == (name, row)),
            key=lambda m: m.details["place"],
        )
        times, sizes = (tuple(m for m in variants if m.metric == metric) for metric in (TIMED, SIZE))
        scores = tuple(m for m in variants if m.metric not in (TIMED, SIZE))
        of_teacher = {
            m.metric: m for m in relevant if m.metric in (TEACHER_TIME, TEACHER_SIZE) and _key(m) == (name, row)
        }
        models.append(CompressedModel(tasks[name], row, scores, times, sizes, of_teacher))
    return models


def _key(measurement: Measurement) -> tuple[str, str]:
    """Return the task and the row of the compressed model."""
    return measurement.details["of"], measurement.details["row"]


def compression_table(compressed: CompressedModel) -> Table:
    """Return a table with score, time and size of every variant of one model."""
    first, rows = compressed.times[0], []
    for score, timed, size in zip(compressed.scores, compressed.times, compressed.sizes, strict=True):
        details, difference = score.details, score.details["difference"]
        low, high = details["interval"]
        is_first = score is compressed.scores[0]
        lost = details["held_out"] - details["held_out_first"]
        marks = SUBSET * score.is_subset + WARNING * bool(details["warnings"])
        rows.append(
            TableRow("measured", (
                Cell(score.model, f" {CHOSEN}" * details["best"], details["note"]),
                Cell(points(score.value), marks, f"{points(low)} to {points(high)}"),
                Cell(NOTHING if is_first else signed(difference["value"])),
                Cell(NOTHING if is_first else format_p(difference["p"])),
                Cell(NOTHING if is_first else signed(lost)),
                Cell(f"{timed.details['p50_ms']:.2f}/{timed.details['p90_ms']:.2f}", WARNING * timed.details["noisy"]),
                Cell(f"{first.value / timed.value:.2f}×"),
                Cell(f"{size.value / 1e6:.1f}"),
                Cell(f"{size.details['parameters'] / 1e6:.1f} M"),
            ))
        )  # fmt: skip
    title = f"{TITLES.get(compressed.row, compressed.row)} on {compressed.task.title}, compressed"
    caption = (
        f"Each variant of the model: {compressed.task.headline} on {compressed.scores[0].split}, in points, and "
        "milliseconds an input at its true length on one core."
    )
    return Table(f"compress-{compressed.task.name}", title, caption, COLUMNS, tuple(rows), tuple(_notes(compressed)))


def _notes(compressed: CompressedModel) -> list[str]:
    score, timed = compressed.scores[0], compressed.times[0]
    notes = [
        f"{CHOSEN} the variant in the folder `best`.",
        f"Held out: the change on {score.details['held_out_examples']:,} train examples that chose the variant.",
        f"Small: 95 % interval over {score.examples:,} examples; p: paired bootstrap against the first variant.",
        f"Timed on {timed.environment.get('cpu') or 'an unnamed CPU'}: {timed.examples:,} inputs, one thread on one "
        f"pinned core, all variants in turn, {timed.details['rounds']} rounds.",
    ]
    if timed.details.get("clock") == "core":
        notes.append("Milliseconds of core time, without that of other programs: compare them only with each other.")
    if any(m.is_subset for m in compressed.scores):
        notes.append(f"{SUBSET} {score.examples:,} of {score.examples_total:,} examples.")
    notes += note_on_lengths((compressed.task.title, m) for m in compressed.scores)
    noisy = [m.model for m in compressed.times if m.details["noisy"]]
    if noisy:
        notes.append(f"{WARNING} the rounds differ by more than 10 %: {', '.join(noisy)}.")
    warned = [f"{m.model}: {', '.join(m.details['warnings'])}" for m in compressed.scores if m.details["warnings"]]
    return [*notes, *(f"{WARNING} {text}" for text in warned)]


def tradeoffs(compressed: CompressedModel) -> list[Tradeoff]:
    """Return the variants as points of a figure."""
    return [
        Tradeoff(score.model, timed.value, 100 * score.value, tuple(100 * end for end in score.details["interval"]),
                 score.details["best"])
        for score, timed in zip(compressed.scores, compressed.times, strict=True)
    ]  # fmt: skip


def verdict(compressed: CompressedModel) -> str:
    """Compare the chosen variant with the original model, in a sentence."""
    chosen = compressed.chosen
    score, first = compressed.scores[chosen], compressed.scores[0]
    speed_up = compressed.times[0].value / compressed.times[chosen].value
    share = 100 * compressed.sizes[chosen].value / compressed.sizes[0].value
    return (
        f"Compressed for {compressed.task.title}, it is {speed_up:.1f} times as fast on one core, its file has "
        f"{share:.0f} % of the size, and it scores {points(score.value)} points instead of {points(first.value)}."
    )
