"""Comparison of two rows, two runs, or the rows of one run, example by example; without torch."""

from pathlib import Path

from tinydistilbert.api.outcomes import ComparisonResult, Run, TaskModel
from tinydistilbert.errors import UserError
from tinydistilbert.report import compare as comparisons
from tinydistilbert.report.compare import ComparedRun, parse_run
from tinydistilbert.report.comparison_page import PAGE_FILE, comparison_table, write_comparison
from tinydistilbert.report.scores import COMPRESSED
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage.disk import in_home


def compare(
    first: "str | Path | Run", second: "str | Path | Run | None" = None, *, output: str | Path | None = None,
    seed: int = 0, command: str = "",
) -> ComparisonResult:  # fmt: skip
    """Compare two rows, two runs, or the rows of one run, example by example, with their tests.

    Args:
        first: the result of another function, a run folder, or a row of one: `runs/a:student (D)`. Of the
            result of `shrink` or `compress` it is the compressed model, `runs/a:compressed`.
        second: what to compare with; differences are scores of the first minus those of the second. None = compare the
            rows of the first with one another.
        output: a folder for a page and for the examples that only one side gets right.
        seed: seed of the bootstrap's resamples.
        command: the command that the page shows for reproducing it.

    Raises:
        UserError: there is nothing to compare, or the two sides have different examples or labels.
    """
    folder = in_home(output) if output else None
    if folder is not None and folder.exists() and not folder.is_dir():
        raise UserError(f"--output {folder}", expected="a folder", found="a file", fix="give another --output")
    sides = [_side(side) for side in (first, second) if side is not None]
    comparison = comparisons.compare(*sides, seed=seed)
    if folder is None:
        return ComparisonResult(comparison_table(comparison), comparison.differences)
    table = write_comparison(folder, comparison, command=command)
    return ComparisonResult(table, comparison.differences, folder / PAGE_FILE)


def _side(side: "str | Path | Run") -> ComparedRun:
    if isinstance(side, TaskModel):
        is_compressed = side.model == RunFolder(side.folder).compressed(side.task).best
        return ComparedRun(side.folder, COMPRESSED if is_compressed else side.row)
    return ComparedRun(side.folder) if isinstance(side, Run) else parse_run(str(side))
