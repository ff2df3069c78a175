"""Documents out of WikiText, local files, the Python library and the hub."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydistilbert import notices
from tinydistilbert.data import files, hub, python_docs
from tinydistilbert.data.sources import Source, is_held_out, open_source
from tinydistilbert.data.split_names import splits_by_name
from tinydistilbert.data.wikitext import articles, detokenize
from tinydistilbert.errors import SourceLost, UserError
from tinydistilbert.recipe.names import Quoting
from tinydistilbert.recipe.schema import Corpus

WIKI = """
 = First <unk> =

 The role @-@ playing game sold 1 @,@ 500 copies .

 = = Section = =

 It is a sequel .
 Key : Pld
 = Played , W =
 Wins .

 = Second =

 Another article .
"""
FIRST = "The role-playing game sold 1,500 copies.\nIt is a sequel.\nKey: Pld\n= Played, W =\nWins."


def read(source: Source) -> tuple[list[str], list[str]]:
    return list(source.train()), list(source.validation())


@pytest.mark.parametrize(
    ("tokens", "text"),
    [
        ("a length of 5 @.@ 7 metres", "a length of 5.7 metres"),
        ("a real @-@ time game", "a real-time game"),
        ("paid $ 750 @,@ 000 , or £ 9 .", "paid $750,000, or £9."),
        ("Snow Patrol 's song", "Snow Patrol's song"),
        ("I don 't , we 've and O 'Brien 'll", "I don't, we've and O'Brien'll"),
        ('the " Nameless " , a unit', 'the "Nameless", a unit'),
        ('" One , " he said , " two . "', '"One," he said, "two."'),
        ("lit ( the [ last ] one ) ; so", "lit (the [last] one); so"),
        ("the boys ' club", "the boys' club"),
        ("called a ' dictator ' .", "called a 'dictator'."),
        ("Livin ' the Dream", "Livin' the Dream"),
        ("it doesn ’ t say “ yes ”", "it doesn’t say “yes”"),
        ("won 4 – 1 in 1902 – 03 – a record", "won 4–1 in 1902–03 – a record"),
        ("Genesis 25 : 13 : the # 2 at 150 km / h , 9 %", "Genesis 25:13: the #2 at 150 km/h, 9%"),
        ("a <unk> @-@ <unk> ( <unk> )", "a <unk>-<unk> (<unk>)"),
        ("", ""),
    ],
)
def test_tokens_become_text(tokens: str, text: str) -> None:
    assert detokenize(f" {tokens} ") == text


@given(st.lists(st.text(alphabet="abcXYZ019é", min_size=1), min_size=1))
def test_plain_words_stay_as_they_are(words: list[str]) -> None:
    assert detokenize(" ".join(words)) == " ".join(words)


def test_articles_are_cut_at_titles_only() -> None:
    assert list(articles(WIKI.split("\n"), tokenized=True)) == [FIRST, "Another article."]


@pytest.mark.parametrize("name", ["train.txt", "wiki.train.raw"])
def test_wikitext_is_told_by_its_titles(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text(WIKI)
    (tmp_path / name.replace("train", "valid")).write_text("\n = Held out = \n\n Kept apart . \n")
    source = open_source(Corpus(source=str(tmp_path)), None)
    assert read(source) == ([FIRST, "Another article."], ["Kept apart."])


def test_wikitext_that_is_text_already_is_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text('\n = A = \n\nHe said, "well , yes", and left.\n\n')
    (tmp_path / "dev.txt").write_text("\n = B = \n\nA text.\n")
    assert read(open_source(Corpus(source=str(tmp_path)), None)) == (['He said, "well , yes", and left.'], ["A text."])


def test_lines_are_kept_as_they_stand(tmp_path: Path) -> None:
    folder = tmp_path / "wikitext2"
    folder.mkdir()
    (folder / "train.txt").write_text(" \n = Title = \n \n A role @-@ playing game . \n")
    (folder / "validation.txt").write_text("one\n")
    source = open_source(Corpus(packing="lines"), str(tmp_path))
    assert read(source) == (["", "= Title =", "", "A role @-@ playing game ."], ["one"])


def test_lines_without_a_validation_split_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\ntwo\n")
    with pytest.raises(UserError, match="validation split"):
        open_source(Corpus(source=str(tmp_path), packing="lines"), None)


TEXTS = ["One text.", "Two\nparagraphs.", "Ünïcode — and more."]


def write_txt(folder: Path) -> None:
    (folder / "a.txt").write_bytes("\ufeff\r\n".encode() + "\r\n\r\n\n".join(TEXTS).encode())


def write_jsonl(folder: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": [*TEXTS[:2], None, TEXTS[2], "\n \n"]})
    rows.to_json(folder / "a.jsonl", force_ascii=False)


def write_parquet(folder: Path) -> None:
    pq.write_table(pa.table({"title": [1, 2, 3], "text": TEXTS}), folder / "a.parquet", row_group_size=1)


def write_categories(folder: Path) -> None:
    pq.write_table(pa.table({"text": pa.array(TEXTS).dictionary_encode()}), folder / "a.parquet")


@pytest.mark.parametrize("write", [write_txt, write_jsonl, write_parquet, write_categories])
def test_a_local_file_gives_its_documents(tmp_path: Path, write: Callable[[Path], None]) -> None:
    write(tmp_path)
    source = open_source(Corpus(source=str(next(tmp_path.iterdir()))), None)
    train, validation = read(source)
    assert sorted(train + validation) == sorted(TEXTS)
    assert read(source) == (train, validation), "documents can be read twice"


@pytest.mark.long
def test_a_small_parquet_file_of_much_text_is_read_in_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text, megabyte = "word " * 200_000, 2**20
    pq.write_table(pa.table({"text": [text] * 100}), tmp_path / "a.parquet", compression="zstd")
    assert (tmp_path / "a.parquet").stat().st_size < megabyte / 100
    monkeypatch.setattr(files, "PARQUET_BYTES", 8 * megabyte)
    before, most = pa.total_allocated_bytes(), 0
    for document in files.records(tmp_path / "a.parquet", "text"):
        assert document == text
        most = max(most, pa.total_allocated_bytes() - before)
    assert most < 40 * megabyte


def test_a_saved_dataset_gives_its_documents(tmp_path: Path) -> None:
    rows = {"train": TEXTS, "validation": ["apart"]}
    saved = datasets.DatasetDict({split: datasets.Dataset.from_dict({"text": texts}) for split, texts in rows.items()})
    saved.save_to_disk(tmp_path / "saved")
    assert read(open_source(Corpus(source=str(tmp_path / "saved")), None)) == (TEXTS, ["apart"])


def test_a_saved_dataset_that_shows_only_other_columns_gives_its_documents(tmp_path: Path) -> None:
    rows = datasets.Dataset.from_dict({"text": TEXTS, "input_ids": [[1] for _ in TEXTS]})
    rows.with_format("torch", columns=["input_ids"]).save_to_disk(tmp_path / "saved")
    train, validation = read(open_source(Corpus(source=str(tmp_path / "saved")), None))
    assert sorted(train + validation) == sorted(TEXTS)


def test_the_split_and_the_configuration_of_a_data_set_may_be_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    saved = datasets.DatasetDict({split: datasets.Dataset.from_dict({"text": [split]}) for split in ("train", "test")})
    saved.save_to_disk(tmp_path / "saved")
    source = open_source(Corpus(source=f"{tmp_path / 'saved'}::test"), None)
    train, validation = read(source)
    assert train + validation == ["test"]
    notices.begin()
    open_source(Corpus(source=str(tmp_path / "saved")), None)
    assert "splits left out: test (1 rows)" in notices.all_notices()[0]
    asked = []

    def load_dataset(name: str, config: str | None, split: str | None = None) -> datasets.Dataset:
        asked.append((name, config, split))
        return saved["train"]

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    for corpus in (
        Corpus(source="me/set:en:train[:5%]"), Corpus(source="me/set", config="en"), Corpus(source="me/set::test")
    ):  # fmt: skip
        open_source(corpus, None)
    assert asked == [("me/set", "en", "train[:5%]"), ("me/set", "en", None), ("me/set", None, "test")]
    with pytest.raises(UserError, match="the configuration is 'en' in corpus"):
        open_source(Corpus(source="me/set:en", config="de"), None)


@pytest.fixture
def on_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `datasets` fetches `me/set` from at revision abc; a data set of two files a split."""
    folder, real = tmp_path / "set", datasets.load_dataset
    for split, texts in (("train", TEXTS), ("validation", ["apart", None]), ("test", ["other", "another"])):
        for part in (0, 1):
            (folder / "data").mkdir(parents=True, exist_ok=True)
            rows = pa.table({"text": pa.array(texts[part::2], pa.string()), "n": [1.5] * len(texts[part::2])})
            pq.write_table(rows, folder / "data" / f"{split}-0000{part}-of-00002.parquet")

    def load_dataset(name: str, config: str | None, **settings: Any) -> Any:
        assert (name, settings.pop("revision")) == ("me/set", "abc") and settings["streaming"]
        return real(str(folder), **settings)

    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda _, name: SimpleNamespace(sha="abc"))
    return folder


