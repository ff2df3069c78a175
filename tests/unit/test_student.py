"""The cut: which layers, that nothing is lost, and what cannot be cut."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForMaskedLM,
    pipeline,
)

from tinydistilbert import recipe
from tinydistilbert.errors import UserError
from tinydistilbert.models.heads import hidden_states, vocabulary_logits
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.student import cut_student, layer_map

SMALL = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 48, "num_hidden_layers": 4}


def bert() -> PreTrainedModel:
    return BertForMaskedLM(BertConfig(vocab_size=232, **SMALL)).eval()


def roberta() -> PreTrainedModel:
    return RobertaForMaskedLM(RobertaConfig(vocab_size=232, pad_token_id=0, **SMALL)).eval()


def distilbert() -> PreTrainedModel:
    return DistilBertForMaskedLM(DistilBertConfig(vocab_size=232, n_layers=4, dim=32, n_heads=4, hidden_dim=48)).eval()


def scramble(model: PreTrainedModel) -> PreTrainedModel:
    """Every weight its own random number, so that a forgotten one shows (fresh biases are all zero)."""
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.3)
    return model


def logits_of_both(family, architecture, dtype):
    """Logits of a teacher and of the student cut from all of its layers, at the positions that are not padding."""
    teacher = scramble(family()).to(dtype)
    student = (
        cut_student(teacher, recipe.Student(layers=(0, 1, 2, 3), architecture=architecture), seed=0).to(dtype).eval()
    )
    ids = torch.randint(5, 232, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 10:] = 0
    with torch.no_grad():
        return tuple(model(input_ids=ids, attention_mask=mask).logits[mask.bool()] for model in (teacher, student))


@pytest.mark.parametrize("family", [bert, roberta, distilbert])
def test_cutting_all_layers_gives_the_teachers_exact_logits(family) -> None:
    theirs, ours = logits_of_both(family, "same", torch.float32)
    assert torch.equal(ours, theirs)


def test_as_distilbert_too_up_to_the_order_of_one_addition() -> None:
    # BERT adds word + token type + position in this order; with the type folded into the position it is another order.
    theirs, ours = logits_of_both(bert, "distilbert", torch.float64)
    torch.testing.assert_close(ours, theirs, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("family", [bert, roberta, distilbert])
def test_logits_at_chosen_positions_equal_the_models_own(family) -> None:
    model = scramble(family())
    ids = torch.randint(5, 232, (2, 9), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        hidden = hidden_states(model, ids, None).flatten(0, 1)
        torch.testing.assert_close(
            vocabulary_logits(model, hidden[[3, 11]]), model(input_ids=ids).logits.flatten(0, 1)[[3, 11]]
        )


def test_the_cut_takes_the_chosen_layers_and_leaves_the_teacher_alone() -> None:
    teacher = scramble(bert())
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = cut_student(teacher, recipe.Student(layers=(1, 3)), seed=0)
    for ours, theirs in ((0, 1), (1, 3)):
        name = "bert.encoder.layer.{}.attention.self.query.weight"
        assert torch.equal(student.state_dict()[name.format(ours)], before[name.format(theirs)])
    with torch.no_grad():
        next(student.parameters()).zero_()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "size", "depth", "expected"),
    [
        ("authors", 0, 12, (0, 2, 4, 7, 9, 11)),
        ("authors", 0, 6, (0, 2, 5)),
        ("even", 0, 12, (0, 2, 4, 6, 8, 10)),
        ("even", 4, 12, (0, 3, 6, 9)),
        ("first", 4, 12, (0, 1, 2, 3)),
        ("last", 3, 12, (9, 10, 11)),
        ((1, 5), 0, 6, (1, 5)),
    ],
)
def test_layer_maps(layers, size, depth, expected) -> None:
    assert layer_map(recipe.Student(layers=layers, num_hidden_layers=size), depth) == expected


@pytest.mark.parametrize(
    "student", [recipe.Student(layers=(0, 6)), recipe.Student(layers="first", num_hidden_layers=7)]
)
def test_layers_that_do_not_exist_are_refused(student) -> None:
    with pytest.raises(UserError):
        layer_map(student, 6)


def test_a_random_student_shares_nothing_and_depends_on_the_seed() -> None:
    teacher = bert()
    one, same, other = (cut_student(teacher, recipe.Student(initialization="random"), seed=s) for s in (0, 0, 1))
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], teacher.state_dict()[name])


def test_roberta_does_not_become_distilbert() -> None:
    with pytest.raises(UserError, match="architecture"):
        cut_student(roberta(), recipe.Student(architecture="distilbert"), seed=0)


def test_plain_transformers_reads_the_student(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    student = cut_student(bert(), recipe.Student(architecture="distilbert"), seed=0).eval()
    save_model(student, tokenizer, tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert isinstance(loaded, DistilBertForMaskedLM)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in student.state_dict().items())
    answers = pipeline("fill-mask", model=str(tmp_path))("Paris is the [MASK] of France.")
    assert len(answers) == 5 and all(answer["token_str"] for answer in answers)
