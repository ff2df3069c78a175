"""What a run would do, and about what it would cost: `--dry-run`, as plain text."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tinydistilbert import notices
from tinydistilbert.dry_run import machine as costs
from tinydistilbert.dry_run.basis import Basis, Line, basis_of
from tinydistilbert.dry_run.stages import ESTIMATES, check_inputs
from tinydistilbert.errors import UserError
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.progress import duration
from tinydistilbert.storage.disk import existing, free_bytes


def plan(run: RunContext) -> str:
    """What the run would do, as a table in plain text; nothing is written, and what is finished counts as done.

    Raises:
        UserError: an input is wrong or the folder belongs to something else: the same as of the run.
    """
    basis = basis_of(run)
    lines = _lines(basis)
    notes = dict.fromkeys(f"warning: {note}" for line in lines for note in line.notes)
    return "\n".join([*_table(lines), "", *notes, *_totals(lines, basis.machine, run.folder.path)])


def plan_as_json(run: RunContext) -> dict[str, Any]:
    """What the run would do, as data: a line of the plan each, and the totals; sizes in bytes.

    Raises:
        UserError: as `plan`.
    """
    basis = basis_of(run)
    lines = _lines(basis)
    return {
        "stages": [dataclasses.asdict(line) for line in lines],
        "seconds": sum(line.seconds or 0 for line in lines),
        "some_seconds_unknown": any(line.seconds is None for line in lines),
        "disk": sum(line.disk for line in lines),
        "temporary_disk": max((line.temporary_disk for line in lines), default=0.0),
        "disk_free": free_bytes(run.folder.path),
        "memory": costs.PROCESS_BYTES + max((line.memory for line in lines), default=0.0),
        "device": basis.machine.device,
        "threads": basis.machine.threads,
        "notices": list(notices.all_notices()),
    }


def refuse_full_disk(run: RunContext) -> float:
    """Compare what the run will write with what is free, before it begins; teacher and text stay loaded for the run.

    Returns:
        The seconds that it will take, as far as they are known.

    Raises:
        UserError: it does not fit, or an input is wrong: the same as of the run.
    """
    lines = _lines(basis_of(run))
    needed, free = _needed(lines), free_bytes(run.folder.path)
    if needed > free:
        problem = f"the run writes about {size_in_words(needed)}, and {size_in_words(free)} are free"
        fix = "free some, or give an --output on another disk; --dry-run shows what each stage writes"
        raise UserError(f"--output {run.folder.path}", problem=problem, fix=fix)
    return sum(line.seconds or 0.0 for line in lines)


def _lines(basis: Basis) -> list[Line]:
    """The lines of the plan, after what the run checks was checked."""
    basis.run.check_machine()
    if basis.run.is_begun():
        basis.run.inputs.check()
    else:
        check_inputs(basis)
    return [line for stage in basis.run.stages for line in ESTIMATES[stage](basis)]


def _needed(lines: Sequence[Line]) -> float:
    """Bytes that will be written, temporary ones included."""
    return sum(line.disk for line in lines) + max((line.temporary_disk for line in lines), default=0.0)


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


def _totals(lines: Sequence[Line], machine: costs.Machine, output: Path) -> list[str]:
    seconds = sum(line.seconds or 0 for line in lines)
    temporary = max(line.temporary_disk for line in lines)
    disk = sum(line.disk for line in lines)
    free, disk_of = free_bytes(output), existing(output)
    unknown = any(line.seconds is None for line in lines)
    checkpoints = f", and {size_in_words(temporary)} of checkpoints while training" if temporary else ""
    totals = [
        f"time left:   {'more than ' if unknown else 'about '}{duration(seconds)}",
        f"disk:        about {size_in_words(disk)}{checkpoints}; {size_in_words(free)} free at {disk_of}",
        f"peak memory: about {size_in_words(costs.PROCESS_BYTES + max(line.memory for line in lines))}",
    ]
    if _needed(lines) > free:
        totals.append(
            f"warning: {size_in_words(_needed(lines))} do not fit into the {size_in_words(free)} free at {disk_of}"
        )
    on = f"{machine.threads} threads" if machine.device == "cpu" else machine.device
    totals.append(
        f"Estimates, good to about 40 %: {costs.EFFICIENCY:.0%} of the {machine.operations / 1e9:,.0f} GFLOP/s that "
        f"multiplying matrices reached just now ({on}). Nothing was written."
    )
    return totals


def size_in_words(count: float) -> str:
    """Bytes in words, in powers of 1,000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"
