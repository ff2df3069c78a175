"""Old pickled weights become safetensors in a process without rights; what is no model becomes no folder."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, BertForMaskedLM, BertModel, PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.cli.main import main
from tinydistilbert.errors import UserError
from tinydistilbert.models import convert as module
from tinydistilbert.models import unpickle
from tinydistilbert.models.convert import convert
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.storage import atomic

pytestmark = pytest.mark.long

CONFIG = tiny.config(**tiny.WIDER)
WORDS = "bert.embeddings.word_embeddings.weight"


class Runs:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


@pytest.fixture
def old(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A model as it was published in 2019: its head shares memory with the word embeddings."""
    model = tiny.model(**tiny.WIDER)
    folder = tmp_path / "old"
    save_model(model, tokenizer, folder)
    (folder / "model.safetensors").unlink()
    torch.save(model.state_dict(), folder / "pytorch_model.bin")
    return folder


class Forked:
    """The reading process, as a fork of this one: two seconds of imports less. The first test starts a real one."""

    def __init__(self, command: list[str], **_: object) -> None:
        (out, to_out), (err, to_err) = os.pipe(), os.pipe()
        self.code: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            code = 1
            try:
                os.dup2(to_out, 1)
                os.dup2(to_err, 2)
                sys.stdout, sys.stderr = os.fdopen(1, "w"), os.fdopen(2, "w")
                code = unpickle.main(command[3:])
                sys.stdout.flush()
                sys.stderr.flush()
            finally:
                os._exit(code)
        os.close(to_out)
        os.close(to_err)
        self.stdout, self.stderr = os.fdopen(out, "rb"), os.fdopen(err, "rb")

    def wait(self) -> int:
        if self.code is None:
            self.code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        return self.code

    def kill(self) -> None:
        if self.code is None:
            os.kill(self.pid, signal.SIGKILL)


@pytest.fixture
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": Forked}))


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "pytorch_model.bin", weights_only=True)


def test_the_converted_model_is_the_same_and_what_is_tied_is_stored_once(old: Path, tmp_path: Path) -> None:
    convert(old, tmp_path / "new")
    before, after = weights(old), load_file(tmp_path / "new" / "model.safetensors")
    assert before.keys() - after.keys() == {"cls.predictions.decoder.weight", "cls.predictions.decoder.bias"}
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    model = load_model(tmp_path / "new", "masked-lm")
    assert torch.equal(model.cls.predictions.decoder.weight, before[WORDS])
    assert load_tokenizer(tmp_path / "new")("the student")["input_ids"]
    assert (tmp_path / "new" / "config.json").read_bytes() == (old / "config.json").read_bytes()
    assert atomic.read_manifest(tmp_path / "new")["converted_from"] == "old"
    assert type(AutoModelForMaskedLM.from_pretrained(tmp_path / "new")) is BertForMaskedLM


@pytest.mark.usefixtures("forked")
def test_views_and_other_formats_of_torch_are_read_as_well(old: Path, tmp_path: Path) -> None:
    before = weights(old)
    shared = torch.cat([value.flatten() for value in before.values() if value.dtype == torch.float32])
    place, cut = 0, {}
    for name, value in before.items():  # as views of one piece of memory, one of them transposed in it
        cut[name] = shared[place : place + value.numel()].view_as(value) if value.dtype == torch.float32 else value
        place += value.numel() if value.dtype == torch.float32 else 0
    name = "bert.encoder.layer.0.output.dense.weight"
    cut[name] = torch.nn.Parameter(before[name].T.contiguous().T)
    torch.save(cut, old / "pytorch_model.bin", _use_new_zipfile_serialization=False)
    convert(old, tmp_path / "new")
    after = load_file(tmp_path / "new" / "model.safetensors")
    assert torch.equal(after[name], before[name]) and torch.equal(after[WORDS], before[WORDS])
    assert (tmp_path / "new" / "model.safetensors").stat().st_size < 2 * shared.nbytes


@pytest.mark.usefixtures("forked")
def test_names_of_the_first_berts_and_encoders_without_head_are_read(old: Path, tmp_path: Path) -> None:
    gammas = {
        n.replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): v for n, v in weights(old).items()
    }
    torch.save(gammas, old / "pytorch_model.bin")
    convert(old, tmp_path / "new")
    torch.manual_seed(0)
    torch.save(BertModel(CONFIG).state_dict(), old / "pytorch_model.bin")
    config = json.loads((old / "config.json").read_text())
    (old / "config.json").write_text(json.dumps(config | {"architectures": ["BertModel"]}))
    convert(old, tmp_path / "bare")
    assert load_model(tmp_path / "bare", "regression").config.num_labels == 1


