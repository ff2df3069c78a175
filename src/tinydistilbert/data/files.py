"""Text from local files: the files of each split in a folder, and their records, read one by one."""

import hashlib
import itertools
import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tinydistilbert.data import delimited
from tinydistilbert.data.compressed import COMPRESSED, check_ratio, ending, open_bytes
from tinydistilbert.data.split_names import splits_by_name
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.names import Quoting
from tinydistilbert.storage import atomic

TEXT = (".txt", ".raw", ".tokens")
JSONL = (".jsonl", ".ndjson")
PARQUET = (".parquet",)
TABLES = (".csv", ".tsv")
SUFFIXES = (*TEXT, *JSONL, *PARQUET, *TABLES)
ENDINGS = (*SUFFIXES, *(suffix + packed for packed in COMPRESSED for suffix in (*TEXT, *JSONL, *TABLES)))
LONGEST_LINE = 5_000_000
"""Limit for a line in bytes, or a Parquet row in characters; tokenising takes 150 bytes of memory per character."""
PARQUET_ROWS = 256
"""Maximum number of rows in memory at a time."""
PARQUET_BYTES = 256 * 2**20
"""Maximum bytes in memory at a time: a compressed file of a few kilobytes can repeat a long text very often."""

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")


def find_splits(path: Path) -> tuple[list[Path], list[Path]]:
    """Return the training and validation files at `path`, a file or a folder, by their names if those are clear.

    Notices report what is left out of a folder: files of other kinds, CSV and TSV beside other texts, other splits; and
    hidden files, which are read.
    Without validation files the second list is empty.

    Raises:
        UserError: there is no file of a known kind, all are empty, or some are named after a split while others, which
            would be left out, are not.
    """
    if path.is_file() and not is_read(path):
        raise UserError(
            f"corpus.source {path}", problem=f"a file {_form(path)} cannot be read as a corpus", fix=_fix(path)
        )
    candidates = [path] if path.is_file() else sorted(file for file in path.rglob("*") if file.is_file())
    files = [file for file in candidates if is_read(file)]
    if not any(file.stat().st_size for file in files):
        expected = f"text in files that end in {', '.join(SUFFIXES)}"
        found = "only empty ones" if files else "no such file"
        fix = "point corpus.source at a text, JSONL, Parquet, CSV or TSV file or a folder of them"
        raise UserError(f"corpus.source {path}", expected=expected, found=found, fix=fix)
    for file in files:
        check_ratio(file)
    if path.is_file():
        return files, []
    texts = [file for file in files if ending(file) not in TABLES]
    if texts and len(texts) < len(files):
        tables = [file for file in files if file not in texts]
        notice(str(path), f"{_listed(tables, path)} left out: CSV and TSV are not read beside texts")
    others = [file for file in candidates if not is_read(file) and not file.name.startswith(".")]
    if others:
        notice(str(path), f"{_listed(others, path)} of other kinds left out")
    # Editors and notebooks keep copies in places such as .ipynb_checkpoints; prepared corpora may have read them.
    read = texts or files
    hidden = [file for file in read if any(part.startswith(".") for part in file.relative_to(path).parts)]
    if hidden:
        notice(str(path), f"{_listed(hidden, path)} hidden or in a hidden folder, but read; delete what is only a copy")
    return splits_by_name(read, path)


def is_read(path: Path) -> bool:
    """Whether `records` reads files with this ending."""
    return path.name.lower().endswith(ENDINGS)


def _form(path: Path) -> str:
    return f"that ends in {path.suffix}" if path.suffix else "without an ending"


def _fix(path: Path) -> str:
    if ending(path) == ".json":
        return "write one JSON object a line, in a file that ends in .jsonl"
    plain = f"call it {path.stem}.txt if it is plain text, or " if path.suffix.lower() in (".md", ".rst", "") else ""
    return f"{plain}give a file that ends in {', '.join(ENDINGS)}"


def _listed(files: Sequence[Path], folder: Path) -> str:
    """Return how many files there are, and the names of the first three."""
    names = ", ".join(file.relative_to(folder).as_posix() for file in files[:3]) + ", …" * (len(files) > 3)
    return f"{counted(len(files), 'file')} ({names})"


def fingerprint(*splits: Sequence[Path]) -> str:
    """Return the SHA-256 over the contents of the files of each split, without their names."""
    return hashlib.sha256("\n".join(" ".join(map(atomic.sha256, files)) for files in splits).encode()).hexdigest()


def has_rows(path: Path) -> bool:
    """Whether the records of this file are rows (JSONL, Parquet), not lines of text."""
    return ending(path) not in TEXT


