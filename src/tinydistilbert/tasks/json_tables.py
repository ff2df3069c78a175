"""Tables in JSON: one object per line, or SQuAD's file format."""

import itertools
import json
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.tasks import samples
from tinydistilbert.tasks.mapped_tables import is_large, mapped_objects
from tinydistilbert.tasks.rows import Rows, refuse_twins, shown, with_lines
from tinydistilbert.tasks.text_lines import opened_lines, read_text, sampled_lines


def read_json_lines(path: Path) -> Rows:
    """Read the objects of a file, one per line."""
    lines = array("q")
    if samples.is_sampled(path):
        sample = samples.lines_of(path, are_quoted=False)
        records = list(_objects(zip(sample.numbers, sampled_lines(path, sample), strict=True), path, lines))
        rows = with_lines(_columns(records, 0, path=path, lines=lines), path, lines)
        return replace(rows, sampled_from=sample.rows(len(lines)))
    with opened_lines(path) as read:
        table = None
        if is_large(path):
            objects = _objects(enumerate(read(), 1), path, lines)
            table = mapped_objects(objects, partial(_columns, path=path, lines=lines))
        if table is None:
            lines = array("q")
            table = _columns(list(_objects(enumerate(read(), 1), path, lines)), 0, path=path, lines=lines)
    return with_lines(table, path, lines)


def _objects(numbered: Iterable[tuple[int, str]], path: Path, lines: "array[int]") -> Iterator[dict[str, Any]]:
    """Yield the objects of a file; add their line numbers to `lines`, and count empty lines between them."""
    empty = waiting = 0
    for number, line in numbered:
        if not line.strip():
            waiting += 1
            continue
        empty, waiting = empty + waiting, 0
        record = _parsed(line, f"{path}:{number}", "write one JSON object a line")
        if not isinstance(record, dict):
            found, fix = type(record).__name__, "write one JSON object a line"
            raise UserError(f"{path}:{number}", expected="a JSON object", found=found, fix=fix)
        lines.append(number)
        yield record
    if empty:
        notice(str(path), f"{counted(empty, 'empty line')} between the rows left out")


def _columns(records: Sequence[dict[str, Any]], first: int, *, path: Path, lines: Sequence[int]) -> pa.Table:
    """Return the columns of consecutive objects, beginning with row `first`."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(records)))
    columns = [_json_column([r.get(name) for r in records], name, path, lines[first:]) for name in names]
    return pa.table(columns, names=names)


def _parsed(text: str, where: str, fix: str) -> Any:
    def no_number(word: str) -> Any:
        raise UserError(where, expected="a number that JSON allows", found=word, fix="correct it or drop the row")

    def different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            refuse_twins([key for key, _ in pairs], where)
        return record

    try:
        return json.loads(text, parse_constant=no_number, object_pairs_hook=different_keys)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        found = f"{error.msg} at {line}column {error.colno}"
        raise UserError(where, expected="JSON", found=found, fix=fix) from None
    except RecursionError:
        raise UserError(where, expected="JSON", found="too many nested brackets", fix=fix) from None
    except UserError:
        raise
    except ValueError:  # a limit of Python
        found = "a number of thousands of digits"
        raise UserError(where, expected="a number of usual length", found=found, fix="correct it") from None


def _json_column(values: list[Any], name: str, path: Path, lines: Sequence[int]) -> pa.Array:
    """Return the values as a column of one type; the error names the first row that does not fit.

    Whole numbers of more than 64 bits are treated as codes and become text, digit by digit.
    """
    whole = [value for value in values if value is not None]
    if all(type(value) is int for value in whole) and any(abs(value) >= 2**63 for value in whole):
        return pa.array([None if value is None else str(value) for value in values])
    if (pieces := named_pieces(whole)) is not None:
        by_row = iter(pieces)
        values = [None if value is None else next(by_row) for value in values]
    try:
        return _as_array(values)
    except (pa.ArrowException, OverflowError, ValueError):
        fits, fails = 0, len(values)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            try:
                _as_array(values[:middle])
                fits = middle
            except (pa.ArrowException, OverflowError, ValueError):
                fails = middle
        expected = "values of one kind, that fit UTF-8 and 64 bits"
        fix = "write the column the same way in every row"
        where = f"{path}:{lines[fits]}, column {name}"
        raise UserError(where, expected=expected, found=shown(values[fits]), fix=fix) from None


def _as_array(values: list[Any]) -> pa.Array:
    """Return the values as a column.

    Raises:
        ValueError: some are true or false and others are not; among floats, Arrow would turn true into 1.
        pa.ArrowException: Arrow has no type for all of them.
    """
    if len({type(value) is bool for value in values if value is not None}) > 1:
        raise ValueError("true or false among other values")
    return pa.array(values)


def named_pieces(values: Sequence[Any]) -> list[list[dict[str, Any]]] | None:
    """Return lists of `[start, end, label]`, as annotation tools write spans of a text, with a name for each part.

    None if any value has another form, or all are empty.
    """
    if not all(isinstance(value, list | tuple) for value in values):
        return None
    parts = [part for value in values for part in value]
    if not parts or not all(isinstance(p, list | tuple) and [*map(type, p)] == [int, int, str] for p in parts):
        return None
    return [[dict(zip(("start", "end", "label"), part, strict=True)) for part in value] for value in values]


def read_squad_json(path: Path) -> Rows:
    """Read questions in SQuAD's format: {"data": [{"title", "paragraphs": [{"context", "qas": [...]}]}]}."""
    fix = "give SQuAD's form (data, paragraphs, qas), or one JSON object a line in a file that ends in .jsonl"
    content = _parsed(read_text(path), str(path), fix)
    locations: list[str] = []
    records: list[dict[str, Any]] = []

    def items(part: Any, key: str, where: str) -> Iterator[tuple[str, dict[str, Any]]]:
        values = part.get(key)
        if not isinstance(values, list) or not all(isinstance(item, dict) for item in values):
            raise UserError(
                f"{path}, {where or 'top'}", expected=f"a list of objects {key!r}", found=shown(values), fix=fix
            )
        yield from ((f"{where}{'.' if where else ''}{key}[{number}]", item) for number, item in enumerate(values))

    if not isinstance(content, dict):
        raise UserError(str(path), expected="an object with the key 'data'", found=type(content).__name__, fix=fix)
    for in_article, article in items(content, "data", ""):
        for in_paragraph, paragraph in items(article, "paragraphs", in_article):
            for in_question, question in items(paragraph, "qas", in_paragraph):
                impossible = question.get("is_impossible")
                if impossible is None and question.get("plausible_answers"):
                    impossible = True
                has_none = impossible is True and question.get("answers") is None
                answers = [] if has_none else [answer for _, answer in items(question, "answers", in_question)]
                records.append(
                    {
                        "id": question.get("id"), "title": article.get("title"), "question": question.get("question"),
                        "context": paragraph.get("context"), "is_impossible": impossible,
                        "answers": {key: [answer.get(key) for answer in answers] for key in ("text", "answer_start")},
                    }
                )  # fmt: skip
                locations.append(f"{path}, {in_question}")
    names = ("id", "title", "question", "context", "is_impossible", "answers")
    columns = {name: [record[name] for record in records] for name in names}
    try:
        table = pa.table({name: pa.array(values) for name, values in columns.items()})
    except (pa.ArrowException, ValueError) as error:
        found = str(error).partition("\n")[0]
        raise UserError(str(path), expected="texts, and answer_start as a number", found=found, fix=fix) from None
    return Rows(table, str(path), locations.__getitem__)
