"""Predictions kept in run folders, those of two rows side by side, on the same examples in the same order."""

import operator
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from numpy.typing import NDArray

from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import metrics, sanity
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report.scores import CHOSEN_ON_REPORTED, COMPRESSED, MAJORITY, ROWS
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import EXAMPLE_HASH, MEASUREMENTS, RunFolder, predictions_file
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import HELD_OUT, entities, tasks_of
from tinydistilbert.tasks.base import Task

_ID = {True: "id", False: "row number"}
CHOSEN_NOTE = "its epoch was chosen on the scored examples themselves, so the score is too high"


@dataclass(frozen=True)
class ScoredRun:
    """A run folder and what was scored in it."""

    folder: Path
    recipe: Recipe
    scores: Mapping[str, Mapping[str, Mapping[int, Path]]]
    """Finished folders of scores, by task, row and seed."""

    @cached_property
    def tasks(self) -> dict[str, Task]:
        """The tasks that were scored, in the order of the recipe."""
        known = tasks_of(self.recipe.finetune)
        named = dict.fromkeys((*self.recipe.finetune.tasks, *self.recipe.compress.tasks))
        return {name: known[name] for name in named if name in self.scores}

    @property
    def rows(self) -> tuple[str, ...]:
        """The rows that were scored on any task, in the order of the tables."""
        scored = {row for name in self.tasks for row in self.scores[name]}
        return tuple(row for row in (*ROWS, COMPRESSED) if row in scored)


@dataclass(frozen=True)
class Side:
    """A row of a run."""

    run: Path
    row: str


@dataclass(frozen=True)
class Predicted:
    """The predictions of one row on one split, with every seed on the same examples."""

    side: Side
    ids: list[Any]
    gold: list[Any]
    """Class numbers, scores, 0 or 1 for each of several labels, the tags of the words, or a question's answers."""
    answers: dict[int, list[Any]]
    """Predictions by seed, in the forms of `gold`, or texts."""
    fingerprint: str
    """Fingerprint of the examples, texts included."""
    warnings: tuple[str, ...] = ()
    """The sanity warnings of all seeds."""
    hashes: tuple[str, ...] = ()
    """Hash of each example's texts and label; empty in scores of version 0.1."""


@dataclass(frozen=True)
class Pairing:
    """Two rows on the examples of a split on which both were scored."""

    task: Task
    split: str
    first: Predicted
    second: Predicted
    whole: tuple[int, int]
    """Number of examples on which each was scored, shared or not."""

    @property
    def same_data(self) -> bool:
        """Whether the shared examples have the same texts on both sides, by their hashes or the hash of all of them."""
        are_known = bool(self.first.hashes and self.second.hashes)  # otherwise `pair` has refused them
        return are_known or self.first.fingerprint == self.second.fingerprint

    @property
    def labels(self) -> NDArray[Any]:
        """(n,) classes or scores, (n, labels) of several labels; zeros if answers or entities are scored one by one."""
        if self.task.kind == "token-classification":
            return np.zeros((len(self.first.ids), 3))
        return np.zeros(len(self.first.ids)) if self.task.kind == "span" else np.array(self.first.gold)

    @cached_property
    def _spans(self) -> list[dict[str, NDArray[np.float64]]]:
        stacked = []
        for predicted in (self.first, self.second):
            units = self.task.answer_units
            each = [metrics.squad_scores(texts, predicted.gold, units) for texts in predicted.answers.values()]
            stacked.append({name: np.stack([scores[name] for scores in each]) for name in self.task.metrics})
        return stacked

    @cached_property
    def _entities(self) -> list[NDArray[np.int64]]:
        """(seeds, n, 3) of each side; see `Predictions.values`."""
        return [
            np.array(
                [
                    [entities.counts(*pair) for pair in zip(predicted.gold, tags, strict=True)]
                    for tags in predicted.answers.values()
                ]
            )
            for predicted in (self.first, self.second)
        ]

    def predictions(self, metric: str) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return each side's (seeds, n): classes, scores, or for spans the metric of each answer; (seeds, n, labels).

        For token classification, (seeds, n, 3) counts of entities.
        """
        if self.task.kind == "token-classification":
            return self._entities[0], self._entities[1]
        if self.task.kind == "span":
            return self._spans[0][metric], self._spans[1][metric]
        return np.array(list(self.first.answers.values())), np.array(list(self.second.answers.values()))

    def right(self) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Return each side's (seeds, n): whether an example is right, with all of its labels; not for regression.

        A text with entities is right if exactly these are predicted.
        """
        assert self.task.kind != "regression", "scores are near or far, not right or wrong"
        wanted = np.ones(len(self.first.ids)) if self.task.kind == "span" else self.labels
        first, second = self.predictions("exact_match")
        if self.task.kind == "token-classification":
            return (first == first[..., :1]).all(-1), (second == second[..., :1]).all(-1)
        if self.task.kind == "multi-label":
            return (first == wanted).all(-1), (second == wanted).all(-1)
        return first == wanted, second == wanted


