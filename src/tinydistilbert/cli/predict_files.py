"""The files of `predict`: streams rows of CSV, TSV, JSONL and Parquet, and writes them with their answers."""

import csv
import datetime
import decimal
import io
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tinydistilbert.data import delimited
from tinydistilbert.data.compressed import ending, open_bytes
from tinydistilbert.errors import UserError
from tinydistilbert.optional import require
from tinydistilbert.storage import atomic, disk

ROWS = 256
"""Rows of a pipe that are answered together, and of a Parquet file that are read at a time."""
WINDOW = 16 * ROWS
"""Rows of a file that are answered together; batches of similar lengths need less padding than in 256 rows."""
WINDOW_CHARACTERS = 4_000_000
"""Characters after which a window of long texts ends."""
ROW_GROUP = 64 * ROWS
"""Rows in memory at a time while a Parquet file is written."""
LONGEST_FIELD = 10_000_000
"""Characters of a field of a CSV file."""
TABLES, LINES, PARQUET = (".csv", ".tsv"), (".jsonl", ".ndjson"), ".parquet"
ENDINGS = (*TABLES, *LINES, PARQUET)
TEXT = ".txt"
"""Ending of a file with a text on each line, which is only read."""
ANSWER = "prediction"
"""The column, or the key, of a model's answer."""
AS_LINES = "write the answers as .jsonl"
Row = dict[str, Any]
Write = Callable[[list[Row], list[Row]], None]


@dataclass
class InputRows:
    """The rows of a file, and for Parquet the batches they were read from, whose types the answers keep."""

    rows: Iterator[Row]
    batches: "PendingBatches | None" = None


@dataclass
class PendingBatches:
    """Batches of a Parquet file that were read and not yet written."""

    schema: Any
    are_kept: bool = False
    read: list[Any] = field(default_factory=list)

    def take(self, count: int) -> Any:
        """Remove and return the oldest rows, as a table."""
        arrow = require("pyarrow", extra="train")
        table = arrow.Table.from_batches(self.read, self.schema)
        self.read = table.slice(count).to_batches()
        return table.slice(0, count)


@contextmanager
def opened(file: Path) -> Iterator[InputRows]:
    """Yield the rows of a file, which are read one by one while it is open.

    Raises:
        UserError: the file does not conform to its format.
    """
    with ExitStack() as streams:
        if ending(file) == PARQUET:
            yield _of_parquet(file, streams)
            return

        def lines() -> Iterator[str]:
            try:
                stream = open_bytes(file)
            except OSError as error:
                expected, found = "a file that can be read", error.strerror or str(error)
                raise UserError(str(file), expected=expected, found=found, fix="check its permissions") from None
            return _lines(streams.enter_context(stream), file)

        if ending(file) == TEXT:
            yield InputRows({"text": line.rstrip("\r\n")} for line in lines())
            return
        if ending(file) in LINES:
            rows = (_object(line, f"{file}:{number}") for number, line in enumerate(lines(), 1) if line.strip())
            yield InputRows(rows)
            return
        is_tsv = ending(file) == ".tsv"
        table = delimited.read(lines, str(file), is_tsv=is_tsv, quoting="auto", longest=LONGEST_FIELD)
        yield InputRows(dict(zip(table.header, record, strict=True)) for _, record in table.records)


def _of_parquet(file: Path, streams: ExitStack) -> InputRows:
    arrow, parquet = require("pyarrow", extra="train"), require("pyarrow.parquet", extra="train")

    def unreadable(error: Exception) -> UserError:
        found = (str(error).splitlines() or [type(error).__name__])[0]
        return UserError(str(file), expected="a readable parquet file", found=found, fix="replace the file")

    try:
        content = streams.enter_context(parquet.ParquetFile(file))
    except (OSError, arrow.ArrowException) as error:
        raise unreadable(error) from None
    names = content.schema_arrow.names
    if twins := sorted({name for name in names if names.count(name) > 1}):
        raise UserError(str(file), problem=f"two columns are called {twins[0]!r}", fix="rename one of them")
    batches = PendingBatches(content.schema_arrow)

    def rows() -> Iterator[Row]:
        try:
            for batch in content.iter_batches(batch_size=ROWS):
                if batches.are_kept or not batches.read:
                    batches.read.append(batch)
                yield from batch.to_pylist()
        except (OSError, arrow.ArrowException, ValueError) as error:
            raise unreadable(error) from None

    return InputRows(rows(), batches)


