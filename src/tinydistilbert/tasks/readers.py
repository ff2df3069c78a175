"""Strict reading of tables of examples: CSV, TSV, JSONL, Parquet and SQuAD's JSON; every problem with its line.

The cells of CSV and TSV stay text (`NA` is a word, not a gap), what is left out is counted, and a file that cannot be
read to its end is not read at all.
"""

import io
import itertools
import json
from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from tinydistilbert.data import delimited
from tinydistilbert.data.compressed import BEGINNINGS, COMPRESSED, ending, open_bytes
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, marked, notice
from tinydistilbert.recipe.names import Quoting
from tinydistilbert.tasks import conll, samples
from tinydistilbert.tasks.columns import VALUES_AT_ONCE, Column
from tinydistilbert.tasks.mapped_tables import collected, is_large, mapped_objects

RECORDS_AT_ONCE = 10_000
"""That are Python's lists at a time."""
BYTES_AT_ONCE = 2**22
"""Of a file of lines."""
LONGEST_FIELD = 2**31 - 1
"""Characters of a cell, as many as Python's csv module can be asked for."""
LONGEST_SHOWN = 120
"""Characters of a value from a file that an error shows."""


@dataclass(frozen=True)
class Rows:
    """Rows of a file or a hub data set, and the location of each for errors."""

    table: pa.Table
    where: str
    """The file or data set, for errors about the whole of it."""
    location: Callable[[int], str]
    """Of a row, counted from 0: `file:line`, or `file, row 7` where there are no lines."""
    sampled_from: int = 0
    """About how many rows there are, where these are a sample; 0 = these are all."""

    def values(self, column: str) -> Sequence[Any]:
        """The values of a column; of many rows, some at a time are made.

        Raises:
            UserError: a date or a number that Python has no form for.
        """
        values = self.table[column]
        if len(values) > VALUES_AT_ONCE and _has_values(values.type):
            return Column(values)
        try:
            return list(values.to_pylist())
        except (pa.ArrowException, ValueError, OverflowError) as error:
            expected, fix = "texts and numbers", "write the column in another form"
            found = str(error).partition("\n")[0]
            raise UserError(f"{self.where}, column {column}", expected=expected, found=found, fix=fix) from None

    def at(self, row: int, column: str) -> str:
        """The location of a value, for errors."""
        return f"{self.location(row)}, column {column}"


def _has_values(kind: pa.DataType) -> bool:
    """Whether Python has a form for every value of a type."""
    if inner := [kind.field(number).type for number in range(kind.num_fields)]:
        return all(map(_has_values, inner))
    types = pa.types
    tests = (
        types.is_string,
        types.is_large_string,
        types.is_integer,
        types.is_floating,
        types.is_boolean,
        types.is_null,
    )
    return any(test(kind) for test in tests)


def shown(value: Any) -> str:
    """A value from a file as errors show it."""
    return "nothing" if value is None else shortened(repr(value))


def shortened(text: str) -> str:
    """The beginning of a text from a file, as much as errors show."""
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN].rstrip() + " …"


def read_table(path: Path) -> pa.Table:
    """All rows of a file as `read_rows` reads it."""
    return read_rows(path).table


def read_rows(path: Path, quoting: Quoting = "auto") -> Rows:
    """All rows of a .csv, .tsv, .jsonl, .ndjson or .parquet file, or of a .json file in the form of SQuAD.

    Columns of CSV and TSV are text; those of SQuAD's form are `id`, `title`, `question`, `context`, `answers` and
    `is_impossible`. Empty lines are left out, and counted. All but .parquet may be compressed: `.csv.gz`, `.csv.zst`.

    Args:
        path: the file.
        quoting: how quotes are read in CSV and TSV.

    Raises:
        UserError: no such file, another kind of file, no row, two columns of one name, or anything that is not as the
            format has it.
    """
    reader = READERS.get(ending(path)) if can_be_read(path) else None
    if reader is None:
        expected, found = f"a file that ends in {', '.join(READERS)} (or .csv.gz …)", path.suffix or "no ending"
        fix = "save the table in one of these forms"
        if path.name.lower().endswith(CONLL_ENDINGS):
            fix = f"for tagged words set kind = token-classification (--kind token-classification), or {fix}"
        raise UserError(str(path), expected=expected, found=found, fix=fix)
    if not path.is_file():
        raise UserError(str(path), problem="there is no such file", fix="correct the path")
    try:
        with marked("in a sample,") if samples.is_sampled(path) else nullcontext():
            rows = reader(path, quoting)
        if rows.sampled_from > rows.table.num_rows:
            samples.tell(path, rows.table.num_rows, rows.sampled_from)
        elif rows.sampled_from:  # it has no more
            rows = replace(rows, sampled_from=0)
    except OSError as error:
        fix = "check its permissions and the disk"
        raise UserError(str(path), expected="a file that can be read", found=str(error), fix=fix) from None
    if rows.table.num_rows == 0:
        fix = "put the split's examples into the file"
        raise UserError(str(path), expected="at least one row", found="none", fix=fix)
    return rows


