"""Metrics against values worked out by hand, against scikit-learn and scipy; laws of intervals, tests and warnings."""

import collections
import dataclasses
import math
import re
import string
import time
import warnings
from collections.abc import Sequence

import numpy as np
import pytest
import scipy.stats
import sklearn.metrics
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinydistilbert.evaluation import metrics, resampling, sanity
from tinydistilbert.evaluation.scoring import Predictions, score
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples


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
        correlation = float(metrics.matthews_correlation(labels, predictions))
        assert correlation == pytest.approx(sklearn.metrics.matthews_corrcoef(labels, predictions))
        assert float(metrics.accuracy(labels, predictions)) == sklearn.metrics.accuracy_score(labels, predictions)
        if classes == 2:
            assert float(metrics.f1(labels, predictions)) == pytest.approx(
                sklearn.metrics.f1_score(labels, predictions)
            )


def test_macro_f1_is_the_mean_over_the_classes_that_occur() -> None:
    labels, predictions = np.array([0, 0, 1, 1, 2]), np.array([0, 1, 1, 1, 3])
    # class 0: 2*1/(2+1), 1: 2*2/(2+3), 2 is never predicted, 3 is never right; 4 and 5 occur nowhere
    assert float(metrics.macro_f1(labels, predictions)) == pytest.approx((2 / 3 + 4 / 5 + 0 + 0) / 4)
    assert float(metrics.macro_f1(labels, labels)) == 1


@pytest.mark.parametrize("classes", [2, 5])
def test_macro_f1_agrees_with_scikit_learn(classes: int) -> None:
    random = np.random.default_rng(classes)
    for _ in range(20):
        labels, predictions = random.integers(classes, size=(2, 12))  # so few that some class is often missing
        wanted = sklearn.metrics.f1_score(labels, predictions, average="macro", zero_division=0)
        assert float(metrics.macro_f1(labels, predictions)) == pytest.approx(wanted)


def test_the_tasks_are_scored_by_their_official_metrics() -> None:
    """GLUE: Wang et al. 2019, table 1; its overall score takes the mean of two metrics where a task has two."""
    means = {"mrpc": "f1_accuracy_mean", "qqp": "f1_accuracy_mean", "stsb": "pearson_spearman_mean"}
    two = {"mrpc": {"accuracy", "f1"}, "qqp": {"accuracy", "f1"}, "stsb": {"pearson", "spearman"}}
    for name in ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli", "imdb"):
        headline = "matthews_correlation" if name == "cola" else means.get(name, "accuracy")
        assert TASKS[name].headline == headline and two.get(name, {headline}) <= set(TASKS[name].metrics)
    assert TASKS["mnli"].evaluation == ("validation_matched", "validation_mismatched")
    assert set(TASKS["squad"].metrics) == {"exact_match", "f1"}
    assert TASKS["mrpc"].labels[1] == "equivalent" and TASKS["qqp"].labels[1] == "duplicate", "F1 is that of class 1"


def test_three_classes_count_as_right_or_wrong_alone() -> None:
    labels, predictions = np.array([0, 1, 2, 2, 1]), np.array([0, 2, 2, 0, 1])
    assert float(metrics.accuracy(labels, predictions)) == pytest.approx(3 / 5)


def test_correlations_agree_with_scipy_with_ties() -> None:
    random = np.random.default_rng(0)
    labels, predictions = random.integers(5, size=100).astype(float), random.normal(size=100).round(1)
    assert float(metrics.pearson(labels, predictions)) == pytest.approx(scipy.stats.pearsonr(labels, predictions)[0])
    assert float(metrics.spearman(labels, predictions)) == pytest.approx(scipy.stats.spearmanr(labels, predictions)[0])


def _of_scale(low: float, high: float) -> st.SearchStrategy[float]:
    return st.floats(math.log10(low), math.log10(high)).map(lambda power: 10.0**power)


