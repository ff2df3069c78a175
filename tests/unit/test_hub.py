"""Which version of a hub model all its parts come from, in this process and in one that goes on with its run."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.compress import builder
from tinydistilbert.compress.vocabulary import trim
from tinydistilbert.errors import UserError
from tinydistilbert.models import hub as hub_module
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, save_model
from tinydistilbert.models.runtimes import model_bytes
from tinydistilbert.models.teacher import load_teacher
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.pipeline import run
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.recipe import schema, toml
from tinydistilbert.storage import atomic

CONFIG = tiny.config(**tiny.WIDER)
COMMIT, OTHER = "0123456789abcdef" * 2 + "01234567", "f" * 40
MODEL_FIX = "give a folder with config.json and model.safetensors, a hub name (with network), or 'offline'"


@pytest.fixture
def folder(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    save_model(tiny.model(**tiny.WIDER), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def hub(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The cache of the hub with a model in two versions, of which `main` is the first."""
    cache = tmp_path / "hub"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(hub_module, "_pinned", {})
    hub_module._downloaded.cache_clear()
    repository = cache / "models--some--model"
    atomic.write_text(repository / "refs/main", COMMIT)
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


@dataclass
class Network:
    """The hub as far as this program asks it; every name stands for `COMMIT` there, and for `OTHER` in the cache."""

    cache: Path
    trouble: Exception | None = None
    is_cached: bool = True
    asked: list[tuple[str, str | None]] = field(default_factory=list)
    downloaded: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    def model_info(self, name: str, **keywords: Any) -> SimpleNamespace:
        self.asked.append((name, keywords.pop("revision")))
        assert not keywords
        if self.trouble:
            raise self.trouble
        return SimpleNamespace(sha=COMMIT)

    def snapshot_download(self, name: str, **keywords: Any) -> str:
        self.downloaded.append((name, keywords))
        is_local = keywords.get("local_files_only", False)
        if not self.is_cached:
            raise LookupError("not in the cache") if is_local else self.trouble or ConnectionError()
        return str(self.cache / (OTHER if is_local else keywords["revision"]))


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Network]:
    (tmp_path / "cache").mkdir()
    fake_hub = Network(tmp_path / "cache")
    monkeypatch.setattr(
        huggingface_hub.HfApi, "model_info", lambda _, name, **keywords: fake_hub.model_info(name, **keywords)
    )
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake_hub.snapshot_download)
    monkeypatch.setattr(hub_module, "_pinned", {})
    hub_module._downloaded.cache_clear()
    yield fake_hub
    hub_module._downloaded.cache_clear()


