"""push: what goes up and what stays here, what is refused, and every way in which a hub can fail."""

import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from huggingface_hub import constants

import tinydistilbert as td
from tests import tiny
from tests.unit.hub_stand_in import StandIn, running
from tinydistilbert import notices
from tinydistilbert.api.shareable import is_pickle
from tinydistilbert.errors import UploadFailed, UserError
from tinydistilbert.models.loading import save_model
from tinydistilbert.storage import atomic, made_from

CARD = """---
license: apache-2.0
library_name: transformers
pipeline_tag: text-classification
model-index:
- name: x
  results:
  - task: {type: text-classification}
    dataset: {name: reviews, type: custom}
    metrics: [{type: accuracy, value: 0.9}]
---

# A model
"""


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, tokenizer) -> Path:
    folder = tmp_path_factory.mktemp("push") / "model"
    with atomic.unfinished(folder, note="kept") as output:
        save_model(tiny.model("bert", "classification", num_labels=2), tokenizer, output)
        atomic.write_json(output / made_from.FILE, {"settings": {"train": "/home/me/secret.csv"}})
    atomic.write_text(folder / "README.md", CARD)
    return folder


@pytest.fixture
def model(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "model"))


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[StandIn], None]:
    """Makes huggingface_hub of this process talk to a stand-in, with a token."""

    def use(hub: StandIn) -> None:
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "ENDPOINT", hub.url)
        monkeypatch.setenv("HF_TOKEN", "hf_of_a_test")

    return use


