"""Texts without labels, more than memory should hold: the same ones as when all were in memory, in bounded memory."""

import gc
import random
import re
import tracemalloc
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.data import seen_texts
from tinydistilbert.data.seen_texts import SeenTexts, hashes_of
from tinydistilbert.finetuning import augment as augmentation
from tinydistilbert.finetuning.augment import Proposals, augment
from tinydistilbert.finetuning.word_spans import Words
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe, TaskDistillation
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, mapped_tables, read_once, samples, tasks_of
from tinydistilbert.tasks.base import Examples, key_of, sample_rows
from tinydistilbert.tasks.columns import Column
from tinydistilbert.tasks.further_texts import further_texts
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.unlabelled import question_copies, read_unlabelled, write_examples

Texts = tuple[str, ...]
WORDS = ["the", "lake", "tower", "people", "came", "to", "see", "some", "cats", "model"]


@pytest.fixture(autouse=True)
def nothing_at_hand() -> Iterator[None]:
    read_once.forget()
    notices.begin()
    yield
    read_once.forget()


def small_parts(patch: pytest.MonkeyPatch, *, large: int) -> None:
    """Parts of a few rows, a few hashes in memory, and so many bytes of a table that is mapped."""
    for name in ("further_texts", "unlabelled", "columns", "mapped_tables", "rows"):
        patch.setattr(f"tinydistilbert.tasks.{name}.VALUES_AT_ONCE", 7)
    patch.setattr(seen_texts, "HASHES_IN_MEMORY", 10)
    patch.setattr(seen_texts, "TEXTS_AT_ONCE", 7)
    patch.setattr(mapped_tables, "LARGE", large)


def csv_of(file: Path, rows: list[Texts], names: list[str], label: bool = True) -> Path:
    lines = [",".join([*names, *["label"] * label])]
    lines += [
        ",".join([*(f'"{text}"' for text in row), *["ab"[number % 2]] * label]) for number, row in enumerate(rows)
    ]
    file.write_text("\n".join(lines) + "\n")
    return file


def own_recipe(folder: Path, unlabelled: list[str], *, pairs: bool, limit: int = 0) -> Recipe:
    custom = {"train": str(folder / "train.csv"), "validation": str(folder / "scored.csv")}
    custom |= {"text": "one", "text_pair": "two"} if pairs else {"text": "one"}
    distillation = {"unlabelled": unlabelled, "unlabelled_examples": limit}
    other = custom | {"train": str(folder / "other.csv")}
    finetune = {"tasks": ["own"], "custom": {"own": custom, "other": other}, "distillation": distillation}
    return toml.from_dict({"finetune": finetune}, "here")


def in_memory(
    sources: dict[str, list[Texts]], train: list[Texts], scored: list[Texts]
) -> tuple[list[Texts], list[str]]:
    """The texts that are taken, and the counts that are said, by comparing the texts themselves."""
    seen, not_taken = {*map(key_of, train)}, {*map(key_of, scored)}
    taken, lines = list[Texts](), list[str]()
    for name, rows in sources.items():
        kept = left_out = repeated = 0
        for texts in rows:
            key = key_of(texts)
            if key in not_taken:
                left_out += 1
            elif key in seen or not all(key):
                repeated += 1
            else:
                seen.add(key)
                taken.append(texts)
                kept += 1
        counts = [f"{left_out:,} that are scored"] if left_out else []
        counts += [f"{repeated:,} that are empty, repeated or in the train split"] if repeated else []
        line = f"{name}: {kept:,} of {len(rows):,} texts are used"
        lines.append(line + (f"; left out: {' and '.join(counts)}" if counts else ""))
    return taken, lines