def _lines(stream: IO[bytes], file: Path) -> Iterator[str]:
    text = io.TextIOWrapper(stream, encoding="utf-8-sig", newline="\n")
    try:
        yield from text
    except UnicodeDecodeError as error:
        found = f"byte 0x{error.object[error.start]:02x}"
        raise UserError(str(file), expected="UTF-8", found=found, fix="save the file as UTF-8") from None
    finally:
        text.close()


def _object(line: str, where: str) -> Row:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        fix = "write one JSON object a line"
        raise UserError(where, expected="a JSON object", found=str(error), fix=fix) from None
    if not isinstance(row, dict):
        fix = "write one JSON object a line"
        raise UserError(where, expected="a JSON object", found=type(row).__name__, fix=fix)
    return row


def print_lines(answers: Iterable[Row]) -> None:
    """Print lines of JSON immediately."""
    for answer in answers:
        print(as_json(answer))
    sys.stdout.flush()


def as_json(row: Row) -> str:
    """Return a row as a line of JSON; dates and decimals of Parquet become text, NaN and infinity null."""
    try:
        return json.dumps(row, ensure_ascii=False, default=_as_text, allow_nan=False)
    except ValueError:
        return json.dumps(_finite(row), ensure_ascii=False, default=_as_text)


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _as_text(value: Any) -> str:
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, decimal.Decimal):
        return str(value)
    problem = f"a column holds {type(value).__name__}, which JSON cannot represent"
    raise UserError("--output", problem=problem, fix="write the answers as .parquet")


@contextmanager
def written(output: Path | None, names: Sequence[str], source: InputRows) -> Iterator[Write]:
    """Yield what writes rows with answers: to standard output as JSON, or to a file that appears when complete."""
    if output is None:
        yield lambda rows, answers: print_lines(
            {**row, ANSWER: answer} for row, answer in zip(rows, answers, strict=True)
        )
        return
    if not output.parent.is_dir():
        raise UserError(f"--output {output}", problem="its folder does not exist", fix="create it first")
    if output.is_dir():
        raise UserError(f"--output {output}", expected="a file", found="a folder", fix="give another name")
    temporary = output.with_name(f"{output.name}.partial")
    try:
        with disk.disk_errors(output), ExitStack() as streams:
            if ending(output) == PARQUET:
                yield streams.enter_context(_to_parquet(temporary, output, names, source.batches))
            else:
                stream = streams.enter_context(temporary.open("w", encoding="utf-8", newline=""))
                is_table = ending(output) in TABLES
                yield streams.enter_context(_to_table(stream, output, names)) if is_table else _to_lines(stream)
        atomic.adopt(temporary, output)
    except PermissionError as error:
        expected, found = "a file that can be written", error.strerror
        raise UserError(f"--output {output}", expected=expected, found=found, fix="give another --output") from None
    finally:
        temporary.unlink(missing_ok=True)


def _to_lines(stream: IO[str]) -> Write:
    def write(rows: list[Row], answers: list[Row]) -> None:
        for row, answer in zip(rows, answers, strict=True):
            stream.write(as_json({**row, ANSWER: answer}) + "\n")

    return write


@contextmanager
def _to_table(stream: IO[str], output: Path, names: Sequence[str]) -> Iterator[Write]:
    """Write answers as columns after those of the rows: `prediction` and the numbers that belong to it."""
    writer = csv.writer(stream, delimiter="\t" if ending(output) == ".tsv" else ",", lineterminator="\n")
    began = False

    def emit(rows: list[Row], columns: list[Row], header: list[str]) -> None:
        nonlocal began
        if not began:
            writer.writerow([*names, *header])
            began = True
        writer.writerows(
            [row.get(name, "") for name in names] + [answer.get(name, "") for name in header]
            for row, answer in zip(rows, columns, strict=True)
        )

    with _with_header(output, names, emit) as write:
        yield write


