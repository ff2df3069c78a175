"""The cut: which layers, how wide, what is kept of a wider teacher, and what cannot be cut."""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForMaskedLM,
    DistilBertForMaskedLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    pipeline,
)

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.student import cut_student, layer_map
from tinydistilbert.recipe import schema


def bert() -> PreTrainedModel:
    return tiny.model(num_hidden_layers=4, **tiny.WIDER)


def distilbert() -> PreTrainedModel:
    return tiny.model("distilbert", num_hidden_layers=4, **tiny.WIDER)


def modernbert() -> PreTrainedModel:
    return tiny.model("modernbert", num_hidden_layers=4, **tiny.WIDER)


def test_the_cut_takes_the_chosen_layers_and_leaves_the_teacher_alone() -> None:
    teacher = tiny.scrambled(bert())
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    student = cut_student(teacher, schema.Student(layers=(1, 3)), seed=0)
    for student_layer, teacher_layer in ((0, 1), (1, 3)):
        name = "bert.encoder.layer.{}.attention.self.query.weight"
        assert torch.equal(student.state_dict()[name.format(student_layer)], before[name.format(teacher_layer)])
    with torch.no_grad():
        next(student.parameters()).zero_()
    assert all(torch.equal(v, before[k]) for k, v in teacher.state_dict().items())


@pytest.mark.parametrize(
    ("layers", "size", "depth", "expected"),
    [
        ("distilbert", 0, 12, (0, 2, 4, 7, 9, 11)),
        ("distilbert", 0, 6, (0, 2, 5)),
        ("even", 0, 12, (0, 2, 4, 6, 8, 10)),
        ("even", 4, 12, (0, 3, 6, 9)),
        ("first", 4, 12, (0, 1, 2, 3)),
        ("last", 3, 12, (9, 10, 11)),
        ((1, 5), 0, 6, (1, 5)),
    ],
)
def test_layer_maps(layers, size, depth, expected) -> None:
    assert layer_map(schema.Student(layers=layers, num_hidden_layers=size), depth) == expected


@pytest.mark.parametrize(
    "student", [schema.Student(layers=(0, 6)), schema.Student(layers="first", num_hidden_layers=7)]
)
def test_layers_that_do_not_exist_are_refused(student) -> None:
    with pytest.raises(UserError):
        layer_map(student, 6)


def test_a_random_student_shares_nothing_and_depends_on_the_seed() -> None:
    teacher = bert()
    one, same, other = (cut_student(teacher, schema.Student(initialization="random"), seed=s) for s in (0, 0, 1))
    name = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(one.state_dict()[name], same.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], other.state_dict()[name])
    assert not torch.equal(one.state_dict()[name], teacher.state_dict()[name])