@pytest.mark.parametrize("pairs", [False, True])
@pytest.mark.parametrize("limit", [0, 20])
def test_texts_of_several_sources_are_those_of_comparing_all_in_memory(
    pairs: bool, limit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same ones in the same order, with the same counts and the same fingerprint, mapped or not."""
    chance = random.Random(pairs + limit)
    names = ["one", "two"][: 1 + pairs]

    def some(count: int, mark: str) -> list[Texts]:
        def text() -> str:
            words = [chance.choice(WORDS) for _ in range(chance.randrange(1, 4))]
            return f"{' ' * chance.randrange(2)}{(' ' * chance.randrange(1, 3)).join(words)} {mark}".rstrip()

        return [tuple(text() for _ in names) for _ in range(count)]

    train, scored = some(30, ""), some(30, "scored")
    first, second = [*some(60, ""), *some(40, "more")], [*some(50, "more"), *train[:5]]
    other = [*some(30, "other"), *scored[:20], *train[:10], *some(30, "other")]
    for name, rows in (("train", train), ("scored", scored), ("other", other)):
        csv_of(tmp_path / f"{name}.csv", rows, names)
    sources = {str(csv_of(tmp_path / name, rows, names, label=False)): rows
               for name, rows in (("a.csv", first), ("b.csv", second))}  # fmt: skip
    sources["task:other"] = other
    expected, lines = in_memory(sources, train, scored)
    assert 80 < len(expected) < 215 and "20 that are scored and" in lines[-1]
    of_sample = sample_rows(len(expected), limit, 0).tolist()
    fingerprints = []
    for large in (2**40, 0):
        small_parts(monkeypatch, large=large)
        read_once.forget()
        recipe = own_recipe(tmp_path, [*sources], pairs=pairs, limit=limit)
        task = recipe_examples(recipe, tasks_of(recipe.finetune)["own"], "train").task
        notices.begin()
        more = further_texts(recipe, task)
        assert more is not None and more.texts == [expected[row] for row in of_sample]
        assert [*more.columns["idx"]] == of_sample and [*more.columns["label"]] == [None] * len(of_sample)
        assert [line for line in notices.all_notices() if "texts are used" in line] == lines
        assert any(f"20 of {len(expected)} further texts" in line for line in notices.all_notices()) == bool(limit)
        assert isinstance(more.columns["text"], Column) == (large == 0)
        fingerprints.append(more.fingerprint)
    assert fingerprints[0] == fingerprints[1]


def test_a_hash_is_remembered_in_memory_and_in_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seen_texts, "HASHES_IN_MEMORY", 5)
    seen = SeenTexts()
    assert seen.add(hashes_of([("a",), ("b",), ("a",)])).tolist() == [True, True, False]
    for number in range(20):
        assert seen.add(hashes_of([(str(number),), ("b",)])).tolist() == [True, False]
    assert len(seen._sorted) == 4 and len(seen._recent) < 5
    assert seen.holds(hashes_of([("a",), ("19",), ("20",)])).tolist() == [True, True, False]
    assert seen.add(hashes_of([])).tolist() == []
    assert len({*hashes_of([("ab", "c"), ("a", "bc"), ("abc",), ("abc", "")]).tolist()}) == 4, "borders count"
    assert hashes_of([("a\ud800",)]).dtype == np.uint64


@pytest.mark.long
def test_what_is_in_memory_of_further_texts_is_little(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A few megabytes whatever there are; as tuples in lists and sets it was 360 bytes for each that was read."""
    count = 20_000
    small_parts(monkeypatch, large=0)
    for name in ("further_texts", "unlabelled", "columns", "mapped_tables", "rows"):
        monkeypatch.setattr(f"tinydistilbert.tasks.{name}.VALUES_AT_ONCE", 500)
    monkeypatch.setattr(seen_texts, "HASHES_IN_MEMORY", 2000)
    csv_of(tmp_path / "train.csv", [(f"train {number}",) for number in range(4)], ["one"])
    csv_of(tmp_path / "scored.csv", [(f"scored {number}",) for number in range(4)], ["one"])
    sources = []
    for first in (0, count // 2):
        sources.append(str(tmp_path / f"{first}.txt"))
        Path(sources[-1]).write_text("".join(f"the people came to see {row}\n" for row in range(first, first + count)))
    recipe = own_recipe(tmp_path, sources, pairs=False)
    task = recipe_examples(recipe, tasks_of(recipe.finetune)["own"], "train").task
    gc.collect()
    tracemalloc.start()
    try:
        further = further_texts(recipe, task)
        assert further is not None and len(further) == count + count // 2 and further.fingerprint
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 150 * 2 * count, peak


def test_a_dry_run_estimates_texts_from_a_sample(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"the people came to see {number}",) for number in range(3000)]
    csv_of(tmp_path / "train.csv", [("a train text",), ("another one",)], ["one"])
    csv_of(tmp_path / "scored.csv", [("scored",), ("scored too",)], ["one"])
    files = [
        str(csv_of(tmp_path / f"{begin}.csv", rows[begin:], ["one"], label=False)) for begin in (0, 1)
    ]  # fmt: skip
    lines = tmp_path / "c.txt"
    lines.write_text("".join(f"{text}\n" for (text,) in rows))
    monkeypatch.setattr(samples, "SAMPLED", 10_000)
    monkeypatch.setattr(samples, "ROWS", 300)

    def count(names: list[str], limit: int = 0) -> int:
        recipe = own_recipe(tmp_path, names, pairs=False, limit=limit)
        with samples.sampling():
            further = further_texts(recipe, recipe_examples(recipe, tasks_of(recipe.finetune)["own"], "train").task)
        assert further is not None and len(further) <= 600
        return further.count

    assert 2500 < count(files[:1]) < 3500 and 2500 < count([str(lines)]) < 3500
    assert any("c.txt: estimated from" in line for line in notices.all_notices())
    assert 2500 < count(files) < 6500
    assert count(files, 1000) == 1000 and count(files, 20) == 20


def originals(count: int) -> Examples:
    texts = [
        f"{WORDS[n % 10]} {WORDS[n // 10 % 10]} {WORDS[n // 3 % 10]} saw the {WORDS[n // 7 % 10]}" for n in range(count)
    ]
    return Examples(TASKS["cola"], "train", {"idx": range(count), "text": texts, "label": [0] * count}, count)


def copies(
    examples: Examples, tokenizer: PreTrainedTokenizerFast, lines: list[str], many: int, share: float = 0.2
) -> Iterator[Examples]:
    sizes = {"vocab_size": len(tokenizer), **tiny.WIDER, "max_position_embeddings": 64, "initializer_range": 0.3}
    settings = TaskDistillation(augment=many, augment_share=share, augment_candidates=2)
    return augment(
        examples, tiny.model("bert", **sizes), tokenizer, settings,
        seed=0, device=torch.device("cpu"), log=lines.append, max_length=64,
    )  # fmt: skip


def test_copies_do_not_depend_on_the_parts_that_they_are_made_in(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy that is equal to one of another part, or to an example of a later one, is left out there as well."""
    examples, lines = originals(40), list[str]()
    (whole,) = copies(examples, tokenizer, lines, 30)
    assert len(lines) == 2 and "left out" in lines[1] and "examples 1 to" not in lines[0]
    monkeypatch.setattr(augmentation, "EXAMPLES_AT_ONCE", 7)
    monkeypatch.setattr(seen_texts, "HASHES_IN_MEMORY", 50)
    in_parts = list[str]()
    parts = [*copies(examples, tokenizer, in_parts, 30)]
    assert len(parts) == 6 and len(in_parts) == 7
    assert "(examples 8 to 14 of 40)" in in_parts[1] and in_parts[-1] == lines[-1]
    for name, values in whole.columns.items():
        assert [value for part in parts for value in part.columns[name]] == values
    monkeypatch.setattr(augmentation, "COPIES_AT_ONCE", 60)
    assert len([*copies(examples, tokenizer, [], 30)]) == 20, "more copies of each, fewer examples at a time"


def proposed_at_once(texts: list[str], *_: Any, **__: Any) -> Proposals:
    """The same nine words for each word, without a model."""
    spans = [[match.span() for match in re.finditer(r"[a-z]+", text)] for text in texts]
    begin, end = np.array([span for of_text in spans for span in of_text]).T
    ends, none = np.cumsum([0, *map(len, spans)]), np.zeros(len(begin), dtype=np.int64)
    words = Words(ends, none, none, none, ends, none > 0, begin, end)
    return Proposals(words, np.tile(np.arange(9), (len(begin), 1)), WORDS, lower_cased=True)


@pytest.mark.long
def test_what_is_in_memory_of_copies_is_that_of_a_part(
    tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(augmentation, "propose", proposed_at_once)
    monkeypatch.setattr(seen_texts, "HASHES_IN_MEMORY", 500)
    texts = [f"{text} {number}" + " 1" * 500 for number, text in enumerate(originals(90).columns["text"])]
    examples, file = originals(90), tmp_path / "copies.parquet"
    examples = replace(examples, columns={**examples.columns, "text": texts})

    def peak(at_once: int) -> int:
        monkeypatch.setattr(augmentation, "EXAMPLES_AT_ONCE", at_once)
        gc.collect()
        tracemalloc.start()
        try:
            write_examples(examples.task, copies(examples, tokenizer, [], many=20, share=0.7), file)
            return tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()

    whole, in_parts = peak(90), peak(6)
    metadata = pyarrow.parquet.ParquetFile(file).metadata
    assert metadata.num_row_groups == 15 and metadata.num_rows > 1700, metadata
    assert in_parts < whole / 2, (in_parts, whole)


def test_copies_that_are_broken_off_are_not_finished(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    examples = originals(20)

    def broken() -> Iterator[Examples]:
        yield from copies(examples, tokenizer, [], 2)
        raise KeyboardInterrupt

    def make(parts: Iterator[Examples]) -> None:
        with atomic.unfinished(tmp_path / "augmented") as folder:
            write_examples(examples.task, parts, folder / "examples.parquet")

    with pytest.raises(KeyboardInterrupt):
        make(broken())
    assert not atomic.is_finished(tmp_path / "augmented") and not (tmp_path / "augmented").exists()
    make(copies(examples, tokenizer, [], 2))
    copied = read_unlabelled(tmp_path / "augmented" / "examples.parquet", TASKS["cola"])
    assert [*copied.columns["text"]] == [t for part in copies(examples, tokenizer, [], 2) for t in part.columns["text"]]


def test_large_files_of_copies_and_of_tagged_texts_stay_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    questions = [f"what is {number}" for number in range(30)]
    columns = {
        "id": [str(n) for n in range(3)], "question": ["a", "b", "c"], "context": ["x", "y", "z"],
        "answers": [{"text": [t], "answer_start": [0]} for t in "xyz"],
    }  # fmt: skip
    spans = Examples(TASKS["squad"], "train", columns, 3)
    alone = augmentation.questions_alone(spans)
    assert [*alone.columns["idx"]] == [0, 1, 2] and [*alone.columns["label"]] == [None] * 3
    rows = {"idx": [n % 3 for n in range(30)], "text": questions}
    write_examples(alone.task, [Examples(alone.task, "train", rows, 30)], tmp_path / "copies.parquet")
    tags = tasks_of(toml.from_dict({"finetune": {"tasks": ["tags"], "custom": {"tags": {
        "train": "a.conll", "validation": "b.conll", "kind": "token-classification",
    }}}}, "here").finetune)["tags"]  # fmt: skip
    (tmp_path / "more.txt").write_text("".join(f"{question} now\n" for question in questions))
    contents = []
    for large in (2**40, 0):
        small_parts(monkeypatch, large=large)
        copied, tagged = (
            question_copies(tmp_path / "copies.parquet", spans),
            read_unlabelled(tmp_path / "more.txt", tags),
        )
        contents.append((copied.texts, [*copied.columns["answers"]], copied.fingerprint, tagged.fingerprint))
        assert isinstance(copied.columns["question"], Column) and isinstance(tagged.columns["words"], Column) == (
            not large
        )
    assert contents[0] == contents[1]
    assert contents[0][0][:4] == [("what is 0", "x"), ("what is 1", "y"), ("what is 2", "z"), ("what is 3", "x")]
    assert tagged.columns["words"][3] == ((0, 4), (5, 7), (8, 9), (10, 13)) and tagged.columns["label"][4] is None
