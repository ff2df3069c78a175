"""What a run would do, and about what it would cost: `--dry-run`, as plain text."""

import shutil
from collections.abc import Sequence
from pathlib import Path

from tinydistilbert import costs
from tinydistilbert.estimates import Line, Planner
from tinydistilbert.pipeline import Run
from tinydistilbert.progress import duration
from tinydistilbert.recipe import Recipe


def plan(recipe: Recipe, output: Path, *, until: str) -> str:
    """What `run` with the same arguments would do, as a table in plain text; nothing is written.

    Args:
        recipe: what would be done.
        output: the run folder; what is finished in it counts as done.
        until: the last stage, a name in `STAGES`.

    Raises:
        UserError: an input is wrong or the folder belongs to something else: the same as of the run.
    """
    run = Run(recipe, output, until=until, tell=lambda _: None)
    planner = Planner(run)
    if not run.is_begun():
        run.check_data_folder()
        planner.check_inputs()
    lines = [line for stage in run.stages() for line in planner.lines(stage)]
    return "\n".join([*_table(lines), "", *_totals(lines, planner, output)])


def _table(lines: Sequence[Line]) -> list[str]:
    cells = [("stage", "state", "what", "time", "disk")]
    for line in lines:
        seconds = "unknown" if line.seconds is None else duration(line.seconds) if line.seconds else "-"
        cells.append((line.stage, line.state, line.what, seconds, size_in_words(line.disk) if line.disk else "-"))
    widths = [max(len(row[column]) for row in cells) for column in range(5)]
    return [
        "  ".join(
            text.ljust(width) if column < 3 else text.rjust(width)
            for column, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in cells
    ]


def _totals(lines: Sequence[Line], planner: Planner, output: Path) -> list[str]:
    seconds = sum(line.seconds or 0 for line in lines)
    passing = max(line.passing for line in lines)
    disk = sum(line.disk for line in lines)
    there = next(folder for folder in (output.absolute(), *output.absolute().parents) if folder.exists())
    free = shutil.disk_usage(there).free
    unknown = any(line.seconds is None for line in lines)
    checkpoints = f", and {size_in_words(passing)} of checkpoints for a while" if passing else ""
    totals = [
        f"time left:   {'more than ' if unknown else 'about '}{duration(seconds)}",
        f"disk:        about {size_in_words(disk)}{checkpoints}; {size_in_words(free)} free at {there}",
        f"peak memory: about {size_in_words(costs.PROCESS_BYTES + max(line.memory for line in lines))}",
    ]
    if disk + passing > free:
        totals.append(
            f"warning: {size_in_words(disk + passing)} do not fit into the {size_in_words(free)} free at {there}"
        )
    machine = planner.machine
    on = f"{machine.threads} threads" if machine.device == "cpu" else machine.device
    totals.append(
        f"Estimates, good to about 40 %: {costs.EFFICIENCY:.0%} of the {machine.operations / 1e9:,.0f} GFLOP/s that "
        f"multiplying matrices reached just now ({on}). Nothing was written."
    )
    return totals


def size_in_words(count: float) -> str:
    """Bytes as people say them, in powers of 1,000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"
