"""The rows of a table, each with its location, and how errors show its values."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.tasks.columns import VALUES_AT_ONCE, Column

LONGEST_SHOWN = 120
"""Maximum characters of a file's value that an error shows."""


@dataclass(frozen=True)
class Rows:
    """Rows of a file or a hub data set, with the location of each for errors."""

    table: pa.Table
    where: str
    """The file or data set, for errors about all of it."""
    location: Callable[[int], str]
    """Location of a row, counted from 0: `file:line`, or `file, row 7` if there are no lines."""
    sampled_from: int = 0
    """Estimated number of all rows, if these are a sample; 0 = these are all."""

    def values(self, column: str) -> Sequence[Any]:
        """Return the values of a column; for many rows, only some are made at a time.

        Raises:
            UserError: Python cannot represent a date or a number.
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
        """Return the location of a value, for errors."""
        return f"{self.location(row)}, column {column}"


def _has_values(kind: pa.DataType) -> bool:
    """Whether Python can represent every value of a type."""
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


def table_rows(table: pa.Table, where: str) -> Rows:
    """Return the `Rows` of a table without line numbers."""
    return Rows(table, where, lambda row: f"{where}, row {row}")


def with_lines(table: pa.Table, path: Path, lines: Sequence[int]) -> Rows:
    """Return the `Rows` of a table whose rows begin in these lines of a file."""
    at = np.asarray(lines, dtype=np.int64)  # shares the memory of an `array`
    return Rows(table, str(path), lambda row: f"{path}:{at[row]}")


def refuse_twins(names: list[str], where: str) -> None:
    """Check that no two columns have the same name.

    Raises:
        UserError: two columns have the same name.
    """
    twins = [name for number, name in enumerate(names) if name in names[:number]]
    if twins:
        fix = "rename or drop one of them"
        raise UserError(where, expected="columns of different names", found=f"{twins[0]!r} twice", fix=fix)


def shown(value: Any) -> str:
    """Return a value from a file as errors show it."""
    return "nothing" if value is None else shortened(repr(value))


def shortened(text: str) -> str:
    """Return the beginning of a text from a file, as long as errors show it."""
    return text if len(text) <= LONGEST_SHOWN else text[:LONGEST_SHOWN].rstrip() + " …"
