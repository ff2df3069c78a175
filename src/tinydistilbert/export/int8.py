"""Matrices and embedding tables of an ONNX graph in 8 bits, multiplied by ONNX Runtime's integer operators for CPUs.

A weight w becomes scale · q with q a signed byte; an input of a matrix becomes an unsigned byte with a zero point, by
the range of each token (dynamic) or a fixed range (static). Softmax, normalisation and GELU stay in float32. Why this
does not use ONNX Runtime's tool: docs/decisions/0017-int8.md; why each token has its own range:
docs/decisions/0022-int8-alone-and-together.md.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.models.runtimes import ModelInputs, threads_of
from tinydistilbert.optional import require

Ranges = Mapping[str, tuple[float, float]]
"""Minimum and maximum of each matrix input."""

EMBEDDINGS, HEAD = "embeddings", "head"
LIMIT, REDUCED_LIMIT = 127, 64
"""Largest |q|. With the reduced limit, a sum of two products, at most 2 · 255 · 64, fits into AVX2's 16 bits."""
SMALLEST_SCALE = 1e-12
"""The scale of a weight or an input whose values are all zero."""
_MICROSOFT, _PRODUCT = "com.microsoft", "MatMulIntegerToFloat"
_LAST_AXIS, _TOKEN_SCALE, _TOKEN_ZERO = "last_axis", "token.scale", "token.zero"
_CONSTANTS: dict[str, NDArray[Any]] = {
    _LAST_AXIS: np.array([-1], dtype=np.int64), _TOKEN_SCALE: np.array(1 / 127, dtype=np.float32),
    _TOKEN_ZERO: np.array(128, dtype=np.uint8),
}  # fmt: skip
"""For dynamic ranges: a token's values, divided by the largest of them, become bytes from 1 to 255."""
_LAYER = re.compile(r"\blayers?\.(\d+)\.(\w+)")
_FEED_FORWARD = ("intermediate", "output", "ffn", "mlp")
"""Module names in the second half of a layer in BERT, DistilBERT and ModernBERT."""


def layers(model: Any) -> tuple[str, ...]:
    """Return the parts of the graph that can stay in float, in order: `embeddings`, `layer.0.attention`, …, `head`."""
    graph = _Graph(model)
    return tuple(dict.fromkeys(graph.layer(node) for node in model.graph.node if graph.is_quantizable(node)))


