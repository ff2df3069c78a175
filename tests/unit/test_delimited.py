"""CSV and TSV: every row comes out as it went in, or what was done with it is told with its line."""

import csv
import gzip
import io
import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tinydistilbert import notices
from tinydistilbert.data import compressed
from tinydistilbert.errors import UserError
from tinydistilbert.recipe.names import Quoting
from tinydistilbert.recipe.schema import Corpus, CustomTask
from tinydistilbert.tasks import load_examples, readers
from tinydistilbert.tasks.custom import custom_task
from tinydistilbert.tasks.readers import read_rows

DIALOGUE = [
    ('"We close the shop at six.', "clerk"), ("The lights go out first.", "clerk"),
    ('Then I lock the door."', "clerk"), ("Nobody came in all morning.", "owner"),
    ('"I will count the till.', "owner"), ('You may go home."', "owner"), ("The street was empty.", "clerk"),
]  # fmt: skip
HEADER = ("sentence", "speaker")


def plain(rows: list[tuple[str, ...]], delimiter: str = "\t", end: str = "\n") -> str:
    return "".join(delimiter.join(row) + end for row in [HEADER, *rows])


def written(rows: list[tuple[str, ...]], delimiter: str, quoting: int) -> str:
    stream = io.StringIO(newline="")
    csv.writer(stream, delimiter=delimiter, quoting=quoting, lineterminator="\n").writerows([HEADER, *rows])
    return stream.getvalue()


def rows_of(folder: Path, content: str, name: str = "a.tsv", quoting: Quoting = "auto") -> list[tuple[str, ...]]:
    path = folder / name
    path.write_bytes(content.encode())
    notices.begin()
    table = read_rows(path, quoting).table
    return list(zip(*table.to_pydict().values(), strict=True))


def lines() -> str:
    return "\n".join(notices.all_notices())


def test_rows_of_dialogue_in_tsv_stay_rows(tmp_path: Path) -> None:
    assert rows_of(tmp_path, plain(DIALOGUE)) == DIALOGUE
    assert "2 fields that begin with one, the first is in line 2; --quoting csv" in lines()
    assert rows_of(tmp_path, plain(DIALOGUE, end="\r\n")) == DIALOGUE


def test_the_switch_merges_them_and_says_so(tmp_path: Path) -> None:
    assert len(rows_of(tmp_path, plain(DIALOGUE), quoting="csv")) == 4
    assert "2 rows joined from several lines by quotes" in lines() and "the first is in line 2" in lines()
    assert len(rows_of(tmp_path, plain(DIALOGUE, ","), "a.csv")) == 4
    assert "2 rows joined from several lines by quotes" in lines() and "--quoting none" in lines()
    assert rows_of(tmp_path, plain(DIALOGUE, ","), "a.csv", "none") == DIALOGUE


@pytest.mark.parametrize("quoting", [csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])
def test_a_tsv_file_that_a_program_wrote_with_quotes_is_read_as_such(quoting: int, tmp_path: Path) -> None:
    rows = [('He said "no".', "a"), ("two\nlines", "b"), ("a\ttab", "c"), ('"', "d"), ("plain", "e")]
    assert rows_of(tmp_path, written(rows, "\t", quoting)) == rows
    assert "fields below it are in quotes, which are removed; --quoting none" in lines()
    assert rows_of(tmp_path, written(rows[:1], "\t", quoting)) == rows[:1]  # neither tab nor line break, but ""


def test_where_quotes_would_merge_rows_of_a_quoted_tsv_the_line_is_told(tmp_path: Path) -> None:
    content = '"sentence"\t"speaker"\n"a"\t"b"\n"c\td\ne"\tf\n'
    with pytest.raises(UserError, match=r"a\.tsv:3: its quotes join 2 lines into one row.*--quoting none"):
        rows_of(tmp_path, content)
    assert rows_of(tmp_path, content, quoting="csv") == [("a", "b"), ("c\td\ne", "f")]


