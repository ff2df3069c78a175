"""The teacher of several processes: whole in each of them if it fits, else in shards by torch's FSDP2.

With shards, every process holds a part of each encoder layer, and all processes together gather a layer while it
computes. So each process has to run the teacher as often as the others. No gradient flows through the teacher.
The embeddings stay whole, and so does the head, which shares their matrix.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel

from tinydistilbert.models.capture import encoder_layers
from tinydistilbert.models.heads import parameter_count
from tinydistilbert.progress import size_in_words
from tinydistilbert.recipe import schema
from tinydistilbert.training.device import Compute

TRAINED_BYTES = 16
"""Bytes of a trained parameter: weight, gradient and AdamW's two moments, in single precision."""
SHARE = 0.5
"""Share of a GPU's free memory that a whole teacher and the trained model may take; the rest is for activations."""


def place_teacher(
    teacher: PreTrainedModel, compute: Compute, sharding: schema.Sharding, *, trained: int, log: Callable[[str], None]
) -> PreTrainedModel:
    """Put the teacher on the device, whole or as a copy in shards. All processes call this together.

    Args:
        teacher: whole; if the copy is in shards, it stays whole in the host's memory.
        compute: the device, the precision and the processes.
        sharding: whether to shard; `auto`: on GPUs, if the whole teacher does not fit.
        trained: number of parameters of the model that is trained.
        log: called with a line about the choice if there are several processes.
    """
    ranks, size = compute.ranks, parameter_count(teacher) * teacher.dtype.itemsize
    if ranks.world == 1:
        return teacher.to(compute.device).eval()
    needed = needed_bytes(parameter_count(teacher), trained, is_bf16=compute.chosen == "bf16")
    free = free_bytes(compute.device)
    (too_large,) = ranks.agree(free is not None and needed > SHARE * free)
    if sharding == "never" or not (too_large or sharding == "always"):
        log(f"teacher: whole in each of {ranks.world} processes, {size_in_words(size)}")
        return teacher.to(compute.device).eval()
    sharded = _in_shards(teacher, compute)
    held = sum(_held_bytes(parameter) for parameter in sharded.parameters())
    why = f"teacher.sharding is {sharding}"
    if sharding == "auto":
        why = f"whole, with the training, it takes {size_in_words(needed)}, more than half of a GPU's free memory"
    log(f"teacher: in shards over {ranks.world} processes, {size_in_words(held)} of {size_in_words(size)} each; {why}")
    return sharded


def needed_bytes(teacher: int, trained: int, *, is_bf16: bool) -> int:
    """Return the memory of a whole teacher's weights and of the trained model.

    Args:
        teacher: number of its parameters.
        trained: number of parameters of the student.
        is_bf16: whether products are in bf16; the teacher then has bf16 weights as well as single-precision ones.
    """
    return teacher * (6 if is_bf16 else 4) + trained * TRAINED_BYTES


def free_bytes(device: torch.device) -> int | None:
    """Return the free memory of a GPU; None elsewhere, because a CPU's memory already holds the whole teacher."""
    return torch.cuda.mem_get_info()[0] if device.type == "cuda" else None


def is_in_shards(model: nn.Module | None) -> bool:
    """Return whether each process holds only a part of the model."""
    return model is not None and any(_is_shard(parameter) for parameter in model.parameters())


def _is_shard(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "to_local")


def _held_bytes(parameter: Any) -> int:
    return int((parameter.to_local() if _is_shard(parameter) else parameter).nbytes)


def _in_shards(teacher: PreTrainedModel, compute: Compute) -> PreTrainedModel:
    """Return a copy of which this process holds its part; at most one of its layers is whole on the device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharded = copy.deepcopy(teacher).eval().requires_grad_(False)
    mesh = init_device_mesh(compute.device.type, (compute.ranks.world,))
    for layer in encoder_layers(sharded):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    whole = {parameter for parameter in sharded.parameters() if not _is_shard(parameter)}
    fully_shard(sharded.base_model, mesh=mesh, ignored_params=whole)  # the layers' root: they gather in turn
    sharded.to(compute.device)
    # The first pass allocates the buffers that layers are gathered into. If it ran in inference mode, later passes in
    # another mode could not use them.
    with torch.no_grad():
        sharded.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=compute.device))
    return sharded
