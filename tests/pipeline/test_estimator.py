"""shrink as scikit-learn has its estimators."""

import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError, SkipTestWarning
from sklearn.model_selection import GridSearchCV, ShuffleSplit
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.utils.estimator_checks import check_estimator

import tinydistilbert as td
from tests.pipeline.test_shrink import QUICK
from tinydistilbert.errors import UserError

SETTINGS = QUICK | {"finetune.epochs": 3, "finetune.baselines": False}


@pytest.fixture(scope="module")
def frame(tmp_path_factory: pytest.TempPathFactory, reviews: Callable[[Path, int, int], Path]) -> Any:
    return pd.read_csv(reviews(tmp_path_factory.mktemp("reviews") / "a.csv", 120, 0))


def test_the_checks_of_scikit_learn_that_apply() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SkipTestWarning)  # those that fit tables of numbers
        found = check_estimator(td.ShrunkClassifier(), on_skip=None, on_fail=None)
    assert found and [one["check_name"] for one in found if one["status"] == "failed"] == []


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
    ],
)
def test_what_is_no_list_of_texts_with_labels_is_refused(texts: Any, labels: list[str], part: str) -> None:
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