def test_a_data_set_on_the_hub_is_read_while_it_is_fetched(on_hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    corpus = Corpus(source="me/set", streaming=True)
    notices.begin()
    source = open_source(corpus, None)
    assert "splits left out: test" in notices.all_notices()[0]
    train, validation = read(source)
    assert sorted(train) == sorted(TEXTS) and validation == ["apart"]
    assert len(read(open_source(replace(corpus, max_train_documents=1), None))[0]) == 1
    one = open_source(Corpus(source="me/set::test", streaming=True), None)
    assert [text for split in read(one) for text in split] == [
        "other",
        "another",
    ] and one.fingerprint != source.fingerprint
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", lambda _, name: SimpleNamespace(sha="abd"))
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: datasets.IterableDatasetDict({"train": None}))
    assert open_source(corpus, None).fingerprint != source.fingerprint, "another revision is another text"


@pytest.mark.parametrize(
    ("corpus", "words"),
    [
        (Corpus(source="me/set", text_column="body"), "a column 'body' of texts, found text, n"),
        (Corpus(source="me/set", text_column="n"), "a column 'n' of texts, found Value"),
        (Corpus(source="me/set::dev"), "a data set on the hub"),
        (Corpus(source="python-docs"), "corpus.streaming is for data sets on the hub"),
    ],
)
def test_mistakes_in_a_data_set_that_is_fetched_are_told(corpus: Corpus, words: str, on_hub: Path) -> None:
    with pytest.raises(UserError, match=words):
        read(open_source(replace(corpus, streaming=True), None))


