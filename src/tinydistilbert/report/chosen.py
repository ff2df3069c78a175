"""The predictions of a compression's chosen variant and of its teacher on the same examples, read from a run folder.

Arrays have one number per example, or for several labels per text a row with one number per label.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from tinydistilbert import results
from tinydistilbert.models.runtimes import AGREEMENT, exported_facts
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report.compression import CompressedModel
from tinydistilbert.report.disagreements import is_local
from tinydistilbert.run_folder import MEASUREMENTS, RunFolder, predictions_file
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.label_thresholds import stored_label_thresholds
from tinydistilbert.tasks.recipe_splits import recipe_examples

KINDS = ("classification", "multi-label")


@dataclass(frozen=True)
class Answers:
    """A model's answers to examples."""

    classes: NDArray[np.int64]
    """(n,), or (n, labels) of 0 and 1."""
    probabilities: NDArray[np.float64]
    """(n, classes), or (n, labels)."""
    thresholds: NDArray[np.float64] | None = None
    """For several labels: the probability from which on each is given."""

    @property
    def certainty(self) -> NDArray[np.float64]:
        """For several labels, (n, labels): distance of each from its threshold, as a share of the largest possible one.

        A threshold of 0.1 is near a probability of 0.15, although a label that is given with 0.15 is not probable.
        """
        assert self.thresholds is not None, "asked of several labels alone"
        thresholds, given = self.thresholds, self.classes == 1
        room = np.where(given, 1 - thresholds, thresholds)
        return np.asarray(np.abs(self.probabilities - thresholds) / np.maximum(room, 1e-12)).clip(0, 1)

    @property
    def confidence(self) -> NDArray[np.float64]:
        """(n,): the probability of the answered class; for several labels, the smallest certainty."""
        return np.asarray(self.probabilities.max(-1) if self.thresholds is None else self.certainty.min(-1))

    def equals(self, classes: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return (n,): whether each answer equals these classes; for several labels, whether all of its labels do."""
        equal = self.classes == classes
        return np.asarray(equal if self.thresholds is None else equal.all(-1))


@dataclass(frozen=True)
class ChosenAnswers:
    """The answers of the chosen variant and, if it was scored on the same examples, of the teacher."""

    labels: NDArray[np.int64]
    student: Answers
    teacher: Answers | None
    names: tuple[str, ...]
    """Names of the classes; their numbers if the data is not available."""
    texts: list[tuple[str, ...]] | None
    """None if the data is not available."""
    stored_agreement: Mapping[str, Any] | None = None
    """The entry in the variant's folder about its agreement with the teacher: the threshold below which `serve`
    defers."""

    @property
    def are_several(self) -> bool:
        """Whether a text may have several labels."""
        return self.labels.ndim == 2


def chosen_answers(run: Path, recipe: Recipe, compressed: CompressedModel) -> ChosenAnswers | None:
    """Return the answers to a task of `KINDS`; None for others, and if a file is missing or has no probabilities."""
    if compressed.task.kind not in KINDS:
        return None
    folder, score = RunFolder(run), compressed.scores[compressed.chosen]
    name, several = compressed.task.name, compressed.task.kind == "multi-label"
    summary = folder.compressed(name)
    student = _read(summary.summary / predictions_file(compressed.chosen))
    if student is None:
        return None
    ids, labels, answers = student
    if several:
        answers = replace(answers, thresholds=_of_variant(summary.best, labels.shape[1]))
    teacher = next(
        (
            (predictions, scores)
            for scores in folder.scores_of_seeds(name, "teacher")
            if atomic.is_finished(scores) and (predictions := _read(scores / predictions_file(score.split)))
        ),
        None,
    )
    of_teacher = None
    if teacher and (teacher[0][0], teacher[0][1].tolist()) == (ids, labels.tolist()):
        (*_, of_teacher), scores = teacher
        if several:
            of_teacher = replace(of_teacher, thresholds=_of_scored(scores, score.split, labels.shape[1]))
    examples = _examples(recipe, compressed, score.data_fingerprint, score.split)
    count = answers.probabilities.shape[1]
    names = examples.task.labels if examples else tuple(map(str, range(count)))
    stored = exported_facts(summary.best).get(AGREEMENT) if (summary.best / CONFIG).is_file() else None
    return ChosenAnswers(labels, answers, of_teacher, names, examples.texts if examples else None, stored)


def _of_variant(folder: Path, labels: int) -> NDArray[np.float64]:
    """Return the thresholds in a model's config."""
    config = atomic.read_json(folder / CONFIG) if (folder / CONFIG).is_file() else {}
    return stored_label_thresholds(config, str(folder), labels)


def _of_scored(scores: Path, split: str, labels: int) -> NDArray[np.float64]:
    """Return the thresholds that a model was scored with."""
    details = next((m.details for m in results.read(scores / MEASUREMENTS) if m.split == split), {})
    return stored_label_thresholds(details, str(scores), labels)


def _read(file: Path) -> tuple[list[int], NDArray[np.int64], Answers] | None:
    if not file.is_file():
        return None
    table = pyarrow.parquet.read_table(file)
    if "probabilities" not in table.column_names:
        return None
    probabilities = np.array(table["probabilities"].to_pylist(), dtype=np.float64)
    if not np.isfinite(probabilities).all():
        return None
    labels, classes = (np.array(table[name].to_pylist(), dtype=np.int64) for name in ("label", "prediction"))
    return table["idx"].to_pylist(), labels, Answers(classes, probabilities)


def _examples(recipe: Recipe, compressed: CompressedModel, fingerprint: str, split: str) -> Examples | None:
    """Return the scored examples, if their data is on this machine and unchanged."""
    if not is_local(recipe, compressed.task):
        return None
    try:
        limit = recipe.finetune.settings(compressed.task.name).validation_examples
        examples = recipe_examples(recipe, compressed.task, split, limit=limit)
    except ValueError:  # missing or changed since
        return None
    return examples if examples.fingerprint == fingerprint else None
