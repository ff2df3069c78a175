"""Importance of each attention head, feed-forward neuron and layer for a task, by the first derivative of its loss.

The output of a head or neuron is multiplied by a mask of one. The derivative of the loss by this mask is, to first
order, the change of the loss when the mask becomes zero, that is, when the head or neuron is removed (Molchanov et al.
2017, arXiv 1611.06440, section 2.2; Michel et al. 2019, arXiv 1905.10650, section 4.1).
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.models.capture import encoder_layers
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.pruned import parts_of
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.tasks.base import Kind
from tinydistilbert.tasks.encoding import Features, collate
from tinydistilbert.tasks.inference import batches_by_length
from tinydistilbert.training.job import Batch

TOKENS_A_BATCH = 2048
"""Tokens per batch in estimating importance."""

Loss = Callable[[PreTrainedModel, Batch], Tensor]
"""The mean over a batch of a loss computed for each example separately."""


@dataclass(frozen=True)
class Importance:
    """The first-order change of the loss, averaged over examples; on the CPU."""

    heads: list[Float[Tensor, " _"]]
    """Importance of each layer's heads, lowest layer first."""
    neurons: list[Float[Tensor, " _"]]
    """Importance of each layer's feed-forward neurons."""
    layers: Float[Tensor, " layers"]
    """Importance of each whole layer: of what it adds to its input."""


@contextmanager
def masked(
    model: PreTrainedModel, heads: Sequence[Float[Tensor, "batch _"]],
    neurons: Sequence[Float[Tensor, "batch _"]], layers: Sequence[Float[Tensor, " batch"]] = (),
) -> Iterator[None]:  # fmt: skip
    """In the body, multiply the outputs of heads, neurons and layers by masks; gradients reach the masks.

    Args:
        model: a model of a prunable family, possibly already pruned.
        heads: a mask for each layer; its batch may be 1.
        neurons: the same for neurons.
        layers: the same for what the layers add to their inputs; empty = no masks.
    """
    with ExitStack() as hooks:
        for parts, head_mask, neuron_mask in zip(parts_of(model), heads, neurons, strict=True):
            scaled = _scaled(head_mask, parts.head_size)
            hooks.enter_context(parts.attention_output.register_forward_pre_hook(scaled))
            hooks.enter_context(parts.outer.register_forward_pre_hook(_scaled(neuron_mask, 1)))
        for layer, mask in zip(encoder_layers(model), layers, strict=False):
            hooks.enter_context(layer.register_forward_hook(_partly(mask), with_kwargs=True))
        yield


def _scaled(mask: Tensor, size: int) -> Callable[..., tuple[Tensor]]:
    def hook(_module: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
        return (inputs[0] * mask.repeat_interleave(size, dim=-1)[:, None],)

    return hook


def _partly(mask: Tensor) -> Callable[..., Tensor]:
    def hook(_module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Tensor) -> Tensor:
        entered = inputs[0] if inputs else keywords["hidden_states"]
        added = output - entered[:, : output.shape[1]]  # in the last layer perhaps only the first token
        scaled: Tensor = output + (mask[:, None, None] - 1) * added  # exactly the output if the mask is one
        return scaled

    return hook


def mask_gradients(
    model: PreTrainedModel, batch: Batch, loss: Loss
) -> tuple[list[Float[Tensor, "batch _"]], list[Float[Tensor, "batch _"]], list[Float[Tensor, " batch"]]]:
    """Return, by layer, the derivatives of each example's loss by the masks of heads, neurons and the layer."""
    layers, size = parts_of(model), len(batch["input_ids"])
    device = layers[0].query.weight.device
    widths = [[layer.heads for layer in layers], [layer.neurons for layer in layers]]
    heads, neurons = ([torch.ones(size, n, device=device, requires_grad=True) for n in kind] for kind in widths)
    whole = [torch.ones(size, device=device, requires_grad=True) for _ in layers]
    with masked(model, heads, neurons, whole):
        mean = loss(model, {name: value.to(device) for name, value in batch.items()})
    gradients = torch.autograd.grad(mean * size, [*heads, *neurons, *whole])
    depth = len(layers)
    return list(gradients[:depth]), list(gradients[depth : 2 * depth]), list(gradients[2 * depth :])


def head_and_neuron_importance(model: PreTrainedModel, batches: Iterable[Batch], loss: Loss) -> Importance:
    """Return the mean absolute value of the derivatives over the examples of all batches, without dropout.

    Absolute values are taken per example, so that examples with opposite signs do not cancel (Michel et al. 2019,
    section 4.1). For regression it is the absolute value of the mean, where they do cancel: measured in
    docs/decisions/0018-pruning.md. The model is left unchanged.

    Args:
        model: a task model of a prunable family, possibly already pruned.
        batches: train examples, with everything that `loss` reads; a few hundred examples are enough.
        loss: the task's loss, from labels or from a teacher.
    """
    was_training, examples = model.training, 0
    signs_cancel = model.config.problem_type == "regression"
    totals: list[Tensor] = []
    model.eval()
    try:
        for batch in batches:
            heads, neurons, layers = mask_gradients(model, batch, loss)
            every = (*heads, *neurons, *layers)
            sums = [(gradient if signs_cancel else gradient.abs()).sum(0) for gradient in every]
            totals = [total + added for total, added in zip(totals, sums, strict=True)] if totals else sums
            examples += len(batch["input_ids"])
    finally:
        model.train(was_training)
    assert totals, "there is a batch"
    means, depth = [total.abs().cpu() / examples for total in totals], len(totals) // 3
    return Importance(means[:depth], means[depth : 2 * depth], torch.stack(means[2 * depth :]))


def importance_on(
    model: PreTrainedModel, features: Features, rows: NDArray[np.int64], kind: Kind, pad_token_id: int
) -> Importance:
    """Return the importance of the parts of a task model for its task, by the labels of some inputs.

    Args:
        model: as in `head_and_neuron_importance`.
        features: inputs with labels.
        rows: which inputs to read.
        kind: task kind.
        pad_token_id: padding token of the model's tokenizer.
    """
    objective, student = TaskLoss(kind), ProjectedStudent(model)
    batches = (
        collate(features, rows[indices], pad_token_id, token_types=uses_token_types(model))
        for indices in batches_by_length(features.lengths[rows], TOKENS_A_BATCH)
    )
    return head_and_neuron_importance(
        model, batches, lambda _, batch: objective.loss(student, dict(batch), {"hard": 1.0}, 0)[0]
    )
