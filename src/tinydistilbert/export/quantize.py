"""int8: an exported model at a quarter of its size, several times as fast on a CPU; some layers may stay float."""

import math
import tempfile
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

from tinydistilbert.errors import UserError
from tinydistilbert.export import int8
from tinydistilbert.export.to_onnx import IN_BROWSERS, copy_beside, export, in_browsers
from tinydistilbert.models.runtimes import (
    EXPORT_KEY,
    INT8_FILE,
    MODEL_FILE,
    RANGES,
    RANGES_OF_TOKENS,
    ModelInputs,
    onnx_file,
)
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.optional import require
from tinydistilbert.storage import atomic

Method = Literal["dynamic", "static"]
"""Ranges of matrix inputs come from each token (`dynamic`), or once from calibration inputs (`static`)."""


def quantize(
    exported: Path, output: Path, *, method: Method = "dynamic", per_channel: bool = True, reduce_range: bool = True,
    embeddings: bool = True, keep_float: Sequence[str] = (), calibration: Iterable[ModelInputs] = (), threads: int = 0,
) -> None:  # fmt: skip
    """Make the finished folder `output`: the exported model with matrices and embedding tables in 8 bits.

    The defaults measured best (docs/decisions/0017-int8.md). Without a reduced range, processors with AVX2 but not VNNI
    clip sums of products; with it none does, so that both give the same results.

    Args:
        exported: a folder made by `export`, in float32.
        output: folder to make; its `config.json` records the settings.
        method: how the ranges of matrix inputs are measured.
        per_channel: one scale per output of a matrix instead of one per matrix.
        reduce_range: weights of matrices in 7 bits.
        embeddings: also store embedding tables in 8 bits, with one scale per row.
        keep_float: layers that stay in float32, named as in `layer_names`.
        calibration: inputs for `static`, held out of the train split, preferably unpadded; not read for `dynamic`.
        threads: for the passes over them; 0 = the cores that this process may use.

    Raises:
        UserError: `exported` is not an exported folder, is already int8 or was changed; a layer of `keep_float` does
            not exist; there are no calibration inputs; or `onnx` is not installed.
    """
    atomic.check_new(output)
    config, model = _open(exported)
    names = int8.layers(model)
    for name in keep_float:
        if name not in names:
            fix = "use one of them"
            raise UserError("keep_float", expected=f"one of {', '.join(names)}", found=repr(name), fix=fix)
    ranges = int8.input_ranges(model, calibration, threads=threads) if method == "static" else None
    if ranges == {}:
        fix = 'give calibration inputs, or use the method "dynamic"'
        raise UserError("static quantization", expected="calibration inputs", found="none", fix=fix)
    settings = {"per_channel": per_channel, "reduce_range": reduce_range, "embeddings": embeddings}
    int8.to_int8(model, ranges=ranges, keep_float=keep_float, **settings)
    facts = {"precision": "int8", "method": method, **settings, "keep_float": list(keep_float)}
    facts[RANGES] = RANGES_OF_TOKENS if method == "dynamic" else "calibration"
    with atomic.unfinished(output, made_by="quantize") as folder:
        copy_beside(exported, folder)
        atomic.write_bytes(folder / INT8_FILE, model.SerializeToString())
        changed = {IN_BROWSERS: in_browsers("int8"), EXPORT_KEY: config[EXPORT_KEY] | facts}
        atomic.write_json(folder / CONFIG, config | changed)


def export_int8(model_folder: Path, output: Path, *, fused: bool = True) -> None:
    """Run `export`, and then `quantize` with its defaults.

    Raises:
        UserError: as for `export` and `quantize`.
    """
    with tempfile.TemporaryDirectory() as work:
        export(model_folder, Path(work) / "fp32", fused=fused)
        quantize(Path(work) / "fp32", output)


def layer_names(exported: Path) -> tuple[str, ...]:
    """Return the parts that can stay in float: `embeddings`, `layer.0.attention`, `layer.0.ffn`, …, `head`.

    Raises:
        UserError: as for `quantize`.
    """
    return int8.layers(_open(exported)[1])


def sensitive_layers(
    exported: Path, *, score: Callable[[Path], float], max_loss: float, method: Method = "dynamic",
    per_channel: bool = True, reduce_range: bool = True, embeddings: bool = True,
    calibration: Iterable[ModelInputs] = (), threads: int = 0,
) -> tuple[str, ...]:  # fmt: skip
    """Return the layers to keep in float so that the score drops by at most `max_loss`; empty if int8 is good enough.

    The model is scored with each single layer in float; then the layers that help most are kept one after the other
    until the loss is small enough. This takes one scoring per layer, and a few more. In the worst case all layers are
    kept.

    Args:
        exported: a folder made by `export`, in float32.
        score: scores a folder; use held-out train examples, because the reported split must not choose anything.
        max_loss: allowed loss in units of the score.
        method: as in `quantize`.
        per_channel: as in `quantize`.
        reduce_range: as in `quantize`.
        embeddings: as in `quantize`; if false, embeddings are not tried.
        calibration: as in `quantize`.
        threads: as in `quantize`.

    Raises:
        UserError: as for `quantize`.
    """
    inputs = list(calibration)
    names = [name for name in layer_names(exported) if embeddings or name != int8.EMBEDDINGS]
    scores: dict[frozenset[str], float] = {}

    def scored(kept: frozenset[str]) -> float:
        if kept not in scores:
            with tempfile.TemporaryDirectory() as work:
                folder = Path(work) / "int8"
                quantize(
                    exported, folder, method=method, per_channel=per_channel, reduce_range=reduce_range,
                    embeddings=embeddings, keep_float=sorted(kept), calibration=inputs, threads=threads,
                )  # fmt: skip
                value = score(folder)
                scores[kept] = value if math.isfinite(value) else -math.inf
        return scores[kept]

    least = score(exported) - max_loss
    kept: frozenset[str] = frozenset()
    if scored(kept) >= least:
        return ()
    for name in sorted(names, key=lambda name: -scored(frozenset({name}))):
        kept |= {name}
        if scored(kept) >= least:
            break
    return tuple(name for name in names if name in kept)


def _open(exported: Path) -> tuple[dict[str, Any], Any]:
    """Return the config and the graph of an exported folder in float32, after checking it by its manifest."""
    onnx = require("onnx", extra="onnx")
    fix = "give a folder that `tinydistilbert export` made"
    file = onnx_file(exported)
    if file is None or not (exported / CONFIG).is_file():
        raise UserError(str(exported), problem=f"{MODEL_FILE} or {CONFIG} is missing", fix=fix)
    atomic.read_manifest(exported)
    config: dict[str, Any] = atomic.read_json(exported / CONFIG)
    precision = config.get(EXPORT_KEY, {}).get("precision")
    if precision != "fp32":
        raise UserError(str(exported), expected="an exported model in fp32", found=str(precision), fix=fix)
    return config, onnx.load(str(file))