def read_conll(path: Path) -> Rows:
    """The sentences of a CoNLL file, a row for each, as `conll.sentences_of` reads them.

    Raises:
        UserError: no such file, no sentence, or a line that is not as the others.
    """
    try:
        found = conll.sentences_of([*_lines_of(_text(path))], str(path))
    except OSError as error:
        fix = "check its permissions and the disk"
        raise UserError(str(path), expected="a file that can be read", found=str(error), fix=fix) from None
    if not found.lines:
        raise UserError(str(path), expected="at least one sentence", found="none", fix="put sentences into the file")
    return _with_lines(pa.table({name: pa.array(values) for name, values in found.columns.items()}), path, found.lines)


def is_conll(path: Path, columns: Collection[str]) -> bool:
    """Whether a file of tagged words is a CoNLL file: by its name, or a .tsv whose first line names no column."""
    if path.name.lower().endswith(CONLL_ENDINGS):
        return True
    if ending(path) != ".tsv" or not path.is_file():
        return False
    with open_bytes(path) as stream:
        first = stream.readline().decode("utf-8-sig", "replace")
    return {*columns}.isdisjoint(cell.strip(' "') for cell in first.strip("\r\n").split("\t"))


def can_be_read(path: Path) -> bool:
    """Whether the name of the file ends as those that `read_rows` reads."""
    return path.name.lower().endswith(ENDINGS)


def table_rows(table: pa.Table, where: str) -> Rows:
    """`Rows` of a table without lines."""
    return Rows(table, where, lambda row: f"{where}, row {row}")


def _refuse_twins(names: list[str], where: str) -> None:
    twins = [name for number, name in enumerate(names) if name in names[:number]]
    if twins:
        fix = "rename or drop one of them"
        raise UserError(where, expected="columns of different names", found=f"{twins[0]!r} twice", fix=fix)


def _parquet(path: Path) -> Rows:
    try:
        _refuse_twins(pyarrow.parquet.read_schema(path).names, str(path))
        if samples.is_sampled(path):
            with pyarrow.parquet.ParquetFile(path) as file:
                table, numbers = samples.parquet_of(file)
                return Rows(table, str(path), lambda row: f"{path}, row {numbers[row]}", file.metadata.num_rows)
        table = _mapped_parquet(path) if is_large(path) else pyarrow.parquet.read_table(path)
        table.validate(full=True)  # that texts are UTF-8, for one
    except (pa.ArrowException, OSError) as error:
        found = str(error).partition("\n")[0]
        raise UserError(str(path), expected="a readable parquet file", found=found, fix="replace the file") from None
    return table_rows(table, str(path))


def _mapped_parquet(path: Path) -> pa.Table:
    with pyarrow.parquet.ParquetFile(path) as file:
        return collected(file.schema_arrow, file.iter_batches(RECORDS_AT_ONCE), on_disk=True)


def _text(path: Path) -> str:
    """The content of a UTF-8 file, without a byte-order mark."""
    with open_bytes(path) as stream:
        return _decoded(stream.read(), path, 0)


def _decoded(content: bytes, path: Path, lines: int) -> str:
    """The text of a part of a file, behind so many lines."""
    try:
        text = content.decode("utf-8" if lines else "utf-8-sig")
    except UnicodeDecodeError as error:
        # With a mark, positions are counted behind it.
        before = error.object[: error.start]
        line, column = lines + before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        for first, (packed_by, suffix) in BEGINNINGS.items():
            if not lines and content.startswith(first):
                problem, fix = f"it is compressed with {packed_by}", f"call it {path.name}{suffix}"
                raise UserError(str(path), problem=problem, fix=fix) from None
        found = f"byte 0x{error.object[error.start]:02x} at byte {column} of the line"
        raise UserError(f"{path}:{line}", expected="UTF-8", found=found, fix="save the file as UTF-8") from None
    if "\0" in text:
        line = lines + text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{path}:{line}", expected="text", found="a NUL byte", fix="save the file as UTF-8 text")
    return text