def test_without_the_hub_nothing_is_fetched_and_when_it_fails_on_the_way_that_is_no_mistake(
    on_hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*_: Any, **__: Any) -> Any:
        raise ConnectionError("no route to the hub")

    def rows() -> Iterator[dict[str, str]]:
        yield {"text": TEXTS[0]}
        raise TimeoutError("the hub does not answer")

    corpus = Corpus(source="me/set", streaming=True)
    failing = datasets.IterableDataset.from_generator(rows)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: failing)
    with pytest.raises(SourceLost, match=r"me/set.*the same command continues"):
        list(open_source(corpus, None).train())
    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", gone)
    with pytest.raises(UserError, match="no route to the hub"):
        open_source(corpus, None)


def test_a_value_further_on_in_a_stream_that_is_no_text_is_told() -> None:
    rows = datasets.IterableDataset.from_generator(lambda: iter([{"text": TEXTS[0]}, {"text": None}, {"text": 5}]))
    assert rows.features is None
    read_rows = hub.records(rows, "me/set", "text")
    assert [next(read_rows), next(read_rows)] == [TEXTS[0], ""]
    with pytest.raises(UserError, match="me/set: expected a column 'text' of texts, found int in it"):
        next(read_rows)


def test_a_row_that_would_fill_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "LONGEST_LINE", 20)
    rows = {"train": ["a" * 20, "b" * 21], "validation": ["apart"]}
    saved = datasets.DatasetDict({split: datasets.Dataset.from_dict({"text": texts}) for split, texts in rows.items()})
    saved.save_to_disk(tmp_path / "saved")
    with pytest.raises(UserError, match="a text of at most 20 characters"):
        read(open_source(Corpus(source=str(tmp_path / "saved")), None))


def test_wikitext_on_the_hub_has_a_line_in_each_row(tmp_path: Path) -> None:
    rows = [line if line == "" else f"{line}\n" for line in WIKI.split("\n")]
    saved = datasets.Dataset.from_dict({"text": rows})
    datasets.DatasetDict({"train": saved, "validation": saved}).save_to_disk(tmp_path / "saved")
    corpus = Corpus(source=str(tmp_path / "saved"))
    assert read(open_source(corpus, None))[0] == [FIRST, "Another article."]
    assert len(list(open_source(replace(corpus, packing="lines"), None).train())) == len(rows)