def scored_run(folder: Path, recipe: Recipe | None = None, *, compressed: bool = False) -> ScoredRun:
    """Return a run's finished scores, checked against their manifests; `recipe` saves reading it again.

    With `compressed`, the row `COMPRESSED` is among them: the predictions of the variants that compressions chose.

    Raises:
        UserError: no run folder, or one without scores, or a file in it that differs from how it was written.
    """
    where, fix = str(folder), "give the folder that `tinydistilbert replicate` or `finetune` wrote"
    if recipe is None:
        if not RunFolder(folder).recipe.is_file():
            raise UserError(where, expected="a run folder with recipe.toml", found="none", fix=fix)
        recipe = toml.load(str(RunFolder(folder).recipe))
    scores: dict[str, dict[str, dict[int, Path]]] = {}
    for path in RunFolder(folder).all_scores():
        facts = atomic.read_manifest(path)
        scores.setdefault(facts["task"], {}).setdefault(facts["row"], {})[facts["seed"]] = path
    summaries = {name: RunFolder(folder).compressed(name).summary for name in recipe.compress.tasks}
    finished = {name: summary for name, summary in summaries.items() if atomic.is_finished(summary)}
    for name, summary in finished.items() if compressed else ():
        atomic.read_manifest(summary)
        scores.setdefault(name, {})[COMPRESSED] = {recipe.seed: summary}
    run = ScoredRun(folder, recipe, scores)
    if not run.tasks:
        fix = f"compare {folder}:{COMPRESSED}" if finished else "run it up to `evaluate` first"
        raise UserError(where, expected="a run with scored tasks", found="none", fix=fix)
    return run


def splits_of(run: ScoredRun, task: str, row: str) -> list[str]:
    """Return the splits on which every seed of a row has predictions."""
    scores = run.scores[task][row].values()
    splits = sorted((*run.tasks[task].evaluation, HELD_OUT))
    return [split for split in splits if all(_file(folder, row, split).is_file() for folder in scores)]


def _file(folder: Path, row: str, split: str) -> Path:
    """Return the file with a row's predictions on a split; there is none where the row was not scored on it."""
    measured = _measured(folder, row, split) if row == COMPRESSED else []
    return folder / predictions_file(measured[0].details["place"] if measured else split)


def _measured(folder: Path, row: str, split: str) -> list[Measurement]:
    """Return the measurements of a row on a split; a compression's folder has those of its other variants, too."""
    of_split = [m for m in results.read(folder / MEASUREMENTS) if m.split == split]
    return [m for m in of_split if m.details.get("best")] if row == COMPRESSED else of_split