@pytest.mark.parametrize(("quoting", "fix"), [("none", "--quoting csv"), ("csv", "--quoting none"), ("auto", "csv")])
def test_a_row_of_another_length_is_told_with_the_switch(quoting: Quoting, fix: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=rf"a\.tsv:3: expected 2 fields, as the header has, found 3; .*{fix}"):
        rows_of(tmp_path, "sentence\tspeaker\na\tb\nc\td\te\n", quoting=quoting)


cells = st.text(st.sampled_from("ab \",\t\n'é0"), max_size=5)
tables = st.lists(st.tuples(cells, cells), min_size=1, max_size=6)


def read_or_refused(content: str, name: str, quoting: Quoting) -> list[tuple[str, ...]] | None:
    with tempfile.TemporaryDirectory() as folder:
        try:
            return rows_of(Path(folder), content, name, quoting)
        except UserError:
            return None


@settings(max_examples=60, deadline=None)
@given(tables, st.sampled_from(["a.csv", "a.tsv"]), st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]))
def test_what_csv_writers_write_comes_out(rows: list[tuple[str, str]], name: str, quoting: int) -> None:
    content = written(rows, "," if name == "a.csv" else "\t", quoting)
    assert read_or_refused(content, name, "csv") == rows


@settings(max_examples=120, deadline=None)
@given(tables)
def test_tsv_without_quoting_comes_out_or_its_quotes_are_told(rows: list[tuple[str, str]]) -> None:
    rows = [(one.replace("\t", "").replace("\n", ""), two.replace("\t", "").replace("\n", "")) for one, two in rows]
    assert read_or_refused(plain(rows), "a.tsv", "none") == rows
    parsed = read_or_refused(plain(rows), "a.tsv", "auto")
    assert parsed == rows or (parsed is not None and len(parsed) == len(rows) and "are removed" in lines())


@settings(max_examples=120, deadline=None)
@given(tables)
def test_tsv_with_quoting_comes_out_or_is_refused_or_keeps_its_quotes_and_tells(rows: list[tuple[str, str]]) -> None:
    content = written(rows, "\t", csv.QUOTE_MINIMAL)
    assume('"' in content)
    parsed = read_or_refused(content, "a.tsv", "auto")
    assert parsed in (rows, None) or "quotes are part of the texts" in lines()


def test_a_first_line_of_excel_names_the_separator(tmp_path: Path) -> None:
    for first, delimiter in (("sep=,", ","), ("SEP=;", ";"), ('"sep=\t"', "\t")):
        content = f"{first}\r\nsentence{delimiter}speaker\r\ngood{delimiter}pos\r\n"
        assert rows_of(tmp_path, content, "a.csv") == [("good", "pos")]
        assert "the first line, written by Excel" in lines()
    assert read_rows(tmp_path / "a.csv").location(0).endswith("a.csv:3")


def test_columns_without_a_name_are_passed_over_where_they_are_empty(tmp_path: Path) -> None:
    assert rows_of(tmp_path, "sentence,speaker,,\ngood,pos,,\nbad,neg,,\n", "a.csv") == [
        ("good", "pos"),
        ("bad", "neg"),
    ]
    assert "2 columns at the end, empty and without a name, left out" in lines()
    with pytest.raises(UserError, match=r"a\.csv:1: .*found '' twice"):
        rows_of(tmp_path, "sentence,speaker,,\ngood,pos,x,y\n", "a.csv")
    assert rows_of(tmp_path, "sentence,speaker\ngood,pos,,\nbad,neg\n", "a.csv") == [("good", "pos"), ("bad", "neg")]
    assert "1 row with more fields than the header, the others empty: the first is in line 2" in lines()


def test_empty_lines_between_rows_are_counted_and_those_at_the_end_are_not(tmp_path: Path) -> None:
    assert len(rows_of(tmp_path, "sentence,speaker\na,b\n\n\nc,d\n\n", "a.csv")) == 2
    assert "2 empty lines between the rows left out" in lines()
    rows_of(tmp_path, "sentence,speaker\na,b\n\n", "a.csv")
    assert not lines()
    assert rows_of(tmp_path, '{"a": 1}\n\n{"a": 2}\n\n', "a.jsonl") == [(1,), (2,)]
    assert "1 empty line between the rows left out" in lines()


