"""int8: values worked out by hand on graphs of one matrix, laws on tiny exported models, ONNX Runtime's own tool."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from transformers import (
    PreTrainedTokenizerFast,
)

from tests import tiny
from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.errors import UserError
from tinydistilbert.export import int8 as integers
from tinydistilbert.export.quantize import export_int8, layer_names, quantize, sensitive_layers
from tinydistilbert.export.quiet import quietly
from tinydistilbert.export.to_onnx import export
from tinydistilbert.models.runtimes import EARLIER_FILE, INT8_FILE, MODEL_FILE, ModelInputs, OnnxRuntime, model_bytes
from tinydistilbert.storage import atomic

pytestmark = pytest.mark.long

WORDS = 2000
SETTINGS = {
    "vocab_size": WORDS, "hidden_size": 128, "num_attention_heads": 4, "max_position_embeddings": 64,
    "initializer_range": 0.1,
}  # fmt: skip
ALL = ("embeddings", "layer.0.attention", "layer.0.ffn", "layer.1.attention", "layer.1.ffn", "head")
SENSITIVE = "layer.1.ffn"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("quantize")


@pytest.fixture(scope="module")
def torch_folder(folder: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A BERT of two layers; the second's feed-forward part has huge weights, by which nothing is ever multiplied."""
    model = tiny.model(head="classification", num_labels=3, **SETTINGS, intermediate_size=512)
    layer = model.bert.encoder.layer[1]
    with torch.no_grad():
        norm = layer.attention.output.LayerNorm
        norm.weight[0], norm.bias[0] = 0.0, 0.0
        layer.intermediate.dense.weight[:, 0] = 1e4
    model.save_pretrained(folder / "torch")
    tokenizer.save_pretrained(folder / "torch")
    return folder / "torch"


@pytest.fixture(scope="module")
def fp32(folder: Path, torch_folder: Path) -> Path:
    export(torch_folder, folder / "fp32")
    return folder / "fp32"


@pytest.fixture(scope="module")
def int8(folder: Path, fp32: Path) -> Path:
    quantize(fp32, folder / "int8", keep_float=[SENSITIVE])
    return folder / "int8"


def some_inputs(count: int = 12, *, seed: int = 0, words: int = WORDS) -> list[ModelInputs]:
    generator = np.random.default_rng(seed)
    inputs = []
    for length in generator.integers(3, 40, count):
        ids = generator.integers(5, words, (1, length))
        types = (np.arange(length) >= length // 2).astype(np.int64)[None]
        inputs.append({"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": types})
    return inputs


def logits(folder: Path) -> NDArray[np.float32]:
    runtime = OnnxRuntime(folder, threads=1)
    return np.concatenate([np.ravel(runtime(one)) for one in some_inputs()])


def cosine(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))


def weights(model: onnx.ModelProto) -> dict[str, NDArray[Any]]:
    return {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}


def product(matrix: list[list[float]]) -> onnx.ModelProto:
    """The graph of `y = x @ matrix`."""
    values = np.array(matrix, dtype=np.float32)
    node = helper.make_node("MatMul", ["x", "w"], ["y"], name="encoder.layer.0.ffn.lin1.MatMul")
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, size])
            for name, size in zip("xy", values.shape, strict=True))  # fmt: skip
    graph = helper.make_graph([node], "g", [x], [y], [numpy_helper.from_array(values, "w")])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)


def rewritten(model: onnx.ModelProto, **settings: Any) -> onnx.ModelProto:
    defaults = {"ranges": None, "per_channel": True, "reduce_range": False, "embeddings": True, "keep_float": ()}
    integers.to_int8(model, **{**defaults, **settings})
    return model


def run(model: onnx.ModelProto, **inputs: NDArray[Any]) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, inputs)[0])


