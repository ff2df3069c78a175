"""Back ends that compute a task model's logits, with one interface of arrays: ONNX Runtime and OpenVINO.

Torch is the third, in `torch_runtime.py`, so that exported models run without torch.
"""

import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.errors import UserError
from tinydistilbert.models import untrusted
from tinydistilbert.models.processor import processor
from tinydistilbert.optional import require
from tinydistilbert.storage import atomic
from tinydistilbert.training.cores import usable_cores

MODEL_FILE, INT8_FILE, OPENVINO_FILE, EARLIER_FILE = untrusted.EXPORTED
"""The model in ONNX in float and in int8; in OpenVINO's format, with its weights in `model.bin`; and in ONNX, in either
precision, at the place where versions up to 0.1 wrote it."""
EXTERNAL = "_data"
"""Suffix of the file with the weights, if they are too large for the model's file."""
EXPORT_KEY = "tinydistilbert"
"""Key in the `config.json` of an exported folder with facts about the export: format, head, precision, …"""
ENGINE, OPENVINO, BF16 = "engine", "openvino", "bf16"
"""Key of the engine that a folder was made for (default: ONNX Runtime), OpenVINO as its value, and a precision."""
HEADS = ("masked-lm", "classification", "regression", "span", "multi-label", "token-classification")
TEXTS, AGREEMENT = "texts_per_input", "agreement"
"""Keys of those facts, the first also of `training.json`: the number of texts of an input, 1 or 2; and the confidence
from which on a classifier agrees with its teacher, `threshold` (null = no confidence), with the facts of its choice."""
FIX = "use the folder as it was written, or export the model again"
RANGES, RANGES_OF_TOKENS = "ranges", "tokens"
"""Key of those facts, and its value in int8 models in which a token's quantisation depends on no other token."""

MASKS_PADDING = (1, 21)
"""The first version of ONNX Runtime whose `MultiHeadAttention` applies the mask correctly."""

TOKENS_A_THREAD, MOST_TOKENS = 512, 8192
"""Tokens of a batch of many texts, padding included: those that fit a core's caches, and those that keep a GPU busy."""

ModelInputs = Mapping[str, NDArray[np.int64]]
"""`input_ids`, `attention_mask` (1 = token, 0 = padding) and, if the model uses them, `token_type_ids`: each (batch,
length)."""


def token_budget(threads: int) -> int:
    """Return the tokens of a batch of many texts on a CPU, padding included, for a number of threads.

    A larger batch takes longer per text, because a layer's output is no longer in the caches when the next layer reads
    it (benchmarks/predict_stream.py).
    """
    return min(MOST_TOKENS, TOKENS_A_THREAD * threads)


def threads_of(asked: int) -> int:
    """Return the threads of an operation: those asked for; 0 = the runtime's choice, one for each physical core.

    Where this process may use fewer cores than the machine has, as in a container, it is their number: ONNX Runtime
    counts the machine's.
    """
    usable = usable_cores()
    return asked or (usable if usable < (os.cpu_count() or 1) else 0)


