"""What others find in our folders: the files where transformers.js, optimum and onnxruntime look, and readable ones."""

import json
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer
from transformers import AutoConfig, pipeline

from tests import tiny
from tinydistilbert.export.quantize import quantize
from tinydistilbert.export.to_onnx import _torch_model, export
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.runtimes import (
    EARLIER_FILE,
    INT8_FILE,
    MODEL_FILE,
    OnnxRuntime,
    is_exported,
    model_bytes,
    onnx_file,
)
from tinydistilbert.predictor import load
from tinydistilbert.storage import atomic

Maker = Callable[[str, str], Path]
TESTS = Path(__file__).resolve().parents[1]
TEXTS = ["a small model answers quickly", "the old house near the lake", "Paris"]
INSTALLED = Path(os.environ.get("TINYDISTILBERT_NODE", TESTS.parent))
"""Where `npm install --ignore-scripts @huggingface/transformers` was run."""


@pytest.fixture(scope="module")
def int8(exported: Maker, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "model"
    quantize(exported("distilbert", "classification"), folder)
    return folder


@pytest.mark.long
def test_models_lie_where_others_look_for_them(exported: Maker, int8: Path) -> None:
    fp32 = exported("distilbert", "classification")
    assert onnx_file(fp32) == fp32 / "onnx" / "model.onnx"
    assert [path.name for path in (int8 / "onnx").iterdir()] == ["model_quantized.onnx"]
    assert OnnxRuntime(int8).name == "onnx-int8"
    dtypes = [atomic.read_json(folder / "config.json")["transformers.js_config"]["dtype"] for folder in (fp32, int8)]
    assert dtypes == ["fp32", "q8"]
    assert {INT8_FILE, "config.json", "tokenizer.json"} <= atomic.read_manifest(int8)["files"].keys()


@pytest.mark.long
def test_sizes_have_the_names_of_the_family_and_the_general_ones(exported: Maker, int8: Path) -> None:
    for folder in (exported("distilbert", "classification"), int8):
        config = atomic.read_json(folder / "config.json")
        assert config["hidden_size"] == config["dim"] and config["num_hidden_layers"] == config["n_layers"] == 2
        assert (
            config["num_attention_heads"] == config["n_heads"] and config["intermediate_size"] == config["hidden_dim"]
        )
        assert AutoConfig.from_pretrained(folder).hidden_size == config["dim"]
    assert atomic.read_json(exported("bert", "span") / "config.json")["num_hidden_layers"] == 2


@pytest.mark.long
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_folders_of_versions_before_are_still_read(exported: Maker, int8: Path, tmp_path: Path, kind: str) -> None:
    source = int8 if kind == "int8" else exported("distilbert", "classification")
    folder = Path(shutil.copytree(source, tmp_path / "earlier"))
    (folder / (INT8_FILE if kind == "int8" else MODEL_FILE)).rename(folder / EARLIER_FILE)
    (folder / "onnx").rmdir()
    atomic.write_manifest(folder)
    assert is_exported(folder)
    assert load(folder).predict(TEXTS) == load(source).predict(TEXTS)
    if kind == "fp32":
        quantize(folder, tmp_path / "new")
        assert not (tmp_path / "new" / EARLIER_FILE).exists() and onnx_file(tmp_path / "new") is not None


@pytest.mark.long
def test_the_tokenizer_cuts_by_itself_where_the_model_was_trained_so(tmp_path: Path, tokenizer) -> None:
    save_model(tiny.model("distilbert", "classification", **tiny.WIDER), tokenizer, tmp_path / "model", max_length=8)
    export(tmp_path / "model", tmp_path / "exported")
    plain = Tokenizer.from_file(str(tmp_path / "exported" / "tokenizer.json"))
    assert len(plain.encode("a cat " * 40)) == 8


@pytest.fixture
def mask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.mark.usefixtures("mask")
def test_files_can_be_read_by_whom_the_umask_lets(tmp_path: Path, tokenizer) -> None:
    """Safetensors lets nobody but the owner; a web server or another user then finds a model without weights."""
    for wanted, name in ((0o644, "public"), (0o640, "group")):
        os.umask(0o666 & ~wanted)
        with atomic.unfinished(tmp_path / name) as folder:
            save_model(tiny.model(), tokenizer, folder)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / name).iterdir()}
        assert set(modes.values()) == {wanted}, modes
        assert os.umask(0o022) == 0o666 & ~wanted, "the mask is as it was"


PLAIN = """
import json, sys
import numpy as np, onnxruntime
from tokenizers import Tokenizer
folder, file, *texts = sys.argv[1:]
tokenizer = Tokenizer.from_file(folder + "/tokenizer.json")
tokenizer.enable_padding()
session = onnxruntime.InferenceSession(folder + "/" + file, providers=["CPUExecutionProvider"])
encoded = tokenizer.encode_batch(texts)
inputs = {"input_ids": [e.ids for e in encoded], "attention_mask": [e.attention_mask for e in encoded]}
(logits,) = session.run(["logits"], {name: np.array(rows, np.int64) for name, rows in inputs.items()})
assert not {"torch", "transformers", "tinydistilbert"} & sys.modules.keys()
print(json.dumps(logits.tolist()))
"""


@pytest.mark.long
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_plain_onnxruntime_gives_the_same_logits(exported: Maker, int8: Path, kind: str) -> None:
    folder, file = (int8, INT8_FILE) if kind == "int8" else (exported("distilbert", "classification"), MODEL_FILE)
    command = [sys.executable, "-I", "-c", PLAIN, str(folder), file, *TEXTS]
    answer = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    np.testing.assert_allclose(answer, load(folder).logits(TEXTS), atol=1e-4)


