"""The teacher of several processes: whole in each of them while it fits, else in shards by torch's FSDP2.

In shards every process holds its part of each layer of the encoder, and a layer is whole only while it computes: all
processes gather it together. So each of them has to make as many passes of the teacher as the others. Nothing is
derived through it. Embeddings and the head, whose matrix is theirs, stay whole.
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
"""Of a parameter that is trained: weight, gradient and AdamW's two moments, in single precision."""
SHARE = 0.5
"""Of a GPU's free memory, which a whole teacher and what is trained may take; the rest is for what a step computes."""


def place_teacher(
    teacher: PreTrainedModel, compute: Compute, sharding: schema.Sharding, *, trained: int, log: Callable[[str], None]
) -> PreTrainedModel:
    """The teacher where it computes: itself, or of several processes a copy in shards. All of them call this together.

    Args:
        teacher: whole; it stays so, in the memory of the host where the copy is in shards.
        compute: where, in which precision, and the processes.
        sharding: whether to; `auto`: on GPUs, where the whole one does not fit.
        trained: parameters of what is trained beside it.
        log: called with a line about the choice, of several processes.
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
    """Memory of the weights of a whole teacher, in bf16 too where that is multiplied, and of what is trained.

    Args:
        teacher: its parameters.
        trained: parameters of the student.
        is_bf16: whether products are in bf16; the weights stay in single precision beside.
    """
    return teacher * (6 if is_bf16 else 4) + trained * TRAINED_BYTES


def free_bytes(device: torch.device) -> int | None:
    """Free memory of a GPU; None elsewhere: the memory of a CPU holds the whole teacher anyhow, for it was read."""
    return torch.cuda.mem_get_info()[0] if device.type == "cuda" else None


def is_in_shards(model: nn.Module | None) -> bool:
    """Whether the processes hold a part of the model each."""
    return model is not None and any(_is_shard(parameter) for parameter in model.parameters())


def _is_shard(parameter: nn.Parameter) -> bool:
    return hasattr(parameter, "to_local")


def _held_bytes(parameter: Any) -> int:
    return int((parameter.to_local() if _is_shard(parameter) else parameter).nbytes)


def _in_shards(teacher: PreTrainedModel, compute: Compute) -> PreTrainedModel:
    """A copy of which this process holds its part; never is more than one layer of it whole on the device."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    sharded = copy.deepcopy(teacher).eval().requires_grad_(False)
    mesh = init_device_mesh(compute.device.type, (compute.ranks.world,))
    for layer in encoder_layers(sharded):
        fully_shard(layer, mesh=mesh, reshard_after_forward=True)
    whole = {parameter for parameter in sharded.parameters() if not _is_shard(parameter)}
    fully_shard(sharded.base_model, mesh=mesh, ignored_params=whole)  # the layers' root: they gather one after another
    sharded.to(compute.device)
    # What layers are gathered into is made in the first pass. Made in inference mode, it could be used in no other.
    with torch.no_grad():
        sharded.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=compute.device))
    return sharded
