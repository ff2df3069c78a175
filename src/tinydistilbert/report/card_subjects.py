"""The models of a run that get a card: fine-tuned ones and the chosen variants of compressed ones."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from tinydistilbert import results
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report import scores
from tinydistilbert.report.card_text import escaped
from tinydistilbert.report.compression import CompressedModel, compressed_models
from tinydistilbert.report.kept import TeacherAboveMajority, teacher_above_majority
from tinydistilbert.report.scores import WARNING, row_title
from tinydistilbert.report.speed import measured_seconds
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import RunFolder, run_of_task_model
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.base import Task


@dataclass(frozen=True)
class RunFacts:
    """What a run knows about its models."""

    folder: RunFolder
    recipe: Recipe
    measurements: tuple[Measurement, ...]

    @classmethod
    def read(cls, run: Path) -> "RunFacts":
        """Read the facts of a run folder, finished or not."""
        folder = RunFolder(run)
        measured = results.read(folder.results) if folder.results.is_file() else []
        return cls(folder, toml.load(str(folder.recipe)), tuple(measured))

    @cached_property
    def tasks(self) -> Mapping[str, Task]:
        """The tasks by name."""
        return tasks_of(self.recipe.finetune)

    @cached_property
    def scores(self) -> scores.ScoresByRow:
        """All scores."""
        return scores.collect(self.measurements)

    @cached_property
    def above(self) -> TeacherAboveMajority:
        """The tasks on which the teacher is above the majority baseline."""
        return teacher_above_majority(self.measurements, self.tasks)

    @cached_property
    def compressed(self) -> Mapping[str, CompressedModel]:
        """The compressed models by task."""
        return {one.task.name: one for one in compressed_models(self.measurements, self.tasks)}


@dataclass(frozen=True)
class CardSubject:
    """The model that a card is about."""

    folder: Path
    title: str
    task: Task
    row: str
    measured: tuple[Measurement, ...] = ()
    """Its scores, the headline first."""
    speed: tuple[str, ...] = ()
    form: str = ""
    """How it was exported or compressed, as a list item."""
    scored_before: str = ""
    """For an export, why the scores are not of this very folder; empty if they are."""


def fine_tuned(facts: RunFacts) -> list[CardSubject]:
    """Return the task models of a run whose weights are there."""
    subjects = []
    for folder in facts.folder.all_task_models():
        made = run_of_task_model(folder)
        if made is None or not atomic.is_finished(folder) or atomic.is_released(folder):
            continue
        _, name, row = made
        if name not in facts.tasks:
            continue
        task, seed = facts.tasks[name], int(folder.parent.name.removeprefix("seed-"))
        measured = [m for m in facts.measurements if (m.model, m.task, m.seed) == (row, name, seed)]
        latest = {(m.split, m.metric): m for m in measured}
        title = f"{facts.recipe.name}: {task.title}, {row_title(row)}, seed {seed}"
        speed = _speed_of_row(facts, task, row, seed)
        subjects.append(CardSubject(folder, title, task, row, _ordered(task, latest.values()), speed))
    return subjects


def chosen(facts: RunFacts) -> list[CardSubject]:
    """Return the variants that the run's compressions chose."""
    subjects = []
    for name, compressed in facts.compressed.items():
        folder, place = facts.folder.compressed(name).best, compressed.chosen
        if not atomic.is_finished(folder):
            continue
        score, timed, size = compressed.scores[place], compressed.times[place], compressed.sizes[place]
        note = f" ({escaped(score.details['note'])})" if score.details.get("note") else ""
        form = f"compressed: {escaped(score.model)}{note}, of the row {escaped(row_title(compressed.row))}"
        title = f"{facts.recipe.name}: {compressed.task.title}, compressed"
        speed = (_timed(timed), f"{size.value / 1e6:.1f} MB; {size.details['parameters'] / 1e6:.1f} M weights")
        subjects.append(CardSubject(folder, title, compressed.task, compressed.row, (score,), speed, form))
    return subjects


def _ordered(task: Task, measured: Iterable[Measurement]) -> tuple[Measurement, ...]:
    """Return the finite scores of the task, its headline first."""
    finite = [m for m in measured if math.isfinite(m.value) and m.metric in task.metrics]
    return tuple(sorted(finite, key=lambda m: (m.split != finite[0].split, task.metrics.index(m.metric))))


def _speed_of_row(facts: RunFacts, task: Task, row: str, seed: int) -> tuple[str, ...]:
    compressed = facts.compressed.get(task.name)
    if compressed is not None and compressed.row == row and facts.recipe.finetune.seeds[0] == seed:
        return (_timed(compressed.times[0]), f"{compressed.sizes[0].value / 1e6:.1f} MB")
    timed = measured_seconds(facts.measurements).get((row, "cpu", "true-length"))
    if timed is None:
        return ()
    cpu = escaped(timed.environment.get("cpu") or "an unnamed CPU")
    return (f"its encoder takes {timed.details['p50_ms']:.1f} ms a pair of texts (median), on {cpu}",)


def _timed(timed: Measurement) -> str:
    cpu = escaped(timed.environment.get("cpu") or "an unnamed CPU")
    noisy = f" {WARNING} the rounds differ by more than 10 %" if timed.details.get("noisy") else ""
    p90 = timed.details["p90_ms"]
    return f"{timed.value:.2f} ms a text (median; p90 {p90:.2f}), one by one on one core of {cpu}{noisy}"
