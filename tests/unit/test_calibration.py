"""How far probabilities can be trusted, by hand; the surest errors and the confusion matrix."""

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from tinydistilbert.report.calibration import (
    agreement,
    calibration_lines,
    confusion_table,
    expected_calibration_error,
    wilson,
)
from tinydistilbert.report.chosen import Answers, ChosenAnswers
from tinydistilbert.report.label_table import MOST_LABELS, label_table
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
    strict = agreement(confidence, agrees, wanted=0.98)
    assert strict and (strict.threshold, strict.examples, strict.agreeing, strict.total) == (0.8, 2, 2, 5)
    assert strict.share == 0.4, "both answers of one confidence are in, or none"
    low, high = strict.interval
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


def at_threshold(threshold: float | None) -> str:
    stored = {"threshold": threshold, "wanted": 0.98, "examples": 40, "agreeing": 39, "held_out": 50}
    chosen = ChosenAnswers(
        np.array([0, 0, 1, 1]), answers([1, 0, 0, 1], [0.6, 0.9, 0.8, 0.95]),
        answers([0, 1, 0, 1], [0.9, 0.7, 0.9, 0.9]), ("bad", "good"), None, stored,
    )  # fmt: skip
    return " ".join(calibration_lines(chosen)[1:])


def test_the_threshold_is_that_of_the_folder() -> None:
    """`serve` defers below it, so the page has no other; the scored examples did not choose it, and test it."""
    line = at_threshold(0.85)
    assert "at least 85.0 % sure" in line and "50.0 % of the answers (1 of 2)" in line and "50 % of the inputs" in line
    assert "50 held-out examples, where 39 of 40 answers agree" in line and "these same examples" not in line
    assert "not 99.0 % sure on any" in at_threshold(0.99)
    assert "At no confidence" in at_threshold(None) and "50 held-out" in at_threshold(None)


def test_of_many_classes_the_most_frequent_confusions() -> None:
    labels = np.arange(20)
    classes = np.where(labels < 2, 2, labels)
    chosen = ChosenAnswers(labels, Answers(classes, np.eye(20)[classes]), None, tuple("abcdefghijklmnopqrst"), None)
    table = confusion_table(chosen)
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["a", "c", "1"], ["b", "c", "1"]]
    assert surest_errors(chosen) == [] and len(calibration_lines(chosen)) == 1


THRESHOLDS = np.array([0.5, 0.2])


def of_labels(probabilities: list[list[float]]) -> Answers:
    given = np.array(probabilities)
    return Answers((given >= THRESHOLDS).astype(np.int64), given, THRESHOLDS)


@pytest.fixture
def several() -> ChosenAnswers:
    """Of four texts the third has both labels, the fourth none; the student errs on the last two."""
    return ChosenAnswers(
        np.array([[1, 0], [0, 1], [1, 1], [0, 0]]),
        of_labels([[0.9, 0.1], [0.2, 0.6], [0.4, 0.6], [0.3, 0.92]]),
        of_labels([[0.8, 0.05], [0.1, 0.7], [0.3, 0.7], [0.6, 0.1]]),
        ("toxic", "insult"), [("a",), ("b",), ("c",), ("d",)],
    )  # fmt: skip


def test_of_several_labels_the_least_certain_one_says_how_sure_a_model_is(several: ChosenAnswers) -> None:
    np.testing.assert_allclose(several.student.certainty, [[0.8, 0.5], [0.6, 0.5], [0.2, 0.5], [0.4, 0.9]], atol=1e-12)
    np.testing.assert_allclose(several.student.confidence, [0.5, 0.5, 0.2, 0.4], atol=1e-12)
    edge = Answers(np.array([[1, 1, 0]]), np.array([[0.3, 1.0, 0.4]]), np.array([0.0, 1.0, 1.0]))
    np.testing.assert_allclose(edge.certainty, [[0.3, 0.0, 0.6]])


def test_of_several_labels_every_probability_is_calibrated_and_all_labels_have_to_agree(several: ChosenAnswers) -> None:
    error, alike, sure = calibration_lines(several)
    wanted = expected_calibration_error(several.student.probabilities.ravel(), several.labels.ravel() == 1)
    assert f"{100 * wanted:.1f} points" in error and "8 probabilities" in error and "the teacher’s" in error
    assert "75.0 % of the inputs" in alike and "3 of 4" in alike and "95 % interval" in alike
    assert "at least 50.0 % sure of every label" in sure and "2 of 2" in sure and "50 % of the inputs" in sure


def test_the_table_of_labels_says_what_scikit_learn_says(several: ChosenAnswers) -> None:
    table = label_table(several)
    cells = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[:3] for row in cells] == [
        ["toxic", "2", "small model"], ["toxic", "2", "teacher"],
        ["insult", "2", "small model"], ["insult", "2", "teacher"],
    ]  # fmt: skip
    assert several.teacher is not None
    for side, rows in ((several.student, cells[::2]), (several.teacher, cells[1::2])):
        precision, recall, f1, _ = precision_recall_fscore_support(several.labels, side.classes)
        assert [row[3:6] for row in rows] == [
            [f"{100 * value:.1f}" for value in scores] for scores in zip(precision, recall, f1, strict=True)
        ]
        assert [row[6] for row in rows] == ["0.500", "0.200"]
    assert cells[0][7] == f"{100 * (0.1 + 0.2 + 0.6 + 0.3) / 4:.1f}"


def test_of_many_labels_the_most_frequent_and_no_number_where_there_is_none() -> None:
    labels = np.zeros((40, 40), dtype=np.int64)
    labels[np.tril_indices(40)] = 1  # the label 0 is in all texts, the label 39 in one
    thresholds = np.full(40, 0.5)
    nothing = Answers(np.zeros_like(labels), np.full(labels.shape, 0.1), thresholds)
    table = label_table(ChosenAnswers(labels, nothing, None, tuple(map(str, range(40))), None))
    cells = [[cell.text for cell in row.cells] for row in table.rows]
    assert [row[0] for row in cells] == [*map(str, range(MOST_LABELS))] and "of 40 labels" in table.caption
    assert cells[0][3:6] == ["–", "0.0", "0.0"]


def test_surest_errors_of_several_labels_name_what_is_missing(several: ChosenAnswers) -> None:
    student, teacher = surest_errors(several)
    assert [(e.text, e.label, e.student) for e in student.errors] == [
        ("d", "(no label)", "insult (92 %)"),
        ("c", "toxic, insult", "insult (60 %); not toxic (40 %)"),
    ]
    assert [(e.text, e.teacher, e.student_is_right) for e in teacher.errors] == [
        ("c", "insult (70 %); not toxic (30 %)", False),
        ("d", "toxic (60 %)", False),
    ]
    assert student.count == teacher.count == 2