def input_ranges(model: Any, calibration: Iterable[ModelInputs], *, threads: int = 0) -> dict[str, tuple[float, float]]:
    """Return the range of every matrix input over all calibration inputs; empty if there are none."""
    onnx, ort = require("onnx", extra="onnx"), require("onnxruntime", extra="onnx")
    graph = _Graph(model)
    names = [*dict.fromkeys(node.input[0] for node in model.graph.node if graph.matrix(node) is not None)]
    open_model = onnx.ModelProto()
    open_model.CopyFrom(model)
    del open_model.graph.output[:]
    open_model.graph.output.extend(onnx.helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in names)
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads_of(threads)
    session = ort.InferenceSession(open_model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    inputs = [item.name for item in session.get_inputs()]
    ranges: dict[str, tuple[float, float]] = {}
    for batch in calibration:
        outputs = session.run(names, {name: batch[name] for name in inputs})
        for name, values in zip(names, outputs, strict=True):
            low, high = ranges.get(name, (0.0, 0.0))  # include zero, which must be exactly representable
            ranges[name] = min(low, float(values.min())), max(high, float(values.max()))
    return ranges


def to_int8(
    model: Any, *, ranges: Ranges | None, per_channel: bool, reduce_range: bool, embeddings: bool,
    keep_float: Collection[str],
) -> None:  # fmt: skip
    """Rewrite the graph in place.

    Args:
        model: an `onnx.ModelProto` in float32.
        ranges: ranges of matrix inputs, from `input_ranges`; None = measured for each token at run time.
        per_channel: one scale per column of a matrix instead of one for all. Tables always have one per row.
        reduce_range: q of matrices within ±64 instead of ±127.
        embeddings: also quantize embedding tables.
        keep_float: layers that stay in float, named as in `layers`.
    """
    kept = {*keep_float, *(() if embeddings else (EMBEDDINGS,))}
    _Graph(model).rewrite(_Settings(ranges, per_channel, REDUCED_LIMIT if reduce_range else LIMIT, frozenset(kept)))


class _Settings:
    def __init__(self, ranges: Ranges | None, per_channel: bool, limit: int, kept: frozenset[str]) -> None:
        self.ranges, self.per_channel, self.limit, self.kept = ranges, per_channel, limit, kept


class _Graph:
    """A graph to rewrite node by node."""

    def __init__(self, model: Any) -> None:
        self.onnx = require("onnx", extra="onnx")
        self.model, self.graph = model, model.graph
        self.weights = {item.name: item for item in self.graph.initializer}
        self.made_by = {name: node for node in self.graph.node for name in node.output}
        self.tables = {node.input[0] for node in self.graph.node if self.is_table(node)}
        self.nodes: list[Any] = []
        self.new: dict[str, NDArray[Any]] = {}
        self.quantized: set[str] = set()

    def is_table(self, node: Any) -> bool:
        """Whether the node reads rows of an embedding table: by id, or as a slice, as for positions."""
        if node.op_type == "Gather":
            return self._is_matrix(node.input[0]) and self._attributes(node).get("axis", 0) == 0
        if node.op_type != "Slice" or not self._is_matrix(node.input[0]):
            return False
        axes = self.weights.get(node.input[3]) if len(node.input) > 3 else None
        return axes is not None and self.onnx.numpy_helper.to_array(axes).tolist() == [0]

    def matrix(self, node: Any) -> tuple[str, bool] | None:
        """Return the weight of a linear layer, and whether it is stored transposed; None for other nodes."""
        settings = self._attributes(node)
        if node.op_type == "Gemm":
            plain = settings.get("alpha", 1.0) == settings.get("beta", 1.0) == 1.0 and not settings.get("transA", 0)
            fits = len(node.input) == 2 or (
                node.input[2] in self.weights and len(self.weights[node.input[2]].dims) == 1
            )
            if plain and fits and self._is_matrix(node.input[1]):
                return node.input[1], bool(settings.get("transB", 0))
        elif node.op_type == "MatMul":
            if self._is_matrix(node.input[1]):
                return node.input[1], False
            source = self.made_by.get(node.input[1])
            if source is not None and source.op_type == "Transpose" and self._is_matrix(source.input[0]):
                return source.input[0], True
        return None

    def is_quantizable(self, node: Any) -> bool:
        """Whether `rewrite` can quantize the node."""
        return self.is_table(node) or self.matrix(node) is not None

    def layer(self, node: Any) -> str:
        """Return the layer of a quantizable node, from its name, which is its module's name.

        A matrix tied to the word embeddings, as in masked-LM heads, belongs to the embeddings.
        """
        matrix = self.matrix(node)
        if self.is_table(node) or (matrix is not None and matrix[0] in self.tables):
            return EMBEDDINGS
        match = _LAYER.search(node.name)
        if match is None:
            return HEAD
        return f"layer.{match[1]}.{'ffn' if match[2] in _FEED_FORWARD else 'attention'}"

    def rewrite(self, settings: _Settings) -> None:
        """Replace every quantizable node that is not kept in float; delete nodes and weights that become unused."""
        for node in list(self.graph.node):
            if not self.is_quantizable(node) or self.layer(node) in settings.kept:
                self.nodes.append(node)
            elif self.is_table(node):
                self._replace_table(node, settings)
            else:
                self._replace_matrix(node, settings)
        del self.graph.node[:]
        self.graph.node.extend(self._used(self.nodes))
        read = {name for node in self.graph.node for name in node.input}
        left = [item for item in self.graph.initializer if item.name in read]
        del self.graph.initializer[:]
        self.graph.initializer.extend(left)
        self.graph.initializer.extend(
            self.onnx.numpy_helper.from_array(value, name) for name, value in self.new.items()
        )
        if not any(item.domain == _MICROSOFT for item in self.model.opset_import):
            self.model.opset_import.append(self.onnx.helper.make_opsetid(_MICROSOFT, 1))

    def _used(self, nodes: list[Any]) -> list[Any]:
        """Return the nodes whose outputs are read; drops, for example, the transposition of a replaced matrix."""
        read, used = {item.name for item in self.graph.output}, []
        for node in reversed(nodes):
            if read.intersection(node.output):
                used.append(node)
                read.update(node.input)
        return used[::-1]

    def _replace_table(self, node: Any, settings: _Settings) -> None:
        """Read the same rows of the bytes and of their scales, and multiply them."""
        rows, scales = self._bytes_of_table(node.input[0], settings)
        output = node.output[0]
        for source, result in ((rows, f"{output}.bytes"), (scales, f"{output}.scales")):
            self._add(node.op_type, [source, *node.input[1:]], [result], like=node)
        self._add("Cast", [f"{output}.bytes"], [f"{output}.floats"], to=self.onnx.TensorProto.FLOAT)
        self._add("Mul", [f"{output}.floats", f"{output}.scales"], [output])

    def _replace_matrix(self, node: Any, settings: _Settings) -> None:
        matrix = self.matrix(node)
        assert matrix is not None, "the node is a linear layer"
        name, transposed = matrix
        if name in self.tables:
            weight, scale = self._columns_of_table(name, settings)
        else:
            weight, scale = self._bytes_of_matrix(name, transposed, settings)
        bias, output = node.input[2:], node.output[0]  # the bias of a Gemm
        if settings.ranges is not None:
            value, value_scale, zero = self._bytes_of_input(node.input[0], settings.ranges)
            inputs = [value, weight, value_scale, scale, zero]
            # The bias follows the zero point of the weights, which is omitted (zero).
            self._add(_PRODUCT, [*inputs, *(["", *bias] if bias else [])], [output], domain=_MICROSOFT)
            return
        value, largest = self._bytes_of_tokens(node.input[0])
        product, scaled = f"{output}.product", f"{output}.scaled" if bias else output
        inputs = [value, weight, self._constant(_TOKEN_SCALE), scale, self._constant(_TOKEN_ZERO)]
        self._add(_PRODUCT, inputs, [product], domain=_MICROSOFT)
        self._add("Mul", [product, largest], [scaled])
        if bias:
            self._add("Add", [scaled, *bias], [output])

    def _bytes_of_matrix(self, name: str, transposed: bool, settings: _Settings) -> tuple[str, str]:
        """Return the names of the bytes (inputs, outputs) and of their scale, or of the scales of the outputs."""
        names = f"{name}.bytes", f"{name}.scale"
        if names[0] not in self.new:
            values = self._values(name)
            values = values.T if transposed else values
            largest = np.abs(values).max(axis=0 if settings.per_channel else None)
            self.new[names[0]], self.new[names[1]] = _bytes(values, largest, settings.limit)
        return names

    def _bytes_of_table(self, name: str, settings: _Settings) -> tuple[str, str]:
        """Return the names of the bytes (rows, hidden) and of their scales (rows, 1)."""
        names = f"{name}.bytes", f"{name}.scale"
        if names[0] not in self.new:
            values = self._values(name)
            limit = settings.limit if self._is_tied(name) else LIMIT  # only products can overflow
            self.new[names[0]], self.new[names[1]] = _bytes(values, np.abs(values).max(axis=1, keepdims=True), limit)
        return names

    def _columns_of_table(self, name: str, settings: _Settings) -> tuple[str, str]:
        """Return the names of the table as a matrix (hidden, rows), transposed at loading, and of its scales."""
        rows, scales = self._bytes_of_table(name, settings)
        names = f"{name}.columns", f"{name}.column_scale"
        if names[1] not in self.new:
            self.new[names[1]] = self.new[scales].ravel()
            self._add("Transpose", [rows], [names[0]], perm=[1, 0])
        return names

    def _bytes_of_input(self, name: str, ranges: Ranges) -> tuple[str, str, str]:
        """Return the names of the input's bytes, scale and zero point, shared by all matrices that read it."""
        names = f"{name}.bytes", f"{name}.scale", f"{name}.zero"
        if name not in self.quantized:
            low, high = ranges[name]
            scale = max((high - low) / 255, SMALLEST_SCALE)
            self.new[names[1]] = np.array(scale, dtype=np.float32)
            self.new[names[2]] = np.array(round(-low / scale), dtype=np.uint8)
            self._add("QuantizeLinear", [name, *names[1:]], [names[0]])
            self.quantized.add(name)
        return names

    def _bytes_of_tokens(self, name: str) -> tuple[str, str]:
        """Return the names of the input's bytes, and of each row's largest absolute value, which scales the products.

        A row is a token. Its bytes depend only on itself: ONNX Runtime's DynamicQuantizeLinear would use one range for
        all tokens of a batch, so that a text's prediction would depend on its neighbours and on padding.
        """
        names = f"{name}.bytes", f"{name}.largest"
        if name not in self.quantized:
            sizes, shares = f"{name}.sizes", f"{name}.shares"
            self._add("Abs", [name], [sizes])
            self._add("ReduceMax", [sizes, self._constant(_LAST_AXIS)], [names[1]], keepdims=1)
            self._add("Div", [name, names[1]], [shares])  # 0 / 0 gives some byte, whose product is multiplied by 0
            self._add("QuantizeLinear", [shares, self._constant(_TOKEN_SCALE), self._constant(_TOKEN_ZERO)], [names[0]])
            self.quantized.add(name)
        return names

    def _constant(self, name: str) -> str:
        self.new[name] = _CONSTANTS[name]
        return name

    def _is_tied(self, name: str) -> bool:
        return any((self.matrix(node) or ("",))[0] == name for node in self.graph.node)

    def _is_matrix(self, name: str) -> bool:
        item = self.weights.get(name)
        return item is not None and len(item.dims) == 2 and item.data_type == self.onnx.TensorProto.FLOAT

    def _values(self, name: str) -> NDArray[np.float32]:
        values: NDArray[np.float32] = self.onnx.numpy_helper.to_array(self.weights[name])
        return values

    def _attributes(self, node: Any) -> dict[str, Any]:
        return {item.name: self.onnx.helper.get_attribute_value(item) for item in node.attribute}

    def _add(
        self, kind: str, inputs: list[str], outputs: list[str], *, like: Any = None, domain: str = "", **settings: Any
    ) -> None:
        """Append a node with the attributes of `like`."""
        node = self.onnx.helper.make_node(kind, inputs, outputs, name=outputs[0], domain=domain, **settings)
        if like is not None:
            node.attribute.extend(like.attribute)
        self.nodes.append(node)


def _bytes(
    values: NDArray[np.float32], largest: NDArray[np.float32], limit: int
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return the values as bytes within ±`limit`, and the scale or scales that multiply them."""
    scale = np.maximum(largest / limit, SMALLEST_SCALE).astype(np.float32)
    return np.ascontiguousarray(np.rint(values / scale).clip(-limit, limit).astype(np.int8)), scale