def records(path: Path, column: str, quoting: Quoting = "auto") -> Iterator[str]:
    """Yield the lines of a text file, or the `column` of every row of other files; a null becomes an empty text.

    Args:
        path: the file.
        column: the column with the text, if the file has rows.
        quoting: how to read quotes in CSV and TSV.

    Raises:
        UserError: the file is not UTF-8, JSON or Parquet; there is no such column; or a value in it is not text or is
            too long. The message has the line number.
    """
    suffix = ending(path)
    if suffix in PARQUET:
        rows = _parquet_rows(path, column)
    elif suffix in TABLES:
        rows = _table_rows(path, column, quoting)
    else:
        rows = _jsonl_rows(path, column) if suffix in JSONL else (line.rstrip("\r\n") for _, line in _lines(path))
    try:
        yield from rows
    except OSError as error:
        fix = "check its permissions and the disk"
        raise UserError(str(path), problem=f"the file cannot be read: {error}", fix=fix) from None


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield each line with its number and its line break."""
    with open_bytes(path) as stream:
        for number, line in enumerate(iter(lambda: stream.readline(LONGEST_LINE + 1), b""), 1):
            where = f"{path}:{number}"
            if len(line) > LONGEST_LINE:
                raise _too_long(where, "a line", "bytes")
            if b"\0" in line:
                raise UserError(where, expected="text", found="a NUL byte", fix="save the file as UTF-8 text")
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                found = f"byte 0x{line[error.start]:02x} at column {error.start + 1}"
                fix = "save the file as UTF-8"
                raise UserError(where, expected="UTF-8", found=found, fix=fix) from None
            yield number, text


def _too_long(where: str, what: str, unit: str) -> UserError:
    expected = f"{what} of at most {LONGEST_LINE:,} {unit}"
    return UserError(where, expected=expected, found="a longer one", fix="split it into several")


def not_too_long(text: str, where: str) -> str:
    """Return the text of a row after checking its length.

    Raises:
        UserError: it has more than `LONGEST_LINE` characters.
    """
    if len(text) > LONGEST_LINE:
        raise _too_long(where, "a text", "characters")
    return text


def _no_column(where: str, column: str, found: str) -> UserError:
    return UserError(where, expected=f"a column {column!r} of texts", found=found, fix="set corpus.text_column")


def _jsonl_rows(path: Path, column: str) -> Iterator[str]:
    for number, line in _lines(path):
        if not line.strip():
            continue
        where, fix = f"{path}:{number}", "write one JSON object a line"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            found = f"{error.msg} at column {error.colno}"
            raise UserError(where, expected="a JSON object", found=found, fix=fix) from None
        except (RecursionError, ValueError) as error:  # limits of Python
            is_number = isinstance(error, ValueError)
            found = "a number of thousands of digits" if is_number else "brackets that are nested too deeply"
            raise UserError(where, expected="a JSON object", found=found, fix=fix) from None
        if not isinstance(row, dict):
            raise UserError(where, expected="a JSON object", found=type(row).__name__, fix=fix)
        if column not in row:
            raise _no_column(where, column, ", ".join(row) or "no key")
        if not isinstance(row[column], str | None):
            raise _no_column(where, column, f"{type(row[column]).__name__} in it")
        text = row[column] or ""
        if _LONE_SURROGATE.search(text):  # possible in JSON, but tokenizers cannot read it
            raise _no_column(where, column, "half a surrogate pair in it")
        yield text


def _table_rows(path: Path, column: str, quoting: Quoting) -> Iterator[str]:
    def lines() -> Iterator[str]:
        return (line for _, line in _lines(path))

    is_tsv = ending(path) == ".tsv"
    table = delimited.read(
        lines, str(path), is_tsv=is_tsv, quoting=quoting, longest=LONGEST_LINE, switch="--corpus.quoting"
    )
    if table.header.count(column) != 1:
        raise _no_column(f"{path}:{table.header_line}", column, ", ".join(table.header))
    position = table.header.index(column)
    for _, record in table.records:
        yield record[position]


def _parquet_rows(path: Path, column: str) -> Iterator[str]:
    try:
        with pq.ParquetFile(path) as file:
            columns = {field.name: field.type for field in file.schema_arrow}
            if column not in columns:
                raise _no_column(str(path), column, ", ".join(columns))
            kind = columns[column]
            if pa.types.is_dictionary(kind):  # pandas' categories
                kind = kind.value_type
            if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
                raise _no_column(str(path), column, f"{kind} in it")
            for group in range(file.num_row_groups):
                size = file.metadata.row_group(group).total_byte_size  # decompressed; no text is larger than this
                rows = min(PARQUET_ROWS, max(PARQUET_BYTES // max(size, 1), 1))
                batches = file.iter_batches(batch_size=rows, row_groups=[group], columns=[column])
                for text in itertools.chain.from_iterable(batch.column(0).to_pylist() for batch in batches):
                    yield not_too_long(text or "", str(path))
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        found = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(str(path), expected="a Parquet file", found=found, fix="write the file again") from None
