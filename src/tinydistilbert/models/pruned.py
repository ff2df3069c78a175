"""Models whose layers have fewer attention heads and feed-forward neurons than their family's config can express.

The matrices themselves are smaller, so the model is smaller and faster in every back end. `config.pruned`, which
`load_model` reads, has the remaining numbers of each layer. Plain `from_pretrained` builds the whole architecture, and
reports that the weights do not fit.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from tinydistilbert.errors import UserError
from tinydistilbert.models.capture import encoder_layers

PRUNABLE_FAMILIES = ("bert", "distilbert", "roberta", "xlm-roberta", "camembert", "electra")
"""ModernBERT is missing because one matrix makes its queries, keys and values, and another gates its neurons; MPNet,
because its layers share one table with a bias for each head."""
_NAMES = {"heads": "num_attention_heads", "intermediate": "intermediate_size"}
"""Keys of `config.pruned`, and the config's keys for the number in an unpruned layer."""


@dataclass(frozen=True)
class Parts:
    """The matrices of one layer that pruning makes smaller."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    attention_output: nn.Linear
    """Its inputs are the concatenated outputs of the heads."""
    inner: nn.Linear
    """Its outputs are the feed-forward neurons."""
    outer: nn.Linear
    """Its inputs are the feed-forward neurons."""
    head_size: int
    """Dimensions of a head; pruning does not change it."""

    @property
    def heads(self) -> int:
        """Number of attention heads."""
        return self.query.weight.shape[0] // self.head_size

    @property
    def neurons(self) -> int:
        """Number of feed-forward neurons."""
        return self.inner.weight.shape[0]

    @property
    def hidden(self) -> int:
        """Width of the hidden states."""
        return self.query.weight.shape[1]


@dataclass(frozen=True)
class Shapes:
    """The numbers of heads and neurons of each layer, lowest layer first."""

    heads: tuple[int, ...]
    intermediate: tuple[int, ...]


def parts_of(model: PreTrainedModel) -> list[Parts]:
    """Return the matrices of each layer.

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
    attention = layer.attention.self
    return Parts(
        attention.query, attention.key, attention.value, layer.attention.output.dense, layer.intermediate.dense,
        layer.output.dense, attention.attention_head_size,
    )  # fmt: skip


def _distilbert(layer: Any) -> Parts:
    attention, feed_forward = layer.attention, layer.ffn
    return Parts(
        attention.q_lin, attention.k_lin, attention.v_lin, attention.out_lin, feed_forward.lin1, feed_forward.lin2,
        attention.attention_head_size,
    )  # fmt: skip


def keep(model: PreTrainedModel, heads: Sequence[Sequence[int]], neurons: Sequence[Sequence[int]]) -> None:
    """Keep only the given heads and neurons in each layer of `model`, in place, and write the counts to its config.

    Args:
        model: of one of `PRUNABLE_FAMILIES`; it may already be pruned.
        heads: for each layer, the heads to keep, counted from 0 among its current ones; at least one.
        neurons: the same for its feed-forward neurons.

    Raises:
        UserError: the family cannot be pruned.
    """
    layers = parts_of(model)
    for layer, kept_heads, kept_neurons in zip(layers, heads, neurons, strict=True):
        assert kept_heads and kept_neurons, "something is left of each layer"
        size = layer.head_size
        dimensions = [head * size + offset for head in kept_heads for offset in range(size)]
        for linear in (layer.query, layer.key, layer.value):
            _cut(linear, 0, dimensions)
        _cut(layer.attention_output, 1, dimensions)
        _cut(layer.inner, 0, kept_neurons)
        _cut(layer.outer, 1, kept_neurons)
    model.config.pruned = {
        "heads": [layer.heads for layer in layers],
        "intermediate": [layer.neurons for layer in layers],
    }


def _cut(linear: nn.Linear, axis: int, indices: Iterable[int]) -> None:
    """Keep some outputs (axis 0, with their biases) or inputs (axis 1) of `linear`."""
    index = torch.tensor(list(indices), device=linear.weight.device)
    linear.weight = _selected(linear.weight, axis, index)
    if axis == 0:
        linear.bias = _selected(linear.bias, 0, index)
    linear.out_features, linear.in_features = linear.weight.shape


def _selected(parameter: Tensor, axis: int, index: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().index_select(axis, index), requires_grad=parameter.requires_grad)


def is_pruned(config: PretrainedConfig) -> bool:
    """Return whether the config has separate shapes for the layers."""
    return getattr(config, "pruned", None) is not None


def shapes_of(config: PretrainedConfig) -> Shapes:
    """Return the numbers of heads and neurons of each layer; for an unpruned model, those of the family's config.

    Raises:
        UserError: a list under `pruned` does not have a number for each layer, from 1 to the unpruned number.
    """
    depth = config.num_hidden_layers
    unpruned = {key: int(getattr(config, _attribute(config, name))) for key, name in _NAMES.items()}
    if not is_pruned(config):
        return Shapes((unpruned["heads"],) * depth, (unpruned["intermediate"],) * depth)
    pruned: Any = config.pruned
    for key, most in unpruned.items():
        counts = pruned.get(key) if isinstance(pruned, dict) else None
        if not _are_counts(counts, depth, most):
            expected, fix = f"{depth} numbers from 1 to {most}", "use the config.json that was saved with the weights"
            raise UserError(f"config.json: pruned.{key}", expected=expected, found=str(counts)[:80], fix=fix)
    return Shapes(tuple(pruned["heads"]), tuple(pruned["intermediate"]))


def _are_counts(value: Any, depth: int, most: int) -> bool:
    return isinstance(value, list) and len(value) == depth and all(type(n) is int and 1 <= n <= most for n in value)


def _attribute(config: PretrainedConfig, name: str) -> str:
    """Return the name of an attribute in the family's config; DistilBERT's has no alias for `hidden_dim`."""
    return "hidden_dim" if name == "intermediate_size" and config.model_type == "distilbert" else name


def give_shapes(model: PreTrainedModel, shapes: Shapes) -> None:
    """Give a newly built model the shapes of a pruned one, on any device; its weights are meaningless."""
    keep(model, [range(count) for count in shapes.heads], [range(count) for count in shapes.intermediate])


def shaped(architecture: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """Return a subclass of `architecture` whose models have the shapes in their config, so that pruned weights fit."""

    def build(self: Any, config: PretrainedConfig, *arguments: Any, **keywords: Any) -> None:
        architecture.__init__(self, config, *arguments, **keywords)
        give_shapes(self, shapes_of(config))

    subclass = type(architecture.__name__, (architecture,), {"__init__": build, "__module__": architecture.__module__})
    return cast("type[PreTrainedModel]", subclass)