@pytest.mark.usefixtures("forked")
def test_shards_become_one_file(old: Path, tmp_path: Path) -> None:
    before = weights(old)
    names = sorted(before)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, shard in shards.items():
        torch.save({name: before[name].clone() for name in shard}, old / file)
    index = {"weight_map": {name: file for file, shard in shards.items() for name in shard}}
    (old / "pytorch_model.bin.index.json").write_text(json.dumps(index))
    (old / "pytorch_model.bin").unlink()
    convert(old, tmp_path / "new")
    assert load_file(tmp_path / "new" / "model.safetensors").keys() == before.keys()  # nothing shares memory any more


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda old: (old / "pytorch_model.bin").write_bytes(b"no"), "pickle that holds only weights"),
        (lambda old: torch.save([1], old / "pytorch_model.bin"), "no dictionary of tensors"),
        (lambda old: torch.save({"a": "b"}, old / "pytorch_model.bin"), "no plain tensor under 'a'"),
        (lambda old: torch.save({"a": torch.ones(2)}, old / "pytorch_model.bin"), "weights, found"),
        (
            lambda old: torch.save({**weights(old), "bert.extra": torch.ones(2)}, old / "pytorch_model.bin"),
            r"1 unexpected, such as bert\.extra",
        ),
        (lambda old: torch.save({"a": Runs(os.getpid)}, old / "pytorch_model.bin"), "pickle that holds only weights"),
        (lambda old: (old / "pytorch_model.bin").unlink(), r"no pytorch_model\.bin"),
        (lambda old: (old / "model.safetensors").touch(), r"found model\.safetensors"),
        (lambda old: (old / "config.json").unlink(), r"no config\.json"),
        (lambda old: (old / "tokenizer.json").write_text("{"), "tokenizer"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_refused_and_nothing_is_written(
    damage, message, old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(old)
    with pytest.raises(SystemExit) as stop:
        main(["convert", str(old), "--output", str(tmp_path / "new")])
    err = capsys.readouterr().err
    assert stop.value.code == 2 and err.startswith("error: ") and err.count("\n") == 1 and re.search(message, err)
    assert {path.name for path in tmp_path.iterdir()} == {"old"}


@pytest.mark.usefixtures("forked")
def test_the_command_writes_a_folder_and_never_over_another(
    old: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"tinydistilbert convert .*old --output NEW"):
        load_model(old, "masked-lm")
    main(["convert", str(old), "--output", str(tmp_path / "new")])
    assert capsys.readouterr().out == f"written: {tmp_path / 'new'}\n"
    with pytest.raises(UserError, match="new or empty folder"):
        convert(old, tmp_path / "new")


GIVEN_UP = {
    "a process": "import os; os.system('true')",
    "another process": "import subprocess; subprocess.run(['true'])",
    "a fork": "import os; os.fork()",
    "a connection": "import socket; socket.socket()",
    "a file": "open('written', 'w')",
    "a file by its number": "import os; os.open('written', os.O_CREAT | os.O_WRONLY)",
    "a deletion": "import os; os.remove('kept')",
    "a library": "import ctypes; ctypes.CDLL('libc.so.6')",
}


EACH_IN_A_FORK = """
import json, os, sys
from tinydistilbert.models import unpickle
codes = {}
for name, code in json.load(sys.stdin).items():
    if (child := os.fork()) == 0:
        try:
            unpickle.give_up(0)
            exec(code)
        finally:
            os._exit(0)
    codes[name] = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
json.dump(codes, sys.stdout)
"""


def test_the_reading_process_has_given_up_what_it_does_not_need(tmp_path: Path) -> None:
    (tmp_path / "kept").touch()
    command = [sys.executable, "-c", EACH_IN_A_FORK]
    run = subprocess.run(command, cwd=tmp_path, input=json.dumps(GIVEN_UP), capture_output=True, text=True, check=True)
    assert json.loads(run.stdout) == dict.fromkeys(GIVEN_UP, module.REFUSED), run.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["kept"]


def test_the_reading_process_has_no_memory_for_more_than_its_files() -> None:
    begun = "import torch; from tinydistilbert.models import unpickle; unpickle.give_up(0)"
    program = f"{begun}; torch.ones({unpickle.SPARE} // 2)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert run.returncode == 1 and "memory" in run.stderr
