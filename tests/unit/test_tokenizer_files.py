"""The files of a saved tokenizer: keys that transformers 4 needs, and the length that the model reads."""

import json
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.models.lengths import read_length, trained_length
from tinydistilbert.models.loading import load_config, load_tokenizer, longest_input, save_model
from tinydistilbert.storage import atomic

TEXT = "the old house " * 40


def settings(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "tokenizer_config.json").read_text())
    return content


def read(folder: Path, *, span: bool = False) -> int:
    return read_length(folder, load_tokenizer(folder).model_max_length, longest_input(load_config(folder)), span=span)


@pytest.mark.parametrize(
    ("family", "inputs"),
    [
        ("bert", ["input_ids", "token_type_ids", "attention_mask"]),
        ("distilbert", ["input_ids", "attention_mask"]),
        ("modernbert", ["input_ids", "attention_mask"]),
    ],
)
def test_it_names_what_the_model_takes(
    family: str, inputs: list[str], tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_model(tiny.model(family), tokenizer, tmp_path)
    assert settings(tmp_path)["model_input_names"] == inputs
    model = tiny.model(family)
    assert model(**AutoTokenizer.from_pretrained(tmp_path)("the student", return_tensors="pt")).logits.shape[0] == 1


def test_its_class_is_one_that_transformers_4_knows(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    special = {name: getattr(tokenizer, name) for name in ("pad_token", "unk_token", "cls_token", "sep_token")}
    raw = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    nameless = PreTrainedTokenizerFast(tokenizer_object=raw, mask_token="[MASK]", **special)
    for _ in range(2):  # also of what was saved and read before
        save_model(tiny.model("modernbert"), nameless, tmp_path)
        assert settings(tmp_path)["tokenizer_class"] == "PreTrainedTokenizerFast"
        nameless = load_tokenizer(tmp_path)
    assert nameless(TEXT)["input_ids"] == tokenizer(TEXT)["input_ids"]


@pytest.mark.parametrize("head", ["classification", "regression", "span"])
def test_the_length_goes_with_the_model(head: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    model = tiny.model(head=head, max_position_embeddings=64)
    save_model(model, tokenizer, tmp_path / "whole")
    assert settings(tmp_path / "whole")["model_max_length"] == 64, "as far as its positions reach"
    assert read(tmp_path / "whole", span=head == "span") == 64
    assert trained_length(tmp_path / "whole", 64, 64) is None
    save_model(model, tokenizer, tmp_path / "short", max_length=16)
    assert settings(tmp_path / "short")["model_max_length"] == 16
    assert read(tmp_path / "short", span=head == "span") == trained_length(tmp_path / "short", 16, 64) == 16
    plain = Tokenizer.from_file(str(tmp_path / "short/tokenizer.json")).encode(TEXT)
    assert len(plain) == (122 if head == "span" else 16), "contexts are read in windows"
    assert len(load_tokenizer(tmp_path / "short")(TEXT, verbose=False)["input_ids"]) == 122, "not cut unasked"
    assert tokenizer.backend_tokenizer.truncation is None and tokenizer.model_max_length == 512, "nor is the given one"


def test_where_a_folder_says_no_length_all_is_read_and_contexts_in_windows(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    save_model(tiny.model(max_position_embeddings=500), tokenizer, tmp_path)
    for says in (10**30, None, 3, 500):
        content = settings(tmp_path) | {"model_max_length": says}
        atomic.write_json(tmp_path / "tokenizer_config.json", content)
        assert read(tmp_path) == 500 and read(tmp_path, span=True) == 384, says
    atomic.write_manifest(tmp_path)
    atomic.write_json(tmp_path / "training.json", {"max_length": 500})
    (tmp_path / "manifest.json").unlink()
    atomic.write_manifest(tmp_path)  # a model that was trained here, on windows of all its positions
    assert read(tmp_path, span=True) == 500
