"""What torch's exporter makes of an architecture, traced once for all tests: each tiny model takes it two seconds.

`quick.py` puts `traced` in the place of the function that calls the exporter. It has a model traced whose every weight
is a number of its own, finds these in the graph, and from then on puts the weights of any model of the architecture
there, also of one with another vocabulary, other classes, or heads and neurons pruned. If something were wrong with
such a graph, `export` would notice: it compares its logits with torch's, as ever.
"""

import functools
import hashlib
import json
import os
from contextlib import ExitStack, nullcontext
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
from tinydistilbert.models.pruned import parts_of

FOLDER = "TINYDISTILBERT_TESTS_TRACED"
"""Variable with the folder in which the processes of the tests share what they have traced; it may be missing."""
FIRST = 1000.5
"""The first weight; the next ones are 1001.5, 1002.5, … No constant of a graph is among them."""
MOST_WEIGHTS = 4_000_000
"""So many such numbers float32 can tell apart."""
NAMES = (
    "_name_or_path", "architectures", "attention_dropout", "attention_probs_dropout_prob", "classifier_dropout",
    "dropout", "dtype", "hidden_dropout_prob", "id2label", "initializer_range", "label2id", "label_thresholds",
    "problem_type", "qa_dropout", "seq_classif_dropout", "transformers_version",
)  # fmt: skip
"""In a configuration, what no graph depends on."""
SIZES = ("hidden_dim", "intermediate_size", "pruned", "vocab_size")
"""What a graph depends on by the shapes of its weights alone; with the classes' names, how many there are."""
SOURCES = "sources"
Graph = dict[str, NDArray[Any]]
"""The protocol buffer as bytes, and where the weights of its initializers come from: in `SOURCES`, as JSON, by their
names whether they are transposed and the model's weights that follow each other in them; of others, under their names,
the places among all weights."""
_known: dict[str, Graph] = {}


def traced(folder: Path, model: PreTrainedModel, head: Any, *, fused: bool) -> onnx.ModelProto:
    """As `to_onnx` has it."""
    weights = dict(model.named_parameters())
    count = sum(weight.numel() for weight in weights.values())
    if count > MOST_WEIGHTS or any(weight.dtype != torch.float32 for weight in weights.values()):
        return traced_by_torch(folder, model, head, fused=fused)
    arrays = {name: weight.detach().numpy() for name, weight in weights.items()}
    heads = [layer.heads for layer in parts_of(model)] if fused else []
    keys = [_architecture(model, head, fused=fused, sized=sized) for sized in (False, True)]
    known = next((key for key in keys if key in _known), None)
    if known is None:
        known = _read_or_traced(keys, folder, model, head, fused=fused)
    outputs = model.config.vocab_size if head == "masked-lm" else model.config.num_labels
    return _with_weights(_known[known], arrays, heads, outputs)


def _read_or_traced(keys: list[str], folder: Path, model: PreTrainedModel, head: Any, *, fused: bool) -> str:
    """The key, of any sizes or of these, under which the graph is known from now on."""
    shared = os.environ.get(FOLDER)
    with FileLock(Path(shared) / f"{keys[0]}.lock") if shared else nullcontext():
        paths = {key: Path(shared) / f"{key}.npz" for key in keys} if shared else {}
        for key, path in paths.items():
            if path.exists():
                with np.load(path) as stored:
                    _known[key] = dict(stored)
                return key
        graph = _traced_anew(folder, model, head, fused=fused)
        key = keys[len(graph) > 2]
        _known[key] = graph
        if paths:
            partial = paths[key].with_suffix(".partial.npz")
            np.savez(partial, **graph)
            partial.replace(paths[key])  # a run of the tests may be ended at any time, and a later one reads it
        return key


def _with_weights(graph: Graph, weights: dict[str, NDArray[Any]], heads: list[int], outputs: int) -> onnx.ModelProto:
    """The graph of a model with these weights, so many heads in each layer, and so many outputs."""
    proto: onnx.ModelProto = onnx.ModelProto.FromString(graph["proto"].tobytes())
    sources, is_other = json.loads(graph[SOURCES].tobytes()), False
    everything = np.concatenate([weight.ravel() for weight in weights.values()]) if len(graph) > 2 else None
    for initializer in proto.graph.initializer:
        if (source := sources.get(initializer.name)) is not None:
            is_transposed, names = source
            values = np.concatenate([weights[name] for name in names])
            values = values.T if is_transposed else values
            is_other |= list(values.shape) != list(initializer.dims)
            initializer.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), initializer.name))
        elif (indices := graph.get(initializer.name)) is not None and everything is not None:
            initializer.CopyFrom(numpy_helper.from_array(everything[indices], initializer.name))
    if is_other:  # of the exporter's notes on shapes, keep those that hold for this model too
        hidden = _hidden_states(proto.graph)
        notes = [note for note in proto.graph.value_info if note.name in hidden]
        del proto.graph.value_info[:]
        proto.graph.value_info.extend(notes)
        for output in proto.graph.output:
            last = output.type.tensor_type.shape.dim[-1]
            if last.dim_value:
                last.dim_value = outputs
    of_heads = [a for node in proto.graph.node for a in node.attribute if a.name == "num_heads"]
    for attribute, count in zip(of_heads, heads, strict=True):
        attribute.i = count
    return proto


