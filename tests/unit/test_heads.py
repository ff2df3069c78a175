"""What is taken from inside a model is what the model computes with, in every family, and nothing stays behind."""

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.models.capture import QueryKeyValue, encoder_layers
from tinydistilbert.models.heads import (
    encode,
    hidden_states,
    vocabulary_input,
    vocabulary_logits,
    vocabulary_matrix,
)


def tokens(length: int = 11) -> Tensor:
    return torch.randint(5, 232, (2, length), generator=torch.Generator().manual_seed(0))


def hook_count(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def output_of_attention(model: PreTrainedModel, ids: Tensor, layer: int) -> Tensor:
    """Mixed values of one layer before its output matrix, caught at that matrix."""
    block, caught = encoder_layers(model)[layer], []
    if model.config.model_type == "distilbert":
        matrix = block.attention.out_lin
    elif model.config.model_type == "modernbert":
        matrix = block.attn.Wo
    elif model.config.model_type == "mpnet":
        matrix = block.attention.attn.o
    else:
        matrix = block.attention.output.dense
    handle = matrix.register_forward_pre_hook(lambda _, inputs: caught.append(inputs[0]))
    model.base_model(input_ids=ids)
    handle.remove()
    return caught[0]


def attended(attention: QueryKeyValue, visible: Tensor | None, bias: Tensor | float = 0.0) -> Tensor:
    """Attention worked from its definition."""
    scores = attention.query @ attention.key.transpose(2, 3) * attention.scaling + bias
    if visible is not None:
        scores = scores.masked_fill(~visible, float("-inf"))
    return (scores.softmax(-1) @ attention.value).transpose(1, 2).flatten(2)


@torch.no_grad()
def test_attention_worked_from_queries_keys_and_values_is_the_models_own(scrambled, family) -> None:
    model, ids = scrambled(family), tokens()
    attention = encode(model, ids, None, attention=(0, 2)).layers.attention
    positions = torch.arange(11)
    window = (positions[:, None] - positions).abs() <= 3
    for layer in (0, 2):
        assert attention[layer].query.shape == (2, 4, 11, 8)
        assert attention[layer].scaling == pytest.approx(8**-0.5)
        visible = window if family == "modernbert" and layer == 2 else None
        bias = model.mpnet.encoder.compute_position_bias(ids[..., None]) if family == "mpnet" else 0.0
        expected = output_of_attention(model, ids, layer)
        torch.testing.assert_close(attended(attention[layer], visible, bias), expected)


@torch.no_grad()
def test_layer_outputs_are_the_hidden_states_that_transformers_tells(scrambled, family) -> None:
    model, ids = scrambled(family), tokens()
    output = encode(model, ids, None, layers=(0, 2))
    expected = model.base_model(input_ids=ids, output_hidden_states=True).hidden_states
    assert set(output.layers.hidden_states) == {0, 2} and not output.layers.attention
    for layer in (0, 2):
        assert_equal_up_to_rounding(output.layers.hidden_states[layer], expected[layer + 1])


def test_asking_changes_no_result_and_leaves_no_hooks_and_no_settings_behind(scrambled, family) -> None:
    model, ids = scrambled(family), tokens()
    plain, settings = hidden_states(model, ids, None), model.config.to_json_string()
    implementation = model.config._attn_implementation
    output = encode(model, ids, None, layers=(1,), attention=(3,))
    assert_equal_up_to_rounding(output.last_hidden_state, plain)
    assert hook_count(model) == 0 and model.config.to_json_string() == settings
    assert model.config._attn_implementation == implementation == ("eager" if family == "mpnet" else "sdpa")
    with pytest.raises(IndexError):
        encode(model, torch.full((1, 4), 232), None, layers=(1,), attention=(1,))
    assert hook_count(model) == 0


def test_gradients_flow_through_what_is_taken(scrambled, family) -> None:
    model = scrambled(family)
    output = encode(model, tokens(), None, layers=(1,), attention=(2,))
    attention = output.layers.attention[2]
    (
        attention.query.sum()
        + attention.key.sum()
        + attention.value.sum()
        + output.layers.hidden_states[1].square().sum()
    ).backward()
    embedding = model.get_input_embeddings().weight
    assert embedding.grad is not None and embedding.grad.abs().sum() > 0


def test_teacher_and_student_may_be_asked_one_within_the_other(scrambled) -> None:
    teacher, student, ids = scrambled("bert"), scrambled("distilbert"), tokens()
    inner = []
    handle = student.base_model.embeddings.register_forward_hook(
        lambda *_: inner.append(encode(teacher, ids, None, layers=(0,)))
    )
    outer = encode(student, ids, None, layers=(0,), attention=(0,))
    handle.remove()
    for output, model in ((outer, student), (inner[0], teacher)):
        alone = encode(model, ids, None, layers=(0,))
        assert_equal_up_to_rounding(output.layers.hidden_states[0], alone.layers.hidden_states[0])


@torch.no_grad()
def test_padding_does_not_reach_what_is_taken(scrambled, family) -> None:
    model, ids = scrambled(family), tokens()
    padded = torch.cat([ids, torch.zeros(2, 3, dtype=torch.long)], 1)
    mask = (torch.arange(14) < 11).long().expand(2, 14)
    output = encode(model, padded, mask, layers=(3,), attention=(3,))
    alone = encode(model, ids, None, layers=(3,), attention=(3,))
    torch.testing.assert_close(output.last_hidden_state[:, :11], alone.last_hidden_state)
    torch.testing.assert_close(output.layers.hidden_states[3][:, :11], alone.layers.hidden_states[3])
    torch.testing.assert_close(output.layers.attention[3].key[:, :, :11], alone.layers.attention[3].key)


@torch.no_grad()
def test_with_a_mask_of_documents_a_change_in_one_document_leaves_the_other_as_it_was(scrambled, family) -> None:
    model, ids = scrambled(family), tokens(16)
    document = torch.arange(16).ge(7).long()
    together = document[:, None].eq(document)[None, None].expand(2, 1, 16, 16)
    changed = ids.clone()
    changed[:, 7:] = 231
    first, second = (encode(model, each, together).last_hidden_state for each in (ids, changed))
    torch.testing.assert_close(first[:, :7], second[:, :7])
    first, second = (hidden_states(model, each, None) for each in (ids, changed))
    assert not torch.allclose(first[:, :7], second[:, :7])


@torch.no_grad()
def test_a_mask_of_one_document_keeps_modernberts_window(scrambled) -> None:
    model, ids = scrambled("modernbert"), tokens(16)
    everything = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    torch.testing.assert_close(hidden_states(model, ids, everything), hidden_states(model, ids, None))


@torch.no_grad()
def test_the_vocabulary_head_in_two_parts_is_the_models_own(scrambled, family) -> None:
    model, ids = scrambled(family), tokens()
    whole = model(input_ids=ids).logits.flatten(0, 1)
    hidden = hidden_states(model, ids, None).flatten(0, 1)
    weight, bias = vocabulary_matrix(model)
    assert weight is model.get_input_embeddings().weight and bias is not None
    torch.testing.assert_close(vocabulary_input(model, hidden) @ weight.T + bias, whole)
    torch.testing.assert_close(vocabulary_logits(model, hidden[[3, 11]]), whole[[3, 11]])
