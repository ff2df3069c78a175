"""The back ends to time, each opened from a folder in its format, with one thread."""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tinydistilbert.errors import UserError
from tinydistilbert.models.heads import head_of
from tinydistilbert.models.loading import Head, load_config, load_model
from tinydistilbert.models.runtimes import ModelInputs, OnnxRuntime, OpenVinoRuntime, Runtime
from tinydistilbert.models.torch_runtime import TorchRuntime, uses_token_types

TORCH, COMPILED, ONNX, INT8, OPENVINO = "torch", "torch-compile", "onnx", "onnx-int8", "openvino"


class PlainTorch:
    """A model as transformers runs it, every position of every layer, as in published timings."""

    name = TORCH

    def __init__(self, model: PreTrainedModel) -> None:
        self.token_types = uses_token_types(model)
        self._model = model

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See `Runtime`."""
        with torch.inference_mode():
            output = self._model(**{name: torch.from_numpy(array) for name, array in inputs.items()})
        logits = output.logits if "logits" in output else torch.stack((output.start_logits, output.end_logits), dim=-1)
        array: NDArray[np.float32] = logits.numpy()
        return array


def clamp_ids(inputs: ModelInputs, vocabulary_size: int) -> ModelInputs:
    """Return inputs with every id beyond the `vocabulary_size` rows of an embedding replaced by the last one.

    Only models with random weights and a larger tokenizer need this; the ids do not change the time.
    """
    return {**inputs, "input_ids": np.minimum(inputs["input_ids"], vocabulary_size - 1)}


class ClampedRuntime:
    """A runtime of a model whose embedding has fewer rows than the tokenizer has tokens."""

    def __init__(self, runtime: Runtime, vocabulary_size: int) -> None:
        self.name, self.token_types = runtime.name, runtime.token_types
        self._runtime, self._vocabulary_size = runtime, vocabulary_size

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        """See `Runtime`."""
        return self._runtime(clamp_ids(inputs, self._vocabulary_size))


def open_runtime(folder: Path, backend: str) -> Runtime:
    """Return the runtime of `backend` for a task model's folder in the format of this back end.

    Raises:
        UserError: it is no such folder, the back end is not installed, or it does not work on this machine.
    """
    if backend.startswith(OPENVINO):  # in the precision of its folder
        return OpenVinoRuntime(folder, threads=1)
    if backend in (ONNX, INT8):
        return OnnxRuntime(folder, threads=1)
    model, head = open_model(folder)
    if backend == TORCH:
        return PlainTorch(model)
    runtime = TorchRuntime(model, span=head == "span", compiled=True)
    _compile(runtime)
    return runtime


def open_model(folder: Path) -> tuple[PreTrainedModel, Head]:
    """Return the task model in a folder, in evaluation mode, and its head.

    Raises:
        UserError: it is no such folder.
    """
    head = head_of(folder, load_config(folder))
    return load_model(folder, head, require_head=True).eval(), head


def _compile(runtime: Runtime) -> None:
    """Run the first calls before anything is timed, and refuse a model that torch.compile cannot compile."""
    try:
        with torch._dynamo.config.patch(suppress_errors=False):
            for length in (12, 31, 128):
                names = ["input_ids", "attention_mask", *(["token_type_ids"] if runtime.token_types else [])]
                runtime({name: np.ones((1, length), np.int64) for name in names})
    except (torch._dynamo.exc.TorchDynamoException, RuntimeError) as error:
        found = str(error).strip().split("\n", 1)[0][:200]
        fix = f"install a C++ compiler such as g++, or leave {COMPILED} out of benchmark.backends"
        raise UserError(
            f"back end {COMPILED}", expected="a model that torch.compile can compile", found=found, fix=fix
        ) from None
