"""Loading: every weight accounted for, only known families, no pickles, tokenizers that fit."""

import json
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import (
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    MPNetConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    XLMRobertaConfig,
)
from transformers.utils import logging

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.models import untrusted
from tinydistilbert.models.elmo.language_model import ElmoConfig
from tinydistilbert.models.elmo.tokenizer import elmo_tokenizer
from tinydistilbert.models.loading import (
    Head,
    check_length,
    load_config,
    load_model,
    load_tokenizer,
    longest_input,
    save_model,
    set_dropout,
)
from tinydistilbert.models.pruned import keep
from tinydistilbert.models.teacher import check_tokenizer, load_teacher, with_new_head
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.recipe import schema
from tinydistilbert.storage import atomic

CONFIG = tiny.config(**tiny.WIDER)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    save_model(tiny.model(**tiny.WIDER), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def put(path: Path, **changes: object) -> None:
    """Change keys of a JSON file; None takes one out."""
    content = json.loads(path.read_text()) | changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def put_weights(folder: Path, **changes: Tensor | None) -> None:
    """Change tensors of a folder; None takes one out."""
    weights = load_file(folder / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


QUERY, WORDS = "bert.encoder.layer.0.attention.self.query.weight", "bert.embeddings.word_embeddings.weight"
MODEL_SOURCES = "give a folder with config.json and model.safetensors, a hub name (with network), or 'offline'"
PUBLISHED = "use the config.json that was published with the weights"
TRAINED = "use the masked-LM checkpoint of that model (only the teacher 'offline' gets a new head)"
COMPLETE = "use a complete model of that kind"


def another_family(folder: Path) -> None:
    GPT2Config(n_layer=1).save_pretrained(folder)


def a_pickle(folder: Path) -> None:
    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


WRONG_MODELS: dict[str, tuple[Head, Callable[[Path], object], str]] = {
    "no config": (
        "masked-lm", lambda folder: (folder / "config.json").unlink(),
        f"model {{}}: expected a model folder or hub name, found no config.json in it; {MODEL_SOURCES}",
    ),
    "another family": (
        "masked-lm", another_family,
        "model {}: expected a family among bert, distilbert, roberta, xlm-roberta, camembert, electra, mpnet, "
        "modernbert, elmo, found 'gpt2'; use another model",
    ),
    "ELMo as a teacher": (
        "masked-lm", lambda folder: ElmoConfig().save_pretrained(folder),
        "model {}: ELMo is not a masked language model; "
        "fine-tune it instead (finetune.model), or use another teacher",
    ),
    "ELMo for words": (
        "token-classification", lambda folder: ElmoConfig().save_pretrained(folder),
        "model {}: ELMo cannot tag words here; use a transformer",
    ),
    "a pickle": (
        "masked-lm", a_pickle,
        "model {}: expected a complete safetensors model, found pytorch_model.bin, a pickle; "
        "run: tinydistilbert convert {} --output NEW",
    ),
    "another vocabulary": (
        "masked-lm", lambda folder: put(folder / "config.json", vocab_size=233),
        f"model {{}}: expected word embeddings of shape (233, 32), found {WORDS} of shape (232, 32); {PUBLISHED}",
    ),
    "more heads than there are": (
        "masked-lm", lambda folder: put(folder / "config.json", pruned={"heads": [4, 5], "intermediate": [48, 48]}),
        "config.json: pruned.heads: expected 2 numbers from 1 to 4, found [4, 5]; "
        "use the config.json that was saved with the weights",
    ),
    "a missing weight": (
        "masked-lm", lambda folder: put_weights(folder, **{QUERY: None}),
        f"model {{}}: expected every weight of a masked-lm bert, found 1 missing, such as {QUERY}; {TRAINED}",
    ),
    "a missing weight under a new head": (
        "span", lambda folder: put_weights(folder, **{QUERY: None}),
        f"model {{}}: expected every weight of a span bert, found 1 missing, such as {QUERY}; {COMPLETE}",
    ),
    "unexpected weights": (
        "masked-lm", lambda folder: put_weights(folder, **{"bert.b": torch.ones(2), "bert.a": torch.ones(2)}),
        f"model {{}}: expected every weight of a masked-lm bert, found 2 unexpected, such as bert.a; {TRAINED}",
    ),
    "weights of another shape": (
        "classification", lambda folder: put_weights(folder, **{QUERY: torch.ones(33, 32)}),
        f"model {{}}: expected every weight of a classification bert, found 1 of another shape, such as {QUERY}; "
        f"{COMPLETE}",
    ),
    "an infinite weight": (
        "masked-lm", lambda folder: put_weights(folder, **{QUERY: torch.eye(32) / 0}),
        f"model {{}}: {QUERY} has values that are not finite; use another copy of the model",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("head", "spoil", "message"), WRONG_MODELS.values(), ids=WRONG_MODELS)
def test_what_is_wrong_with_a_model_is_told_in_one_line(
    folder: Path, head: Head, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError) as error:
        load_model(folder, head)
    assert str(error.value) == message.replace("{}", str(folder))


def no_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    (folder / "tokenizer_config.json").unlink()


def without(token: str) -> Callable[[Path], object]:
    """Takes a special token out of a tokenizer, whose class must not know it by itself."""
    return lambda folder: put(
        folder / "tokenizer_config.json", **{token: None}, tokenizer_class="PreTrainedTokenizerFast"
    )


WRONG_TOKENIZERS: dict[str, tuple[Callable[[Path], object], str]] = {
    # transformers makes up a tokenizer then, for which every word of every text is unknown
    "none": (
        no_tokenizer,
        "expected a vocabulary in tokenizer.json, found only special tokens; save the tokenizer beside the model",
    ),
    "a slow one": (
        lambda folder: put(folder / "tokenizer_config.json", tokenizer_class="ByT5Tokenizer"),
        "expected a fast tokenizer, found ByT5Tokenizer; convert it to tokenizer.json",
    ),
    "more tokens than embeddings": (
        lambda folder: put(folder / "config.json", vocab_size=231),
        "expected token ids below 231, found 231; put the model's own tokenizer beside it",
    ),
    **{
        f"no {token}": (without(token), f"expected a {token}, found none; use a tokenizer like BERT's")
        for token in ("cls_token", "sep_token", "pad_token", "mask_token")
    },
}


@pytest.mark.parametrize(("spoil", "message"), WRONG_TOKENIZERS.values(), ids=WRONG_TOKENIZERS)
def test_what_is_wrong_with_a_tokenizer_is_told_in_one_line(
    folder: Path, spoil: Callable[[Path], object], message: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError) as error:
        load_tokenizer(folder)
    assert str(error.value) == f"tokenizer of model {folder}: {message}"


@pytest.mark.parametrize(
    ("spoil", "load", "where", "expected", "fix"),
    [
        (
            lambda folder: put(folder / "config.json", hidden_act=7), load_config, "model {}",
            "a config.json that transformers reads", "use the one it was published with",
        ),
        (
            lambda folder: (folder / "tokenizer.json").write_text("{}"), load_tokenizer, "tokenizer of model {}",
            "tokenizer.json", "save the tokenizer beside the model",
        ),
        (
            lambda folder: put(folder / "config.json", hidden_act="unheard of"),
            lambda folder: load_model(folder, "masked-lm"), "model {}",
            "a complete safetensors model", "check the folder; weights must be in model.safetensors",
        ),
    ],
    ids=["config", "tokenizer", "weights"],
)  # fmt: skip
def test_what_transformers_stumbles_over_is_told_with_the_file_and_a_cure(
    folder: Path, spoil: Callable[[Path], object], load: Callable[[Path], object], where: str, expected: str, fix: str
) -> None:
    spoil(folder)
    with pytest.raises(UserError) as error:  # what was found is said in its words, which change
        load(folder)
    user_error = error.value
    assert (user_error.where, user_error.expected, user_error.fix) == (where.format(folder), expected, fix)


def test_a_missing_weight_is_an_error(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    for head in ("masked-lm", "classification", "span"):
        with pytest.raises(UserError, match=r"1 missing, such as bert\.encoder\.layer\.1"):
            load_model(folder, head)


def test_an_encoder_without_head_is_no_masked_lm(folder: Path) -> None:
    weights = {k: v for k, v in load_file(folder / "model.safetensors").items() if not k.startswith("cls.")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="missing"):
        load_model(folder, "masked-lm")
    regression = load_model(folder, "regression")
    assert (regression.config.num_labels, regression.config.problem_type) == (1, "regression")
    assert regression.classifier.out_features == 1


def test_new_heads_follow_the_seed_and_keep_the_encoder(folder: Path) -> None:
    torch.manual_seed(5)
    one = load_model(folder, "classification", labels=("no", "yes", "maybe"))
    torch.manual_seed(5)
    same = load_model(folder, "classification", labels=("no", "yes", "maybe"))
    assert torch.equal(one.classifier.weight, same.classifier.weight)
    assert one.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
    assert one.config.label2id == {"no": 0, "yes": 1, "maybe": 2}
    saved = load_file(folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    assert torch.equal(one.bert.embeddings.word_embeddings.weight, saved)


def test_the_tokenizer_neither_truncates_nor_pads_by_itself(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    described = json.loads((folder / "tokenizer.json").read_text())
    described["truncation"] = {"max_length": 4, "strategy": "LongestFirst", "stride": 0, "direction": "Right"}
    described["padding"] = {
        "strategy": {"Fixed": 20}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "[PAD]",
    }  # fmt: skip
    (folder / "tokenizer.json").write_text(json.dumps(described))
    assert len(load_tokenizer(folder).backend_tokenizer.encode("the student learns from the teacher").ids) == 8
    tokenizer("the student", truncation=True, max_length=3, padding="max_length")  # leaves both behind in the tokenizer
    save_model(tiny.model(**tiny.WIDER), tokenizer, folder)
    saved = json.loads((folder / "tokenizer.json").read_text())
    assert (saved["truncation"], saved["padding"]) == (None, None)


def test_elmos_tokenizer_has_no_vocabulary_and_needs_none(tmp_path: Path) -> None:
    ElmoConfig(vocab_size=3).save_pretrained(tmp_path)  # rows of characters, with which its five tokens have no part
    elmo_tokenizer().save_pretrained(tmp_path)
    assert load_tokenizer(tmp_path)("a word")["attention_mask"] == [1, 1]


def test_a_tokenizer_of_another_model_is_refused(tokenizer: PreTrainedTokenizerFast) -> None:
    check_tokenizer(tiny.model(), tokenizer, "here")
    for size in (100, 232 + 128):
        other = tiny.model(vocab_size=size)
        with pytest.raises(UserError, match="232 tokens"):
            check_tokenizer(other, tokenizer, "here")


def test_a_span_head_has_two_outputs_whatever_classes_the_folder_had(folder: Path, tokenizer) -> None:
    save_model(load_model(folder, "classification", labels=("no", "yes", "maybe")), tokenizer, folder)
    span = load_model(folder, "span", labels=("never", "asked", "for"))
    assert span.qa_outputs.out_features == span.config.num_labels == 2
    assert load_model(folder, "classification", require_head=True).config.id2label == {0: "no", 1: "yes", 2: "maybe"}


OF_OTHERS = {
    "cls.predictions.extra": "masked-lm", "pre_classifier.weight": "classification", "qa_outputs.extra": "span",
    "bert.pooler.extra": "", "cls.seq_relationship.weight": "", "bert.embeddings.position_ids": "",
}  # fmt: skip
"""Weights that old and new BERT files have beside the encoder, and the head that would miss or want them."""


@pytest.mark.parametrize("name", OF_OTHERS)
@pytest.mark.parametrize("head", ["masked-lm", "classification", "span"])
def test_weights_of_other_heads_are_left_out_and_foreign_ones_in_its_own_are_refused(
    folder: Path, name: str, head: Head
) -> None:
    put_weights(folder, **{name: torch.ones(2)})
    if OF_OTHERS[name] == head:
        with pytest.raises(UserError, match=f"1 unexpected, such as {re.escape(name)}; "):
            load_model(folder, head)
    else:
        assert name not in load_model(folder, head).state_dict()


def test_a_trained_model_has_its_whole_head(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(UserError, match=r"found 4 missing, such as bert\.pooler\.dense\.bias; use a complete model"):
        load_model(folder, "classification", require_head=True)
    trained = tiny.model(head="classification", **tiny.WIDER)
    save_model(trained, tokenizer, folder)
    loaded = load_model(folder, "classification", require_head=True)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in trained.state_dict().items())


@pytest.mark.parametrize(
    ("saved", "asked", "architectures"),
    [
        ("classification", "token-classification", ["BertForSequenceClassification"]),
        ("token-classification", "classification", ["BertForTokenClassification"]),
        ("classification", "token-classification", None),
    ],
)
def test_heads_for_texts_and_for_words_are_not_mistaken_for_each_other(
    folder: Path, tokenizer: PreTrainedTokenizerFast, saved: Head, asked: Head, architectures: list[str] | None
) -> None:
    save_model(tiny.model(head=saved, **tiny.WIDER), tokenizer, folder)
    assert load_model(folder, saved, require_head=True).config.architectures
    put(folder / "config.json", architectures=architectures)
    with pytest.raises(UserError) as error:
        load_model(folder, asked, require_head=True)
    architecture = "no architecture" if architectures is None else architectures[0]
    line = f"expected a model with the head of {asked}, found {architecture}; give a model of that kind"
    assert str(error.value) == f"model {folder}: {line}"


def test_weights_of_any_precision_are_read_as_single(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    half = tiny.model(**tiny.WIDER).to(torch.bfloat16)
    save_model(half, tokenizer, folder)
    loaded = load_model(folder, "masked-lm")
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.float32}
    assert torch.equal(loaded.get_parameter(QUERY), half.get_parameter(QUERY).float())


def test_a_pruned_model_is_loaded_with_its_shapes_as_a_model_of_its_family(
    folder: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    model = load_model(folder, "masked-lm")
    keep(model, [[0, 3], [1]], [range(48), range(5)])
    save_model(model, tokenizer, folder)
    loaded = load_model(folder, "masked-lm")
    assert type(loaded) is BertForMaskedLM
    assert loaded.get_parameter(QUERY).shape == (16, 32)
    assert all(torch.equal(tensor, loaded.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_transformers_reports_nothing_by_itself_and_is_as_loud_as_before_afterwards(
    folder: Path, tokenizer: PreTrainedTokenizerFast, capfd: pytest.CaptureFixture[str]
) -> None:
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    save_model(load_model(folder, "classification"), tokenizer, folder)  # with weights left out and new ones
    assert (*capfd.readouterr(),) == ("", "")
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


@pytest.mark.parametrize(
    ("load", "file", "code"),
    [
        (load_config, "config.json", {"AutoConfig": "theirs.Own"}),
        (load_tokenizer, "tokenizer_config.json", {"AutoTokenizer": ["theirs.Own", "theirs.Own"]}),
        (lambda folder: load_model(folder, "masked-lm"), "config.json", {"AutoModelForMaskedLM": "theirs.Own"}),
    ],
    ids=["config", "tokenizer", "model"],
)
def test_code_of_others_is_not_run_even_where_the_look_at_its_names_would_miss_it(
    folder: Path, load: Callable[[Path], object], file: str, code: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(transformers.dynamic_module_utils, "HF_MODULES_CACHE", str(folder.parent / "modules"))
    monkeypatch.setattr(untrusted, "check_tokenizer", lambda folder: None)
    monkeypatch.setattr(untrusted, "check_config", lambda folder: atomic.read_json(folder / "config.json"))
    (folder / "theirs.py").write_text(f"open({str(folder / 'was_run')!r}, 'w').close()\nclass Own: pass\n")
    put(folder / file, auto_map=code)
    with suppress(UserError):
        load(folder)
    assert not (folder / "was_run").exists()


# --- Folders that this program finished ---


def shards(folder: Path) -> list[Path]:
    """Replaces the one file of weights by several."""
    model = load_model(folder, "masked-lm")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    return sorted(folder.glob("model-*.safetensors"))


def damage(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("load", "name"),
    [
        (load_config, "config.json"),
        (load_tokenizer, "tokenizer_config.json"),
        (lambda folder: load_model(folder, "masked-lm"), "model.safetensors.index.json"),
        (lambda folder: load_model(folder, "masked-lm"), "model-00002-of-00006.safetensors"),
    ],
)
def test_a_changed_file_and_a_lost_one_are_told_by_who_reads_them(
    folder: Path, load: Callable[[Path], object], name: str
) -> None:
    assert len(shards(folder)) == 6
    atomic.write_manifest(folder)
    load(folder)
    damage(folder / name)
    with pytest.raises(UserError, match=rf"/{re.escape(name)}: expected sha256 .*, found other content"):
        load(folder)
    (folder / name).unlink()
    with pytest.raises(UserError):
        load(folder)


def test_a_lost_file_that_a_tokenizer_can_do_without_is_missed_all_the_same(folder: Path) -> None:
    atomic.write_manifest(folder)
    (folder / "tokenizer_config.json").unlink()
    with pytest.raises(
        UserError, match=r"tokenizer_config\.json: expected a file that the manifest lists, found no file"
    ):
        load_tokenizer(folder)


def test_a_model_whose_weights_were_given_up_is_told_with_its_folder(folder: Path) -> None:
    atomic.write_manifest(folder)
    atomic.release(folder, ["config.json"])
    with pytest.raises(UserError) as error:
        load_config(folder)
    assert error.value.where == str(folder) and f"delete {folder} and " in error.value.fix


def test_an_index_that_was_added_later_is_refused(folder: Path) -> None:
    atomic.write_manifest(folder)
    (folder / "model.safetensors.index.json").write_text("{}")
    with pytest.raises(UserError, match="found none in the manifest"):
        load_model(folder, "masked-lm")


def test_who_reads_a_small_file_does_not_hash_the_weights(folder: Path) -> None:
    atomic.write_manifest(folder)
    damage(folder / "model.safetensors")
    assert load_config(folder).model_type == "bert"
    assert len(load_tokenizer(folder)) == 232


# --- Tokenizers, dropout, lengths ---


def test_dropout_is_set_in_the_modules_and_not_in_the_config(folder: Path) -> None:
    model = load_model(folder, "masked-lm")
    before = model.config.to_dict()
    set_dropout(model, 0.3, 0.0)
    layer = model.bert.encoder.layer[0]
    assert (layer.attention.self.dropout.p, layer.attention.output.dropout.p, layer.output.dropout.p) == (0.0, 0.3, 0.3)
    assert model.config.to_dict() == before and before["hidden_dropout_prob"] == 0.1


def dropouts(model: PreTrainedModel) -> tuple[set[float], set[float]]:
    """Which probabilities there are for hidden states, and which for attention weights."""
    suffix = "attention.attn.dropout" if model.config.model_type == "mpnet" else "attention.dropout"
    attention = [m for n, m in model.named_modules() if n.endswith(("attention.self.dropout", suffix))]
    hidden = [m for m in model.modules() if isinstance(m, nn.Dropout) and m not in attention]
    numbers = {m.attention_dropout for m in model.modules() if isinstance(getattr(m, "attention_dropout", None), float)}
    return {m.p for m in hidden}, numbers or {m.p for m in attention}


def test_each_family_has_both_kinds_of_dropout_and_keeps_what_is_not_set(
    new_model: Callable[[str], PreTrainedModel], family: str
) -> None:
    model = new_model(family)
    set_dropout(model, 0.4, 0.2)
    assert dropouts(model) == ({0.4}, {0.2})
    set_dropout(model, None, 0.3)
    assert dropouts(model) == ({0.4}, {0.3})
    set_dropout(model, 0.1, None)
    assert dropouts(model) == ({0.1}, {0.3})
    set_dropout(model, None, None)
    assert dropouts(model) == ({0.1}, {0.3})


@pytest.mark.parametrize("training", [False, True])
def test_dropout_that_modernbert_had_left_out_is_in_the_mode_of_its_model(
    new_model: Callable[[str], PreTrainedModel], training: bool
) -> None:
    model = new_model("modernbert").train(training)
    set_dropout(model, 0.5, None)
    assert [layer.attn.out_drop.p for layer in model.model.layers] == [0.5] * 4
    assert {module.training for module in model.modules()} == {training}


@pytest.mark.parametrize(
    ("config", "longest"),
    [
        (BertConfig(max_position_embeddings=40, pad_token_id=1), 40),
        (RobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (RobertaConfig(max_position_embeddings=40, pad_token_id=5), 34),
        (XLMRobertaConfig(max_position_embeddings=514, pad_token_id=1), 512),
        (MPNetConfig(max_position_embeddings=40, pad_token_id=5), 38),
        (ElmoConfig(), sys.maxsize),
    ],
)
def test_inputs_are_as_long_as_there_are_positions_behind_the_padding(config: PretrainedConfig, longest: int) -> None:
    assert longest_input(config) == longest


def test_a_length_up_to_the_longest_is_fine_and_one_more_is_refused() -> None:
    check_length("corpus.block_size", 512, 512)
    with pytest.raises(UserError) as error:
        check_length("corpus.block_size", 513, 512)
    assert str(error.value) == "corpus.block_size: expected at most the teacher's 512 positions, found 513; lower it"


def test_a_new_head_starts_from_the_identity() -> None:
    encoder = tiny.model(**tiny.WIDER).bert
    model = with_new_head(encoder.state_dict(), CONFIG)
    head = model.cls.predictions
    assert torch.equal(head.transform.dense.weight, torch.eye(32)) and not head.bias.any()
    assert head.decoder.weight.data_ptr() == model.bert.embeddings.word_embeddings.weight.data_ptr()
    assert torch.equal(model.bert.encoder.layer[1].output.dense.weight, encoder.encoder.layer[1].output.dense.weight)


def test_the_offline_teacher_is_the_wheels_encoder() -> None:
    teacher = load_teacher(schema.Teacher(model=schema.OFFLINE_TEACHER))
    assert not teacher.has_trained_head and teacher.model.config.num_hidden_layers == 6
    weights = load_file(wheel_folder() / "model.safetensors")
    for name, value in weights.items():
        if not name.startswith("pooler.") and name != "embeddings.position_ids":
            assert torch.equal(teacher.model.state_dict()[f"bert.{name}"], value), name
    assert len(teacher.tokenizer("word " * 600, verbose=False)["input_ids"]) == 602
