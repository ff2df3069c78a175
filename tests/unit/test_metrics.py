"""Metrics against values worked out by hand, against scikit-learn and scipy, and the laws of intervals and guards."""

import math
import time
import warnings

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics

from tinydistilbert import metrics


def test_matthews_correlation_of_a_confusion_matrix_worked_by_hand() -> None:
    # 6 true positives, 3 true negatives, 1 false positive, 2 false negatives: (6*3 - 1*2) / sqrt(7*8*4*5)
    labels = np.array([1] * 6 + [0] * 3 + [0] + [1] * 2)
    predictions = np.array([1] * 6 + [0] * 3 + [1] + [0] * 2)
    assert float(metrics.matthews_correlation(labels, predictions)) == pytest.approx(16 / math.sqrt(1120))
    # precision 6/7, recall 6/8
    assert float(metrics.f1(labels, predictions)) == pytest.approx(2 * 6 / (7 + 8))
    assert float(metrics.accuracy(labels, predictions)) == pytest.approx(9 / 12)
    assert float(metrics.f1_accuracy_mean(labels, predictions)) == pytest.approx((0.8 + 0.75) / 2)


def test_correlations_worked_by_hand() -> None:
    labels, predictions = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.0, 2.0, 4.0, 3.0])
    # one swap of neighbours among four: 1 - 6*2/(4*15)
    assert float(metrics.spearman(labels, predictions)) == pytest.approx(0.8)
    assert float(metrics.pearson(labels, labels * 3 - 7)) == pytest.approx(1)
    assert float(metrics.pearson(labels, -labels)) == pytest.approx(-1)
    squares = labels**2  # a rising curve: ranks agree, values do not
    both = float(metrics.pearson_spearman_mean(labels, squares))
    assert both == pytest.approx((1 + float(metrics.pearson(labels, squares))) / 2)
    assert float(metrics.pearson(labels, squares)) < 1


@pytest.mark.parametrize("classes", [2, 3])
def test_classification_metrics_agree_with_scikit_learn(classes: int) -> None:
    random = np.random.default_rng(classes)
    for _ in range(20):
        labels, predictions = random.integers(classes, size=(2, 50))
        ours = float(metrics.matthews_correlation(labels, predictions))
        assert ours == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predictions))
        assert float(metrics.accuracy(labels, predictions)) == sklearn.metrics.accuracy_score(labels, predictions)
        if classes == 2:
            assert float(metrics.f1(labels, predictions)) == pytest.approx(
                sklearn.metrics.f1_score(labels, predictions)
            )


def test_correlations_agree_with_scipy_with_ties() -> None:
    random = np.random.default_rng(0)
    labels, predictions = random.integers(5, size=100).astype(float), random.normal(size=100).round(1)
    assert float(metrics.pearson(labels, predictions)) == pytest.approx(scipy.stats.pearsonr(labels, predictions)[0])
    assert float(metrics.spearman(labels, predictions)) == pytest.approx(scipy.stats.spearmanr(labels, predictions)[0])


@pytest.mark.parametrize("name", ["matthews_correlation", "pearson", "spearman", "pearson_spearman_mean"])
def test_a_constant_prediction_has_correlation_zero_and_no_warning(name: str) -> None:
    labels = np.array([0.0, 1.0, 1.0, 0.0, 1.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(metrics.METRICS[name](labels, np.full(5, 0.3))) == 0
        assert float(metrics.METRICS[name](np.ones(5), labels)) == 0


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_a_stack_of_samples_gives_the_value_of_each(name: str) -> None:
    labels, predictions = np.random.default_rng(1).integers(2, size=(2, 4, 30)).astype(float)
    stacked = metrics.METRICS[name](labels, predictions)
    each = [float(metrics.METRICS[name](a, b)) for a, b in zip(labels, predictions, strict=True)]
    np.testing.assert_allclose(stacked, each)


def test_nan_predictions_count_as_wrong_not_as_missing() -> None:
    labels = np.array([0, 1, 0, 1])
    assert float(metrics.accuracy(labels, np.array([0, 1, metrics.NO_CLASS, metrics.NO_CLASS]))) == 0.5
    assert float(metrics.pearson(labels.astype(float), np.array([0.0, 1.0, np.nan, 1.0]))) == 0


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("The Eiffel Tower!", "eiffel tower"),
        ("an  apple\ta day", "apple day"),
        ("U.S.", "us"),
        ("the", ""),
        ("Theatre, A.", "theatre"),
        ("“quoted”", "“quoted”"),  # the official script knows ASCII punctuation only
        ("twenty-one", "twentyone"),
    ],
)
def test_answers_are_normalised_as_the_official_script_does(text: str, normal: str) -> None:
    assert metrics.normalize_answer(text) == normal


