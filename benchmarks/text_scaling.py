"""The memory of unlabelled texts by their number: those of several sources, and copies."""

import csv
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import common
import torch
from transformers import BertConfig, BertForMaskedLM

from tinydistilbert.finetuning.augment import augment
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.storage import scratch
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.further_texts import further_texts
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.unlabelled import read_unlabelled, write_examples

NAME, COPIES = "own", 10
HEAD = ("what", "texts read", "texts taken", "MB of text", "peak MiB")


@dataclass(frozen=True)
class Texts:
    """What was read, or made, and then read as a training does."""

    read: int
    taken: int
    megabytes: float
    """Of those that were taken, in UTF-8."""
    peak_mib: float
    """Memory without mapped files, beyond what the process had before."""


def write_texts(folder: Path, words: Sequence[str], rows: int) -> None:
    """Two files of so many short texts, a tenth of which are in both, and a task of a thousandth as many rows."""
    for number, first in enumerate((0, rows - rows // 10)):
        lines = (_text(words, row) for row in range(first, first + rows))
        (folder / f"{number}.txt").write_text("".join(f"{line}\n" for line in lines))
    write_task(folder, words, max(20, rows // 1000))


def write_task(folder: Path, words: Sequence[str], rows: int) -> None:
    """A task of so many rows, and a tenth as many that are scored; no text is one of `write_texts`."""
    for split, count in (("train", rows), ("scored", rows // 10)):
        with (folder / f"{split}.csv").open("w", encoding="utf-8", newline="") as stream:
            writer = csv.writer(stream)
            writer.writerow(["text", "label"])
            writer.writerows([f"{_text(words, row)} of {split}", "ab"[row % 2]] for row in range(count))


def _text(words: Sequence[str], row: int) -> str:
    begin = row * 7 % (len(words) - 20)
    return f"{' '.join(words[begin : begin + 4 + row % 12])} {row}"


def _task(folder: Path, unlabelled: Sequence[str] = ()) -> tuple[Recipe, Task]:
    custom = {"train": str(folder / "train.csv"), "validation": str(folder / "scored.csv")}
    finetune = {"tasks": [NAME], "custom": {NAME: custom}, "distillation": {"unlabelled": [*unlabelled]}}
    recipe = toml.from_dict({"finetune": finetune}, "benchmark")
    task = tasks_of(recipe.finetune)[NAME]
    return recipe, recipe_examples(recipe, task, task.train).task


def measure_sources(folder: Path, rows: int) -> Texts:
    """The texts of two files together."""
    recipe, task = _task(folder, [str(folder / "0.txt"), str(folder / "1.txt")])
    before = common.anonymous_mib() or 0.0
    with common.AnonymousPeak() as peak, scratch.beside(folder):
        texts = further_texts(recipe, task)
        assert texts is not None, "the recipe names two files"
        assert texts.fingerprint
    size = sum(len(text.encode()) for text in texts.columns["text"])
    return Texts(2 * rows, len(texts), size / 1e6, peak.mib - before)


def measure_copies(folder: Path, teacher: Path | None) -> Texts:
    """`COPIES` of each train example with words that a tiny model with random weights proposes."""
    recipe, task = _task(folder)
    tokenizer = common.open_teacher(teacher).tokenizer
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    torch.manual_seed(0)
    model = BertForMaskedLM(BertConfig(vocab_size=len(tokenizer), **sizes))
    settings = toml.from_dict({"finetune": {"distillation": {"augment": COPIES}}}, "benchmark").finetune.distillation
    examples = recipe_examples(recipe, task, task.train)
    file, cpu = folder / "copies.parquet", torch.device("cpu")
    before = common.anonymous_mib() or 0.0
    with common.AnonymousPeak() as peak, scratch.beside(folder):
        copies = augment(examples, model, tokenizer, settings, seed=0, device=cpu, log=print, max_length=64)
        write_examples(task, copies, file)
        texts = read_unlabelled(file, task, may_be_empty=True)
        assert texts.fingerprint
    size = sum(len(text.encode()) for text in texts.columns["text"])
    return Texts(len(examples), len(texts), size / 1e6, peak.mib - before)


def measure(
    words: Sequence[str], rows: Sequence[int], examples: Sequence[int], teacher: Path | None
) -> dict[str, Texts]:
    """Each in a process of its own: two files of so many rows each, and copies of so many examples."""
    by_source = {}
    for count in rows:
        with tempfile.TemporaryDirectory() as folder:
            write_texts(Path(folder), words, count)
            by_source[f"two files of {count:,} texts"] = common.in_fresh_process(
                1, measure_sources, Path(folder), count
            )
    for count in examples:
        with tempfile.TemporaryDirectory() as folder:
            write_task(Path(folder), words, count)
            by_source[f"{COPIES} copies of {count:,} examples"] = common.in_fresh_process(
                1, measure_copies, Path(folder), teacher
            )
    return by_source


def cells(what: str, texts: Texts) -> list[str]:
    """A row below `HEAD`."""
    return [what, f"{texts.read:,}", f"{texts.taken:,}", f"{texts.megabytes:,.0f}", f"{texts.peak_mib:,.0f}"]