@pytest.mark.parametrize(
    ("per_channel", "reduce_range", "expected", "scale"),
    [
        (True, False, [[127, -32], [25, 127]], [1 / 127, 4 / 127]),
        (True, True, [[64, -16], [13, 64]], [1 / 64, 4 / 64]),
        (False, False, [[32, -32], [6, 127]], 4 / 127),
        (False, True, [[16, -16], [3, 64]], 4 / 64),
    ],
)
def test_the_bytes_of_a_matrix_are_those_worked_out_by_hand(
    per_channel: bool, reduce_range: bool, expected: list[list[int]], scale: list[float]
) -> None:
    model = rewritten(product([[1.0, -1.0], [0.2, 4.0]]), per_channel=per_channel, reduce_range=reduce_range)
    tensors = weights(model)
    assert tensors["w.bytes"].tolist() == expected
    np.testing.assert_allclose(tensors["w.scale"], scale, rtol=1e-6)
    constants = {"last_axis", "token.scale", "token.zero"}
    assert set(tensors) == {"w.bytes", "w.scale", *constants}  # the floats are gone


def test_an_exact_product_stays_exact() -> None:
    # Columns are multiples of their scale, and so are the inputs of theirs: 127 and -127 are the ends of the range.
    x = np.array([[127.0, 0.0], [-127.0, 1.0], [0.5, 0.5]], np.float32)
    matrix = np.array([[127.0, -2.0], [1.0, 254.0]])
    np.testing.assert_allclose(run(rewritten(product(matrix.tolist())), x=x), x @ matrix, rtol=1e-6)


def test_each_token_has_a_range_of_its_own() -> None:
    matrix, draw = np.array([[1.0, 0.0], [0.0, 1.0]]), np.random.default_rng(0)
    x = draw.normal(size=(50, 2)).astype(np.float32) * np.logspace(-30, 30, 50, dtype=np.float32)[:, None]
    model = rewritten(product(matrix.tolist()))
    outputs = run(model, x=x)
    steps = np.abs(x).max(1, keepdims=True) / 127
    np.testing.assert_allclose(outputs, np.rint(x / steps) * steps, atol=0, rtol=1e-5)
    for row, value in zip(x, outputs, strict=True):
        np.testing.assert_allclose(run(model, x=row[None])[0], value, rtol=1e-6)


@pytest.mark.parametrize("bias", [[0.0, 0.0], [0.5, -3.0]])
def test_a_token_of_zeros_gives_the_bias_and_one_that_overflowed_shows_it(bias: list[float]) -> None:
    model = product([[1.0, 2.0], [3.0, 4.0]])
    model.graph.node[0].op_type = "Gemm"
    model.graph.node[0].input.append("b")
    model.graph.initializer.append(numpy_helper.from_array(np.array(bias, np.float32), "b"))
    rows = [[0.0, 0.0], [1.0, 1.0], [np.inf, 1.0], [1.0, -np.inf], [np.nan, np.nan]]
    # In 7 bits: with 8 the sums of two products overflow where a processor has no VNNI.
    outputs = run(rewritten(model, reduce_range=True), x=np.array(rows, np.float32))
    assert outputs[0].tolist() == bias
    np.testing.assert_allclose(outputs[1], np.array([4.0, 6.0]) + bias, rtol=0.02)
    assert not np.isfinite(outputs[2:]).any()


def test_static_ranges_are_those_of_the_calibration_inputs_and_clip_what_lies_outside() -> None:
    matrix = [[1.0, 0.0], [0.0, 1.0]]

    def ranges(*rows: list[float]) -> dict[str, tuple[float, float]]:
        calibration: Any = [{"x": np.array([row], np.float32)} for row in rows]
        return integers.input_ranges(product(matrix), calibration)

    assert ranges([-1.0, 2.0], [0.5, 3.0]) == {"x": (-1.0, 3.0)}
    assert ranges([2.0, 5.0]) == {"x": (0.0, 5.0)}  # zero must have a byte of its own
    assert ranges() == {}
    model = rewritten(product(matrix), ranges={"x": (-1.0, 3.0)})
    assert weights(model)["x.scale"] == pytest.approx(4 / 255)
    assert weights(model)["x.zero"] == 64  # 1 / (4 / 255) = 63.75
    outputs = run(model, x=np.array([[100.0, -100.0]], np.float32))
    np.testing.assert_allclose(outputs, [[(255 - 64) * 4 / 255, -64 * 4 / 255]], rtol=1e-5)


