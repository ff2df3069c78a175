"""Loading: every weight accounted for, only known families, no pickles, tokenizers that fit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertForMaskedLM, GPT2Config, PreTrainedTokenizerFast

from tinydistilbert import recipe
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model, set_dropout
from tinydistilbert.models.teacher import check_tokenizer, load_teacher, wheel_folder, with_new_head

CONFIG = BertConfig(
    vocab_size=232, hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=2, pad_token_id=0
)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    save_model(BertForMaskedLM(CONFIG), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_a_missing_weight_is_an_error(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for head in ("masked-lm", "classification", "span"):
        with pytest.raises(UserError, match=r"1 missing, such as bert\.encoder\.layer\.1"):
            load_model(folder, head)


def test_an_unexpected_weight_is_an_error(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    save_file({**weights, "bert.extra.weight": torch.ones(2)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"1 unexpected, such as bert\.extra"):
        load_model(folder, "masked-lm")


def test_a_weight_of_another_shape_is_an_error(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    name = "bert.encoder.layer.0.attention.self.query.weight"
    save_file({**weights, name: torch.ones(3, 32)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError):
        load_model(folder, "masked-lm")


def test_an_encoder_without_head_is_no_masked_lm(folder: Path) -> None:
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("cls.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="missing"):
        load_model(folder, "masked-lm")
    assert load_model(folder, "regression").config.num_labels == 1


def test_new_heads_follow_the_seed_and_keep_the_encoder(folder: Path) -> None:
    torch.manual_seed(5)
    one = load_model(folder, "classification", labels=("no", "yes", "maybe"))
    torch.manual_seed(5)
    same = load_model(folder, "classification", labels=("no", "yes", "maybe"))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert one.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    saved = load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(one.bert.embeddings.word_embeddings.weight, saved)


def test_a_pickle_is_not_read(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="safetensors"):
        load_model(folder, "masked-lm")


def test_other_families_and_empty_places_are_refused(tmp_path: Path) -> None:
    GPT2Config(n_layer=1).save_pretrained(tmp_path)
    with pytest.raises(UserError, match="'gpt2'"):
        load_model(tmp_path, "masked-lm")
    with pytest.raises(UserError, match="no such folder"):
        load_model(tmp_path / "nowhere", "masked-lm")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        load_model(tmp_path / "empty", "masked-lm")


def test_the_tokenizer_neither_truncates_nor_pads_by_itself(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())
    described["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    (folder / "tokenizer.json").write_text(json.dumps(described))
    assert len(load_tokenizer(folder)("the student learns from the teacher")["input_ids"]) == 8
    tokenizer("the student", truncation=True, max_length=3)  # leaves its limit behind in the tokenizer
    save_model(BertForMaskedLM(CONFIG), tokenizer, folder)
    assert json.loads((folder / "tokenizer.json").read_text())["truncation"] is None


def test_a_tokenizer_of_another_model_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    check_tokenizer(BertForMaskedLM(CONFIG), tokenizer, "here")
    for size in (100, 232 + 128):
        other = BertForMaskedLM(BertConfig.from_dict({**CONFIG.to_dict(), "vocab_size": size}))
        with pytest.raises(UserError, match="232 pieces"):
            check_tokenizer(other, tokenizer, "here")


def test_a_span_head_has_two_outputs_whatever_classes_the_folder_had(folder: Path, tokenizer) -> None:
    save_model(load_model(folder, "classification", labels=("no", "yes", "maybe")), tokenizer, folder)
    assert load_model(folder, "span").qa_outputs.out_features == 2


def test_dropout_is_set_in_the_modules_and_not_in_the_config(folder: Path) -> None:
    model = load_model(folder, "masked-lm")
    set_dropout(model, 0.3, 0.0)
    layer = model.bert.encoder.layer[0]
    assert (layer.attention.self.dropout.p, layer.attention.output.dropout.p, layer.output.dropout.p) == (0.0, 0.3, 0.3)
    assert model.config.hidden_dropout_prob == 0.1


def test_a_new_head_starts_from_the_identity() -> None:
    torch.manual_seed(0)
    encoder = BertForMaskedLM(CONFIG).bert
    model = with_new_head(encoder.state_dict(), CONFIG)
    head = model.cls.predictions
    assert torch.equal(head.transform.dense.weight, torch.eye(32)) and not head.bias.any()
    assert head.decoder.weight.data_ptr() == model.bert.embeddings.word_embeddings.weight.data_ptr()
    assert torch.equal(model.bert.encoder.layer[1].output.dense.weight, encoder.encoder.layer[1].output.dense.weight)


def test_the_offline_teacher_is_the_wheels_encoder() -> None:
    teacher = load_teacher(recipe.Teacher(model=recipe.OFFLINE_TEACHER))
    assert not teacher.has_trained_head and teacher.model.config.num_hidden_layers == 6
    weights = load_file(wheel_folder() / "model.safetensors")
    for name, value in weights.items():
        if not name.startswith("pooler.") and name != "embeddings.position_ids":
            assert torch.equal(teacher.model.state_dict()[f"bert.{name}"], value), name
    assert len(teacher.tokenizer("word " * 600, verbose=False)["input_ids"]) == 602
