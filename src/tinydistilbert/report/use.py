"""The model that a run is made for, in a few figures: what it keeps, its speed and size, and the cost of a text."""

import json
import math
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert.report import scores
from tinydistilbert.report.compression import TEACHER_SIZE, TEACHER_TIME, CompressedModel, compressed_models
from tinydistilbert.report.kept import kept_share, teacher_above_majority
from tinydistilbert.report.read import read_run
from tinydistilbert.report.scores import TEACHER
from tinydistilbert.report.table import METRICS, points
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.tasks import tasks_of

PRICE = 0.05
"""Dollars per core-hour as an example, about what clouds charge on demand."""
TEXTS = 1000


@dataclass(frozen=True)
class BestFacts:
    """The chosen variant of a compressed model."""

    model: Path
    name: str
    sentence: str
    lines: tuple[str, ...]
    as_data: Mapping[str, Any]
    code: str
    """Python code that asks the model, to show that it answers."""
    command: str
    """The same as a shell command."""


def facts_of_best(run: Path, task: str) -> BestFacts:
    """Return the facts of a finished compression in a run folder."""
    recipe, measurements = read_run(run)
    compressed = {one.task.name: one for one in compressed_models(measurements, tasks_of(recipe.finetune))}
    return best_facts(run, compressed[task], measurements)


def best_facts(run: Path, compressed: CompressedModel, measurements: Sequence[Measurement]) -> BestFacts:
    """Return the facts of the chosen variant.

    Args:
        run: the run folder.
        compressed: the model with its variants.
        measurements: measurements of the run; the teacher's score is among them, if there was a teacher.
    """
    place, task = compressed.chosen, compressed.task
    score, timed, size = compressed.scores[place], compressed.times[place], compressed.sizes[place]
    teacher_score = scores.of_task(scores.collect(measurements), TEACHER, task)
    majority, teacher = score.details["majority"], teacher_score.value if teacher_score else None
    is_sure = task.name in teacher_above_majority(measurements, {task.name: task}).beyond
    kept = kept_share(score.value, teacher, majority) if is_sure else None
    metric = METRICS.get(task.headline, task.headline)
    low, high = score.details["interval"]
    of_score = f"{metric} {points(score.value)} ({points(low)} to {points(high)}) on {score.examples:,} examples"
    speed = f"{timed.value:.2f} ms a text on one core"
    of_size = f"{size.value / 1e6:.1f} MB"
    against = ""
    if teacher is not None:
        of_score += f"; the teacher {points(teacher)}, the majority {points(majority)}"
        of_score += "" if is_sure else ", which the teacher does not beat beyond chance: what is kept cannot be said"
    if of_teacher := compressed.teacher.get(TEACHER_TIME):
        against = f", {of_teacher.value / timed.value:.1f} times as fast as the teacher in torch"
        speed += f"; the teacher in torch {of_teacher.value:.1f} ms"
    if of_teacher := compressed.teacher.get(TEACHER_SIZE):
        of_size += f"; the teacher {of_teacher.value / 1e6:.0f} MB"
    seconds = TEXTS * timed.details["mean_ms"] / 1000 if "mean_ms" in timed.details else TEXTS * timed.value / 1000
    dollars = f"{_dollars(seconds / 3600 * PRICE)} $ where a core costs {PRICE} $ an hour"
    cost = f"{seconds:.1f} core-seconds for {TEXTS:,} texts, one by one: {dollars}"
    keeps = (
        f"keeps {100 * kept:z.1f} % of the teacher’s score above the majority"
        if kept is not None
        else (f"scores {points(score.value)} points")
    )
    best = RunFolder(run).compressed(task.name).best
    example = [f'"{text}"' for text in task.example[: 2 if task.text_pair else 1]]
    asked = " ".join(example)
    path = best.as_posix()  # Windows' own form has backslashes, which begin escapes in a string of Python
    opened = f"model = tinydistilbert.load({json.dumps(path, ensure_ascii=False)})"
    code = f"import tinydistilbert\n\n{opened}\nprint(model.predict({', '.join(example)}))"
    data = {
        "variant": score.model, "metric": task.headline, "score": score.value, "interval": [low, high],
        "teacher": teacher, "majority": majority, "kept": kept, "milliseconds": timed.value, "bytes": size.value,
        "core_seconds_per_1000": seconds,
    }  # fmt: skip
    return BestFacts(
        best, score.model,
        f"The {score.model} model {keeps}, takes {timed.value:.2f} ms a text on one core{against}, and has "
        f"{size.value / 1e6:.1f} MB.",
        (of_score, speed, of_size, cost), data, code,
        f"tinydistilbert predict {shlex.quote(path)} {asked}",
    )  # fmt: skip


def _dollars(value: float) -> str:
    """Return the amount with two significant digits, without an exponent."""
    return f"{value:.{max(2, 1 - math.floor(math.log10(value)))}f}" if value > 0 else "0"