def _delimited(path: Path, quoting: Quoting, *, is_tsv: bool) -> Rows:
    lines, sample = partial(_lines, path, old_ends=True), None
    if samples.is_sampled(path):
        sample = samples.lines_of(path, are_quoted=quoting == "csv" or (quoting == "auto" and not is_tsv))
        lines = partial(_sampled_lines, path, sample)
    found = delimited.read(
        lines, str(path), is_tsv=is_tsv, quoting=quoting, longest=LONGEST_FIELD,
        numbers=sample.numbers if sample else None,
    )  # fmt: skip
    numbers = array("q")
    header, width = found.header, len(found.header)
    schema = pa.schema([(str(number), pa.string()) for number in range(width)])
    is_filled = [False] * width

    def parts() -> Iterator[pa.RecordBatch]:
        while part := list(itertools.islice(found.records, RECORDS_AT_ONCE)):  # as Python's lists it takes 500 bytes
            numbers.extend(line for line, _ in part)
            columns = list(zip(*(record for _, record in part), strict=True))
            is_filled[:] = [filled or any(column) for filled, column in zip(is_filled, columns, strict=True)]
            yield pa.record_batch([pa.array(column, pa.string()) for column in columns], schema)

    table = collected(schema, parts(), on_disk=is_large(path))
    while header[width - 1 :] == [""] and width > 1 and not is_filled[width - 1]:
        header, width = header[:-1], width - 1
    if width < len(found.header):
        count = counted(len(found.header) - width, "column")
        notice(str(path), f"{count} without a name at the end, all empty, passed over")
    _refuse_twins(header, f"{path}:{found.header_line}")
    rows = _with_lines(table.select(range(width)).rename_columns(header), path, numbers)
    return replace(rows, sampled_from=sample.rows(len(numbers))) if sample else rows


def _sampled_lines(path: Path, sample: samples.Lines) -> Iterator[str]:
    numbered = zip(sample.lines, sample.numbers, strict=True)
    return (_decoded(line, path, number - 1) for line, number in numbered)


def _lines(path: Path, *, old_ends: bool = False) -> Iterator[str]:
    """The lines of a UTF-8 file with their ends, without a byte-order mark; some of the file is in memory at a time.

    Only a line feed ends a line, with or without a carriage return; with `old_ends` a carriage return does in a file
    that has no line feed.
    """
    count, waiting = 0, list[bytes]()
    with open_bytes(path) as stream:
        while part := stream.read(BYTES_AT_ONCE):
            before, end, rest = part.rpartition(b"\n")
            if not end:
                waiting.append(part)
                continue
            text = _decoded(b"".join([*waiting, before, end]), path, count)
            waiting = [rest]
            count += text.count("\n")
            yield from io.StringIO(text, newline="\n")
    if last := _decoded(b"".join(waiting), path, count):
        yield from io.StringIO(last, newline="\n" if count or not old_ends else "")


