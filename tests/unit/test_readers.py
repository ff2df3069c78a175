"""Strict reading: what every format gives, and one line with the place for everything that is wrong in a file."""

import json
from pathlib import Path
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from tinydistilbert.data.compressed import open_bytes
from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.tasks import TASKS, load_examples, text_lines
from tinydistilbert.tasks.readers import read_rows, read_table


def file(folder: Path, name: str, content: str | bytes) -> Path:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def test_cells_stay_the_text_that_they_are(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", 'text,label\nNA,1\n"two\nlines, and ""quotes""",01\n ,1.50\n')
    assert read_table(path).to_pydict() == {
        "text": ["NA", 'two\nlines, and "quotes"', " "], "label": ["1", "01", "1.50"],
    }  # fmt: skip


def test_rows_know_the_line_that_they_begin_on(tmp_path: Path) -> None:
    path = file(tmp_path, "a.csv", 'text,label\n"one\r\ntwo\nthree",1\n\nfour,2\r\nfive,3')
    rows = read_rows(path)
    assert [rows.location(row) for row in range(3)] == [f"{path}:2", f"{path}:6", f"{path}:7"]
    assert rows.at(1, "label") == f"{path}:6, column label"
    lines = read_rows(file(tmp_path, "a.jsonl", '\n{"a": 1}\n\n{"a": 2}\n'))
    assert [lines.location(row).rpartition(":")[2] for row in range(2)] == ["2", "4"]


@pytest.mark.parametrize("name", ["a.tsv", "A.TSV"])
def test_a_byte_order_mark_and_tabs_are_read(name: str, tmp_path: Path) -> None:
    assert read_table(file(tmp_path, name, b"\xef\xbb\xbftext\tlabel\na, b\t1\n")).to_pydict() == {
        "text": ["a, b"], "label": ["1"],
    }  # fmt: skip


def test_fields_may_be_longer_than_the_csv_module_takes_by_itself(tmp_path: Path) -> None:
    long = "word " * 100_000
    assert read_table(file(tmp_path, "a.csv", f"text,label\n{long},1\n"))["text"][0].as_py() == long


def test_json_lines_may_leave_keys_out_and_mix_whole_numbers_with_others(tmp_path: Path) -> None:
    path = file(tmp_path, "a.ndjson", '{"a": 1, "b": "x"}\n{"a": 2.5}\n')
    assert read_table(path).to_pydict() == {"a": [1.0, 2.5], "b": ["x", None]}


def squad(questions: list[dict[str, Any]], context: str = "Paris is in France") -> str:
    return json.dumps(
        {"version": "1.1", "data": [{"title": "t", "paragraphs": [{"context": context, "qas": questions}]}]}
    )


def asked(name: str = "q1", **other: Any) -> dict[str, Any]:
    return {"id": name, "question": "Where?", "answers": [{"text": "France", "answer_start": 12}], **other}


def test_the_official_form_of_squad_is_flattened(tmp_path: Path) -> None:
    rows = read_rows(file(tmp_path, "a.json", squad([asked(), asked("q2", is_impossible=False)])))
    assert rows.table.select(["id", "question", "context"]).to_pylist() == [
        {"id": name, "question": "Where?", "context": "Paris is in France"} for name in ("q1", "q2")
    ]
    assert rows.table["answers"].to_pylist() == [{"text": ["France"], "answer_start": [12]}] * 2
    assert rows.location(1).endswith("a.json, data[0].paragraphs[0].qas[1]")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", r"a\.csv: expected a line with the names of the columns, found an empty file"),
        ("a.csv", "text,label\n", r"a\.csv: expected at least one row, found none"),
        ("a.csv", "text,label,text\na,1,b\n", r"a\.csv:1: expected columns of different names, found 'text' twice"),
        ("a.csv", "text,label\na,1\n\"b\nc\",2\nd,e,3\n", r"a\.csv:5: expected 2 fields, as the header has, found 3"),
        ("a.csv", "text,label\na\n", r"a\.csv:2: expected 2 fields, as the header has, found 1"),
        ("a.csv", 'text,label\na,1\n"b,2\nc,3\n', r"a\.csv:3: expected a closing quote, found none before the end of"),
        ("a.csv", 'text,label\n"a" b,1\n', r"a\.csv:2: expected a separator after the closing quote .*twice"),
        ("a.csv", b"text,label\na,1\ncaf\xe9,2\n", r"a\.csv:3: expected UTF-8, found byte 0xe9 at byte 4 of the line"),
        ("a.csv", b"\xef\xbb\xbftext\n\xff\n", r"a\.csv:2: expected UTF-8, found byte 0xff at byte 1 of the line"),
        ("a.csv", b"text,label\na\0,1\n", r"a\.csv:2: expected text, found a NUL byte"),
        ("a.csv", "text,label\na,1\n".encode("utf-16"), r"a\.csv:1: expected UTF-8, found byte 0xff"),
        ("a.jsonl", '{"a": 1}\n{"a": 1,}\n', r"a\.jsonl:2: expected JSON, found .* at column \d+"),
        ("a.jsonl", '{"a": 1}\n[1]\n', r"a\.jsonl:2: expected a JSON object, found list"),
        ("a.jsonl", '{"a": NaN}\n', r"a\.jsonl:1: expected a number that JSON allows, found NaN"),
        ("a.jsonl", '{"a": 1, "a": 2}\n', r"a\.jsonl:1: expected columns of different names, found 'a' twice"),
        ("a.jsonl", '{"a": 1}\n{"a": 2}\n{"a": "x"}\n', r"a\.jsonl:3, column a: expected values of one kind.*'x'"),
        ("a.jsonl", '{"a": 0.5}\n{"a": true}\n', r"a\.jsonl:2, column a: expected values of one kind.*True"),
        ("a.jsonl", '{"a": "\\ud800"}\n', r"a\.jsonl:1, column a: expected values of one kind"),
        ("a.jsonl", "{}\n" + "[" * 100_000, r"a\.jsonl:2: expected JSON, found too many nested brackets"),
        ("a.jsonl", "\n\n", r"a\.jsonl: expected at least one row, found none"),
        ("a.json", "[1]", r"a\.json: expected an object with the key 'data', found list; .*\.jsonl"),
        ("a.json", '{"data": [{"title": "t"}]}',
         r"a\.json, data\[0\]: expected a list of objects 'paragraphs', found nothing"),
        ("a.json", '{"data": [\n1,]}', r"a\.json: expected JSON, found .* at line 2, column"),
        ("a.json", squad([asked(answers=[{"text": "x", "answer_start": "y"}, {"text": 1}])]),
         r"a\.json: expected texts"),
        ("a.parquet", b"not parquet", r"a\.parquet: expected a readable parquet file"),
        ("a.xlsx", b"x", r"a\.xlsx: expected a file that ends in \.parquet, \.jsonl.*found \.xlsx"),
    ],
)  # fmt: skip
def test_a_broken_file_is_told_with_its_line(name: str, content: str | bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message) as caught:
        read_rows(file(tmp_path, name, content))
    assert str(caught.value).startswith(str(tmp_path)) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"), [("a.jsonl", '{"a": 1}\n{\n'), ("a.csv", "a,b\n1\n"), ("a.tsv", "a\tb\n1\n")]
)
def test_a_broken_file_is_closed_while_its_error_is_still_held(
    name: str, content: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[IO[bytes]] = []

    def open_and_remember(path: Path) -> IO[bytes]:
        opened.append(open_bytes(path))
        return opened[-1]

    monkeypatch.setattr(text_lines, "open_bytes", open_and_remember)
    with pytest.raises(UserError) as caught:
        read_rows(file(tmp_path, name, content))
    assert opened and all(stream.closed for stream in opened), caught.value


def test_a_file_that_is_not_there_and_twin_columns_of_parquet_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"none\.csv: there is no such file"):
        read_rows(tmp_path / "none.csv")
    path = tmp_path / "a.parquet"
    pyarrow.parquet.write_table(pa.table([[1], [2]], names=["a", "a"]), path)
    with pytest.raises(UserError, match="'a' twice"):
        read_rows(path)


STSB = "sentence1,sentence2,label\n"
V2 = {"plausible_answers": [{"text": "c", "answer_start": 0}]}
FLAT = {"question": "q", "context": "c", "answers": {"text": ["c"], "answer_start": [0]}}


def load(folder: Path, task: str, split: str, suffix: str, content: str) -> dict[str, list[Any]]:
    path = folder / TASKS[task].folder / f"{split}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content, encoding="utf-8")
    return load_examples(TASKS[task], split, data=str(folder), corpus=Corpus(), limit=0, seed=0).columns


def test_scores_and_classes_may_be_written_as_text(tmp_path: Path) -> None:
    columns = load(tmp_path, "stsb", "train", ".csv", STSB + "a,b,0\nc,d,4.75\n")
    assert columns["label"] == [0.0, 4.75] and all(isinstance(label, float) for label in columns["label"])
    assert load(tmp_path, "cola", "train", ".tsv", "sentence\tlabel\na\t1\nb\t0\n")["label"] == [1, 0]


@pytest.mark.parametrize(
    ("task", "suffix", "content", "message"),
    [
        ("stsb", ".csv", STSB + "a,b,0\nc,d,5.01\n", r"train\.csv:3, column label: .*from 0\.0 to 5\.0, found '5\.01'"),
        ("stsb", ".csv", STSB + "a,b,\n", r"train\.csv:2, column label: .*found ''"),
        ("stsb", ".csv", STSB + "a,b,inf\n", r"train\.csv:2, column label: .*found 'inf'"),
        ("stsb", ".csv", STSB + "a,b,1_0\n", r"train\.csv:2, column label: .*found '1_0'"),
        ("cola", ".jsonl", '{"sentence": "a", "label": true}\n', r"train\.jsonl:1, column label: .*found True"),
        ("cola", ".jsonl", '{"sentence": "a", "label": 1}\n{"sentence": " ", "label": 1}\n',
         r"train\.jsonl:2, column sentence: expected a text, found white space alone"),
        ("cola", ".csv", "sentence,label\n,1\n", r"train\.csv:2, column sentence: expected a text, found an empty one"),
        ("cola", ".csv", "Sentense,label\na,1\n",
         r"train\.csv: expected the columns sentence, label, found Sentense, label; "
         r"did you mean 'Sentense' for 'sentence'\? rename or add sentence$"),
        ("cola", ".csv", "sentence;label\na;1\n", r"separate the columns with commas"),
        ("cola", ".csv", "sentence,label,idx\na,1,7\nb,1,8\nc,0,7\n",
         r"train\.csv:4, column idx: .*found '7' again, as in .*train\.csv:2; .*rename the column"),
        ("cola", ".csv", "id,sentence,label\n7,a,1\n,b,1\n,b,1\n7,c,0\n",
         r"train\.csv:5, column id: .*found '7' again, as in .*train\.csv:2"),
        ("squad", ".json", squad([asked(), asked()]),
         r"qas\[1\], column id: expected a name that no other row has, found 'q1' again, as in .*qas\[0\]"),
        ("squad", ".json", squad([asked(), {**asked("q2"), "id": None}]),
         r"qas\[1\], column id: expected a name that no other row has, found nothing; give it one or drop the row$"),
        ("squad", ".json", squad([asked(answers=[{"text": "France", "answer_start": 11}])]),
         r"qas\[0\], column answers: expected 'France' at answer_start 11, found ' Franc'"),
        ("squad", ".json", squad([asked(answers=[], is_impossible=True)]),
         r"column answers: expected at least one answer, .*found none; .*squad_v2"),
        ("squad", ".json", squad([asked(), asked("q2", is_impossible=True)]),
         r"qas\[1\], column answers: expected at least one answer, .*marked impossible; .*squad_v2"),
        ("squad", ".jsonl", json.dumps(FLAT | V2), r"expected at least one answer, .*marked impossible; .*squad_v2"),
        ("squad", ".csv", "question,context,answers\nq,c,c\n",
         r"train\.csv:2, column answers: .*found 'c'; bring the answers into"),
    ],
)  # fmt: skip
def test_rows_that_are_not_what_a_task_says_are_told_with_their_line(
    task: str, suffix: str, content: str, message: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, task, "train", suffix, content)


def test_a_wrong_row_is_told_even_where_a_sample_leaves_it_out(tmp_path: Path) -> None:
    content = "sentence,label\n" + "a,1\n" * 50 + "b,2\n"
    load(tmp_path, "cola", "validation", ".csv", content.replace("b,2\n", ""))
    (tmp_path / "glue/cola/validation.csv").write_text(content)
    with pytest.raises(UserError, match=r"validation\.csv:52, column label"):
        load_examples(TASKS["cola"], "validation", data=str(tmp_path), corpus=Corpus(), limit=2, seed=0)


def test_empty_texts_and_answers_off_their_place_pass_where_the_published_data_have_them(tmp_path: Path) -> None:
    assert load(tmp_path, "cola", "validation", ".csv", "sentence,label\n,1\n")["text"] == [""]
    moved = squad([asked(answers=[{"text": "France", "answer_start": 11}])])
    assert load(tmp_path, "squad", "validation", ".json", moved)["id"] == ["q1"]
    rows = "".join(f"a{i},b,{i % 2}\n" for i in range(634))
    whole = STSB + rows + ",b,0\n"  # as many as the published train split has
    assert len(load(tmp_path, "wnli", "train", ".csv", whole)["text"]) == 635
    with pytest.raises(UserError, match="an empty one"):
        load(tmp_path, "wnli", "train", ".csv", whole + "c,d,1\n")