def test_documents_are_held_out_once_each_and_always_the_same(tmp_path: Path) -> None:
    texts = [f"document {number}" for number in range(400)]
    (tmp_path / "a.txt").write_text("\n\n".join(texts))
    (tmp_path / "b.txt").write_text("\n\n".join(reversed(texts)))
    corpora = [Corpus(source=str(tmp_path / name), validation_share=0.25) for name in ("a.txt", "b.txt")]
    (train, validation), backwards = (read(open_source(corpus, None)) for corpus in corpora)
    assert sorted(train + validation) == sorted(texts)
    assert not set(train) & set(validation)
    assert 65 <= len(validation) <= 135  # 4 standard deviations around 100
    assert (sorted(train), sorted(validation)) == tuple(map(sorted, backwards)), "order and neighbours do not matter"


@given(st.text(), st.floats(0, 1), st.floats(0, 1))
def test_a_larger_share_holds_out_the_same_and_more(name: str, one: float, other: float) -> None:
    assert is_held_out(name, min(one, other)) <= is_held_out(name, max(one, other))


def test_training_documents_can_be_limited(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\n\nb\n\nc")
    (tmp_path / "dev.txt").write_text("d\n\ne")
    source = open_source(Corpus(source=str(tmp_path), max_train_documents=2), None)
    assert read(source) == (["a", "b"], ["d", "e"])


def test_words_that_only_begin_like_a_split_name_none(tmp_path: Path) -> None:
    (tmp_path / "trains.txt").write_text("a")
    (tmp_path / "developer.txt").write_text("b")
    train, validation = read(open_source(Corpus(source=str(tmp_path)), None))
    assert sorted(train + validation) == ["a", "b"]


SPLITS = [
    # names of the files, those for training, those for validation (None: refused), and a word of the notice
    ("train.txt|valid.txt", "train.txt", "valid.txt", ""),
    ("wiki.train.raw|wiki.valid.raw|wiki.test.raw", "wiki.train.raw", "wiki.valid.raw", "out, wiki.test.raw"),
    ("train-00000-of-00002.jsonl|train-00001-of-00002.jsonl|validation-00000-of-00001.jsonl|notes.txt",
     "train-00000-of-00002.jsonl|train-00001-of-00002.jsonl", "validation-00000-of-00001.jsonl",
     "1 file left out, notes.txt"),
    ("train/a.txt|train/b.txt|raw/c.txt", "train/a.txt|train/b.txt", "", "1 file left out, raw/c.txt"),
    ("train/a.txt|train/dev.txt|dev/c.txt", "train/a.txt", "train/dev.txt|dev/c.txt", ""),
    ("train.txt|test.txt", "train.txt", "", "left out, test.txt"),
    ("Training plan.txt|a.txt|b.txt", "Training plan.txt|a.txt|b.txt", "", "1 of 3 files, Training plan.txt"),
    ("bread.txt|ships.txt|train.txt", "bread.txt|ships.txt|train.txt", "", "train in the name of 1 of 3 files"),
    ("a.txt|valid.txt", "a.txt|valid.txt", "", "1 file named like a validation split, valid.txt"),
    ("Training plan.txt|Dev handbook.txt|a.txt", None, None, "the names of 2 of 3 files contain a split"),
    ("a.txt|b.md|.hidden|c.csv", "a.txt", "", "1 file (b.md) of other kinds left out"),
    ("a.csv|b.tsv.gz", "a.csv|b.tsv.gz", "", ""),
    ("a.txt|.kept/a-copy.txt|.b.txt", "a.txt|.kept/a-copy.txt|.b.txt", "",
     "2 files (.b.txt, .kept/a-copy.txt) hidden or in a hidden folder, but read"),
]  # fmt: skip


@pytest.mark.parametrize(("names", "train", "validation", "line"), SPLITS)
def test_a_split_is_taken_from_names_only_where_that_is_sure(
    names: str, train: str | None, validation: str | None, line: str, tmp_path: Path
) -> None:
    paths = names.split("|")
    for name in paths:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(gzip.compress(b"text\n") if name.endswith(".gz") else b"text\n")
    notices.begin()
    if train is None:
        with pytest.raises(UserError, match=line):
            files.find_splits(tmp_path)
        return
    splits = [{file.relative_to(tmp_path).as_posix() for file in part} for part in files.find_splits(tmp_path)]
    assert validation is not None
    assert splits[0] | splits[1] <= set(paths) and splits[0] == set(train.split("|"))
    assert splits[1] == set(validation.split("|")) - {""}
    lines = "\n".join(notices.all_notices())
    assert line in lines and bool(line) == bool(lines)


@pytest.mark.parametrize("packed", ["", ".gz", ".zst"])
def test_splits_may_be_compressed_differently(packed: str) -> None:
    folder = Path("texts")
    train, valid, other = (folder / name for name in (f"wiki.train.txt{packed}", "wiki.valid.txt", "notes.txt"))
    assert splits_by_name([other, train, valid], folder) == ([train], [valid])


def test_what_is_left_out_of_documents_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def lines_of(name: str, content: str) -> str:
        (tmp_path / name).write_text(content)
        notices.begin()
        read(open_source(Corpus(source=str(tmp_path / name)), None))
        return "\n".join(notices.all_notices())

    assert "read as WikiText because of its titles: 3 headings left out" in lines_of("wiki.txt", WIKI)
    rows = "".join(json.dumps({"text": text}) + "\n" for text in ("a", None, " \n", "b"))
    assert "2 rows without text left out" in lines_of("a.jsonl", rows)
    monkeypatch.setattr("tinydistilbert.data.sources.LONGEST_DOCUMENT", 10)
    assert "cut in 2 places" in lines_of("long.txt", "0123456789\n" * 3 + "\n" + "0123456789\n")
    assert lines_of("plain.txt", "a\n\nb\n\n\nc") == ""


def test_tables_and_compressed_files_are_corpora(tmp_path: Path) -> None:
    table = 'id,text\n1,"One, and\nmore"\n2,Two\n'
    (tmp_path / "a.csv").write_text(table)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(table.encode()))
    (tmp_path / "c.tsv").write_text('text\tid\n"One, and\t1\nTwo"\t2\n')
    (tmp_path / "d.txt.gz").write_bytes(gzip.compress(b"One, and\nmore\n\nTwo"))
    (tmp_path / "e.jsonl.gz").write_bytes(gzip.compress(b'{"text": "One, and\\nmore"}\n{"text": "Two"}\n'))
    for name in ("a.csv", "b.csv.gz", "d.txt.gz", "e.jsonl.gz"):
        train, validation = read(open_source(Corpus(source=str(tmp_path / name)), None))
        assert sorted(train + validation) == ["One, and\nmore", "Two"], name
    train, validation = read(open_source(Corpus(source=str(tmp_path / "c.tsv")), None))
    assert sorted(train + validation) == ['"One, and', 'Two"']


