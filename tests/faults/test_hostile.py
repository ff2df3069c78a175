"""Hostile artefacts: models, caches, checkpoints and runs of strangers, read by the functions that every command uses.

An audit hook watches each trial: no code of the artefact runs, nothing is written outside its folder, no connection is
opened. A trial ends with a result or with a `UserError`, in seconds and in little memory.
"""

import functools
import json
import os
import pickle
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert import results
from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.distillation import teacher_cache
from tinydistilbert.errors import UserError
from tinydistilbert.models.convert import convert
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.models.teacher import load_teacher
from tinydistilbert.predictor import load
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report.card import write_card
from tinydistilbert.report.compare import ComparedRun, compare
from tinydistilbert.report.comparison_page import PAGE_FILE, write_comparison
from tinydistilbert.report.page import write_report
from tinydistilbert.results import Measurement
from tinydistilbert.storage import atomic
from tinydistilbert.training import checkpoint

GOAL = "hostile artefacts: no code run, no write outside, no connection"
SECONDS, MEMORY = 30, 2 * 2**30
"""A trial may not take longer (about one is usual), nor all of them together more memory."""
CANARY = "canary"
"""File that code of an artefact would make."""
SCRIPT = "<script>alert(1)</script>"
MARKUP = f"\"'>{SCRIPT}<img src=x onerror=alert(1)><a href=javascript:alert(1)>x</a>"
FORMULA = "=cmd|'/c calc'!A1"
PROCESSES = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.spawn", "pty.spawn", "subprocess.Popen")


class Watch:
    """Audit events that no artefact may cause, noted while a trial runs."""

    def __init__(self) -> None:
        self.allowed: Path | None = None
        self.may_convert = False
        self.seen: list[str] = []
        sys.addaudithook(self._note)  # for good: hooks cannot be taken out

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.allowed is None:
            return
        if event.startswith(PROCESSES):
            is_child = event == "subprocess.Popen" and "unpickle.py" in str(arguments[1])
            if not (self.may_convert and (is_child or event in ("os.fork", "os.posix_spawn"))):
                self.seen.append(f"{event} {arguments[:2]}")
        elif event.startswith("socket.") or event == "pickle.find_class":
            self.seen.append(f"{event} {arguments[-2:]}")
        elif event == "compile" and CANARY in str(arguments[0])[:10_000]:
            self.seen.append(f"compile {str(arguments[0])[:80]}")
        elif event == "import" and str(arguments[0]).startswith("evil"):
            self.seen.append(f"import {arguments[0]}")
        elif event == "open" and self._writes(arguments) and not self._is_allowed(arguments[0]):
            self.seen.append(f"open {arguments[0]} to write")

    def _writes(self, arguments: tuple[Any, ...]) -> bool:
        _, mode, flags = arguments
        return bool(set(str(mode or "")) & set("wax+")) or bool((flags or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))

    def _is_allowed(self, path: Any) -> bool:
        if isinstance(path, int) or self.allowed is None:
            return True
        name = os.path.abspath(os.fsdecode(path))  # noqa: PTH100 - not resolved: it may not be there
        return name.startswith((f"{self.allowed}/", "/dev/null")) or "__pycache__" in name

    @contextmanager
    def over(self, folder: Path, *, may_convert: bool) -> Iterator[None]:
        """Watch the body, which may write below `folder`."""
        self.allowed, self.may_convert, self.seen = folder, may_convert, []
        try:
            yield
        finally:
            self.allowed = None


WATCH = Watch()


class Runs:
    """Pickled as the call of a function."""

    def __init__(self, function: Callable[..., object], *arguments: object) -> None:
        self._call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return self._call


class Wakes:
    """Acts when its state is set."""

    def __init__(self, canary: str) -> None:
        self.canary = canary

    def __setstate__(self, state: dict[str, str]) -> None:
        Path(state["canary"]).touch()


