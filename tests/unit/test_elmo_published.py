"""ELMo's published weights: the model against a slow reference in the layout of their file, and files that are wrong.

The reference follows the definitions of bilm-tf, which wrote such files, and of AllenNLP, which reads them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tinydistilbert.errors import UserError
from tinydistilbert.models.elmo.model import ElmoForQuestionAnswering
from tinydistilbert.models.elmo.published import load_published, write_published
from tinydistilbert.models.elmo.tokenizer import ElmoTokenizer, elmo_tokenizer
from tinydistilbert.models.loading import load_model, load_tokenizer
from tinydistilbert.storage import atomic

FILTERS = [[1, 3], [2, 4], [3, 5]]
OPTIONS: dict[str, Any] = {
    "lstm": {
        "use_skip_connections": True, "projection_dim": 6, "cell_clip": 0.5, "proj_clip": 0.3, "dim": 10, "n_layers": 2,
    },
    "char_cnn": {
        "activation": "relu", "filters": FILTERS, "n_highway": 2, "embedding": {"dim": 4}, "n_characters": 262,
        "max_characters_per_token": 50,
    },
}  # fmt: skip
SENTENCES = (
    "The tower was built in 1889 by Gustave Eiffel .",
    "Paris !",
    "A large tower stands near the river Seine .",
)
Arrays = dict[str, NDArray[np.float32]]


def published_arrays() -> Arrays:
    draw = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"char_embed": (261, 4), "CNN_proj/W_proj": (12, 6), "CNN_proj/b_proj": (6,)}
    for number, (width, count) in enumerate(FILTERS):
        shapes |= {f"CNN/W_cnn_{number}": (1, width, 4, count), f"CNN/b_cnn_{number}": (count,)}
    for number in range(2):
        for part in ("transform", "carry"):
            shapes |= {f"CNN_high_{number}/W_{part}": (12, 12), f"CNN_high_{number}/b_{part}": (12,)}
        for direction in range(2):
            place = f"RNN_{direction}/RNN/MultiRNNCell/Cell{number}/LSTMCell"
            shapes |= {f"{place}/W_0": (12, 40), f"{place}/B": (40,), f"{place}/W_P_0": (10, 6)}
    return {name: draw.normal(scale=0.6, size=shape).astype(np.float32) for name, shape in shapes.items()}


def sigmoid(x: NDArray[Any]) -> NDArray[Any]:
    return 1 / (1 + np.exp(-x))


def slow_word(arrays: Arrays, inner: Sequence[int]) -> NDArray[Any]:
    """A word vector from the ids between the marks, with every window over all fifty places."""
    ids = [259, *inner, 260]
    ids += [261] * (50 - len(ids))
    table = np.concatenate([np.zeros((1, 4)), arrays["char_embed"]])
    embedded = table[ids]
    pooled = []
    for number, (width, _) in enumerate(FILTERS):
        weight, bias = arrays[f"CNN/W_cnn_{number}"][0], arrays[f"CNN/b_cnn_{number}"]
        windows = [np.einsum("wd,wdn->n", embedded[at : at + width], weight) for at in range(51 - width)]
        pooled.append(np.maximum(np.max(windows, axis=0) + bias, 0))
    x = np.concatenate(pooled)
    for number in range(2):
        layer = {name.split("/")[1]: array for name, array in arrays.items() if name.startswith(f"CNN_high_{number}/")}
        carry = sigmoid(x @ layer["W_carry"] + layer["b_carry"])
        x = carry * np.maximum(x @ layer["W_transform"] + layer["b_transform"], 0) + (1 - carry) * x
    return x @ arrays["CNN_proj/W_proj"] + arrays["CNN_proj/b_proj"]


def slow_lstm(arrays: Arrays, place: str, inputs: list[NDArray[Any]], clips: tuple[float, float]) -> list[NDArray[Any]]:
    cell, state, outputs = np.zeros(10), np.zeros(6), []
    for x in inputs:
        gates = np.concatenate([x, state]) @ arrays[f"{place}/W_0"] + arrays[f"{place}/B"]
        i, j, f, o = np.split(gates, 4)
        cell = np.clip(sigmoid(f + 1) * cell + sigmoid(i) * np.tanh(j), -clips[0], clips[0])
        state = np.clip((sigmoid(o) * np.tanh(cell)) @ arrays[f"{place}/W_P_0"], -clips[1], clips[1])
        outputs.append(state)
    return outputs


def slow_layers(arrays: Arrays, sentence: str, clips: tuple[float, float] = (0.5, 0.3)) -> list[NDArray[Any]]:
    """(words, 12) of each layer for a sentence whose words stand between blanks."""
    words = [[byte + 1 for byte in word.encode()] for word in sentence.split()]
    x = [slow_word(arrays, inner) for inner in ([257], *words, [258])]
    layers = [np.stack([np.concatenate([one, one]) for one in x])]
    ahead, back = x, x[::-1]
    for number in range(2):
        place = f"RNN/MultiRNNCell/Cell{number}/LSTMCell"
        new = slow_lstm(arrays, f"RNN_0/{place}", ahead, clips), slow_lstm(arrays, f"RNN_1/{place}", back, clips)
        if number:
            new = (
                [a + b for a, b in zip(new[0], ahead, strict=True)],
                [a + b for a, b in zip(new[1], back, strict=True)],
            )
        ahead, back = new
        layers.append(np.stack([np.concatenate(pair) for pair in zip(ahead, back[::-1], strict=True)]))
    return [layer[1:-1] for layer in layers]


@pytest.fixture
def published(tmp_path: Path) -> tuple[Path, Path]:
    """A weights file and an options file as AllenNLP distributes them, of a tiny model."""
    h5py = pytest.importorskip("h5py")
    weights, options = tmp_path / "weights.hdf5", tmp_path / "options.json"
    with h5py.File(weights, "w") as file:
        for name, array in published_arrays().items():
            file.create_dataset(name, data=array)
    options.write_text(json.dumps(OPTIONS))
    return weights, options


@torch.no_grad()
def test_published_weights_give_what_a_slow_reference_gives(published: tuple[Path, Path]):
    model, arrays = load_published(*published), published_arrays()
    inputs = elmo_tokenizer()(list(SENTENCES), padding=True, return_tensors="pt")
    lengths = inputs["attention_mask"].sum(-1)
    layers = model(inputs["input_ids"], lengths)
    for row, sentence in enumerate(SENTENCES):
        for expected, layer in zip(slow_layers(arrays, sentence), layers, strict=True):
            np.testing.assert_allclose(layer[row, : lengths[row]].numpy(), expected, atol=2e-5)


def test_the_clips_of_that_reference_are_at_work():
    arrays = published_arrays()
    clipped = slow_layers(arrays, SENTENCES[0])[2]
    assert np.abs(clipped - slow_layers(arrays, SENTENCES[0], (99.0, 0.3))[2]).max() > 0.01
    assert np.abs(clipped - slow_layers(arrays, SENTENCES[0], (0.5, 99.0))[2]).max() > 0.01


def test_a_published_folder_is_an_encoder_for_any_task(published: tuple[Path, Path], tmp_path: Path):
    write_published(*published, tmp_path / "elmo")
    config = json.loads((tmp_path / "elmo" / "config.json").read_text())
    (tmp_path / "elmo" / "config.json").write_text(json.dumps({**config, "hidden_size": 16}))  # 84 M weights less
    atomic.write_manifest(tmp_path / "elmo")  # with the hash of this config
    bare = load_published(*published).state_dict()
    torch.manual_seed(0)
    model = load_model(tmp_path / "elmo", "classification", labels=("no", "maybe", "yes"))
    assert all(torch.equal(value, bare[name]) for name, value in model.elmo.bilm.state_dict().items())
    assert model.config.cell_clip == 0.5 and model.config.num_labels == 3
    assert isinstance(load_model(tmp_path / "elmo", "span"), ElmoForQuestionAnswering)
    assert isinstance(load_tokenizer(tmp_path / "elmo"), ElmoTokenizer)
    assert (tmp_path / "elmo" / "manifest.json").is_file()
    with pytest.raises(UserError, match="missing"):
        load_model(tmp_path / "elmo", "regression", require_head=True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"CNN_proj/b_proj": None}, "CNN_proj/b_proj: expected numbers of shape .6,., found none"),
        ({"char_embed": np.zeros((261, 5))}, "found .261, 5."),
        ({"RNN_0/more": np.zeros(3)}, "1 more arrays, such as RNN_0/more"),
    ],
)
def test_weights_that_do_not_fit_the_options_are_refused(
    published: tuple[Path, Path], tmp_path: Path, change: dict[str, Any], message: str
):
    import h5py

    with h5py.File(published[0], "a") as file:
        for name, array in change.items():
            if name in file:
                del file[name]
            if array is not None:
                file.create_dataset(name, data=array)
    with pytest.raises(UserError, match=message):
        write_published(*published, tmp_path / "elmo")
    assert not list(tmp_path.glob("elmo*"))


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        ("char_cnn", "activation", "tanh", "char_cnn.activation: expected 'relu', found 'tanh'"),
        ("char_cnn", "max_characters_per_token", 30, "expected 50, found 30"),
        ("lstm", "use_skip_connections", False, "expected True"),
        ("lstm", "dim", None, "KeyError"),
    ],
)
def test_options_of_another_kind_are_refused(
    published: tuple[Path, Path], section: str, key: str, value: Any, message: str
):
    options = json.loads(json.dumps(OPTIONS))
    options[section][key] = value
    if value is None:
        del options[section][key]
    published[1].write_text(json.dumps(options))
    with pytest.raises(UserError, match=message):
        load_published(*published)


def test_files_that_are_none_of_elmos_are_refused(published: tuple[Path, Path], tmp_path: Path):
    with pytest.raises(UserError, match="in HDF5"):
        load_published(published[1], published[1])
    with pytest.raises(UserError, match="in HDF5, found no such file"):
        load_published(tmp_path / "none.hdf5", published[1])
    with pytest.raises(UserError, match="in JSON"):
        load_published(published[0], tmp_path / "none.json")
