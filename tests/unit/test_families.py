"""Every family: cut without loss, loaded with every head, and its own ways of positions, dropout and layers."""

from pathlib import Path

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import SUPPORTED_FAMILIES, load_model, longest_input, save_model, set_dropout
from tinydistilbert.models.student import cut_student
from tinydistilbert.recipe import schema


@torch.no_grad()
def logits(model: PreTrainedModel, *, padded: bool) -> Tensor:
    """Logits at the positions that are not padding."""
    ids = torch.randint(5, 232, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    if padded:
        mask[1, 10:], ids[1, 10:] = 0, 0
    return model(input_ids=ids, attention_mask=mask).logits[mask.bool()]


def test_every_family_is_tested(new_model) -> None:
    assert [new_model(family).config.model_type for family in SUPPORTED_FAMILIES] == list(SUPPORTED_FAMILIES)


@pytest.mark.parametrize("padded", [False, True])
def test_cutting_all_layers_gives_the_teachers_exact_logits(scrambled, family, padded) -> None:
    teacher = scrambled(family)
    student = cut_student(teacher, schema.Student(layers=(0, 1, 2, 3)), seed=0).eval()
    student_weights, teacher_weights = student.state_dict(), teacher.state_dict()
    assert student_weights.keys() == teacher_weights.keys() and all(
        torch.equal(student_weights[key], teacher_weights[key]) for key in student_weights
    )
    assert_equal_up_to_rounding(logits(student, padded=padded), logits(teacher, padded=padded))


@pytest.mark.parametrize("padded", [False, True])
def test_bert_as_distilbert_too_up_to_the_order_of_one_addition(scrambled, padded) -> None:
    # BERT adds word + token type + position in this order; with the type folded into the position it is another order.
    teacher = scrambled("bert").double()
    student = cut_student(teacher, schema.Student(layers=(0, 1, 2, 3), architecture="distilbert"), seed=0).eval()
    student_logits, teacher_logits = logits(student.double(), padded=padded), logits(teacher, padded=padded)
    torch.testing.assert_close(student_logits, teacher_logits, rtol=1e-7, atol=1e-8)


def test_a_cut_student_is_read_by_plain_transformers_with_the_same_logits(
    scrambled, family, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    student = cut_student(scrambled(family), schema.Student(layers=(0, 3)), seed=0).eval()
    save_model(student, tokenizer, tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path).eval()
    assert type(loaded) is type(student)
    assert_equal_up_to_rounding(logits(loaded, padded=True), logits(student, padded=True))


def test_a_student_can_be_planned_without_any_weights(new_model, family) -> None:
    with torch.device("meta"):
        teacher = new_model(family)
        narrow = [schema.Student(hidden_size=16), schema.Student(hidden_size=16, width_reduction="svd")]
        for settings in (schema.Student(), *(narrow if family != "mpnet" else [])):
            student = cut_student(teacher, settings, seed=0)
            assert all(parameter.is_meta for parameter in student.parameters())


def test_modernberts_local_layers_stay_local(scrambled) -> None:
    student = cut_student(scrambled("modernbert"), schema.Student(layers=(0, 2, 3)), seed=0)
    assert student.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert [layer.attn.sliding_window for layer in student.model.layers] == [None, 4, None]


@pytest.mark.parametrize("layers", ["last", (1, 2), (2, 0)])
def test_modernberts_first_layer_has_to_stay_the_first(scrambled, layers) -> None:
    with pytest.raises(UserError, match=r"student\.layers: expected a list that begins with layer 0"):
        cut_student(scrambled("modernbert"), schema.Student(layers=layers), seed=0)
    cut_student(scrambled("modernbert"), schema.Student(layers=layers, initialization="random"), seed=0)


@pytest.mark.parametrize("family", ["roberta", "xlm-roberta", "camembert", "electra", "mpnet", "modernbert"])
def test_only_bert_becomes_distilbert(scrambled, family) -> None:
    with pytest.raises(UserError, match=r"student\.architecture"):
        cut_student(scrambled(family), schema.Student(architecture="distilbert"), seed=0)


@pytest.mark.parametrize("head", ["masked-lm", "classification", "regression", "span"])
def test_every_head_loads_over_a_masked_lm_folder(scrambled, family, head, tmp_path, tokenizer) -> None:
    saved = scrambled(family)
    save_model(saved, tokenizer, tmp_path / "saved")
    labels = ("no", "yes", "maybe") if head == "classification" else ()
    model = load_model(tmp_path / "saved", head, labels=labels).eval()
    saved_weights = saved.base_model.state_dict()
    weights = {key: value for key, value in model.base_model.state_dict().items() if not key.startswith("pooler.")}
    assert weights.keys() == saved_weights.keys() and all(
        torch.equal(weights[key], saved_weights[key]) for key in weights
    )
    output = model(input_ids=torch.randint(5, 232, (2, 9)))
    if head == "span":
        assert output.start_logits.shape == output.end_logits.shape == (2, 9)
    else:
        assert output.logits.shape == {"masked-lm": (2, 9, 232), "classification": (2, 3), "regression": (2, 1)}[head]
    save_model(model, tokenizer, tmp_path / "task")
    again = load_model(tmp_path / "task", head, labels=labels, require_head=True)
    assert all(torch.equal(value, again.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("head", ["classification", "span"])
def test_modernbert_keeps_its_pretrained_head_under_a_new_classifier(scrambled, head, tmp_path, tokenizer) -> None:
    saved = scrambled("modernbert")
    save_model(saved, tokenizer, tmp_path)
    assert torch.equal(load_model(tmp_path, head).head.dense.weight, saved.head.dense.weight)


def test_the_trained_head_that_was_asked_for_has_to_be_there(new_model, family, tmp_path, tokenizer) -> None:
    save_model(new_model(family), tokenizer, tmp_path)
    with pytest.raises(UserError, match="missing"):
        load_model(tmp_path, "classification", require_head=True)


def test_the_longest_input_is_what_the_model_can_take(scrambled, new_model) -> None:
    for family in ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra", "mpnet"):
        model = scrambled(family)
        longest = longest_input(model.config)
        assert longest == {"roberta": 511, "xlm-roberta": 511, "camembert": 511, "mpnet": 510}.get(family, 512)
        model(input_ids=torch.full((1, longest), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, longest + 1), 7))
    assert longest_input(new_model("modernbert").config) == 8192


def test_dropout_of_either_kind_is_set_and_acts_in_training_only(scrambled, family) -> None:
    model = scrambled(family)
    plain = logits(model, padded=False)
    for dropout, attention_dropout in ((0.5, 0.0), (0.0, 0.5)):
        set_dropout(model, dropout, attention_dropout)
        assert_equal_up_to_rounding(logits(model, padded=False), plain)
        assert not torch.allclose(logits(model.train(), padded=False), plain)
        model.eval()
    set_dropout(model, 0.0, 0.0)
    torch.testing.assert_close(logits(model.train(), padded=False), plain)
    set_dropout(model, None, None)
    torch.testing.assert_close(logits(model, padded=False), plain)
