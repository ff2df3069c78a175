"""Layer outputs, queries, keys and values of a running model, taken by hooks that are removed afterwards.

The model keeps its fast attention: no attention weights are asked for, only what attention multiplies is read.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.models.modernbert.modeling_modernbert import apply_rotary_pos_emb


@dataclass(frozen=True)
class QueryKeyValue:
    """What one layer's attention multiplies; in ModernBERT after the rotation by position."""

    query: Float[Tensor, "batch heads length size"]
    key: Float[Tensor, "batch heads length size"]
    value: Float[Tensor, "batch heads length size"]
    scaling: float
    """Factor of query · key before the softmax: 1 / sqrt(size). MPNet's bias by distance is added after it."""


@dataclass(frozen=True)
class LayerOutputs:
    """What a forward pass computed inside the layers that were asked for; keys are their numbers, 0 = the first."""

    hidden_states: dict[int, Float[Tensor, "batch length hidden"]] = field(default_factory=dict)
    """Outputs of layers."""
    attention: dict[int, QueryKeyValue] = field(default_factory=dict)


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """The layers of the encoder, lowest first."""
    base = cast("Any", model.base_model)
    family = model.config.model_type
    if family == "modernbert":
        return cast("nn.ModuleList", base.layers)
    return cast("nn.ModuleList", (base.transformer if family == "distilbert" else base.encoder).layer)


@contextmanager
def capturing(model: PreTrainedModel, layers: Sequence[int], attention: Sequence[int]) -> Iterator[LayerOutputs]:
    """Inside the `with`, a forward pass of `model` fills what this gives with what its layers compute.

    Gradients flow through it. Calls may be nested; with no layers asked for, nothing is hooked.

    Args:
        model: encoder of one of the known families, with or without a head.
        layers: numbers of the layers whose outputs are wanted.
        attention: numbers of the layers whose queries, keys and values are wanted.
    """
    captured = LayerOutputs()
    if not layers and not attention:
        yield captured
        return
    blocks = encoder_layers(model)
    with ExitStack() as hooks:
        for index in layers:
            hooks.enter_context(blocks[index].register_forward_hook(_keep(captured.hidden_states, index)))
        take = _take_rotated if model.config.model_type == "modernbert" else _take_projected
        for index in attention:
            take(cast("Any", blocks[index]), captured.attention, index, hooks)
        yield captured


def _keep(into: dict[Any, Any], key: object) -> Callable[..., None]:
    def hook(_module: nn.Module, _inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
        into[key] = output[0] if isinstance(output, tuple) else output  # MPNet's layers give tuples

    return hook


def _split(projected: Float[Tensor, "batch length width"], size: int) -> Float[Tensor, "batch heads length size"]:
    """Cut into heads."""
    return projected.view(*projected.shape[:-1], -1, size).transpose(1, 2)


def projections(layer: Any) -> tuple[Any, tuple[str, str, str]]:
    """The module of a layer's attention, and its names of the linear layers of query, key and value."""
    if hasattr(layer.attention, "q_lin"):
        return layer.attention, ("q_lin", "k_lin", "v_lin")
    if hasattr(layer.attention, "attn"):
        return layer.attention.attn, ("q", "k", "v")
    return layer.attention.self, ("query", "key", "value")


def _take_projected(layer: Any, into: dict[int, QueryKeyValue], index: int, hooks: ExitStack) -> None:
    """Query, key and value are the outputs of three linear layers (all but ModernBERT)."""
    attention, names = projections(layer)
    projected: dict[str, Tensor] = {}

    def assemble(module: Any, _inputs: object, _output: object) -> None:
        size = module.attention_head_size
        query, key, value = (_split(projected[name], size) for name in names)
        into[index] = QueryKeyValue(query, key, value, size**-0.5)

    for name in names:
        hooks.enter_context(getattr(attention, name).register_forward_hook(_keep(projected, name)))
    hooks.enter_context(attention.register_forward_hook(assemble))


def _take_rotated(layer: Any, into: dict[int, QueryKeyValue], index: int, hooks: ExitStack) -> None:
    """One linear layer makes all three, and queries and keys are then turned by their positions (ModernBERT)."""
    projected: dict[str, Tensor] = {}

    def assemble(module: Any, _inputs: object, keywords: dict[str, Any], _output: object) -> None:
        query, key, value = (_split(part, module.head_dim) for part in projected["Wqkv"].chunk(3, dim=-1))
        query, key = apply_rotary_pos_emb(query, key, *keywords["position_embeddings"])
        into[index] = QueryKeyValue(query, key, value, module.head_dim**-0.5)

    hooks.enter_context(layer.attn.Wqkv.register_forward_hook(_keep(projected, "Wqkv")))
    hooks.enter_context(layer.attn.register_forward_hook(assemble, with_kwargs=True))
