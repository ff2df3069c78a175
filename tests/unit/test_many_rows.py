"""Files that are larger than memory should hold: their rows are the same ones, checked alike, read once, and kept."""

import dataclasses
import gzip
import json
import random
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tinydistilbert import notices
from tinydistilbert.data.order import length_grouped
from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Corpus, CustomTask
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import (
    TASKS,
    Examples,
    load_examples,
    mapped_tables,
    read_once,
    readers,
    same,
    samples,
    token_rows,
)
from tinydistilbert.tasks.columns import Column, chained, taken
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.row_checks import _all_differ
from tinydistilbert.tasks.rows import Rows
from tinydistilbert.tasks.same import numbered
from tinydistilbert.tasks.token_rows import FlatFile, TokenRows
from tinydistilbert.tasks.unlabelled import read_unlabelled
from tinydistilbert.tasks.words import words_in

COUNT = 250
PAIRS = [
    (f"text {row}, {'x' * (row % 7)}" + "\nsecond line" * (row % 50 == 3), ("bad", "good")[row % 2])
    for row in range(COUNT)
]


@pytest.fixture(autouse=True)
def small_parts(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Parts of a few rows, and nothing at hand of another test."""
    monkeypatch.setattr(readers, "RECORDS_AT_ONCE", 40)
    monkeypatch.setattr(mapped_tables, "VALUES_AT_ONCE", 40)
    monkeypatch.setattr("tinydistilbert.tasks.rows.VALUES_AT_ONCE", 40)
    monkeypatch.setattr("tinydistilbert.tasks.columns.VALUES_AT_ONCE", 40)
    read_once.forget()
    notices.begin()
    yield
    read_once.forget()


def written(folder: Path, name: str, rows: list[dict[str, Any]]) -> Path:
    path = folder / name
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=70)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        cells = [[str(value) for value in row.values()] for row in rows]
        lines = [",".join(f'"{cell}"' for cell in row) for row in [[*rows[0]], *cells]]
        path.write_text("\n".join(lines) + "\n")
    return path


def examples_of(path: Path, split: str = "train", **settings: Any) -> Examples:
    task = custom_task("own", CustomTask(train=str(path), **{"validation": "20%"} | settings))
    return load_examples(task, split, data=None, corpus=Corpus(), limit=0, seed=0)


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("kind", "labels"), [("classification", None), ("regression", None), ("multi-label", "a|b")])
def test_examples_of_a_large_file_are_those_of_a_small_one(
    suffix: str, kind: str, labels: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def label(row: int) -> Any:
        if kind == "regression":
            return row / 4
        return ["a", "b", "a|b"][row % 3] if labels else PAIRS[row][1]

    rows = [{"text": text, "label": label(row)} for row, (text, _) in enumerate(PAIRS)]
    path = written(tmp_path, f"rows{suffix}", rows)
    small = [examples_of(path, split, kind=kind) for split in ("train", "validation")]
    lines = notices.all_notices()
    monkeypatch.setattr(mapped_tables, "LARGE", 0)
    notices.begin()
    for before, now in zip(
        small, [examples_of(path, split, kind=kind) for split in ("train", "validation")], strict=True
    ):
        assert isinstance(before.columns["text"], list) and isinstance(now.columns["text"], Column)
        assert now.columns == before.columns and now.task == before.task
        assert now.fingerprint == before.fingerprint
        assert now.hashes == before.hashes
    assert notices.all_notices() == lines


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([*range(COUNT - 1), 2.5], ""),
        ([*range(COUNT - 1), 2**70], ""),
        ([None] * 200 + [1] * (COUNT - 200), ""),
        ([{"a": 1}] * 100 + [{"b": "x"}] * (COUNT - 100), ""),
        ([[]] * 150 + [["x"]] * (COUNT - 150), ""),
        ([*range(200), *"x" * (COUNT - 200)], ":201, column more: expected values of one kind"),
    ],
)
def test_columns_of_json_have_the_type_of_all_their_values(
    values: list[Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = written(tmp_path, "rows.jsonl", [{"text": f"t{row}", "more": value} for row, value in enumerate(values)])
    if message:
        monkeypatch.setattr(mapped_tables, "LARGE", 0)
        with pytest.raises(UserError, match=message):
            readers.read_rows(path)
        return
    small = readers.read_table(path)
    monkeypatch.setattr(mapped_tables, "LARGE", 0)
    large = readers.read_rows(path)
    assert large.table.schema == small.schema and large.table.to_pylist() == small.to_pylist()
    assert large.location(COUNT - 1) == f"{path}:{COUNT}"


@pytest.mark.parametrize(
    ("row", "message"), [("x,\n", "column label"), ("a,b,c\n", "expected 2 fields"), (" ,bad\n", "column text")]
)
def test_a_wrong_row_of_a_large_file_is_told_with_its_line(
    row: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "rows.csv"
    path.write_text("text,label\n" + "".join(f"t{number},good\n" for number in range(COUNT)) + row)
    monkeypatch.setattr(mapped_tables, "LARGE", 0)
    with pytest.raises(UserError, match=f"rows.csv:{COUNT + 2}.*{message}"):
        examples_of(path)


def test_a_large_split_is_read_once_and_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kept rows are taken while the file is the same; what was said is said again; damage and edits are seen."""
    monkeypatch.setattr(mapped_tables, "LARGE", 0)
    path = written(tmp_path, "rows.csv", [{"text": text, "label": f" {label}"} for text, label in PAIRS])
    run, reads = tmp_path / "run", list[Path]()
    read_rows = readers.read_rows

    def counted(path: Path, *more: Any) -> Rows:
        reads.append(path)
        return read_rows(path, *more)

    monkeypatch.setattr("tinydistilbert.tasks.splits.read_rows", counted)

    def loaded(folder: Path = run) -> Examples:
        notices.begin()
        with read_once.kept_in(lambda task, split: folder / task / split):
            examples = examples_of(path)
            read_once.keep(["own"])
        assert any("white space around" in line for line in notices.all_notices())
        return examples

    first = loaded()
    assert loaded() == first and len(reads) == 1 and atomic.is_finished(run / "own/train")
    read_once.forget()
    again = loaded()
    assert len(reads) == 1 and again.columns == first.columns and again.task == first.task
    assert again.fingerprint == first.fingerprint and again.total == first.total

    read_once.forget()
    (run / "own/train" / read_once.FILE).write_bytes(b"x")
    assert loaded().columns == first.columns and len(reads) == 2
    assert any("damaged" in line for line in notices.all_notices())

    with path.open("a") as stream:
        stream.write("one more,good\n")
    assert len(loaded()) + len(examples_of(path, "validation")) == COUNT + 1


def test_other_settings_do_not_take_what_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mapped_tables, "LARGE", 0)
    rows = [{"text": text, "other": text[::-1], "label": label} for text, label in PAIRS]
    path = written(tmp_path, "rows.csv", rows)
    for settings in ({}, {"text": "other"}, {"validation": "30%"}):
        with read_once.kept_in(lambda task, split: tmp_path / "run" / split):
            examples = examples_of(path, **settings)
            read_once.keep(["own"])
        with monkeypatch.context() as patched:
            patched.setattr(mapped_tables, "LARGE", 10**9)
            assert examples.columns == examples_of(path, **settings).columns
        read_once.forget()


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet", ".csv.gz"])
def test_a_sample_is_of_whole_rows_evenly_over_the_file(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [{"text": f"{number:03} {text}", "label": label} for number, (text, label) in enumerate(PAIRS)]
    if suffix == ".tsv":
        rows = [{**row, "text": row["text"].replace("\n", " ").replace(",", ' "')} for row in rows]
    path = tmp_path / f"rows{suffix}"
    if suffix in (".tsv", ".csv.gz"):
        plain = written(tmp_path, "plain.csv", rows).read_text()
        if suffix == ".tsv":
            path.write_text("text\tlabel\n" + "".join(f"{row['text']}\t{row['label']}\n" for row in rows))
        else:
            path.write_bytes(gzip.compress(plain.encode()))
    else:
        written(tmp_path, path.name, rows)
    whole = readers.read_rows(path)
    row_at = {whole.location(row): value for row, value in enumerate(whole.table.to_pylist())}
    for name, value in {"SAMPLED": 0, "POSITIONS": 10, "ROWS": 50}.items():
        monkeypatch.setattr(samples, name, value)
    notices.begin()
    with samples.sampling() as looked_at:
        sample = readers.read_rows(path)
    count = sample.table.num_rows
    assert 30 <= count <= 60 and abs(sample.sampled_from - COUNT) < 40 and looked_at.is_used
    assert [row_at[sample.location(row)] for row in range(count)] == sample.table.to_pylist()
    numbers = [int(text[:3]) for text in sample.values("text")]
    assert numbers[0] == 0 and numbers[-1] > 0.8 * COUNT and numbers == sorted({*numbers})
    assert any(f"estimated from {count} of about {sample.sampled_from} rows" in line for line in notices.all_notices())
    assert readers.read_rows(path).sampled_from == 0


def test_columns_are_sequences() -> None:
    values = [f"v{number}" for number in range(100)]
    column = Column(pa.chunked_array([pa.array(values[:30]), pa.array(values[30:31]), pa.array(values[31:])]))
    rows = np.array([99, 0, 30, 31, 5, 5])
    assert column == values and [*column] == values and column[-1] == "v99" and column[28:33] == values[28:33]
    assert column[::7] == values[::7]
    assert column.take(rows) == [values[row] for row in rows] and column.take(rows).take([1, 2])[:] == ["v0", "v30"]
    with pytest.raises(IndexError):
        column[100]
    numbers = Column(pa.chunked_array([pa.array([1, 2]), pa.array([3])]), form=lambda number: number + 1)
    assert np.array(numbers).tolist() == [2, 3, 4] and pa.array(numbers.take([2])).to_pylist() == [4]


def test_chained_sequences_are_one() -> None:
    column = Column(pa.chunked_array([pa.array(["a", "b"]), pa.array(["c"])]))
    chain, values = chained([column, [], range(4), ["x", None]]), ["a", "b", "c", 0, 1, 2, 3, "x", None]
    assert len(chain) == 9 and [*chain] == values and [chain[row] for row in range(-9, 9)] == [*values, *values]
    assert chain[2:5] == values[2:5] and chain[20:] == [] and chain[::-2] == values[::-2]
    assert [*taken(chain, np.array([8, 0, 3, 2]))] == [None, "a", 0, "c"]
    assert isinstance(taken(chain, range(2)), Column), "those of one part are not copied"
    with pytest.raises(IndexError):
        chain[9]
    assert chained([["a"], [], ["b"]]) == ["a", "b"] and len(chained([column[:0], range(0)])) == 0


@pytest.mark.parametrize("name", ["more.csv", "more.txt"])
def test_further_texts_of_a_large_file_are_those_of_a_small_one(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They stand behind the train examples without a copy in memory, and are the same to what is made of them."""
    monkeypatch.setattr("tinydistilbert.tasks.unlabelled.VALUES_AT_ONCE", 40)
    train = examples_of(written(tmp_path, "rows.csv", [{"text": text, "label": label} for text, label in PAIRS]))
    texts = [f"more {number}" for number in range(COUNT)]
    (tmp_path / name).write_text("\n".join(["text"] * name.endswith(".csv") + texts) + "\n")
    facts = []
    for large in (2**40, 0):
        monkeypatch.setattr(mapped_tables, "LARGE", large)
        more = read_unlabelled(tmp_path / name, train.task)
        columns = {name: chained([values, more.columns[name]]) for name, values in train.columns.items()}
        both = dataclasses.replace(train, columns=columns)
        facts.append((both.fingerprint, both.take([0, len(both) - 1]).columns, [*both.columns["text"][-3:]], len(both)))
    assert isinstance(more.columns["text"], Column) and facts[0] == facts[1]
    assert facts[0][1]["text"] == [PAIRS[0][0], texts[-1]] and facts[0][3] == len(train) + COUNT
    with pytest.raises(UserError, match=r"empty|white space"):
        (tmp_path / name).write_text("text\n\n \nb\n")
        read_unlabelled(tmp_path / name, train.task)


def test_names_that_differ_are_known_to_differ_however_many() -> None:
    """By hashes of eight bytes: of so many of four some would surely agree."""
    names = [f"row {number}" for number in range(400_000)]
    assert _all_differ(names) and not _all_differ([*names[:9], names[0]])


@pytest.mark.parametrize("seed", range(5))
def test_texts_are_numbered_as_they_first_occur_even_where_hashes_agree(seed: int) -> None:
    chance = random.Random(seed)
    values = [chance.randrange(12) for _ in range(60)]
    first: dict[int, int] = {}
    expected = [first.setdefault(value, len(first)) for value in values]
    for hashes in ([value % 5 for value in values], values, [0] * len(values)):
        numbers = numbered(np.array(hashes), lambda rows: [values[row] for row in rows])
        assert numbers.tolist() == expected
    assert numbered(np.zeros(0, dtype=np.uint32), lambda _: []).tolist() == []


def test_a_hash_is_looked_for_among_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(same, "HASHES_AT_ONCE", 7)
    hashes = np.random.default_rng(0).integers(0, 50, 100).astype(np.uint32)
    for others in (hashes[:0], hashes[:1], hashes[20:30], hashes):
        assert same.among(hashes, others).tolist() == np.isin(hashes, others).tolist()
    values = [f"text {number % 40}" for number in range(100)]
    hashed = same.hashes_of(values, 100)
    assert hashed.dtype == np.uint32 and len({*hashed.tolist()}) == 40 and (hashed[:40] == hashed[40:80]).all()


def test_what_is_in_memory_of_each_row_is_small(tokenizer: Any, tmp_path: Path) -> None:
    """Ten million rows start within a gigabyte: numbers of four bytes a row, and few of them at a time."""
    count = 200_000
    hashes = np.random.default_rng(0).permutation(count).astype(np.uint32)
    tracemalloc.start()
    try:
        assert numbered(hashes, lambda _: []).itemsize == 4
        assert tracemalloc.get_traced_memory()[1] < 14 * count
        tracemalloc.reset_peak()
        lengths = np.arange(count, dtype=np.int32) % 30
        batches = length_grouped(lengths, 32, 0, 0)
        assert tracemalloc.get_traced_memory()[1] < 16 * count
        assert len(batches[0]) == 32
    finally:
        tracemalloc.stop()
    (tmp_path / "a.csv").write_text("text,label\n" + "".join(f"text {row},{'ab'[row % 2]}\n" for row in range(20)))
    task = custom_task("own", CustomTask(train=str(tmp_path / "a.csv")))
    examples = load_examples(task, "train", data=None, corpus=Corpus(), limit=0, seed=0)
    features = encode(examples, tokenizer, 16)
    assert features.lengths.itemsize == features.labels.itemsize == features.example.itemsize == 4
    assert examples.folded_hashes.itemsize == examples.text_numbers.itemsize == 4


def test_tokens_of_many_rows_lie_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [np.arange(begin, begin + 7, dtype=np.int32) for begin in range(0, 70, 7)]
    flat = FlatFile()
    monkeypatch.setattr(token_rows, "MOST_IN_MEMORY", 100)
    for part in parts:
        flat.append(part)
    whole = flat.whole()
    assert isinstance(whole, np.memmap) and whole.dtype == np.int32 and whole.tolist() == [*range(70)]


def test_what_a_task_is_said_by_is_what_its_rows_depend_on() -> None:
    """A new field of a task is looked at here: either kept rows depend on it, or they do not."""
    unrelated = {"name", "title", "table", "metrics", "headline", "folder", "hub", "files", "make", "of_library"}
    unrelated |= {"max_length", "typical_length", "doc_stride", "answer_units", "official", "published"}
    unrelated |= {"corrected", "example"}
    fields = {field.name for field in dataclasses.fields(custom_task("own", CustomTask(train="a.csv")))}
    assert fields == unrelated | {*read_once._HOW_READ}


@pytest.mark.parametrize("kind", ["span", "token-classification"])
def test_tokens_of_windows_and_of_words_lie_in_files(
    kind: str, tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With their places in the texts, in as many calls of the tokenizer as there are parts."""
    text = "the people came to see the tower near the lake"
    if kind == "span":
        contexts = [f"{text} {'some cats ' * (row % 5)}" for row in range(30)]
        answers = [{"text": ["tower"], "answer_start": [context.index("tower")]} for context in contexts]
        columns = {"id": [*map(str, range(30))], "question": ["what"] * 30, "context": contexts, "answers": answers}
        task = TASKS["squad"]
    else:
        texts = [" ".join(text.split()[: row % 8]) for row in range(30)]
        tags = [tuple(range(row % 8)) if row % 3 else None for row in range(30)]
        columns = {"text": texts, "words": [words_in(text) for text in texts], "label": tags}
        task = dataclasses.replace(TASKS["cola"], kind="token-classification")
    examples = Examples(task, "train", columns, 30)
    whole = encode(examples, tokenizer, 16)
    monkeypatch.setattr(token_rows, "MOST_IN_MEMORY", 0)
    monkeypatch.setattr("tinydistilbert.tasks.encoding.CHUNK", 7)
    encoded = encode(examples, tokenizer, 16)
    assert len(encoded) == len(whole) >= 30
    for name in ("input_ids", "token_type_ids", "labels", "example", "offsets", "word_tokens"):
        parts, together = getattr(encoded, name), getattr(whole, name)
        if parts is None:
            assert together is None
            continue
        for one, other in zip(parts, together, strict=True):
            np.testing.assert_array_equal(one, other)
    mapped = encoded.offsets if kind == "span" else encoded.word_tokens
    assert isinstance(mapped, TokenRows) and isinstance(mapped.flat, np.memmap)
    assert kind == "span" or isinstance(encoded.labels, np.memmap)