def test_a_dry_run_lists_what_would_go_up_and_needs_no_hub(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    for name in (".env", "data.csv", "NOTICE"):
        (model / name).write_text("x")
    notices.begin()
    planned = td.push(model, "me/x", dry_run=True)
    expected = {"README.md", "NOTICE", "config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"}
    assert planned.files.keys() == expected | {"manifest.json"} and planned.url == ""
    assert planned.files["README.md"] == len(CARD.encode())
    assert planned.left_out.keys() == {".env", "data.csv", made_from.FILE} and not notices.all_notices()


def test_what_arrives_is_whole_and_names_nothing_of_this_machine(
    model: Path, tmp_path: Path, online: Callable[[StandIn], None]
) -> None:
    before = {path: path.read_bytes() for path in model.rglob("*") if path.is_file()}
    with running(StandIn()) as hub:
        online(hub)
        made = td.push(model, "me/x", private=True)
        assert made.url == f"{hub.url}/me/x" and hub.existing == {"me/x": True}
        td.push(model, "me/x", private=True)
    for name, content in hub.files.items():
        atomic.write_bytes(tmp_path / "downloaded" / name, content)
    assert atomic.read_manifest(tmp_path / "downloaded")["note"] == "kept"
    assert td.load(tmp_path / "downloaded").predict("a cat")
    assert b"secret.csv" not in b"".join(hub.files.values()) and made_from.FILE not in hub.files
    assert {path: path.read_bytes() for path in model.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    ("fails", "error", "words"),
    [
        ({"create": 401}, UserError, "does not accept the token"),
        ({"create": 403}, UserError, "may not write"),
        ({"create": 500}, UploadFailed, "the hub failed .500.*again"),
        ({"create": 0}, UploadFailed, "connection to the hub failed.*again"),
        ({"commit": 400}, UserError, "refuses the files .400"),
        ({"commit": 409}, UploadFailed, "somebody else changed the model in the meantime .409.*again"),
    ],
    ids=str,
)
def test_a_hub_that_fails_is_told_in_one_line(
    model: Path, online: Callable[[StandIn], None], fails: dict[str, int], error: type[Exception], words: str
) -> None:
    with running(StandIn(fails=fails)) as hub:
        online(hub)
        with pytest.raises(error, match=words) as caught:
            td.push(model, "me/x")
        assert "\n" not in str(caught.value) and not hub.files
        hub.fails.clear()
        assert td.push(model, "me/x").url and hub.files, "nothing was broken: the same call succeeds"


def test_a_private_model_is_never_published(model: Path, online: Callable[[StandIn], None]) -> None:
    with running(StandIn(existing={"me/x": False})) as hub:
        online(hub)
        with pytest.raises(UserError, match="already and is public"):
            td.push(model, "me/x", private=True)
        assert not hub.files


def test_without_a_token_or_a_network_nothing_is_asked(
    model: Path, online: Callable[[StandIn], None], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with running(StandIn()) as hub:
        online(hub)
        monkeypatch.delenv("HF_TOKEN")
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
        with pytest.raises(UserError, match=r"no token.*HF_TOKEN"):
            td.push(model, "me/x")
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
        with pytest.raises(UserError, match="HF_HUB_OFFLINE is set"):
            td.push(model, "me/x")
        assert not hub.asked


def changed(model: Path) -> None:
    (model / "config.json").write_text((model / "config.json").read_text() + " ")


def with_pickle(model: Path) -> None:
    (model / "optimizer.pt").write_bytes(b"x")


def with_hidden_pickle(model: Path) -> None:
    (model / "extra.bin").write_bytes(pickle.dumps({"a": 1}))


def with_link(model: Path) -> None:
    (model / "notes.md").symlink_to("/etc/hostname")


def without_card(model: Path) -> None:
    (model / "README.md").unlink()


def with_card(content: str) -> Callable[[Path], None]:
    def write(model: Path) -> None:
        (model / "README.md").write_text(content)

    return write


def half_finished(model: Path) -> None:
    (model / "manifest.json").unlink()
    (model / "checkpoints").mkdir()


def a_run(model: Path) -> None:
    (model / "recipe.toml").write_text("")


def no_config(model: Path) -> None:
    (model / "config.json").unlink()
    (model / "manifest.json").unlink()


def no_weights(model: Path) -> None:
    (model / "model.safetensors").unlink()
    (model / "manifest.json").unlink()


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (changed, "found other content"),
        (with_pickle, "optimizer.pt: this is a pickle"),
        (with_hidden_pickle, "extra.bin: this is a pickle"),
        (with_link, "a link to a file outside"),
        (without_card, "the model's card, found none"),
        (with_card("# none"), "a card with a header"),
        (with_card("---\nlicense: [\n---\n"), "a card with a header"),
        (with_card("---\nlicense: mit\n---\n# x\n"), "without pipeline_tag, library_name"),
        (with_card(CARD.replace("# A model", "")), "only a header"),
        (half_finished, "not finished"),
        (a_run, "a whole run"),
        (no_config, "config.json"),
        (no_weights, "weights in safetensors"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_folder_that_is_not_to_be_shared_is_refused(model: Path, damage: Callable[[Path], None], words: str) -> None:
    damage(model)
    with pytest.raises(UserError, match=words):
        td.push(model, "me/x", dry_run=True)


@pytest.mark.parametrize(
    "name", ["x", "", "me/", "/x", "me/x/y", "me/a b", "me/x.git", "me/-x", "me/a--b", "../x", "m" * 90 + "/abcdefg"]
)
def test_a_name_that_the_hub_does_not_take_is_refused(model: Path, name: str) -> None:
    with pytest.raises(UserError, match="user/name"):
        td.push(model, name, dry_run=True)


def test_what_the_card_leaves_open_is_noticed(model: Path) -> None:
    notices.begin()
    (model / "README.md").write_text(CARD.replace("apache-2.0", "unknown").partition("model-index")[0] + "---\n# x\n")
    td.push(model, "me/x", dry_run=True)
    assert [word in " ".join(notices.all_notices()) for word in ("licence is unknown", "no results")] == [True, True]


def test_pickles_are_known_by_their_content(tmp_path: Path) -> None:
    for protocol in (2, 4, 5):
        (tmp_path / "weights").write_bytes(pickle.dumps([1], protocol=protocol))
        assert is_pickle(tmp_path / "weights")
    with zipfile.ZipFile(tmp_path / "archive", "w") as archive:
        archive.writestr("archive/data.pkl", "x")
    assert is_pickle(tmp_path / "archive")
    (tmp_path / "model.bin").write_bytes(b"\x00" * 64)
    assert not is_pickle(tmp_path / "model.bin"), "OpenVINO's weights"


@pytest.mark.long
def test_the_command_uploads_and_says_where(model: Path, tmp_path: Path) -> None:
    with running(StandIn()) as hub:
        settings = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_of_a_test", "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        command = [sys.executable, "-m", "tinydistilbert", "push", str(model), "me/x"]
        done = subprocess.run(command, env=os.environ | settings, capture_output=True, text=True, check=False)
        assert done.returncode == 0 and f"It is at {hub.url}/me/x" in done.stdout, done.stderr
        assert "public" in done.stdout and made_from.FILE in done.stdout and "model.safetensors" in hub.files
        hub.fails["create"] = 500
        done = subprocess.run(
            [*command, "--json"], env=os.environ | settings, capture_output=True, text=True, check=False
        )
        assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: push me/x: the hub failed")
        done = subprocess.run([*command, "--dry-run", "--json"], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and json.loads(done.stdout)["url"] == ""
