"""The errors that a model was surest of, with what its teacher answered to the same text, and the teacher's."""

from dataclasses import dataclass

import numpy as np

from tinydistilbert.report.chosen import Answers, ChosenAnswers
from tinydistilbert.report.examples import around

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
    """The surest errors of one of the two."""

    title: str
    errors: tuple[SurestError, ...]
    count: int
    """Of all its errors."""


def surest_errors(answers: ChosenAnswers) -> list[SurestErrors]:
    """Those of the student and those of the teacher; nothing where the texts or the teacher's answers are not known."""
    if answers.texts is None or answers.teacher is None:
        return []
    groups = []
    for title, side in (("Of the small model", answers.student), ("Of the teacher", answers.teacher)):
        wrong = np.flatnonzero(side.classes != answers.labels)
        order = wrong[np.argsort(-side.confidence[wrong], kind="stable")][:SHOWN]
        groups.append(SurestErrors(title, tuple(_error(answers, int(index)) for index in order), len(wrong)))
    return groups


def _error(answers: ChosenAnswers, index: int) -> SurestError:
    assert answers.texts is not None and answers.teacher is not None, "asked before"
    label = int(answers.labels[index])
    return SurestError(
        " ‖ ".join(around(text, "")[0] for text in answers.texts[index]), answers.names[label],
        _answer(answers, answers.student, index), _answer(answers, answers.teacher, index),
        int(answers.student.classes[index]) == label, int(answers.teacher.classes[index]) == label,
    )  # fmt: skip


def _answer(answers: ChosenAnswers, side: Answers, index: int) -> str:
    answer = int(side.classes[index])
    name = answers.names[answer] if answer >= 0 else "none"
    return f"{name} ({100 * side.confidence[index]:.0f} %)"
