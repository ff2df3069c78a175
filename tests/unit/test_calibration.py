"""How far probabilities can be trusted, by hand; the surest errors and the confusion matrix."""

import numpy as np
import pytest

from tinydistilbert.report.calibration import (
    agreement,
    calibration_lines,
    confusion_table,
    expected_calibration_error,
    wilson,
)
from tinydistilbert.report.chosen import Answers, ChosenAnswers
from tinydistilbert.report.surest import surest_errors


def answers(classes: list[int], confidence: list[float]) -> Answers:
    probabilities = np.array([[c, 1 - c] if k == 0 else [1 - c, c] for k, c in zip(classes, confidence, strict=True)])
    return Answers(np.array(classes), probabilities)


def test_the_calibration_error_is_the_mean_distance_of_confidence_and_accuracy() -> None:
    confidence, right = np.array([0.95, 0.95, 0.65, 0.65]), np.array([True, False, True, True])
    assert expected_calibration_error(confidence, right) == pytest.approx(0.5 * 0.45 + 0.5 * 0.35)
    assert expected_calibration_error(np.array([1.0, 1.0]), np.array([True, True])) == 0


def test_the_lowest_threshold_with_enough_agreement() -> None:
    confidence = np.array([0.9, 0.6, 0.8, 0.7, 0.7])
    agrees = np.array([True, True, True, True, False])
    found = agreement(confidence, agrees, wanted=0.98)
    assert found and (found.threshold, found.examples, found.agreeing, found.total) == (0.8, 2, 2, 5)
    assert found.share == 0.4, "both answers of one confidence are in, or none"
    low, high = found.interval
    assert 0.1 < low < 0.4 < high < 0.8
    assert agreement(confidence, ~agrees | True) and agreement(confidence, agrees & False) is None
    loose = agreement(confidence, agrees, wanted=0.8)
    assert loose and loose.threshold == 0.6 and loose.examples == 5


def test_wilsons_interval_as_published() -> None:
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998, table I, method 3
    assert wilson(0, 20)[0] == pytest.approx(0, abs=1e-12)


def test_errors_by_confidence_side_by_side() -> None:
    chosen = ChosenAnswers(
        np.array([0, 0, 1, 1]), answers([1, 0, 0, 1], [0.6, 0.9, 0.8, 0.95]),
        answers([0, 1, 0, 1], [0.9, 0.7, 0.9, 0.9]),
        ("bad", "good"), [("a",), ("b",), ("c",), ("d",)],
    )  # fmt: skip
    student, teacher = surest_errors(chosen)
    assert [(e.text, e.label, e.student, e.teacher) for e in student.errors] == [
        ("c", "good", "bad (80 %)", "bad (90 %)"), ("a", "bad", "good (60 %)", "bad (90 %)"),
    ]  # fmt: skip
    assert [error.teacher_is_right for error in student.errors] == [False, True]
    assert [error.text for error in teacher.errors] == ["c", "b"] and teacher.count == 2
    table = confusion_table(chosen)
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["bad", "1", "1"], ["good", "1", "1"]]
    lines = calibration_lines(chosen)
    assert "the teacher’s" in lines[0] and "at least 95.0 % sure" in lines[1] and "25 % of the inputs" in lines[1]


def test_of_many_classes_the_most_frequent_confusions() -> None:
    labels = np.arange(20)
    classes = np.where(labels < 2, 2, labels)
    chosen = ChosenAnswers(labels, Answers(classes, np.eye(20)[classes]), None, tuple("abcdefghijklmnopqrst"), None)
    table = confusion_table(chosen)
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["a", "c", "1"], ["b", "c", "1"]]
    assert surest_errors(chosen) == [] and len(calibration_lines(chosen)) == 1
