"""Tables that are written to a file while they are read, and memory-mapped: their rows are on disk, not in memory."""

import itertools
import mmap
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tinydistilbert.storage import disk, scratch
from tinydistilbert.tasks.columns import VALUES_AT_ONCE

LARGE = 8 * 2**20
"""File size in bytes from which rows are not kept in memory."""


def is_large(path: Path) -> bool:
    """Whether the rows of a file are memory-mapped."""
    return path.stat().st_size >= LARGE


def are_many(table: pa.Table) -> bool:
    """Whether the rows of a table are kept as Arrow values: Python values take several times the memory."""
    return bool(table.nbytes >= LARGE)


def collected(schema: pa.Schema, batches: Iterable[pa.RecordBatch], *, on_disk: bool | None) -> pa.Table:
    """Return the table of all batches; each is written, or kept, before the next one is requested.

    Args:
        schema: the schema of each batch.
        batches: the rows of the table.
        on_disk: whether they are written; None = if together they reach `LARGE`.

    Raises:
        DiskError: the disk is full or failing.
    """
    if on_disk is None:
        each, first, size = iter(batches), list[pa.RecordBatch](), 0
        while size < LARGE and (batch := next(each, None)) is not None:
            first.append(batch)
            size += batch.nbytes
        batches, on_disk = itertools.chain(first, each), size >= LARGE
    if not on_disk:
        return pa.Table.from_batches(batches, schema)
    with scratch.nameless() as stream, pa.ipc.new_file(stream, schema) as writer:
        for batch in batches:
            with disk.disk_errors(scratch.folder()):
                writer.write_batch(batch)
        with disk.disk_errors(scratch.folder()):
            writer.close()
            stream.flush()
        return mapped(stream)


def mapped_objects(
    objects: Iterator[dict[str, Any]], columns_of: Callable[[Sequence[dict[str, Any]], int], pa.Table]
) -> pa.Table | None:
    """Return the table of objects whose columns are known only after the last; None if a column mixes types.

    Args:
        objects: the rows.
        columns_of: makes the columns of consecutive rows, given the rows and the number of the first.
    """
    parts = _in_parts(objects, columns_of)
    tables: list[pa.Table] = []
    schema = pa.schema([])
    try:
        waiting = next(parts, None)
        while waiting is not None:
            schema = pa.unify_schemas([schema, waiting.schema], promote_options="permissive")

            def of_one_schema(schema: pa.Schema = schema) -> Iterator[pa.RecordBatch]:
                nonlocal waiting
                while waiting is not None and (
                    schema == pa.unify_schemas([schema, waiting.schema], promote_options="permissive")
                ):
                    yield from _cast(waiting, schema).to_batches()
                    waiting = next(parts, None)

            tables.append(collected(schema, of_one_schema(), on_disk=True))
        if len(tables) < 2:
            return tables[0] if tables else None
        batches = (batch for table in tables for batch in table.to_batches())
        same = (_cast(pa.Table.from_batches([batch]), schema) for batch in batches)
        return collected(schema, itertools.chain.from_iterable(part.to_batches() for part in same), on_disk=True)
    except pa.ArrowException:
        return None


def _in_parts(
    objects: Iterator[dict[str, Any]], columns_of: Callable[[Sequence[dict[str, Any]], int], pa.Table]
) -> Iterator[pa.Table]:
    first = 0
    while records := list(itertools.islice(objects, VALUES_AT_ONCE)):
        yield columns_of(records, first)
        first += len(records)


def _cast(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns of a table in the types of a schema; missing columns are null."""
    columns = [
        table[field.name].cast(field.type) if field.name in table.column_names else pa.nulls(len(table), field.type)
        for field in schema
    ]
    return pa.table(columns, schema=schema)


def mapped(stream: IO[bytes]) -> pa.Table:
    """Return the table in an Arrow file; its pages are read on access, even after the file is closed."""
    content = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    return pa.ipc.open_file(pa.BufferReader(pa.py_buffer(content))).read_all()


def filtered(table: pa.Table, rows: NDArray[np.int64]) -> pa.Table:
    """Return some rows of a table, in order."""

    def parts() -> Iterator[pa.RecordBatch]:
        begin = 0
        for batch in table.to_batches():
            first, last = rows.searchsorted([begin, begin + len(batch)])
            yield batch.take(pa.array(rows[first:last] - begin))
            begin += len(batch)

    return collected(table.schema, parts(), on_disk=are_many(table))
