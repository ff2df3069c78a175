"""Hidden states, attention inputs and logits at positions, for distilling a masked-LM model of any family.

Logits over the whole vocabulary are the costliest part of a small model (36 % of DistilBERT's arithmetic), so they are
computed only where a loss reads them: the caller gathers hidden states first and applies the head to those.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tinydistilbert.errors import UserError
from tinydistilbert.models.capture import LayerOutputs, capturing
from tinydistilbert.models.dropout import ATTENTION as QUICK
from tinydistilbert.models.loading import Head
from tinydistilbert.models.task_head import has_several_measurements, is_multi_label

__all__ = [
    "EncoderOutput",
    "encode",
    "hidden_states",
    "parameter_count",
    "vocabulary_input",
    "vocabulary_logits",
    "vocabulary_matrix",
    "vocabulary_size",
]


@dataclass(frozen=True)
class EncoderOutput:
    """The result of one forward pass of an encoder."""

    last_hidden_state: Float[Tensor, "batch length hidden"]
    """The input of the masked-LM head."""
    layers: LayerOutputs
    """The requested results of its layers."""


def encode(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch length"],
    attention_mask: Int[Tensor, "batch length"] | Bool[Tensor, "batch 1 length length"] | None,
    *,
    layers: Sequence[int] = (),
    attention: Sequence[int] = (),
) -> EncoderOutput:
    """Run the encoder without its head; gradients flow through all results.

    Args:
        model: masked-LM model of one of the known families.
        input_ids: tokens.
        attention_mask: 0 at padding; or for each query the keys that it may attend to; None = no padding.
        layers: layers whose outputs are returned, from 0.
        attention: layers whose queries, keys and values are returned, from 0.
    """
    mask = _mask_for(model, attention_mask)
    with capturing(model, layers, attention) as captured:
        last_hidden_state: Tensor = model.base_model(input_ids=input_ids, attention_mask=mask).last_hidden_state
    assert captured.hidden_states.keys() == set(layers), "no layer outputs: hooks do not run in this model"
    assert captured.attention.keys() == set(attention), "no queries and keys: hooks do not run in this model"
    return EncoderOutput(last_hidden_state, captured)


def _mask_for(model: PreTrainedModel, mask: Tensor | None) -> Tensor | dict[str, Tensor] | None:
    """Return the mask that the family's layers take: for each query, the keys that it may attend to.

    Transformers uses a mask of four dimensions unchanged. From one of two dimensions it makes the same, but first tests
    whether there is padding at all, and on a GPU the host has to wait for that answer. Such a mask lacks ModernBERT's
    window of local attention, which is applied here.
    """
    if mask is None:
        return None
    if mask.dim() == 2:
        mask = mask.bool()[:, None, None].expand(-1, 1, mask.shape[1], -1)
    if model.config.model_type == "mpnet":  # its own attention adds the mask to the scores
        return torch.zeros_like(mask, dtype=model.dtype).masked_fill_(~mask, torch.finfo(model.dtype).min)
    assert model.config._attn_implementation in ("sdpa", QUICK), "a mask of booleans is for sdpa only"
    if model.config.model_type != "modernbert":
        return mask
    positions = torch.arange(mask.shape[-1], device=mask.device)
    within = (positions[:, None] - positions).abs() <= model.config.sliding_window
    return {"full_attention": mask, "sliding_attention": mask & within}


def hidden_states(
    model: PreTrainedModel,
    input_ids: Int[Tensor, "batch length"],
    attention_mask: Int[Tensor, "batch length"] | Bool[Tensor, "batch 1 length length"] | None,
) -> Float[Tensor, "batch length hidden"]:
    """Return the last hidden states of the encoder; `attention_mask=None` means no padding."""
    return encode(model, input_ids, attention_mask).last_hidden_state


def vocabulary_input(
    model: PreTrainedModel, hidden: Float[Tensor, "*positions hidden"]
) -> Float[Tensor, "*positions embedding"]:
    """Apply the masked-LM head without its last matrix, and return what the vocabulary matrix is multiplied by.

    It is as wide as the hidden states, except in an ELECTRA with narrower word embeddings.
    """
    family, whole = model.config.model_type, cast("Any", model)
    if family == "bert":
        return cast("Tensor", whole.cls.predictions.transform(hidden))
    if family == "distilbert":
        return cast("Tensor", whole.vocab_layer_norm(whole.activation(whole.vocab_transform(hidden))))
    if family == "modernbert":
        return cast("Tensor", whole.head(hidden))
    if family == "electra":
        return cast("Tensor", whole.generator_predictions(hidden))
    return cast("Tensor", whole.lm_head.layer_norm(F.gelu(whole.lm_head.dense(hidden))))


def vocabulary_matrix(
    model: PreTrainedModel,
) -> tuple[Float[Tensor, "vocabulary embedding"], Float[Tensor, "vocabulary"] | None]:
    """Return weight and bias of the head's last matrix; the weight is the word embedding if the two are tied."""
    decoder = model.get_output_embeddings()
    assert isinstance(decoder, nn.Linear)
    return decoder.weight, decoder.bias


def vocabulary_logits(
    model: PreTrainedModel, hidden: Float[Tensor, "*positions hidden"]
) -> Float[Tensor, "*positions vocabulary"]:
    """Apply the whole masked-LM head to hidden states."""
    return F.linear(vocabulary_input(model, hidden), *vocabulary_matrix(model))


def parameter_count(module: nn.Module) -> int:
    """Return the number of parameters, tied ones counted once."""
    return sum(parameter.numel() for parameter in module.parameters())  # parameters() yields a shared tensor once


def vocabulary_size(model: PreTrainedModel) -> int:
    """Return the number of rows of the word embedding."""
    embedding = model.get_input_embeddings()
    assert isinstance(embedding, nn.Embedding) and isinstance(embedding.weight, torch.Tensor)
    return embedding.num_embeddings


_HEADS: dict[str, Head] = {
    "ForMaskedLM": "masked-lm", "ForSequenceClassification": "classification", "ForQuestionAnswering": "span",
    "ForTokenClassification": "token-classification",
}  # fmt: skip


def head_of(folder: Path, config: PretrainedConfig) -> Head:
    """Return which head the model in `folder` has, by the class in its config.

    Raises:
        UserError: the class is unknown, or the model predicts several measurements.
    """
    architecture = (getattr(config, "architectures", None) or ["no architecture"])[0]
    for ending, head in _HEADS.items():
        if architecture.endswith(ending):
            if head == "classification" and is_multi_label(config):
                return "multi-label"
            if head == "classification" and has_several_measurements(config):
                found = f"{config.num_labels} measurements (problem_type in its config.json)"
                fix = "use a model of one output, or fine-tune it on a task first"
                raise UserError(str(folder), expected="classes, or one measurement", found=found, fix=fix)
            return "regression" if head == "classification" and config.num_labels == 1 else head
    expected = f"a model whose class ends in {', '.join(_HEADS)}"
    raise UserError(str(folder), expected=expected, found=architecture, fix="fine-tune it on a task first")
