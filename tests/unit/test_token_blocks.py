"""Token blocks made by several processes, interrupted and resumed, and without repeated documents."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pytest
from transformers import PreTrainedTokenizerFast

from tinydistilbert import notices
from tinydistilbert.data import (
    document_tokens,
    files,
    repeated_documents,
    seen_texts,
    sources,
    token_blocks,
    token_workers,
)
from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.data.document_tokens import DocumentTokenizer, TokenizedDocuments
from tinydistilbert.data.npy import RowFile
from tinydistilbert.errors import OutOfMemory, SourceLost, UserError
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Corpus, Recipe, recipe_hash
from tinydistilbert.storage import disk

DOCUMENTS = [f"The old house number {number} near the lake.\nMany people came to see it." for number in range(12)]


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Corpus:
    """A batch is a document, and a shard two of them."""
    monkeypatch.setattr(document_tokens, "CHARACTERS_AT_ONCE", 1)
    monkeypatch.setattr(token_blocks, "BATCHES_OF_SHARD", 2)
    folder = tmp_path / "text"
    folder.mkdir()
    (folder / "train.txt").write_text("\n\n".join(DOCUMENTS))
    (folder / "validation.txt").write_text("\n\n".join(DOCUMENTS[:4]) + "\n\nShe sat down to read.")
    return Corpus(source=str(folder), block_size=9)


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.long
@pytest.mark.parametrize("packing", ["documents", "lines"])
def test_blocks_do_not_depend_on_the_number_of_processes(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, packing: Any
) -> None:
    corpus = replace(corpus, packing=packing)
    made = [content(prepare(corpus, tokenizer, tmp_path / f"{jobs}", None, jobs=jobs)) for jobs in (1, 2, 3)]
    assert made[0] == made[1] == made[2] and len(made[0]) == 5


@contextmanager
def killed_at(number: int) -> Iterator[None]:
    """In the body the process is killed when it is about to make its n-th shard durable."""
    synced, sync = [0], RowFile.sync

    def dying(rows: RowFile) -> None:
        synced[0] += 1
        if synced[0] == number:
            raise KeyboardInterrupt
        sync(rows)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(RowFile, "sync", dying)
        yield


@pytest.mark.parametrize("number", [1, 2, 5, 8])
def test_a_killed_preparation_goes_on_from_its_last_shard(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], number: int,
) -> None:  # fmt: skip
    """Of train there are six shards of two documents, of validation three."""
    whole = content(prepare(corpus, tokenizer, tmp_path / "whole", None))
    with killed_at(number):
        prepare(corpus, tokenizer, tmp_path / "parts", None)
    asked: list[str] = []
    tokenize = DocumentTokenizer.__call__

    def counting(self: DocumentTokenizer, documents: Any) -> TokenizedDocuments:
        asked.extend(documents)
        return tokenize(self, documents)

    monkeypatch.setattr(DocumentTokenizer, "__call__", counting)
    folder = prepare(corpus, tokenizer, tmp_path / "parts", None)
    assert content(folder) == whole
    assert len(asked) == 12 + 5 - 2 * (number - 1), "what was durable is not tokenised again"
    assert ("were done before; continuing" in capsys.readouterr().err) == (number > 1)
    assert not (folder / "checkpoints").exists()


def test_a_data_set_whose_hub_fails_on_the_way_goes_on_behind_the_shards_that_are_done(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    whole = prepare(corpus, tokenizer, tmp_path / "whole", None)
    fails_after = [7]

    def rows(texts: tuple[str, ...]) -> Iterator[dict[str, str]]:
        for number, text in enumerate(texts):
            if number >= fails_after[0]:
                raise ConnectionError("the hub is gone")
            yield {"text": text}

    def load_dataset(*_: Any, **__: Any) -> Any:
        texts = {"train": DOCUMENTS, "validation": [*DOCUMENTS[:4], "She sat down to read."]}
        return {
            split: datasets.IterableDataset.from_generator(rows, gen_kwargs={"texts": tuple(texts[split])})
            for split in texts
        }

    monkeypatch.setattr(files, "PARQUET_ROWS", 1)
    monkeypatch.setattr(sources, "LINES_TO_LOOK_AT", 2)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda _, name: SimpleNamespace(sha="abc"))
    streamed = replace(corpus, source="me/set", streaming=True)
    with pytest.raises(SourceLost, match="the hub is gone"):
        prepare(streamed, tokenizer, tmp_path / "parts", None)
    fails_after[0] = 99
    folder = prepare(streamed, tokenizer, tmp_path / "parts", None)
    assert "6 documents" in capsys.readouterr().err
    for name in ("train.npy", "validation.npy"):
        assert (folder / name).read_bytes() == (whole / name).read_bytes()


@pytest.mark.parametrize("damaged", ["train.npy", "checkpoints/train.json"])
def test_damaged_shards_are_made_again_and_named(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, capsys: pytest.CaptureFixture[str], damaged: str
) -> None:
    whole = content(prepare(corpus, tokenizer, tmp_path / "whole", None))
    with killed_at(4):
        prepare(corpus, tokenizer, tmp_path / "parts", None)
    (partial,) = (tmp_path / "parts").glob("*.partial")
    raw = bytearray((partial / damaged).read_bytes())
    raw[140 if damaged == "train.npy" else 0] ^= 1
    (partial / damaged).write_bytes(raw)
    assert content(prepare(corpus, tokenizer, tmp_path / "parts", None)) == whole
    assert "train.npy: starting again" in capsys.readouterr().err


@pytest.mark.parametrize("vanished", ["train.npy", "checkpoints/train.json", "checkpoints"])
def test_shards_that_vanish_before_it_goes_on_are_made_again(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, vanished: str
) -> None:
    whole = content(prepare(corpus, tokenizer, tmp_path / "whole", None))
    with killed_at(4):
        prepare(corpus, tokenizer, tmp_path / "parts", None)
    (partial,) = (tmp_path / "parts").glob("*.partial")
    disk.remove(partial / vanished)
    assert content(prepare(corpus, tokenizer, tmp_path / "parts", None)) == whole


def test_text_that_changes_before_it_goes_on_is_prepared_from_the_start(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    with killed_at(4):
        prepare(corpus, tokenizer, tmp_path / "parts", None)
    text = Path(corpus.source) / "train.txt"
    text.write_text(text.read_text().replace("the", "a"))
    changed = content(prepare(corpus, tokenizer, tmp_path / "parts", None))
    assert changed == content(prepare(corpus, tokenizer, tmp_path / "anew", None))


@pytest.mark.parametrize("in_memory", [1, 1000])
def test_repeated_documents_are_left_out_and_counted(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, in_memory: int
) -> None:
    """White space makes no other document; of the validation text goes what is in the training text."""
    monkeypatch.setattr(seen_texts, "HASHES_IN_MEMORY", in_memory)
    monkeypatch.setattr(repeated_documents, "CHARACTERS_AT_ONCE", 100)
    once = load_blocks(prepare(corpus, tokenizer, tmp_path / "cache", None))
    train = Path(corpus.source) / "train.txt"
    train.write_text("\n\n".join([*DOCUMENTS, DOCUMENTS[3].replace(" ", "  "), DOCUMENTS[0]]))
    notices.begin()
    blocks = load_blocks(prepare(replace(corpus, deduplicate=True), tokenizer, tmp_path / "cache", None))
    assert (blocks.train == once.train).all()
    splits = blocks.manifest["splits"]
    assert (splits["train"]["repeated"], splits["validation"]["repeated"]) == (2, 4)
    assert splits["validation"]["documents"] == 1
    assert any("6 repeated documents left out" in line for line in notices.all_notices())
    assert "repeated" not in once.manifest["splits"]["train"], "as versions before wrote it"


def test_the_key_enters_hashes_only_where_it_is_set(
    corpus: Corpus, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    folder = prepare(corpus, tokenizer, tmp_path, None)
    assert "deduplicate" not in load_blocks(folder).manifest["settings"]
    assert prepare(replace(corpus, deduplicate=True), tokenizer, tmp_path, None) != folder
    assert recipe_hash(Recipe(corpus=replace(corpus, deduplicate=True))) != recipe_hash(Recipe(corpus=corpus))
    with pytest.raises(UserError, match=r"corpus.deduplicate.*documents"):
        toml.from_dict({"corpus": {"deduplicate": True, "packing": "lines"}}, "recipe")


def of_text(tokenizer: PreTrainedTokenizerFast) -> DocumentTokenizer:
    return DocumentTokenizer(tokenizer.backend_tokenizer, "[UNK]", tokenizer.unk_token_id, lowers=True)


def test_documents_are_tokenised_as_transformers_does(tokenizer: PreTrainedTokenizerFast) -> None:
    tokenizer("truncation and padding are settings of a call", truncation=True, max_length=4, padding="max_length")
    done = of_text(tokenizer)([*DOCUMENTS, "", "\u4e00 [MASK] <unk>"])
    rows = tokenizer([*DOCUMENTS, "", "\u4e00 [MASK] [UNK]"], add_special_tokens=False)["input_ids"]
    assert done.lengths.tolist() == [*map(len, rows)] and done.ids.tolist() == [token for row in rows for token in row]
    assert (done.unknown, done.with_capitals) == (sum(row.count(1) for row in rows), 13)
    assert of_text(tokenizer)(["the <unk> cats", "The cats"]).with_capitals == 1, "<unk> has none, though [UNK] has"


@pytest.mark.long
def test_few_batches_are_read_ahead_and_a_killed_worker_is_told(
    tokenizer: PreTrainedTokenizerFast, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, taken, workers = [0], [0], []
    asked = token_workers._asked

    def noting(idle: Any, batch: Any) -> TokenizedDocuments:
        done = asked(idle, batch)
        worker = idle.get()
        workers.append(worker)
        idle.put(worker)
        return done

    def batches() -> Iterator[list[str]]:
        for number in range(60):
            read[0] += 1
            assert read[0] - taken[0] <= token_workers.WAITING * 2 + 1, "what waits is bounded, whatever the size"
            yield [f"document {number}"]

    monkeypatch.setattr(token_workers, "_asked", noting)
    answers = token_workers.tokenized(batches(), of_text(tokenizer), jobs=2)
    with pytest.raises(OutOfMemory, match=r"SIGKILL.*same command"):
        for _ in answers:
            taken[0] += 1
            if taken[0] == 30:
                os.kill(workers[0].pid, signal.SIGKILL)
    assert all(worker.poll() is not None for worker in workers), "none is left"
