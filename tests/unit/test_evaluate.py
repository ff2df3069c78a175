"""Evaluation of tiny models from end to end: aligned predictions, honest measurements, sanity warnings."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from transformers import (
    PreTrainedModel,
)

from tests import tiny
from tinydistilbert import results
from tinydistilbert.evaluation import metrics
from tinydistilbert.evaluation.evaluate import evaluate, trained_badly
from tinydistilbert.evaluation.scoring import read_predictions, score
from tinydistilbert.recipe.schema import Finetune, Recipe, recipe_hash
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import encode

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
}  # fmt: skip
CONTEXTS = ["Paris is the capital of France .", "The tower was built in 1889 by Eiffel ."]


def rows(task: str, count: int) -> list[dict[str, Any]]:
    if task == "squad":
        gold = [{"text": ["Paris"], "answer_start": [0]}, {"text": ["1889"], "answer_start": [23]}]
        texts = [CONTEXTS[i % 2] + " It is old ." * (i % 5) for i in range(count)]
        return [
            {"id": f"q{i}", "question": "what ?", "context": texts[i], "answers": gold[i % 2]} for i in range(count)
        ]
    label = (lambda i: float(i % 6)) if task == "stsb" else (lambda i: i % len(TASKS[task].labels))
    one, two = TASKS[task].text, TASKS[task].text_pair
    pair = (lambda i: {two: f"people came {'again ' * (i % 7)}"}) if two else (lambda i: {})
    return [{one: f"the tower {'of Paris ' * (i % 4)}", **pair(i), "label": label(i)} for i in range(count)]


def write(folder: Path, task: str, split: str, count: int) -> None:
    path = folder / TASKS[task].folder / f"{split}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pa.Table.from_pylist(rows(task, count)), path)


def save(model: PreTrainedModel, tokenizer: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def bert(task: str, tokenizer: Any) -> PreTrainedModel:
    if TASKS[task].kind == "span":
        return tiny.model(head="span", initializer_range=0.5, **SIZES)
    labels = max(1, len(TASKS[task].labels))
    return tiny.model(head="classification", initializer_range=0.5, num_labels=labels, **SIZES)


def run(
    task: str, model: PreTrainedModel, tokenizer: Any, folder: Path, *, data: Path | None = None, **finetune: Any
) -> Path:
    recipe = Recipe(name="tiny", data=str(data or folder / "data"), finetune=Finetune(tasks=(task,), **finetune))
    evaluate(
        save(model, tokenizer, folder / "model"), TASKS[task], row="student", seed=3, recipe=recipe,
        output=folder / "scores", device=CPU,
        training={"train_examples": 10, "train_examples_total": 20, "seconds": 5.0}, max_length=TASKS[task].max_length,
    )  # fmt: skip
    return folder / "scores"


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.parametrize("task", ["mrpc", "stsb", "squad", "sst2"])
def test_a_model_is_scored_from_end_to_end(task: str, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "data", task, "validation", 60)
    output = run(task, bert(task, tokenizer), tokenizer, tmp_path, validation_examples=40)
    atomic.read_manifest(output)
    measurements = results.read(output / "measurements.jsonl")
    assert [m.metric for m in measurements] == list(TASKS[task].metrics)
    table = pyarrow.parquet.read_table(output / "predictions-validation.parquet").to_pydict()
    assert len(table["id" if task == "squad" else "idx"]) == 40
    for m in measurements:
        low, high = m.details["interval"]
        assert -1 <= low <= high <= 1 and low - 0.2 <= m.value <= high + 0.2
        assert (m.examples, m.train_examples, m.train_examples_total) == (40, 10, 20)
        assert m.examples_total == TASKS[task].official["validation"] and m.is_subset and m.is_trained_on_subset
        assert (m.model, m.task, m.split, m.seed, m.recipe) == ("student", task, "validation", 3, "tiny")
        assert m.seconds > 5 and len(m.data_fingerprint) == 64
        assert m.value == pytest.approx(recomputed(task, m.metric, table))
    assert (
        recipe_hash(Recipe(name="tiny", finetune=Finetune(tasks=(task,), validation_examples=40)))
        == measurements[0].recipe_hash
    )
    shown = lines(output / "samples.jsonl")
    assert len(shown) == 8
    assert {"split", "gold", "prediction"} <= set(shown[0])
    assert {"question", "context"} <= set(shown[0]) or "text" in shown[0]
    if task == "mrpc":
        assert {s["gold"] for s in shown} | {s["prediction"] for s in shown} <= {"equivalent", "not_equivalent"}


def recomputed(task: str, metric: str, table: dict[str, list[Any]]) -> float:
    """The metric from the predictions file alone."""
    if task == "squad":
        by_hand = {"exact_match": metrics.squad_exact_match, "f1": metrics.squad_f1}[metric]
        return float(np.mean([by_hand(p, a) for p, a in zip(table["prediction_text"], table["answers"], strict=True)]))
    return float(metrics.METRICS[metric](np.array(table["label"]), np.array(table["prediction"])))


def test_predictions_are_those_of_the_model_on_each_example(tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "data", "mrpc", "validation", 30)
    model = bert("mrpc", tokenizer).eval()
    output = run("mrpc", model, tokenizer, tmp_path)
    table = pyarrow.parquet.read_table(output / "predictions-validation.parquet").to_pylist()
    examples = rows("mrpc", 30)
    for row in table:
        example = examples[row["idx"]]
        with torch.no_grad():
            logits = model(**tokenizer(example["sentence1"], example["sentence2"], return_tensors="pt")).logits[0]
        np.testing.assert_allclose(row["logits"], logits.numpy(), atol=1e-5)
        np.testing.assert_allclose(row["probabilities"], logits.softmax(-1).numpy(), atol=1e-5)
        assert row["label"] == example["label"] and row["prediction"] == int(logits.argmax())


def test_both_parts_of_mnli_are_scored_and_a_missing_one_is_named(tokenizer: Any, tmp_path: Path) -> None:
    model = bert("mnli", tokenizer)
    write(tmp_path / "data", "mnli", "validation_matched", 9)
    (only,) = results.read(run("mnli", model, tokenizer, tmp_path) / "measurements.jsonl")
    assert only.split == "validation_matched" and only.details["missing"] == ["validation_mismatched"]
    write(tmp_path / "data", "mnli", "validation_mismatched", 12)
    both = results.read(run("mnli", model, tokenizer, tmp_path) / "measurements.jsonl")
    assert [(m.split, m.examples) for m in both] == [("validation_matched", 9), ("validation_mismatched", 12)]
    assert all("missing" not in m.details for m in both)


def test_a_model_that_repeats_one_class_is_flagged(tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "data", "sst2", "validation", 30)
    model = tiny.model("distilbert", "classification", num_hidden_layers=1)
    torch.nn.init.zeros_(model.classifier.weight)
    model.classifier.bias.data = torch.tensor([0.0, 1.0])
    (measurement,) = results.read(run("sst2", model, tokenizer, tmp_path) / "measurements.jsonl")
    assert measurement.value == measurement.details["majority"] == 0.5
    assert measurement.details["warnings"] == [
        "every prediction is the same: 1",
        "0.500 is not above the 0.500 of the majority baseline",
    ]


@pytest.mark.parametrize("task", ["sst2", "stsb", "squad"])
def test_logits_that_are_not_numbers_are_wrong_and_flagged(task: str, tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "data", task, "validation", 12)
    model = bert(task, tokenizer)
    model.bert.embeddings.LayerNorm.weight.data.fill_(3e38)  # finite, or it would be refused; its states are not
    output = run(task, model, tokenizer, tmp_path)
    for m in results.read(output / "measurements.jsonl"):
        assert m.value == 0
        assert any("12 of 12" in warning and "not finite" in warning for warning in m.details["warnings"])
    assert len(lines(output / "samples.jsonl")) == 8


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("task", ["sst2", "stsb", "squad"])
def test_one_prediction_that_is_not_finite_is_counted_and_never_right(task: str, bad: float, tokenizer: Any) -> None:
    columns: dict[str, list[Any]] = {"idx": [0, 1, 2], "label": [0, 1, 1]}
    width = 2
    if task == "stsb":
        columns["label"], width = [0.0, 2.5, 5.0], 1
    if task == "squad":
        answers = [{"text": ["Paris"], "answer_start": [0]}] * 3
        columns = {"id": ["a", "b", "c"], "question": ["what ?"] * 3, "context": ["Paris"] * 3, "answers": answers}
    text = {"sst2": ["text"], "stsb": ["text", "text_pair"], "squad": []}[task]
    columns |= dict.fromkeys(text, ["Paris is old ."] * 3)
    examples = Examples(TASKS[task], "validation", columns, 3)
    features = encode(examples, tokenizer, 64)
    shape = [(length, 2) for length in features.lengths] if task == "squad" else [(width,)] * 3
    logits = [np.arange(float(np.prod(s)), dtype=np.float32).reshape(s) + row for row, s in enumerate(shape)]
    logits[2].reshape(-1)[-1] = bad
    predictions = read_predictions(examples, features, logits if task == "squad" else np.stack(logits))
    for _, details in score(examples, predictions, seed=0).values():
        assert any("1 of 3" in warning and "not finite" in warning for warning in details["warnings"])
    if task == "sst2":
        assert predictions.values[2] == metrics.NO_CLASS


def test_a_perfect_reader_of_spans_scores_one_whatever_the_order_of_the_windows(tokenizer: Any) -> None:
    long = " ".join(["The tower was built by the engineer ."] * 30) + " Paris is old ."
    contexts = [long, "Paris is the capital", long]
    examples = Examples(
        TASKS["squad"], "validation",
        {
            "id": ["a", "b", "c"], "question": ["what ?"] * 3, "context": contexts,
            "answers": [{"text": ["Paris"], "answer_start": [c.index("Paris")]} for c in contexts],
        },
        3,
    )  # fmt: skip
    features = encode(examples, tokenizer, 64)
    assert len(features) > 6
    logits = []
    for length, (first, last) in zip(features.lengths, features.labels, strict=True):
        row = np.zeros((length, 2), dtype=np.float32)
        row[first, 0] = row[last, 1] = 5  # where the answer is not in the window, [CLS] gets the 5, which is no answer
        logits.append(row)
    scores = score(examples, read_predictions(examples, features, logits), seed=0)
    assert {name: value for name, (value, _) in scores.items()} == {"exact_match": 1, "f1": 1}
    assert scores["f1"][1]["interval"] == [1, 1]
    # all answers are the same word here, so even a perfect score proves nothing, and a warning says so
    assert scores["f1"][1]["majority"] == 1 and scores["f1"][1]["warnings"]


def test_a_row_of_logits_too_few_is_an_error_not_a_shift(tokenizer: Any, tmp_path: Path) -> None:
    columns = {"idx": [0, 1], "text": ["a", "b"], "label": [0, 1]}
    examples = Examples(TASKS["sst2"], "validation", columns, 2)
    features = encode(examples, tokenizer, 16)
    with pytest.raises(AssertionError):
        read_predictions(examples, features, np.zeros((1, 2), dtype=np.float32))


def test_what_the_training_says_against_a_score_is_among_its_warnings() -> None:
    assert trained_badly({"loss": 0.5, "loss_without_learning": 0.69}) == []
    assert trained_badly({}) == [] and trained_badly({"loss": None, "loss_without_learning": 0.69}) == []
    (never,) = trained_badly({"loss": 0.7, "loss_without_learning": 0.69})
    assert "learned nothing" in never and "0.700" in never and "0.690" in never
    (failed,) = trained_badly({"failed": "step 6: the loss is infinite"})
    assert "step 6" in failed


def test_a_model_from_elsewhere_may_number_the_classes_in_its_own_way(tokenizer: Any, tmp_path: Path) -> None:
    write(tmp_path / "data", "mrpc", "validation", 40)
    model = bert("mrpc", tokenizer)
    model.config.id2label = {0: "not_equivalent", 1: "equivalent"}
    straight = run("mrpc", model, tokenizer, tmp_path)
    model.config.id2label = {0: "equivalent", 1: "not_equivalent"}
    turned = run("mrpc", model, tokenizer, tmp_path / "turned-data", data=tmp_path / "data")
    tables = [pyarrow.parquet.read_table(folder / "predictions-validation.parquet") for folder in (straight, turned)]
    assert tables[0]["prediction"].to_pylist() == [1 - value for value in tables[1]["prediction"].to_pylist()]
    assert len(set(tables[0]["prediction"].to_pylist())) == 2