def test_plain_transformers_reads_the_student(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    student = cut_student(bert(), schema.Student(architecture="distilbert"), seed=0).eval()
    save_model(student, tokenizer, tmp_path)
    loaded = AutoModelForMaskedLM.from_pretrained(tmp_path)
    assert isinstance(loaded, DistilBertForMaskedLM)
    assert all(torch.equal(v, loaded.state_dict()[k]) for k, v in student.state_dict().items())
    answers = pipeline("fill-mask", model=str(tmp_path))("Paris is the [MASK] of France.")
    assert len(answers) == 5 and all(answer["token_str"] for answer in answers)


@pytest.mark.parametrize("reduction", ["slice", "svd"])
def test_the_teachers_own_width_is_the_plain_cut(reduction) -> None:
    teacher = tiny.scrambled(bert())
    plain = cut_student(teacher, schema.Student(), seed=0).state_dict()
    settings = schema.Student(hidden_size=32, intermediate_size=48, width_reduction=reduction)
    same = cut_student(teacher, settings, seed=0).state_dict()
    assert plain.keys() == same.keys() and all(torch.equal(value, same[key]) for key, value in plain.items())


@pytest.mark.parametrize(
    ("settings", "hidden", "heads", "rows"),
    [
        (schema.Student(hidden_size=16), 16, 2, 24),
        (
            schema.Student(hidden_size=24),
            24,
            3,
            32,
        ),  # 36 in proportion, halfway between two multiples of 8: the even one
        (schema.Student(hidden_size=8, intermediate_size=48), 8, 1, 48),
        (schema.Student(intermediate_size=20), 32, 4, 20),
        (schema.Student(hidden_size=16, initialization="random"), 16, 2, 24),
        (schema.Student(hidden_size=16, width_reduction="svd", architecture="distilbert"), 16, 2, 24),
    ],
)
def test_a_narrower_student_keeps_the_size_of_the_heads(settings, hidden, heads, rows) -> None:
    student = cut_student(tiny.scrambled(bert()), settings, seed=0).eval()
    assert (student.config.hidden_size, student.config.num_attention_heads) == (hidden, heads)
    assert student.get_input_embeddings().weight.shape == (232, hidden)
    assert any(name.endswith(("intermediate.dense", "lin1")) and module.weight.shape == (rows, hidden)
               for name, module in student.named_modules())  # fmt: skip
    assert student.get_output_embeddings().weight is student.get_input_embeddings().weight
    assert student(input_ids=torch.randint(5, 232, (2, 9))).logits.isfinite().all()


@pytest.mark.parametrize(
    ("settings", "key", "message"),
    [
        (schema.Student(hidden_size=40), "hidden_size", "up to its 32, found 40"),
        (schema.Student(hidden_size=20), "hidden_size", "a multiple of 8, the size of the teacher's heads"),
        (schema.Student(hidden_size=4), "hidden_size", "found 4"),
        (schema.Student(intermediate_size=49), "intermediate_size", "at most the teacher's 48"),
    ],
)
def test_widths_that_cannot_be_cut_are_refused(settings, key, message) -> None:
    with pytest.raises(UserError, match=rf"student\.{key}: .*{message}"):
        cut_student(bert(), settings, seed=0)


def widened(small: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A BERT of twice the width that computes what the small one does, and whose second halves add nothing.

    Hidden states appear twice, [x, x], so that every LayerNorm sees the same mean and variance; what reads them reads
    the first copy. Half of the heads and of the rows write nothing.
    """
    wide = {}
    for key, value in small.items():
        if "embeddings" in key and "LayerNorm" not in key:  # [all, hidden]
            wide[key] = torch.cat([value, value], 1)
        elif "LayerNorm" in key:
            wide[key] = torch.cat([value, value])
        elif key == "cls.predictions.decoder.weight":
            wide[key] = torch.cat([value, value], 1)
        elif key.startswith("cls.predictions") and "transform" not in key:
            wide[key] = value
        elif key.endswith("bias"):
            wide[key] = torch.cat([value, value])
        else:
            outputs = 2 if "output.dense" in key or "transform" in key else 1
            dead = torch.zeros_like(value)
            first, second = torch.cat([value, dead], 1), torch.cat([value * (outputs - 1), dead], 1)
            if outputs == 1:  # queries, keys, values and rows: new ones, weak, of heads and rows that are not read
                second = torch.cat([0.01 * torch.randn_like(value), dead], 1)
            wide[key] = torch.cat([first, second])
    return wide


def test_what_adds_nothing_is_what_is_left_out() -> None:
    small = tiny.scrambled(tiny.model(num_hidden_layers=4))
    with torch.no_grad():
        for name, value in small.named_parameters():
            if name.endswith("LayerNorm.weight"):
                value.fill_(1.5)  # all dimensions are alike, so the first ones are kept
    teacher = bert()
    teacher.load_state_dict(widened(small.state_dict()), strict=True)
    ids = torch.randint(5, 232, (2, 9))
    with torch.no_grad():
        teacher_hidden = teacher.base_model(input_ids=ids).last_hidden_state
        torch.testing.assert_close(teacher_hidden[..., :16], small.base_model(input_ids=ids).last_hidden_state)
    student = cut_student(teacher, schema.Student(layers=(0, 1, 2, 3), hidden_size=16), seed=0)
    assert all(torch.equal(value, small.state_dict()[key]) for key, value in student.state_dict().items())


@pytest.mark.parametrize("family", [bert, distilbert, modernbert])
def test_rows_that_write_nothing_are_left_out_without_a_change(family) -> None:
    teacher = tiny.scrambled(family())
    dead = torch.randperm(48, generator=torch.Generator().manual_seed(0))[:16]
    with torch.no_grad():
        for name, module in teacher.named_modules():
            if name.endswith(("mlp.Wo", "lin2")) or (name.endswith("output.dense") and "attention" not in name):
                module.weight[:, dead] = 0
        student = cut_student(teacher, schema.Student(layers=(0, 1, 2, 3), intermediate_size=32), seed=0).eval()
        ids = torch.randint(5, 232, (2, 9))
        torch.testing.assert_close(student(input_ids=ids).logits, teacher(input_ids=ids).logits)


def test_slices_keep_the_dimensions_with_the_largest_gains_everywhere() -> None:
    teacher = tiny.scrambled(bert())
    kept = torch.tensor([1, 2, 3, 5, 8, 13, 21, 30])
    with torch.no_grad():
        for name, value in teacher.named_parameters():
            if name.endswith("LayerNorm.weight"):
                value.fill_(-0.5)
                value[kept] = -2.0  # a large gain is one, whatever its sign
    student = cut_student(teacher, schema.Student(layers="first", num_hidden_layers=1, hidden_size=8), seed=0)
    student_weights, teacher_weights = student.state_dict(), teacher.state_dict()
    for key in ("bert.embeddings.position_embeddings.weight", "cls.predictions.decoder.weight"):
        assert torch.equal(student_weights[key], teacher_weights[key][:, kept])
    key = "cls.predictions.transform.dense.weight"
    assert torch.equal(student_weights[key], teacher_weights[key][kept][:, kept])
    assert torch.equal(student_weights["cls.predictions.transform.LayerNorm.weight"], torch.full((8,), -2.0))


def test_of_the_heads_those_that_can_look_most_sharply_are_kept() -> None:
    teacher = tiny.scrambled(bert())
    attention = teacher.bert.encoder.layer[0].attention.self
    with torch.no_grad():
        attention.query.weight[:8] *= 10
        attention.key.weight[16:24] *= 20
        attention.value.weight[24:] *= 100  # writes much, wherever it looks
    student = cut_student(teacher, schema.Student(layers="first", num_hidden_layers=1, hidden_size=8), seed=0)
    assert torch.equal(student.bert.encoder.layer[0].attention.self.value.bias, attention.value.bias[16:24])


def test_a_head_of_modernbert_keeps_its_queries_keys_and_values_together() -> None:
    teacher, kept = tiny.scrambled(modernbert()), torch.arange(3, 11)
    with torch.no_grad():
        teacher.model.layers[0].attn.Wqkv.weight[32 + 16 : 32 + 24] *= 100  # the keys of head 2
        for name, value in teacher.named_parameters():
            if "norm" in name:
                value.fill_(1.0)
                value[kept] = 2.0
    student = cut_student(teacher, schema.Student(layers="first", num_hidden_layers=1, hidden_size=8), seed=0)
    teacher_attention = teacher.model.layers[0].attn
    rows = [*range(16, 24), *range(32 + 16, 32 + 24), *range(64 + 16, 64 + 24)]
    assert torch.equal(student.model.layers[0].attn.Wqkv.weight, teacher_attention.Wqkv.weight[rows][:, kept])
    assert torch.equal(student.model.layers[0].attn.Wo.weight, teacher_attention.Wo.weight[kept][:, 16:24])


def test_svd_keeps_the_products_of_embeddings_as_well_as_so_many_dimensions_can() -> None:
    teacher = tiny.scrambled(bert())
    student = cut_student(teacher, schema.Student(hidden_size=16, width_reduction="svd"), seed=0)
    full, reduced = (model.get_input_embeddings().weight.detach().double() for model in (teacher, student))
    values, vectors = torch.linalg.eigh(full @ full.T)  # Eckart and Young: the best of rank 16
    best = vectors[:, -16:] * values[-16:] @ vectors[:, -16:].T
    torch.testing.assert_close(reduced @ reduced.T, best, rtol=1e-4, atol=1e-4)


def test_svd_loses_nothing_of_what_is_read_from_embeddings_of_that_rank() -> None:
    teacher = tiny.scrambled(bert())
    with torch.no_grad():
        words = teacher.get_input_embeddings().weight
        words.copy_(words[:, :16] @ torch.randn(16, 32))
    settings = schema.Student(layers="first", hidden_size=16, intermediate_size=48, width_reduction="svd")
    student = cut_student(teacher, settings, seed=0)
    with torch.no_grad():
        student_outputs, teacher_outputs = (
            model.bert.encoder.layer[0].intermediate.dense(model.get_input_embeddings().weight)
            for model in (student, teacher)
        )
    torch.testing.assert_close(student_outputs, teacher_outputs, rtol=1e-3, atol=1e-3)
