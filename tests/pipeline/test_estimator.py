"""shrink as scikit-learn has its estimators."""

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy import sparse
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.metrics import accuracy_score
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, MultiLabelBinarizer
from sklearn.utils.estimator_checks import check_estimator

import tinydistilbert as td
from tests.pipeline.test_multi_label import rows_of
from tests.pipeline.test_shrink import QUICK
from tinydistilbert.api.label_matrix import indicators, label_matrix
from tinydistilbert.errors import UserError

SETTINGS = QUICK | {"finetune.epochs": 3, "finetune.baselines": False}


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory, reviews: Callable[[Path, int, int], Path]) -> Any:
    return pd.read_csv(reviews(tmp_path_factory.mktemp("reviews") / "a.csv", 120, 0))


def test_the_checks_of_scikit_learn_that_apply() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # those that fit tables of numbers
        checks = check_estimator(td.ShrunkClassifier(), on_skip=None, on_fail=None)
    assert checks and [one["check_name"] for one in checks if one["status"] == "failed"] == []


def test_parameters_are_kept_as_they_are_given() -> None:
    made = td.ShrunkClassifier("offline", to=("5ms",), keep=0.9)
    assert clone(made).get_params() == made.get_params() and "to=('5ms',)" in repr(made)
    with pytest.raises(NotFittedError):
        made.predict(["a text"])