@pytest.mark.parametrize("last", ["", "x"])
def test_a_table_is_read_some_records_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, last: str) -> None:
    """Whether a column without a name is empty is known at the end of the last part alone."""
    monkeypatch.setattr(readers, "RECORDS_AT_ONCE", 2)
    path = tmp_path / "a.csv"
    path.write_text("text,n,\n" + "".join(f"row {n},{n},\n" for n in range(4)) + f"row 4,4,{last}\n")
    rows = read_rows(path)
    assert rows.table.column_names == ["text", "n", *([""] if last else [])]
    assert rows.values("text") == [f"row {n}" for n in range(5)] and rows.values("n") == [*"01234"]
    assert rows.location(4) == f"{path}:6"


def test_a_key_of_later_objects_is_empty_in_those_before(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"a": 1}\n\n{"b": "x", "a": 2}\n{"b": "y"}\n')
    assert read_rows(path).table.to_pylist() == [{"a": 1, "b": None}, {"a": 2, "b": "x"}, {"a": None, "b": "y"}]


def zst(content: bytes) -> bytes:
    packed = pa.BufferOutputStream()
    with pa.CompressedOutputStream(packed, "zstd") as stream:
        stream.write(content)
    return bytes(packed.getvalue())


@pytest.mark.parametrize("packed", [(gzip.compress, ".gz"), (zst, ".zst"), (zst, ".ZST")])
@pytest.mark.parametrize(
    ("name", "content"), [("a.csv", "x,y\n1,é\n"), ("a.TSV", "x\ty\n1\té\n"), ("a.jsonl", '{"x": "1", "y": "é"}\n')]
)
def test_compressed_files_are_read(packed: tuple[Any, str], name: str, content: str, tmp_path: Path) -> None:
    compress, ending = packed
    path, half = tmp_path / (name + ending), len(content) // 2
    path.write_bytes(compress(content[:half].encode()) + compress(content[half:].encode()))
    assert read_rows(path).table.to_pylist() == [{"x": "1", "y": "é"}]


def test_a_compressed_file_that_is_damaged_or_would_fill_the_memory_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for compress, ending, name in ((gzip.compress, "gz", "gzip"), (zst, "zst", "Zstandard")):
        path, whole = tmp_path / f"a.csv.{ending}", compress(b"text,label\na,b\n")
        damaged = (
            [whole[:-8] + b"\0" * 8] if name == "gzip" else []
        )  # Zstandard has a checksum only where one is asked for
        for content in (whole[:-6], b"text,label\na,b\n", *damaged):
            path.write_bytes(content)
            with pytest.raises(UserError, match=rf"a\.csv\.{ending}: expected a whole {name} file"):
                read_rows(path)
        with monkeypatch.context() as patch:
            patch.setattr(compressed, "UNPACKED_AT_LEAST", 10_000)
            path.write_bytes(compress(b"text,label\n" + b"a,b\n" * 100_000))
            with pytest.raises(UserError, match=rf"a\.csv\.{ending}: it unpacks to more than 50 times its size"):
                read_rows(path)
        (tmp_path / "b.csv").write_bytes(whole)
        with pytest.raises(UserError, match=rf"b\.csv: it is compressed with {name}; call it b\.csv\.{ending}"):
            read_rows(tmp_path / "b.csv")


def test_a_task_has_the_switch_in_its_recipe(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text(plain(DIALOGUE))
    for quoting, count in (("auto", 7), ("none", 7), ("csv", 4)):
        settings = CustomTask(train=str(tmp_path / "a.tsv"), text="sentence", label="speaker", quoting=quoting)
        task = custom_task("mine", settings)
        assert len(load_examples(task, "train", data=None, corpus=Corpus(), limit=0, seed=0)) == count
