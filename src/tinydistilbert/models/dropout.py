"""Dropout on CPUs in a quarter of the time: one random number decides about four elements instead of one.

Torch draws a number for each element, which takes about a fifth of a distillation step on two cores, and so does
`scaled_dot_product_attention` with dropout of attention weights. Other devices use torch's dropout.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS, sdpa_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

ATTENTION = "sdpa_with_quick_dropout"
LEVELS = 2**16
"""Probabilities are rounded to multiples of 1 / LEVELS: 0.1 becomes 6554 / 65536 = 0.100006."""


class _Dropped(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, probability: float) -> Tensor:
        size, dropped = values.numel(), round(probability * LEVELS)
        numbers = torch.empty((size + 3) // 4, dtype=torch.int64).random_(-(2**63), None)
        kept = numbers.view(torch.int16)[:size].view(values.shape) >= dropped - LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.factor = LEVELS / (LEVELS - dropped)
        return (values * kept).mul_(ctx.factor)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (grads[0] * kept).mul_(ctx.factor), None


def drop(values: Float[Tensor, "*shape"], probability: float) -> Float[Tensor, "*shape"]:
    """Set each element to 0 with this probability and scale the others to keep the mean; uses torch's generator."""
    if values.device.type != "cpu" or not 0 < probability < 1:
        return F.dropout(values, probability)
    apply: Any = _Dropped.apply
    dropped: Tensor = apply(values, probability)
    return dropped


class QuickDropout(nn.Dropout):
    """`nn.Dropout` computed by `drop`."""

    def forward(self, values: Tensor) -> Tensor:
        """Return the values after dropout; unchanged in evaluation mode."""
        return drop(values, self.p) if self.training else values


def _attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """Compute transformers' sdpa attention; on a CPU with `drop` for its weights, and faster gradients in bf16."""
    if query.device.type != "cpu" or not (dropout or _needs_bf16_gradient(query)):
        sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
        result: tuple[Tensor, None] = sdpa(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
        return result
    return plain_attention(query, key, value, attention_mask, dropout, scaling), None


def plain_attention(
    query: Float[Tensor, "batch heads queries size"],
    key: Float[Tensor, "batch heads length size"],
    value: Float[Tensor, "batch heads length size"],
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
) -> Float[Tensor, "batch queries heads size"]:
    """Compute attention by matrix products and a softmax, with `drop` for its weights; the mask is true if visible."""
    scores = (query * (query.shape[-1] ** -0.5 if scaling is None else scaling)) @ key.transpose(-1, -2)
    if attention_mask is not None:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    with torch.autocast(scores.device.type, enabled=False):
        # In bf16 the scores are already rounded, and the kernel always sums in single precision: autocast would only
        # copy the largest tensors of the layer back and forth.
        weights = scores.softmax(dim=-1)
        weights = drop(weights, dropout) if dropout else weights
    return (weights @ value).transpose(1, 2).contiguous()


def _needs_bf16_gradient(query: Tensor) -> bool:
    """Return whether the kernel of `scaled_dot_product_attention` would compute gradients in bf16.

    On CPUs that takes several times as long as plain products (benchmarks/attention_gradient.py, torch 2.13).
    """
    return query.requires_grad and query.dtype == torch.bfloat16


def keeps_attention_weights(device: torch.device, precision: str, dropout: float | None) -> bool:
    """Return whether a training keeps all attention weights for the backward pass, because no kernel recomputes them.

    Args:
        device: of the training.
        precision: of its matrix products.
        dropout: of the attention weights; None = the model's own, assumed not to be 0.
    """
    return device.type == "mps" or (device.type == "cpu" and (dropout != 0 or precision == "bf16"))


ALL_ATTENTION_FUNCTIONS.register(ATTENTION, _attention)
ALL_MASK_ATTENTION_FUNCTIONS.register(ATTENTION, sdpa_mask)


@contextmanager
def quick_dropout(model: PreTrainedModel) -> Iterator[None]:
    """Use this faster dropout in `model` inside the `with`; afterwards the model is as before."""
    plain = [module for module in model.modules() if type(module) is nn.Dropout]
    implementation = model.config._attn_implementation
    for module in plain:
        module.__class__ = QuickDropout
    if implementation == "sdpa":
        model.config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        for module in plain:
            module.__class__ = nn.Dropout
        model.config._attn_implementation = implementation