PAYLOADS: dict[str, Callable[[str], object]] = {
    "os.system": lambda canary: Runs(os.system, f"touch {canary}"),
    "exec": lambda canary: Runs(exec, f"open({canary!r}, 'w')"),
    "eval": lambda canary: Runs(eval, f"open({canary!r}, 'w')"),
    "Popen": lambda canary: Runs(subprocess.Popen, ["touch", canary]),
    "open": lambda canary: Runs(open, canary, "w"),
    "__setstate__": lambda canary: Wakes(canary),
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Where the artefacts lie before anything is done to them: a folder with one of each."""
    folder = tmp_path_factory.mktemp("sound")
    save_model(tiny.model(max_position_embeddings=64), tokenizer, folder / "model")
    labels = {"id2label": {0: "bad", 1: MARKUP}, "label2id": {"bad": 0, MARKUP: 1}}
    classifier = tiny.model(head="classification", max_position_embeddings=64, **labels)
    save_model(classifier, tokenizer, folder / "classifier")
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    checkpoint.save(folder / "checkpoints", net, optimizer, checkpoint.State(step=1), training="t")
    (folder / "corpus.txt").write_text(
        "\n\n".join(f"The student learns {number} words. " * 20 for number in range(100))
    )
    prepare(schema.Corpus(source=str(folder / "corpus.txt"), block_size=16), tokenizer, folder / "cache", None)
    with atomic.unfinished(teacher_cache._view_folder(folder / "said", 0), view=0) as view:
        np.save(view / "hidden.npy", np.ones((2, 3), np.float16))
    write_run(folder / "run")
    return folder


def write_run(run: Path, word: str = "plain") -> None:
    """A run whose recipe, measurements, samples and predictions all say `word`."""
    custom = schema.CustomTask(train=f"{word}.csv", validation="v.csv", text="text", label="label")
    settings = schema.Recipe(
        name=word, teacher=schema.Teacher(model=word), corpus=schema.Corpus(source=word),
        finetune=schema.Finetune(tasks=("sst2", "own"), custom={"own": custom}),
    )  # fmt: skip
    atomic.write_text(run / "recipe.toml", to_toml(settings))
    environment = {"cpu": word, "commit": word, "system": word, "cores": 2, "torch": word, "python": word}
    details = {"interval": [0.4, 0.6], "majority": 0.5, "warnings": [word], "labels": [word, "bad"]}
    measured = [
        Measurement(
            row, task, "accuracy", value, "validation", examples=4, examples_total=4, environment=environment,
            details=details, recipe=word, data_fingerprint=word,
        )
        for row, value in (("teacher", 0.75), ("student", 0.5))
        for task in ("sst2", "own")
    ]  # fmt: skip
    results.write(run / "results.jsonl", measured)
    for row in ("teacher", "student"):
        with atomic.unfinished(run / f"tasks/sst2/{row}/seed-0/scores", task="sst2", row=row, seed=0) as scores:
            table = pa.table(
                {"idx": [0, 1, 2, 3], "label": [0, 1, 0, 1], "prediction": [0, 1, 0, int(row == "teacher")]}
            )
            pyarrow.parquet.write_table(table, scores / "predictions-validation.parquet")
            results.write(scores / "measurements.jsonl", [m for m in measured if (m.model, m.task) == (row, "sst2")])
            sample = {"split": "validation", "idx": 0, "text": f"{word} {FORMULA}", "gold": word, "prediction": word}
            atomic.write_text(scores / "samples.jsonl", json.dumps(sample) + "\n")


class Page(HTMLParser):
    """What a browser would act on in a page."""

    def __init__(self) -> None:
        super().__init__()
        self.acts: list[str] = []
        self.text = ""

    def handle_data(self, data: str) -> None:
        self.text += data

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("script", "img", "iframe", "object", "embed", "base", "form", "link"):
            self.acts.append(tag)
        self.acts += [f"{tag} {name}={value}" for name, value in attrs if _acts(name, value)]


def _acts(name: str, value: str | None) -> bool:
    leads_out = (value or "").strip().lower().startswith(("javascript:", "http:", "https:", "//", "data:"))
    return name.startswith("on") or (leads_out and not name.startswith("xmlns"))  # which is a name, not a link


def check_page(path: Path, run: Path) -> None:
    """Look for what acts, and that what the run says is shown as text."""
    page = Page()
    page.feed(path.read_text(encoding="utf-8"))
    assert not page.acts, (path.name, page.acts)
    assert SCRIPT in page.text or SCRIPT not in (run / "recipe.toml").read_text(), "it is not shown at all"


def read_report(folder: Path) -> None:
    write_report(folder / "run")
    check_page(folder / "run/report.html", folder / "run")


def read_card(folder: Path) -> None:
    check_page(write_card(folder / "run"), folder / "run")


def read_comparison(folder: Path) -> None:
    (folder / "out").mkdir()
    write_comparison(folder / "out", compare(ComparedRun(folder / "run")), command=MARKUP)
    check_page(folder / "out" / PAGE_FILE, folder / "run")


def read_checkpoint(folder: Path) -> None:
    net = torch.nn.Linear(3, 2)
    optimizer = torch.optim.AdamW(net.parameters())
    state = checkpoint.load(folder / "checkpoints", net, optimizer, training="t", log=folder / "log.jsonl")
    assert state is not None, "never from the start while there is one"


ENTRIES: dict[str, Callable[[Path], object]] = {
    "model": lambda folder: load_model(folder / "model", "masked-lm"),
    "tokenizer": lambda folder: load_tokenizer(folder / "model"),
    "teacher": lambda folder: load_teacher(schema.Teacher(model=str(folder / "model"))),
    "predictor": lambda folder: load(folder / "classifier").predict(["the student", SCRIPT]),
    "checkpoint": lambda folder: read_checkpoint(folder),
    "blocks": lambda folder: load_blocks(only(folder, "cache/tokens-*")),
    "view": lambda folder: teacher_cache._open_view(folder / "said", 0, {}),
    "report": lambda folder: read_report(folder),
    "card": lambda folder: read_card(folder),
    "comparison": lambda folder: read_comparison(folder),
    "convert": lambda folder: convert(folder / "model", folder / "new"),
}


class Case(NamedTuple):
    """What is done to the artefacts, and what reads them then."""

    name: str
    entry: str
    damage: Callable[[Path], object]
    """Called with the folder of all artefacts."""
    refused: bool | None = True
    """None: it may be refused or be harmless."""


def put_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(payload: str, folder: Path) -> bytes:
    return pickle.dumps({"w": PAYLOADS[payload](str(folder / CANARY))})


def torch_saved(payload: str, path: Path, folder: Path, *, zipped: bool = True) -> None:
    torch.save({"w": PAYLOADS[payload](str(folder / CANARY))}, path, _use_new_zipfile_serialization=zipped)


def closed_again(path: Path) -> None:
    """Write the manifest anew around what was changed: a stranger can do that."""
    if atomic.is_finished(path):
        facts = atomic.read_manifest(path, verify=False)
        facts.pop("files")
        atomic.write_manifest(path, **facts)


def only(folder: Path, pattern: str) -> Path:
    (path,) = folder.glob(pattern)
    return path


def pickle_cases() -> Iterator[Case]:
    def as_bin(payload: str, folder: Path) -> None:
        (folder / "model/model.safetensors").unlink()
        torch_saved(payload, folder / "model/pytorch_model.bin", folder)

    def as_old_bin(payload: str, folder: Path) -> None:
        (folder / "model/model.safetensors").unlink()
        torch_saved(payload, folder / "model/pytorch_model.bin", folder, zipped=False)

    def in_disguise(payload: str, folder: Path) -> None:
        (folder / "model/model.safetensors").write_bytes(pickled(payload, folder))

    def torch_in_disguise(payload: str, folder: Path) -> None:
        torch_saved(payload, folder / "model/model.safetensors", folder)

    def beside(payload: str, folder: Path) -> None:
        for name in ("model.pt", "training_args.bin", "pytorch_model.bin", "optimizer.pt", "model.ckpt"):
            torch_saved(payload, folder / "model" / name, folder)

    def in_checkpoint(name: str, payload: str, folder: Path) -> None:
        path = folder / "checkpoints/step-00000001"
        (path / name).write_bytes(pickled(payload, folder))
        closed_again(path)

    def as_array(pattern: str, folder: Path) -> None:
        path = only(folder, pattern)
        np.save(path, np.array([PAYLOADS["os.system"](str(folder / CANARY))], dtype=object), allow_pickle=True)
        closed_again(path.parent)

    def as_parquet(folder: Path) -> None:
        path = folder / "run/tasks/sst2/student/seed-0/scores/predictions-validation.parquet"
        path.write_bytes(pickled("exec", folder))
        closed_again(path.parent)

    for payload in PAYLOADS:
        yield Case(f"pytorch_model.bin with {payload}", "model", functools.partial(as_bin, payload))
        yield Case(f"a pickle with {payload} as model.safetensors", "teacher", functools.partial(in_disguise, payload))
    for payload in ("os.system", "__setstate__"):
        yield Case(
            f"a zip of torch with {payload} as safetensors", "model", functools.partial(torch_in_disguise, payload)
        )
        yield Case(f"pickles with {payload} beside the weights", "model", functools.partial(beside, payload), False)
        for name in ("model.safetensors", "optimizer.safetensors"):
            damage = functools.partial(in_checkpoint, name, payload)
            yield Case(f"{name} of a checkpoint with {payload}", "checkpoint", damage)
    yield Case("a pickle of os.system, converted", "convert", functools.partial(as_bin, "os.system"))
    yield Case("an old pickle of exec, converted", "convert", functools.partial(as_old_bin, "exec"))
    for name in ("train", "token_counts", "continues_word"):
        damage = functools.partial(as_array, f"cache/tokens-*/{name}.npy")
        yield Case(f"objects in {name}.npy of the token cache", "blocks", damage)
    yield Case("objects in the teacher's cache", "view", functools.partial(as_array, "said/*/hidden.npy"))
    yield Case("predictions that are a pickle", "comparison", as_parquet)
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        yield Case(
            f"{name} that is a pickle", "tokenizer",
            lambda folder, name=name: (folder / "model" / name).write_bytes(pickled("eval", folder)),
        )  # fmt: skip


def code_cases() -> Iterator[Case]:
    def put(name: str, changes: dict[str, Any], folder: Path) -> None:
        code = f"open({str(folder / CANARY)!r}, 'w')\nclass Evil: pass\n"
        for module in ("evil.py", "modeling_evil.py", "custom_generate.py"):
            (folder / "model" / module).write_text(code)
        put_json(folder / "model" / name, **changes)

    refused: dict[str, dict[str, Any]] = {
        "auto_map": {"auto_map": {"AutoConfig": "evil.Evil", "AutoModelForMaskedLM": "modeling_evil.Evil"}},
        "a family of its own": {"model_type": "evil", "auto_map": {"AutoConfig": "evil.Evil"}},
        "attention from the hub": {"attn_implementation": "evil/kernel"},
        "attention from the hub, inside": {"_attn_implementation": "evil/kernel:Evil"},
        "quantization": {"quantization_config": {"quant_method": "gptq"}},
        "weights elsewhere": {"transformers_weights": "../outside.safetensors"},
        "another file format": {"gguf_file": "evil.gguf"},
    }
    for name, changes in refused.items():
        yield Case(f"config.json: {name}", "model", functools.partial(put, "config.json", changes))
    code = {"auto_map": {"AutoTokenizer": ["evil.Evil", "evil.Evil"]}}
    yield Case("tokenizer_config.json: auto_map", "tokenizer", functools.partial(put, "tokenizer_config.json", code))
    for word in ("os.system", "../evil", "evil.Evil", "__import__", "LlamaTokenizer", "BertJapaneseTokenizer", 5, []):
        damage = functools.partial(put, "tokenizer_config.json", {"tokenizer_class": word})
        yield Case(f"tokenizer_class {word!r}", "tokenizer", damage, None)

    def no_tokenizer(folder: Path) -> None:
        (folder / "model/tokenizer.json").unlink()
        put_json(folder / "model/tokenizer_config.json", tokenizer_file=str(folder / "classifier/tokenizer.json"))

    def beyond(folder: Path) -> None:
        path = folder / "classifier/tokenizer.json"
        content = json.loads(path.read_text())
        content["model"]["vocab"]["student"] = 10**6
        path.write_text(json.dumps(content))

    yield Case("a token beyond the embeddings", "predictor", beyond)
    yield Case("a tokenizer_file elsewhere", "tokenizer", no_tokenizer)
    yield Case(
        "an adapter of another model", "model",
        lambda folder: (folder / "model/adapter_config.json").write_text('{"base_model_name_or_path": "evil/model"}'),
    )  # fmt: skip
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    yield Case(
        "a chat template", "tokenizer",
        lambda folder: put_json(folder / "model/tokenizer_config.json", chat_template=template), False,
    )  # fmt: skip


def place_cases() -> Iterator[Case]:
    def sharded(shard: Any, folder: Path) -> None:
        model = folder / "model"
        (model / "model.safetensors").rename(folder / "outside.safetensors")
        (model / "linked.safetensors").symlink_to(folder / "outside.safetensors")
        (model / "inside").mkdir()
        shutil.copy(folder / "outside.safetensors", model / "inside")
        word = str(folder / "outside.safetensors") if shard == "ABSOLUTE" else shard
        names = load_file(folder / "outside.safetensors")
        (model / "model.safetensors.index.json").write_text(json.dumps({"weight_map": dict.fromkeys(names, word)}))

    for shard in (
        "../outside.safetensors", "ABSOLUTE", "inside/outside.safetensors", "linked.safetensors", "..", "", "a\0b",
        "..\\outside.safetensors", "none.safetensors", 7, ["x"], None,
    ):  # fmt: skip
        yield Case(f"an index that names {shard!r}", "model", functools.partial(sharded, shard))

    def zipped(renames: bool, folder: Path) -> None:
        weights = folder / "model/model.safetensors"
        torch.save(load_file(weights), folder / "sound.bin")
        weights.unlink()
        with (
            zipfile.ZipFile(folder / "sound.bin") as sound,
            zipfile.ZipFile(folder / "model/pytorch_model.bin", "w", zipfile.ZIP_STORED) as archive,
        ):
            for name in sound.namelist():
                archive.writestr(f"../{name}" if renames else name, sound.read(name))
            archive.writestr(f"../{CANARY}", b"written")
        (folder / "sound.bin").unlink()

    yield Case("a zip of torch with a member above it", "convert", functools.partial(zipped, False), None)
    yield Case("a zip of torch with all members above it", "convert", functools.partial(zipped, True), None)

    def of_manifest(files: Any, folder: Path) -> None:
        manifest: dict[str, Any] = {"files": files}
        atomic.write_json(folder / "model/manifest.json", {**manifest, atomic.HASH_KEY: atomic._hash_of(manifest)})

    for name, files in {
        "a file above": {"../outside": {"bytes": 1, "sha256": "0" * 64}},
        "an absolute file": {"/etc/passwd": {"bytes": 1, "sha256": "0" * 64}},
        "a list": ["config.json"],
        "numbers": {"config.json": 7},
        "nothing": {},
        "other hashes": {"config.json": {"bytes": 1, "sha256": "0" * 64}},
    }.items():
        yield Case(f"a manifest of {name}", "model", functools.partial(of_manifest, files))
    for name in ("config.json", "model.safetensors", "tokenizer.json"):

        def to_device(folder: Path, name: str = name) -> None:
            (folder / "model" / name).unlink()
            (folder / "model" / name).symlink_to("/dev/zero")

        yield Case(f"{name} that is an endless device", "teacher", to_device)


def header_of(content: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def header_cases() -> Iterator[Case]:
    def put(make: Callable[[bytes, dict[str, Any]], bytes], folder: Path) -> None:
        path = folder / "model/model.safetensors"
        content = path.read_bytes()
        path.write_bytes(make(content, header_of(content)))

    def with_header(text: str, content: bytes) -> bytes:
        end = 8 + int.from_bytes(content[:8], "little")
        return len(text.encode()).to_bytes(8, "little") + text.encode() + content[end:]

    def changed(change: Callable[[dict[str, Any]], object]) -> Callable[[bytes, dict[str, Any]], bytes]:
        def make(content: bytes, header: dict[str, Any]) -> bytes:
            first = next(name for name in header if name != "__metadata__")
            change(header[first])
            return with_header(json.dumps(header), content)

        return make

    one = '{"dtype":"F32","shape":[1],"data_offsets":[0,4]}'
    made: dict[str, Callable[[bytes, dict[str, Any]], bytes]] = {
        "nothing at all": lambda content, _: b"",
        "seven bytes": lambda content, _: content[:7],
        "a length of 2^64 - 1": lambda content, _: b"\xff" * 8 + content[8:],
        "a length beyond the file": lambda content, _: len(content).to_bytes(8, "little") + content[8:],
        "a list": lambda content, _: with_header("[]", content),
        "no tensors": lambda content, _: with_header("{}", content),
        "deep nesting": lambda content, _: with_header('{"a":' * 50_000 + "1" + "}" * 50_000, content),
        "deep lists": lambda content, _: with_header("[" * 100_000, content),
        "a key twice": lambda content, _: with_header(f'{{"a":{one},"a":{one}}}', content),
        "a huge number": lambda content, _: with_header('{"a":' + "9" * 5000 + "}", content),
        "no UTF-8": lambda content, _: (8).to_bytes(8, "little") + b"\xff" * 8 + content,
        "half of the data": lambda content, _: content[: len(content) // 2],
        "more data": lambda content, _: content + b"\0" * 100,
        "an overflowing shape": changed(lambda entry: entry.update(shape=[2**32, 2**32, 2**32])),
        "a product that wraps to 0": changed(lambda entry: entry.update(shape=[2**63, 2], data_offsets=[0, 0])),
        "a negative shape": changed(lambda entry: entry.update(shape=[-1, -16])),
        "a shape of words": changed(lambda entry: entry.update(shape=["a"])),
        "a negative place": changed(lambda entry: entry.update(data_offsets=[-64, 0])),
        "overlapping places": changed(lambda entry: entry.update(data_offsets=[4, entry["data_offsets"][1] + 4])),
        "one place": changed(lambda entry: entry.update(data_offsets=[0])),
        "an unknown type": changed(lambda entry: entry.update(dtype="OBJECT")),
        "no type": changed(lambda entry: entry.pop("dtype")),
    }
    for name, make in made.items():
        yield Case(f"safetensors: {name}", "model", functools.partial(put, make))


def config_cases() -> Iterator[Case]:
    def put(name: str, changes: dict[str, Any], folder: Path) -> None:
        put_json(folder / "model" / name, **changes)

    sizes = (
        "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size",
        "max_position_embeddings",
    )  # fmt: skip
    for key in sizes:
        for value in (10**12, -1, 0, 2.5, "16", float("nan"), True, None, [16]):
            yield Case(f"config.json: {key} = {value!r}", "model", functools.partial(put, "config.json", {key: value}))
    more: dict[str, dict[str, Any]] = {
        "a million words of a hundred thousand numbers": {"vocab_size": 10**6, "hidden_size": 10**5},
        "believable sizes that are not in the file": {"vocab_size": 10**6, "hidden_size": 1024},
        "layers that are not in the file": {"num_hidden_layers": 500},
        "positions that are not in the file": {"max_position_embeddings": 10**6},
        "neurons that are not in the file": {"intermediate_size": 131_072},
        "types that are not in the file": {"type_vocab_size": 1000},
        "heads that do not divide the width": {"num_attention_heads": 3},
        "no family": {"model_type": None},
        "a family of another kind": {"model_type": "gpt2"},
        "an epsilon that is no number": {"layer_norm_eps": float("nan")},
        "dropout above 1": {"hidden_dropout_prob": 7},
        "an activation that is code": {"hidden_act": "__import__('os').system('true')"},
        "padding beyond the words": {"pad_token_id": 10**6},
        "labels without numbers": {"id2label": {"a": "b"}},
        "labels in a list": {"id2label": ["a"]},
        "a billion labels": {"num_labels": 10**9, "id2label": None},
        "a label of 10^9": {"id2label": {str(10**9): "a"}},
        "a decoder": {"is_decoder": True},
        "pruned to more than there is": {"pruned": {"heads": [10**9] * 2, "intermediate": [1, 1]}},
        "pruned to words": {"pruned": {"heads": "ab", "intermediate": {}}},
        "architectures of numbers": {"architectures": [7]},
    }
    for name, changes in more.items():
        yield Case(f"config.json: {name}", "model", functools.partial(put, "config.json", changes))
    texts = {"an empty file": "", "a list": "[]", "deep nesting": "[" * 100_000, "half an object": '{"vocab_size":'}
    texts["deep nesting inside"] = '{"a":' * 50_000 + "1" + "}" * 50_000
    for name, text in texts.items():
        for file, entry in (
            ("config.json", "model"),
            ("tokenizer_config.json", "tokenizer"),
            ("tokenizer.json", "teacher"),
        ):
            yield Case(
                f"{file}: {name}", entry,
                lambda folder, file=file, text=text: (folder / "model" / file).write_text(text),
            )  # fmt: skip
    states: dict[str, Any] = {
        "a list": [],
        "words": {"step": "x"},
        "another key": {"evil": 1},
        "a negative step": {"step": -1},
    }
    for name, state in states.items():

        def put_state(folder: Path, state: Any = state) -> None:
            path = folder / "checkpoints/step-00000001"
            (path / "state.json").write_text(json.dumps(state))
            closed_again(path)

        yield Case(f"state.json of a checkpoint: {name}", "checkpoint", put_state, None)


def markup_cases() -> Iterator[Case]:
    def hostile_run(folder: Path) -> None:
        shutil.rmtree(folder / "run")
        write_run(folder / "run", MARKUP)

    def formulas(folder: Path) -> None:
        shutil.rmtree(folder / "run")
        write_run(folder / "run", FORMULA)

    for entry in ("report", "card", "comparison"):
        yield Case(f"{entry}: HTML in every name, label and text", entry, hostile_run, False)
        yield Case(f"{entry}: formulas in every name, label and text", entry, formulas, False)
    yield Case("predictor: HTML in labels and texts", "predictor", lambda folder: None, False)


CASES = [
    case
    for make in (pickle_cases, code_cases, place_cases, header_cases, config_cases, markup_cases)
    for case in make()
]  # fmt: skip

MUTABLE = {
    "model": ("model",), "tokenizer": ("model",), "teacher": ("model",), "predictor": ("classifier",),
    "checkpoint": ("checkpoints/step-00000001",), "blocks": ("cache/tokens-*",), "view": ("said/view-0",),
    "comparison": ("run/tasks/sst2/student/seed-0/scores",),
}  # fmt: skip
VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**31, 2**63, 10**30, 0.5, -1e308, "", "a", MARKUP, [], {}, [[]], {"a": 1},
)  # fmt: skip


def mutated(draw: random.Random) -> Case:
    """A file of a sound artefact with a few bits flipped, cut, or with other values in its JSON."""
    entry = draw.choice(sorted(MUTABLE))
    (pattern,) = MUTABLE[entry]
    way, chosen, seed = draw.choice(("bits", "cut", "json")), draw.random(), draw.random()

    def damage(folder: Path) -> None:
        rng = random.Random(seed)
        path = only(folder, pattern)
        files = sorted(file for file in path.iterdir() if file.is_file() and (way != "json" or file.suffix == ".json"))
        file = files[int(chosen * len(files))] if files else only(path, atomic.MANIFEST)
        if way == "json":
            content = json.loads(file.read_text())
            replace_value(content, rng)
            file.write_text(json.dumps(content))
        else:
            content = bytearray(file.read_bytes())
            if way == "cut":
                del content[rng.randrange(len(content)) :]
            for _ in range(rng.choice((1, 3, 20)) if way == "bits" else 0):
                content[rng.randrange(min(len(content), rng.choice((64, 10**9))))] ^= 1 << rng.randrange(8)
            file.write_bytes(content)
        if file.name != atomic.MANIFEST:
            closed_again(path)

    return Case(f"{entry} {way} {chosen:.4f} {seed:.6f}", entry, damage, None)


def replace_value(content: Any, draw: random.Random) -> None:
    """Put another value at a random place of a JSON document."""
    while isinstance(content, dict | list) and content:
        key = draw.choice(sorted(content)) if isinstance(content, dict) else draw.randrange(len(content))
        if not isinstance(content[key], dict | list) or not content[key] or draw.random() < 0.2:
            content[key] = draw.choice(VALUES)
            return
        content = content[key]


def undergo(case: Case, sound: Path, folder: Path) -> None:
    """Do to a copy of the artefacts what the case says, and read them under the watch."""
    shutil.copytree(sound, folder)
    case.damage(folder)
    start, message = time.monotonic(), None
    with WATCH.over(folder, may_convert=case.entry == "convert"):
        try:
            ENTRIES[case.entry](folder)
        except UserError as error:
            message = str(error)
    assert time.monotonic() - start < SECONDS, "it takes too long"
    assert not (folder / CANARY).exists(), "code of the artefact was run"
    assert not WATCH.seen, WATCH.seen[:3]
    assert case.refused is None or (message is not None) == case.refused, message or "it was taken"
    assert message is None or "\n" not in message
    if case.entry == "convert" and message:
        assert not (folder / "new").exists() and not list(folder.glob("*.partial"))


@pytest.fixture
def quiet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Temporary files of libraries lie where the trials may write."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))


def test_hostile_artefacts_run_nothing_write_nothing_and_connect_to_nothing(
    trials: Callable[..., Any], sound: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], quiet: None
) -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 80
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with trials(GOAL, quick=len(CASES), full=len(CASES) + 400) as all_of_them:
        for number, draw in enumerate(all_of_them):
            case = CASES[number] if number < len(CASES) else mutated(draw)
            with all_of_them.trial(case.name):
                undergo(case, sound, tmp_path / "trial")
            shutil.rmtree(tmp_path / "trial")
        more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
        all_of_them.facts |= {"named cases": len(CASES), "MiB more at most": more >> 20}
        with all_of_them.trial("memory of all"):
            assert more < MEMORY, f"{more:,} bytes"


@pytest.mark.parametrize("entry", ENTRIES)
def test_sound_artefacts_pass_the_same_entries(entry: str, sound: Path, tmp_path: Path, quiet: None) -> None:
    def damage(folder: Path) -> None:
        if entry == "convert":
            torch.save(load_file(folder / "model/model.safetensors"), folder / "model/pytorch_model.bin")
            (folder / "model/model.safetensors").unlink()

    if entry == "convert":  # whose other checks are those of a refusal
        shutil.copytree(sound, tmp_path / "trial")
        damage(tmp_path / "trial")
        with WATCH.over(tmp_path / "trial", may_convert=True):
            convert(tmp_path / "trial/model", tmp_path / "trial/new")
        assert not WATCH.seen and atomic.is_finished(tmp_path / "trial/new")
    else:
        undergo(Case(entry, entry, damage, False), sound, tmp_path / "trial")


@pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("payload", PAYLOADS)  # which leave the file open that they make
def test_the_watch_sees_what_each_payload_does_where_it_is_let(payload: str, tmp_path: Path) -> None:
    (tmp_path / "trial").mkdir()
    content = pickle.dumps(PAYLOADS[payload](str(tmp_path / CANARY)))
    with WATCH.over(tmp_path / "trial", may_convert=False):
        made = pickle.loads(content)
    if isinstance(made, subprocess.Popen):
        made.wait()
    assert (tmp_path / CANARY).exists() and WATCH.seen
