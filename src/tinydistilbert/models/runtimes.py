"""Back ends that compute a task model's logits: torch, ONNX Runtime and OpenVINO, with one interface of arrays."""

from collections.abc import Callable, Mapping
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import PreTrainedModel

from tinydistilbert.errors import UserError
from tinydistilbert.models import tokenizer_files
from tinydistilbert.models.first_token import first_token_only
from tinydistilbert.models.loading import longest_input
from tinydistilbert.optional import require
from tinydistilbert.storage import atomic

MODEL_FILE = "model.onnx"
EXPORT_KEY = "tinydistilbert"
"""Key in the `config.json` of an exported folder with facts about the export: format, head, precision, …"""
RANGES, RANGES_OF_TOKENS = "ranges", "tokens"
"""Key of those facts, and its value in int8 models in which a token's bytes depend on no other token."""
CPU = torch.device("cpu")

ModelInputs = Mapping[str, NDArray[np.int64]]
"""`input_ids`, `attention_mask` (1 = token, 0 = padding) and, where the model uses them, `token_type_ids`: each (batch,
length)."""


class Runtime(Protocol):
    """A model that is ready to compute logits."""

    name: str
    """`torch`, `torch-compile`, `onnx`, `onnx-int8` or `openvino`."""
    token_types: bool
    """Whether it takes `token_type_ids`."""

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """Logits: (batch, classes), or of span models (batch, length, 2), start and end.

        Raises:
            UserError: the inputs are longer than the position embeddings allow.
        """
        ...


def uses_token_types(model: nn.Module) -> bool:
    """Whether the model takes `token_type_ids`, as BERT does, and DistilBERT and RoBERTa do not."""
    config: Any = model.config
    return tokenizer_files.uses_token_types(config)


def check_fits(inputs: ModelInputs, longest: int | None) -> None:
    """Check that inputs have at most `longest` tokens; None = no limit is known.

    Raises:
        UserError: they are longer.
    """
    length = inputs["input_ids"].shape[1]
    if longest is not None and length > longest:
        expected = f"at most the {longest} tokens of the model's position embeddings"
        raise UserError("a batch of inputs", expected=expected, found=str(length), fix="shorten the texts")


class TorchRuntime:
    """A task model in torch, in evaluation mode; the last layer computes only the token that the head reads.

    Args:
        model: with a classification, regression or span head.
        span: whether the head is a span head.
        compiled: compile by torch.compile, for any batch and length; the first call takes about a minute, and the last
            layer stays reduced to the first token as long as this object exists.
        device: where to compute; the model is moved there.
    """

    def __init__(
        self, model: PreTrainedModel, *, span: bool, compiled: bool = False, device: torch.device = CPU
    ) -> None:
        self.name = "torch-compile" if compiled else "torch"
        self.token_types = uses_token_types(model)
        self._model, self._span, self._device = model.to(device).eval(), span, device
        self._longest = longest_input(model.config)
        self._forward: Any = model
        self._reduced = ExitStack()
        if compiled:
            if not span:  # only once: a new function in each call would be compiled again
                self._reduced.enter_context(first_token_only(model))
            self._forward = torch.compile(model, dynamic=True)

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See `Runtime`."""
        check_fits(inputs, self._longest)
        tensors = {name: torch.from_numpy(array).to(self._device) for name, array in inputs.items()}
        with torch.inference_mode(), nullcontext() if self._span else first_token_only(self._model):
            output = self._forward(**tensors)
            logits = torch.stack((output.start_logits, output.end_logits), dim=-1) if self._span else output.logits
        array: NDArray[np.float32] = logits.float().cpu().numpy()
        return array


class OnnxRuntime:
    """An exported model in ONNX Runtime on the CPU.

    Args:
        model: an exported folder, or a model file.
        threads: that one operator may use; 0 = one for each core.

    Raises:
        UserError: there is no such file, ONNX Runtime cannot read it, or ONNX Runtime is not installed.
    """

    def __init__(self, model: Path, *, threads: int = 0) -> None:
        ort = require("onnxruntime", extra="onnx")
        file = _model_file(model)
        facts = exported_facts(file.parent)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.execution_mode = ort.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3  # errors alone, which are raised too
        try:
            self._session = ort.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its errors have no common class
            found = str(error).split("\n", 1)[0][:200]
            fix = "export the model again"
            raise UserError(str(file), expected="a model that ONNX Runtime reads", found=found, fix=fix) from None
        self._names = [item.name for item in self._session.get_inputs()]
        self._longest = facts.get("longest_input")
        self.token_types = "token_type_ids" in self._names
        # Versions up to 0.1 gave one dynamic range to all tokens of a call.
        self._one_range = facts.get("method") == "dynamic" and facts.get(RANGES) != RANGES_OF_TOKENS
        self.name = "onnx" if facts.get("precision", "fp32") == "fp32" else f"onnx-{facts['precision']}"

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See `Runtime`; of a masked-LM model the logits are (batch, length, vocabulary)."""
        check_fits(inputs, self._longest)
        return _each_alone(self._run, inputs) if self._one_range else self._run(inputs)

    def _run(self, inputs: ModelInputs) -> NDArray[np.float32]:
        return _stacked(self._session.run(None, {name: inputs[name] for name in self._names}))


class OpenVinoRuntime:
    """An exported model in OpenVINO on the CPU.

    Args:
        model: an exported folder, or a model file.
        threads: that it may use; 0 = OpenVINO chooses.

    Raises:
        UserError: there is no such file, OpenVINO cannot read it, or OpenVINO is not installed.
    """

    name = "openvino"

    def __init__(self, model: Path, *, threads: int = 0) -> None:
        openvino = require("openvino", extra="openvino")
        file = _model_file(model)
        facts = exported_facts(file.parent)
        settings = {"PERFORMANCE_HINT": "LATENCY", **({"INFERENCE_NUM_THREADS": threads} if threads else {})}
        try:
            self._compiled = openvino.Core().compile_model(str(file), "CPU", settings)
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
    """The logits of each input computed by itself and without its padding, whose logits are zero."""
    rows = []
    for row, mask in enumerate(inputs["attention_mask"]):
        length = int(np.flatnonzero(mask)[-1]) + 1 if mask.any() else len(mask)
        logits = run({name: array[row : row + 1, :length] for name, array in inputs.items()})[0]
        of_tokens = logits.ndim == 2  # of a text there is one vector
        rows.append(np.pad(logits, ((0, len(mask) - length), (0, 0))) if of_tokens else logits)
    return np.stack(rows)


def exported_facts(folder: Path) -> dict[str, Any]:
    """Facts in the config of an exported folder: `format`, `head`, `precision`, `longest_input` …; else none."""
    config = folder / "config.json"
    facts: dict[str, Any] = atomic.read_json(config).get(EXPORT_KEY, {}) if config.is_file() else {}
    return facts


def _model_file(model: Path) -> Path:
    file = model / MODEL_FILE if model.is_dir() else model
    if not file.is_file():
        fix = "give a folder that `export` made"
        raise UserError(str(model), expected=f"a folder with {MODEL_FILE}", found="none", fix=fix)
    return file


def _stacked(outputs: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    """The only output unchanged; start and end logits stacked to (batch, length, 2)."""
    return outputs[0] if len(outputs) == 1 else np.stack(outputs, axis=-1)
