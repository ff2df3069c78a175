"""Layer outputs, queries, keys and values of a running model, captured by hooks that are removed afterwards.

The model keeps its fast attention, because the hooks read only the inputs of attention, not attention weights.
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
    """Query, key and value of one layer's attention; in ModernBERT after the rotation by position."""

    query: Float[Tensor, "batch heads length size"]
    key: Float[Tensor, "batch heads length size"]
    value: Float[Tensor, "batch heads length size"]
    scaling: float
    """Factor of query · key before the softmax: 1 / sqrt(size). MPNet adds its bias by distance afterwards."""


@dataclass(frozen=True)
class LayerOutputs:
    """Results of a forward pass inside the requested layers; keys are layer numbers, 0 = the first."""

    hidden_states: dict[int, Float[Tensor, "batch length hidden"]] = field(default_factory=dict)
    """Outputs of layers."""
    attention: dict[int, QueryKeyValue] = field(default_factory=dict)


def encoder_layers(model: PreTrainedModel) -> nn.ModuleList:
    """Return the layers of the encoder, lowest first."""
    base = cast("Any", model.base_model)
    family = model.config.model_type
    if family == "modernbert":
        return cast("nn.ModuleList", base.layers)
    return cast("nn.ModuleList", (base.transformer if family == "distilbert" else base.encoder).layer)


@contextmanager
def capturing(model: PreTrainedModel, layers: Sequence[int], attention: Sequence[int]) -> Iterator[LayerOutputs]:
    """Inside the `with`, a forward pass of `model` stores the results of its layers in the yielded object.

    Gradients flow through them. Calls may be nested; without requested layers there are no hooks.

    Args:
        model: encoder of one of the known families, with or without a head.
        layers: numbers of the layers whose outputs are captured.
        attention: numbers of the layers whose queries, keys and values are captured.
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
        into[key] = output[0] if isinstance(output, tuple) else output  # MPNet's layers return tuples

    return hook


def _split(projected: Float[Tensor, "batch length width"], size: int) -> Float[Tensor, "batch heads length size"]:
    """Split into heads."""
    return projected.view(*projected.shape[:-1], -1, size).transpose(1, 2)


def projections(layer: Any) -> tuple[Any, tuple[str, str, str]]:
    """Return a layer's attention module, and its names of the linear layers of query, key and value."""
    if hasattr(layer.attention, "q_lin"):
        return layer.attention, ("q_lin", "k_lin", "v_lin")
    if hasattr(layer.attention, "attn"):
        return layer.attention.attn, ("q", "k", "v")
    return layer.attention.self, ("query", "key", "value")


def _take_projected(layer: Any, into: dict[int, QueryKeyValue], index: int, hooks: ExitStack) -> None:
    """Capture query, key and value as the outputs of three linear layers (all families but ModernBERT)."""
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
    """Capture all three from one linear layer, and rotate queries and keys by their positions (ModernBERT)."""
    projected: dict[str, Tensor] = {}

    def assemble(module: Any, _inputs: object, keywords: dict[str, Any], _output: object) -> None:
        query, key, value = (_split(part, module.head_dim) for part in projected["Wqkv"].chunk(3, dim=-1))
        query, key = apply_rotary_pos_emb(query, key, *keywords["position_embeddings"])
        into[index] = QueryKeyValue(query, key, value, module.head_dim**-0.5)

    hooks.enter_context(layer.attn.Wqkv.register_forward_hook(_keep(projected, "Wqkv")))
    hooks.enter_context(layer.attn.register_forward_hook(assemble, with_kwargs=True))
