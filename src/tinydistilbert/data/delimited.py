"""CSV and TSV: which characters are separators and quotes, and the records, each with its first line number.

In CSV, quotes enclose fields (RFC 4180). Tab-separated files are mostly written without quoting: a quote in them is
part of the text, unless the file clearly shows that its fields are quoted.
"""

import csv
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.names import Quoting

LineReader = Callable[[], Iterator[str]]
"""Each call reads the lines from the start, with their line breaks."""
Numbered = Iterator[tuple[int, list[str]]]

_EXCEL = re.compile(r'"?sep=(.)"?\s*', re.IGNORECASE)
"""The first line of some Excel files, which names the separator."""
_IN_QUOTES = re.compile(r'"((?:[^"]|"")*)"')
SWITCH = "--quoting"
"""The flag that sets how quotes are read in a task's files."""


@dataclass(frozen=True)
class Delimited:
    """A file of separated values."""

    header_line: int
    header: list[str]
    records: Numbered
    """The line where each record begins, and its fields, as many as the header has."""


@dataclass(frozen=True)
class _File:
    """What is known about a file before its records are read."""

    where: str
    delimiter: str
    skipped: int
    """Lines before the header."""
    longest: int
    switch: str
    numbers: Sequence[int] | None
    """The line numbers, if only some lines of the file are given."""

    def at(self, line: int) -> int:
        """Return the number in the file of one of the given lines."""
        return line if self.numbers is None or line > len(self.numbers) else self.numbers[line - 1]

    @property
    def fix_csv(self) -> str:
        """For an error in a file whose quotes enclose fields."""
        fix = "put a field that has a separator, a quote or a line break into quotes, and write a quote in it twice"
        return f'{fix}: ""; or give {self.switch} none if quotes are part of the texts'

    @property
    def fix_none(self) -> str:
        """For an error in a file whose quotes are text."""
        return f"remove the separators from the texts, or give {self.switch} csv if the fields are in quotes"


def read(
    lines: LineReader, where: str, *, is_tsv: bool, quoting: Quoting, longest: int, switch: str = SWITCH,
    numbers: Sequence[int] | None = None,
) -> Delimited:  # fmt: skip
    """Return the header and the records of a CSV or TSV file; empty lines between records are skipped and counted.

    Args:
        lines: the file's lines.
        where: the file, for errors and notices.
        is_tsv: whether the separator is a tab; otherwise a comma. A first line `sep=;` sets another one.
        quoting: `csv`: quotes enclose fields; `none`: they are text; `auto`: `csv`, but in TSV only if the file is
            clearly quoted.
        longest: maximum number of characters in a field.
        switch: the flag that sets `quoting`, for errors and notices.
        numbers: line numbers in the file; None = counted from 1.

    Raises:
        UserError: the file is empty, a quote is not closed, or a record has another number of fields than the header.
            Errors in records are raised when the record is read.
    """
    delimiter, skipped = "\t" if is_tsv else ",", 0
    if excel := _EXCEL.fullmatch(next(lines(), "")):
        delimiter, skipped = excel[1], 1
        notice(where, f"the first line, written by Excel, says that {delimiter!r} separates the columns")
    mode, file = quoting, _File(where, delimiter, skipped, longest, switch, numbers)
    if quoting == "auto":
        mode = _quoting_of_tsv(lines, file) if is_tsv else "csv"
    numbered = _records(lines(), file, mode, refuse_merged=is_tsv and quoting == "auto")
    header_line, header = next(numbered, (1, None))
    if header is None:
        expected = "a line with the names of the columns"
        raise UserError(where, expected=expected, found="an empty file", fix="write the table into it")
    return Delimited(header_line, header, numbered)


def _records(lines: Iterator[str], file: _File, mode: str, *, refuse_merged: bool) -> Numbered:
    """Yield the header and all records."""
    where = file.where
    for _ in range(file.skipped):
        next(lines)
    source: Iterator[tuple[int, list[str], list[str]]] = (_plain if mode == "none" else _quoted)(lines, file)
    width, empty, waiting, merged, extra = 0, 0, 0, _Occurrences(), _Occurrences()
    for line, record, raw in source:
        if not record:
            waiting += width > 0  # empty lines at the end of the file separate no records
            continue
        empty, waiting = empty + waiting, 0
        if not width:
            width = len(record)
        elif len(record) > width and not any(record[width:]):
            extra.add(line)
            record = record[:width]
        elif len(record) != width:
            fix = file.fix_none if mode == "none" else file.fix_csv
            expected = f"{counted(width, 'field')}, as the header has"
            raise UserError(f"{where}:{line}", expected=expected, found=str(len(record)), fix=fix)
        if width > 1 and len(raw) > 1 and all(part.count(file.delimiter) == width - 1 for part in raw):
            if refuse_merged:
                problem = f"its quotes join {len(raw)} lines into one row, and each of them could be a row of its own"
                fix = (
                    f"give {file.switch} none if quotes are part of the texts, {file.switch} csv if they enclose fields"
                )
                raise UserError(f"{where}:{line}", problem=problem, fix=fix)
            merged.add(line)
        yield line, record
    if empty:
        notice(where, f"{counted(empty, 'empty line')} between the rows left out")
    if extra.count:
        notice(
            where, f"{counted(extra.count, 'row')} with more fields than the header, the others empty: {extra.first}"
        )
    if merged.count:
        text = f"{counted(merged.count, 'row')} joined from several lines by quotes, where each line could be a row"
        notice(where, f"{text}: {merged.first}; {file.switch} none reads quotes as text")