@settings(deadline=None, max_examples=200)
@given(
    seed=st.integers(0, 2**32 - 1), n=st.integers(3, 40),
    size=st.tuples(_of_scale(1e-12, 1e12), _of_scale(1e-12, 1e12)),
    offset=st.sampled_from([0.0, 1.0, -1000.0]), levels=st.sampled_from([2, 3, 1000]), counted=st.booleans(),
)  # fmt: skip
def test_correlations_are_those_of_scipy_whatever_the_unit(seed, n, size, offset, levels, counted) -> None:
    random = np.random.default_rng(seed)
    labels, predictions = (unit * (offset + random.integers(levels, size=n) / levels) for unit in size)
    counts = random.integers(4, size=n).astype(np.float64) if counted else None
    one, other = (x if counts is None else np.repeat(x, counts.astype(int)) for x in (labels, predictions))
    assume(len(one) > 1)
    constant = len(np.unique(one)) == 1 or len(np.unique(other)) == 1
    for name, reference in (("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)):
        value = float(metrics.METRICS[name](labels, predictions, counts))
        assert value == (0 if constant else pytest.approx(reference(one, other)[0], abs=1e-9))


@given(value=st.floats(-1e12, 1e12), n=st.integers(2, 40), tiny=st.sampled_from([1e-12, 1e-6, 1.0]))
def test_equal_numbers_have_correlation_zero_though_their_mean_is_rounded(value: float, n: int, tiny: float) -> None:
    labels = np.arange(n, dtype=np.float64)
    for counts in (None, np.ones(n), np.arange(n, dtype=np.float64)):
        assert float(metrics.pearson(labels, np.full(n, value * tiny), counts)) == 0
        assert float(metrics.pearson(np.full(n, value * tiny), labels, counts)) == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_prediction_that_is_not_finite_makes_the_correlation_zero_without_a_warning(bad: float) -> None:
    labels, predictions = np.arange(4.0), np.array([0.0, 1.0, bad, 3.0])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert float(metrics.pearson(labels, predictions)) == 0
        assert float(metrics.pearson(labels, predictions, np.ones(4))) == 0


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


@pytest.mark.parametrize("name", sorted(metrics.METRICS))
def test_an_example_counted_twice_is_an_example_that_is_there_twice(name: str) -> None:
    random = np.random.default_rng(2)
    labels, predictions = random.integers(3, size=(2, 30)).astype(float)
    counts = random.integers(4, size=(5, 30)).astype(float)
    each = [metrics.METRICS[name](*(np.repeat(x, row.astype(int)) for x in (labels, predictions))) for row in counts]
    np.testing.assert_allclose(metrics.METRICS[name](labels, predictions, counts), each)


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


def official(prediction: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 by the rules of the SQuAD v1.1 evaluation script, step by step."""

    def normal(text: str) -> str:
        kept = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.sub(r"\b(a|an|the)\b", " ", kept).split())

    def f1(answer: str) -> float:
        predicted, wanted = normal(prediction).split(), normal(answer).split()
        same = sum((collections.Counter(predicted) & collections.Counter(wanted)).values())
        if same == 0:
            return 0.0
        precision, recall = same / len(predicted), same / len(wanted)
        return 2 * precision * recall / (precision + recall)

    return max(float(normal(prediction) == normal(answer)) for answer in answers), max(map(f1, answers))


def test_answers_of_all_sorts_are_scored_as_by_the_official_rules() -> None:
    pieces = [
        "the", "The", "a", "an", "Theatre", "café", "cafe\u0301", "1889", "1,889", "U.S.", "-", "\u00a0", "\t", "  ",
        "“yes”", "100%", "東京", "😀", "İ", "ﬁ", "an’s", "(a)", "…",
    ]  # fmt: skip
    random = np.random.default_rng(0)

    def text() -> str:
        return random.choice(["", " "]).join(random.choice(pieces, size=random.integers(4)))

    matched = 0
    for _ in range(500):
        prediction, answers = text(), [text() for _ in range(random.integers(1, 4))]
        exact, f1 = official(prediction, answers)
        matched += bool(exact)
        assert metrics.squad_exact_match(prediction, answers) == exact
        assert metrics.squad_f1(prediction, answers) == pytest.approx(f1)
    assert 10 < matched < 490


def test_special_answers_by_the_rules_of_version_1() -> None:
    # nothing is left of either: the same text, and no word in common
    assert metrics.squad_exact_match("the", ["A."]) == 1 and metrics.squad_f1("the", ["A."]) == 0
    # é as one character and as e with an accent are different: the script does not normalise Unicode
    assert metrics.squad_exact_match("caf\u00e9", ["cafe\u0301"]) == 0
    # exact match and F1 each take their own best answer
    assert metrics.squad_f1("tall grey tower", ["tower", "tall grey old tower"]) == pytest.approx(6 / 7)


def test_the_interval_of_an_accuracy_is_the_binomial_one() -> None:
    right = np.array([1] * 80 + [0] * 20)
    low, high = resampling.bootstrap({"accuracy": lambda i: right[i].mean(-1)}, 100, seed=0, resamples=4000)["accuracy"]
    assert low == pytest.approx(scipy.stats.binom.ppf(0.025, 100, 0.8) / 100, abs=0.011)
    assert high == pytest.approx(scipy.stats.binom.ppf(0.975, 100, 0.8) / 100, abs=0.011)


def test_the_interval_shrinks_with_the_root_of_the_examples_and_repeats_with_the_seed() -> None:
    def width(n: int, seed: int = 0) -> float:
        right = np.arange(n) % 2
        low, high = resampling.bootstrap({"accuracy": lambda i: right[i].mean(-1)}, n, seed=seed)["accuracy"]
        return high - low

    assert width(400) == pytest.approx(width(100) / 2, rel=0.15)
    assert width(100) == width(100)
    assert resampling.bootstrap({"one": lambda i: np.ones(len(i))}, 7, seed=3)["one"] == (1, 1)


def test_intervals_of_ten_thousand_examples_take_about_a_second() -> None:
    labels, predictions = np.random.default_rng(0).integers(2, size=(2, 10_000), dtype=np.int16)
    begin = time.process_time()
    resampling.bootstrap({"mcc": lambda i: metrics.matthews_correlation(labels[i], predictions[i])}, 10_000, seed=0)
    assert time.process_time() - begin < 5  # about 0.6 s here; the bound is for slow machines


@pytest.mark.parametrize("name", ["macro_f1", "matthews_correlation"])
def test_a_stack_of_resamples_has_the_metric_of_each_of_them(name: str) -> None:
    """Given as repeated examples or as counts: each is what scikit-learn says of the examples written out."""
    random = np.random.default_rng(5)
    labels, predictions = random.integers(-1, 6, size=(2, 30))
    indices = random.integers(30, size=(2, 3, 30))
    by_hand = np.empty((2, 3))
    for place in np.ndindex(2, 3):
        one, other = labels[indices[place]], predictions[indices[place]]
        if name == "macro_f1":
            by_hand[place] = sklearn.metrics.f1_score(one, other, average="macro", zero_division=0)
        else:
            by_hand[place] = sklearn.metrics.matthews_corrcoef(one, other)
    np.testing.assert_allclose(metrics.METRICS[name](labels[indices], predictions[indices]), by_hand, atol=1e-12)
    counts = np.stack([np.bincount(row, minlength=30) for row in indices.reshape(-1, 30)]).reshape(2, 3, 30)
    np.testing.assert_allclose(metrics.METRICS[name](labels, predictions, counts), by_hand, atol=1e-12)


@pytest.mark.parametrize(
    ("task", "name"), [("mnli", "macro_f1"), ("mnli", "matthews_correlation"), ("stsb", "spearman")]
)
def test_counted_resamples_have_the_interval_of_written_out_ones_with_the_same_seed(task: str, name: str) -> None:
    random = np.random.default_rng(1)
    labels = random.integers(5, size=80) * (1.0 if task == "stsb" else 1)
    guesses = np.where(random.random(80) < 0.7, labels, random.integers(5, size=80))
    examples = Examples(
        dataclasses.replace(TASKS[task], metrics=(name,)), "validation",
        {"idx": [*range(80)], "label": labels.tolist()}, 80,
    )  # fmt: skip
    (value, details), *_ = score(examples, Predictions(guesses, [], [], {}), seed=3).values()
    assert value == pytest.approx(float(metrics.METRICS[name](labels, guesses)))
    plain = resampling.bootstrap({name: lambda i: metrics.METRICS[name](labels[i], guesses[i])}, 80, seed=3)[name]
    assert details["interval"] == pytest.approx(plain)


def test_a_difference_on_25_000_examples_of_many_classes_takes_seconds() -> None:
    """The time does not grow with the classes: each example is looked at once, not once for each class."""
    random = np.random.default_rng(0)
    labels = random.integers(500, size=25_000)
    first, second = (np.where(random.random(25_000) < 0.9, labels, random.integers(500, size=25_000)) for _ in range(2))
    begin = time.process_time()
    resampling.paired_bootstrap(metrics.matthews_correlation, labels, first[None], second[None], seed=0, resamples=1000)
    assert time.process_time() - begin < 6  # about 0.5 s here; class by class it was 20


def slow_differences(
    metric: metrics.Metric, labels: np.ndarray, first: np.ndarray, second: np.ndarray, resamples: int
) -> np.ndarray:
    random = np.random.default_rng(99)
    drawn = []
    for _ in range(resamples):
        i = random.integers(len(labels), size=len(labels))
        one, other = ([float(metric(labels[i], row[i])) for row in side] for side in (first, second))
        drawn.append(float(np.median(one) - np.median(other)))
    return np.array(drawn)


@pytest.mark.parametrize("name", ["f1_accuracy_mean", "matthews_correlation", "pearson_spearman_mean"])
def test_a_paired_bootstrap_draws_as_one_does_by_hand(name: str) -> None:
    random = np.random.default_rng(3)
    labels = random.integers(2, size=60)
    first = np.where(random.random((3, 60)) < 0.2, 1 - labels, labels)
    second = np.where(random.random((2, 60)) < 0.15, 1 - first[0], first[0])  # alike, so that drawing apart would show
    if name == "pearson_spearman_mean":
        labels = np.round(labels + random.normal(size=60), 1)
    metric = metrics.METRICS[name]
    comparison = resampling.paired_bootstrap(metric, labels, first, second, seed=0, resamples=2000)
    assert comparison.first == pytest.approx(np.median([float(metric(labels, row)) for row in first]))
    assert comparison.second == pytest.approx(np.median([float(metric(labels, row)) for row in second]))
    slow = slow_differences(metric, labels, first, second, 500)
    np.testing.assert_allclose(comparison.interval, np.percentile(slow, (2.5, 97.5)), atol=0.12 * np.ptp(slow))
    assert comparison.p == pytest.approx(2 * min((slow <= 0).mean(), (slow >= 0).mean()), abs=0.15)


def test_equal_sides_do_not_differ_and_an_answer_more_is_no_proof() -> None:
    labels = np.arange(50) % 2
    same = resampling.paired_bootstrap(metrics.accuracy, labels, labels[None], np.stack([labels] * 3), seed=0)
    assert (same.difference, same.interval, same.p) == (0, (0, 0), 1)
    worse = np.where(np.arange(50) == 7, 1 - labels, labels)
    one = resampling.paired_bootstrap(metrics.accuracy, labels, labels[None], worse[None], seed=0)
    assert one.difference == pytest.approx(1 / 50) and one.interval[0] == 0
    # 0 where example 7 is not drawn: (49/50)^50 of the resamples
    assert one.p == pytest.approx(2 * 0.98**50, abs=0.04)  # four standard errors of 10,000 draws


def test_seeds_count_by_their_median_and_a_side_of_one_seed_is_itself() -> None:
    labels = np.ones(100, dtype=int)
    rows = np.stack([np.arange(100) >= wrong for wrong in (10, 50, 20)]).astype(int)
    comparison = resampling.paired_bootstrap(metrics.accuracy, labels, rows, rows[:1], seed=0)
    assert (comparison.first, comparison.second) == (pytest.approx(0.8), pytest.approx(0.9))


def test_the_interval_of_a_difference_holds_the_true_one_about_as_often_as_it_says() -> None:
    """Sides that are right together in 60 %, alone in 25 % and 15 %: the true difference of the accuracies is 0.1."""
    random = np.random.default_rng(0)
    held, labels = 0, np.ones(120, dtype=int)
    for seed in range(300):
        drawn = random.random(120)
        first, second = drawn < 0.85, (drawn < 0.6) | (drawn >= 0.85)
        low, high = resampling.paired_bootstrap(
            metrics.accuracy, labels, first[None].astype(int), second[None].astype(int), seed=seed, resamples=1000
        ).interval
        held += low <= 0.1 <= high
    assert 0.91 <= held / 300 <= 0.985


def test_mcnemar_worked_by_hand() -> None:
    first = np.array([1] * 9 + [0] * 1 + [1] * 20 + [0] * 5, dtype=bool)
    second = np.array([0] * 9 + [1] * 1 + [1] * 20 + [0] * 5, dtype=bool)
    # 9 against 1 of 10 tosses: 2 * (1 + 10) / 2^10
    assert resampling.mcnemar(first, second) == pytest.approx(22 / 1024) == resampling.mcnemar(second, first)
    assert resampling.mcnemar(first, first) == 1, "no example on which they differ"
    assert resampling.mcnemar(np.array([True, False]), np.array([False, True])) == 1


def test_holms_adjustment_worked_by_hand() -> None:
    # in order 0.01 * 3, then 0.03 * 2, then 0.04 * 1, which may not be smaller than the one before
    assert resampling.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert resampling.holm([0.6, 0.7]) == [1, 1] and resampling.holm([0.02]) == [0.02] and resampling.holm([]) == []
    # between no adjustment and Bonferroni's
    drawn = np.random.default_rng(0).random(20) ** 3
    assert all(p <= adjusted <= min(1, 20 * p) for p, adjusted in zip(drawn, resampling.holm(list(drawn)), strict=True))


def test_the_majority_score_is_that_of_the_most_frequent_label() -> None:
    assert sanity.majority_score("accuracy", np.array([0, 0, 0, 1])) == 0.75
    assert sanity.majority_score("f1", np.array([0, 0, 0, 1])) == 0
    assert sanity.majority_score("f1", np.array([1, 1, 1, 0])) == pytest.approx(6 / 7)
    assert sanity.majority_score("matthews_correlation", np.array([0, 0, 0, 1])) == 0
    assert sanity.majority_score("pearson", np.array([0.0, 2.0, 5.0])) == 0
    assert sanity.majority_answer([["The dog", "dog"], ["dog!"], ["cat"]]) == "dog"


def test_sanity_warnings_are_silent_about_a_good_model_and_speak_about_bad_ones() -> None:
    assert sanity.sanity_warnings([0, 1, 1, 0], examples=4, value=0.9, majority=0.5) == []
    assert sanity.sanity_warnings([1, 1, 1], examples=3, value=0.6, majority=0.6) == [
        "every prediction is the same: 1",
        "0.600 is not above the 0.600 of the majority baseline",
    ]
    assert sanity.sanity_warnings([0, 1], examples=3, value=0.9, majority=0.5) == ["2 predictions for 3 examples"]
    for bad in (math.nan, math.inf, -math.inf):
        assert sanity.sanity_warnings([0.1, bad], examples=2, value=0.9, majority=0) == [
            "1 of 2 predictions are not finite numbers"
        ]
    assert sanity.sanity_warnings([metrics.NO_CLASS, 1], examples=2, value=1, majority=0) == [
        "1 of 2 predictions are not finite numbers"
    ]
    assert sanity.sanity_warnings(["a", "b"], examples=2, value=1, majority=0, not_finite=1) == [
        "1 of 2 predictions are not finite numbers"
    ]
    assert sanity.sanity_warnings([2.5, 2.5 + 1e-9], examples=2, value=0.5, majority=0) == [
        "every prediction is the same: 2.5"
    ]
    assert sanity.sanity_warnings(["", ""], examples=2, value=0.5, majority=0) == [
        "every prediction is the same: no answer"
    ]


@pytest.mark.parametrize("scale", [1e-12, 1e-6, 1.0, 1e6, 1e12])
def test_predictions_are_the_same_only_within_the_rounding_of_float32(scale: float) -> None:
    def warned(predictions: Sequence[float]) -> bool:
        messages = sanity.sanity_warnings(np.array(predictions) * scale, examples=3, value=0.5, majority=0)
        return any("the same" in warning for warning in messages)

    assert warned([2.5, 2.5, 2.5]) and warned([2.5, 2.5 + 1e-9, 2.5]) and warned([-2.5, -2.5, -2.5])
    assert not warned([2.5, 2.5 + 1e-6, 2.5]) and not warned([0.5, 0.5 + 1e-6, 0.5]) and not warned([0, 1e-9, 0])


def test_sanity_warnings_name_doubled_examples() -> None:
    assert sanity.sanity_warnings([0, 1, 1], examples=3, value=0.9, majority=0.5, ids=["a", "b", "c"]) == []
    assert sanity.sanity_warnings([0, 1, 1, 0], examples=4, value=0.9, majority=0.5, ids=["a", "b", "b", "b"]) == [
        "2 of 4 predictions are for an example that already has one"
    ]
