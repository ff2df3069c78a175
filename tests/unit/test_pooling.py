"""The files of sentence-transformers beside an encoder: read in both forms, written so that its versions agree."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.pooling import FILES, LENGTH, MODES, MODULES, POOLING, Pooling, read_pooling, write_pooling
from tinydistilbert.models.teacher import load_teacher
from tinydistilbert.recipe.schema import Teacher
from tinydistilbert.storage import atomic

TEXTS = ["a small model answers quickly", "the old house near the lake " * 5, "Paris"]


def folder_with(tmp_path: Path, modules: object, pooling: object) -> Path:
    tiny.config().save_pretrained(tmp_path)
    (tmp_path / MODULES).write_text(json.dumps(modules))
    (tmp_path / POOLING).parent.mkdir()
    (tmp_path / POOLING).write_text(json.dumps(pooling))
    return tmp_path


def modules(*kinds: str) -> list[dict[str, object]]:
    return [
        {"idx": i, "name": str(i), "path": "", "type": f"sentence_transformers.{kind}"} for i, kind in enumerate(kinds)
    ]


@pytest.mark.parametrize("mode", MODES)
def test_what_is_written_is_read(tmp_path: Path, mode: str) -> None:
    tiny.config().save_pretrained(tmp_path)
    assert read_pooling(tmp_path) == Pooling(("mean",), False, None), "without files the mean of the tokens"
    pooling = Pooling((mode,), mode == "cls", 16 if mode == "max" else None)
    write_pooling(pooling, tiny.config(), tmp_path)
    assert read_pooling(tmp_path) == pooling
    assert (tmp_path / LENGTH).is_file() == (mode == "max")


@pytest.mark.parametrize("settings", [
    {"pooling_mode": "cls", "embedding_dimension": 32},
    {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False},
])  # fmt: skip
def test_both_forms_of_the_file_are_read(tmp_path: Path, settings: dict[str, object]) -> None:
    kinds = modules("models.Transformer", "sentence_transformer.modules.pooling.Pooling", "models.Normalize")
    assert read_pooling(folder_with(tmp_path, kinds, settings)) == Pooling(("cls",), True)


def test_the_length_is_within_the_positions(tmp_path: Path) -> None:
    write_pooling(Pooling(max_length=10_000), tiny.config(), tmp_path)
    assert atomic.read_json(tmp_path / LENGTH)["max_seq_length"] == tiny.config().max_position_embeddings


@pytest.mark.parametrize(("kinds", "settings", "words"), [
    (modules("models.CLIPModel"), {}, "CLIPModel"), ([], {}, "modules none"), (7, {}, "mean of the tokens"),
    (modules("models.Transformer", "models.Pooling"), {"pooling_mode": "magic"}, "magic"),
    (modules("models.Transformer", "models.Pooling"), {}, "nothing"),
    (modules("models.Transformer", "models.Pooling"), [], "mean of the tokens"),
    (modules("models.Transformer", "models.Pooling", "models.Dense"), {"pooling_mode": "mean"}, "Dense"),
])  # fmt: skip
def test_what_is_not_known_is_said(tmp_path: Path, kinds: object, settings: object, words: str) -> None:
    """A teacher of masked words needs none of it, so nothing is refused."""
    notices.begin()
    assert read_pooling(folder_with(tmp_path, kinds, settings)) == Pooling()
    assert [note for note in notices.all_notices() if words in note]


def test_a_teacher_says_how_its_student_is_pooled() -> None:
    assert load_teacher(Teacher(model="offline")).pooling == Pooling(("mean",), True, 256)


@pytest.mark.long
@pytest.mark.parametrize("mode", ["mean", "cls"])
def test_sentence_transformers_pools_as_is_written(tmp_path: Path, tokenizer, mode: str) -> None:
    from sentence_transformers import SentenceTransformer

    model = tiny.scrambled(tiny.model("bert", **tiny.WIDER)).eval()
    save_model(model, tokenizer, tmp_path)
    write_pooling(Pooling((mode,), normalizes=True, max_length=16), model.config, tmp_path)
    opened = SentenceTransformer(str(tmp_path), device="cpu")
    assert opened.max_seq_length == 16
    for text, embedding in zip(TEXTS, opened.encode(TEXTS), strict=True):
        with torch.inference_mode():
            inputs = tokenizer(text, return_tensors="pt", truncation=True, max_length=16)
            hidden = model.base_model(**inputs).last_hidden_state[0]
        pooled = (hidden[0] if mode == "cls" else hidden.mean(0)).numpy()
        np.testing.assert_allclose(embedding, pooled / np.linalg.norm(pooled), atol=1e-4)


def test_the_files_are_of_the_manifest(tmp_path: Path, tokenizer) -> None:
    with atomic.unfinished(tmp_path / "model") as folder:
        save_model(tiny.model(), tokenizer, folder)
        write_pooling(Pooling(max_length=16), tiny.config(), folder)
    assert set(FILES) <= atomic.read_manifest(tmp_path / "model")["files"].keys()
    assert read_pooling(tmp_path / "model").max_length == 16