@pytest.mark.long
def test_the_pipeline_of_transformers_answers_as_we_do(task_model: Maker) -> None:
    folder = task_model("distilbert", "classification")
    answers = pipeline("text-classification", model=str(folder))(TEXTS, top_k=None)
    for scores, prediction in zip(answers, load(folder).predict(TEXTS), strict=True):
        assert {one["label"]: pytest.approx(one["score"], abs=1e-5) for one in scores} == prediction["scores"]


def in_node(folder: Path, task: str, inputs: list[list[object]]) -> list[list[dict[str, object]]]:
    """What transformers.js answers; the test is skipped where it is not installed."""
    node = shutil.which("node")
    if node is None or not (INSTALLED / "node_modules" / "@huggingface" / "transformers").is_dir():
        pytest.skip(
            "needs node (20 or later), and `npm install --ignore-scripts @huggingface/transformers` in a folder that "
            "TINYDISTILBERT_NODE names"
        )
    command = [node, str(TESTS / "node" / "predict.mjs"), str(INSTALLED)]
    request = json.dumps({"folder": str(folder), "task": task, "inputs": inputs})
    done = subprocess.run(command, input=request, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    answers: list[list[dict[str, object]]] = json.loads(done.stdout)
    return answers


@pytest.mark.long
@pytest.mark.parametrize("kind", ["fp32", "int8"])
def test_transformers_js_answers_as_we_do(exported: Maker, int8: Path, kind: str) -> None:
    folder = int8 if kind == "int8" else exported("distilbert", "classification")
    (answers,) = in_node(folder, "text-classification", [[TEXTS, {"top_k": None}]])
    for scores, prediction in zip(answers, load(folder).predict(TEXTS), strict=True):
        assert {one["label"]: pytest.approx(one["score"], abs=2e-3) for one in scores} == prediction["scores"]  # type: ignore[index]


@pytest.mark.long
def test_transformers_js_reads_token_types_and_spans(exported: Maker) -> None:
    folder = exported("bert", "span")
    (answer,) = in_node(folder, "question-answering", [["Where is Paris?", "Paris is the capital of France."]])
    assert isinstance(answer["answer"], str) and 0 <= answer["score"] <= 1  # type: ignore[call-overload]


@pytest.mark.long
def test_transformers_js_tags_words_as_transformers_does(task_model: Maker, exported: Maker) -> None:
    text = "Paris is the capital of France"
    entities = pipeline("token-classification", model=str(task_model("bert", "token-classification")))(text)
    (answers,) = in_node(exported("bert", "token-classification"), "token-classification", [[text]])
    expected = [(one["entity"], one["index"], pytest.approx(float(one["score"]), abs=1e-3)) for one in entities]
    assert [(one["entity"], one["index"], one["score"]) for one in answers] == expected


OPTIMUM = """
import json, sys
from optimum.onnxruntime import ORTModelForSequenceClassification
from transformers import AutoTokenizer, pipeline
folder, *texts = sys.argv[1:]
model, tokenizer = ORTModelForSequenceClassification.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
print(json.dumps(pipeline("text-classification", model=model, tokenizer=tokenizer)(texts, top_k=None)))
"""


@pytest.mark.long
@pytest.mark.parametrize("family", ["bert", "distilbert"])
def test_optimum_answers_as_we_do(exported: Maker, family: str) -> None:
    """Its transformers is an older one than ours, so it has an environment of its own."""
    python = os.environ.get("TINYDISTILBERT_OPTIMUM")
    if not python:
        pytest.skip(
            "needs TINYDISTILBERT_OPTIMUM: the python of an environment with `pip install 'optimum[onnxruntime]'`"
        )
    folder = exported(family, "classification")
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [python, "-W", "ignore", "-c", OPTIMUM, str(folder), *TEXTS]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300, env=environment)
    assert done.returncode == 0, done.stderr
    for scores, prediction in zip(json.loads(done.stdout), load(folder).predict(TEXTS), strict=True):
        assert {one["label"]: pytest.approx(one["score"], abs=1e-4) for one in scores} == prediction["scores"]


@pytest.mark.long
def test_sentence_transformers_reads_an_encoder_by_the_mean_of_its_tokens(tmp_path: Path, tokenizer) -> None:
    from sentence_transformers import SentenceTransformer

    model = tiny.scrambled(tiny.model("bert", **tiny.WIDER)).eval()
    save_model(model, tokenizer, tmp_path)
    embeddings = SentenceTransformer(str(tmp_path), device="cpu").encode(TEXTS)
    for text, embedding in zip(TEXTS, embeddings, strict=True):
        with torch.inference_mode():
            hidden = model.base_model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(embedding, hidden.mean(0).numpy(), atol=1e-4)


def test_a_torch_model_beside_someone_elses_onnx_file_is_a_torch_model(task_model: Maker, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(task_model("distilbert", "classification"), tmp_path / "published"))
    before = model_bytes(folder)
    (folder / MODEL_FILE).parent.mkdir()
    (folder / MODEL_FILE).write_bytes(b"of another program")
    assert _torch_model(folder)[1] == "classification" and not is_exported(folder)
    assert model_bytes(folder) == before == (folder / "model.safetensors").stat().st_size


def test_the_bytes_of_a_torch_model_are_those_of_all_its_shards(tmp_path: Path) -> None:
    for number in (1, 2):
        (tmp_path / f"model-0000{number}-of-00002.safetensors").write_bytes(bytes(1000))
    (tmp_path / "model.safetensors.index.json").write_text("{}")
    assert model_bytes(tmp_path) == 2000
