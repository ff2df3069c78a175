"""Strict readers for tables of examples: CSV, TSV, JSONL, Parquet and SQuAD's JSON; every error names its line.

CSV and TSV cells stay text (`NA` is a word, not a missing value), what is left out is counted, and a file that cannot
be read to its end is refused.
"""

import itertools
from array import array
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from tinydistilbert.data import delimited
from tinydistilbert.data.compressed import COMPRESSED, ending, open_bytes
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, marked, notice
from tinydistilbert.recipe.names import Quoting
from tinydistilbert.tasks import conll, samples
from tinydistilbert.tasks.json_tables import read_json_lines, read_squad_json
from tinydistilbert.tasks.mapped_tables import collected, is_large
from tinydistilbert.tasks.rows import Rows, refuse_twins, table_rows, with_lines
from tinydistilbert.tasks.text_lines import opened_lines, read_text, sampled_lines, split_lines

RECORDS_AT_ONCE = 10_000
"""Maximum number of records held as Python lists at a time."""
LONGEST_FIELD = 2**31 - 1
"""Characters of a cell: the largest limit that Python's csv module accepts."""


def read_table(path: Path) -> pa.Table:
    """Return all rows of a file as `read_rows` reads it."""
    return read_rows(path).table


def read_rows(path: Path, quoting: Quoting = "auto") -> Rows:
    """Read all rows of a .csv, .tsv, .jsonl, .ndjson or .parquet file, or of a .json file in SQuAD's format.

    Columns of CSV and TSV are text; those of SQuAD's format are `id`, `title`, `question`, `context`, `answers` and
    `is_impossible`. Empty lines are left out and counted. All but .parquet may be compressed: `.csv.gz`, `.csv.zst`.

    Args:
        path: the file.
        quoting: how to read quotes in CSV and TSV.

    Raises:
        UserError: the file does not exist, is of another kind, has no row, has two columns of one name, or violates its
            format in any way.
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
            samples.warn_of_sample(path, rows.table.num_rows, rows.sampled_from)
        elif rows.sampled_from:  # it has no more rows
            rows = replace(rows, sampled_from=0)
    except OSError as error:
        fix = "check its permissions and the disk"
        raise UserError(str(path), problem=f"the file cannot be read: {error}", fix=fix) from None
    if rows.table.num_rows == 0:
        fix = "write the examples of the split into the file"
        raise UserError(str(path), expected="at least one row", found="none", fix=fix)
    return rows


def read_conll(path: Path) -> Rows:
    """Read the sentences of a CoNLL file, one row each, as `conll.sentences_of` does.

    Raises:
        UserError: the file does not exist, has no sentence, or has a line unlike the others.
    """
    try:
        sentences = conll.sentences_of([*split_lines(read_text(path))], str(path))
    except OSError as error:
        fix = "check its permissions and the disk"
        raise UserError(str(path), problem=f"the file cannot be read: {error}", fix=fix) from None
    if not sentences.lines:
        raise UserError(str(path), expected="at least one sentence", found="none", fix="write sentences into the file")
    return with_lines(
        pa.table({name: pa.array(values) for name, values in sentences.columns.items()}), path, sentences.lines
    )


def is_conll(path: Path, columns: Collection[str]) -> bool:
    """Whether a file of tagged words is a CoNLL file: by its name, or as a .tsv whose first line names no column."""
    if path.name.lower().endswith(CONLL_ENDINGS):
        return True
    if ending(path) != ".tsv" or not path.is_file():
        return False
    with open_bytes(path) as stream:
        first = stream.readline().decode("utf-8-sig", "replace")
    return {*columns}.isdisjoint(cell.strip(' "') for cell in first.strip("\r\n").split("\t"))


def can_be_read(path: Path) -> bool:
    """Whether `read_rows` reads files with this ending."""
    return path.name.lower().endswith(ENDINGS)


def _parquet(path: Path) -> Rows:
    try:
        refuse_twins(pyarrow.parquet.read_schema(path).names, str(path))
        if samples.is_sampled(path):
            with pyarrow.parquet.ParquetFile(path) as file:
                table, numbers = samples.parquet_of(file)
                table = table.cast(_without_views(table.schema))
                return Rows(table, str(path), lambda row: f"{path}, row {numbers[row]}", file.metadata.num_rows)
        table = _mapped_parquet(path) if is_large(path) else pyarrow.parquet.read_table(path)
        table = table.cast(_without_views(table.schema))
        table.validate(full=True)  # for example, that texts are UTF-8
    except (pa.ArrowException, OSError) as error:
        found = str(error).partition("\n")[0]
        raise UserError(str(path), expected="a readable parquet file", found=found, fix="replace the file") from None
    return table_rows(table, str(path))


def _mapped_parquet(path: Path) -> pa.Table:
    with pyarrow.parquet.ParquetFile(path) as file:
        schema = _without_views(file.schema_arrow)
        tables = (pa.Table.from_batches([batch]).cast(schema) for batch in file.iter_batches(RECORDS_AT_ONCE))
        batches = itertools.chain.from_iterable(table.to_batches() for table in tables)
        return collected(schema, batches, on_disk=True)


def _without_views(schema: pa.Schema) -> pa.Schema:
    """Return a schema with texts in place of views of texts, of which Arrow cannot take some rows."""

    def plain(field: pa.Field) -> pa.Field:
        kind = field.type
        if pa.types.is_string_view(kind):
            return field.with_type(pa.large_string())
        if pa.types.is_list(kind):
            return field.with_type(pa.list_(plain(kind.value_field)))
        if pa.types.is_struct(kind):
            return field.with_type(pa.struct([plain(kind.field(number)) for number in range(kind.num_fields)]))
        return field

    return pa.schema([plain(field) for field in schema], schema.metadata)


def _delimited(path: Path, quoting: Quoting, *, is_tsv: bool) -> Rows:
    if samples.is_sampled(path):
        sample = samples.lines_of(path, are_quoted=quoting == "csv" or (quoting == "auto" and not is_tsv))
        rows = _records(partial(sampled_lines, path, sample), path, quoting, is_tsv=is_tsv, among=sample.numbers)
        return replace(rows, sampled_from=sample.rows(rows.table.num_rows))
    with opened_lines(path, old_ends=True) as lines:
        return _records(lines, path, quoting, is_tsv=is_tsv)


def _records(
    lines: delimited.LineReader, path: Path, quoting: Quoting, *, is_tsv: bool, among: Sequence[int] | None = None
) -> Rows:
    """Return the rows of a file, of whose lines only those with the numbers `among` may be given."""
    parsed = delimited.read(lines, str(path), is_tsv=is_tsv, quoting=quoting, longest=LONGEST_FIELD, numbers=among)
    numbers = array("q")
    header, width = parsed.header, len(parsed.header)
    schema = pa.schema([(str(number), pa.string()) for number in range(width)])
    is_filled = [False] * width

    def parts() -> Iterator[pa.RecordBatch]:
        while part := list(itertools.islice(parsed.records, RECORDS_AT_ONCE)):  # 500 bytes per record as lists
            numbers.extend(line for line, _ in part)
            columns = list(zip(*(record for _, record in part), strict=True))
            is_filled[:] = [filled or any(column) for filled, column in zip(is_filled, columns, strict=True)]
            yield pa.record_batch([pa.array(column, pa.string()) for column in columns], schema)

    table = collected(schema, parts(), on_disk=is_large(path))
    while header[width - 1 :] == [""] and width > 1 and not is_filled[width - 1]:
        header, width = header[:-1], width - 1
    if width < len(parsed.header):
        count = counted(len(parsed.header) - width, "column")
        notice(str(path), f"{count} at the end, empty and without a name, left out")
    refuse_twins(header, f"{path}:{parsed.header_line}")
    return with_lines(table.select(range(width)).rename_columns(header), path, numbers)


READERS: dict[str, Callable[[Path, Quoting], Rows]] = {
    ".parquet": lambda path, _: _parquet(path),
    ".jsonl": lambda path, _: read_json_lines(path),
    ".ndjson": lambda path, _: read_json_lines(path),
    ".csv": partial(_delimited, is_tsv=False),
    ".tsv": partial(_delimited, is_tsv=True),
    ".json": lambda path, _: read_squad_json(path),
}
ENDINGS = (*READERS, *(suffix + packed for packed in COMPRESSED for suffix in READERS if suffix != ".parquet"))
"""Endings of the files that `read_rows` reads."""
CONLL = (".conll", ".iob", ".iob2", ".bio", ".bilou", ".txt")
CONLL_ENDINGS = (*CONLL, *(suffix + packed for packed in COMPRESSED for suffix in CONLL))
"""Endings of the files that `read_conll` reads."""
