"""Structured pruning: removes the heads and neurons with the least importance for their cost, and whole layers.

The pruned model has the same output as the whole model with the removed parts masked to zero. An ordinary fine-tuning
of the smaller model, with the large one as teacher, recovers what was lost.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.compress.importance import Importance
from tinydistilbert.errors import UserError
from tinydistilbert.models import pruned
from tinydistilbert.models.capture import encoder_layers
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.models.pruned import Parts, parts_of

GROUP = 8
"""Neurons are removed in groups of this size, because matrix kernels are fastest at multiples of it."""
LENGTH = 128
"""Default length of the input whose operations `target_flops` counts."""


@dataclass(frozen=True)
class KeptUnits:
    """The kept parts of each layer, numbered from 0 among its original ones."""

    heads: tuple[tuple[int, ...], ...]
    neurons: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class _Unit:
    """A head or a group of neurons."""

    kind: str
    layer: int
    members: tuple[int, ...]
    importance: float
    cost: float
    is_first: bool
    """Whether it is the most important of its kind in its layer, which always stays."""


def layer_operations(model: PreTrainedModel, length: int) -> int:
    """Return the operations of the encoder layers for `length` tokens: matrices and the two products of attention."""
    return sum(
        layer.heads * head + layer.neurons * neuron
        for layer in parts_of(model)
        for head, neuron in [_operations(layer, length)]
    )


def _operations(layer: Parts, length: int) -> tuple[int, int]:
    """Return the operations of a head and of a neuron."""
    head = 8 * length * layer.hidden * layer.head_size + 4 * length**2 * layer.head_size
    return head, 4 * length * layer.hidden


def _weights(layer: Parts) -> tuple[int, int]:
    """Return the number of matrix weights of a head and of a neuron."""
    return 4 * layer.hidden * layer.head_size, 2 * layer.hidden


def _parameters(layer: Parts) -> tuple[int, int]:
    """Return the parameters of a head and of a neuron: weights and their biases."""
    head, neuron = _weights(layer)
    return head + 3 * layer.head_size, neuron + 1


def units_to_keep(
    model: PreTrainedModel, importance: Importance, *, keep: float | None = None, target_parameters: int | None = None,
    target_flops: float | None = None, length: int = LENGTH,
) -> KeptUnits:  # fmt: skip
    """Return what to keep within a target: the heads and neurons with the greatest importance for their cost.

    All layers compete with each other, and heads with neurons, after `_in_proportion` has made them comparable. Each
    layer keeps at least its most important head and `GROUP` neurons.

    Args:
        model: the model whose importance was measured.
        importance: importance of its heads and neurons.
        keep: share of the weights of the encoder layers; or
        target_parameters: parameters of the whole model, counting tied ones once; or
        target_flops: operations of the encoder layers for one input, see `layer_operations`.
        length: tokens of that input.

    Raises:
        UserError: there is not exactly one target, it cannot be reached, or the family cannot be pruned.
    """
    layers = parts_of(model)
    name, target = _only(keep=keep, target_parameters=target_parameters, target_flops=target_flops)
    costs: dict[str, Callable[[Parts], tuple[int, int]]] = {
        "keep": _weights, "target_parameters": _parameters, "target_flops": partial(_operations, length=length),
    }  # fmt: skip
    scaled = _in_proportion(importance, layers)
    units = [unit for n, layer in enumerate(layers) for unit in _units(n, scaled, costs[name](layer))]
    total = sum(unit.cost for unit in units)
    fixed = parameter_count(model) - total if name == "target_parameters" else 0
    scale = total if name == "keep" else 1
    _check_reachable(name, target, (sum(unit.cost for unit in units if unit.is_first) + fixed) / scale)
    return _kept(_affordable(units, target * scale - fixed), len(layers))


def _only(**targets: float | None) -> tuple[str, float]:
    """Return the only given target."""
    given = [(name, value) for name, value in targets.items() if value is not None]
    if len(given) != 1:
        expected, fix = f"exactly one of {', '.join(targets)}", "give one"
        raise UserError("the pruning's target", expected=expected, found=str(len(given)), fix=fix)
    return given[0]


def _check_reachable(name: str, target: float, least: float) -> None:
    if name == "keep" and target > 1:
        raise UserError(name, expected="a share of at most 1", found=f"{target:g}", fix="lower it")
    if target < least:
        lowest, found = (f"{value:.3f}" if name == "keep" else f"{value:,.0f}" for value in (least, target))
        fix = "raise it, drop layers, or trim the vocabulary"
        raise UserError(name, expected=f"at least {lowest}", found=found, fix=fix)


def _in_proportion(importance: Importance, layers: Sequence[Parts]) -> Importance:
    """Scale importance so that the heads of each layer sum to their number of weights; its neurons likewise.

    Without it, the derivatives of neurons outweigh those of heads, whose dimensions partly cancel, and all but a few
    layers keep only the minimum. Measured in docs/decisions/0018-pruning.md.
    """
    heads, neurons = (
        [
            scores * (_weights(layer)[kind] * len(scores) / scores.sum().clamp(min=torch.finfo(torch.float32).tiny))
            for layer, scores in zip(layers, of_kind, strict=True)
        ]
        for kind, of_kind in enumerate((importance.heads, importance.neurons))
    )
    return Importance(heads, neurons, importance.layers)


def _units(layer: int, importance: Importance, costs: tuple[float, float]) -> Iterator[_Unit]:
    """Yield the heads and the groups of neurons of a layer; a group has neurons of similar importance."""
    kinds = (("heads", importance.heads[layer], 1, costs[0]), ("neurons", importance.neurons[layer], GROUP, costs[1]))
    for kind, scores, size, cost in kinds:
        order = scores.argsort(descending=True, stable=True)
        for begin in range(0, len(order), size):
            members = order[begin : begin + size]
            value = float(scores[members].sum())
            yield _Unit(kind, layer, tuple(members.tolist()), value, cost * len(members), begin == 0)


def _affordable(units: Sequence[_Unit], budget: float) -> list[_Unit]:
    """Return the first unit of each kind and layer, and the most important others for their cost within the budget."""
    taken = [unit for unit in units if unit.is_first]
    spent = sum(unit.cost for unit in taken)
    for unit in sorted((u for u in units if not u.is_first), key=lambda u: u.importance / u.cost, reverse=True):
        if spent + unit.cost <= budget:
            taken.append(unit)
            spent += unit.cost
    return taken


def _kept(units: Sequence[_Unit], depth: int) -> KeptUnits:
    members: dict[str, list[list[int]]] = {kind: [[] for _ in range(depth)] for kind in ("heads", "neurons")}
    for unit in units:
        members[unit.kind][unit.layer] += unit.members
    heads, neurons = (tuple(tuple(sorted(layer)) for layer in members[kind]) for kind in ("heads", "neurons"))
    return KeptUnits(heads, neurons)


def prune(
    model: PreTrainedModel, importance: Importance, *, keep: float | None = None, target_parameters: int | None = None,
    target_flops: float | None = None, length: int = LENGTH,
) -> KeptUnits:  # fmt: skip
    """Remove from `model`, in place, what `units_to_keep` leaves out; return what is kept.

    Raises:
        UserError: as for `units_to_keep`; the model is unchanged.
    """
    kept = units_to_keep(
        model, importance, keep=keep, target_parameters=target_parameters, target_flops=target_flops, length=length
    )
    pruned.keep(model, kept.heads, kept.neurons)
    return kept


def drop_layers(model: PreTrainedModel, kept_layers: Sequence[int]) -> None:
    """Keep only some layers of `model`, in place, in the given order.

    Args:
        model: a model of a prunable family, possibly already pruned.
        kept_layers: distinct layers, counted from 0.

    Raises:
        UserError: there is no layer, a layer is repeated or does not exist, or the family cannot be pruned.
    """
    layers = encoder_layers(model)
    depth = len(parts_of(model))
    if not kept_layers or len(set(kept_layers)) != len(kept_layers) or not all(0 <= n < depth for n in kept_layers):
        expected, found = f"different layers among 0 to {depth - 1}", str(list(kept_layers))
        raise UserError("the layers to keep", expected=expected, found=found, fix="change the list")
    base: Any = model.base_model
    stack = base.transformer if model.config.model_type == "distilbert" else base.encoder
    stack.layer = nn.ModuleList(layers[n] for n in kept_layers)
    model.config.num_hidden_layers = len(kept_layers)
    if pruned.is_pruned(model.config):
        counts_by_kind = model.config.pruned
        model.config.pruned = {key: [counts[n] for n in kept_layers] for key, counts in counts_by_kind.items()}


def most_important_layers(importance: Importance, count: int) -> tuple[int, ...]:
    """Return the `count` most important layers, lowest first."""
    order: Tensor = importance.layers.argsort(descending=True, stable=True)
    return tuple(sorted(order[:count].tolist()))