def test_the_quotes_of_a_corpus_are_read_as_its_switch_says(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n1,"Oh" she said\n2,Two\n')
    (tmp_path / "b.tsv").write_text('text\tid\n"One"\t1\nTwo\t2\n')

    def texts(name: str, quoting: Quoting) -> list[str]:
        train, validation = read(open_source(Corpus(source=str(tmp_path / name), quoting=quoting), None))
        return sorted(train + validation)

    assert texts("a.csv", "none") == ['"Oh" she said', "Two"]
    with pytest.raises(UserError, match=r"a\.csv:2: .*--corpus\.quoting none"):
        texts("a.csv", "auto")
    notices.begin()
    assert texts("b.tsv", "auto") == texts("b.tsv", "none") == ['"One"', "Two"]
    assert texts("b.tsv", "csv") == ["One", "Two"]
    assert any("--corpus.quoting csv removes them" in line for line in notices.all_notices())


def test_the_fingerprint_is_of_the_content(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("same")
    (tmp_path / "b.txt").write_text("same")
    (tmp_path / "c.txt").write_text("other")
    a, b, c = (open_source(Corpus(source=str(tmp_path / f"{name}.txt")), None).fingerprint for name in "abc")
    assert a == b != c


def test_documents_are_read_one_after_another(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "good"}\n' * 2000 + "broken\n")
    (tmp_path / "valid.jsonl").write_text('{"text": "apart"}\n')
    documents = open_source(Corpus(source=str(tmp_path)), None).train()
    assert next(documents) == "good"
    with pytest.raises(UserError, match=r"train\.jsonl:2001: expected a JSON object"):
        list(documents)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"", "only empty ones"),
        ("a.csv", b"body\n1\n", r"a\.csv:1: expected a column 'text' of texts, found body; set corpus\.text_column"),
        ("a.tsv", b"text\tx\n1\n", r"a\.tsv:2: expected 2 fields, as the header has, found 1"),
        ("a.json", b"[]", r"that ends in \.json cannot be read as a corpus; write one JSON object a line.*\.jsonl"),
        ("a.md", b"text", r"that ends in \.md cannot be read as a corpus; call it a\.txt if it is plain text"),
        ("NOTES", b"text", r"without an ending cannot be read as a corpus; call it NOTES\.txt"),
        ("a.pdf", b"text", r"that ends in \.pdf cannot be read as a corpus; give a file that ends in \.txt"),
        ("a.txt.gz", b"text", r"a\.txt\.gz: expected a whole gzip file"),
        ("a.txt", b"good\n\xc3\xa9 \xff\n", r"a\.txt:2: expected UTF-8, found byte 0xff at column 4"),
        ("a.jsonl", b'{"text": "a"}\n{"body": "b"}\n', r"a\.jsonl:2: expected a column 'text' of texts, found body"),
        ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: .* found int in it"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: .* found half a surrogate pair"),
        ("a.jsonl", b'["text"]\n', r"a\.jsonl:1: expected a JSON object, found list"),
        ("a.parquet", b"not parquet at all", r"a\.parquet: expected a Parquet file"),
    ],
)
def test_a_wrong_file_is_told_with_its_place(tmp_path: Path, name: str, content: bytes, message: str) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=message):
        read(open_source(Corpus(source=str(tmp_path / name)), None))


