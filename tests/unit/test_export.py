"""Exported folders: the same logits as torch's for every head, run by others, and every mistake told in one line."""

import json
import logging
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from threading import Event, Thread
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import quantize_dynamic
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification
from transformers.utils.logging import get_verbosity, is_progress_bar_enabled

from tests import tiny, tracing
from tests.tiny import assert_equal_up_to_rounding
from tinydistilbert.errors import UserError
from tinydistilbert.export import to_onnx as exporting
from tinydistilbert.export.quiet import quietly
from tinydistilbert.export.to_onnx import export, to_half
from tinydistilbert.models import loading
from tinydistilbert.models.heads import head_of, parameter_count
from tinydistilbert.models.loading import load_config, load_model, save_model
from tinydistilbert.models.pruned import keep
from tinydistilbert.models.runtimes import ModelInputs, OnnxRuntime
from tinydistilbert.storage import atomic

pytestmark = pytest.mark.long

Maker = Callable[[str, str], Path]
SHAPES = [(1, 1), *((int(b), int(n)) for b, n in np.random.default_rng(0).integers([1, 1], [6, 60], (99, 2)))]
"""A hundred (batch, length), the smallest among them."""


def random_inputs(shape: tuple[int, int], *, token_types: bool, pad: int = 0) -> ModelInputs:
    """Tokens 5 to 231, about half of the rows with padding at their end."""
    generator = np.random.default_rng(shape[0] * 1000 + shape[1])
    ends = np.where(generator.random(shape[0]) < 0.5, shape[1], generator.integers(1, shape[1] + 1, shape[0]))[:, None]
    mask = (np.arange(shape[1]) < ends).astype(np.int64)
    inputs = {"input_ids": np.where(mask, generator.integers(5, 232, shape), pad), "attention_mask": mask}
    types = generator.integers(0, 2, shape) * mask
    return inputs | ({"token_type_ids": types} if token_types else {})


def torchs(folder: Path, inputs: ModelInputs) -> NDArray[np.float32]:
    """What plain transformers says."""
    model = load_model(folder, head_of(folder, load_config(folder))).eval()
    with torch.inference_mode():
        output = model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
    return np.asarray(
        output.logits if "logits" in output else torch.stack((output.start_logits, output.end_logits), -1)
    )


