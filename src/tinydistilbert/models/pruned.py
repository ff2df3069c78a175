"""Models whose layers have fewer attention heads and feed-forward neurons than their family's config can say.

The matrices themselves are smaller, so the model is smaller and faster in every back end. How many each layer has left
is in `config.pruned`, which `load_model` reads. Plain `from_pretrained` builds the whole architecture, finds that the
weights do not fit, and says so.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tinydistilbert.errors import UserError
from tinydistilbert.models.capture import encoder_layers

PRUNABLE_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta")
"""Not ModernBERT: one matrix makes its queries, keys and values, and another gates its neurons."""
_NAMES = {"heads": "num_attention_heads", "intermediate": "intermediate_size"}
"""Keys of `config.pruned`, and where the config has the number of a layer that was not pruned."""


@dataclass(frozen=True)
class Parts:
    """The matrices of one layer that get smaller."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    """Reads what the heads give, one after the other."""
    inner: nn.Linear
    """Its outputs are the feed-forward neurons."""
    outer: nn.Linear
    """Reads what the neurons give."""
    head_size: int
    """Never changes."""

    @property
    def heads(self) -> int:
        """Attention heads that are left."""
        return self.query.weight.shape[0] // self.head_size

    @property
    def neurons(self) -> int:
        """Feed-forward neurons that are left."""
        return self.inner.weight.shape[0]

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.query.weight.shape[1]


@dataclass(frozen=True)
class Shapes:
    """How many heads and neurons each layer has, lowest layer first."""

    heads: tuple[int, ...]
    intermediate: tuple[int, ...]


def parts_of(model: PreTrainedModel) -> list[Parts]:
    """The matrices of each layer.

    Raises:
        UserError: the family is not one of `PRUNABLE_FAMILIES`.
    """
    family = model.config.model_type
    if family not in PRUNABLE_FAMILIES:
        fix = "use another model, or make its student with student.architecture = 'distilbert'"
        raise UserError(
            "the model", expected=f"a family among {', '.join(PRUNABLE_FAMILIES)}", found=repr(family), fix=fix
        )
    return [_distilbert(layer) if family == "distilbert" else _bert(layer) for layer in encoder_layers(model)]


def _bert(layer: Any) -> Parts:
    own = layer.attention.self
    return Parts(
        own.query, own.key, own.value, layer.attention.output.dense, layer.intermediate.dense, layer.output.dense,
        own.attention_head_size,
    )  # fmt: skip


def _distilbert(layer: Any) -> Parts:
    own = layer.attention
    return Parts(own.q_lin, own.k_lin, own.v_lin, own.out_lin, layer.ffn.lin1, layer.ffn.lin2, own.attention_head_size)


def keep(model: PreTrainedModel, heads: Sequence[Sequence[int]], neurons: Sequence[Sequence[int]]) -> None:
    """Leave only some heads and neurons in each layer of `model`, in place, and write into its config how many.

    Args:
        model: of one of `PRUNABLE_FAMILIES`; it may be pruned already.
        heads: for each layer the heads to keep, counted from 0 among those that it has; at least one.
        neurons: the same for its feed-forward neurons.

    Raises:
        UserError: the family cannot be pruned.
    """
    layers = parts_of(model)
    for own, kept_heads, kept_neurons in zip(layers, heads, neurons, strict=True):
        assert kept_heads and kept_neurons, "something is left of each layer"
        size = own.head_size
        dimensions = [head * size + place for head in kept_heads for place in range(size)]
        for linear in (own.query, own.key, own.value):
            _cut(linear, 0, dimensions)
        _cut(own.attention_output, 1, dimensions)
        _cut(own.inner, 0, kept_neurons)
        _cut(own.outer, 1, kept_neurons)
    model.config.pruned = {"heads": [own.heads for own in layers], "intermediate": [own.neurons for own in layers]}


def _cut(linear: nn.Linear, axis: int, places: Iterable[int]) -> None:
    """Keep some outputs (axis 0, with their biases) or inputs (axis 1) of `linear`."""
    index = torch.tensor(list(places), device=linear.weight.device)
    linear.weight = _selected(linear.weight, axis, index)
    if axis == 0:
        linear.bias = _selected(linear.bias, 0, index)
    linear.out_features, linear.in_features = linear.weight.shape


def _selected(parameter: Tensor, axis: int, index: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().index_select(axis, index), requires_grad=parameter.requires_grad)


def is_pruned(config: PretrainedConfig) -> bool:
    """Whether the config says that layers have other shapes than its family's."""
    return getattr(config, "pruned", None) is not None


def shapes_of(config: PretrainedConfig) -> Shapes:
    """How many heads and neurons each layer has; where nothing was pruned, as many as the family's config says.

    Raises:
        UserError: what it says under `pruned` is not a number for each layer, from 1 to that of the whole architecture.
    """
    depth = config.num_hidden_layers
    whole = {key: int(getattr(config, _attribute(config, name))) for key, name in _NAMES.items()}
    if not is_pruned(config):
        return Shapes((whole["heads"],) * depth, (whole["intermediate"],) * depth)
    told: Any = config.pruned
    for key, most in whole.items():
        counts = told.get(key) if isinstance(told, dict) else None
        if not _are_counts(counts, depth, most):
            expected, fix = f"{depth} numbers from 1 to {most}", "use the folder as it was written"
            raise UserError(f"config.json: pruned.{key}", expected=expected, found=str(counts)[:80], fix=fix)
    return Shapes(tuple(told["heads"]), tuple(told["intermediate"]))


def _are_counts(found: Any, depth: int, most: int) -> bool:
    return isinstance(found, list) and len(found) == depth and all(type(n) is int and 1 <= n <= most for n in found)


def _attribute(config: PretrainedConfig, name: str) -> str:
    """DistilBERT has no other name for it than its own."""
    return "hidden_dim" if name == "intermediate_size" and config.model_type == "distilbert" else name


def give_shapes(model: PreTrainedModel, shapes: Shapes) -> None:
    """Make a newly built model as small as `shapes`, on any device; its weights have no meaning then."""
    keep(model, [range(count) for count in shapes.heads], [range(count) for count in shapes.intermediate])


def shaped(architecture: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A class as `architecture`, but that its models are built with the shapes of their config, so that weights fit."""

    def build(self: Any, config: PretrainedConfig, *arguments: Any, **keywords: Any) -> None:
        architecture.__init__(self, config, *arguments, **keywords)
        give_shapes(self, shapes_of(config))

    made = type(architecture.__name__, (architecture,), {"__init__": build, "__module__": architecture.__module__})
    return cast("type[PreTrainedModel]", made)