def test_a_hub_model_is_pinned_once_and_told(hub: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loaded = load_teacher(schema.Teacher(model="some/model"))
    atomic.write_text(hub / "refs/main", OTHER)  # somebody publishes another version meanwhile
    assert load_config("some/model").initializer_range == loaded.model.config.initializer_range == 0.02
    assert load_tokenizer("some/model")("the student")["input_ids"]
    advice = f'to keep this version, add teacher.revision = "{COMMIT}" to the recipe, or use this name'
    assert capsys.readouterr().err == f"pinned some/model@{COMMIT}: {advice}\n"


def test_a_path_of_windows_is_a_hub_name_too(network: Network) -> None:
    name: Any = PureWindowsPath("some/model")
    assert str(name) == "some\\model"
    assert hub_module.local_folder(name, None, ("config.json",)) == network.cache / COMMIT
    assert hub_module.pinned_revisions() == {"some/model": COMMIT}


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


def test_a_hub_model_is_compressed_as_a_folder_is(hub: Path, folder: Path, tmp_path: Path) -> None:
    models = [Path("some/model"), Path(f"some/model@{OTHER}"), folder]
    sizes = [model_bytes(builder.on_disk(model)) for model in models]
    assert sizes == [(folder / "model.safetensors").stat().st_size] * 3
    tokenizer = hub / "blobs/1tokenizer.json"
    tokenizer.write_bytes(tokenizer.read_bytes() + b" ")
    tokenized: Any = SimpleNamespace(tokenized={})
    read = [builder._tokenized(tokenized, model) for model in models]
    assert read[0] is read[2] is not read[1], "a tokenizer for each content of its files"
    trim(models[0], ["the student"], tmp_path / "trimmed")
    assert load_config(tmp_path / "trimmed").vocab_size < CONFIG.vocab_size


def test_parts_of_a_hub_model_know_its_name_and_not_where_the_cache_is(hub: Path) -> None:
    assert load_config("some/model", OTHER).name_or_path == "some/model"
    assert load_tokenizer("some/model", OTHER).name_or_path == "some/model"


def test_what_is_wrong_with_a_hub_model_is_told_with_its_revision(hub: Path) -> None:
    def error_where(load: Callable[[], object]) -> str:
        with pytest.raises(UserError) as error:
            load()
        return error.value.where

    (hub / "blobs/1tokenizer.json").write_text("{}")
    assert error_where(lambda: load_tokenizer("some/model", OTHER)) == f"tokenizer of model some/model@{OTHER}"
    weights = load_file(hub / "blobs/1model.safetensors")
    del weights["bert.encoder.layer.1.output.dense.weight"]
    save_file(weights, hub / "blobs/1model.safetensors")
    assert error_where(lambda: load_model("some/model", "masked-lm", revision=OTHER)) == f"model some/model@{OTHER}"
    (hub / "blobs/1model.safetensors").write_bytes(b"")
    assert error_where(lambda: load_model("some/model", "masked-lm", revision=OTHER)).endswith("model.safetensors")
    (hub / "blobs/1config.json").write_text('{"model_type": "gpt2"}')
    assert error_where(lambda: load_model("some/model", "masked-lm", revision=OTHER)) == f"model some/model@{OTHER}"


def test_a_tokenizer_is_compared_with_the_config_of_its_own_version(hub: Path) -> None:
    content = json.loads((hub / "blobs/1config.json").read_text())
    (hub / "blobs/1config.json").write_text(json.dumps(content | {"vocab_size": 231}))
    assert len(load_tokenizer("some/model", COMMIT)) == 232
    with pytest.raises(UserError, match="expected token ids below 231, found 231"):
        load_tokenizer("some/model", OTHER)


@pytest.mark.parametrize("name", ["some/other", "some/model@other"])
def test_hub_names_that_nobody_knows_are_refused(hub: Path, name: str) -> None:
    with pytest.raises(UserError) as error:
        load_config(name)
    assert (error.value.where, error.value.fix) == (f"model {name}", MODEL_FIX)


NO_NAMES = ["some/model/more", "a b", "../model", "./model", "/some/model", ".model", "-model", "@main", "some/model\n"]


@pytest.mark.parametrize("revision", [None, "main"])
@pytest.mark.parametrize("name", NO_NAMES)
def test_what_can_be_no_name_of_the_hub_is_a_folder_that_is_not_there(
    network: Network, name: str, revision: str | None
) -> None:
    with pytest.raises(UserError) as error:
        hub_module.local_folder(name, revision, ("config.json",))
    where = f"model {name}".replace("\n", " ") + ("@main" if revision else "")
    assert str(error.value) == f"{where}: expected a model folder or hub name, found no such folder; {MODEL_FIX}"
    assert network.asked == network.downloaded == []


def test_a_folder_is_taken_before_a_hub_model_of_its_name(
    folder: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder.parent)
    assert hub_module.local_folder("model", None, ("config.json",)) == Path("model")
    assert network.asked == network.downloaded == []


def test_offline_is_the_encoder_of_the_wheel_and_no_name_of_the_hub(network: Network) -> None:
    assert hub_module.local_folder(schema.OFFLINE_TEACHER, None, ("config.json",)) == wheel_folder()
    assert network.asked == network.downloaded == []


# --- What is asked of the network ---


@pytest.mark.parametrize(
    ("name", "revision", "asked", "pinned"),
    [
        ("model", None, ("model", None), "model"),
        ("some/model", None, ("some/model", None), "some/model"),
        ("some/model", "v2", ("some/model", "v2"), "some/model@v2"),
        ("some/model@v2", None, ("some/model", "v2"), "some/model@v2"),
        ("some/model@v2", "v3", ("some/model", "v3"), "some/model@v3"),
        ("some/model@", None, ("some/model", None), "some/model"),
        ("some/model", COMMIT[:39], ("some/model", COMMIT[:39]), f"some/model@{COMMIT[:39]}"),
        ("some/model", COMMIT + "0", ("some/model", COMMIT + "0"), f"some/model@{COMMIT}0"),
    ],
)
def test_a_name_or_branch_is_looked_up_once_and_then_read_at_its_commit(
    network: Network, name: str, revision: str | None, asked: tuple[str, str | None], pinned: str
) -> None:
    first = hub_module.local_folder(name, revision, ("config.json", "model-*.safetensors"))
    again = hub_module.local_folder(name, revision, ("config.json", "model-*.safetensors"))
    other = hub_module.local_folder(name, revision, ("vocab.txt",))
    assert first == again == other == network.cache / COMMIT
    assert network.asked == [asked]
    at = {"revision": COMMIT}
    assert network.downloaded == [
        (asked[0], at | {"allow_patterns": ["config.json", "model-*.safetensors"]}),
        (asked[0], at | {"allow_patterns": ["vocab.txt"]}),
    ]
    assert hub_module.pinned_revisions() == {pinned: COMMIT}


@pytest.mark.parametrize(("name", "revision"), [("some/model", OTHER), (f"some/model@{OTHER}", None)])
def test_a_commit_is_not_looked_up_and_not_pinned(
    network: Network, name: str, revision: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert hub_module.local_folder(name, revision, ("config.json",)) == network.cache / OTHER
    assert network.downloaded == [("some/model", {"revision": OTHER, "allow_patterns": ["config.json"]})]
    assert network.asked == [] and hub_module.pinned_revisions() == {} and capsys.readouterr().err == ""


def test_pins_of_an_earlier_process_are_followed_without_a_word(
    network: Network, capsys: pytest.CaptureFixture[str]
) -> None:
    hub_module.pin_revisions({"some/model": OTHER})
    hub_module.pin_revisions({"some/model@v2": "a" * 40})
    assert hub_module.local_folder("some/model", None, ()) == network.cache / OTHER
    assert hub_module.local_folder("some/model", "v2", ()) == network.cache / ("a" * 40)
    assert network.asked == [] and capsys.readouterr().err == ""
    copied = hub_module.pinned_revisions()
    copied["some/model"] = COMMIT  # what a caller does with them changes nothing here
    assert hub_module.pinned_revisions() == {"some/model": OTHER, "some/model@v2": "a" * 40}


def test_without_a_network_a_branch_is_what_the_cache_remembers_of_it(network: Network) -> None:
    network.trouble = ConnectionError("no way there")
    assert hub_module.local_folder("some/model", "v2", ("config.json",)) == network.cache / OTHER
    local, download = network.downloaded
    assert local == ("some/model", {"revision": "v2", "local_files_only": True})
    assert download == ("some/model", {"revision": OTHER, "allow_patterns": ["config.json"]})


LONG = "x" * 159 + "yz"


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [
        (ConnectionError("no way there"), "no way there"),
        (ConnectionError("\n  no way there  \nat all\nanywhere\n"), "no way there  "),
        (ConnectionError(), "ConnectionError"),
        (ConnectionError(" \n "), "ConnectionError"),
        (ConnectionError(LONG), LONG[:160]),
    ],
)
@pytest.mark.parametrize(
    ("name", "where"),
    [("some/model", "some/model"), ("some/model@v2", "some/model@v2"), (f"some/model@{OTHER}", f"some/model@{OTHER}")],
)
def test_a_model_that_is_neither_there_nor_in_the_cache_is_told_with_the_first_trouble(
    network: Network, trouble: Exception, reason: str, name: str, where: str
) -> None:
    network.trouble, network.is_cached = trouble, False
    with pytest.raises(UserError) as error:
        hub_module.local_folder(name, None, ("config.json",))
    assert str(error.value) == f"model {where}: expected a model folder or hub name, found {reason}; {MODEL_FIX}"
    assert hub_module.pinned_revisions() == {}


def test_each_part_of_a_model_asks_for_its_own_files_only(network: Network, folder: Path) -> None:
    folder.rename(network.cache / COMMIT)
    config = ["config.json"]
    tokenizer = [
        "config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
        "vocab.txt", "vocab.json", "merges.txt", "sentencepiece.bpe.model",
    ]  # fmt: skip
    weights = ["config.json", "model.safetensors", "model.safetensors.index.json", "model-*.safetensors"]
    load_config("some/model")
    assert [keywords["allow_patterns"] for _, keywords in network.downloaded] == [config]
    load_tokenizer("some/model")
    assert [keywords["allow_patterns"] for _, keywords in network.downloaded] == [config, tokenizer]
    load_model("some/model", "masked-lm")
    assert [keywords["allow_patterns"] for _, keywords in network.downloaded] == [config, tokenizer, weights]


def begun(output: Path, text: Path) -> RunContext:
    """A run with a teacher from the hub, in a process that has read nothing of it yet."""
    hub_module._pinned.clear()
    content = {
        "name": "tiny", "device": "cpu", "teacher": {"model": "some/model"},
        "corpus": {"source": str(text), "block_size": 16, "validation_share": 0.2},
    }  # fmt: skip
    return run.run_context(toml.from_dict(content, "test"), output, until="prepare", log=lambda _: None)


def test_a_run_goes_on_with_the_version_that_it_was_begun_with(
    hub: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = tmp_path / "text.txt"
    text.write_text("\n\n".join(f"The student {number} learns from the teacher." for number in range(80)))
    run.run_stages(begun(tmp_path / "run", text))
    assert atomic.read_json(tmp_path / "run" / "inputs.json")["model some/model"] == COMMIT
    assert f"pinned some/model@{COMMIT}" in capsys.readouterr().err
    atomic.write_text(hub / "refs/main", OTHER)  # somebody publishes another version meanwhile
    again = begun(tmp_path / "run", text)
    run.run_stages(again)
    assert again.sources.original_teacher.model.config.initializer_range == 0.02
    assert "pinned" not in capsys.readouterr().err
    other = begun(tmp_path / "other", text)
    run.run_stages(other)
    assert other.sources.original_teacher.model.config.initializer_range == 0.5, (
        "a new run takes what the name stands for now"
    )