def test_a_table_has_a_scale_for_each_row() -> None:
    table = np.array([[1.0, -0.5, 0.25], [1000.0, 20.0, 3.0], [0.0, 0.0, 0.0]], np.float32)
    node = helper.make_node("Gather", ["t", "i"], ["y"], name="embeddings.Gather")
    graph = helper.make_graph(
        [node], "g", [helper.make_tensor_value_info("i", TensorProto.INT64, [None])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])], [numpy_helper.from_array(table, "t")],
    )  # fmt: skip
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    outputs = run(rewritten(model), i=np.array([0, 1, 2, 0]))
    assert np.all(np.abs(outputs - table[[0, 1, 2, 0]]) <= np.abs(table).max(1)[[0, 1, 2, 0], None] / 254 * 1.0001)
    assert outputs[2].tolist() == [0.0, 0.0, 0.0]


def test_seven_bits_cannot_overflow_where_avx2_adds_two_products_and_eight_can() -> None:
    assert 2 * 255 * integers.REDUCED_LIMIT < 2**15 <= 2 * 255 * integers.LIMIT


def test_every_part_of_a_model_has_a_name(fp32: Path) -> None:
    assert layer_names(fp32) == ALL


def test_int8_is_close_to_float_and_a_quarter_of_its_size(fp32: Path, int8: Path) -> None:
    assert cosine(logits(fp32), logits(int8)) > 0.999
    quantize(fp32, int8.with_name("all"), embeddings=True)
    sizes = [model_bytes(folder) for folder in (int8.with_name("all"), fp32)]
    assert sizes[0] < 0.28 * sizes[1]


def test_the_folder_says_what_was_done_and_has_what_it_needs(fp32: Path, int8: Path) -> None:
    facts = atomic.read_json(int8 / "config.json")
    before = atomic.read_json(fp32 / "config.json")
    assert facts["id2label"] == before["id2label"]
    quantization = {
        "precision": "int8", "method": "dynamic", "per_channel": True, "reduce_range": True, "embeddings": True,
        "keep_float": [SENSITIVE], "ranges": "tokens",
    }  # fmt: skip
    assert facts["tinydistilbert"] == before["tinydistilbert"] | quantization
    assert {file.name for file in int8.iterdir()} == {file.name for file in fp32.iterdir()}
    atomic.read_manifest(int8)
    assert OnnxRuntime(int8).name == "onnx-int8"


def quantized_by_the_tool(fp32: Path, output: Path, *, keep_float: str = "") -> Path:
    """With one range for all tokens of a call, as our own models of version 0.1 had; in such a folder."""
    shutil.copytree(fp32, output)
    names = [node.name for node in onnx.load(str(fp32 / MODEL_FILE)).graph.node]
    kept = [name for name in names if keep_float and keep_float in name]
    with quietly():
        quantize_dynamic(
            fp32 / MODEL_FILE, output / EARLIER_FILE, op_types_to_quantize=["MatMul"], per_channel=True,
            reduce_range=True, nodes_to_exclude=kept, extra_options={"DefaultTensorType": TensorProto.FLOAT},
        )  # fmt: skip
    shutil.rmtree(output / "onnx")
    (output / "manifest.json").unlink()
    config = atomic.read_json(output / "config.json")
    config["tinydistilbert"] |= {"precision": "int8", "method": "dynamic"}
    atomic.write_json(output / "config.json", config)
    return output


def test_the_error_is_no_larger_than_that_of_onnx_runtimes_own_tool(fp32: Path, tmp_path: Path) -> None:
    tool = quantized_by_the_tool(fp32, tmp_path / "tool", keep_float="layer.1.intermediate")
    quantize(fp32, tmp_path / "ours", embeddings=False, keep_float=[SENSITIVE])
    tool_error, error = (np.abs(logits(folder) - logits(fp32)).mean() for folder in (tool, tmp_path / "ours"))
    assert 0 < error <= tool_error
    tool = quantized_by_the_tool(fp32, tmp_path / "all by the tool")
    quantize(fp32, tmp_path / "all", embeddings=False)
    tool_error, error = (np.abs(logits(folder) - logits(fp32)).mean() for folder in (tool, tmp_path / "all"))
    assert error == pytest.approx(tool_error, rel=0.1), "the tool loses as much by the sensitive layer"


