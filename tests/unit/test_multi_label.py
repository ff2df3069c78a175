"""Texts with several labels: reading them, metrics, the loss, thresholds, baselines, and predictions."""

import dataclasses
import itertools
import json
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.metrics import accuracy_score, f1_score

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import metrics, resampling, sanity
from tinydistilbert.evaluation.scoring import (
    choose_threshold,
    headline_score,
    majority_headline,
    predictions_of_rows,
    read_predictions,
    score,
    threshold_for,
)
from tinydistilbert.export.to_onnx import export
from tinydistilbert.finetuning.examples import task_examples
from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.finetuning.soft_targets import make_soft_targets
from tinydistilbert.losses import terms
from tinydistilbert.models.loading import load_config, load_model, save_model
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.predictor import load
from tinydistilbert.recipe.schema import Corpus, CustomTask, Recipe, TaskDistillation, recipe_hash
from tinydistilbert.recipe.toml import from_dict
from tinydistilbert.tasks import baselines, hold_out, load_examples
from tinydistilbert.tasks.base import NO_LABELS, Examples, Task
from tinydistilbert.tasks.compatible import check_classes
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.label_thresholds import best_thresholds, given_labels, stored_label_thresholds

LABELS = ("insult", "threat", "toxic")


def task(train: object = "", validation: object = "", **columns: Any) -> Task:
    return custom_task("mine", CustomTask(train=str(train), validation=str(validation), kind="multi-label", **columns))


def examples_of(rows: list[list[int]], texts: list[str] | None = None) -> Examples:
    columns = {"idx": [*range(len(rows))], "text": texts or [f"text {i}" for i in range(len(rows))]}
    named = dataclasses.replace(task(), labels=LABELS[: len(rows[0])])
    return Examples(named, "validation", {**columns, "label": [tuple(row) for row in rows]}, len(rows))


def read(of: Task, split: str = "train") -> Examples:
    notices.begin()
    return load_examples(of, split, data=None, corpus=Corpus(), limit=0, seed=0)


def notice_text() -> str:
    return "\n".join(notices.all_notices())


def written(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


# Reading.


@pytest.mark.parametrize(
    ("name", "content", "columns"),
    [
        ("a.csv", "text,label\na,toxic|insult\nb,\nc,threat\n", {}),
        ("a.csv", "text,label\na,toxic; insult\nb,\nc,threat\n", {"label_separator": ";"}),
        ("a.csv", "text,label\na,\"['toxic', 'insult']\"\nb,[]\nc,\"[\"\"threat\"\"]\"\n", {}),
        ("a.jsonl", "\n".join(
            json.dumps({"text": text, "label": given})
            for text, given in (("a", ["toxic", "insult"]), ("b", []), ("c", ["threat"]))
        ), {}),
        ("a.csv", "text,insult,threat,toxic\na,1,0,1\nb,0,0,0\nc,0,1,0.0\n", {"label": LABELS}),
        ("a.jsonl", "\n".join(
            json.dumps({"text": t, "insult": i, "threat": h, "toxic": x})
            for t, i, h, x in (("a", True, 0, 1.0), ("b", False, 0, 0.0), ("c", False, 1, 0.0))
        ), {"label": LABELS}),
    ],
)  # fmt: skip
def test_every_way_of_writing_several_labels_is_read_alike(
    tmp_path: Path, name: str, content: str, columns: dict[str, Any]
) -> None:
    examples = read(task(written(tmp_path / name, content), **columns))
    assert examples.task.labels == LABELS
    assert examples.columns["label"] == [(1, 0, 1), (0, 0, 0), (0, 1, 0)]
    assert "1 of 3 rows have no label" in notice_text()
    if columns.get("label_separator") or "toxic|" in content:
        assert "1 of 3 cells split at" in notice_text() and "3 labels in all" in notice_text()


def test_columns_of_labels_keep_their_order(tmp_path: Path) -> None:
    file = written(tmp_path / "a.csv", "text,b,a\nx,1,0\ny,0,1\n")
    assert read(task(file, label=("b", "a"))).task.labels == ("b", "a")


def test_a_data_set_with_lists_of_class_numbers_gets_their_names(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.Sequence(datasets.ClassLabel(names=["b", "a"]))}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [[0, 1], []]}, features=features)
    rows.save_to_disk(str(tmp_path / "saved"))
    examples = read(task(tmp_path / "saved"))
    assert examples.task.labels == ("a", "b") and examples.columns["label"] == [(1, 1), (0, 0)]