def traced_as(made: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Spare the exporter's seconds: whatever is exported next becomes `made`."""
    monkeypatch.setattr(exporting, "_traced", lambda *_, **__: made)


@pytest.mark.parametrize("head", ["classification", "regression", "span", "masked-lm"])
@pytest.mark.parametrize("model_type", ["bert", "distilbert"])
def test_random_shapes_give_torchs_logits(
    model_type: str, head: str, task_model: Maker, exported: Maker, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = load_model(task_model(model_type, head), head).eval()
    monkeypatch.setitem(globals(), "load_model", lambda *_: loaded)  # once, not a hundred times
    runtime = OnnxRuntime(exported(model_type, head), threads=1)
    assert runtime.token_types == (model_type == "bert")
    for shape in SHAPES if head == "classification" else SHAPES[:30]:  # what is before the head is the same
        inputs = random_inputs(shape, token_types=runtime.token_types)
        logits, torch_logits = runtime(inputs), torchs(task_model(model_type, head), inputs)
        assert logits.dtype == np.float32 and logits.shape == torch_logits.shape
        np.testing.assert_allclose(logits, torch_logits, atol=1e-4)


@pytest.mark.parametrize("model_type", ["roberta", "camembert", "electra", "mpnet", "modernbert"])
def test_other_families_too_whose_positions_hang_on_the_padding(
    model_type: str, task_model: Maker, exported: Maker
) -> None:
    runtime = OnnxRuntime(exported(model_type, "classification"))
    for shape in SHAPES[:8]:
        inputs = random_inputs(shape, token_types=runtime.token_types)
        np.testing.assert_allclose(runtime(inputs), torchs(task_model(model_type, "classification"), inputs), atol=1e-4)


def test_a_pruned_model_has_other_numbers_of_heads_in_each_layer(
    task_model: Maker, tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "_traced", tracing.traced_by_torch)  # where else tests put these numbers themselves
    model = load_model(task_model("bert", "regression"), "regression")
    keep(model, [[0, 2, 3], [1]], [list(range(0, 48, 2)), [1, 2, 3, 4, 5, 6, 7, 40]])
    save_model(model, tokenizer, tmp_path / "pruned")
    export(tmp_path / "pruned", tmp_path / "exported")
    graph = onnx.load(tmp_path / "exported" / "onnx/model.onnx").graph
    heads = [
        a.i
        for node in graph.node
        if node.op_type == "MultiHeadAttention"
        for a in node.attribute
        if a.name == "num_heads"
    ]
    assert heads == [3, 1]
    inputs = random_inputs((3, 9), token_types=True)
    np.testing.assert_allclose(
        OnnxRuntime(tmp_path / "exported")(inputs), torchs(tmp_path / "pruned", inputs), atol=1e-4
    )


def test_onnx_runtime_finds_every_fusion(exported: Maker, tmp_path: Path) -> None:
    options = onnxruntime.SessionOptions()
    options.optimized_model_filepath, options.log_severity_level = str(tmp_path / "optimized.onnx"), 3
    file = exported("distilbert", "classification") / "onnx/model.onnx"
    onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    op_counts = Counter(node.op_type for node in onnx.load(tmp_path / "optimized.onnx").graph.node)
    assert (op_counts["MultiHeadAttention"], op_counts["BiasGelu"], op_counts["SkipLayerNormalization"]) == (2, 2, 4)
    assert op_counts["Softmax"] == op_counts["Gelu"] == op_counts["Erf"] == 0


def test_names_are_those_of_the_modules_and_no_path_is_left_in_the_file(exported: Maker) -> None:
    file = exported("bert", "span") / "onnx/model.onnx"
    graph = onnx.load(file).graph
    names = [node.name for node in graph.node]
    assert len(set(names)) == len(names)
    query = next(node for node in graph.node if node.name == "bert.encoder.layer.1.attention.self.query.MatMul")
    assert query.input[1] == "bert.encoder.layer.1.attention.self.query.weight"
    content = file.read_bytes()
    assert b"site-packages" not in content and b".py" not in content and b"aten" not in content


def test_tied_weights_are_stored_once_inside_the_file(tmp_path: Path, tokenizer) -> None:
    model = tiny.model(vocab_size=20_000, num_hidden_layers=1, **tiny.WIDER)
    save_model(model, tokenizer, tmp_path / "model")
    export(tmp_path / "model", tmp_path / "exported")
    assert (tmp_path / "exported" / "onnx/model.onnx").stat().st_size < 1.05 * 4 * parameter_count(model)
    assert {path.name for path in (tmp_path / "exported").iterdir()} == {
        "onnx", "config.json", "tokenizer.json", "tokenizer_config.json", "manifest.json",
    }  # fmt: skip


def test_weights_beyond_the_limit_of_the_format_lie_beside_the_model(
    task_model: Maker, exported: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    traced_as(onnx.load(exported("bert", "regression") / "onnx/model.onnx"), monkeypatch)
    monkeypatch.setattr(exporting, "MAX_EMBEDDED_BYTES", 0)
    export(task_model("bert", "regression"), tmp_path / "large")
    sizes = {path.name: path.stat().st_size for path in (tmp_path / "large/onnx").iterdir()}
    assert sizes["model.onnx_data"] > sizes["model.onnx"]
    inputs = random_inputs((2, 5), token_types=True)
    assert_equal_up_to_rounding(
        OnnxRuntime(tmp_path / "large")(inputs), OnnxRuntime(exported("bert", "regression"))(inputs)
    )
    assert "onnx/model.onnx_data" in atomic.read_manifest(tmp_path / "large")["files"]


PLAIN = """
import json, sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer
folder, text, pair = sys.argv[1:]
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
config = json.load(open(folder + "/config.json"))
session = onnxruntime.InferenceSession(folder + "/onnx/model.onnx", providers=["CPUExecutionProvider"])
encoded = tokenizer.encode(text, pair)
inputs = {"input_ids": encoded.ids, "attention_mask": encoded.attention_mask, "token_type_ids": encoded.type_ids}
wanted = [item.name for item in session.get_inputs()]
(logits,) = session.run(["logits"], {name: np.array([inputs[name]], np.int64) for name in wanted})
assert "torch" not in sys.modules and "transformers" not in sys.modules and "tinydistilbert" not in sys.modules
print(json.dumps({"label": config["id2label"][str(logits[0].argmax())], "logits": logits[0].tolist()}))
"""


def test_plain_onnxruntime_and_tokenizers_are_enough(task_model: Maker, exported: Maker, tokenizer) -> None:
    text = ("the student learns from the teacher", "and a cat likes milk")
    command = [sys.executable, "-I", "-c", PLAIN, str(exported("bert", "classification")), *text]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    model = AutoModelForSequenceClassification.from_pretrained(task_model("bert", "classification")).eval()
    with torch.inference_mode():
        logits = model(**tokenizer(*text, return_tensors="pt")).logits[0]
    np.testing.assert_allclose(answer["logits"], logits.numpy(), atol=1e-4)
    assert answer["label"] == model.config.id2label[int(logits.argmax())] in ("bad", "fair", "good")


def test_the_plain_form_has_standard_operators_only(task_model: Maker, plain: Path) -> None:
    made = onnx.load(plain / "onnx/model.onnx")
    assert {node.domain for node in made.graph.node} == {""}
    assert {item.domain for item in made.opset_import} <= {"", "ai.onnx"}
    assert atomic.read_json(plain / "config.json")["tinydistilbert"]["fused"] is False
    for shape in SHAPES[:8]:
        inputs = random_inputs(shape, token_types=False)
        expected = torchs(task_model("distilbert", "classification"), inputs)
        np.testing.assert_allclose(OnnxRuntime(plain)(inputs), expected, atol=1e-4)


def test_onnx_runtimes_own_quantization_takes_the_file(exported: Maker, tmp_path: Path) -> None:
    quantize_dynamic(exported("distilbert", "span") / "onnx/model.onnx", tmp_path / "model.onnx")
    inputs = random_inputs((2, 9), token_types=False)
    whole, small = OnnxRuntime(exported("distilbert", "span"))(inputs), OnnxRuntime(tmp_path / "model.onnx")(inputs)
    assert 0 < np.abs(whole - small).max() < 0.2 * np.abs(whole).max()


def test_the_folder_says_what_it_is(exported: Maker) -> None:
    folder = exported("bert", "classification")
    config = atomic.read_json(folder / "config.json")
    assert config["id2label"] == {"0": "bad", "1": "fair", "2": "good"}
    facts = {"format": "onnx", "head": "classification", "precision": "fp32", "fused": True, "longest_input": 512}
    assert config["tinydistilbert"] == facts | {"max_length": 512}
    assert set(atomic.read_manifest(folder)["files"]) >= {"onnx/model.onnx", "config.json", "tokenizer.json"}


def test_half_precision_halves_the_file_and_hardly_moves_the_logits(task_model: Maker, tmp_path: Path) -> None:
    source = task_model("bert", "classification")
    to_half(source, tmp_path / "half")
    whole, half = ((folder / "model.safetensors").stat().st_size for folder in (source, tmp_path / "half"))
    assert half < 0.6 * whole
    inputs = random_inputs((3, 9), token_types=True)
    np.testing.assert_allclose(torchs(tmp_path / "half", inputs), torchs(source, inputs), atol=0.05)
    assert load_config(tmp_path / "half").dtype == torch.float16


def refused(model: Path, output: Path, **settings: bool) -> str:
    """The message, after a look that nothing was written."""
    before = sorted(output.parent.iterdir())
    with pytest.raises(UserError) as error:
        export(model, output, **settings)
    assert sorted(output.parent.iterdir()) == before
    return str(error.value)


@pytest.fixture
def copy(task_model: Maker, tmp_path: Path) -> Path:
    """A model folder that may be spoilt."""
    folder = tmp_path / "in" / "model"
    folder.mkdir(parents=True)
    for path in task_model("bert", "classification").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    return folder


def test_what_is_no_complete_model_is_refused_and_leaves_nothing(copy: Path, exported: Maker, tmp_path: Path) -> None:
    output = tmp_path / "exported"
    weights, config = load_file(copy / "model.safetensors"), atomic.read_json(copy / "config.json")

    atomic.write_json(copy / "config.json", config | {"architectures": ["BertForQuestionAnswering"]})
    assert "missing, such as qa_outputs" in refused(copy, output)
    atomic.write_json(copy / "config.json", config | {"architectures": ["BertModel"]})
    assert "found BertModel" in refused(copy, output)
    atomic.write_json(copy / "config.json", config | {"model_type": "gpt2"})
    assert "found 'gpt2'" in refused(copy, output)
    atomic.write_json(copy / "config.json", config)

    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, copy / "model.safetensors", {"format": "pt"})
    assert "1 missing, such as bert.encoder.layer.1.output.dense.weight" in refused(copy, output)
    (copy / "model.safetensors").unlink()
    assert "a complete safetensors model" in refused(copy, output)
    assert "found an exported model" in refused(exported("bert", "span"), output)
    assert "found no such folder" in refused(tmp_path / "nowhere", output)


def test_files_that_changed_since_the_manifest_are_refused(copy: Path, tmp_path: Path) -> None:
    atomic.write_manifest(copy)
    path = copy / "config.json"
    path.write_text(path.read_text().replace("fair", "fear"))
    assert "found other content" in refused(copy, tmp_path / "exported")


def test_an_output_that_is_there_is_refused_and_kept(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "note.txt").write_text("mine")
    assert "a new or empty folder" in refused(copy, tmp_path / "there")
    assert (tmp_path / "there" / "note.txt").read_text() == "mine"


def test_other_logits_than_torchs_make_no_folder(
    copy: Path, exported: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = onnx.load(exported("bert", "classification") / "onnx/model.onnx")
    bias = next(weight for weight in made.graph.initializer if weight.name == "classifier.bias")
    bias.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(bias) + np.float32(0.01), bias.name))
    traced_as(made, monkeypatch)
    assert "of their size, more than 0.0001" in refused(copy, tmp_path / "exported")


def test_what_the_exporter_cannot_trace_is_told_in_one_line(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("a page\nof graph")

    monkeypatch.setattr(torch.onnx, "export", fail)
    monkeypatch.setattr(tracing, "_known", {})  # nor has any process of the tests traced it before
    monkeypatch.delenv(tracing.FOLDER)
    message = refused(copy, tmp_path / "exported")
    assert "bert: RuntimeError" in message and "\n" not in message


def test_without_the_extra_the_command_to_install_it_is_named(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    assert "pip install 'tinydistilbert[onnx]'" in refused(copy, tmp_path / "exported")


def test_what_the_exporter_prints_is_no_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with quietly():
        print("Applied 10 of general pattern rewrite rules.")
    assert not capsys.readouterr().out


@pytest.mark.parametrize("silence", [quietly, loading._quietly])
def test_two_threads_that_export_or_load_leave_output_and_log_as_they_were(silence: Any) -> None:
    def state() -> tuple[Any, ...]:
        return sys.stdout, logging.root.manager.disable, get_verbosity(), is_progress_bar_enabled()

    before, first_is_in, second_waits = state(), Event(), Event()

    def first() -> None:
        with silence():
            first_is_in.set()
            second_waits.wait(0.2)  # were it let in, it would be through and set this, and note the silence as usual

    def second() -> None:
        first_is_in.wait(60)
        with silence():
            second_waits.set()
            one.join(0.2)

    one, two = Thread(target=first), Thread(target=second)
    for thread in (one, two):
        thread.start()
    for thread in (one, two):
        thread.join(60)
    assert state() == before
