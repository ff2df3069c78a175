"""Exported models for OpenVINO, in bf16 and int8, and what other processors say of them."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.export import openvino as made
from tinydistilbert.export.to_onnx import exported_weights
from tinydistilbert.models import runtimes
from tinydistilbert.models.runtimes import EXPORT_KEY, ModelInputs, OnnxRuntime, difference_here, open_exported
from tinydistilbert.optional import require
from tinydistilbert.predictor import load
from tinydistilbert.storage import atomic

Maker = Callable[[str, str], Path]
OLD = {"cpu": "an old one", "instruction_sets": ["avx2"]}


def inputs(length: int, seed: int = 0) -> ModelInputs:
    ids = np.random.default_rng(seed).integers(5, 200, (1, length))
    return {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}


@pytest.mark.long
@pytest.mark.parametrize("head", ["classification", "span"])
def test_bf16_gives_nearly_the_same_logits_in_half_the_size(exported: Maker, head: str, tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    source = exported("bert", head)
    made.to_bf16(source, tmp_path / "bf16")
    runtime, expected = open_exported(tmp_path / "bf16", threads=1), OnnxRuntime(source)(inputs(20))
    assert runtime.name == "openvino-bf16" and runtime.token_types
    assert np.abs(runtime(inputs(20)) - expected).max() < 0.05 * np.abs(expected).max()
    size = sum(path.stat().st_size for path in (tmp_path / "bf16").glob("model.bin"))
    assert size < 0.6 * (source / "onnx/model.onnx").stat().st_size
    assert exported_weights(tmp_path / "bf16") == exported_weights(source)
    if head == "classification":
        answers = [load(folder).predict("a cat", "a dog")[0] for folder in (tmp_path / "bf16", source)]
        assert answers[0]["scores"] == pytest.approx(answers[1]["scores"], abs=0.1)
    with pytest.raises(UserError, match="an exported model in fp32"):
        made.to_bf16(tmp_path / "bf16", tmp_path / "again")


@pytest.mark.long
def test_int8_is_calibrated_and_nearly_the_same(exported: Maker, tmp_path: Path, capsys) -> None:
    for module in ("openvino", "nncf"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    source = exported("bert", "classification")
    made.to_int8(source, tmp_path / "int8", [inputs(length, length) for length in range(5, 30)])
    assert capsys.readouterr().out == ""
    runtime, expected = open_exported(tmp_path / "int8", threads=1), OnnxRuntime(source)(inputs(20))
    assert runtime.name == "openvino-int8"
    assert np.abs(runtime(inputs(20)) - expected).max() < 0.3 * np.abs(expected).max()
    assert (tmp_path / "int8" / "model.bin").stat().st_size < 0.4 * (source / "onnx/model.onnx").stat().st_size
    with pytest.raises(UserError, match="calibration inputs"):
        made.to_int8(source, tmp_path / "none", [])


def test_what_a_processor_cannot_do_alike_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    int8 = {"engine": "openvino", "precision": "int8", "scored_on": {"cpu": "a new one", "instruction_sets": []}}
    monkeypatch.setattr(runtimes, "processor", lambda: OLD)
    assert "no VNNI, unlike a new one" in difference_here(int8)
    assert "no VNNI" in difference_here({"precision": "int8", "reduce_range": False})
    assert difference_here({"precision": "int8", "reduce_range": True}) == "", "7 bits are never clipped"
    assert "no bf16" in difference_here({"engine": "openvino", "precision": "bf16"})
    assert difference_here({"precision": "fp32"}) == ""
    able = {"cpu": "a new one", "instruction_sets": ["avx512_vnni", "avx512_bf16"]}
    for known in (able, {"cpu": "of another kind", "instruction_sets": []}):
        monkeypatch.setattr(runtimes, "processor", lambda known=known: known)
        assert difference_here(int8) == difference_here({"engine": "openvino", "precision": "bf16"}) == ""


@pytest.mark.long
def test_predict_warns_once_of_another_processor(
    exported: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    shutil.copytree(exported("bert", "classification"), tmp_path, dirs_exist_ok=True)
    (tmp_path / atomic.MANIFEST).unlink()
    config = atomic.read_json(tmp_path / "config.json")
    config[EXPORT_KEY] |= {"precision": "int8", "reduce_range": False}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr(runtimes, "processor", lambda: OLD)
    model = load(tmp_path)
    model.predict("a cat")
    model.predict(["a cat", "a dog"])
    assert capsys.readouterr().err.count("may answer differently here") == 1


@pytest.mark.long
def test_a_folder_for_openvino_names_the_extra_where_it_is_missing(
    exported: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in exported("bert", "classification").iterdir():
        if path.is_file() and path.name != atomic.MANIFEST:
            (tmp_path / path.name).write_bytes(path.read_bytes())
    config = atomic.read_json(tmp_path / "config.json")
    config[EXPORT_KEY] |= {"engine": "openvino", "precision": "bf16"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(UserError, match=r"pip install 'tinydistilbert\[openvino\]'"):
        load(tmp_path)
    with pytest.raises(UserError, match=r"pip install 'tinydistilbert\[openvino\]'"):
        made.to_bf16(exported("bert", "classification"), tmp_path / "new")


@pytest.mark.long
def test_nothing_is_reported_to_the_makers_of_openvino(tmp_path: Path) -> None:
    pytest.importorskip("openvino", reason="OpenVINO is not installed")
    code = (
        "import sys; from tinydistilbert.optional import require; require('openvino', extra='openvino');"
        "print(sys.modules['openvino_telemetry'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={"HOME": str(tmp_path), "PYTHONPATH": ":".join(sys.path)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "None" and not [*tmp_path.iterdir()]
    assert require("openvino", extra="openvino")