@contextmanager
def _to_parquet(temporary: Path, output: Path, names: Sequence[str], batches: PendingBatches | None) -> Iterator[Write]:
    """Write the same as Parquet, `ROW_GROUP` rows in memory at a time; rows from Parquet keep their types."""
    arrow, parquet = require("pyarrow", extra="train"), require("pyarrow.parquet", extra="train")
    if batches is not None:
        batches.are_kept = True
    tables = list[Any]()
    schema: Any = None
    stream: Any = None

    def flush() -> None:
        nonlocal stream
        if tables:
            stream = stream or parquet.ParquetWriter(temporary, schema)
            stream.write_table(arrow.concat_tables(tables))
            tables.clear()

    def emit(rows: list[Row], columns: list[Row], header: list[str]) -> None:
        nonlocal schema
        try:
            if batches is not None:
                given = batches.take(len(rows))
            elif schema is None:
                given = arrow.Table.from_pylist([{name: row.get(name) for name in names} for row in rows])
            else:
                kept = arrow.schema([schema.field(name) for name in names])
                given = arrow.Table.from_pylist(rows, schema=kept)
            for name in header:
                known = None if schema is None else schema.field(name).type
                kind = known or (
                    arrow.string() if any(isinstance(answer.get(name), str) for answer in columns) else None
                )
                given = given.append_column(name, arrow.array([answer.get(name) for answer in columns], kind))
        except (arrow.ArrowException, TypeError) as error:
            problem = f"a column has values of several types: {str(error).splitlines()[0]}"
            raise UserError(f"--output {output}", problem=problem, fix=AS_LINES) from None
        schema = schema or given.schema
        tables.append(given)
        if sum(table.num_rows for table in tables) >= ROW_GROUP:
            flush()

    try:
        with _with_header(output, names, emit) as write:
            yield write
        flush()
    finally:
        if stream is not None:
            stream.close()


@contextmanager
def _with_header(
    output: Path, names: Sequence[str], emit: Callable[[list[Row], list[Row], list[str]], None]
) -> Iterator[Write]:
    """Pass rows and answers to `emit` once the columns of the answers are known: errors alone have none."""
    header, waiting, columns, known = list[str](), list[Row](), list[Row](), frozenset(names)

    def write(rows: list[Row], answers: list[Row]) -> None:
        for row in rows:
            if not known.issuperset(row):
                others = [name for name in row if name not in known]
                problem = f"a row has a key that the first row lacks: {others[0]!r}"
                raise UserError(f"--output {output}", problem=problem, fix=AS_LINES)
        waiting.extend(rows)
        columns.extend(map(_as_columns, answers))
        header.extend(() if header else next((list(answer) for answer in columns if answer), []))
        if twice := [name for name in header if name in known]:
            problem = f"the rows have a column {twice[0]!r} already, which the answers need"
            raise UserError(f"--output {output}", problem=problem, fix=f"rename that column, or {AS_LINES}")
        if header:
            send(header)

    def send(names_of_answers: list[str]) -> None:
        emit(list(waiting), list(columns), names_of_answers)
        waiting.clear()
        columns.clear()

    yield write
    if waiting:
        send([ANSWER])


def _as_columns(answer: Row) -> Row:
    """Return an answer as the columns of a table; empty for an error."""
    if "error" in answer:
        return {}
    if "labels" in answer:
        return {ANSWER: "|".join(answer["labels"]), **{f"{ANSWER}_{n}": score for n, score in answer["scores"].items()}}
    if "entities" in answer:
        return {ANSWER: as_json(answer["entities"])}
    if "label" in answer:
        return {ANSWER: answer["label"], f"{ANSWER}_score": answer["score"]}
    if "answer" in answer:
        span = {f"{ANSWER}_{name}": answer[name] for name in ("start", "end", "score")}
        return {ANSWER: answer["answer"], **span}
    return {ANSWER: answer["score"]}
