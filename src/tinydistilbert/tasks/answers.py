"""Answers of questions: their forms in files, questions without an answer, and checks."""

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.rows import Rows, shown

DROP = "or drop the row"
KEYS = ("text", "answer_start")
_TRUTH = {"true": True, "false": False, "1": True, "0": False, "1.0": True, "0.0": False, "": None}


def checked_answers(task: Task, rows: Rows, contexts: Sequence[str], *, must_match: bool) -> list[dict[str, list[Any]]]:
    """Return the answers of each row as {"text": [...], "answer_start": [...]}, with empty lists if there is none.

    A question has no answer if `is_impossible` says so. Without `is_impossible`, it has none if there are plausible
    answers, or if the lists are empty, as in `squad_v2` on the hub.

    Args:
        task: a span task.
        rows: has the column `answers`, and optionally `is_impossible` and `plausible_answers`.
        contexts: the texts that contain the answers.
        must_match: whether every answer must be at its stated position; in published evaluation splits some are not.

    Raises:
        UserError: answers have another form or position, are missing although the task requires one, or are given
            although the row says that there is none.
    """
    impossible = _impossible(rows)
    given = rows.values("answers")
    answers = [_as_lists(value, no) for value, no in zip(given, impossible, strict=True)]
    problems = (
        (row, problem)
        for row, (answer, context, no) in enumerate(zip(answers, contexts, impossible, strict=True))
        if (problem := _problem(task, answer, context, impossible=no, must_match=must_match))
    )
    first = next(problems, None)
    if first is not None:
        row, (column, expected, found, fix) = first
        others = sum(1 for _ in problems)
        found += f" (and {others:,} more row{'s' * (others > 1)} with wrong answers)" if others else ""
        raise UserError(rows.at(row, column), expected=expected, found=found, fix=fix)
    if none := sum(not answer["text"] for answer in answers):
        notice(rows.where, f"{none:,} of {counted(len(answers), 'question')} have no answer in their context")
    pairs = zip(given, answers, strict=True)
    if empty := sum(isinstance(one, dict) and bool(one.get("text")) and not read["text"] for one, read in pairs):
        notice(rows.where, f"{counted(empty, 'question')} with an empty answer text are read as without an answer")
    return answers


def with_answers(rows: Rows) -> Rows:
    """Return the rows with the column `answers`, made of `answer_text` (or `answer`) and `answer_start` if missing.

    Raises:
        UserError: a start is not a whole number, or has no text.
    """
    names = rows.table.column_names
    text_column = next((name for name in ("answer_text", "answer") if name in names), None)
    if "answers" in names or text_column is None or "answer_start" not in names:
        return rows
    answers: list[dict[str, list[Any]]] = []
    pairs = zip(rows.values(text_column), rows.values("answer_start"), strict=True)
    for row, (text, start) in enumerate(pairs):
        texts, starts = ([value] if not isinstance(value, list) else value for value in (text, start))
        positions = [_position(value) for value in starts]
        if not any(texts) and all(position in (None, -1) for position in positions):
            answers.append({key: [] for key in KEYS})
        elif None in positions or not all(isinstance(value, str) for value in texts):
            expected, found = "a text and the number of its first character", f"{shown(text)} at {shown(start)}"
            raise UserError(
                rows.at(row, "answer_start"), expected=expected, found=found, fix=f"correct the answer {DROP}"
            )
        else:
            answers.append(dict(zip(KEYS, (texts, positions), strict=True)))
    none = sum(not answer["text"] for answer in answers)
    without = f", {counted(none, 'row')} without an answer" if none else ""
    notice(rows.where, f"the answers are read from the columns {text_column} and answer_start{without}")
    kind = pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))])
    return dataclasses.replace(rows, table=rows.table.append_column("answers", pa.array(answers, kind)))


def _position(value: Any) -> int | None:
    """Return a whole number, also from text or from a float (as missing values in the column cause); else None."""
    if isinstance(value, str) and (match := re.fullmatch(r"(-?[0-9]{1,15})(\.0+)?", value.strip())):
        return int(match[1])
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _impossible(rows: Rows) -> list[bool | None]:
    """Return for each row whether it says that its question has no answer; None if it does not say."""
    names, count = rows.table.column_names, rows.table.num_rows
    marks = rows.values("is_impossible") if "is_impossible" in names else [None] * count
    plausible = rows.values("plausible_answers") if "plausible_answers" in names else [None] * count
    marked: list[bool | None] = []
    for row, (mark, others) in enumerate(zip(marks, plausible, strict=True)):
        truth = None if mark is None else _TRUTH.get(str(mark).strip().lower())
        if mark is not None and str(mark).strip().lower() not in _TRUTH:
            fix = f"correct it {DROP}"
            raise UserError(rows.at(row, "is_impossible"), expected="true or false", found=shown(mark), fix=fix)
        has_plausible = bool(others.get("text") if isinstance(others, dict) else others)
        marked.append(True if truth is None and has_plausible else truth)
    return marked


def _as_lists(answer: Any, impossible: bool | None) -> Any:
    """Return the answers as two lists if they have another form with the same meaning; else unchanged."""
    if answer is None and impossible:
        return {key: [] for key in KEYS}
    if isinstance(answer, list) and all(isinstance(one, dict) for one in answer):  # as in SQuAD's own JSON
        answer = {key: [one.get(key) for one in answer] for key in KEYS}
    if not isinstance(answer, dict) or not all(isinstance(answer.get(key), list) for key in KEYS):
        return answer
    texts, starts = answer["text"], answer["answer_start"]
    is_nothing = all(not text for text in texts) and (impossible or all(start in (None, -1) for start in starts))
    return {key: [] for key in KEYS} if is_nothing and len(texts) == len(starts) else answer


def _problem(
    task: Task, answer: Any, context: str, *, impossible: bool | None, must_match: bool
) -> tuple[str, str, str, str] | None:
    """Return column, expected, found and fix for an error in the answers of a row, if there is one."""
    lists = [answer.get(key) for key in KEYS] if isinstance(answer, dict) else [None]
    if not all(isinstance(part, list) for part in lists) or len(answer["text"]) != len(answer["answer_start"]):
        fix = "bring the answers into SQuAD's form, in JSONL, Parquet or SQuAD's own JSON"
        return "answers", '{"text": [...], "answer_start": [...]}', shown(answer), fix
    count = len(answer["text"])
    if not task.may_lack_answer and (impossible or not count):
        fix = f"use the task squad_v2, whose questions may have none, {DROP}"
        expected = "at least one answer, as in SQuAD v1.1"
        return "answers", expected, "none" if not count else "a question that is marked impossible", fix
    if impossible and count:
        fix = f"correct is_impossible or answers {DROP}"
        return "answers", "no answer, as the question is marked impossible", f"{count}", fix
    if impossible is False and not count:
        fix = f"set is_impossible to true if the context does not answer it, add the answer, {DROP}"
        return "answers", "an answer, as is_impossible = false says", "none", fix
    for text, start in zip(answer["text"], answer["answer_start"], strict=True):
        if not isinstance(text, str) or not isinstance(start, int):
            return "answers", "a text and its first character", f"{text!r} at {start!r}", f"correct the answer {DROP}"
        if must_match and not text.strip():
            return "answers", "an answer with a character in it", shown(text), f"correct the answer {DROP}"
        in_context = context[start : start + len(text)] if start >= 0 else ""
        if must_match and in_context != text:
            fix = f"correct answer_start {DROP}"
            return "answers", f"{shown(text)} at answer_start {start}", shown(in_context), fix
    return None
