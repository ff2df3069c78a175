"""Checks that a given teacher's predictions match the labels of the train examples, before a student learns from it.

Its logits exist before the training. A teacher whose outputs are mapped to the wrong classes teaches nonsense. The
labels reveal that, and may show which other order of the outputs is right.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from tinydistilbert.errors import UserError
from tinydistilbert.models.task_head import listed
from tinydistilbert.notices import notice
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.words import WORDS

MIN_GAIN = 0.1
"""Share of the examples by which another order must beat the given one to count as better."""
DEVIATIONS = 2
"""Standard deviations by which a difference must exceed chance."""


def check_teacher(
    where: str, logits: NDArray[np.float64], examples: Examples, *, order: Sequence[int], is_given: bool
) -> None:
    """Compare a teacher's logits with the labels of the examples that have one.

    Args:
        where: the teacher, for messages.
        logits: (n, classes) in the order of the task's classes, (n, 1) scores, or (words, tags) of all texts
            concatenated, NaN for words that were not read.
        examples: of a classification, multi-label, regression or token classification task.
        order: for each class, the teacher's output that stands for it.
        is_given: whether the user gave the order of the outputs; then doubts cause a notice, not an error.

    Raises:
        UserError: another order of the outputs is much better, or the logits are unrelated to the labels.
    """
    labels = examples.columns["label"]
    if examples.task.kind == "token-classification":
        rows = zip(labels, examples.columns[WORDS], strict=True)
        of_words = [tag for tags, words in rows for tag in ([None] * len(words) if tags is None else tags)]
        is_read = np.asarray(np.isfinite(logits).all(-1))
        logits, labels = logits[is_read], [tag for tag, read in zip(of_words, is_read, strict=True) if read]
    has_label = np.array([label is not None for label in labels])
    values = np.array([label for label in labels if label is not None])
    if not values.size:
        return
    if examples.task.kind == "regression":
        doubt = _doubt_about_scores(logits[has_label, 0], values.astype(np.float64))
    elif examples.task.kind == "multi-label":
        doubt = _doubt_about_labels(logits[has_label], values, examples.task.labels)
    else:
        names = examples.task.labels
        what = "words" if examples.task.kind == "token-classification" else "examples"
        doubt = _doubt_about_classes(logits[has_label].argmax(-1), values.astype(np.int64), names, order, what)
    if doubt is None:
        return
    if is_given or not doubt.is_sure:
        notice(where, f"{doubt.problem}; it is used as it is")
        return
    raise UserError(where, problem=doubt.problem, fix=doubt.fix)


@dataclass(frozen=True)
class _Doubt:
    problem: str
    fix: str
    is_sure: bool


def _doubt_about_classes(
    predicted: NDArray[np.int64], labels: NDArray[np.int64], names: Sequence[str], order: Sequence[int],
    what: str,
) -> _Doubt | None:  # fmt: skip
    right, majority = predicted == labels, np.bincount(labels, minlength=len(names)).max() / len(labels)
    shown = f"its answers for {len(labels):,} train {what} are right in {right.mean():.1%}"
    if better := _better_order(predicted, labels, len(names)):
        in_other = np.asarray(better)[predicted] == labels
        of_outputs = [""] * len(order)
        for position, output in enumerate(order):
            of_outputs[output] = names[better[position]]
        problem = f"{shown}, and in {in_other.mean():.1%} if its outputs are {listed(of_outputs)}"
        return _Doubt(problem, f"give that order: {_as_setting(of_outputs)}", is_sure=True)
    if right.mean() > majority:
        return None
    problem = f"{shown}, not above the majority class's {majority:.1%}"
    return _Doubt(problem, "give a teacher fine-tuned on this task", is_sure=not _knows_something(predicted, labels))


def _as_setting(names: Sequence[str]) -> str:
    """Return how to give the classes: with a flag, or in a recipe if a comma or a space would split a name."""
    if all(re.fullmatch(r"[\w.+-]+", name) for name in names):
        return f"--teacher-labels {','.join(names)}"
    return f"finetune.distillation.teacher_labels = {json.dumps([*names], ensure_ascii=False)} in a recipe"


def _better_order(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> list[int] | None:
    """Return the class meant by each predicted class, if that is much better than the given order; else None.

    The order is found on one half of the examples and must be better on the other half, because among many orders some
    are better by chance.
    """
    halves = np.random.default_rng(0).permutation(len(labels)) % 2 == 0
    order = np.asarray(_best_order(predicted[halves], labels[halves], classes))
    as_it_is, in_order = predicted[~halves] == labels[~halves], order[predicted[~halves]] == labels[~halves]
    gain, differing = int(in_order.sum()) - int(as_it_is.sum()), int((in_order != as_it_is).sum())
    if not gain or gain < DEVIATIONS * np.sqrt(differing) or gain < MIN_GAIN * len(in_order):
        return None
    return _best_order(predicted, labels, classes)


def _best_order(predicted: NDArray[np.int64], labels: NDArray[np.int64], classes: int) -> list[int]:
    confusion = np.zeros((classes, classes))
    np.add.at(confusion, (predicted, labels), 1)
    # Of equally good orders, take the one that changes least: a class that is never predicted stays where it is.
    rows, columns = linear_sum_assignment(confusion + 0.5 / classes * np.eye(classes), maximize=True)
    assert (rows == np.arange(classes)).all()
    return [int(column) for column in columns]


def _knows_something(predicted: NDArray[np.int64], labels: NDArray[np.int64]) -> bool:
    """Return whether predictions match labels more often than by chance, though less often than the majority class."""
    right = float((predicted == labels).mean())
    of_predicted, of_labels = (np.bincount(v, minlength=labels.max() + 1) / len(v) for v in (predicted, labels))
    size = min(len(of_predicted), len(of_labels))
    by_chance = float(of_predicted[:size] @ of_labels[:size])
    return bool(right - by_chance > DEVIATIONS * np.sqrt(by_chance * (1 - by_chance) / len(labels)))


def _doubt_about_labels(logits: NDArray[np.float64], labels: NDArray[Any], names: Sequence[str]) -> _Doubt | None:
    """Return a doubt unless each label's logits are higher for texts that have it, beyond chance."""
    correlations = [
        float(np.corrcoef(column, gold)[0, 1])
        for column, gold in zip(logits.T, labels.T, strict=True)
        if gold.std() and column.std()
    ]
    if len(labels) < 3 or not correlations:
        return None
    mean = float(np.mean(correlations))
    if mean > DEVIATIONS / np.sqrt(len(labels) * len(correlations)):
        return None
    problem = (
        f"its logits of {len(names)} labels have a mean correlation of {mean:.2f} with those of the train examples"
    )
    return _Doubt(problem, "give a teacher fine-tuned on this task, with its labels", is_sure=True)


def _doubt_about_scores(scores: NDArray[np.float64], labels: NDArray[np.float64]) -> _Doubt | None:
    if not labels.std() or len(labels) < 3:
        return None
    error = float(((scores - labels) ** 2).mean())
    if error < labels.var():
        return None
    spread = float(scores.std())
    correlation = float(np.corrcoef(scores, labels)[0, 1]) if spread > 0 else 0.0
    fix = "give a teacher fine-tuned on these labels"
    if correlation <= DEVIATIONS / np.sqrt(len(labels)):
        problem = (
            f"its scores of {len(labels):,} train examples have a correlation of {correlation:.2f} with the labels"
        )
        return _Doubt(problem, fix, is_sure=True)
    problem = (
        f"its scores (mean {scores.mean():,.4g}, deviation {spread:,.4g}) are further from the labels (mean "
        f"{labels.mean():,.4g}, deviation {labels.std():,.4g}) than a constant would be: does it use other units?"
    )
    return _Doubt(problem, fix, is_sure=True)