def test_squad_scores_worked_by_hand() -> None:
    assert metrics.squad_exact_match("The Denver Broncos.", ["Carolina Panthers", "denver broncos"]) == 1
    assert metrics.squad_exact_match("Broncos", ["Denver Broncos"]) == 0
    # 1 shared word, 1 predicted, 2 gold: precision 1, recall 1/2
    assert metrics.squad_f1("Broncos", ["Denver Broncos"]) == pytest.approx(2 / 3)
    # a word counts as often as it is in both: "very very big" / "very big" share 2 of 3 and 2
    assert metrics.squad_f1("very very big", ["very big"]) == pytest.approx(4 / 5)
    # the best gold answer counts
    assert metrics.squad_f1("in 1889", ["the year 1889", "1889"]) == pytest.approx(2 / 3)
    assert metrics.squad_f1("", ["Paris"]) == 0
    scores = metrics.squad_scores(["Paris", "x"], [["paris"], ["y", "z"]])
    assert scores["exact_match"].tolist() == [1, 0] and scores["f1"].tolist() == [1, 0]


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    right = np.array([1] * 80 + [0] * 20)
    low, high = metrics.bootstrap({"accuracy": lambda i: right[i].mean(-1)}, 100, seed=0, resamples=4000)["accuracy"]
    assert low == pytest.approx(scipy.stats.binom.ppf(0.025, 100, 0.8) / 100, abs=0.011)
    assert high == pytest.approx(scipy.stats.binom.ppf(0.975, 100, 0.8) / 100, abs=0.011)


def test_the_interval_shrinks_with_the_root_of_the_examples_and_repeats_with_the_seed() -> None:
    def width(n: int, seed: int = 0) -> float:
        right = np.arange(n) % 2
        low, high = metrics.bootstrap({"accuracy": lambda i: right[i].mean(-1)}, n, seed=seed)["accuracy"]
        return high - low

    assert width(400) == pytest.approx(width(100) / 2, rel=0.15)
    assert width(100) == width(100)
    assert metrics.bootstrap({"one": lambda i: np.ones(len(i))}, 7, seed=3)["one"] == (1, 1)


def test_intervals_of_ten_thousand_examples_take_about_a_second() -> None:
    labels, predictions = np.random.default_rng(0).integers(2, size=(2, 10_000), dtype=np.int16)
    begin = time.process_time()
    metrics.bootstrap({"mcc": lambda i: metrics.matthews_correlation(labels[i], predictions[i])}, 10_000, seed=0)
    assert time.process_time() - begin < 5  # about 0.6 s here; the bound is for slow machines


def test_the_majority_score_is_that_of_the_most_frequent_label() -> None:
    assert metrics.majority_score("accuracy", np.array([0, 0, 0, 1])) == 0.75
    assert metrics.majority_score("f1", np.array([0, 0, 0, 1])) == 0
    assert metrics.majority_score("f1", np.array([1, 1, 1, 0])) == pytest.approx(6 / 7)
    assert metrics.majority_score("matthews_correlation", np.array([0, 0, 0, 1])) == 0
    assert metrics.majority_score("pearson", np.array([0.0, 2.0, 5.0])) == 0
    assert metrics.majority_answer([["The dog", "dog"], ["dog!"], ["cat"]]) == "dog"


def test_guards_are_silent_about_a_good_model_and_speak_about_bad_ones() -> None:
    assert metrics.guards([0, 1, 1, 0], examples=4, value=0.9, majority=0.5) == []
    assert metrics.guards([1, 1, 1], examples=3, value=0.6, majority=0.6) == [
        "every prediction is the same: 1",
        "0.600 is not above the 0.600 of the majority class alone",
    ]
    assert metrics.guards([0, 1], examples=3, value=0.9, majority=0.5) == ["2 predictions for 3 examples"]
    assert metrics.guards([0.1, math.nan], examples=2, value=0.9, majority=0) == ["1 of 2 predictions are not numbers"]
    assert metrics.guards([metrics.NO_CLASS, 1], examples=2, value=1, majority=0) == [
        "1 of 2 predictions are not numbers"
    ]
    assert metrics.guards([2.5, 2.5 + 1e-9], examples=2, value=0.5, majority=0) == ["every prediction is the same: 2.5"]
    assert metrics.guards(["", ""], examples=2, value=0.5, majority=0) == ["every prediction is the same: "]
