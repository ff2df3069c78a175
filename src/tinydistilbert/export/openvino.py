"""Exported models for OpenVINO: in bf16, on processors that support it, and in int8 by NNCF with calibrated ranges."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tinydistilbert.errors import UserError
from tinydistilbert.export.quiet import without_output
from tinydistilbert.export.to_onnx import IN_BROWSERS, copy_beside, exported_weights
from tinydistilbert.models.runtimes import (
    BF16,
    ENGINE,
    EXPORT_KEY,
    OPENVINO,
    OPENVINO_FILE,
    ModelInputs,
    exported_config,
    onnx_file,
)
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.optional import require
from tinydistilbert.storage import atomic


def has_bf16() -> bool:
    """Whether OpenVINO computes in bf16 on this processor."""
    return "BF16" in openvino().Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def openvino() -> Any:
    """Return the OpenVINO library.

    Raises:
        UserError: it is not installed.
    """
    return require("openvino", extra="openvino")


def to_bf16(exported: Path, output: Path) -> None:
    """Make the finished folder `output`: the exported model for OpenVINO in bf16, which needs no calibration.

    Its weights are stored in fp16, which rounds less than bf16 does.

    Args:
        exported: a folder made by `export`, in float32.
        output: folder to make.

    Raises:
        UserError: `exported` is not such a folder or was changed, or OpenVINO is not installed.
    """
    config, model = _read(exported)
    _write(exported, output, config, model, {"precision": BF16}, half=True)


def to_int8(exported: Path, output: Path, calibration: Iterable[ModelInputs]) -> None:
    """Make the finished folder `output`: the exported model for OpenVINO in int8, quantized by NNCF.

    Args:
        exported: a folder made by `export`, in float32.
        output: folder to make.
        calibration: inputs for measuring ranges, held out of the train split, each as a separate batch.

    Raises:
        UserError: `exported` is not such a folder or was changed, there are no inputs, or OpenVINO or NNCF is not
            installed.
    """
    nncf = require("nncf", extra="nncf")
    config, model = _read(exported)
    names = [port.any_name for port in model.inputs]
    inputs = [{name: given[name] for name in names} for given in calibration]
    if not inputs:
        fix = "give calibration inputs"
        raise UserError("quantization by NNCF", expected="calibration inputs", found="none", fix=fix)
    nncf.set_log_level(40)
    with without_output():
        model = nncf.quantize(
            model, nncf.Dataset(inputs), model_type=nncf.ModelType.TRANSFORMER, subset_size=len(inputs)
        )
    _write(exported, output, config, model, {"precision": "int8", "method": "nncf"}, half=False)


def _read(exported: Path) -> tuple[dict[str, Any], Any]:
    config = exported_config(exported)
    file = onnx_file(exported)
    if config is None or config[EXPORT_KEY]["precision"] != "fp32" or file is None:
        fix = "give a folder that `export` made, without --int8"
        raise UserError(str(exported), problem="this is not an exported model in fp32", fix=fix)
    return config, openvino().Core().read_model(str(file))


def _write(
    exported: Path, output: Path, config: dict[str, Any], model: Any, facts: dict[str, Any], *, half: bool
) -> None:
    atomic.check_new(output)
    facts = {"format": OPENVINO, ENGINE: OPENVINO, "parameters": exported_weights(exported), **facts}
    with atomic.unfinished(output, made_by="openvino") as folder:
        openvino().save_model(model, str(folder / OPENVINO_FILE), compress_to_fp16=half)
        copy_beside(exported, folder)
        config = {key: value for key, value in config.items() if key != IN_BROWSERS}  # browsers cannot run OpenVINO
        atomic.write_json(folder / CONFIG, config | {EXPORT_KEY: config[EXPORT_KEY] | facts})
