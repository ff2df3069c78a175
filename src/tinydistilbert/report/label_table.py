"""A table of how well a model predicts each label if a text may have several, beside its teacher."""

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.evaluation.metrics import scores_by_label
from tinydistilbert.report.calibration import expected_calibration_error
from tinydistilbert.report.chosen import Answers, ChosenAnswers
from tinydistilbert.report.table import Cell, Table, TableRow, points

MOST_LABELS = 30
COLUMNS = ("Label", "Texts with it", "Model", "Precision", "Recall", "F1", "Threshold", "Calibration error")


def label_table(answers: ChosenAnswers) -> Table:
    """Return precision, recall, F1, threshold and calibration error of each label; of many, the most frequent ones."""
    support = answers.labels.sum(0)
    shown = np.sort(np.argsort(-support, kind="stable")[:MOST_LABELS])
    sides = [("small model", answers.student), *([("teacher", answers.teacher)] if answers.teacher else [])]
    cells = {name: _cells(side, answers.labels) for name, side in sides}
    rows = tuple(
        TableRow("derived", (Cell(answers.names[label]), Cell(f"{support[label]:,}"), Cell(name), *cells[name][label]))
        for label in shown
        for name, _ in sides
    )
    caption = f"Each label on {len(answers.labels):,} texts, in points; – where nothing can be counted."
    if len(shown) < len(support):
        caption += f" The {len(shown)} most frequent of {len(support):,} labels."
    return Table("labels", "Label by label", caption, COLUMNS, rows)


def _cells(side: Answers, labels: NDArray[np.int64]) -> list[tuple[Cell, ...]]:
    """Return one model's cells for each label."""
    assert side.thresholds is not None, "a text may have several labels"
    scores = zip(*scores_by_label(labels, side.classes), strict=True)
    errors = [
        expected_calibration_error(given, gold == 1) for given, gold in zip(side.probabilities.T, labels.T, strict=True)
    ]
    return [
        (*(Cell(points(None if np.isnan(value) else float(value))) for value in of_label), Cell(f"{threshold:.3f}"),
         Cell(points(error)))
        for of_label, threshold, error in zip(scores, side.thresholds, errors, strict=True)
    ]  # fmt: skip
