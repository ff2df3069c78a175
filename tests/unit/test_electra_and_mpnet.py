"""What is ELECTRA's and MPNet's own: embeddings of another width, the discriminator, and a bias by distance."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import ElectraForPreTraining, PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.models.capture import encoder_layers
from tinydistilbert.models.heads import encode
from tinydistilbert.models.loading import load_model, longest_input, save_model, set_dropout
from tinydistilbert.models.pruned import parts_of
from tinydistilbert.models.student import cut_student
from tinydistilbert.recipe import schema


@torch.no_grad()
def logits(model: PreTrainedModel) -> torch.Tensor:
    ids = torch.randint(5, 232, (3, 17), generator=torch.Generator().manual_seed(0))
    return model.eval()(input_ids=ids).logits


def new_electra(embedding_size: int) -> PreTrainedModel:
    return tiny.scrambled(tiny.model("electra", embedding_size=embedding_size, **tiny.WIDER))


@pytest.mark.parametrize("reduction", ["slice", "svd"])
@pytest.mark.parametrize(("embedding_size", "narrow"), [(12, 12), (32, 16)])
def test_a_narrower_electra_keeps_embeddings_of_their_own_width(
    reduction: str, embedding_size: int, narrow: int, tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    teacher = new_electra(embedding_size)
    student = cut_student(teacher, schema.Student(hidden_size=16, width_reduction=reduction), seed=0)
    words = student.get_input_embeddings().weight
    assert words.shape == (232, narrow) and student.config.embedding_size == narrow
    assert torch.equal(words, teacher.get_input_embeddings().weight) == (embedding_size == 12)
    save_model(student, tokenizer, tmp_path)
    tiny.assert_equal_up_to_rounding(logits(load_model(tmp_path, "masked-lm")), logits(student))


@torch.no_grad()
def test_the_dimensions_that_nothing_writes_go_from_an_electra_with_embeddings_of_their_own_width() -> None:
    # Nothing writes into the last 16 of 32 dimensions, so those are the ones to go, in what reads and writes them.
    teacher = new_electra(12)
    base = teacher.electra
    base.embeddings_project.weight[16:], base.embeddings_project.bias[16:] = 0, 0
    for layer in encoder_layers(teacher):
        for linear in (layer.attention.output.dense, layer.output.dense):
            linear.weight[16:], linear.bias[16:] = 0, 0
        for norm in (layer.attention.output.LayerNorm, layer.output.LayerNorm):
            norm.weight[16:], norm.bias[16:] = 0, 0
    student = cut_student(teacher, schema.Student(layers=(0, 1), hidden_size=16), seed=0)
    assert torch.equal(student.electra.embeddings_project.weight, base.embeddings_project.weight[:16])
    matrix = teacher.generator_predictions.dense.weight
    assert torch.equal(student.generator_predictions.dense.weight, matrix[:, :16])


def test_electras_discriminator_is_fine_tuned_and_is_no_masked_lm(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast
) -> None:
    discriminator = tiny.scrambled(ElectraForPreTraining(tiny.config("electra")))
    save_model(discriminator, tokenizer, tmp_path)
    model = load_model(tmp_path, "classification", labels=("no", "yes"))
    saved = discriminator.electra.state_dict()
    assert all(torch.equal(value, saved[key]) for key, value in model.electra.state_dict().items())
    with pytest.raises(UserError) as error:
        load_model(tmp_path, "masked-lm")
    advice = "use its generator as the teacher, or fine-tune it (finetune.model)"
    assert error.value.fix == f"this is ELECTRA's discriminator: {advice}"


@pytest.mark.parametrize("architectures", [None, ["ElectraForSequenceClassification"]])
def test_another_electra_without_its_head_is_not_called_a_discriminator(
    tmp_path: Path, tokenizer: PreTrainedTokenizerFast, architectures: list[str] | None
) -> None:
    save_model(tiny.model("electra", "classification"), tokenizer, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"architectures": architectures}))
    with pytest.raises(UserError, match=r"generator_.*; use the masked-LM checkpoint of that model"):
        load_model(tmp_path, "masked-lm")


@torch.no_grad()
@pytest.mark.parametrize("family", ["camembert", "electra", "mpnet"])
@pytest.mark.parametrize("pad", [0, 1])
def test_masks_are_those_of_transformers(family: str, pad: int) -> None:
    model = tiny.scrambled(tiny.model(family, pad_token_id=pad))
    ids = torch.randint(5, 232, (3, 17), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(ids)
    mask[1, 10:], ids[1, 10:] = 0, pad
    expected = model.base_model(input_ids=ids, attention_mask=mask).last_hidden_state
    seen = mask.bool()
    tiny.assert_equal_up_to_rounding(encode(model, ids, mask).last_hidden_state[seen], expected[seen])
    pairs = (seen[:, :, None] & seen[:, None, :])[:, None]
    tiny.assert_equal_up_to_rounding(encode(model, ids, pairs).last_hidden_state[seen], expected[seen])
    shorter = encode(model, ids[1:2, :10], None).last_hidden_state
    tiny.assert_equal_up_to_rounding(shorter[0], expected[1, :10])


def test_mpnet_numbers_positions_from_one_whatever_its_padding_is() -> None:
    for pad in (0, 1, 7):
        model = tiny.model("mpnet", pad_token_id=pad, max_position_embeddings=20)
        assert longest_input(model.config) == 18
        model(input_ids=torch.full((1, 18), 9))
        with pytest.raises(IndexError):
            model(input_ids=torch.full((1, 19), 9))


def test_mpnets_attention_has_two_kinds_of_dropout() -> None:
    model = tiny.model("mpnet")
    set_dropout(model, 0.2, 0.3)
    probabilities = {name: m.p for name, m in model.named_modules() if isinstance(m, nn.Dropout)}
    assert {name for name, p in probabilities.items() if p == 0.3} == {
        f"mpnet.encoder.layer.{n}.attention.attn.dropout" for n in range(2)
    }
    assert set(probabilities.values()) == {0.2, 0.3}


def test_what_would_part_mpnets_heads_from_their_bias_is_refused() -> None:
    teacher = tiny.scrambled(tiny.model("mpnet", **tiny.WIDER))
    with pytest.raises(UserError, match=r"student\.hidden_size: .* share a bias for each head"):
        cut_student(teacher, schema.Student(hidden_size=16), seed=0)
    with pytest.raises(UserError, match=r"expected a family among bert, .*electra, found 'mpnet'"):
        parts_of(teacher)
    student = cut_student(teacher, schema.Student(layers=(0, 1), intermediate_size=24), seed=0)
    bias = teacher.mpnet.encoder.relative_attention_bias.weight
    assert torch.equal(student.mpnet.encoder.relative_attention_bias.weight, bias)
    assert logits(student).isfinite().all()
