"""How far a model's probabilities can be trusted: calibration error, and where it agrees with its teacher."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri

from tinydistilbert.report.chosen import Answers, ChosenAnswers
from tinydistilbert.report.table import Cell, Table, TableRow

BINS = 15
"""Number of bins of equal width (Guo et al. 2017, arXiv 1706.04599)."""
AGREEMENT = 0.98


def expected_calibration_error(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """Return the mean distance between confidence and accuracy over `BINS` bins, weighted by their examples."""
    bins = np.minimum((confidence * BINS).astype(np.int64), BINS - 1)
    counts = np.bincount(bins, minlength=BINS)
    gaps = np.abs(np.bincount(bins, confidence, BINS) - np.bincount(bins, right.astype(np.float64), BINS))
    return float(gaps[counts > 0].sum() / len(confidence))


@dataclass(frozen=True)
class Agreement:
    """The confidence from which on a student answers as its teacher does."""

    threshold: float
    examples: int
    """Examples at or above the threshold."""
    agreeing: int
    total: int

    @property
    def share(self) -> float:
        """The share of the inputs at or above the threshold."""
        return self.examples / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of `share` (Wilson)."""
        return wilson(self.examples, self.total)


def wilson(successes: int, total: int) -> tuple[float, float]:
    """Return the 95 % interval of a share, by Wilson's score (1927)."""
    z, share = float(ndtri(0.975)), successes / total
    middle, spread = share + z * z / (2 * total), z * np.sqrt(share * (1 - share) / total + z * z / (4 * total**2))
    return float((middle - spread) / (1 + z * z / total)), float((middle + spread) / (1 + z * z / total))


def agreement(
    confidence: NDArray[np.float64], agrees: NDArray[np.bool_], wanted: float = AGREEMENT
) -> Agreement | None:
    """Return the lowest confidence from which on at least this share of the answers agree; None if there is none."""
    order = np.argsort(-confidence, kind="stable")
    sorted_confidence, agreeing = confidence[order], np.cumsum(agrees[order])
    counts = np.arange(1, len(order) + 1)
    # A threshold includes all answers of one confidence or none.
    is_end = np.append(sorted_confidence[1:] < sorted_confidence[:-1], True)
    fitting = np.flatnonzero(is_end & (agreeing >= wanted * counts))
    if not fitting.size:
        return None
    last = int(fitting[-1])
    return Agreement(float(sorted_confidence[last]), last + 1, int(agreeing[last]), len(order))


def calibration_error(side: Answers, labels: NDArray[np.int64]) -> float:
    """Return the expected calibration error of the answered classes; of several labels, of each label's probability."""
    if side.thresholds is None:
        return expected_calibration_error(side.confidence, side.equals(labels))
    return expected_calibration_error(side.probabilities.ravel(), labels.ravel() == 1)


ONE_CLASS = "how sure the model is and how often it is right", "sure", "the answers"
SEVERAL_LABELS = (
    "the probability that the model gives to a label and how often texts have it",
    "sure of every label (0 % is a probability at the label’s threshold, 100 % one of 0 or 1)",
    "the inputs in every label",
)
"""Words for what the error compares, for being sure, and for what agrees."""


