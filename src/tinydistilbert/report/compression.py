"""What each rung of a compression gave: score, time and size, as a table and a figure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.report.figures import Tradeoff
from tinydistilbert.report.scores import SUBSET, TITLES, WARNING
from tinydistilbert.report.table import NOTHING, Cell, Row, Table, p_words, points, signed
from tinydistilbert.results import Measurement
from tinydistilbert.tasks.base import Task

COMPRESS = "compress"
"""`task` of the measurements of a ladder."""
CHOSEN = "★"
TIMED, SIZE = "milliseconds", "bytes"
COLUMNS = ("Form", "Score", "Against the first", "p", "Held out", "p50/p90, ms", "Times as fast", "MB", "Parameters")


@dataclass(frozen=True)
class Ladder:
    """The rungs of one model, from the top."""

    task: Task
    row: str
    scores: tuple[Measurement, ...]
    times: tuple[Measurement, ...]
    sizes: tuple[Measurement, ...]


def ladders(measurements: Sequence[Measurement], tasks: Mapping[str, Task]) -> list[Ladder]:
    """The ladders among the measurements of a run, by task and row."""
    own = [m for m in measurements if m.task == COMPRESS]
    found = []
    for name, row in dict.fromkeys((m.details["of"], m.details["row"]) for m in own):
        rungs = sorted(
            (m for m in own if (m.details["of"], m.details["row"]) == (name, row)), key=lambda m: m.details["place"]
        )
        times, sizes = (tuple(m for m in rungs if m.metric == metric) for metric in (TIMED, SIZE))
        scores = tuple(m for m in rungs if m.metric not in (TIMED, SIZE))
        found.append(Ladder(tasks[name], row, scores, times, sizes))
    return found


def compression_table(ladder: Ladder) -> Table:
    """Score, time and size of every rung of one model."""
    first, rows = ladder.times[0], []
    for score, timed, size in zip(ladder.scores, ladder.times, ladder.sizes, strict=True):
        details, difference = score.details, score.details["difference"]
        low, high = details["interval"]
        is_first = score is ladder.scores[0]
        lost = details["held_out"] - details["held_out_first"]
        marks = SUBSET * score.is_subset + WARNING * bool(details["warnings"])
        rows.append(
            Row("measured", (
                Cell(score.model, f" {CHOSEN}" * details["best"], details["note"]),
                Cell(points(score.value), marks, f"{points(low)} to {points(high)}"),
                Cell(NOTHING if is_first else signed(difference["value"])),
                Cell(NOTHING if is_first else p_words(difference["p"])),
                Cell(NOTHING if is_first else signed(lost)),
                Cell(f"{timed.details['p50_ms']:.2f}/{timed.details['p90_ms']:.2f}", WARNING * timed.details["noisy"]),
                Cell(f"{first.value / timed.value:.2f}×"),
                Cell(f"{size.value / 1e6:.1f}"),
                Cell(f"{size.details['parameters'] / 1e6:.1f} M"),
            ))
        )  # fmt: skip
    title = f"{TITLES.get(ladder.row, ladder.row)} on {ladder.task.title}, compressed"
    caption = (
        f"Each form of the model: {ladder.task.headline} on {ladder.scores[0].split}, in points, and the milliseconds "
        "of one input at its true length on one core."
    )
    return Table(f"compress-{ladder.task.name}", title, caption, COLUMNS, tuple(rows), tuple(_notes(ladder)))


def _notes(ladder: Ladder) -> list[str]:
    score, timed = ladder.scores[0], ladder.times[0]
    notes = [
        f"{CHOSEN} the form that is kept in the folder `best`.",
        f"Held out: the change on {score.details['held_out_examples']:,} train examples, by which all was chosen.",
        f"Small: 95 % interval over {score.examples:,} examples; p: paired bootstrap against the first form.",
        f"Timed on {timed.environment.get('cpu') or 'an unnamed CPU'}: {timed.examples:,} inputs, one thread, one "
        f"pinned core, all forms in turns, {timed.details['rounds']} rounds.",
    ]
    if any(m.is_subset for m in ladder.scores):
        notes.append(f"{SUBSET} {score.examples:,} of {score.examples_total:,} examples.")
    noisy = [m.model for m in ladder.times if m.details["noisy"]]
    if noisy:
        notes.append(f"{WARNING} the rounds differ by more than 10 %: {', '.join(noisy)}.")
    warned = [f"{m.model}: {', '.join(m.details['warnings'])}" for m in ladder.scores if m.details["warnings"]]
    return [*notes, *(f"{WARNING} {text}" for text in warned)]


def tradeoffs(ladder: Ladder) -> list[Tradeoff]:
    """The rungs as points of a figure."""
    return [
        Tradeoff(score.model, timed.value, 100 * score.value, tuple(100 * end for end in score.details["interval"]),
                 score.details["best"])
        for score, timed in zip(ladder.scores, ladder.times, strict=True)
    ]  # fmt: skip


def verdict(ladder: Ladder) -> str:
    """What the chosen form came to against the model as it was, in a sentence."""
    place = next(place for place, m in enumerate(ladder.scores) if m.details["best"])
    score, first = ladder.scores[place], ladder.scores[0]
    faster = ladder.times[0].value / ladder.times[place].value
    share = 100 * ladder.sizes[place].value / ladder.sizes[0].value
    return (
        f"Compressed for {ladder.task.title}, it answers {faster:.1f} times as fast on one core, its file has "
        f"{share:.0f} % of the size, and it scores {points(score.value)} points instead of {points(first.value)}."
    )
