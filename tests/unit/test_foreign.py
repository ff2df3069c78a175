"""What is looked at before a stranger's model is read."""

import json
import resource
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from transformers import BertConfig, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from tinydistilbert import fsio, recipe
from tinydistilbert.errors import UserError, told
from tinydistilbert.models import foreign
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, save_model
from tinydistilbert.models.teacher import load_teacher

CONFIG = BertConfig(
    vocab_size=232, hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=2, pad_token_id=0
)


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    save_model(BertForMaskedLM(CONFIG), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def put(path: Path, **changes: object) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_headers_are_read_as_they_were_written(tmp_path: Path) -> None:
    tensors = {"a": torch.ones(2, 3), "b": torch.ones(0, dtype=torch.int64), "c": torch.ones(5, dtype=torch.bfloat16)}
    save_file(tensors, tmp_path / "x.safetensors", metadata={"format": "pt"})
    found = foreign.read_header(tmp_path / "x.safetensors")
    shapes = {"a": foreign.Entry("F32", (2, 3)), "b": foreign.Entry("I64", (0,)), "c": foreign.Entry("BF16", (5,))}
    assert found == shapes


def header_file(path: Path, header: object, data: int) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))
    return path


@pytest.mark.parametrize(
    ("offsets", "shapes", "data", "found"),
    [
        ([(0, 4), (4, 8)], [[1], [1]], 8, None),
        ([(0, 4), (0, 4)], [[1], [1]], 4, "a tensor at 0 where the one before ends at 4"),
        ([(0, 4), (8, 12)], [[1], [1]], 12, "a tensor at 8 where the one before ends at 4"),
        ([(4, 8), (8, 12)], [[1], [1]], 12, "a tensor at 4 where the one before ends at 0"),
        ([(0, 4), (4, 8)], [[1], [1]], 9, "8 bytes of tensors in 9 bytes of data"),
        ([(0, 4), (4, 8)], [[1], [2]], 8, r"t1 of shape \[2\] in 4 bytes"),
        ([(0, 4), (4, 8)], [[1], [-1]], 8, "t1 with a size or a place that is no number"),
        ([(0, 4), (4, 8)], [[1], [2**62]], 8, "t1 of shape"),
    ],
)
def test_tensors_fill_the_file_one_after_the_other(offsets, shapes, data, found, tmp_path: Path) -> None:
    entries = [{"dtype": "F32", "shape": s, "data_offsets": o} for s, o in zip(shapes, offsets, strict=True)]
    path = header_file(tmp_path / "x", {f"t{i}": entry for i, entry in enumerate(entries)}, data)
    if found is None:
        assert set(foreign.read_header(path)) == {"t0", "t1"}
        return
    with pytest.raises(UserError, match=found):
        foreign.read_header(path)


def test_a_config_of_more_than_the_file_holds_is_refused_at_once_and_without_memory(folder: Path) -> None:
    for changes in ({"vocab_size": 10**6, "hidden_size": 10**5}, {"vocab_size": 10**6, "hidden_size": 16_384}):
        put(folder / "config.json", **changes)
        before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
        with pytest.raises(UserError):
            load_model(folder, "masked-lm")
        assert time.process_time() - start < 1
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # KiB


def test_the_least_weights_of_a_config_are_those_of_its_matrices(new_model, family: str) -> None:
    model = new_model(family)
    counted = sum(parameter.numel() for parameter in model.base_model.parameters() if parameter.dim() == 2)
    assert 0.7 * counted < foreign.least_weights(model.config) <= counted


def test_a_config_counts_what_was_pruned_as_gone() -> None:
    pruned = BertConfig.from_dict(CONFIG.to_dict() | {"pruned": {"heads": [1, 2], "intermediate": [3, 4]}})
    gone = 32 * (4 * (32 + 32 - 8 - 16) + 2 * (48 + 48 - 3 - 4))
    assert foreign.least_weights(CONFIG) - foreign.least_weights(pruned) == gone


def test_shards_in_the_folder_are_read_and_those_elsewhere_are_not(folder: Path, tmp_path: Path) -> None:
    model = load_model(folder, "masked-lm")
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    names = set(json.loads((folder / foreign.INDEX).read_text())["weight_map"].values())
    assert len(names) > 1
    again = load_model(folder, "masked-lm")
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in again.state_dict().items())
    first = min(names)
    (folder / first).rename(tmp_path / first)
    (folder / first).symlink_to(tmp_path / first)
    with pytest.raises(UserError, match="a file in this folder"):
        load_model(folder, "masked-lm")


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "model.safetensors"])
def test_files_of_a_finished_folder_are_compared_with_its_manifest(folder: Path, name: str) -> None:
    def read() -> None:
        load_config(folder)
        load_tokenizer(folder)
        load_model(folder, "masked-lm")

    fsio.write_manifest(folder)
    read()
    content = (folder / name).read_bytes()
    (folder / name).write_bytes(content + b" ")
    with pytest.raises(UserError, match="other content"):
        read()
    (folder / name).write_bytes(content)
    (folder / "added_tokens.json").write_text("{}")  # which would be read, and was not there
    with pytest.raises(UserError, match="none in the manifest"):
        read()


def test_weights_are_hashed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fsio.write_manifest(folder)
    hashed: list[str] = []
    real = fsio.sha256
    monkeypatch.setattr(fsio, "sha256", lambda path: (hashed.append(path.name), real(path))[1])
    load_teacher(recipe.Teacher(model=str(folder)))
    assert hashed.count("model.safetensors") == 1


def test_whatever_a_library_raises_is_told_in_one_line() -> None:
    class PanicException(BaseException):
        """As the libraries in Rust have one."""

    for error in (KeyError("a"), Exception("first\nlast"), RecursionError(), MemoryError(), PanicException("oh")):
        with pytest.raises(UserError, match="expected this"), told("here", expected="this", cure="do"):
            raise error
    for stop in (KeyboardInterrupt(), SystemExit(2)):
        with pytest.raises(type(stop)), told("here", expected="this", cure="do"):
            raise stop


def test_the_wrong_encoder_is_still_an_encoder_of_its_family(folder: Path) -> None:
    BertModel(CONFIG).save_pretrained(folder)
    with pytest.raises(UserError, match="missing"):
        load_model(folder, "masked-lm")
