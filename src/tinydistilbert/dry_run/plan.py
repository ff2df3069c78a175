"""What a run would do, and about what it would cost: `--dry-run`, as plain text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinydistilbert.dry_run import Line, Planner
from tinydistilbert.dry_run import machine as costs
from tinydistilbert.errors import UserError
from tinydistilbert.pipeline.run import Run
from tinydistilbert.progress import duration
from tinydistilbert.storage.disk import existing, free_bytes


def plan(run: Run) -> str:
    """What the run would do, as a table in plain text; nothing is written, and what is finished counts as done.

    Raises:
        UserError: an input is wrong or the folder belongs to something else: the same as of the run.
    """
    planner, lines = _planned(run)
    return "\n".join([*_table(lines), "", *_totals(lines, planner, run.folder.path)])


def plan_as_json(run: Run) -> dict[str, Any]:
    """What the run would do, as data: a line of the plan each, and the totals; sizes in bytes.

    Raises:
        UserError: as `plan`.
    """
    planner, lines = _planned(run)
    return {
        "stages": [dataclasses.asdict(line) for line in lines],
        "seconds": sum(line.seconds or 0 for line in lines),
        "some_seconds_unknown": any(line.seconds is None for line in lines),
        "disk": sum(line.disk for line in lines),
        "disk_for_a_while": max((line.passing for line in lines), default=0.0),
        "disk_free": free_bytes(run.folder.path),
        "memory": costs.PROCESS_BYTES + max((line.memory for line in lines), default=0.0),
        "device": planner.machine.device,
        "threads": planner.machine.threads,
    }


def refuse_full_disk(run: Run) -> None:
    """Compare what the run will write with what is free, before it begins; what was read for it, the run has read.

    Raises:
        UserError: it does not fit, or an input is wrong: the same as of the run.
    """
    _, lines = _planned(run)
    needed, free = _needed(lines), free_bytes(run.folder.path)
    if needed > free:
        expected, found = f"about {size_in_words(needed)} free for it", f"{size_in_words(free)}"
        fix = "free some, or give an --output on another disk; --dry-run tells what needs it"
        raise UserError(f"--output {run.folder.path}", expected=expected, found=found, fix=fix)


def _planned(run: Run) -> tuple[Planner, list[Line]]:
    """The lines of the plan, and what they were found by."""
    planner = Planner(run)
    if not run.is_begun():
        run.check_data_folder()
        planner.check_inputs()
    return planner, [line for stage in run.stages() for line in planner.lines(stage)]


def _needed(lines: Sequence[Line]) -> float:
    """Bytes that will be written to stay, and for a while."""
    return sum(line.disk for line in lines) + max((line.passing for line in lines), default=0.0)


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
    free, there = free_bytes(output), existing(output)
    unknown = any(line.seconds is None for line in lines)
    checkpoints = f", and {size_in_words(passing)} of checkpoints for a while" if passing else ""
    totals = [
        f"time left:   {'more than ' if unknown else 'about '}{duration(seconds)}",
        f"disk:        about {size_in_words(disk)}{checkpoints}; {size_in_words(free)} free at {there}",
        f"peak memory: about {size_in_words(costs.PROCESS_BYTES + max(line.memory for line in lines))}",
    ]
    if _needed(lines) > free:
        totals.append(
            f"warning: {size_in_words(_needed(lines))} do not fit into the {size_in_words(free)} free at {there}"
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
