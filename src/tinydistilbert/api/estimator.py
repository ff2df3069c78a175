"""shrink as a scikit-learn estimator."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from tinydistilbert.api.label_matrix import indicators, label_matrix
from tinydistilbert.api.shrink import TEACHER, shrink
from tinydistilbert.errors import UserError
from tinydistilbert.predictor import Prediction, Predictor, load
from tinydistilbert.tasks.classes import class_name

TEXT, LABEL = "text", "label"


class ShrunkClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """A small text classifier made by `shrink`, as a scikit-learn estimator: pipelines, `GridSearchCV`, pickle.

    For several labels per text, the targets are a matrix of 0 and 1 (also sparse, or a data frame), or a list of labels
    for each text; `predict` returns such a matrix, its columns in the order of `classes_`, by the threshold of each
    label, and `score` is the share of texts whose labels are all right. `GridSearchCV` takes only the matrix.

    A pickle holds the path of the model's folder, not its weights: copy the folder along.

    Args:
        teacher: the encoder that is fine-tuned first: a folder, a hub name, or `offline`; or a fine-tuned folder.
        to: required latency or size: `5ms`, `20MB`, or both.
        keep: the share of the teacher's score above the majority baseline to keep.
        time_budget: `15m`: train less, to finish in about this time.
        validation: the share of the examples to score.
        output: the run folder; None = one in `runs` for each set of examples and settings.
        settings: keys of the recipe and their values.
        threads: threads for matrix products; None = the cores that this process may use.
        quiet: print no progress.

    Attributes:
        classes_: the labels, in the order of `predict_proba`; of a matrix the numbers or names of its columns.
        multilabel_: whether a text may have several labels.
        model_: the folder of the model.
        page_: the report.
        missed_: the targets that were not reached, in words.
    """

    def __init__(
        self, teacher: str = TEACHER, *, to: str | tuple[str, ...] = (), keep: float | str | None = None,
        time_budget: str = "", validation: str = "10%", output: str | None = None,
        settings: dict[str, Any] | None = None, threads: int | None = None, quiet: bool = True,
    ) -> None:  # fmt: skip
        self.teacher, self.to, self.keep, self.time_budget = teacher, to, keep, time_budget
        self.validation, self.output, self.settings = validation, output, settings
        self.threads, self.quiet = threads, quiet

    def fit(self, X: Iterable[str], y: Iterable[Any]) -> Self:  # noqa: N803 # scikit-learn's names
        """Make the model from texts and their labels.

        Raises:
            UserError: something is wrong with the texts, the labels or the teacher.
        """
        texts = _texts(X)
        several = label_matrix(y)
        labels = several[1] if several else np.asarray(y)
        if labels.ndim != (2 if several else 1) or len(labels) != len(texts):
            expected, found = f"a label for each of the {len(texts):,} texts", f"the shape {labels.shape}"
            raise UserError("y", expected=expected, found=found, fix="give as many labels as texts")
        if several:
            self.classes_ = several[0]
            names = np.array(self._names())
            given = [names[row == 1].tolist() for row in labels]
            if nowhere := names[labels.sum(0) == 0].tolist():
                warnings.warn(f"no text is labelled {', '.join(nowhere)}, so the model never predicts it", stacklevel=2)
        else:
            check_classification_targets(labels)
            self.classes_, given = np.unique(labels), labels.tolist()
        self.multilabel_ = several is not None
        rows = [{TEXT: text, LABEL: label} for text, label in zip(texts, given, strict=True)]
        made = shrink(
            self.teacher, train=rows, validation=self.validation, text=TEXT, label=LABEL,
            kind="multi-label" if several else "classification", to=self.to, keep=self.keep,
            time_budget=self.time_budget, output=self.output, settings=self.settings, threads=self.threads,
            quiet=self.quiet,
        )  # fmt: skip
        self.model_, self.page_, self.missed_ = str(made.model), str(made.page), made.missed
        if made.missed:
            warnings.warn(made.missed, stacklevel=2)
        self._predictor: Predictor | None = None
        return self

    def predict_proba(self, X: Iterable[str]) -> NDArray[np.float64]:  # noqa: N803
        """The probability of each of `classes_` for each text; those of several labels do not sum to 1."""
        return self._probabilities(self._answers(X))

    def predict(self, X: Iterable[str]) -> NDArray[Any]:  # noqa: N803
        """The likeliest label of each text; of several labels (n, classes) of 0 and 1."""
        answers = self._answers(X)
        if not self.multilabel_:
            return np.asarray(self.classes_[self._probabilities(answers).argmax(-1)])
        given = [[int(name in answer["labels"]) for name in self._names()] for answer in answers]
        return np.array(given, dtype=np.int64)

    def score(self, X: Iterable[str], y: Any, sample_weight: Any = None) -> float:  # noqa: N803
        """The accuracy; of several labels the share of texts that get just their labels.

        Raises:
            UserError: targets with other labels than those of the training.
        """
        check_is_fitted(self, "model_")
        y = indicators(y, self.classes_) if self.multilabel_ else y
        return float(super().score(X, y, sample_weight))

    def _answers(self, X: Iterable[str]) -> list[Prediction]:  # noqa: N803
        check_is_fitted(self, "model_")
        texts = _texts(X)
        if getattr(self, "_predictor", None) is None:
            self._predictor = load(Path(self.model_))
        assert self._predictor is not None
        return self._predictor.predict(texts)

    def _names(self) -> list[str]:
        return [class_name(label) or "" for label in self.classes_.tolist()]

    def _probabilities(self, answers: Sequence[Prediction]) -> NDArray[np.float64]:
        return np.array([[answer["scores"].get(name, 0.0) for name in self._names()] for answer in answers])

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_predictor"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        tags.classifier_tags.multi_label = True
        return tags


def _texts(given: Iterable[Any]) -> list[str]:
    """Return one-dimensional texts as a list.

    Raises:
        UserError: they are numbers, rows of several columns, or one text alone.
    """
    texts: Sequence[Any] = [] if isinstance(given, str) else list(given)
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if isinstance(given, str) or wrong is not None or not texts:
        found = "one text" if isinstance(given, str) else "nothing" if not texts else type(wrong).__name__
        raise UserError("X", expected="a list of texts", found=found, fix="give X = df['text']")
    return [str(text) for text in texts]