@runtime_checkable
class Runtime(Protocol):
    """A model that is ready to compute logits."""

    name: str
    """`torch`, `torch-compile`, `onnx`, `onnx-int8`, `openvino`, `openvino-bf16` or `openvino-int8`."""
    token_types: bool
    """Whether it takes `token_type_ids`."""

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Return logits: (batch, classes), (batch, length, tags) of token classification, (batch, length, 2) of spans.

        Raises:
            UserError: the inputs are longer than the position embeddings allow.
        """
        ...


def check_fits(inputs: ModelInputs, longest: int | None) -> None:
    """Check that inputs have at most `longest` tokens; None = no limit is known.

    Raises:
        UserError: they are longer.
    """
    length = inputs["input_ids"].shape[1]
    if longest is not None and length > longest:
        expected = f"at most the {longest} tokens of the model's position embeddings"
        raise UserError("a batch of inputs", expected=expected, found=str(length), fix="shorten the texts")


def _check_masks_padding(version: str, facts: Mapping[str, Any], where: str) -> None:
    """Refuse a version of ONNX Runtime whose attention operator, if the model uses it, reads padding.

    Raises:
        UserError: logits would be wrong whenever a batch has texts of several lengths.
    """
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    if facts.get("fused") and numbers < MASKS_PADDING:
        oldest = ".".join(map(str, MASKS_PADDING))
        problem = f"onnxruntime {version} attends to the padding of a batch, so answers would be wrong"
        fix = f"run: pip install 'onnxruntime>={oldest}', or export the model with --plain"
        raise UserError(where, problem=problem, fix=fix)


class OnnxRuntime:
    """An exported model in ONNX Runtime on the CPU.

    Args:
        model: an exported folder, or a model file.
        threads: for one operator; 0 = the cores that this process may use.

    Raises:
        UserError: there is no such file, ONNX Runtime cannot read it, is not installed, or is too old for it.
    """

    def __init__(self, model: Path, *, threads: int = 0) -> None:
        ort = require("onnxruntime", extra="run")
        file = _checked_file(model, onnx_file(model) if model.is_dir() else model, MODEL_FILE)
        facts = exported_facts(_folder_of(file))
        self.token_budget = token_budget(threads or usable_cores())
        _check_masks_padding(ort.__version__, facts, str(file))
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads_of(threads), 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # only errors, which are also raised
        try:
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            found = str(error).split("\n", 1)[0][:200]
            raise UserError(str(file), expected="a model that ONNX Runtime reads", found=found, fix=FIX) from None
        self._names = [item.name for item in self._session.get_inputs()]
        self._longest = facts.get("longest_input")
        self.token_types = "token_type_ids" in self._names
        # Models of versions up to 0.1 have one dynamic range for all tokens of a call.
        self._one_range = facts.get("method") == "dynamic" and facts.get(RANGES) != RANGES_OF_TOKENS
        self.name = "onnx" if facts.get("precision", "fp32") == "fp32" else f"onnx-{facts['precision']}"

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See `Runtime`; the logits of a masked-LM model are (batch, length, vocabulary)."""
        check_fits(inputs, self._longest)
        return _each_alone(self._run, inputs) if self._one_range else self._run(inputs)

    def _run(self, inputs: ModelInputs) -> NDArray[np.float32]:
        return _stacked(self._session.run(None, {name: inputs[name] for name in self._names}))


class OpenVinoRuntime:
    """An exported model in OpenVINO on the CPU, in the precision in its folder's facts.

    Args:
        model: an exported folder, or a model file.
        threads: number of threads; 0 = the cores that this process may use.

    Raises:
        UserError: there is no such file, OpenVINO cannot read it, or OpenVINO is not installed.
    """

    def __init__(self, model: Path, *, threads: int = 0) -> None:
        openvino = require("openvino", extra="openvino")
        facts = exported_facts(model if model.is_dir() else _folder_of(model))
        is_own = facts.get(ENGINE) == OPENVINO
        in_folder = model / OPENVINO_FILE if is_own else onnx_file(model)
        file = _checked_file(model, in_folder if model.is_dir() else model, OPENVINO_FILE if is_own else MODEL_FILE)
        precision = facts.get("precision", "fp32")
        core = openvino.Core()
        in_bf16 = precision == BF16 and "BF16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES")
        # Without the hint, processors with AMX would compute fp32 models in bf16.
        settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "bf16" if in_bf16 else "f32"}
        if number := threads_of(threads):
            settings["INFERENCE_NUM_THREADS"] = str(number)
        self.token_budget = token_budget(threads or usable_cores())
        self.name = OPENVINO if precision == "fp32" else f"{OPENVINO}-{precision}"
        try:
            self._compiled = core.compile_model(str(file), "CPU", settings)
        except RuntimeError as error:
            found = next((line for line in str(error).splitlines() if line.strip()), "an error")[:200]
            fix = "export it with fused=False, or update openvino (2026.4 reads ONNX Runtime's attention)"
            raise UserError(str(file), expected="a model that OpenVINO reads", found=found, fix=fix) from None
        self._names = [port.any_name for port in self._compiled.inputs]
        self._longest = facts.get("longest_input")
        self.token_types = "token_type_ids" in self._names

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See `Runtime`."""
        check_fits(inputs, self._longest)
        outputs = self._compiled({name: inputs[name] for name in self._names})
        return _stacked([outputs[port] for port in self._compiled.outputs])


def _each_alone(run: Callable[[ModelInputs], NDArray[np.float32]], inputs: ModelInputs) -> NDArray[np.float32]:
    """Return the logits of each input, computed separately and without its padding; logits of padding are zero."""
    rows = []
    for row, mask in enumerate(inputs["attention_mask"]):
        length = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else len(mask)
        logits = run({name: array[row : row + 1, :length] for name, array in inputs.items()})[0]
        of_tokens = logits.ndim == 2  # otherwise one vector per text
        rows.append(np.pad(logits, ((0, len(mask) - length), (0, 0))) if of_tokens else logits)
    return np.stack(rows)


def exported_facts(folder: Path) -> dict[str, Any]:
    """Return the facts in an exported folder's config: `format`, `head`, `precision`, `longest_input` …; else empty."""
    config = folder / "config.json"
    facts: dict[str, Any] = atomic.read_json(config).get(EXPORT_KEY, {}) if config.is_file() else {}
    return facts


