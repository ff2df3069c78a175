"""Rows of a split from the data folder or the hub, and the check that they are what the task says."""

import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from tinydistilbert.errors import UserError
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.glue import SCORE_RANGE

READERS: dict[str, Any] = {
    ".parquet": pyarrow.parquet.read_table,
    ".jsonl": pyarrow.json.read_json,
    ".csv": pyarrow.csv.read_csv,
}


def split_file(task: Task, split: str, data: str) -> Path | None:
    """The file of a split in the data folder: `{data}/{task.folder}/{split}` with .parquet, .jsonl or .csv."""
    files = (Path(data) / task.folder / (split + suffix) for suffix in READERS)
    return next((file for file in files if file.is_file()), None)


def read_split(task: Task, split: str, data: str | None) -> tuple[pa.Table, str]:
    """All rows of a split, and where they come from, for errors.

    Raises:
        UserError: no such file, a file that cannot be read, no network, a missing column or no row.
    """
    table, where = _from_hub(task, split) if data is None else _from_file(task, split, data)
    wanted = [task.text, *([task.text_pair] if task.text_pair else []), "answers" if task.kind == "span" else "label"]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        found, cure = ", ".join(table.column_names), f"rename or add {', '.join(missing)}"
        raise UserError(where, expected=f"the columns {', '.join(wanted)}", found=found, cure=cure)
    if table.num_rows == 0:
        raise UserError(where, expected="at least one row", found="none", cure="put the split's examples into the file")
    return table, where


def _from_file(task: Task, split: str, data: str) -> tuple[pa.Table, str]:
    file = split_file(task, split, data)
    if file is None:
        where = str(Path(data) / task.folder / f"{split}.parquet")
        cure = f"put the split there (.parquet, .jsonl or .csv), or take {task.name!r} out of finetune.tasks"
        raise UserError(where, expected=f"the {split} split of {task.title}", found="no file", cure=cure)
    try:
        return READERS[file.suffix](file), str(file)
    except (pa.ArrowException, OSError) as error:
        expected, found = f"a readable {file.suffix[1:]} file", str(error).partition("\n")[0]
        raise UserError(str(file), expected=expected, found=found, cure="replace the file") from None


def _from_hub(task: Task, split: str) -> tuple[pa.Table, str]:
    from datasets import load_dataset  # slow to import, and not needed where a data folder is given

    name, configuration = task.hub
    try:
        rows = load_dataset(name, configuration, split=split)
    except (OSError, ValueError) as error:
        cure = f"connect to the network, or give --data FOLDER with {task.folder}/{split}.parquet in it"
        raise UserError(f"hub data set {name}", expected=f"its {split} split", found=str(error), cure=cure) from error
    return rows.with_format("arrow")[:], f"{name} ({split})"


def checked_columns(task: Task, split: str, table: pa.Table, where: str, rows: list[int]) -> dict[str, list[Any]]:
    """The columns of `Examples` from a table that holds the rows `rows` (counted from 0) of the split.

    Raises:
        UserError: a missing text, a label that is none or out of range, an answer that is not at its place.
    """
    first = _texts(table, task.text, where, rows)
    second = _texts(table, task.text_pair, where, rows) if task.text_pair else None
    if task.kind != "span":
        pair = {"text_pair": second} if second else {}
        return {"idx": rows, "text": first, **pair, "label": _labels(task, table, where, rows)}
    assert second is not None, "span tasks have a context"
    answers = table["answers"].to_pylist()
    for row, context, answer in zip(rows, second, answers, strict=True):
        problem = _answer_problem(answer, context, must_match=split == task.train)
        if problem:
            expected, found, cure = problem
            raise UserError(f"{where}, row {row}, column answers", expected=expected, found=found, cure=cure)
    ids = [str(i) for i in (table["id"].to_pylist() if "id" in table.column_names else rows)]
    return {"id": ids, "question": first, "context": second, "answers": answers}


def _texts(table: pa.Table, column: str, where: str, rows: list[int]) -> list[str]:
    values: list[Any] = table[column].to_pylist()
    for row, value in zip(rows, values, strict=True):
        if not isinstance(value, str):
            found, cure = "nothing" if value is None else repr(value), "fill it in or drop the row"
            raise UserError(f"{where}, row {row}, column {column}", expected="text", found=found, cure=cure)
    return values


def _labels(task: Task, table: pa.Table, where: str, rows: list[int]) -> list[Any]:
    values: list[Any] = table["label"].to_pylist()
    low, high = SCORE_RANGE if task.kind == "regression" else (0, len(task.labels) - 1)
    kinds = (int, float) if task.kind == "regression" else int
    for row, value in zip(rows, values, strict=True):
        if not isinstance(value, kinds) or math.isnan(value) or not low <= value <= high:
            expected = f"a number from {low} to {high}" + (f" ({', '.join(task.labels)})" if task.labels else "")
            cure = "correct the label or drop the row" + (" (-1 marks an unlabelled test split)" if value == -1 else "")
            raise UserError(f"{where}, row {row}, column label", expected=expected, found=repr(value), cure=cure)
    return values


def _answer_problem(answer: Any, context: str, *, must_match: bool) -> tuple[str, str, str] | None:
    """Expected, found and cure of what is wrong with the answers of a row, if anything is."""
    lists = [answer.get(name) for name in ("text", "answer_start")] if isinstance(answer, dict) else [None]
    if not all(isinstance(part, list) for part in lists) or len(answer["text"]) != len(answer["answer_start"]):
        return '{"text": [...], "answer_start": [...]}', repr(answer), "bring the answers into the SQuAD v1.1 form"
    if not answer["text"]:
        return "at least one answer", "none", "drop the row (SQuAD v2's unanswerable questions are not supported)"
    for text, start in zip(answer["text"], answer["answer_start"], strict=True):
        if not isinstance(text, str) or not isinstance(start, int):
            return "a text and its first character", f"{text!r} at {start!r}", "correct the answer or drop the row"
        there = context[start : start + len(text)] if start >= 0 else ""
        if must_match and there != text:
            return f"{text!r} at answer_start {start}", repr(there), "correct answer_start or drop the row"
    return None
