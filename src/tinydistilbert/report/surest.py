"""The errors a model was most certain of, with its teacher's answers to the same texts, and the teacher's errors."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.report.chosen import Answers, ChosenAnswers
from tinydistilbert.report.examples import around
from tinydistilbert.tasks.base import NO_LABELS

SHOWN = 6


@dataclass(frozen=True)
class SurestError:
    """One error, and both answers to its text."""

    text: str
    label: str
    student: str
    teacher: str
    student_is_right: bool
    teacher_is_right: bool


@dataclass(frozen=True)
class SurestErrors:
    """The most certain errors of student or teacher."""

    title: str
    errors: tuple[SurestError, ...]
    count: int
    """Number of all its errors."""


def surest_errors(answers: ChosenAnswers) -> list[SurestErrors]:
    """Return those of the student and of the teacher; nothing if texts or teacher's answers are unknown."""
    if answers.texts is None or answers.teacher is None:
        return []
    groups = []
    for title, side in (("Of the small model", answers.student), ("Of the teacher", answers.teacher)):
        wrong = np.flatnonzero(~side.equals(answers.labels))
        order = wrong[np.argsort(-_sureness(answers, side)[wrong], kind="stable")][:SHOWN]
        groups.append(SurestErrors(title, tuple(_error(answers, int(index)) for index in order), len(wrong)))
    return groups


def _sureness(answers: ChosenAnswers, side: Answers) -> NDArray[np.float64]:
    """Return how certain an answer is; for several labels, the most certain of the wrong ones."""
    if not answers.are_several:
        return side.confidence
    return np.asarray(np.where(side.classes != answers.labels, side.certainty, 0.0).max(-1))


def _error(answers: ChosenAnswers, index: int) -> SurestError:
    assert answers.texts is not None and answers.teacher is not None, "asked before"
    label = answers.labels[index]
    named = _labels_in_words(answers, label == 1) if answers.are_several else answers.names[label]
    return SurestError(
        " ‖ ".join(around(text, "")[0] for text in answers.texts[index]), named,
        _answer(answers, answers.student, index), _answer(answers, answers.teacher, index),
        bool(answers.student.equals(answers.labels)[index]), bool(answers.teacher.equals(answers.labels)[index]),
    )  # fmt: skip


def _answer(answers: ChosenAnswers, side: Answers, index: int) -> str:
    if answers.are_several:
        return _given(answers, side, index)
    answer = int(side.classes[index])
    name = answers.names[answer] if answer >= 0 else "none"
    return f"{name} ({100 * side.confidence[index]:.0f} %)"


def _given(answers: ChosenAnswers, side: Answers, index: int) -> str:
    """Return the labels that were given, and those that should have been, with their probabilities."""
    given, gold = side.classes[index] == 1, answers.labels[index] == 1
    percent = [f"{100 * probability:.0f} %" for probability in side.probabilities[index]]
    missing = [f"not {answers.names[label]} ({percent[label]})" for label in np.flatnonzero(gold & ~given).tolist()]
    return "; ".join([_labels_in_words(answers, given, percent), *missing])


def _labels_in_words(answers: ChosenAnswers, given: NDArray[np.bool_], percent: Sequence[str] = ()) -> str:
    names = [
        answers.names[label] + (f" ({percent[label]})" if percent else "") for label in np.flatnonzero(given).tolist()
    ]
    return ", ".join(names) or NO_LABELS
