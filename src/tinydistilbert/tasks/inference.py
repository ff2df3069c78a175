"""Predictions of a task model, padded only to the longest input of each batch."""

import math
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.models.runtimes import MOST_TOKENS, Runtime
from tinydistilbert.tasks.encoding import Features, padded_inputs

if TYPE_CHECKING:  # a served model runs without them
    import torch
    from transformers import PreTrainedModel

    from tinydistilbert.training.ranks import Ranks

INPUTS = ("input_ids", "attention_mask", "token_type_ids")
Logits = NDArray[np.float32] | list[NDArray[np.float32]]


def predict(
    model: "PreTrainedModel | Runtime", features: Features, *, pad_token_id: int, device: "torch.device | None" = None,
    token_budget: int | None = None, ranks: "Ranks | None" = None,
) -> Logits:  # fmt: skip
    """Return the logits of every feature, in order; a torch model is left in evaluation mode.

    Inputs are sorted by length and cut into batches of at most `token_budget` tokens, padding included; a longer input
    is a separate batch. In the last layer only the first token is computed if the head reads no other. Neither changes
    the result, up to rounding, not even in int8: docs/decisions/0022-int8-alone-and-together.md.

    Args:
        model: a torch model or another runtime.
        features: the inputs.
        pad_token_id: the tokenizer's.
        device: device for a torch model; other runtimes have their own.
        token_budget: tokens per batch; by default the back end's fastest.
        ranks: the processes that share the batches, if there are several; each gets all logits.

    Returns:
        Classification (n, classes); regression (n, 1); span: for each feature (length, 2), start and end logits; token
        classification: for each feature (length, tags).

    Raises:
        UserError: a feature is longer than the position embeddings.
    """
    of_tokens = features.has_token_logits
    runtime: Runtime
    if isinstance(model, Runtime):
        runtime = model
    else:
        from tinydistilbert.models.torch_runtime import CPU, TorchRuntime

        runtime = TorchRuntime(model, span=features.offsets is not None, device=device or CPU)
    share = slice(None) if ranks is None else slice(ranks.rank, None, ranks.world)
    budget = token_budget or int(getattr(runtime, "token_budget", MOST_TOKENS))
    batches = batches_by_length(features.lengths, budget)[share]
    computed = (
        runtime(padded_inputs(features, indices, pad_token_id, token_types=runtime.token_types)) for indices in batches
    )
    is_shared = ranks is not None and ranks.world > 1
    if not of_tokens and not is_shared:
        sorted_logits = np.concatenate(list(computed))
        whole = np.empty_like(sorted_logits)
        whole[np.concatenate(batches)] = sorted_logits
        return whole.reshape(len(features), -1)
    logits_of: list[NDArray[np.float32] | None] = [None] * len(features)
    for indices, logits in zip(batches, computed, strict=True):
        for index, row in zip(indices, logits, strict=True):
            logits_of[index] = row[: features.lengths[index]].copy() if of_tokens else row
    if ranks is not None and is_shared:
        return _gathered(logits_of, features, ranks, of_tokens=of_tokens)
    rows = [row for row in logits_of if row is not None]
    assert len(rows) == len(features), "every feature is in exactly one batch"
    return rows


def _gathered(
    logits_of: list[NDArray[np.float32] | None], features: Features, ranks: "Ranks", *, of_tokens: bool
) -> Logits:
    """Return the logits of all processes: each has computed some, with zeros for the rest, so they are summed."""
    import torch

    width = max((row.shape[-1] for row in logits_of if row is not None), default=0)
    width = round(max(ranks.total([width if rank == ranks.rank else 0 for rank in range(ranks.world)])))
    shapes = [(int(length), width) if of_tokens else (width,) for length in features.lengths]
    flat = np.zeros((sum(math.prod(shape) for shape in shapes),), dtype=np.float32)
    parts, begin = [], 0
    for row, shape in zip(logits_of, shapes, strict=True):
        part = flat[begin : begin + math.prod(shape)].reshape(shape)
        if row is not None:
            part[:] = row
        parts.append(part)
        begin += math.prod(shape)
    ranks.sum_([torch.from_numpy(flat)])
    return parts if of_tokens else np.stack(parts)


def batches_by_length(lengths: NDArray[np.integer[Any]], token_budget: int) -> list[NDArray[np.int64]]:
    """Batch inputs of similar length, the longest first, with at most `token_budget` tokens including padding."""
    order = np.argsort(-lengths, kind="stable")
    batches, begin = [], 0
    while begin < len(order):
        size = max(1, token_budget // int(lengths[order[begin]]))  # the first input of a batch is its longest
        batches.append(order[begin : begin + size])
        begin += size
    return batches
