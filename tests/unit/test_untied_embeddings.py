"""Masked-LM models whose decoder is the word embedding, or one of its own, through every surgery."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny
from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.compress.prune import drop_layers
from tinydistilbert.compress.vocabulary import trim
from tinydistilbert.export.quantize import quantize
from tinydistilbert.export.to_onnx import export
from tinydistilbert.models.heads import hidden_states, vocabulary_logits
from tinydistilbert.models.loading import SUPPORTED_FAMILIES, load_model, load_tokenizer, save_model
from tinydistilbert.models.pruned import PRUNABLE_FAMILIES, keep
from tinydistilbert.models.runtimes import OnnxRuntime
from tinydistilbert.models.student import cut_student
from tinydistilbert.recipe import schema

pytestmark = pytest.mark.long

IDS = torch.randint(5, 232, (2, 9), generator=torch.Generator().manual_seed(0))
WHOLE = schema.Student(layers=(0, 1, 2, 3))


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def tied(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture
def teacher(new_model: Callable[[str], PreTrainedModel], family: str, tied: bool) -> PreTrainedModel:
    """Every weight is its own random number; an untied decoder and its bias are others than what they were tied to."""
    config = new_model(family).config
    config.tie_word_embeddings = tied
    model: PreTrainedModel = AutoModelForMaskedLM.from_config(config).eval()
    assert is_tied(model) == tied
    return tiny.scrambled(model)


def is_tied(model: PreTrainedModel) -> bool:
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


@torch.no_grad()
def logits(model: PreTrainedModel, ids: Tensor = IDS) -> Tensor:
    return model(input_ids=ids).logits


@pytest.mark.parametrize("architecture", ["same", "distilbert"])
def test_a_cut_of_full_depth_has_the_teachers_logits(teacher, family, tied, architecture) -> None:
    if architecture == "distilbert" and family not in ("bert", "distilbert"):
        pytest.skip("refused for this family")
    student = cut_student(teacher, schema.Student(layers=(0, 1, 2, 3), architecture=architecture), seed=0).eval()
    assert_equal_up_to_rounding(logits(student), logits(teacher))
    words = student.get_input_embeddings().weight
    assert torch.equal(words, teacher.get_input_embeddings().weight)
    assert is_tied(student) == tied == student.config.tie_word_embeddings
    decoded = vocabulary_logits(student, hidden_states(student, IDS, None))
    assert_equal_up_to_rounding(decoded, logits(teacher))


@pytest.mark.parametrize("architecture", ["same", "distilbert"])
def test_a_saved_student_is_read_as_it_was(teacher, family, tied, architecture, tmp_path: Path, tokenizer) -> None:
    as_given = "same" if family not in ("bert", "distilbert") else architecture
    student = cut_student(teacher, schema.Student(layers=(0, 3), architecture=as_given), seed=0).eval()
    save_model(student, tokenizer, tmp_path)
    for read in (load_model(tmp_path, "masked-lm"), AutoModelForMaskedLM.from_pretrained(tmp_path)):
        assert_equal_up_to_rounding(logits(read.eval()), logits(student))
        assert all(torch.equal(value, read.state_dict()[key]) for key, value in student.state_dict().items())
        assert is_tied(read) == tied


@pytest.mark.parametrize("family", [family for family in SUPPORTED_FAMILIES if family != "mpnet"], indirect=True)
@pytest.mark.parametrize("reduction", ["slice", "svd"])
def test_a_narrower_student_keeps_a_decoder_of_its_own(teacher, tied, reduction) -> None:
    narrow = schema.Student(layers=(0, 3), hidden_size=16, width_reduction=reduction)
    student = cut_student(teacher, narrow, seed=0)
    decoder, words = student.get_output_embeddings().weight, student.get_input_embeddings().weight
    assert decoder.shape == words.shape == (232, 12 if teacher.config.model_type == "electra" else 16)
    assert is_tied(student) == tied and torch.equal(decoder, words) == tied


def test_random_students_are_tied_as_their_teachers_are(teacher, tied) -> None:
    assert is_tied(cut_student(teacher, schema.Student(initialization="random"), seed=0)) == tied


@pytest.mark.parametrize("family", PRUNABLE_FAMILIES, indirect=True)
def test_pruning_leaves_the_decoder_alone(teacher, tied) -> None:
    before = logits(teacher)
    keep(teacher, [range(4)] * 4, [range(48)] * 4)
    assert_equal_up_to_rounding(logits(teacher), before)
    assert is_tied(teacher) == tied


@pytest.mark.parametrize("family", ["bert", "distilbert"], indirect=True)
def test_a_trimmed_vocabulary_gives_the_kept_tokens_their_logits(
    teacher, tied, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    text = "paris is the capital of france"
    save_model(teacher, tokenizer, tmp_path / "whole")
    trim(tmp_path / "whole", [text], tmp_path / "trimmed")
    model, small = load_model(tmp_path / "trimmed", "masked-lm").eval(), load_tokenizer(tmp_path / "trimmed")
    kept = sorted(small.get_vocab(), key=small.get_vocab().__getitem__)
    assert len(kept) < 232 and is_tied(model) == tied
    whole = logits(teacher, torch.tensor([tokenizer(text)["input_ids"]]))
    trimmed = logits(model, torch.tensor([small(text)["input_ids"]]))
    assert_equal_up_to_rounding(trimmed, whole[..., tokenizer.convert_tokens_to_ids(kept)])


# Tied ones of BERT and DistilBERT are exported in test_export.py and test_quantize.py.
@pytest.mark.parametrize(
    ("family", "tied"), [("bert", False), ("distilbert", False), ("roberta", False), ("roberta", True)], indirect=True
)
def test_an_export_and_its_int8_have_the_models_decoder(teacher, tmp_path: Path, tokenizer) -> None:
    drop_layers(teacher, (0, 1))  # to trace four takes twice as long
    save_model(teacher, tokenizer, tmp_path / "torch")
    export(tmp_path / "torch", tmp_path / "onnx")
    quantize(tmp_path / "onnx", tmp_path / "int8")
    inputs = {"input_ids": IDS.numpy(), "attention_mask": np.ones(IDS.shape, np.int64)}
    inputs["token_type_ids"] = np.zeros(IDS.shape, np.int64)
    expected = logits(teacher).numpy()
    np.testing.assert_allclose(OnnxRuntime(tmp_path / "onnx")(inputs), expected, atol=1e-4)
    assert np.corrcoef(OnnxRuntime(tmp_path / "int8")(inputs).ravel(), expected.ravel())[0, 1] > 0.99