@pytest.mark.parametrize(
    ("texts", "labels", "part"),
    [
        (np.zeros((60, 2)), ["a"] * 60, "found ndarray"),
        ("a text", ["a"], "one text"),
        (["a"] * 60, ["a"] * 59, "a label for each of the 60 texts"),
        ([], [], "a list of texts"),
        (["a"] * 60, np.eye(59, 3, dtype=int), "a label for each of the 60 texts"),
        (["a"] * 60, np.full((60, 2), 2), "0 or 1 for each label"),
        (["a"] * 60, np.zeros((60, 1)), "0 or 1 for each label"),
        (["a"] * 60, [["x", 1]] * 60, "labels of one kind"),
        (["a"] * 60, pd.DataFrame(np.eye(60, 2, dtype=int), columns=["x", " x"]), "'x' twice"),
    ],
)
def test_what_is_no_list_of_texts_with_labels_is_refused(texts: Any, labels: Any, part: str) -> None:
    with pytest.raises(UserError, match=part):
        td.ShrunkClassifier("offline").fit(texts, labels)


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:missed the target")  # a toy student may keep little
def test_fitted_predicted_pickled_and_searched(
    frame: Any, teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    stars = frame["stars"].map({"bad": 1, "good": 4})
    estimator = td.ShrunkClassifier(str(teacher), to="50MB", validation="20%", settings=SETTINGS)
    pipeline = make_pipeline(FunctionTransformer(lambda texts: [text.lower() for text in texts]), estimator)
    pipeline.fit(frame["review"], stars)
    fitted = pipeline[-1]
    assert fitted.classes_.tolist() == [1, 4] and Path(fitted.model_).is_dir() and Path(fitted.page_).is_file()
    probabilities = pipeline.predict_proba(frame["review"][:5])
    np.testing.assert_allclose(probabilities.sum(-1), 1, rtol=1e-5)
    predicted = pipeline.predict(frame["review"][:5])
    assert predicted.tolist() == fitted.classes_[probabilities.argmax(-1)].tolist() and set(predicted) <= {1, 4}
    assert 0 <= pipeline.score(frame["review"], stars) <= 1
    again = pickle.loads(pickle.dumps(fitted))
    assert again.predict(frame["review"][:5]).tolist() == predicted.tolist() and len(pickle.dumps(fitted)) < 5_000
    once = ShuffleSplit(1, test_size=0.5, random_state=0)
    # One training: a second one, of what was found best, would go the way of the pipeline's.
    choices = {"settings": [estimator.settings]}
    search = GridSearchCV(estimator, choices, cv=once, error_score="raise", refit=False)
    search.fit(frame["review"].to_numpy(), stars)
    assert 0 <= search.cv_results_["mean_test_score"][0] <= 1


def test_targets_of_several_labels() -> None:
    matrix = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    lists = [["x", "z"], [], ["y"]]
    frame = pd.DataFrame(matrix, columns=["x", "y", "z"])
    for given in (matrix, matrix.tolist(), matrix.astype(bool), matrix.astype(float), sparse.csr_matrix(matrix)):
        labels, multi_hot = label_matrix(given) or pytest.fail("a matrix")
        assert labels.tolist() == [0, 1, 2] and multi_hot.tolist() == matrix.tolist()
    for given in (frame, lists, [*map(set, lists)], pd.Series(lists)):
        labels, multi_hot = label_matrix(given) or pytest.fail("labels")
        assert labels.tolist() == ["x", "y", "z"] and multi_hot.tolist() == matrix.tolist()
    labels, multi_hot = label_matrix([["x"], ["y"], ["x"]]) or pytest.fail("one label each is a list, too")
    assert multi_hot.tolist() == MultiLabelBinarizer().fit_transform([["x"], ["y"], ["x"]]).tolist()
    assert all(label_matrix(given) is None for given in (["x", "y"], np.array([1, 4]), pd.Series(["x", "y"])))
    assert indicators([["y"]], np.array(["x", "y"])).tolist() == [[0, 1]]
    with pytest.raises(UserError, match="'w'"):
        indicators([["w"]], np.array(["x", "y"]))
    with pytest.raises(UserError, match="each of 2 labels"):
        indicators(matrix, np.array(["x", "y"]))


@pytest.mark.long
@pytest.mark.filterwarnings("ignore:missed the target")
def test_several_labels_fitted_predicted_pickled_and_searched(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = rows_of(160, 0)
    texts, lists = [row["review"] for row in rows], [row["about"] for row in rows]
    estimator = td.ShrunkClassifier(str(teacher), to="50MB", keep="1%", validation="20%", settings=SETTINGS)
    fitted = clone(estimator).fit(texts, lists)
    assert fitted.classes_.tolist() == ["building", "person", "water"] and fitted.multilabel_
    probabilities, predicted = fitted.predict_proba(texts[:20]), fitted.predict(texts[:20])
    thresholds = json.loads((Path(fitted.model_) / "config.json").read_text())["label_thresholds"]
    assert predicted.tolist() == (probabilities >= thresholds).astype(int).tolist() and predicted.shape == (20, 3)
    gold = MultiLabelBinarizer().fit_transform(lists)
    assert fitted.score(texts, lists) == fitted.score(texts, gold) == accuracy_score(gold, fitted.predict(texts))
    again = pickle.loads(pickle.dumps(fitted))
    assert again.predict(texts[:20]).tolist() == predicted.tolist()
    wide = np.hstack([gold, np.zeros((len(gold), 1), dtype=int)])
    once = ShuffleSplit(1, test_size=0.5, random_state=0)
    search = GridSearchCV(estimator, {"settings": [SETTINGS]}, cv=once, error_score="raise", refit=False)
    with pytest.warns(UserWarning, match="no text is labelled 3"):
        search.fit(texts, wide)
    assert 0 <= search.cv_results_["mean_test_score"][0] <= 1


class OfTwoLabels:
    """A predictor whose model knows two labels."""

    def predict(self, texts: list[str]) -> list[dict[str, Any]]:
        return [{"labels": ["2"] if "b" in text else [], "scores": {"0": 0.3, "2": 0.6}} for text in texts]


def test_a_label_that_the_model_never_saw_is_never_predicted() -> None:
    made = td.ShrunkClassifier()
    made.classes_, made.multilabel_, made.model_, made._predictor = np.arange(3), True, "a folder", OfTwoLabels()
    assert made.predict(["a", "b"]).tolist() == [[0, 0, 0], [0, 0, 1]]
    assert made.predict_proba(["a"]).tolist() == [[0.3, 0.0, 0.6]]
    assert made.score(["a", "b"], np.array([[0, 0, 0], [0, 1, 1]])) == made.score(["a", "b"], [[], [1, 2]]) == 0.5