def together(inputs: list[ModelInputs], padding: int) -> ModelInputs:
    """All inputs in one batch, and so many tokens of padding behind the longest."""
    longest = max(one["input_ids"].shape[1] for one in inputs) + padding
    return {
        name: np.concatenate([np.pad(one[name], ((0, 0), (0, longest - one[name].shape[1]))) for one in inputs])
        for name in inputs[0]
    }


def largest_difference(runtime: OnnxRuntime, inputs: list[ModelInputs], padding: int) -> float:
    """Between the answers to texts alone and in company, as a share of the largest logit."""
    alone = [runtime(one)[0] for one in inputs]
    company = runtime(together(inputs, padding))
    cut = [row[: len(one)] if one.ndim == 2 else row for one, row in zip(alone, company, strict=True)]
    largest = max(float(np.abs(one).max()) for one in alone)
    return max(float(np.abs(a - b).max()) for a, b in zip(alone, cut, strict=True)) / largest


@pytest.mark.parametrize("method", ["dynamic", "static"])
@pytest.mark.parametrize(
    ("family", "head"),
    [
        ("bert", "classification"), ("bert", "span"), ("bert", "masked-lm"), ("distilbert", "regression"),
        ("roberta", "classification"), ("xlm-roberta", "span"), ("modernbert", "classification"),
        ("electra", "span"), ("mpnet", "classification"),
    ],
)  # fmt: skip
def test_a_text_has_the_same_logits_alone_and_in_company(
    exported: Callable[[str, str], Path], tmp_path: Path, family: str, head: str, method: Any
) -> None:
    inputs = some_inputs(20, words=232)
    quantize(exported(family, head), tmp_path / "int8", method=method, calibration=inputs[:4])
    runtime = OnnxRuntime(tmp_path / "int8", threads=1)
    # Where rounding in another order moves a value over the edge of a byte, the difference is one step of 127.
    assert largest_difference(runtime, inputs, 0) < 5e-3
    assert largest_difference(runtime, inputs, 20) < 5e-3


def test_models_with_one_range_for_a_call_are_run_one_text_at_a_time(fp32: Path, tmp_path: Path) -> None:
    tool, inputs = quantized_by_the_tool(fp32, tmp_path / "tool"), some_inputs(20)
    assert largest_difference(OnnxRuntime(tool, threads=1), inputs, 20) == 0
    config = atomic.read_json(tool / "config.json")
    config["tinydistilbert"]["ranges"] = "tokens"  # which is not true
    atomic.write_json(tool / "config.json", config)
    assert largest_difference(OnnxRuntime(tool, threads=1), inputs, 20) > 1e-2


def test_one_text_at_a_time_keeps_the_form_of_a_batch_of_spans(
    exported: Callable[[str, str], Path], tmp_path: Path
) -> None:
    tool, inputs = quantized_by_the_tool(exported("bert", "span"), tmp_path / "tool"), some_inputs(5, words=232)
    batch = together(inputs, 3)
    outputs = OnnxRuntime(tool, threads=1)(batch)
    assert outputs.shape == (*batch["input_ids"].shape, 2) and not outputs[batch["attention_mask"] == 0].any()


def test_what_is_kept_in_float_is_exact(fp32: Path, tmp_path: Path) -> None:
    quantize(fp32, tmp_path / "all", keep_float=ALL)
    assert_equal_up_to_rounding(logits(tmp_path / "all"), logits(fp32))
    quantize(fp32, tmp_path / "but one", keep_float=ALL[1:])
    assert 0 < np.abs(logits(tmp_path / "but one") - logits(fp32)).max() < 0.2


def test_static_ranges_come_from_the_calibration_inputs(fp32: Path, tmp_path: Path) -> None:
    def scales(name: str, inputs: list[ModelInputs]) -> list[float]:
        quantize(fp32, tmp_path / name, method="static", keep_float=[SENSITIVE], calibration=inputs)
        tensors = weights(onnx.load(str(tmp_path / name / INT8_FILE)))
        return [float(tensors[key]) for key in sorted(tensors) if key.removesuffix(".zero") + ".zero" in tensors]

    one, other = scales("one", some_inputs(seed=1)), scales("other", some_inputs(1, seed=2))
    assert len(one) == len(other) > 0
    assert one != other
    assert cosine(logits(tmp_path / "one"), logits(fp32)) > 0.99