def _lines_of(text: str) -> Iterator[str]:
    """Its lines with their ends: only a line feed ends one, with or without a carriage return."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        yield text[begin:end]
        begin = end


def _with_lines(table: pa.Table, path: Path, lines: Sequence[int]) -> Rows:
    at = np.array(lines, dtype=np.int64)
    return Rows(table, str(path), lambda row: f"{path}:{at[row]}")


def _jsonl(path: Path) -> Rows:
    lines = array("q")
    if samples.is_sampled(path):
        sample = samples.lines_of(path, are_quoted=False)
        records = list(_objects(zip(sample.numbers, _sampled_lines(path, sample), strict=True), path, lines))
        rows = _with_lines(_columns(records, 0, path=path, lines=lines), path, lines)
        return replace(rows, sampled_from=sample.rows(len(lines)))
    table = (
        mapped_objects(_objects(enumerate(_lines(path), 1), path, lines), partial(_columns, path=path, lines=lines))
        if is_large(path)
        else None
    )
    if table is None:
        lines = array("q")
        table = _columns(list(_objects(enumerate(_lines(path), 1), path, lines)), 0, path=path, lines=lines)
    return _with_lines(table, path, lines)


def _objects(numbered: Iterable[tuple[int, str]], path: Path, lines: "array[int]") -> Iterator[dict[str, Any]]:
    """The objects of a file; their lines are added to `lines`, and empty ones between them are counted."""
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
    """The columns of consecutive objects, of which the first is the row `first`."""
    names = list(dict.fromkeys(itertools.chain.from_iterable(records)))
    columns = [_json_column([r.get(name) for r in records], name, path, lines[first:]) for name in names]
    return pa.table(columns, names=names)


def _parsed(text: str, where: str, fix: str) -> Any:
    def no_number(word: str) -> Any:
        raise UserError(where, expected="numbers as JSON has them", found=word, fix="correct it or drop the row")

    def different_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        record = dict(pairs)
        if len(record) < len(pairs):
            _refuse_twins([key for key, _ in pairs], where)
        return record

    try:
        return json.loads(text, parse_constant=no_number, object_pairs_hook=different_keys)
    except json.JSONDecodeError as error:
        line = f"line {error.lineno}, " if "\n" in text.strip() else ""
        found = f"{error.msg} at {line}column {error.colno}"
        raise UserError(where, expected="JSON", found=found, fix=fix) from None
    except RecursionError:
        raise UserError(where, expected="JSON", found="too many brackets in one another", fix=fix) from None
    except UserError:
        raise
    except ValueError:  # Python's limit
        found = "a number of thousands of digits"
        raise UserError(where, expected="numbers as JSON has them", found=found, fix="correct it") from None


def _json_column(values: list[Any], name: str, path: Path, lines: Sequence[int]) -> pa.Array:
    """The values as a column of one type; the error names the first row that does not fit.

    Whole numbers of more than 64 bits are codes: they become texts, digit by digit.
    """
    whole = [value for value in values if value is not None]
    if all(type(value) is int for value in whole) and any(abs(value) >= 2**63 for value in whole):
        return pa.array([None if value is None else str(value) for value in values])
    if (pieces := named_pieces(whole)) is not None:
        by_row = iter(pieces)
        values = [None if value is None else next(by_row) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowException, OverflowError, ValueError):
        fits, fails = 0, len(values)
        while fails - fits > 1:
            middle = (fits + fails) // 2
            try:
                pa.array(values[:middle])
                fits = middle
            except (pa.ArrowException, OverflowError, ValueError):
                fails = middle
        expected = "values of one kind that UTF-8 and 64 bits can hold"
        fix = "write the column the same way in every row"
        where = f"{path}:{lines[fits]}, column {name}"
        raise UserError(where, expected=expected, found=shown(values[fits]), fix=fix) from None


def named_pieces(values: Sequence[Any]) -> list[list[dict[str, Any]]] | None:
    """Lists of `[start, end, label]`, as annotation tools write pieces of a text, with a name for each part.

    None where some value is anything else, or all are empty.
    """
    if not all(isinstance(value, list | tuple) for value in values):
        return None
    parts = [part for value in values for part in value]
    if not parts or not all(isinstance(p, list | tuple) and [*map(type, p)] == [int, int, str] for p in parts):
        return None
    return [[dict(zip(("start", "end", "label"), part, strict=True)) for part in value] for value in values]


def _squad_json(path: Path) -> Rows:
    """The questions of a file in SQuAD's form: {"data": [{"title", "paragraphs": [{"context", "qas": [...]}]}]}."""
    fix = "give SQuAD's form (data, paragraphs, qas), or one JSON object a line in a file that ends in .jsonl"
    content = _parsed(_text(path), str(path), fix)
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


READERS: dict[str, Callable[[Path, Quoting], Rows]] = {
    ".parquet": lambda path, _: _parquet(path),
    ".jsonl": lambda path, _: _jsonl(path),
    ".ndjson": lambda path, _: _jsonl(path),
    ".csv": partial(_delimited, is_tsv=False),
    ".tsv": partial(_delimited, is_tsv=True),
    ".json": lambda path, _: _squad_json(path),
}
ENDINGS = (*READERS, *(suffix + packed for packed in COMPRESSED for suffix in READERS if suffix != ".parquet"))
"""Of the files that `read_rows` reads."""
CONLL = (".conll", ".iob", ".iob2", ".bio", ".bilou", ".txt")
CONLL_ENDINGS = (*CONLL, *(suffix + packed for packed in COMPRESSED for suffix in CONLL))
"""Of the files that `read_conll` reads."""
