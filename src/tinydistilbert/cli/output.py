"""Output of commands: tables or JSON on standard output, messages about the work separately."""

import dataclasses
import functools
import json
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from tinydistilbert.report.table import Table
    from tinydistilbert.report.use import BestFacts

PIPE_WIDTH = 150
"""Width for files and pipes, which have no limit; the widest tables need about this many columns."""


def print_tables(tables: "Iterable[Table]") -> None:
    """Print tables as wide as the terminal."""
    from rich.console import Console

    from tinydistilbert.report.table import to_rich

    console = Console() if sys.stdout.isatty() else Console(width=PIPE_WIDTH)
    for table in tables:
        console.print(to_rich(table))


def print_model(facts: "BestFacts", page: "Path | None") -> None:
    """Print what a run was made for: how good its model is, where it and the page are, and how to use it."""
    print(facts.sentence)
    print(f"The model: {facts.model}")
    print(f"The page:  {page}")
    print(f"Ask it:    {facts.command}")


def print_run(
    output: "Path", tables: "Sequence[Table]", results_file: "Path", page: "Path | None", failures: Sequence[str], *,
    as_json: bool, compressed: Sequence[str] = (), missed: str = "",
) -> None:  # fmt: skip
    """Print what a run or an ablation measured, and its page; of compressed tasks, also the model of the first.

    Args:
        output: the folder of the run or the ablation.
        tables: the tables to print.
        results_file: the file of its measurements.
        page: its page, if it has one.
        failures: the failures that did not stop it.
        as_json: whether to print one JSON document, with the models of all compressed tasks.
        compressed: the tasks with a compressed model.
        missed: the targets that were not reached, in words.
    """
    if not as_json:
        print_tables(tables)
        if compressed:
            from tinydistilbert.report.use import facts_of_best

            print_model(facts_of_best(output, compressed[0]), page)
        elif page:
            print(f"The page: {page}")
        return
    from tinydistilbert import results
    from tinydistilbert.run_folder import RunFolder

    measurements = results.read(results_file) if results_file.is_file() else []
    print_json(
        {
            "run": str(output),
            "page": str(page) if page else None,
            "models": {task: str(RunFolder(output).compressed(task).best) for task in compressed},
            "tables": [table_as_json(table) for table in tables],
            "measurements": [dataclasses.asdict(measurement) for measurement in measurements],
            "failures": list(failures),
            "missed": missed,
        }
    )


def print_entries(entries: Mapping[str, str]) -> None:
    """Print names and what they stand for: wrapped to the width of a terminal, one line per entry in a pipe."""
    width = max(map(len, entries), default=0) + 1
    for name, text in entries.items():
        line = f"{name:{width}}{text}"
        if sys.stdout.isatty():
            columns = shutil.get_terminal_size().columns
            line = textwrap.fill(line, columns, subsequent_indent=" " * width, break_on_hyphens=False)
        print(line)


def print_json(content: Any) -> None:
    """Print one JSON document, with numbers in full precision."""
    print(json.dumps(content, ensure_ascii=False, allow_nan=False, indent=2))


def table_as_json(table: "Table") -> dict[str, Any]:
    """Return the texts of a table, cell by cell."""
    rows = [{"kind": row.kind, "cells": [cell.text + cell.marks for cell in row.cells]} for row in table.rows]
    return {**dataclasses.asdict(table), "rows": rows}


def log_to(*, as_json: bool, quiet: bool) -> Callable[[str], None]:
    """Return the function that prints a message: to standard output, with JSON to standard error, or nowhere."""
    if quiet:
        return lambda line: None
    return functools.partial(print, flush=True, file=sys.stderr if as_json else None)