@pytest.mark.parametrize(("column", "message"), [("body", "found title, text"), ("title", "found int64 in it")])
def test_a_wrong_parquet_column_is_told(tmp_path: Path, column: str, message: str) -> None:
    write_parquet(tmp_path)
    with pytest.raises(UserError, match=message):
        read(open_source(Corpus(source=str(tmp_path / "a.parquet"), text_column=column), None))


@pytest.mark.parametrize(
    "source",
    ["./no/such/file", "missing.parquet", "wikitext2", "~nobody-of-this-name/texts", r"C:\no\such", r"no\such"],
)
def test_a_missing_file_is_not_looked_for_on_the_hub(tmp_path: Path, source: str) -> None:
    with pytest.raises(UserError, match="does not exist"):
        open_source(Corpus(source=source), str(tmp_path))


@pytest.mark.parametrize("source", ["wikitext2", "no-owner/no-such-set"])
def test_without_network_a_hub_name_tells_the_local_ways(source: str) -> None:
    with pytest.raises(UserError, match="name a local file or folder") as raised:
        open_source(Corpus(source=source), None)
    assert "python-docs" in str(raised.value)


PAGE = """
A Heading
*********

The :class:`Parser` reads ``text`` from a *file* and returns a quote-
delimited list of the lines that were in it. For example:

   >>> Parser("a file with the name of it").read(is_it=True)
   ['a', 'file', 'with', 'the', 'name', 'of', 'it']

Parser.read(self, size=-1, *, the, a, of)
    Read the whole of the file, which has to be open for reading.

    - the first item is a sentence that goes
      on in the line below.
    - no sentence

    stmt ::= "with" ( "(" with_stmt_contents ","? ")" | with_stmt_contents )
"""


def test_a_page_is_cleaned_to_its_sentences() -> None:
    assert list(python_docs.paragraphs(PAGE)) == [
        "The Parser reads text from a file and returns a quote-delimited list of the lines that were in it.",
        "Read the whole of the file, which has to be open for reading.",
        "the first item is a sentence that goes on in the line below.",
    ]


def test_a_paragraph_is_kept_once_in_all_pages() -> None:
    one, two = (f"This is the {word} paragraph of a page in the manual." for word in ("first", "second"))
    pages = [("a", f"{one}\n\n{one}"), ("b", f"{two}\n\n{one}"), ("c", one)]
    assert list(python_docs.clean(pages)) == [("a", one), ("b", two)]


@pytest.mark.long
def test_the_python_library_is_a_corpus() -> None:
    corpus = Corpus(source="python-docs")
    train, validation = read(open_source(corpus, None))
    words = sum(len(text.split()) for text in train + validation)
    assert words > 200_000  # 283,325 with CPython 3.11.7
    assert validation and not set("\n".join(train).split("\n")) & set("\n".join(validation).split("\n"))
    assert 0.01 < sum(map(len, validation)) / sum(map(len, train)) < 0.2
    lines = open_source(Corpus(source="python-docs", packing="lines"), None)
    assert "\n".join(lines.train()) == "\n".join(train)
