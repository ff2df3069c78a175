"""The head of a model that is fine-tuned further: kept, put into order, or left out, and told each time."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import (
    AutoModelForTokenClassification,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.export.to_onnx import export
from tinydistilbert.models import convert
from tinydistilbert.models.class_names import match_classes
from tinydistilbert.models.heads import head_of
from tinydistilbert.models.loading import load_config, load_model, save_model
from tinydistilbert.models.task_head import output_layer
from tinydistilbert.predictor import load
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.compatible import check_classes

Save = Callable[..., Path]


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Any:
    """What was told since this was asked before."""

    def ask() -> str:
        notices.begin()
        text = caplog.text
        caplog.clear()
        return text

    notices.begin()
    return ask


@pytest.fixture
def saved(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Save:
    """Saves a model whose head has these classes, every weight its own random number."""

    def save(family: str = "bert", head: str = "classification", names: tuple[str, ...] = (), **settings: Any) -> Path:
        if names:
            settings["id2label"] = dict(enumerate(names))
            settings["label2id"] = {name: number for number, name in enumerate(names)}
        model = tiny.scrambled(tiny.model(family, head, pad_token_id=0, **settings), std=3.0)
        save_model(model, tokenizer, tmp_path / "model")
        return tmp_path / "model"

    return save


@pytest.mark.parametrize(
    ("outputs", "classes", "expected"),
    [
        (("a", "b", "c"), ("a", "b", "c"), ((0, 1, 2), "name")),
        (("c", "a", "b"), ("a", "b", "c"), ((1, 2, 0), "name")),
        (("NEGATIVE", "POSITIVE"), ("negative", "positive"), ((0, 1), "spelling")),
        (("not-entailment", " Entailment"), ("entailment", "not_entailment"), ((1, 0), "spelling")),
        (("LABEL_0", "LABEL_1"), ("no", "yes"), ((0, 1), "number")),
        (("LABEL_1", "LABEL_0"), ("no", "yes"), ((1, 0), "number")),
        (("0", "1", "2"), ("a", "b", "c"), ((0, 1, 2), "number")),
        (("1", "0"), ("0", "1"), ((1, 0), "name")),
        (("0", "1", "2"), ("1", "2", "3"), None),
        (("A", "a"), ("a", "A"), ((1, 0), "name")),
        (("A", "B"), ("a", "A"), None),
        (("a", "a"), ("a", "b"), None),
        (("good", "bad"), ("yes", "no"), None),
        (("LABEL_0", "LABEL_2"), ("no", "yes"), None),
        (("a", "b"), ("a", "b", "c"), None),
    ],
)
def test_outputs_are_matched_by_names_where_that_is_beyond_doubt(outputs: Any, classes: Any, expected: Any) -> None:
    match = match_classes(outputs, classes)
    assert (match and (match.order, match.by)) == expected


def test_a_head_of_another_number_of_classes_starts_anew_and_that_is_told(
    saved: Save, family: str, logged: Any
) -> None:
    folder = saved(family, names=("entailment", "neutral", "contradiction"))
    model = load_model(folder, "classification", labels=("no", "yes"))
    assert output_layer(model).weight.shape == (2, 16) and model.config.id2label == {0: "no", 1: "yes"}
    assert output_layer(model).weight.abs().max() < 1.5  # drawn anew: those that were saved are wider
    assert "head of 3 classes, entailment, neutral, contradiction, is left out" in logged()
    assert load_model(folder, "regression").config.num_labels == 1
    assert "for regression starts from random weights" in logged()
    load_model(folder, "span")
    assert "for span starts" in logged()
    with pytest.raises(UserError, match="of another shape"):
        load_model(folder, "regression", require_head=True)


@pytest.mark.parametrize("settings", [{"num_labels": 1}, {"num_labels": 2, "problem_type": "regression"}])
def test_measurements_are_no_classes(saved: Save, logged: Any, settings: dict[str, Any]) -> None:
    folder = saved(**settings)
    before = output_layer(load_model(folder, "classification", require_head=True)).weight
    after = output_layer(load_model(folder, "classification", labels=("no", "yes"))).weight
    assert after.shape == (2, 16) and after.abs().max() < 1.5 < before.abs().max()
    assert "is left out" in logged()


def test_several_measurements_are_not_answered_as_classes(saved: Save, tmp_path: Path) -> None:
    folder = saved(num_labels=3, problem_type="regression")
    for ask in (load, lambda given: export(given, tmp_path / "exported")):
        with pytest.raises(UserError, match="expected classes, or one measurement, found 3 measurements"):
            ask(folder)
    assert head_of(folder, load_config(saved(num_labels=3))) == "classification"
    config = load_config(saved(num_labels=3, problem_type="regression"))
    assert convert._head(folder, config) == ("classification", True)


def test_a_regression_head_is_kept(saved: Save, family: str, logged: Any) -> None:
    folder = saved(family, "regression", num_labels=1)
    kept = load_model(folder, "regression").state_dict()
    trained = load_model(folder, "regression", require_head=True).state_dict()
    assert all(torch.equal(kept[key], trained[key]) for key in trained)
    assert logged() == ""


def test_what_lies_below_the_last_matrix_is_kept(saved: Save) -> None:
    folder = saved("distilbert", names=("a", "b", "c"))
    old, new = (
        load_model(folder, "classification", require_head=True), load_model(folder, "classification", labels=("x", "y"))
    )  # fmt: skip
    assert torch.equal(old.pre_classifier.weight, new.pre_classifier.weight)


def test_a_head_is_put_into_the_order_of_the_task(saved: Save, family: str, logged: Any) -> None:
    folder = saved(family, names=("neutral", "Contra_diction", "entailment"))
    old = output_layer(load_model(folder, "classification", require_head=True))
    new = output_layer(load_model(folder, "classification", labels=("contra diction", "entailment", "neutral")))
    assert torch.equal(new.weight, old.weight[[1, 2, 0]]) and torch.equal(new.bias, old.bias[[1, 2, 0]])
    assert "outputs neutral, Contra_diction, entailment are read as neutral, contra diction, entailment" in logged()
    same = output_layer(load_model(folder, "classification", labels=("neutral", "Contra_diction", "entailment")))
    assert torch.equal(same.weight, old.weight) and logged() == ""


def test_a_head_of_other_names_is_kept_and_told(saved: Save, logged: Any) -> None:
    folder = saved(names=("bad", "good"))
    old = output_layer(load_model(folder, "classification", require_head=True))
    new = output_layer(load_model(folder, "classification", labels=("no", "yes")))
    assert torch.equal(new.weight, old.weight)
    assert logged().endswith(f"model {folder}: its head of 2 classes is kept: its outputs bad, good start as no, yes\n")


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "modernbert"])
def test_a_head_for_tokens_is_none_for_texts_though_its_shape_fits(
    family: str, tmp_path: Path, tokenizer: PreTrainedTokenizerFast, logged: Any
) -> None:
    tagger: PreTrainedModel = AutoModelForTokenClassification.from_config(tiny.config(family, num_labels=2))
    save_model(tiny.scrambled(tagger, std=3.0), tokenizer, tmp_path)
    for head, labels in (("classification", ("no", "yes")), ("span", ())):
        assert output_layer(load_model(tmp_path, head, labels=labels)).weight.abs().max() < 1.5
        assert "ForTokenClassification, is left out" in logged()


def test_modernberts_heads_of_two_outputs_are_not_mistaken_for_each_other(saved: Save, logged: Any) -> None:
    folder = saved("modernbert", names=("bad", "good"))
    assert output_layer(load_model(folder, "span")).weight.abs().max() < 1.5 and "is left out" in logged()


def test_a_head_that_is_kept_is_whole(saved: Save) -> None:
    folder = saved("distilbert", names=("a", "b"))
    weights = tiny.model("distilbert", "classification", pad_token_id=0).state_dict()
    del weights["classifier.bias"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 missing, such as classifier\.bias"):
        load_model(folder, "classification", labels=("a", "b"))


def test_a_new_head_is_drawn_once_however_the_old_one_was_found_out(saved: Save) -> None:
    heads = []
    for architectures in (["DistilBertForSequenceClassification"], None):  # told by its config, and by its shape
        folder = saved("distilbert", names=("a", "b", "c"))
        config = json.loads((folder / "config.json").read_text()) | {"architectures": architectures}
        (folder / "config.json").write_text(json.dumps(config))
        torch.manual_seed(5)
        heads.append(output_layer(load_model(folder, "classification", labels=("no", "yes"))).weight)
    assert torch.equal(heads[0], heads[1])


def test_nothing_else_of_another_shape_is_let_through(saved: Save) -> None:
    folder = saved("distilbert", names=("a", "b", "c"))
    weights = tiny.model("distilbert", "classification", num_labels=3, pad_token_id=0).state_dict()
    for key in ("pre_classifier.weight", "distilbert.transformer.layer.0.ffn.lin1.bias"):
        save_file({**weights, key: torch.ones(3, 3)}, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match="1 of another shape"):
            load_model(folder, "classification", labels=("no", "yes"))


@pytest.mark.parametrize("architectures", [None, ["DistilBertForSequenceClassification"]])
def test_a_config_that_is_not_that_of_the_weights(saved: Save, architectures: Any, logged: Any) -> None:
    folder = saved("distilbert", names=("a", "b", "c"))
    config = json.loads((folder / "config.json").read_text())
    config |= {"architectures": architectures, "id2label": {"0": "no", "1": "yes"}, "label2id": {"no": 0, "yes": 1}}
    (folder / "config.json").write_text(json.dumps(config))
    if architectures:
        with pytest.raises(UserError, match="2 of another shape"):
            load_model(folder, "classification", labels=("no", "yes"))
    else:  # then only the shapes tell
        assert load_model(folder, "classification", labels=("no", "yes")).config.num_labels == 2
        assert logged().endswith(
            f"model {folder}: its head has another number of outputs and is replaced by a new one\n"
        )
        assert load_model(folder, "classification", labels=("a", "b", "c")) and logged() == ""


def test_a_model_of_several_labels_at_once_becomes_one_of_classes(
    saved: Save, logged: Any, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    folder = saved(names=("neg", "pos"), problem_type="multi_label_classification")
    assert head_of(folder, load_config(folder)) == "multi-label"
    with pytest.raises(UserError, match="several labels at once"):
        check_classes(folder, load_config(folder), replace(TASKS["cola"], labels=("neg", "pos")))
    model = load_model(folder, "classification", labels=("neg", "pos"))
    assert model.config.problem_type == "single_label_classification"
    assert "several labels at once and now predicts one" in logged()
    save_model(model, tokenizer, tmp_path / "new")
    assert head_of(tmp_path / "new", load_config(tmp_path / "new")) == "classification"


def test_a_model_of_classes_becomes_one_of_several_labels(saved: Save, logged: Any) -> None:
    folder = saved(names=("b", "a"))
    model = load_model(folder, "multi-label", labels=("a", "b"))
    assert model.config.problem_type == "multi_label_classification" and model.config.id2label == {0: "a", 1: "b"}
    assert "now predicts any number of labels" in logged()
