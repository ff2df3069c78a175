"""An evenly spread sample of a large file, which a dry run reads instead of all rows."""

from array import array
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import pyarrow as pa
import pyarrow.parquet

from tinydistilbert.data.compressed import is_compressed, open_bytes
from tinydistilbert.notices import notice

SAMPLED = 32 * 2**20
"""File size in bytes from which a dry run reads a sample."""
POSITIONS = 64
"""Places in the file from which rows are taken."""
ROWS = 4096
"""Total rows of a sample."""
BYTES_AT_ONCE = 2**16

_wanted: list["Sampling"] = []


@dataclass
class Sampling:
    """What was read in the body of `sampling`."""

    is_used: bool = False
    """Whether a sample of any file was read."""


@contextmanager
def sampling() -> Iterator[Sampling]:
    """In the body, read samples of large files."""
    _wanted.append(Sampling())
    try:
        yield _wanted[-1]
    finally:
        _wanted.pop()


def is_sampled(path: Path) -> bool:
    """Whether only a sample of a file is read now."""
    return bool(_wanted) and path.stat().st_size >= SAMPLED


def warn_of_sample(path: Path, rows: int, total: int) -> None:
    """Report that a sample was read."""
    _wanted[-1].is_used = True
    notice(
        str(path),
        f"estimated from {rows:,} of about {total:,} rows, spread evenly over the file; a run checks all rows",
    )


@dataclass(frozen=True)
class FileLines:
    """Some lines of a file, with their line ends, including the first line."""

    lines: list[bytes]
    numbers: Sequence[int]
    """Numbers of the lines in the file."""
    total: int
    """Number of lines in the file."""

    def rows(self, sampled: int) -> int:
        """Return the estimated number of rows in the file, given the number in these lines."""
        return round(sampled * self.total / max(len(self.lines), 1))


def lines_of(path: Path, *, are_quoted: bool) -> FileLines:
    """Return a sample of lines of a file, beginning at record boundaries.

    Args:
        path: the file.
        are_quoted: whether line ends inside quotes are part of a record.
    """
    with open_bytes(path) as stream:
        size = sum(map(len, _parts(stream))) if is_compressed(path) else path.stat().st_size
    taken, numbers = list[bytes](), array("q")
    with open_bytes(path) as stream:
        place = _Place(stream, are_quoted)
        for number in range(POSITIONS):
            place.go_to(number * size // POSITIONS)
            begin = len(taken)
            while len(taken) < begin + ROWS // POSITIONS or place.is_inside:
                line = place.next_line()
                if not line:
                    break
                taken.append(line)
                numbers.append(place.line)
        place.go_to(size)
    return FileLines(taken, numbers, place.line)


def _parts(stream: IO[bytes]) -> Iterator[bytes]:
    while part := stream.read(BYTES_AT_ONCE):
        yield part


class _Place:
    """The reading position in a file.

    Args:
        stream: the file's stream, at its start.
        are_quoted: as for `lines_of`.
    """

    def __init__(self, stream: IO[bytes], are_quoted: bool) -> None:
        self.line = 0
        """Number of lines read."""
        self._stream, self._are_quoted, self._offset, self._quotes = stream, are_quoted, 0, 0

    @property
    def is_inside(self) -> bool:
        """Whether a record continues on the next line."""
        return self._are_quoted and self._quotes % 2 == 1

    def _read(self, part: bytes) -> bytes:
        self._offset += len(part)
        self.line += part.count(b"\n")
        self._quotes += part.count(b'"')
        return part

    def next_line(self) -> bytes:
        """Return the next line; empty at the end."""
        line = self._read(self._stream.readline())
        self.line += bool(line) and not line.endswith(b"\n")
        return line

    def go_to(self, offset: int) -> None:
        """Skip to the first record that begins at `offset` or later."""
        if offset <= self._offset:
            return
        while self._offset < offset and self._read(self._stream.read(min(BYTES_AT_ONCE, offset - self._offset))):
            pass
        self.next_line()
        while self.is_inside and self.next_line():
            pass


def parquet_of(file: "pyarrow.parquet.ParquetFile") -> tuple[pa.Table, list[int]]:
    """Return rows of a Parquet file with their numbers: the first of each row group, or of parts of a single group."""
    groups, first = [], 0
    for number in range(file.num_row_groups):
        groups.append((number, first, file.metadata.row_group(number).num_rows))
        first += groups[-1][2]
    step = -(-len(groups) // POSITIONS)
    chosen, batches, rows = groups[::step], list[pa.RecordBatch](), list[int]()
    for number, begin, count in chosen:
        per_group = max(1, POSITIONS // len(chosen))
        at_once = max(1, -(-count // per_group))
        take = max(1, ROWS // (per_group * len(chosen)))
        for batch in file.iter_batches(at_once, row_groups=[number]):
            batches.append(batch.slice(0, take))
            rows += range(begin, begin + len(batches[-1]))
            begin += len(batch)
    return pa.Table.from_batches(batches, file.schema_arrow), rows