@dataclass
class _Occurrences:
    """How often something occurs, and where first."""

    count: int = 0
    first: str = ""

    def add(self, line: int) -> None:
        self.count += 1
        self.first = self.first or f"the first is in line {line}"


def _plain(lines: Iterable[str], file: _File) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield line number, fields and the line itself; no fields for an empty line."""
    for number, line in enumerate(lines, 1 + file.skipped):
        text = line.removesuffix("\n").removesuffix("\r")
        yield file.at(number), text.split(file.delimiter) if text else [], [line]


def _quoted(lines: Iterable[str], file: _File) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield the first line number of a record, its fields, and its lines, in a list that is reused."""
    raw: list[str] = []

    def kept() -> Iterator[str]:
        for line in lines:
            raw.append(line)
            yield line

    reader = csv.reader(kept(), delimiter=file.delimiter, strict=True)
    longest = max(csv.field_size_limit(), file.longest)
    while True:
        begin = reader.line_num + 1 + file.skipped
        raw.clear()
        # Python's csv module refuses fields above 131,072 characters unless the limit of the whole process is raised.
        before = csv.field_size_limit(longest)
        try:
            record = next(reader, None)
        except csv.Error as error:
            is_open = "unexpected end of data" in str(error)
            line = file.at(reader.line_num + file.skipped)
            found = "none before the end of the file" if is_open else f"{error} (line {line})"
            expected = "a closing quote" if is_open else "a separator after the closing quote of a field"
            fix = f"close the quotes, or {file.fix_csv}" if is_open else file.fix_csv
            raise UserError(f"{file.where}:{file.at(begin)}", expected=expected, found=found, fix=fix) from None
        finally:
            csv.field_size_limit(before)
        if record is None:
            return
        yield file.at(begin), record, raw


def _quoting_of_tsv(lines: LineReader, file: _File) -> Quoting:
    """Return how to read quotes in a TSV file, with a notice if it has any: `none`, unless it is clearly quoted.

    It is clearly quoted in three cases: every name in the header is in quotes; or every line has the header's number of
    fields, and each field that contains a quote is in quotes, at least one with doubled quotes inside; or some line has
    another number of fields, but read as CSV all records have the right number, none with a tab and a line break in one
    field.
    """
    plain = _plain(_after(lines, file.skipped), file)
    header = next((record for _, record, _ in plain if record), [])
    fits, are_closed, has_doubled, beginning = True, True, False, _Occurrences()
    for line, record, _ in plain:
        fits = fits and (not record or len(record) == len(header) or not any(record[len(header) :] or ["short"]))
        for cell in record:
            if '"' in cell:
                inner = _IN_QUOTES.fullmatch(cell)
                are_closed = are_closed and inner is not None
                has_doubled = has_doubled or (inner is not None and '""' in inner[1])
                if cell.startswith('"'):
                    beginning.add(line)
    if header and all(map(_IN_QUOTES.fullmatch, header)):
        surely = True
    elif fits:
        surely = beginning.count > 0 and are_closed and has_doubled
    else:
        surely = beginning.count > 0 and _reads_as_csv(lines, file, len(header))
    if surely:
        fields = counted(beginning.count, "field")
        taken_off = f"its header or {fields} below it are in quotes, which are removed"
        notice(file.where, f"{taken_off}; {file.switch} none keeps them")
        return "csv"
    if beginning.count:
        cells = f"{counted(beginning.count, 'field')} that begin{'s' * (beginning.count == 1)} with one"
        kept = f"quotes are part of the texts, also in {cells}, {beginning.first}"
        notice(file.where, f"{kept}; {file.switch} csv removes them")
    return "none"


def _after(lines: LineReader, skipped: int) -> Iterator[str]:
    stream = lines()
    for _ in range(skipped):
        next(stream, "")
    return stream


def _reads_as_csv(lines: LineReader, file: _File, width: int) -> bool:
    try:
        for _, record, _ in _quoted(_after(lines, file.skipped), file):
            if record and (len(record) != width or any(file.delimiter in cell and "\n" in cell for cell in record)):
                return False
    except UserError:
        return False
    return True