def read_predicted(run: ScoredRun, task: Task, row: str, split: str) -> Predicted:
    """Return the predictions of a row on a split.

    Raises:
        UserError: a file that cannot be read, an example with two predictions, or seeds with different examples.
    """
    columns = ["id", "answers", "prediction_text"] if task.kind == "span" else ["idx", "label", "prediction"]
    hashes: tuple[str, ...] | None = None
    ids: list[Any] = []
    gold: list[Any] = []
    answers: dict[int, list[Any]] = {}
    warnings: dict[str, None] = {}
    fingerprint, fix = "", "delete this folder and run `tinydistilbert evaluate` again"
    for seed, folder in sorted(run.scores[task.name][row].items()):
        path = _file(folder, row, split)
        try:
            table = pyarrow.parquet.read_table(path)
            of_seed = tuple(table[EXAMPLE_HASH].to_pylist()) if EXAMPLE_HASH in table.column_names else ()
            table = table.select(columns)
        except (pa.ArrowException, OSError, KeyError) as error:
            expected = f"predictions in the columns {', '.join(columns)}"
            raise UserError(str(path), expected=expected, found=str(error), fix=fix) from None
        seed_ids, labels, answers[seed] = (table[name].to_pylist() for name in columns)
        if len(set(seed_ids)) < len(seed_ids):
            found = f"{len(seed_ids) - len(set(seed_ids))} more"
            raise UserError(str(path), expected="one prediction an example", found=found, fix=fix)
        if hashes is not None and (seed_ids, labels, of_seed) != (ids, gold, hashes):
            raise UserError(str(path), problem="its examples are not those of the other seeds", fix=fix)
        ids, gold, hashes = seed_ids, labels, of_seed
        for measured in _measured(folder, row, split):
            fingerprint = measured.data_fingerprint
            warnings |= dict.fromkeys(measured.details.get("warnings", ()))
            if measured.details.get("selected", {}).get("by") in CHOSEN_ON_REPORTED:
                warnings[CHOSEN_NOTE] = None
    return Predicted(Side(run.folder, row), ids, gold, answers, fingerprint, tuple(warnings), hashes or ())


def majority_of(task: Task, predicted: Predicted) -> Predicted:
    """Return the majority baseline on the same examples: always the most frequent label or answer, or the mean.

    For words, the baseline predicts that they are in no entity.
    """
    constant: list[Any]
    if task.kind == "span":
        constant = [sanity.majority_answer(predicted.gold, task.answer_units)] * len(predicted.gold)
    elif task.kind == "token-classification":
        constant = [[entities.OUTSIDE] * len(tags) for tags in predicted.gold]
    else:
        constant = sanity.majority_predictions(
            np.array(predicted.gold, dtype=np.float64 if task.kind == "regression" else np.int64)
        ).tolist()
    return replace(predicted, side=Side(predicted.side.run, MAJORITY), answers={0: constant}, warnings=())


def pair(task: Task, split: str, first: Predicted, second: Predicted) -> Pairing:
    """Return both sides on the examples that they share, in the order of the first.

    Raises:
        UserError: no example is shared, or a shared one has a different label or text on the other side.
    """
    where = f"{task.title} ({split}) of {first.side.run} and {second.side.run}"
    fix = "compare runs that were scored on the same data"
    if task.is_made and first.fingerprint != second.fingerprint:  # their ids are numbers, not names
        same = "corpus, seed" if task.is_synthetic else "version of Python"
        fix = f"score both with the same {same} and finetune.validation_examples"
        raise UserError(where, problem="the examples were made from different texts", fix=fix)
    rows_in_second = {name: row for row, name in enumerate(second.ids)}
    shared = [(row, rows_in_second[name]) for row, name in enumerate(first.ids) if name in rows_in_second]
    if not shared:
        raise UserError(where, problem="no example was scored on both sides", fix=fix)
    one, other = (_taken(p, [pairs[side] for pairs in shared]) for side, p in enumerate((first, second)))
    for name, label, other_label in zip(one.ids, one.gold, other.gold, strict=True):
        if label != other_label:
            found = f"{label!r} and {other_label!r} for example {name}"
            raise UserError(where, expected="the same labels", found=found, fix=fix)
    if one.hashes and other.hashes and (others := sum(map(operator.ne, one.hashes, other.hashes))):
        problem = f"{others:,} of {len(shared):,} examples with the same {_ID[task.kind == 'span']} have other texts"
        raise UserError(where, problem=problem, fix=fix)
    return Pairing(task, split, one, other, (len(first.ids), len(second.ids)))


def _taken(predicted: Predicted, rows: list[int]) -> Predicted:
    def take(values: list[Any]) -> list[Any]:
        return [values[row] for row in rows]

    answers = {seed: take(values) for seed, values in predicted.answers.items()}
    hashes = tuple(take([*predicted.hashes])) if predicted.hashes else ()
    return replace(predicted, ids=take(predicted.ids), gold=take(predicted.gold), answers=answers, hashes=hashes)
