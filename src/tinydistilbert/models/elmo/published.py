"""Convert ELMo's published weights, AllenNLP's HDF5 file and options file, to a model folder.

TensorFlow (`bilm-tf`) wrote the file, so matrices are transposed, and the gates of an LSTM are in another order.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from tinydistilbert.errors import UserError
from tinydistilbert.models.elmo.language_model import BiLanguageModel, ElmoConfig
from tinydistilbert.models.elmo.tokenizer import CHARACTERS, WORD_LENGTH, elmo_tokenizer
from tinydistilbert.optional import require
from tinydistilbert.storage import atomic

WEIGHTS = "model.safetensors"
FIX = "give the weights and the options of one model, as they were downloaded"


def write_published(weights: Path, options: Path, output: Path) -> None:
    """Write the model folder `output` from published weights: an encoder for fine-tuning, without a task model.

    Args:
        weights: `elmo_2x4096_512_2048cnn_2xhighway_weights.hdf5`, or another model's.
        options: the `…_options.json` beside it.
        output: folder to make.

    Raises:
        UserError: a file is missing or of another kind, the two do not fit each other, or h5py is not installed.
    """
    config = read_options(options)
    state = _published_state(weights, config)
    with atomic.unfinished(output) as folder:
        config.save_pretrained(folder)
        save_file({f"bilm.{name}": value for name, value in state.items()}, folder / WEIGHTS, {"format": "pt"})
        elmo_tokenizer().save_pretrained(folder)


def load_published(weights: Path, options: Path) -> BiLanguageModel:
    """Return the published language model.

    Raises:
        UserError: as in `write_published`.
    """
    config = read_options(options)
    state = _published_state(weights, config)
    model = BiLanguageModel(config)
    model.load_state_dict(state)
    return model


def _published_state(weights: Path, config: ElmoConfig) -> dict[str, Tensor]:
    arrays = _Arrays(weights, _read(weights))
    state = _language_model(arrays, config)
    arrays.check_all_taken()
    return state


def read_options(path: Path) -> ElmoConfig:
    """Return the shape of the model.

    Raises:
        UserError: the file is not an options file of ELMo, or the model is of a kind that was never published.
    """
    try:
        options = json.loads(path.read_text(encoding="utf-8"))
        characters, lstm = options["char_cnn"], options["lstm"]
        fixed = {
            "char_cnn.activation": (characters["activation"], ("relu",)),
            "char_cnn.max_characters_per_token": (characters["max_characters_per_token"], (WORD_LENGTH,)),
            "char_cnn.n_characters": (characters["n_characters"], (CHARACTERS - 1, CHARACTERS)),
            "lstm.use_skip_connections": (lstm["use_skip_connections"], (True,)),
        }
        config = ElmoConfig(
            character_size=characters["embedding"]["dim"], filters=characters["filters"],
            num_highway_layers=characters["n_highway"], projection_size=lstm["projection_dim"], cell_size=lstm["dim"],
            num_hidden_layers=lstm["n_layers"], cell_clip=lstm["cell_clip"], projection_clip=lstm["proj_clip"],
        )  # fmt: skip
    except (OSError, ValueError, KeyError, TypeError) as error:
        found = f"{type(error).__name__}: {error}"
        raise UserError(str(path), expected="ELMo's options in JSON", found=found, fix=FIX) from None
    for key, (value, known) in fixed.items():
        if value not in known:
            raise UserError(f"{path}: {key}", expected=f"{known[-1]!r}", found=repr(value), fix="use another model")
    return config


def _read(path: Path) -> dict[str, NDArray[np.float32]]:
    """Return every array of the file by its full name."""
    h5py = require("h5py", extra="elmo")
    arrays: dict[str, NDArray[np.float32]] = {}

    def keep(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name] = np.asarray(item, dtype=np.float32)

    try:
        with h5py.File(path, "r") as file:
            file.visititems(keep)
    except (OSError, ValueError, TypeError) as error:
        found = str(error).split("\n", 1)[0][:160] if path.is_file() else "no such file"
        raise UserError(str(path), expected="ELMo's weights in HDF5", found=found, fix=FIX) from None
    return arrays


class _Arrays:
    """The arrays of a file; each must exist, have the shape that the options require, and be taken once."""

    def __init__(self, path: Path, arrays: dict[str, NDArray[np.float32]]) -> None:
        self._path, self._left = path, dict(arrays)

    def take(self, name: str, *shape: int) -> NDArray[np.float32]:
        array = self._left.pop(name, None)
        if array is None or array.shape != shape:
            found = "none" if array is None else str(array.shape)
            raise UserError(f"{self._path}: {name}", expected=f"numbers of shape {shape}", found=found, fix=FIX)
        return array

    def check_all_taken(self) -> None:
        if self._left:
            found = f"{len(self._left)} more arrays, such as {min(self._left)}"
            raise UserError(
                str(self._path), expected="only the weights that the options describe", found=found, fix=FIX
            )


def _language_model(arrays: _Arrays, config: ElmoConfig) -> dict[str, Tensor]:
    """Return the state of a `BiLanguageModel` of this shape."""
    size, width, cell = config.character_size, config.projection_size, config.cell_size
    filters = sum(count for _, count in config.filters)
    characters_table = arrays.take("char_embed", config.vocab_size - 1, size)  # without row 0, of padding
    state = {"words.embedding.weight": np.concatenate([np.zeros((1, size), np.float32), characters_table])}
    for number, (characters, count) in enumerate(config.filters):
        weight = arrays.take(f"CNN/W_cnn_{number}", 1, characters, size, count)
        state[f"words.convolutions.{number}.weight"] = weight[0].transpose(2, 1, 0)
        state[f"words.convolutions.{number}.bias"] = arrays.take(f"CNN/b_cnn_{number}", count)
    for number in range(config.num_highway_layers):
        for kind, short, shape in (("weight", "W", (filters, filters)), ("bias", "b", (filters,))):
            parts = [arrays.take(f"CNN_high_{number}/{short}_{part}", *shape) for part in ("transform", "carry")]
            state[f"words.highways.{number}.{kind}"] = np.concatenate([part.T for part in parts])
    state["words.projection.weight"] = arrays.take("CNN_proj/W_proj", filters, width).T
    state["words.projection.bias"] = arrays.take("CNN_proj/b_proj", width)
    for direction, folder in (("forward", "RNN_0"), ("backward", "RNN_1")):
        for number in range(config.num_hidden_layers):
            lstm = _lstm(arrays, f"{folder}/RNN/MultiRNNCell/Cell{number}/LSTMCell", width, cell)
            state |= {f"{direction}_layers.{number}.{name}": value for name, value in lstm.items()}
    return {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in state.items()}


def _lstm(arrays: _Arrays, prefix: str, width: int, cell: int) -> dict[str, NDArray[np.float32]]:
    """Return one direction of a layer, with the 1 that TensorFlow adds to the forget gate's bias at run time."""
    weight = _gates(arrays.take(f"{prefix}/W_0", 2 * width, 4 * cell))
    bias = _gates(arrays.take(f"{prefix}/B", 4 * cell))
    bias[cell : 2 * cell] += 1
    return {
        "input.weight": weight[:width].T, "input.bias": bias, "recurrent.weight": weight[width:].T,
        "projection.weight": arrays.take(f"{prefix}/W_P_0", cell, width).T,
    }  # fmt: skip


def _gates(columns: NDArray[np.float32]) -> NDArray[np.float32]:
    """Reorder columns from TensorFlow's (input, cell, forget, output) to torch's (input, forget, cell, output)."""
    input_gate, cell, forget_gate, output_gate = np.split(columns, 4, axis=-1)
    return np.concatenate([input_gate, forget_gate, cell, output_gate], axis=-1)