def test_the_layer_that_spoils_the_score_is_found(fp32: Path) -> None:
    reference = logits(fp32)
    asked: list[Path] = []

    def score(folder: Path) -> float:
        asked.append(folder)
        return cosine(logits(folder), reference)

    assert sensitive_layers(fp32, score=score, max_loss=1e-3) == (SENSITIVE,)
    assert len(asked) == 2 + len(ALL)  # float, all of int8, each alone
    asked.clear()
    assert sensitive_layers(fp32, score=score, max_loss=2.0) == ()
    assert len(asked) == 2


@pytest.mark.parametrize("bad", [0.0, float("nan")])
def test_where_nothing_helps_all_stays_in_float(fp32: Path, bad: float) -> None:
    names = sensitive_layers(fp32, score=lambda folder: 1.0 if folder == fp32 else bad, max_loss=0.1)
    assert names == ALL
    names = sensitive_layers(fp32, score=lambda folder: 1.0 if folder == fp32 else bad, max_loss=0.1, embeddings=False)
    assert names == ALL[1:]


def test_a_tied_embedding_is_stored_once(folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
    model = tiny.model("distilbert", num_hidden_layers=1, intermediate_size=256, **SETTINGS)
    model.save_pretrained(folder / "masked")
    tokenizer.save_pretrained(folder / "masked")
    export(folder / "masked", folder / "masked-fp32")
    quantize(folder / "masked-fp32", folder / "masked-int8")
    sizes = [model_bytes(folder / name) for name in ("masked-int8", "masked-fp32")]
    assert sizes[0] < 0.3 * sizes[1]
    assert cosine(logits(folder / "masked-fp32"), logits(folder / "masked-int8")) > 0.999
    quantize(folder / "masked-fp32", folder / "masked-tables", embeddings=False)
    tables = weights(onnx.load(str(folder / "masked-tables" / INT8_FILE)))
    assert [value.dtype for value in tables.values() if WORDS in value.shape and value.ndim == 2] == [np.float32]


def test_export_int8_is_export_and_quantize(fp32: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[Path, bool]] = []

    def copied(source: Path, output: Path, *, fused: bool) -> None:
        asked.append((source, fused))
        shutil.copytree(fp32, output)

    monkeypatch.setattr("tinydistilbert.export.quantize.export", copied)
    export_int8(tmp_path / "model", tmp_path / "both", fused=False)
    assert asked == [(tmp_path / "model", False)]
    quantize(fp32, tmp_path / "apart")
    assert atomic.read_manifest(tmp_path / "both")["files"] == atomic.read_manifest(tmp_path / "apart")["files"]


def _tampered(fp32: Path, int8: Path, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    copy = Path(shutil.copytree(fp32, tmp_path / "copy"))
    content = bytearray((copy / MODEL_FILE).read_bytes())
    content[-5] ^= 1
    (copy / MODEL_FILE).write_bytes(content)
    return copy, {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda fp32, int8, tmp: (fp32.with_name("torch"), {}), "onnx/model.onnx or config.json is missing"),
        (lambda fp32, int8, tmp: (tmp / "nothing", {}), "onnx/model.onnx or config.json is missing"),
        (lambda fp32, int8, tmp: (int8, {}), "found int8"),
        (_tampered, "found other content"),
        (lambda fp32, int8, tmp: (fp32, {"method": "static"}), "expected calibration inputs, found none"),
        (
            lambda fp32, int8, tmp: (fp32, {"keep_float": ["layer.9.ffn"]}),
            "one of embeddings, layer.0.attention",
        ),
    ],
)
def test_a_mistake_is_refused_and_nothing_is_written(
    wrong: Callable[..., tuple[Path, dict[str, Any]]], message: str, fp32: Path, int8: Path, tmp_path: Path
) -> None:
    source, settings = wrong(fp32, int8, tmp_path)
    with pytest.raises(UserError, match=message):
        quantize(source, tmp_path / "output", **settings)
    assert not any(path.name.startswith("output") for path in tmp_path.iterdir())


def test_a_folder_with_something_in_it_is_not_written_to(fp32: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="a new or empty folder"):
        quantize(fp32, tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["note.txt"]
