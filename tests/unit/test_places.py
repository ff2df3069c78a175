"""Which version of a hub model all its parts come from, in this process and in one that goes on with its run."""

import json
from pathlib import Path

import huggingface_hub
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

from tinydistilbert import fsio, pipeline, recipe, recipe_file
from tinydistilbert.errors import UserError
from tinydistilbert.models import places
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, save_model
from tinydistilbert.models.teacher import load_teacher

CONFIG = BertConfig(
    vocab_size=232, hidden_size=32, num_attention_heads=4, intermediate_size=48, num_hidden_layers=2, pad_token_id=0
)
COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    torch.manual_seed(0)
    save_model(BertForMaskedLM(CONFIG), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub with a model in two versions, of which `main` is the first."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(places, "_pins", {})
    places._downloaded.cache_clear()
    repository = cache / "models--some--model"
    fsio.write_text(repository / "refs/main", COMMIT)
    for number, commit in enumerate((COMMIT, OTHER)):
        snapshot = repository / "snapshots" / commit
        snapshot.mkdir(parents=True)
        (repository / "blobs").mkdir(exist_ok=True)
        for file in folder.iterdir():  # links to blobs, as there
            (repository / "blobs" / f"{number}{file.name}").write_bytes(file.read_bytes())
            (snapshot / file.name).symlink_to(f"../../blobs/{number}{file.name}")
    config = repository / "blobs/1config.json"
    config.write_text(json.dumps(json.loads(config.read_text()) | {"initializer_range": 0.5}))
    return repository


def test_a_hub_model_is_pinned_once_and_told(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_teacher(recipe.Teacher(model="some/model"))
    fsio.write_text(hub / "refs/main", OTHER)  # somebody publishes another version meanwhile
    assert load_config("some/model").initializer_range == loaded.model.config.initializer_range == 0.02
    assert load_tokenizer("some/model")("the student")["input_ids"]
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and err.startswith(f"pinned some/model@{COMMIT}: ")
    assert f'teacher.revision = "{COMMIT}"' in err


def test_a_commit_is_taken_as_it_is(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert load_config("some/model", OTHER).initializer_range == 0.5
    assert load_config(f"some/model@{OTHER}").initializer_range == 0.5
    assert load_model("some/model", "masked-lm", revision=OTHER).config.initializer_range == 0.5
    assert capsys.readouterr().err == ""


def test_sharded_hub_models_are_read_through_the_links_of_the_cache(hub: Path, folder: Path) -> None:
    model = load_model(folder, "masked-lm")
    snapshot = hub / "snapshots" / OTHER
    model.save_pretrained(hub.parent / "sharded", max_shard_size="20KB")
    (snapshot / "model.safetensors").unlink()
    for file in (hub.parent / "sharded").glob("model*"):
        (hub / "blobs" / file.name).write_bytes(file.read_bytes())
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert torch.equal(load_model("some/model", "masked-lm", revision=OTHER).state_dict()["cls.predictions.bias"],
                       model.state_dict()["cls.predictions.bias"])  # fmt: skip


@pytest.mark.parametrize("name", ["some/other", "some/model/more", "a b", "../model", "some/model@other"])
def test_names_that_are_nowhere_are_refused(hub: Path, name: str) -> None:
    with pytest.raises(UserError, match="a model folder or hub name"):
        load_config(name)


def begun(output: Path, text: Path) -> pipeline.Run:
    """A run with a teacher from the hub, in a process that has read nothing of it yet."""
    places._pins.clear()
    content = {
        "name": "tiny", "device": "cpu", "teacher": {"model": "some/model"},
        "corpus": {"source": str(text), "block_size": 16, "validation_share": 0.2},
    }  # fmt: skip
    return pipeline.Run(recipe_file.from_dict(content, "test"), output, until="prepare", tell=lambda _: None)


def test_a_run_goes_on_with_the_version_that_it_was_begun_with(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The student {number} learns from the teacher." for number in range(80)))
    pipeline.run(begun(tmp_path / "run", text))
    assert fsio.read_json(tmp_path / "run" / "inputs.json")["model some/model"] == COMMIT
    assert f"pinned some/model@{COMMIT}" in capsys.readouterr().err
    fsio.write_text(hub / "refs/main", OTHER)  # somebody publishes another version meanwhile
    again = begun(tmp_path / "run", text)
    pipeline.run(again)
    assert again.original_teacher.model.config.initializer_range == 0.02
    assert "pinned" not in capsys.readouterr().err
    other = begun(tmp_path / "other", text)
    pipeline.run(other)
    assert other.original_teacher.model.config.initializer_range == 0.5, "a new run takes what the name stands for now"