def test_a_number_without_a_name_in_a_list_is_refused(tmp_path: Path) -> None:
    features = datasets.Features(
        {"text": datasets.Value("string"), "label": datasets.Sequence(datasets.ClassLabel(names=["b", "a"]))}
    )
    rows = datasets.Dataset.from_dict({"text": ["x", "y"], "label": [[0, 1], [0, -1]]}, features=features)
    rows.save_to_disk(str(tmp_path / "saved"))
    with pytest.raises(UserError, match=r"row 1, column label: expected a list .*found nothing in it"):
        read(task(tmp_path / "saved"))


@pytest.mark.parametrize(
    ("content", "columns", "words"),
    [
        ("text,label\na,x|y\nb,x||y\n", {}, ["a.csv:3", "''"]),
        ("text,label\na,x;y\nb,x\n", {}, ["';'", "--label-separator"]),
        ("text,label\na,x\nb,x\n", {}, ["2 to 1,000 labels", "classification"]),
        ("text,x,y\na,1,0\nb,2,1\n", {"label": ("x", "y")}, ["a.csv:3, column x", "0 or 1", "'2'"]),
        ("text,x,y\na,1,0\nb,,1\n", {"label": ("x", "y")}, ["a.csv:3, column x", "0 or 1"]),
        ("text,x,y\na,1,0\nb,1,0\n", {"label": ("x", "y")}, ["column y", "no train example", "leave it out"]),
        ("text,x\na,1\n", {"label": ("x", "y")}, ["column", "y"]),
    ],
)
def test_what_is_refused_of_labels(tmp_path: Path, content: str, columns: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        read(task(written(tmp_path / "a.csv", content), **columns))
    assert all(word in str(caught.value) for word in words) and "\n" not in str(caught.value), caught.value


@pytest.mark.parametrize("value", ["null", "[1.5, 2]", '[["x"]]', '[""]'])
def test_lists_with_other_things_in_them_are_refused(tmp_path: Path, value: str) -> None:
    file = written(tmp_path / "a.jsonl", f'{{"text":"a","label":{value}}}\n{{"text":"b","label":["x","y"]}}'
                   if value in ("null", '[""]') else f'{{"text":"a","label":{value}}}')  # fmt: skip
    with pytest.raises(UserError, match=r"a\.jsonl:1, column label"):
        read(task(file))


@pytest.mark.parametrize("first", [[0, 1, 0], [0.0, 1.0, 0.0], [False, True, False], "[0, 1, 0]", "0|1|0"])
def test_vectors_of_0_and_1_are_not_taken_for_names_of_labels(tmp_path: Path, first: Any) -> None:
    rows = [json.dumps({"text": text, "label": first}) for text in ("a", "b")]
    with pytest.raises(UserError, match=r"a\.jsonl, column label: each list has 0 or 1 for each of 3 labels"):
        read(task(written(tmp_path / "a.jsonl", "\n".join(rows))))


def test_labels_called_0_and_1_are_names_in_lists_of_other_lengths(tmp_path: Path) -> None:
    rows = [json.dumps({"text": text, "label": names}) for text, names in (("a", [0, 1]), ("b", [1, 1, 1]), ("c", []))]
    examples = read(task(written(tmp_path / "a.jsonl", "\n".join(rows))))
    assert examples.task.labels == ("0", "1") and examples.columns["label"] == [(1, 1), (0, 1), (0, 0)]


def test_a_label_that_only_the_validation_has_is_refused(tmp_path: Path) -> None:
    train = written(tmp_path / "a.csv", "text,label\na,toxic|insult\nb,\n")
    validation = written(tmp_path / "b.csv", "text,label\nc,toxics\n")
    with pytest.raises(UserError, match=r"b\.csv:2.*insult, toxic.*'toxics'.*did you mean 'toxic'"):
        read(task(train, validation), "validation")


def test_one_column_twice_or_several_columns_of_another_kind_are_refused() -> None:
    with pytest.raises(UserError, match="named twice"):
        task(label=("x", "x"))
    with pytest.raises(UserError, match="multi-label"):
        custom_task("mine", CustomTask(label=("x", "y")))
    with pytest.raises(UserError, match="name it"):
        task(label=())
    assert custom_task("mine", CustomTask(label=["x"])).label == "x"  # type: ignore[arg-type]


def test_a_list_where_one_class_is_asked_for_names_the_other_kind(tmp_path: Path) -> None:
    file = written(tmp_path / "a.jsonl", '{"text":"a","label":["x","y"]}\n{"text":"b","label":["x"]}')
    with pytest.raises(UserError, match="--kind multi-label"):
        read(dataclasses.replace(custom_task("mine", CustomTask(train=str(file)))))


def test_the_new_keys_leave_the_hash_of_earlier_recipes() -> None:
    custom = {"mine": {"train": "a.csv", "validation": "b.csv"}}
    one = from_dict({"name": "x", "finetune": {"tasks": ["mine"], "custom": custom}}, "x")
    custom["mine"]["label_separator"] = "|"
    assert recipe_hash(one) == recipe_hash(
        from_dict({"name": "x", "finetune": {"tasks": ["mine"], "custom": custom}}, "x")
    )
    custom["mine"]["label_separator"] = ";"
    assert recipe_hash(one) != recipe_hash(
        from_dict({"name": "x", "finetune": {"tasks": ["mine"], "custom": custom}}, "x")
    )


# Splits.


def test_a_rare_label_is_on_both_sides_of_a_hold_out_and_trained_on_after_a_split_by_hash(tmp_path: Path) -> None:
    rows = [[1, int(i in (3, 7)), int(i % 2)] for i in range(40)]
    examples = examples_of(rows)
    assert hold_out.classes_to_draw_by(examples)[:4] == [0, 2, 0, 1]  # type: ignore[index]
    parts = hold_out.draw(examples.keys, hold_out.classes_to_draw_by(examples), 4)
    for side in (parts.scored, parts.trained):
        assert np.array(rows)[side].any(0).all()
    lines = [f"text {i},{'rare|common' if i == 3 else 'common|other' if i % 2 else ''}" for i in range(60)]
    file = written(tmp_path / "a.csv", "text,label\n" + "\n".join(lines))
    for share in ("50%", "90%"):
        of = task(file, share)
        train, scored = read(of), read(of, "validation")
        assert train.task.labels == scored.task.labels == ("common", "other", "rare")
        assert np.array(train.columns["label"]).any(0).all() and len(train) + len(scored) == 60


def test_the_examples_that_choose_thresholds_are_never_trained_on_nor_scored(tmp_path: Path) -> None:
    lines = [f"text {i},{'x|y' if i % 2 else 'y' if i % 3 else ''}" for i in range(60)]
    train = written(tmp_path / "a.csv", "text,label\n" + "\n".join(lines))
    custom = {"mine": {"train": str(train), "validation": "20%", "kind": "multi-label"}}

    def examples(**more: Any) -> Any:
        section = {"tasks": ["mine"], "custom": custom, "model": "none", **more}
        recipe = from_dict({"name": "x", "finetune": section}, "x")
        notices.begin()
        return task_examples(recipe, task(train, "20%"), None)

    scored = {*read(task(train, "20%"), "validation").columns["text"]}
    fixed = examples(select="fixed")
    assert "are not trained on, to choose the thresholds" in notice_text()
    held_out = examples(select="heldout")
    assert held_out.threshold is held_out.selection is not None
    for of in (fixed, held_out, examples(select="reported")):
        assert of.threshold is not None
        chosen, trained = {*of.threshold.columns["text"]}, {*of.train.columns["text"]}
        assert not chosen & trained and not chosen & scored and chosen and trained
        assert np.array(of.threshold.columns["label"]).any(0).all()


# Metrics, thresholds, resampling.


@st.composite
def label_sets(draw: st.DrawFn) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    shape = draw(st.tuples(st.integers(1, 12), st.integers(2, 5)))
    bits = st.lists(st.integers(0, 1), min_size=shape[0] * shape[1], max_size=shape[0] * shape[1])
    return np.array(draw(bits)).reshape(shape), np.array(draw(bits)).reshape(shape)


@pytest.mark.long
@given(label_sets(), st.integers(0, 5))
@settings(deadline=None)
def test_the_metrics_are_those_of_scikit_learn_of_resamples_too(
    sides: tuple[NDArray[np.int64], NDArray[np.int64]], seed: int
) -> None:
    gold, guess = sides
    drawn = np.random.default_rng(seed).integers(len(gold), size=len(gold))
    counts = np.bincount(drawn, minlength=len(gold)).astype(float)
    for rows, weights in ((np.arange(len(gold)), None), (drawn, counts)):
        expected = {
            "micro_f1": f1_score(gold[rows], guess[rows], average="micro", zero_division=0),
            "macro_f1": f1_score(gold[rows], guess[rows], average="macro", zero_division=0),
            "exact_match": accuracy_score(gold[rows], guess[rows]),
        }
        for name, value in expected.items():
            assert metrics.metric_of(name, gold)(gold, guess, weights) == pytest.approx(value), name


def test_an_answer_that_is_not_finite_is_no_label_and_no_equal_set() -> None:
    examples = examples_of([[0, 0], [1, 1]])
    predictions = predictions_of_rows(examples, np.array([[np.nan, -9.0], [9.0, 9.0]]))
    assert predictions.values.tolist() == [[-1, -1], [1, 1]] and predictions.texts == ["", "insult, threat"]
    scores = score(examples, predictions, seed=0)
    assert scores["exact_match"][0] == 0.5 and scores["micro_f1"][0] == 1
    assert any("1 of 2 predictions are not finite" in w for w in scores["micro_f1"][1]["warnings"])


def test_scores_have_intervals_and_the_best_constant_as_majority() -> None:
    rows = [[1, 0, int(i % 2)] for i in range(20)]
    examples = examples_of(rows)
    logits = np.where(np.array(rows) == 1, 3.0, -3.0)
    logits[:4] *= -1
    predictions = predictions_of_rows(examples, logits)
    assert predictions.gold[:2] == ["insult", "insult, toxic"]
    scores = score(examples, predictions, seed=0)
    assert list(scores) == ["micro_f1", "macro_f1", "exact_match"]
    value, details = scores["micro_f1"]
    assert details["interval"][0] < value < details["interval"][1] <= 1
    # Always "insult": 20 of 20 right, of 30 labels; with "toxic" too 30 of 40.
    assert details["majority"] == pytest.approx(2 * 30 / (40 + 30)) == majority_headline(examples)
    assert sanity.majority_predictions(np.array(rows))[0].tolist() == [1, 0, 1]
    constant = score(examples, predictions_of_rows(examples, np.full((20, 3), -9.0)), seed=0)
    assert f"every prediction is the same: {NO_LABELS}" in constant["micro_f1"][1]["warnings"]


def test_the_paired_test_sees_a_difference_and_mirrors(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    gold = random.integers(0, 2, (300, 4))
    good, bad = (
        np.where(random.random((300, 4)) < 0.05, 1 - gold, gold),
        np.where(random.random((300, 4)) < 0.3, 1 - gold, gold),
    )
    paired = resampling.paired_test("multi-label", "micro_f1", gold, good[None], np.stack([bad, bad]))
    expected = f1_score(gold, good, average="micro") - f1_score(gold, bad, average="micro")
    assert paired.difference == pytest.approx(expected) and paired.p < 0.01 and paired.interval[0] > 0
    other = resampling.paired_test("multi-label", "micro_f1", gold, np.stack([bad, bad]), good[None])
    assert other.difference == -paired.difference and other.p == paired.p
    assert resampling.paired_test("multi-label", "macro_f1", gold, good[None], good[None]).p == 1


@pytest.mark.long
@given(label_sets(), st.integers(0, 100))
@settings(deadline=None, max_examples=60)
def test_no_other_thresholds_have_a_better_micro_f1(
    sides: tuple[NDArray[np.int64], NDArray[np.int64]], seed: int
) -> None:
    gold = sides[0][:6, :3]
    logits = np.random.default_rng(seed).normal(size=gold.shape).round(1)
    chosen = best_thresholds(logits, gold)
    reached = metrics.micro_f1(gold, given_labels(logits, chosen))
    ways = [[0.5] if not gold[:, label].any() else [0.0, *(1 / (1 + np.exp(-logits[:, label]))), 1.0]
            for label in range(gold.shape[1])]  # fmt: skip
    best = max(float(metrics.micro_f1(gold, given_labels(logits, np.array(way)))) for way in itertools.product(*ways))
    assert reached == pytest.approx(best) if gold.any() else (chosen == 0.5).all()


def test_thresholds_are_near_a_half_where_the_examples_leave_it_open() -> None:
    gold = np.array([[1, 0], [0, 0], [1, 0]])
    assert best_thresholds(np.array([[4.0, 1], [-4, 2], [3, 3]]), gold).tolist() == [0.5, 0.5]
    (threshold, _) = best_thresholds(np.array([[-1.0, 1], [-4, 2], [-2, 3]]), gold)
    assert 1 / (1 + np.exp(4)) < threshold < 1 / (1 + np.exp(2))


def test_chosen_thresholds_raise_the_score_on_the_examples_that_choose(tokenizer: Any) -> None:
    random = np.random.default_rng(0)
    rows = (random.random((80, 3)) < 0.15).astype(int)
    examples = examples_of(rows.tolist())
    logits = (2 * rows - 4 + random.normal(size=rows.shape)).astype(np.float32)
    features = encode(examples, tokenizer, 16)
    chosen = choose_threshold(examples, features, logits)
    assert chosen is not None and chosen.examples == 80
    assert headline_score(examples, features, logits, threshold=chosen.value) == pytest.approx(chosen.score)
    assert chosen.score > headline_score(examples, features, logits) + 0.2
    texts = read_predictions(examples, features, logits, threshold=chosen.value).texts
    assert set(texts) > {NO_LABELS}


@pytest.mark.parametrize("value", [[0.5], [0.5, 2], "half", [0.5, True], {"a": 0.5}])
def test_thresholds_that_are_none_are_refused(value: Any) -> None:
    with pytest.raises(UserError, match="label_thresholds"):
        stored_label_thresholds({"label_thresholds": value}, "the model", 2)
    assert stored_label_thresholds({}, "the model", 2).tolist() == [0.5, 0.5]


# The loss, models, soft targets.


def test_the_hard_term_is_torchs_and_leaves_out_what_has_no_label(tokenizer: Any) -> None:
    examples = examples_of([[1, 0, 1], [0, 0, 0], [0, 1, 0]])
    examples.columns["label"][1] = None
    features = encode(examples, tokenizer, 16)
    model = tiny.model("bert", "classification", num_labels=3)
    inputs = tokenizer(examples.columns["text"], padding=True, return_tensors="pt")
    batch = {name: inputs[name] for name in ("input_ids", "attention_mask", "token_type_ids")}
    batch["labels"] = torch.from_numpy(features.labels)
    loss = TaskLoss("multi-label")
    assert loss.token_shares([batch]) == [{"hard": 1.0}]
    value, _ = loss.loss(ProjectedStudent(model, None), batch, {"hard": 1.0}, 0)
    logits = model(**inputs).logits[[0, 2]]
    expected = torch.nn.BCEWithLogitsLoss()(logits, torch.tensor([[1.0, 0, 1], [0, 1, 0]]))
    torch.testing.assert_close(value, expected)
    batch["teacher_logits"] = torch.randn(3, 3)
    soft = TaskLoss("multi-label", TaskDistillation(soft=1.0, temperature=3.0))
    value, _ = soft.loss(ProjectedStudent(model, None), batch, {"soft": 1.0}, 0)
    torch.testing.assert_close(value, terms.binary_kl(model(**inputs).logits, batch["teacher_logits"], 3.0))


def test_binary_kl_is_kl_over_yes_and_no_whose_gradient_keeps_its_size() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(5, 4, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)

    def two(logits: torch.Tensor) -> torch.Tensor:
        return torch.stack([logits, torch.zeros_like(logits)], dim=-1).flatten(0, 1)

    for temperature in (1.0, 3.0):
        torch.testing.assert_close(
            terms.binary_kl(student, teacher, temperature), terms.kl(two(student), two(teacher), temperature)
        )
    assert float(terms.binary_kl(teacher, teacher, 2.0)) == pytest.approx(0, abs=1e-12)
    hard = F.binary_cross_entropy_with_logits(student, (teacher > 0).double())
    sure = terms.binary_kl(student, 1e4 * teacher.sign(), 1.0)
    torch.testing.assert_close(sure, hard)
    grads = []
    for temperature in (10.0, 100.0):
        logits = student.clone().requires_grad_()
        terms.binary_kl(logits, teacher, temperature).backward()
        assert logits.grad is not None
        grads.append(logits.grad)
    torch.testing.assert_close(grads[0], grads[1], rtol=0.05, atol=1e-4)


@pytest.fixture
def saved(tmp_path: Path, tokenizer: Any) -> Path:
    save_model(tiny.scrambled(tiny.model("bert")), tokenizer, tmp_path / "base")
    torch.manual_seed(0)
    model = load_model(tmp_path / "base", "multi-label", labels=LABELS)
    with torch.no_grad():
        tiny.scrambled(model)
    model.config.label_thresholds = [0.0, 1.0, 0.5]  # type: ignore[attr-defined]
    save_model(model, tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.long
def test_a_saved_model_predicts_with_its_thresholds_in_torch_onnx_and_transformers(saved: Path, tmp_path: Path) -> None:
    from transformers import pipeline

    config = json.loads((saved / "config.json").read_text())
    assert config["problem_type"] == "multi_label_classification" and config["label_thresholds"] == [0.0, 1.0, 0.5]
    export(saved, tmp_path / "onnx")
    texts = ["the tower", "the student is fine"]
    first, second = load(saved), load(tmp_path / "onnx")
    for one, other in zip(first.predict(texts), second.predict(texts), strict=True):
        assert list(one["scores"]) == list(LABELS) and one["scores"] == pytest.approx(other["scores"], abs=1e-4)
        assert one["labels"] == other["labels"] == ["insult"] + ["toxic"] * (one["scores"]["toxic"] >= 0.5)
    pipeline_scores = pipeline("text-classification", model=str(saved), top_k=None)(texts)
    by_name = {each["label"]: each["score"] for each in pipeline_scores[0]}
    assert by_name == pytest.approx(first.predict(texts)[0]["scores"], abs=1e-4)


def test_a_model_is_scored_with_its_thresholds_in_the_order_of_the_task(saved: Path) -> None:
    config = load_config(saved)
    examples = examples_of([[1, 0, 1]])
    assert threshold_for(config, examples).tolist() == [0.0, 1.0, 0.5]  # type: ignore[union-attr]
    turned = dataclasses.replace(examples.task, labels=LABELS[::-1])
    order = check_classes(saved, config, turned)
    assert order == [2, 1, 0]
    assert threshold_for(config, dataclasses.replace(examples, task=turned), order).tolist() == [0.5, 1.0, 0.0]  # type: ignore[union-attr]


def test_teachers_of_one_class_and_of_several_labels_are_told_apart(
    saved: Path, tmp_path: Path, tokenizer: Any
) -> None:
    one = dataclasses.replace(custom_task("mine", CustomTask()), labels=LABELS)
    with pytest.raises(UserError, match=r"one class for a text, found a model of several"):
        check_classes(saved, load_config(saved), one)
    model = load_model(tmp_path / "base", "classification", labels=LABELS)
    save_model(model, tokenizer, tmp_path / "single")
    with pytest.raises(UserError, match=r"several labels at once, found a model of one"):
        check_classes(tmp_path / "single", load_config(tmp_path / "single"), examples_of([[0, 0, 1]]).task)


def test_a_teacher_that_knows_nothing_of_the_labels_is_refused(saved: Path, tmp_path: Path, tokenizer: Any) -> None:
    texts = [f"the tower {i}" for i in range(40)]
    model = load_model(saved, "multi-label", require_head=True).eval()
    with torch.no_grad():
        logits = model(**tokenizer(texts, padding=True, return_tensors="pt")).logits.numpy()
    right = (logits > np.median(logits, axis=0)).astype(int)
    settings = {"tokenizer": tokenizer, "max_length": 16, "device": torch.device("cpu"), "given_labels": ()}
    make_soft_targets(examples_of(right.tolist(), texts), [saved], tmp_path / "soft", **settings)  # type: ignore[arg-type]
    np.testing.assert_allclose(np.load(tmp_path / "soft/logits.npy"), logits, atol=1e-4)
    with pytest.raises(UserError, match="correlation"):
        make_soft_targets(examples_of((1 - right).tolist(), texts), [saved], tmp_path / "no", **settings)  # type: ignore[arg-type]


# Baselines.


@pytest.mark.parametrize("constant", [0, 1])
def test_one_vs_rest_learns_words_with_thresholds_and_takes_a_label_that_all_or_none_have(constant: int) -> None:
    words = [(int(i % 3 == 0), constant, int(i % 8 == 0)) for i in range(64)]
    texts = [f"{'bad ' * a}{'awful ' * c}thing number {i}" for i, (a, _, c) in enumerate(words)]
    train = examples_of([list(row) for row in words], texts)
    model = baselines.fit("tf-idf", train, baselines.tf_idf(train))
    assert model.thresholds is not None and model.converged
    unseen = examples_of([[1, constant, 0], [0, constant, 1], [0, constant, 0]], ["bad thing", "awful", "thing"])
    predictions = predictions_of_rows(unseen, model.outputs(unseen), model.thresholds)
    assert predictions.values.tolist() == [[1, constant, 0], [0, constant, 1], [0, constant, 0]]


def test_a_recipe_names_columns_in_toml() -> None:
    custom = {"mine": {"train": "a.csv", "validation": "b.csv", "kind": "multi-label", "label": ["x", "y"]}}
    recipe: Recipe = from_dict({"name": "x", "finetune": {"tasks": ["mine"], "custom": custom}}, "x")
    assert recipe.finetune.custom["mine"].label == ("x", "y")
