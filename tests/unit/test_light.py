"""Exported models are loaded and run without torch, transformers and what else only training needs."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import load_tokenizer
from tinydistilbert.models.plain_tokenizer import load_plain_tokenizer
from tinydistilbert.models.runtimes import EXPORT_KEY
from tinydistilbert.optional import TRAINING
from tinydistilbert.predictor import load
from tinydistilbert.storage import atomic

ROOT = Path(__file__).resolve().parents[2]
Maker = Callable[[str, str], Path]
TEXTS = ["the student learns", "", "Élan [MASK] vital … 東京 is a city", "a cat " * 40, "  tabs\tand\nlines ", "#@!?"]
PAIRS = ["a large model answers slowly", "Paris", "", "she walked to the old house " * 20, "x", "[SEP] twice"]


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"truncation": True, "max_length": 16},
        {"truncation": "only_second", "max_length": 60, "stride": 7, "return_overflowing_tokens": True},
        {"add_special_tokens": False},
    ],
    ids=["whole", "longest first", "windows", "bare"],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_the_same_tokens_as_from_transformers(tmp_path: Path, tokenizer, asked: dict[str, object], side: str) -> None:
    tiny.config().save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    settings = atomic.read_json(tmp_path / "tokenizer_config.json")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(settings | {"truncation_side": side}))
    reference, plain = load_tokenizer(tmp_path), load_plain_tokenizer(tmp_path, vocabulary_size=len(tokenizer))
    assert plain.pad_token_id == reference.pad_token_id
    assert plain.num_special_tokens_to_add(pair=True) == reference.num_special_tokens_to_add(pair=True) == 3
    texts = ["Where is it?"] * len(TEXTS) if asked.get("truncation") == "only_second" else TEXTS
    for given in ((texts, PAIRS), (texts,)) if "stride" not in asked else ((texts, PAIRS),):
        both = [
            each(*given, **asked, return_offsets_mapping=True, return_token_type_ids=True, verbose=False)
            for each in (plain, reference)
        ]
        assert dict(both[0]) == dict(both[1])
        for row in range(len(both[0]["input_ids"])):
            assert both[0].sequence_ids(row) == both[1].sequence_ids(row)
    one = [each("a cat", "a dog", verbose=False, return_token_type_ids=True) for each in (plain, reference)]
    assert dict(one[0]) == dict(one[1])


def test_a_tokenizer_that_does_not_fit_is_refused(tmp_path: Path, tokenizer) -> None:
    with pytest.raises(UserError, match=r"expected tokenizer.json, found none"):
        load_plain_tokenizer(tmp_path, vocabulary_size=len(tokenizer))
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(UserError, match="expected token ids below 100, found 231"):
        load_plain_tokenizer(tmp_path, vocabulary_size=100)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="the tokenizers library reads"):
        load_plain_tokenizer(tmp_path, vocabulary_size=len(tokenizer))


@pytest.mark.long
@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ("yes", "head: expected one of masked-lm, .* found None"), ([1], "head: expected"),
        ({"longest_input": -3}, "longest_input: expected a number of tokens, found -3"),
        ({"scored_on": "a CPU", "precision": "int8", "reduce_range": False}, "scored_on: expected an object"),
    ],
)  # fmt: skip
def test_facts_that_no_export_writes_are_told(facts: Any, words: str, exported: Maker, tmp_path: Path) -> None:
    shutil.copytree(exported("bert", "classification"), tmp_path / "odd")
    (tmp_path / "odd" / atomic.MANIFEST).unlink()
    config = atomic.read_json(tmp_path / "odd/config.json")
    config[EXPORT_KEY] = config[EXPORT_KEY] | facts if isinstance(facts, dict) else facts
    atomic.write_json(tmp_path / "odd/config.json", config)
    with pytest.raises(UserError, match=words):
        load(tmp_path / "odd")


def in_a_light_installation(program: str, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Runs Python code in a process in which nothing of the extra `train` can be imported."""
    block = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name in {sorted(TRAINING)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
"""
    command = [sys.executable, "-c", block + program, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


ASKED = [
    ("bert", "classification"), ("distilbert", "regression"), ("roberta", "classification"), ("bert", "span"),
    ("roberta", "span"),
]  # fmt: skip


@pytest.mark.long
def test_without_the_libraries_of_training_the_answers_are_those_of_torch(task_model: Maker, exported: Maker) -> None:
    texts = ["the student learns", "ünder [SEP] a cat " * 20, "x"]
    pairs = ["Paris lies on the river Seine. " * 60, "In 1889 the tower was built.", "a book"]
    given = [(["Where does it lie?"] * 3 if head == "span" else texts, pairs) for _, head in ASKED]
    folders = [str(exported(family, head)) for family, head in ASKED]
    answers = "[[load(folder).predict(*given), load(folder).predict(*first)] for folder, given, first in asked]"
    program = (
        f"import json\nfrom tinydistilbert import load\nasked = json.loads(sys.argv[1])\nprint(json.dumps({answers}))"
    )
    firsts = [tuple(column[:1] for column in columns) for columns in given]
    done = in_a_light_installation(program, json.dumps([*zip(folders, given, firsts, strict=True)]))
    assert done.returncode == 0, done.stderr
    for model, columns, first, (all_of_them, one) in zip(ASKED, given, firsts, json.loads(done.stdout), strict=True):
        torchs = load(task_model(*model))
        expected = [*torchs.predict(*columns), *torchs.predict(*first)]
        for answer, torch_answer in zip([*all_of_them, *one], expected, strict=True):
            assert answer.keys() == torch_answer.keys(), model
            for key, value in torch_answer.items():
                wanted = pytest.approx(value, abs=2e-4) if key in ("score", "scores") else value
                assert answer[key] == wanted, (model, key)


COMMAND_LINE = "from tinydistilbert.cli.main import main; main(sys.argv[1:])"


@pytest.mark.long
def test_the_command_line_without_the_libraries_of_training(task_model: Maker, exported: Maker) -> None:
    folder = exported("bert", "classification")
    answered = in_a_light_installation(COMMAND_LINE, "predict", folder, "a cat", "a dog")
    assert answered.returncode == 0 and json.loads(answered.stdout)["label"] in ("bad", "fair", "good")
    for arguments in (["--help"], ["predict", "--help"], ["tasks"]):
        assert in_a_light_installation(COMMAND_LINE, *arguments).returncode == 0
    for arguments, needs in (
        (["distill", "minilm"], "pydantic"), (["export", folder, "--output", "new"], "it needs"),
        (["predict", task_model("bert", "span"), "who?"], "torch"), (["recipes"], "it needs"),
        (["predict", folder / "nowhere", "who?"], "it has no exported model"),
    ):  # fmt: skip
        refused = in_a_light_installation(COMMAND_LINE, *arguments)
        assert refused.returncode == 2 and refused.stdout == "", refused.stderr
        assert needs in refused.stderr and "pip install 'tinydistilbert[train]'" in refused.stderr
        assert len(refused.stderr.splitlines()) == 1


@pytest.mark.long
def test_loading_what_was_exported_imports_little_though_all_is_installed(exported: Maker) -> None:
    program = "import sys, tinydistilbert; tinydistilbert.load(sys.argv[1]).predict('a cat'); print(*sys.modules)"
    command = [sys.executable, "-c", program, str(exported("bert", "classification"))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    assert not TRAINING & {*done.stdout.split()}


# Not ru_maxrss, which begins with that of the process that started it.
MEASURED = r"""
import pathlib, re, sys, time
import tinydistilbert
model = tinydistilbert.load(sys.argv[1], threads=1)
print(model.predict("a cat", "a dog")[0]["label"], time.process_time())
print(re.search(r"VmHWM:\s*(\d+)", pathlib.Path("/proc/self/status").read_text())[1])
"""


@pytest.mark.slow
def test_a_fresh_installation_that_only_runs_exported_models(exported: Maker, tmp_path: Path) -> None:
    folder = exported("bert", "classification")
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, tool = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "tinydistilbert"
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    subprocess.run([python, "-m", "pip", "install", "--quiet", f"{ROOT}[run]"], check=True, env=environment)
    files = [path for path in (tmp_path / "venv").rglob("*") if path.is_file() and not path.is_symlink()]
    assert sum(path.stat().st_size for path in files) < 300e6
    command = [tool, "predict", folder, "a cat", "a dog"]
    answer = subprocess.run(command, check=True, capture_output=True, env=environment)
    label = load(folder).predict("a cat", "a dog")[0]["label"]
    assert json.loads(answer.stdout)["label"] == label
    command = [python, "-c", MEASURED, folder]
    runs = [subprocess.run(command, check=True, capture_output=True, text=True, env=environment) for _ in range(3)]
    measured = [run.stdout.split() for run in runs]
    assert {words[0] for words in measured} == {label}
    assert min(float(words[1]) for words in measured) < 0.6, "seconds of the processor until the first answer"
    assert min(float(words[2]) for words in measured) < 120 * 1024, "KiB"
    refused = subprocess.run([tool, "distill", "minilm"], capture_output=True, text=True, env=environment, check=False)
    assert refused.returncode == 2 and "pip install 'tinydistilbert[train]'" in refused.stderr
