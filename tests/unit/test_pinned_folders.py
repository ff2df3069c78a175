"""Local model folders are pinned: one that changes while a run is unfinished is refused, whichever file it is."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.models import pinned_folders
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, save_model
from tinydistilbert.pipeline import run as pipeline
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.inputs import Inputs
from tinydistilbert.recipe import toml
from tinydistilbert.storage import atomic


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    save_model(tiny.model(num_hidden_layers=1), tokenizer, tmp_path / "model")
    return tmp_path / "model"


def rewritten(path: Path) -> None:
    """Another content of the same size, with the old times of reading and writing."""
    before, content = path.stat(), bytearray(path.read_bytes())
    content[-2] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def replaced(path: Path) -> None:
    other = path.with_name("other")
    other.write_bytes(path.read_bytes() + b" ")
    other.rename(path)


def read(folder: Path) -> None:
    load_config(folder)
    load_tokenizer(folder)
    load_model(folder, "masked-lm")


@pytest.mark.parametrize("change", [rewritten, replaced, Path.unlink])
@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors"])
def test_a_pinned_folder_is_refused_when_a_file_changes(
    folder: Path, name: str, change: Callable[[Path], None]
) -> None:
    with pinned_folders.pinned({str(folder): pinned_folders.file_hashes(folder)}):
        read(folder)
        change(folder / name)
        with pytest.raises(UserError, match=f"model: {name} changed") as caught:
            read(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["vocab.txt", "special_tokens_map.json", "model-00001-of-00002.safetensors"])
def test_a_file_that_loaders_would_read_too_may_not_appear(folder: Path, name: str) -> None:
    hashes = pinned_folders.file_hashes(folder)
    (folder / name).write_text("{}")
    with pytest.raises(UserError, match=f"{name} changed"), pinned_folders.pinned({str(folder): hashes}):
        pytest.fail("entered")


def test_shards_are_pinned_by_whatever_name_the_index_gives_them(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    index = {"weight_map": {"every.weight": "part.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pinned_folders.pinned({str(folder): pinned_folders.file_hashes(folder)}):
        rewritten(folder / "part.safetensors")
        with pytest.raises(UserError, match=r"part\.safetensors changed"):
            load_model(folder, "masked-lm")


def test_files_that_no_loader_reads_and_a_mere_touch_change_nothing(folder: Path) -> None:
    with pinned_folders.pinned({str(folder): pinned_folders.file_hashes(folder)}):
        (folder / "README.md").write_text("A card.")
        (folder / "model.safetensors").touch()
        read(folder)


def test_a_folder_is_pinned_only_inside_the_with_and_the_outer_pins_come_back(folder: Path, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    outer = {str(folder): pinned_folders.file_hashes(folder)}
    with pinned_folders.pinned(outer):
        with pinned_folders.pinned({str(other): pinned_folders.file_hashes(other)}):
            pass
        rewritten(other / "model.safetensors")
        read(other)
        rewritten(folder / "model.safetensors")
        with pytest.raises(UserError, match="changed"):
            read(folder)
    read(folder)


def test_every_file_is_hashed_once_in_a_process(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hashed: list[str] = []
    real = atomic.sha256
    monkeypatch.setattr(atomic, "sha256", lambda path: hashed.append(path.name) or real(path))
    with pinned_folders.pinned({str(folder): pinned_folders.file_hashes(folder)}):
        for _ in range(3):
            read(folder)
    assert len(hashed) == len(set(hashed)) and "model.safetensors" in hashed


RECIPE_CONTENTS: dict[str, Callable[[str], dict[str, Any]]] = {
    "teacher.model": lambda folder: {"teacher": {"model": folder}},
    "finetune.model": lambda folder: {"finetune": {"model": folder, "tasks": ["cola"]}},
    "finetune.distillation.teachers": lambda folder: {
        "finetune": {"tasks": ["cola"], "distillation": {"teachers": ["/not/there", folder]}}
    },
    "compress.model": lambda folder: {
        "finetune": {"tasks": ["cola"]}, "compress": {"model": folder, "tasks": ["cola"]}
    },
    "compress.teachers": lambda folder: {
        "finetune": {"tasks": ["cola"]}, "compress": {"model": "/not/there", "tasks": ["cola"], "teachers": [folder]}
    },
}  # fmt: skip


@pytest.fixture(params=RECIPE_CONTENTS)
def begun(
    request: pytest.FixtureRequest, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], RunContext]:
    """Makes the context of a run that reads `folder` in one of the places of a recipe, as a command does."""
    monkeypatch.setattr(pipeline, "check_inputs", lambda _: None)
    monkeypatch.setattr(Inputs, "sources", {})  # beside the models nothing is read
    recipe = toml.from_dict({"precision": "fp32", **RECIPE_CONTENTS[request.param](str(folder))}, "test")
    return lambda: pipeline.run_context(recipe, tmp_path / "run", until="report", log=pytest.fail)


def test_a_run_goes_on_only_with_the_folder_that_it_was_begun_with(
    begun: Callable[[], RunContext], folder: Path
) -> None:
    with pipeline.claimed(begun()):
        load_tokenizer(folder)
    old = (folder / "tokenizer.json").read_bytes()
    rewritten(folder / "tokenizer.json")
    kept = begun().folder.inputs.read_bytes()
    with pytest.raises(UserError, match=r"model: tokenizer\.json changed"), pipeline.claimed(begun()):
        pytest.fail("claimed")
    assert begun().folder.inputs.read_bytes() == kept
    (folder / "tokenizer.json").write_bytes(old)
    with pipeline.claimed(begun()):
        rewritten(folder / "model.safetensors")  # while the command runs
        with pytest.raises(UserError, match=r"model: model\.safetensors changed"):
            load_model(folder, "masked-lm")


def test_a_run_of_an_earlier_version_goes_on_and_is_pinned_from_then_on(
    begun: Callable[[], RunContext], folder: Path
) -> None:
    with pipeline.claimed(begun()):
        pass
    inputs = begun().folder.inputs
    first = atomic.read_json(inputs)
    del first["precision"]  # which an earlier version did not keep: nobody knows it now
    atomic.write_json(inputs, {"corpus": "0" * 64})
    with pipeline.claimed(begun()):
        pass
    assert atomic.read_json(inputs) == {"corpus": "0" * 64} | first
    rewritten(folder / "model.safetensors")
    with pytest.raises(UserError, match="changed"), pipeline.claimed(begun()):
        pytest.fail("claimed")


def test_a_folder_that_is_gone_is_left_to_those_who_need_it(begun: Callable[[], RunContext], folder: Path) -> None:
    with pipeline.claimed(begun()):
        pass
    shutil.rmtree(folder)
    with pipeline.claimed(begun()):
        pass


def test_folders_that_a_run_does_not_read_are_not_pinned(folder: Path, tmp_path: Path) -> None:
    content = {"teacher": {"model": str(folder)}, "finetune": {"model": "some/model", "tasks": ["cola"]}}
    recipe = toml.from_dict(content, "test")
    assert pipeline.run_context(recipe, tmp_path, until="report", log=print).given_models() == ("some/model",)
    teachers = {"finetune": {"tasks": ["cola"], "distillation": {"teachers": [str(folder)]}}}
    run = pipeline.run_context(toml.from_dict(teachers, "test"), tmp_path, until="distill", log=print)
    assert run.given_models() == (run.recipe.teacher.model,)
