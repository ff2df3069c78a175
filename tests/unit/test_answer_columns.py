"""Answers in two columns and questions without ids: read, and told how."""

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest

from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Corpus, CustomTask
from tinydistilbert.tasks import load_examples
from tinydistilbert.tasks.custom import custom_task

CONTEXT = "It opened in 1844."


def load(path: Path) -> dict[str, list[Any]]:
    task = custom_task("mine", CustomTask(train=str(path), kind="span"))
    notices.begin()
    return load_examples(task, "train", data=None, corpus=Corpus(), limit=0, seed=0).columns


def row(text: Any, start: Any, text_column: str = "answer_text") -> dict[str, Any]:
    return {"question": "When?", "context": CONTEXT, text_column: text, "answer_start": start}


@pytest.mark.parametrize("suffix", [".jsonl", ".csv", ".parquet"])
@pytest.mark.parametrize("column", ["answer_text", "answer"])
def test_a_text_and_its_place_may_stand_in_two_columns(suffix: str, column: str, tmp_path: Path) -> None:
    path, rows = tmp_path / f"a{suffix}", [row("1844", 13, column), row("opened", 3, column)]
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(each) + "\n" for each in rows))
    elif suffix == ".csv":
        path.write_text("".join(",".join(map(str, each)) + "\n" for each in [rows[0], *(r.values() for r in rows)]))
    else:
        pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path)
    assert load(path)["answers"] == [
        {"text": ["1844"], "answer_start": [13]}, {"text": ["opened"], "answer_start": [3]},
    ]  # fmt: skip
    assert f"the answers are read from the columns {column} and answer_start" in notices.all_notices()[0]


def test_lists_floats_and_questions_without_an_answer_are_read_from_them(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    kinds = pa.schema(
        [(name, pa.string()) for name in ("question", "context", "answer")] + [("answer_start", pa.float64())]
    )
    pyarrow.parquet.write_table(
        pa.Table.from_pylist([row("1844", 13.0, "answer"), row(None, None, "answer")], kinds), path
    )
    assert load(path)["answers"] == [{"text": ["1844"], "answer_start": [13]}, {"text": [], "answer_start": []}]
    assert "1 row without an answer" in notices.all_notices()[0]
    (tmp_path / "b.jsonl").write_text(json.dumps(row(["1844", "It"], [13, 0])) + "\n")
    assert load(tmp_path / "b.jsonl")["answers"] == [{"text": ["1844", "It"], "answer_start": [13, 0]}]


def test_a_place_that_pandas_wrote_to_csv_as_a_float_is_read(tmp_path: Path) -> None:
    path, columns = tmp_path / "a.csv", "question,context,answer,answer_start"
    path.write_text(f"{columns}\nq,{CONTEXT},1844,13.0\nq,{CONTEXT},,\nq,{CONTEXT},,-1.0\n")
    assert [answer["answer_start"] for answer in load(path)["answers"]] == [[13], [], []]


@pytest.mark.parametrize(
    ("text", "start", "message"),
    [
        (
            "1844",
            "x",
            "column answer_start: expected a text and the number of its first character, found '1844' at 'x'",
        ),
        ("1844", "13.5", "column answer_start: .*found '1844' at '13.5'"),
        ("1844", "", "column answer_start: .*found '1844' at ''"),
        ("1844", "12", "column answers: expected '1844' at answer_start 12, found ' 184'"),
    ],
)
def test_what_is_wrong_in_them_is_told_with_the_line(text: str, start: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(f"question,context,answer_text,answer_start\nq,{CONTEXT},1844,13\nq,{CONTEXT},{text},{start}\n")
    with pytest.raises(UserError, match=rf"a\.csv:3, {message}"):
        load(path)


def test_questions_without_any_id_are_numbered_and_told(tmp_path: Path) -> None:
    answers = [{"text": "1844", "answer_start": 13}]
    questions: list[dict[str, Any]] = [{"question": "When?", "answers": answers}] * 2
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": questions}]}]}))
    assert load(path)["id"] == ["0", "1"]
    assert "column id: it is empty in all rows; they are numbered from 0 to 1" in notices.all_notices()[0]
    path.write_text(
        json.dumps({"data": [{"paragraphs": [{"context": CONTEXT, "qas": [*questions, questions[0] | {"id": "q"}]}]}]})
    )
    with pytest.raises(UserError, match=r"qas\[0\], column id: expected a name that no other row has, found nothing"):
        load(path)
