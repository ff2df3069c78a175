"""Texts without labels: every form gives the same, labels are not looked at, and every fault has its line."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet
import pytest

from tinydistilbert import notices
from tinydistilbert.errors import UserError
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.unlabelled import read_unlabelled, write_examples

ONE, TWO = ["A first text.", "Ein zweiter, mit Kömma"], ["the other of it", "NA"]


def write(folder: Path, name: str, columns: dict[str, list[str]]) -> Path:
    file, rows = folder / name, list(zip(*columns.values(), strict=True))
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), file)
    elif file.suffix == ".jsonl":
        file.write_text("".join(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows))
    else:
        sign = "," if file.suffix == ".csv" else "\t"
        lines = [columns, *rows]
        file.write_text("".join(sign.join(f'"{cell}"' for cell in line) + "\n" for line in lines), "utf-8")
    return file


@pytest.mark.parametrize("name", ["more.csv", "more.tsv", "more.jsonl", "more.parquet"])
@pytest.mark.parametrize("labels", [{}, {"label": ["-1", "no label at all"]}])
def test_texts_are_read_from_the_tasks_columns_and_labels_are_not(
    tmp_path: Path, name: str, labels: dict[str, list[str]]
) -> None:
    notices.begin()
    one = read_unlabelled(write(tmp_path, name, {**labels, "sentence": ONE}), TASKS["cola"])
    assert any("its column 'label' is not read" in line for line in notices.all_notices()) == bool(labels)
    assert one.columns == {"idx": [0, 1], "text": ONE, "label": [None, None]}
    assert (one.task, one.split, one.total) == (TASKS["cola"], "unlabelled", 2)
    two = read_unlabelled(write(tmp_path, name, {"sentence2": TWO, **labels, "sentence1": ONE}), TASKS["stsb"])
    assert two.columns == {"idx": [0, 1], "text": ONE, "text_pair": TWO, "label": [None, None]}


def test_a_text_file_has_a_text_a_line(tmp_path: Path) -> None:
    file = tmp_path / "more.TXT"
    file.write_bytes("\ufeffA first text.\r\nEin zweiter, mit Kömma".encode())
    assert read_unlabelled(file, TASKS["sst2"]).columns == {"idx": [0, 1], "text": ONE, "label": [None, None]}


FAULTS = {
    "more.txt": [
        (b"one\n\nthree\n", "cola", ":2: expected a text, found an empty line"),
        (b"one\ntwo \xff\n", "cola", ":2: expected UTF-8, found byte 0xff at column 5"),
        (b"", "cola", ": expected at least one text, found an empty file"),
        (b"one\n", "rte", ": expected the columns sentence1, sentence2, found a file with one text per line"),
    ],
    "more.csv": [
        (b"sentence\none\n \n", "cola", ":3, column sentence: expected a text"),
        (b"sentences\none\n", "cola", "did you mean 'sentences' for 'sentence'?"),
        (b"sentence1\none\n", "rte", "rename or add sentence2"),
        (b"sentence\none\xfe\n", "cola", ":2: expected UTF-8"),
        (b"sentence\n", "cola", "expected at least one row"),
    ],
    "more.jsonl": [
        (b'{"sentence": "one"}\n\n{"sentence": null}\n', "cola", ":3, column sentence: expected a text, found nothing"),
        (b'{"sentence": "one"}\n{"sentence": ""}\n', "cola", ":2, column sentence: expected a text, found an empty"),
    ],
    "more.docx": [(b"", "cola", "found .docx")],
}


@pytest.mark.parametrize(("name", "content", "task", "message"), [(n, *f) for n, fs in FAULTS.items() for f in fs])
def test_faults_are_told_in_a_line_with_their_place(
    tmp_path: Path, name: str, content: bytes, task: str, message: str
) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    with pytest.raises(UserError) as error:
        read_unlabelled(file, TASKS[task])
    assert message in str(error.value) and str(error.value).startswith(str(file)) and "\n" not in str(error.value)


def test_a_file_that_is_not_there_and_a_task_of_spans_are_refused(tmp_path: Path) -> None:
    for name in ("none.txt", "none.csv"):
        with pytest.raises(UserError, match="no such file"):
            read_unlabelled(tmp_path / name, TASKS["cola"])
    with pytest.raises(UserError, match=r"SQuAD.* cannot use them"):
        read_unlabelled(tmp_path / "more.csv", TASKS["squad"])


def test_written_examples_are_read_back(tmp_path: Path) -> None:
    columns = {"idx": [7, 7], "text": ONE, "text_pair": TWO, "label": [None, None]}
    write_examples(TASKS["mrpc"], [Examples(TASKS["mrpc"], "train", columns, 2)], tmp_path / "copies.parquet")
    examples = read_unlabelled(tmp_path / "copies.parquet", TASKS["mrpc"])
    assert examples.columns == {**columns, "idx": [0, 1]}
    assert pyarrow.parquet.read_table(tmp_path / "copies.parquet")["idx"].to_pylist() == [7, 7]
    emptied = {**columns, "text_pair": ["", " "]}
    write_examples(TASKS["mrpc"], [Examples(TASKS["mrpc"], "train", emptied, 2)], tmp_path / "copies.parquet")
    with pytest.raises(UserError, match=r"row 0, column sentence2: expected a text, found an empty one"):
        read_unlabelled(tmp_path / "copies.parquet", TASKS["mrpc"])
    examples = read_unlabelled(tmp_path / "copies.parquet", TASKS["mrpc"], may_be_empty=True)
    assert examples.columns["text_pair"] == ["", " "]
    rows = [{"idx": [idx], "text": [text]} for idx, text in zip((1, 4), ONE, strict=True)]
    parts = [Examples(TASKS["cola"], "train", row, 1) for row in rows]
    write_examples(TASKS["cola"], parts, tmp_path / "one.parquet")
    assert pyarrow.parquet.read_table(tmp_path / "one.parquet")["idx"].to_pylist() == [1, 4]
    assert read_unlabelled(tmp_path / "one.parquet", TASKS["cola"]).columns["text"] == ONE
