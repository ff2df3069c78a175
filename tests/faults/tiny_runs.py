"""Whole runs in a second or two: text, teacher, examples and recipes for them, and what of a run must never differ."""

import csv
import hashlib
import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert import results
from tinydistilbert.models.loading import save_model
from tinydistilbert.storage import atomic

WHO = ("The student", "A teacher", "The old engineer", "Some cats", "Many people", "The small dog", "Gustave Eiffel")
DID = ("walked to", "came to see", "answered", "opened", "learned from", "built", "liked")
WHAT = ("the old house", "a large tower", "the river Seine", "the open door", "a small model", "a book")
WHEN = ("near the lake", "in 1889", "in Paris", "quickly", "with the teacher", "before the fair")
MEASURE = """
            keep = "all"
            [benchmark]
            models = ["student"]
            examples = 4
            padded_examples = 4
            rounds = 1
            memory = false
            [compress]
            tasks = ["acceptability"]
            keep = []
            held_out = 4
            timed_examples = 4
"""
CLOCKS = ("milliseconds", "teacher_milliseconds", "seconds_per_pass", "bytes")
"""Metrics of the clock, and of files that have a clock in them."""


class Inputs:
    """What recipes of tiny runs read.

    Args:
        folder: where to write it.
        tokenizer: of the teacher.
        documents: of the training text; each of some forty words.
    """

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast, documents: int = 40) -> None:
        self.folder = folder
        self.corpus, self.teacher = folder / "corpus", folder / "teacher"
        self.corpus.mkdir(parents=True)
        draw = random.Random(0)
        for name, count in (("train", documents), ("validation", 10)):
            texts = ("\n".join(f"{_sentence(draw)} {_sentence(draw)}" for _ in range(4)) for _ in range(count))
            (self.corpus / f"{name}.txt").write_text("\n\n".join(texts))
        for name, count in (("train", 40), ("validation", 20)):
            with (folder / f"{name}.csv").open("w", newline="") as stream:
                writer = csv.writer(stream)
                writer.writerow(["text", "label"])
                for index in range(count):
                    writer.writerow(
                        [f"{_sentence(draw)} {('quickly', 'slowly')[index % 2]}", ("bad", "good")[index % 2]]
                    )
        save_model(tiny.model(initializer_range=0.2, **tiny.WIDER), tokenizer, self.teacher)

    def recipe(self, name: str, *, minutes: float = 1e-9, more: str = "") -> Path:
        """A recipe's file: a teacher that is adapted, a student of one layer, one task; checkpoints after each step."""
        path = self.folder / f"{name}.toml"
        path.write_text(
            f"""
            name = "{name}"
            checkpoint_minutes = {minutes}
            [teacher]
            model = "{self.teacher}"
            [corpus]
            source = "{self.corpus}"
            block_size = 32
            [adapt]
            tokens = 768
            optimization.batch_size = 4
            [distill]
            max_steps = 6
            optimization.batch_size = 4
            optimization.gradient_accumulation_steps = 1
            [validation]
            times = 2
            blocks = 8
            [finetune]
            tasks = ["acceptability"]
            seeds = [0]
            epochs = 1
            min_steps = 0
            train_examples = 24
            validation_examples = 16
            optimization.batch_size = 4
            {more}
            """
        )
        return path

    def selection(self, name: str) -> Path:
        """A recipe's file: the teacher on examples of one's own; they choose among two learning rates and epochs."""
        path = self.folder / f"{name}.toml"
        path.write_text(
            f"""
            name = "{name}"
            checkpoint_minutes = 1e-9
            [finetune]
            model = "{self.teacher}"
            tasks = ["own"]
            seeds = [0]
            epochs = 2
            min_steps = 0
            train_examples = 16
            select = "heldout"
            learning_rates = [1e-4, 3e-3]
            validation_examples = 16
            optimization.batch_size = 8
            [finetune.custom.own]
            train = "{self.folder / "train.csv"}"
            validation = "{self.folder / "validation.csv"}"
            """
        )
        return path


def _sentence(draw: random.Random) -> str:
    return f"{draw.choice(WHO)} {draw.choice(DID)} {draw.choice(WHAT)} {draw.choice(WHEN)}."


def outcome(run: Path) -> dict[str, Any]:
    """All that a run made, by file: the bytes' hash, or where a clock is in it the rest of the content."""
    return {path.relative_to(run).as_posix(): _content(path) for path in sorted(run.rglob("*")) if path.is_file()}


def _content(path: Path) -> Any:
    if path.name in (atomic.MANIFEST, "report.html", "README.md", "latencies.json") or path.suffix == ".svg":
        return "is there"
    if path.name in ("measurements.jsonl", "results.jsonl"):
        return [[m.model, m.task, m.metric, m.seed, m.value] for m in results.read(path) if m.metric not in CLOCKS]
    if path.name == "training.json":
        return {name: value for name, value in json.loads(path.read_text()).items() if name != "seconds"}
    return hashlib.sha256(path.read_bytes()).hexdigest()


def differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """Files that are only in one of two outcomes, or in both but differ."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def without(run: Path, *folders: str, target: Path) -> Path:
    """A copy of a run from before it made some of its folders."""
    shutil.copytree(run, target)
    for folder in folders:
        shutil.rmtree(target / folder)
    return target


def leftovers(folder: Path) -> Iterator[str]:
    """What only unfinished work leaves behind."""
    for path in folder.rglob("*"):
        if path.suffix in (".tmp", ".partial", ".lock") or path.name in (atomic.CHECKPOINTS, atomic.LOCK):
            yield path.relative_to(folder).as_posix()
