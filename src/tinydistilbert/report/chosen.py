"""The predictions of a compression's chosen variant and of its teacher on the same examples, read from a run folder."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet
from numpy.typing import NDArray

from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report.compression import CompressedModel
from tinydistilbert.report.disagreements import is_local
from tinydistilbert.run_folder import RunFolder, predictions_file
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.recipe_splits import recipe_examples


@dataclass(frozen=True)
class Answers:
    """What a model answered to examples of a classification."""

    classes: NDArray[np.int64]
    probabilities: NDArray[np.float64]
    """(n, classes)."""

    @property
    def confidence(self) -> NDArray[np.float64]:
        """The probability of the class that was answered."""
        return np.asarray(self.probabilities.max(-1))


@dataclass(frozen=True)
class ChosenAnswers:
    """Answers of the chosen variant and, where it was scored on the same examples, of the teacher."""

    labels: NDArray[np.int64]
    student: Answers
    teacher: Answers | None
    names: tuple[str, ...]
    """Of the classes; their numbers where the data is not at hand."""
    texts: list[tuple[str, ...]] | None
    """None where the data is not at hand."""


def chosen_answers(run: Path, recipe: Recipe, compressed: CompressedModel) -> ChosenAnswers | None:
    """The answers of a classification; None of other kinds, and where a file is not there or has no probabilities."""
    if compressed.task.kind != "classification":
        return None
    folder, score = RunFolder(run), compressed.scores[compressed.chosen]
    name = compressed.task.name
    file = folder.compressed(name).summary / predictions_file(compressed.chosen)
    student = _read(file)
    if student is None:
        return None
    teacher = next(
        (
            found
            for scores in folder.scores_of_seeds(name, "teacher")
            if atomic.is_finished(scores) and (found := _read(scores / predictions_file(score.split)))
        ),
        None,
    )
    ids, labels, answers = student
    of_teacher = teacher[2] if teacher and (teacher[0], teacher[1].tolist()) == (ids, labels.tolist()) else None
    examples = _examples(recipe, compressed, score.data_fingerprint, score.split)
    count = answers.probabilities.shape[1]
    names = examples.task.labels if examples else tuple(map(str, range(count)))
    return ChosenAnswers(labels, answers, of_teacher, names, examples.texts if examples else None)


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
    """The scored examples, if their data is on this machine and still the same."""
    if not is_local(recipe, compressed.task):
        return None
    try:
        limit = recipe.finetune.settings(compressed.task.name).validation_examples
        examples = recipe_examples(recipe, compressed.task, split, limit=limit)
    except ValueError:  # missing or changed since
        return None
    return examples if examples.fingerprint == fingerprint else None
