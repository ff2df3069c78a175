"""Data in a program's memory (data frames, lists of dictionaries, data sets) as files that a recipe can name."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import pyarrow as pa
import pyarrow.parquet

from tinydistilbert.errors import UserError
from tinydistilbert.storage import atomic, disk
from tinydistilbert.tasks.json_tables import named_pieces
from tinydistilbert.tasks.rows import shown
from tinydistilbert.tasks.splits import with_class_names

Data: TypeAlias = Any
"""A pandas or polars data frame, a list of dictionaries, a `datasets.Dataset`, a pyarrow table, a path, a hub name."""
FIX_MIXED = "write the column the same way in every row, such as df[column] = df[column].astype(str)"


def as_given(data: Data, name: str, *, label: str | Sequence[str] = "") -> str | pa.Table:
    """Return a path or hub name as a text, anything else as a table.

    Args:
        data: see `Data`.
        name: name of the argument, for errors.
        label: the column of the label; the classes of a `datasets.Dataset` get their names. Not for several columns.

    Raises:
        UserError: it is none of these, has no rows, or a column has values of several types.
    """
    if isinstance(data, str | Path):
        return str(data)
    table = _table(data, name, label)
    if not table.num_rows:
        raise UserError(name, expected="at least one row", found="none", fix="give the examples")
    return table


def _table(data: Data, name: str, label: str | Sequence[str]) -> pa.Table:
    if isinstance(data, pa.Table):
        return data
    kind = f"{type(data).__module__.partition('.')[0]}.{type(data).__name__}"
    if kind == "pandas.DataFrame":
        twins = [column for column in data.columns if (data.columns == column).sum() > 1]
        if twins:
            expected, found = "columns of different names", f"{twins[0]!r} twice"
            raise UserError(name, expected=expected, found=found, fix="rename one")
        return pa.table({str(column): _column(data[column], f"{name}[{column!r}]") for column in data.columns})
    if kind == "datasets.Dataset":
        return with_class_names(data, label if isinstance(label, str) else "")
    if kind == "polars.DataFrame":
        return data.to_arrow()
    is_rows = isinstance(data, Sequence) and all(isinstance(row, Mapping) for row in data)
    if not is_rows:
        expected = "a data frame, a list of dictionaries, a datasets.Dataset, a path or a hub name"
        fix = "give one split" if kind == "datasets.DatasetDict" else "convert it"
        raise UserError(name, expected=expected, found=kind.removeprefix("builtins."), fix=fix)
    columns = dict.fromkeys(key for row in data for key in row)
    return pa.table({str(key): _column([row.get(key) for row in data], f"{name}, column {key!r}") for key in columns})


def _column(values: Any, where: str) -> pa.Array:
    """Return a column of one type, with missing values as null.

    Raises:
        UserError: values of several types.
    """
    kinds: dict[type, Any] = {}
    listed = values.tolist() if hasattr(values, "tolist") else values
    if any(isinstance(value, set | frozenset) for value in listed):
        # The order in a set differs from process to process.
        values = listed = [sorted(each, key=str) if isinstance(each, set | frozenset) else each for each in listed]
    for value in listed:
        if value is not None and not (isinstance(value, float) and value != value):
            kinds.setdefault(type(value), value)
    if (pieces := named_pieces(listed)) is not None:
        values = pieces
    try:
        if bool in kinds and len(kinds) > 1:  # among floats, Arrow would turn true into 1
            raise TypeError
        return pa.array(values, from_pandas=True)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        found = ", ".join(f"{kind.__name__} ({shown(value)})" for kind, value in list(kinds.items())[:3])
        raise UserError(where, expected="values of one kind", found=found, fix=FIX_MIXED) from None


def fingerprint(given: str | pa.Table) -> str:
    """Return a hash of a table's content, so that other data gets another folder; for a path, the path itself."""
    if isinstance(given, str):
        return given
    digest = hashlib.sha256(str(given.schema).encode())
    for column in given.columns:
        digest.update(repr(column.to_pylist()).encode("utf-8", "surrogatepass"))
    return digest.hexdigest()


def written(given: str | pa.Table, path: Path) -> str:
    """Return the recipe's name for the data: the given one, or the file to which it is written.

    Raises:
        UserError: the file exists with other data.
    """
    if isinstance(given, str):
        return given
    if path.is_file():
        if repr(pa.parquet.read_table(path).to_pylist()) != repr(given.to_pylist()):  # a NaN is not equal to itself
            problem = f"the run in this folder was begun with other data ({path})"
            raise UserError(f"--output {path.parent.parent}", problem=problem, fix="give another --output")
        return str(path)
    disk.make_folder(path.parent)
    buffer = pa.BufferOutputStream()
    pa.parquet.write_table(given, buffer, compression="zstd")
    atomic.write_bytes(path, buffer.getvalue().to_pybytes())
    return str(path)
