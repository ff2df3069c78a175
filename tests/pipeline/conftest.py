"""A whole experiment in seconds: a tiny teacher, a made-up corpus, and a recipe for them."""

import csv
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert.cli.main import main
from tinydistilbert.models.loading import save_model

WHO = ["The student", "A teacher", "The old engineer", "Some cats", "Many people", "The small dog", "Gustave Eiffel"]
DID = ["walked to", "came to see", "answered", "opened", "learned from", "built", "liked"]
WHAT = [
    "the old house",
    "a large tower",
    "the river Seine",
    "the open door",
    "a small model",
    "the world fair",
    "a book",
]
WHEN = ["near the lake", "in 1889", "in Paris", "quickly", "with the teacher", "before the fair", "in a large house"]
WORDS = ["people came to see", "a large model", "the old house", "the river Seine", "some cats", "the lake"]


def sentence(draw: random.Random) -> str:
    """One of many thousand different sentences in words that the test tokenizer knows."""
    first = f"{draw.choice(WHO)} {draw.choice(DID)} {draw.choice(WHAT)} {draw.choice(WHEN)}"
    return f"{first}, and {draw.choice(WHO).lower()} {draw.choice(DID)} {draw.choice(WHAT)} {draw.choice(WHEN)}."


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a train and a validation file; documents of six paragraphs of three sentences."""
    folder = tmp_path_factory.mktemp("corpus")
    draw = random.Random(0)
    for name, documents in (("train", 40), ("validation", 12)):
        texts = ["\n".join(" ".join(sentence(draw) for _ in range(3)) for _ in range(6)) for _ in range(documents)]
        (folder / f"{name}.txt").write_text("\n\n".join(texts))
    return folder


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A folder with a BERT of four narrow layers and random weights."""
    folder = tmp_path_factory.mktemp("teacher")
    settings = {"intermediate_size": 64, "num_hidden_layers": 4, "initializer_range": 0.2}
    save_model(tiny.model(**tiny.WIDER | settings), tokenizer, folder)
    return folder


@pytest.fixture(scope="session")
def reviews() -> Callable[[Path, int, int], Path]:
    """Write a CSV of so many short texts, in each of which one phrase tells the label; the last number is a seed."""

    def write(path: Path, count: int, seed: int) -> Path:
        draw = random.Random(seed)
        with path.open("w", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["review", "stars"])
            for index in range(count):
                words = [draw.choice(WORDS) for _ in range(3)]
                words[index % 3] = "the tower" if index % 2 else "the student"
                writer.writerow([" ".join(words), "good" if index % 2 else "bad"])
        return path

    return write


@pytest.fixture(scope="session")
def recipe_text(corpus: Path, teacher: Path) -> str:
    """The recipe as TOML."""
    return f"""
name = "tiny"
[teacher]
model = "{teacher}"
[corpus]
source = "{corpus}"
block_size = 32
[adapt]
tokens = 2_000
[student]
architecture = "distilbert"
[distill]
max_steps = 40
[validation]
times = 2
blocks = 16
[finetune]
tasks = ["acceptability", "adjacency", "cloze-qa"]
models = ["teacher", "student", "control"]
seeds = [0]
epochs = 1
min_steps = 0
train_examples = 40
validation_examples = 30
[benchmark]
models = ["teacher", "student"]
examples = 4
padded_examples = 4
rounds = 2
memory = false
"""


@pytest.fixture
def call(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Run the command line in this process; gives exit code, standard output and standard error."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()  # what the test itself printed before
        try:
            main([str(argument) for argument in arguments])
            code = 0
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_text: str) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(recipe_text)
    return path
