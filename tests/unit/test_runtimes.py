"""Torch and ONNX Runtime called alike: the same logits, the same scores, the same refusals."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from tests import tiny
from tests.shapes import unchecked
from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.errors import UserError
from tinydistilbert.models import runtimes
from tinydistilbert.models.loading import load_model
from tinydistilbert.models.runtimes import EARLIER_FILE, MODEL_FILE, ModelInputs, OnnxRuntime, OpenVinoRuntime
from tinydistilbert.models.torch_runtime import TorchRuntime
from tinydistilbert.tasks.encoding import Features
from tinydistilbert.tasks.inference import predict

pytestmark = pytest.mark.long

Maker = Callable[[str, str], Path]


def inputs(batch: int, length: int, **more: int) -> ModelInputs:
    ids = np.random.default_rng(0).integers(5, 232, (batch, length))
    mask = np.ones_like(ids)
    mask[-1, (length + 1) // 2 :] = 0
    return {
        "input_ids": ids,
        "attention_mask": mask,
        **{name: np.full_like(ids, value) for name, value in more.items()},
    }


@pytest.mark.parametrize(("head", "shape"), [("classification", (3, 3)), ("span", (3, 9, 2))])
def test_torch_and_onnx_give_the_same_arrays(
    head: str, shape: tuple[int, ...], task_model: Maker, exported: Maker
) -> None:
    model = load_model(task_model("bert", head), head).train()
    in_torch = TorchRuntime(model, span=head == "span")
    in_onnx = OnnxRuntime(exported("bert", head), threads=1)
    assert (in_torch.name, in_onnx.name, in_torch.token_types, in_onnx.token_types) == ("torch", "onnx", True, True)
    given = inputs(3, 9, token_type_ids=1)
    assert in_torch(given).dtype == in_onnx(given).dtype == np.float32 and in_torch(given).shape == shape
    np.testing.assert_allclose(in_torch(given), in_onnx(given), atol=1e-4)


@pytest.mark.parametrize(("asked", "usable", "threads"), [(0, 2, 2), (3, 2, 3), (0, 8, 0)])
def test_a_part_of_the_machine_gets_no_more_threads_than_cores(
    asked: int, usable: int, threads: int, exported: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    import onnxruntime as ort

    begun: list[int] = []
    session = ort.InferenceSession

    def begin(file: str, options: ort.SessionOptions, **more: object) -> ort.InferenceSession:
        begun.append(options.intra_op_num_threads)
        options.intra_op_num_threads = 1
        return session(file, options, **more)

    monkeypatch.setattr(ort, "InferenceSession", begin)
    monkeypatch.setattr(runtimes, "usable_cores", lambda: usable)
    monkeypatch.setattr(runtimes.os, "cpu_count", lambda: 8)
    OnnxRuntime(exported("bert", "classification"), threads=asked)
    assert begun == [threads]


def test_the_model_is_as_it_was_after_a_call(task_model: Maker) -> None:
    model = load_model(task_model("bert", "classification"), "classification")
    given = inputs(2, 5)
    before = model(**{name: torch.from_numpy(array) for name, array in given.items()}, output_hidden_states=True)
    TorchRuntime(model, span=False)(given)
    after = model(**{name: torch.from_numpy(array) for name, array in given.items()}, output_hidden_states=True)
    assert before.hidden_states[-1].shape == after.hidden_states[-1].shape == (2, 5, 32)


def test_an_exported_model_is_predicted_by_the_code_that_predicts_torchs(task_model: Maker, exported: Maker) -> None:
    generator = np.random.default_rng(1)
    ids = [generator.integers(5, 232, length) for length in generator.integers(1, 40, 30)]
    features = Features(ids, [np.zeros_like(row) for row in ids], np.zeros(30, int), np.arange(30))
    model = load_model(task_model("distilbert", "classification"), "classification")
    expected = predict(model, features, pad_token_id=0, token_budget=100)
    logits = predict(OnnxRuntime(exported("distilbert", "classification")), features, pad_token_id=0, token_budget=1)
    assert isinstance(logits, np.ndarray) and logits.shape == (30, 3)
    np.testing.assert_allclose(logits, expected, atol=1e-4)


def test_inputs_beyond_the_position_table_are_refused(exported: Maker) -> None:
    model = tiny.model(head="classification", max_position_embeddings=8)
    runtime = TorchRuntime(model, span=False)
    assert runtime(inputs(1, 8)).shape == (1, 2)
    with pytest.raises(UserError, match="at most the 8 tokens of the model's position embeddings, found 9"):
        runtime(inputs(1, 9))
    with pytest.raises(UserError, match="at most the 512 tokens of the model's position embeddings, found 513"):
        OnnxRuntime(exported("distilbert", "classification"))(inputs(1, 513))


def test_a_file_alone_is_enough_and_a_wrong_one_is_told(exported: Maker, tmp_path: Path) -> None:
    folder = exported("distilbert", "classification")
    content, alone = (folder / MODEL_FILE).read_bytes(), tmp_path / EARLIER_FILE
    alone.write_bytes(content)
    given = inputs(2, 6)
    assert_equal_up_to_rounding(OnnxRuntime(alone)(given), OnnxRuntime(folder)(given))
    alone.write_bytes(content[:1000])
    with pytest.raises(UserError, match="a model that ONNX Runtime reads"):
        OnnxRuntime(tmp_path)
    with pytest.raises(UserError, match=f"a folder with {MODEL_FILE}, found none"):
        OnnxRuntime(tmp_path / "nowhere")


@pytest.mark.parametrize(("runtime", "module", "extra"), [
    (OnnxRuntime, "onnxruntime", "run"), (OpenVinoRuntime, "openvino", "openvino"),
])  # fmt: skip
def test_a_missing_extra_is_named(
    runtime: type, module: str, extra: str, exported: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=rf"pip install 'tinydistilbert\[{extra}\]'"):
        runtime(exported("distilbert", "classification"))


def test_openvino_gives_the_same_logits_and_says_what_it_cannot_read(
    exported: Maker, plain: Path, tmp_path: Path
) -> None:
    pytest.importorskip("openvino")
    given = inputs(3, 9)
    expected = OnnxRuntime(exported("distilbert", "classification"))(given)
    for folder in (plain, exported("distilbert", "classification")):
        np.testing.assert_allclose(OpenVinoRuntime(folder, threads=1)(given), expected, atol=1e-4)
    made = onnx.load(plain / MODEL_FILE)
    next(node for node in made.graph.node if node.op_type == "Gelu").domain = "somebody.else"
    made.opset_import.append(onnx.helper.make_opsetid("somebody.else", 1))
    onnx.save(made, tmp_path / EARLIER_FILE)
    with pytest.raises(UserError, match="a model that OpenVINO reads"):
        OpenVinoRuntime(tmp_path)


def test_the_graph_says_its_inputs_and_outputs_by_name(exported: Maker) -> None:
    graph = onnx.load(exported("bert", "span") / MODEL_FILE).graph
    assert [item.name for item in graph.input] == ["input_ids", "attention_mask", "token_type_ids"]
    assert [item.name for item in graph.output] == ["start_logits", "end_logits"]
    assert [[d.dim_param for d in item.type.tensor_type.shape.dim] for item in graph.input] == [["batch", "length"]] * 3


@pytest.mark.slow
def test_compiled_torch_gives_the_same_logits_at_every_shape(task_model: Maker) -> None:
    model = load_model(task_model("distilbert", "classification"), "classification")
    shapes = [(1, 7), (3, 12), (1, 30)]
    expected = [TorchRuntime(model, span=False)(inputs(*shape)) for shape in shapes]
    compiled = TorchRuntime(model, span=False, compiled=True)
    assert compiled.name == "torch-compile"
    for shape, logits in zip(shapes, expected, strict=True):
        with unchecked():
            np.testing.assert_allclose(compiled(inputs(*shape)), logits, atol=1e-4)


@pytest.mark.long
@pytest.mark.parametrize("version", ["1.20.1", "1.19.2", "1.9.0"])
def test_a_version_that_reads_padding_is_refused_where_the_export_has_its_attention(
    version: str, exported: Maker, plain: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = exported("distilbert", "classification")
    for fits in ("1.21.0", "1.32.0", "2.0"):
        monkeypatch.setattr("onnxruntime.__version__", fits)
        assert OnnxRuntime(folder)
    monkeypatch.setattr("onnxruntime.__version__", version)
    with pytest.raises(UserError, match=f"onnxruntime {version} attends to the padding.*onnxruntime>=1.21.*--plain"):
        OnnxRuntime(folder)
    assert OnnxRuntime(plain), "standard operators are right in all"
