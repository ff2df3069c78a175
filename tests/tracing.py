"""What torch's exporter makes of an architecture, traced once for all tests: each tiny model takes it four seconds.

`quick.py` puts `traced` in the place of the function that calls the exporter. It has a model traced whose every weight
is a number of its own, finds these in the graph, and from then on puts the weights of any model of the architecture
there. If something were wrong with such a graph, `export` would notice: it compares its logits with torch's, as ever.
"""

import functools
import hashlib
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import onnx
import torch
from filelock import FileLock
from numpy.typing import NDArray
from onnx import numpy_helper
from transformers import PreTrainedModel

from tinydistilbert.export.to_onnx import _traced as traced_by_torch

FOLDER = "TINYDISTILBERT_TESTS_TRACED"
"""Variable with the folder in which the processes of the tests share what they have traced; it may be missing."""
FIRST = 1000.5
"""The first weight; the next ones are 1001.5, 1002.5, … No constant of a graph is among them."""
MOST_WEIGHTS = 4_000_000
"""So many such numbers float32 can tell apart."""
NAMES = ("_name_or_path", "id2label", "label2id", "transformers_version")
"""In a configuration, what no graph depends on."""
Graph = dict[str, NDArray[Any]]
"""The protocol buffer as bytes, and for each initializer with weights in it where they are among all weights."""
_known: dict[str, Graph] = {}


def traced(folder: Path, model: PreTrainedModel, head: Any, *, fused: bool) -> onnx.ModelProto:
    """As `to_onnx` has it."""
    weights = list(model.parameters())
    count = sum(weight.numel() for weight in weights)
    if count > MOST_WEIGHTS or any(weight.dtype != torch.float32 for weight in weights):
        return traced_by_torch(folder, model, head, fused=fused)
    values = torch.cat([weight.detach().flatten() for weight in weights]).numpy()
    key = _architecture(model, head, fused=fused)
    if key not in _known:
        if shared := os.environ.get(FOLDER):
            path = Path(shared) / f"{key}.npz"
            with FileLock(f"{path}.lock"):
                if not path.exists():
                    np.savez(path, **_traced_anew(folder, model, head, fused=fused))
            with np.load(path) as stored:
                _known[key] = dict(stored)
        else:
            _known[key] = _traced_anew(folder, model, head, fused=fused)
    graph = _known[key]
    proto = onnx.ModelProto.FromString(graph["proto"].tobytes())
    for initializer in proto.graph.initializer:
        if (places := graph.get(initializer.name)) is not None:
            initializer.CopyFrom(numpy_helper.from_array(values[places], initializer.name))
    return proto


def _architecture(model: PreTrainedModel, head: str, *, fused: bool) -> str:
    """A hash of all that the exporter sees, but for the weights."""
    config = {name: value for name, value in model.config.to_dict().items() if name not in NAMES}
    tied: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(weight), []).append(name)
    shapes = [(tied[id(weight)], list(weight.shape)) for weight in model.parameters()]
    buffers = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in model.named_buffers()}
    return hashlib.sha256(json.dumps([head, fused, config, shapes, buffers, repr(model)]).encode()).hexdigest()


@functools.cache
def _registry() -> tuple[Any, Any]:
    """The exporter's list of what becomes of each operator, and its maker that makes it once.

    The exporter makes it for every model, a third of the time that a tiny one takes.
    """
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # imports for half a second

    return ONNXRegistry, staticmethod(functools.cache(ONNXRegistry.from_torchlib))


@torch.no_grad()
def _traced_anew(folder: Path, model: PreTrainedModel, head: Any, *, fused: bool) -> Graph:
    """Trace the model, and find its weights in the graph; it is then fused, as the exporter leaves it."""
    weights = list(model.parameters())
    before, first = [weight.clone() for weight in weights], 0
    for weight in weights:
        weight.copy_(FIRST + torch.arange(first, first + weight.numel(), dtype=torch.float32).view(weight.shape))
        first += weight.numel()
    try:
        registry, made_once = _registry()
        with patch.object(registry, "from_torchlib", made_once):
            proto = traced_by_torch(folder, model, head, fused=fused)
    finally:
        for weight, old in zip(weights, before, strict=True):
            weight.copy_(old)
    graph: Graph = {"proto": np.frombuffer(proto.SerializeToString(), np.uint8)}
    for initializer in proto.graph.initializer:
        found = numpy_helper.to_array(initializer)
        places = found - FIRST
        is_weight = (found.dtype == np.float32) & (places >= 0) & (places < first) & (places == np.round(places))
        if is_weight.all():
            graph[initializer.name] = places.astype(np.int32)
        else:
            assert not is_weight.any(), f"{initializer.name}: weights and other numbers in one"
    return graph
