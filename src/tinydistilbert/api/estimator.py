"""shrink as an estimator of scikit-learn."""

import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from tinydistilbert.api.shrink import TEACHER, shrink
from tinydistilbert.errors import UserError
from tinydistilbert.predictor import Predictor, load
from tinydistilbert.tasks.classes import class_name

TEXT, LABEL = "text", "label"


class ShrunkClassifier(ClassifierMixin, BaseEstimator):  # type: ignore[misc] # scikit-learn has no types
    """A small classifier of texts, made by `shrink`, by scikit-learn's contract: pipelines, `GridSearchCV`, pickle.

    A pickle holds the path of the model's folder, not its weights: copy the folder along.

    Args:
        teacher: the encoder that is fine-tuned first: a folder, a hub name, or `offline`; or a fine-tuned folder.
        to: how fast or small the model has to become: `5ms`, `20MB`, or both.
        keep: the share of the teacher's score above the majority that has to be kept.
        time_budget: `15m`: train less, so that all is done in about that time.
        validation: the share of the examples that is scored.
        output: the run folder; None = one below `runs` for each set of examples and settings.
        settings: keys of the recipe with other values.
        threads: of matrix products; None = the cores that this process may use.
        quiet: no lines about progress.

    Attributes:
        classes_: the labels, in the order of `predict_proba`.
        model_: the folder of the model.
        page_: the report.
        missed_: what was asked for and not reached, in words.
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
        """Make the model of texts and their labels.

        Raises:
            UserError: something is wrong with the texts, the labels or the teacher.
        """
        texts = _texts(X)
        labels = np.asarray(y)
        if labels.ndim != 1 or len(labels) != len(texts):
            expected, found = f"a label for each of the {len(texts):,} texts", f"the shape {labels.shape}"
            raise UserError("y", expected=expected, found=found, fix="give one list of labels")
        check_classification_targets(labels)
        self.classes_ = np.unique(labels)
        rows = [{TEXT: text, LABEL: label} for text, label in zip(texts, labels.tolist(), strict=True)]
        made = shrink(
            self.teacher, train=rows, validation=self.validation, text=TEXT, label=LABEL, to=self.to, keep=self.keep,
            time_budget=self.time_budget, output=self.output, settings=self.settings, threads=self.threads,
            quiet=self.quiet,
        )  # fmt: skip
        self.model_, self.page_, self.missed_ = str(made.model), str(made.page), made.missed
        if made.missed:
            warnings.warn(made.missed, stacklevel=2)
        self._predictor: Predictor | None = None
        return self

    def predict_proba(self, X: Iterable[str]) -> NDArray[np.float64]:  # noqa: N803
        """The probability of each of `classes_` for each text."""
        check_is_fitted(self, "model_")
        texts = _texts(X)
        if getattr(self, "_predictor", None) is None:
            self._predictor = load(Path(self.model_))
        assert self._predictor is not None
        names = [class_name(label) or "" for label in self.classes_.tolist()]
        answers = self._predictor.predict(texts)
        return np.array([[answer["scores"].get(name, 0.0) for name in names] for answer in answers]).reshape(
            len(texts), len(names)
        )

    def predict(self, X: Iterable[str]) -> NDArray[Any]:  # noqa: N803
        """The likeliest label of each text."""
        likeliest = self.predict_proba(X).argmax(-1)
        return np.asarray(self.classes_[likeliest])

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()
        return {name: value for name, value in state.items() if name != "_predictor"}

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.string, tags.input_tags.two_d_array, tags.input_tags.one_d_array = True, False, True
        return tags


def _texts(given: Iterable[Any]) -> list[str]:
    """One-dimensional texts as a list.

    Raises:
        UserError: they are numbers, rows of several columns, or one text alone.
    """
    texts: Sequence[Any] = [] if isinstance(given, str) else list(given)
    wrong = next((text for text in texts if not isinstance(text, str)), None)
    if isinstance(given, str) or wrong is not None or not texts:
        found = "one text" if isinstance(given, str) else "nothing" if not texts else type(wrong).__name__
        raise UserError("X", expected="a list of texts", found=found, fix="give X = df['text']")
    return [str(text) for text in texts]
