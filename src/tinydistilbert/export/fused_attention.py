"""The attention of BERT, RoBERTa, DistilBERT and their kin as one ONNX Runtime operator in an exported graph.

ONNX Runtime itself fuses LayerNorm with its residual and GELU with its bias, but not attention, so the model is traced
with ONNX Runtime's attention operator. The number of heads is read from the weights, because pruning makes it different
in each layer. Measured in docs/decisions/0016-export.md.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from tinydistilbert.models.capture import encoder_layers

FUSABLE_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra")
"""Families whose attention is only three linear layers and a softmax."""
OPERATOR = "com.microsoft::MultiHeadAttention"

Mask = Int[Tensor, "batch 1 1 length"]
"""1 = token, 0 = padding, in the shape that transformers passes to the layers unchanged."""


def fuse(model: PreTrainedModel, *, first_token: bool) -> None:
    """Replace the attention of `model` by ONNX Runtime's operator, in place; the model can then only be exported.

    Args:
        model: a model of one of `FUSABLE_FAMILIES`; its masks must be int32 with the shape of `Mask`.
        first_token: compute the last layer for the first token only: (batch, 1, hidden).
    """
    layers = [*encoder_layers(model)]
    write = _fuse_distilbert if model.config.model_type == "distilbert" else _fuse_bert
    for layer in layers:
        write(cast("Any", layer), first=first_token and layer is layers[-1])


def _fuse_bert(layer: Any, *, first: bool) -> None:
    attention, output = layer.attention.self, layer.attention.output
    attend = _attention(attention, (attention.query, attention.key, attention.value), first=first)

    def forward(hidden_states: Tensor, attention_mask: Mask, *_: Any, **__: Any) -> Tensor:
        residual = hidden_states[:, :1] if first else hidden_states
        return cast("Tensor", layer.feed_forward_chunk(output(attend(hidden_states, attention_mask), residual)))

    layer.forward = forward


def _fuse_distilbert(layer: Any, *, first: bool) -> None:
    attention = layer.attention
    attend = _attention(attention, (attention.q_lin, attention.k_lin, attention.v_lin), first=first)

    def forward(hidden_states: Tensor, attention_mask: Mask, *_: Any, **__: Any) -> Tensor:
        residual = hidden_states[:, :1] if first else hidden_states
        attended = layer.sa_layer_norm(attention.out_lin(attend(hidden_states, attention_mask)) + residual)
        return cast("Tensor", layer.output_layer_norm(layer.ffn(attended) + attended))

    layer.forward = forward


def _attention(attention: Any, projections: tuple[Any, Any, Any], *, first: bool) -> Callable[[Tensor, Mask], Tensor]:
    """Return attention from all tokens, or only the first, to all tokens; the operator adds the biases."""
    for linear in projections:
        linear.forward = partial(F.linear, weight=linear.weight)
    bias = torch.cat([linear.bias for linear in projections]).detach()

    def attend(hidden: Float[Tensor, "batch length hidden"], mask: Mask) -> Float[Tensor, "batch queries width"]:
        queried = hidden[:, :1] if first else hidden
        query, key, value = (linear(part) for linear, part in zip(projections, (queried, hidden, hidden), strict=True))
        settings = {"num_heads": query.shape[-1] // attention.attention_head_size, "scale": float(attention.scaling)}
        attended: Tensor = torch.onnx.ops.symbolic(
            OPERATOR, (query, key, value, bias, mask.flatten(1)), settings,
            dtype=query.dtype, shape=query.shape, version=1,
        )  # fmt: skip
        return attended

    return attend