def calibration_lines(answers: ChosenAnswers) -> list[str]:
    """Return the page's sentences about calibration."""
    meaning, sure, unit = SEVERAL_LABELS if answers.are_several else ONE_CLASS
    error = calibration_error(answers.student, answers.labels)
    line = f"Expected calibration error: {100 * error:.1f} points ({BINS} bins"
    if answers.teacher:
        line += f"; the teacher’s {100 * calibration_error(answers.teacher, answers.labels):.1f}"
    if answers.are_several:
        line += f"; {answers.labels.size:,} probabilities, one for each label of each text"
    lines = [f"{line}): the mean distance between {meaning}."]
    if answers.teacher is None:
        return lines
    agrees = answers.student.equals(answers.teacher.classes)
    if answers.are_several:
        low, high = wilson(int(agrees.sum()), len(agrees))
        lines.append(
            f"On {100 * agrees.mean():.1f} % of the inputs it gives exactly the labels that its teacher gives "
            f"({agrees.sum():,} of {len(agrees):,}; 95 % interval {100 * low:.0f} to {100 * high:.0f} %)."
        )
    if answers.stored_agreement is not None:
        return [*lines, *_at_stored_threshold(answers, agrees)]
    level = agreement(answers.student.confidence, agrees)
    if level is None:
        lines.append(f"At no confidence level does it agree with its teacher in {100 * AGREEMENT:.0f} % of {unit}.")
        return lines
    lines.append(f"{_in_words(level, sure, unit)} The threshold was chosen on these same examples.")
    return lines


def _in_words(level: Agreement, sure: str, unit: str) -> str:
    low, high = level.interval
    return (
        f"Where it is at least {100 * level.threshold:.1f} % {sure} it agrees with its teacher in "
        f"{100 * level.agreeing / level.examples:.1f} % of {unit} ({level.agreeing:,} of {level.examples:,}): that is "
        f"{100 * level.share:.0f} % of the inputs (95 % interval {100 * low:.0f} to {100 * high:.0f} %). The rest can "
        "go to the teacher."
    )


def _at_stored_threshold(answers: ChosenAnswers, agrees: NDArray[np.bool_]) -> list[str]:
    """Say how the threshold in the model's folder works on the scored examples, which did not choose it."""
    stored = answers.stored_agreement
    assert stored is not None, "asked before"
    chosen_on = f"{stored['held_out']:,} held-out examples"
    if stored["threshold"] is None:
        wanted = f"{100 * stored['wanted']:.0f} %"
        return [f"At no confidence level does it agree with its teacher in {wanted} of the answers to {chosen_on}."]
    is_sure = answers.student.confidence >= stored["threshold"]
    level = Agreement(stored["threshold"], int(is_sure.sum()), int((is_sure & agrees).sum()), len(agrees))
    source = (
        f"The threshold is the one in the model’s folder, which `serve` uses; it was chosen on {chosen_on}, where "
        f"{stored['agreeing']:,} of {stored['examples']:,} answers agree."
    )
    if not level.examples:
        return [f"It is not {100 * level.threshold:.1f} % sure on any scored example. {source}"]
    return [f"{_in_words(level, ONE_CLASS[1], ONE_CLASS[2])} {source}"]


MOST_CLASSES = 12


def confusion_table(answers: ChosenAnswers) -> Table:
    """Return how often each class was taken for each other; for many classes, the most frequent confusions."""
    count = max(len(answers.names), int(answers.labels.max()) + 1, int(answers.student.classes.max()) + 1)
    matrix = np.zeros((count, count), dtype=np.int64)
    known = answers.student.classes >= 0
    np.add.at(matrix, (answers.labels[known], answers.student.classes[known]), 1)
    names = [*answers.names, *map(str, range(len(answers.names), count))]
    if count <= MOST_CLASSES:
        rows = tuple(
            TableRow("derived", (Cell(name), *(Cell(f"{n:,}") for n in of_class)))
            for name, of_class in zip(names, matrix, strict=True)
        )
        return Table("confusion", "Confusion matrix", "Rows: the label; columns: the answer.", ("Label", *names), rows)
    np.fill_diagonal(matrix, 0)
    order = np.argsort(-matrix, axis=None, kind="stable")[:MOST_CLASSES]
    pairs = [divmod(int(index), count) for index in order if matrix.flat[index]]
    rows = tuple(
        TableRow("derived", (Cell(names[label]), Cell(names[answer]), Cell(f"{matrix[label, answer]:,}")))
        for label, answer in pairs
    )
    caption = f"The most frequent confusions of {count} classes."
    return Table("confusion", "Confusions", caption, ("Label", "Answer", "Examples"), rows)