def _hidden_states(graph: onnx.GraphProto) -> set[str]:
    """What normalisations read, what is added up for them, and what they give: as wide in every model of the tests.

    ONNX Runtime does not find where it could join the sum with the normalisation unless it knows these shapes.
    """
    inputs = {name: [*node.input] for node in graph.node if node.op_type == "Add" for name in node.output}
    hidden: set[str] = set()
    for node in graph.node:
        if node.op_type == "LayerNormalization":
            terms = inputs.get(node.input[0], [])
            hidden |= {
                node.output[0],
                node.input[0],
                *terms,
                *(name for term in terms for name in inputs.get(term, [])),
            }
    return hidden


def _architecture(model: PreTrainedModel, head: str, *, fused: bool, sized: bool) -> str:
    """A hash of all that the exporter sees, but for the weights, and with `sized` of their shapes too."""
    left_out = NAMES if sized else NAMES + SIZES
    config = {name: value for name, value in model.config.to_dict().items() if name not in left_out}
    tied: dict[int, list[str]] = {}
    for name, weight in model.named_parameters(remove_duplicate=False):
        tied.setdefault(id(weight), []).append(name)
    buffers = {name: hashlib.sha256(value.numpy().tobytes()).hexdigest() for name, value in model.named_buffers()}
    modules = [(name, type(module).__qualname__) for name, module in model.named_modules()]
    shapes = [list(weight.shape) for weight in model.parameters()] if sized else []
    of_text = head not in ("span", "masked-lm", "token-classification")  # its classes, or a number
    seen = ["text" if of_text else head, fused, config, [*tied.values()], buffers, modules, shapes]
    return hashlib.sha256(json.dumps(seen).encode()).hexdigest()


@functools.cache
def _made_once() -> tuple[tuple[Any, str, Any], ...]:
    """Functions that the exporter calls for every model, by where they are, and such that do their work once.

    One makes its list of what becomes of each operator, a third of the time that a tiny model takes; one registers
    torch's composite operators.
    """
    from torch._export import utils
    from torch.onnx._internal.exporter._registration import ONNXRegistry  # imports for half a second

    return (
        (ONNXRegistry, "from_torchlib", staticmethod(functools.cache(ONNXRegistry.from_torchlib))),
        (utils, "_materialize_cpp_cia_ops", functools.cache(utils._materialize_cpp_cia_ops)),
    )


@torch.no_grad()
def _traced_anew(folder: Path, model: PreTrainedModel, head: Any, *, fused: bool) -> Graph:
    """Trace the model, and find its weights in the graph; it is then fused, as the exporter leaves it."""
    named = dict(model.named_parameters())
    firsts = np.cumsum([0, *(weight.numel() for weight in named.values())])
    every = {
        name: np.arange(first, first + weight.numel()).reshape(weight.shape)
        for (name, weight), first in zip(named.items(), firsts[:-1], strict=True)
    }
    before = {name: weight.clone() for name, weight in named.items()}
    for name, weight in named.items():
        weight.copy_(torch.from_numpy(every[name]) + FIRST)
    try:
        with ExitStack() as stack:
            for place in _made_once():
                stack.enter_context(patch.object(*place))
            proto = traced_by_torch(folder, model, head, fused=fused)
    finally:
        for name, weight in named.items():
            weight.copy_(before[name])
    graph: Graph = {"proto": np.frombuffer(proto.SerializeToString(), np.uint8)}
    sources: dict[str, tuple[bool, list[str]]] = {}
    for initializer in proto.graph.initializer:
        values = numpy_helper.to_array(initializer)
        indices = values - FIRST
        is_weight = (
            (values.dtype == np.float32) & (indices >= 0) & (indices < firsts[-1]) & (indices == np.round(indices))
        )
        if not is_weight.all():
            assert not is_weight.any(), f"{initializer.name}: weights and other numbers in one"
        elif (source := _source(indices, every, firsts)) is not None:
            sources[initializer.name] = source
        else:
            graph[initializer.name] = indices.astype(np.int32)
    return graph | {SOURCES: np.frombuffer(json.dumps(sources).encode(), np.uint8)}


def _source(
    indices: NDArray[Any], every: dict[str, NDArray[Any]], firsts: NDArray[Any]
) -> tuple[bool, list[str]] | None:
    """Whether it is transposed, and the model's weights that follow each other there; None where it is anything else.

    Args:
        indices: of an initializer, among all weights.
        every: those of each weight of the model.
        firsts: the first of each, and behind them how many there are.
    """
    names = [*every]
    for is_transposed, whole in ((False, indices), (True, indices.T)):
        flat, parts, at = whole.ravel(), list[str](), 0
        while at < len(flat):  # a weight begins where the one before it ends
            parts.append(names[int(np.searchsorted(firsts, flat[at], "right")) - 1])
            at += every[parts[-1]].size
        ranks = {every[name].ndim for name in parts}
        if at == len(flat) and len(ranks) == 1 and np.array_equal(np.concatenate([every[n] for n in parts]), whole):
            return is_transposed, parts
    return None