def exported_config(folder: Path) -> dict[str, Any] | None:
    """Return an exported folder's config, after comparing all of its files with its manifest; None for other folders.

    Raises:
        UserError: a file differs from the manifest, or the config has a value that `export` does not write.
    """
    path = folder / untrusted.CONFIG
    if not path.is_file():
        return None
    if atomic.is_finished(folder):
        atomic.intact(folder, untrusted.CONFIG)
    if not untrusted.read_object(path, fix=FIX).get(EXPORT_KEY):
        return None
    atomic.check_intact(folder)
    config = untrusted.check_config(folder)
    facts = config[EXPORT_KEY] if isinstance(config[EXPORT_KEY], dict) else {}
    for name, expected, fits in (
        ("head", f"one of {', '.join(HEADS)}", facts.get("head") in HEADS),
        ("longest_input", "a number of tokens", type(facts.get("longest_input")) is int and facts["longest_input"] > 0),
        ("scored_on", "an object", isinstance(facts.get("scored_on", {}), dict)),
        ("vocab_size", "a number of tokens", "vocab_size" in config),
    ):
        if not fits:
            found = repr(facts.get(name))[:80]
            raise UserError(f"{path}: {name}", expected=expected, found=found, fix=FIX)
    return config


def difference_here(facts: dict[str, Any]) -> str:
    """Return why an exported model may answer differently, or run slower, on this processor than where it was scored.

    It is empty if there is no difference. Int8 models of ONNX Runtime differ only if their weights use the whole range
    (`quantize(reduce_range=False)`).
    """
    has, precision = set(processor()["instruction_sets"]), facts.get("precision")
    if not has:  # unknown
        return ""
    cpu = facts.get("scored_on", {}).get("cpu")
    scored = f", unlike {cpu}, where it was scored" if cpu else ""
    may_clip = facts.get(ENGINE) == OPENVINO or facts.get("reduce_range") is False
    if precision == "int8" and may_clip and not has & {"avx_vnni", "avx512_vnni"}:
        return f"int8 may answer differently here: this processor has no VNNI{scored}"
    if precision == BF16 and not has & {"avx512_bf16", "amx_bf16"}:
        return f"bf16 is computed in fp32 here, which is slower: this processor has no bf16{scored}"
    return ""


def open_exported(folder: Path, *, threads: int = 0) -> Runtime:
    """Open the runtime that an exported folder was made for.

    Args:
        folder: made by `export` or `compress`.
        threads: for one operator; 0 = the cores that this process may use.

    Raises:
        UserError: as in `OnnxRuntime` and `OpenVinoRuntime`.
    """
    runtime = OpenVinoRuntime if exported_facts(folder).get(ENGINE) == OPENVINO else OnnxRuntime
    return runtime(folder, threads=threads)


def onnx_file(folder: Path) -> Path | None:
    """Return the ONNX model of an exported folder, in the precision in its config; None = it has none."""
    names = [MODEL_FILE, INT8_FILE, EARLIER_FILE]
    if exported_facts(folder).get("precision") == "int8":
        names = [INT8_FILE, MODEL_FILE, EARLIER_FILE]
    return next((folder / name for name in names if (folder / name).is_file()), None)


def is_exported(folder: Path) -> bool:
    """Return whether a folder is of the kind that `export` and `compress` make.

    Published torch models often have an ONNX file of someone else's beside their weights: they are not.
    """
    has_weights = any((folder / name).is_file() for name in (untrusted.WEIGHTS, untrusted.INDEX))
    return not has_weights and any((folder / name).is_file() for name in untrusted.EXPORTED)


def model_bytes(folder: Path) -> int:
    """Return the bytes of the model's files: of torch, in shards or not, or else of ONNX or OpenVINO."""
    patterns = ("model.*", "onnx/model*") if is_exported(folder) else ("model*.safetensors",)
    return sum(path.stat().st_size for pattern in patterns for path in folder.glob(pattern))


def _folder_of(file: Path) -> Path:
    """Return the folder with the config of a model's file."""
    return file.parent.parent if file.parent.name == Path(MODEL_FILE).parent.name else file.parent


def _checked_file(model: Path, file: Path | None, name: str) -> Path:
    if file is None or not file.is_file():
        fix = "give a folder that `export` made"
        raise UserError(str(model), expected=f"a folder with {name}", found="none", fix=fix)
    return file


def _stacked(outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return a single output unchanged, or start and end logits stacked to (batch, length, 2)."""
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)
