"""What a run would do, and about what it would cost, as plain text: `--dry-run`."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from tinydistilbert import notices
from tinydistilbert.dry_run import machine as costs
from tinydistilbert.dry_run.basis import Basis, Line, basis_of
from tinydistilbert.dry_run.side_by_side import SIDE_BY_SIDE, SideBySide, side_by_side
from tinydistilbert.dry_run.stages import ESTIMATES, check_inputs
from tinydistilbert.dry_run.tasks import BASELINES
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.keep import check_kept, unkept
from tinydistilbert.progress import duration, size_in_words
from tinydistilbert.storage import atomic
from tinydistilbert.storage.disk import existing, free_bytes
from tinydistilbert.tasks.samples import sampling


def plan(run: RunContext) -> str:
    """Return what the run would do as a table in plain text; nothing is written, and finished work counts as done.

    Raises:
        UserError: an input is wrong or the folder belongs to something else, as in the run itself.
    """
    basis, lines = _planned(run)
    notes = dict.fromkeys(f"warning: {note}" for line in lines for note in line.notes)
    return "\n".join([*_table(lines), "", *notes, *_totals(lines, basis)])


def plan_as_json(run: RunContext) -> dict[str, Any]:
    """Return what the run would do as data: each line of the plan, and the totals; sizes in bytes.

    Raises:
        UserError: as `plan`.
    """
    basis, lines = _planned(run)
    jobs = side_by_side(basis)
    return {
        "stages": [dataclasses.asdict(line) for line in lines],
        "seconds": _seconds(lines, jobs),
        "seconds_one_after_the_other": _seconds(lines, None),
        "jobs": dataclasses.asdict(jobs) if jobs else None,
        "some_seconds_unknown": any(line.seconds is None for line in lines),
        "disk": sum(line.disk for line in lines),
        "temporary_disk": max((line.temporary_disk for line in lines), default=0.0),
        "disk_of_models_not_kept": _unkept_bytes(basis),
        "disk_free": free_bytes(run.folder.path),
        "memory": _memory(lines, jobs),
        "device": basis.machine.device,
        "threads": basis.machine.threads,
        "precision": basis.machine.precision,
        "notices": list(notices.all_notices()),
    }


def _planned(run: RunContext) -> tuple[Basis, list[Line]]:
    """Return the lines of the plan, from samples of large files; if a sample has an error, from all of their rows.

    Raises:
        UserError: as `plan`.
    """
    basis = basis_of(run)
    if run.is_begun():  # its data are compared with what it was begun with
        return basis, _lines(basis)
    with sampling() as looked_at:
        try:
            return basis, _lines(basis)
        except UserError:
            if not looked_at.is_used:
                raise
    notices.notice("dry run", "something in a sample of the rows looks wrong, so all rows are read")
    basis = basis_of(run)
    return basis, _lines(basis)


def refuse_full_disk(run: RunContext) -> float:
    """Compare what the run will write with the free disk space before it begins; teacher and text stay loaded.

    Returns:
        The seconds that it will take, as far as they are known.

    Raises:
        UserError: it does not fit, or an input is wrong, as in the run itself.
    """
    basis = basis_of(run)
    lines = _lines(basis)
    needed, free = _needed(lines), free_bytes(run.folder.path)
    if needed > free:
        problem = f"the run writes about {size_in_words(needed)}, and {size_in_words(free)} are free"
        fix = "free some space, or give an --output on another disk; --dry-run shows what each stage writes"
        raise UserError(f"--output {run.folder.path}", problem=problem, fix=fix)
    return _seconds(lines, side_by_side(basis))


def _lines(basis: Basis) -> list[Line]:
    """Return the lines of the plan, after the checks of the run."""
    basis.run.check_machine()
    with basis.run.rows_at_hand():
        if basis.run.is_begun():
            basis.run.inputs.check()
            check_kept(basis.run)
        else:
            check_inputs(basis)
        return [line for stage in basis.run.stages for line in ESTIMATES[stage](basis)]


def _seconds(lines: Sequence[Line], jobs: SideBySide | None) -> float:
    """Return the time left, as far as it is known; with jobs, the task models take until the last of them is done."""
    if jobs is None or jobs.seconds is None:
        return sum(line.seconds or 0.0 for line in lines)
    return jobs.seconds + sum(line.seconds or 0.0 for line in lines if not _is_made_by_jobs(line))


def _is_made_by_jobs(line: Line) -> bool:
    """Whether the line belongs to the task models; cheap baselines are scored after the jobs."""
    return line.stage.startswith(SIDE_BY_SIDE) and line.stage != BASELINES


def _memory(lines: Sequence[Line], jobs: SideBySide | None) -> float:
    """Return the bytes at the peak; with jobs, of all processes together."""
    alone = costs.PROCESS_BYTES + max((line.memory for line in lines), default=0.0)
    if jobs is None:
        return alone
    of_job = costs.PROCESS_BYTES + max((line.memory for line in lines if _is_made_by_jobs(line)), default=0.0)
    return max(alone, costs.PROCESS_BYTES + jobs.at_once * of_job)


def _needed(lines: Sequence[Line]) -> float:
    """Return the bytes that will be written, temporary ones included."""
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


def _unkept_bytes(basis: Basis) -> float:
    """Return the bytes of models that the run deletes when nothing needs them any more."""
    run, total = basis.run, 0.0
    if run.recipe.finetune.keep == "all" or "evaluate" not in run.stages:
        return total
    # Looked up only if one is deleted: a run of a given model knows no pretrained ones.
    pretrained = {run.folder.control: lambda: basis.student, run.folder.teacher: lambda: basis.teacher}
    for model in unkept(run):
        if model.job or model.folder in pretrained:
            size = basis.task_model(model.job) if model.job else pretrained[model.folder]()
            is_gone = atomic.is_finished(model.folder) and atomic.is_released(model.folder)
            total += 0.0 if is_gone else 4 * size.parameters
    return total


def _totals(lines: Sequence[Line], basis: Basis) -> list[str]:
    machine, output, jobs = basis.machine, basis.run.folder.path, side_by_side(basis)
    seconds = _seconds(lines, jobs)
    temporary = max((line.temporary_disk for line in lines), default=0.0)
    disk = sum(line.disk for line in lines)
    free, disk_of = free_bytes(output), existing(output)
    unknown = any(line.seconds is None for line in lines)
    checkpoints = f", and {size_in_words(temporary)} of checkpoints while training" if temporary else ""
    unkept_bytes = _unkept_bytes(basis)
    gone = f", of which {size_in_words(unkept_bytes)} are deleted at the end (finetune.keep)" if unkept_bytes else ""
    totals = [
        f"time left:   {'more than ' if unknown else 'about '}{duration(seconds)}",
        f"disk:        about {size_in_words(disk)}{gone}{checkpoints}; {size_in_words(free)} free at {disk_of}",
        f"peak memory: about {size_in_words(_memory(lines, jobs))}",
    ]
    if jobs is not None:
        each = f"{jobs.at_once} of {jobs.parts} at a time, each with {counted(jobs.threads, 'thread')}"
        totals.append(f"jobs:        {each}; one at a time about {duration(_seconds(lines, None))}")
    elif basis.run.workers is not None and basis.run.workers.by_ray:
        totals.append(
            "jobs:        by Ray; its cluster is not asked, so the time is for one job at a time on this machine"
        )
    if _needed(lines) > free:
        totals.append(
            f"warning: {size_in_words(_needed(lines))} do not fit into the {size_in_words(free)} free at {disk_of}"
        )
    on = counted(machine.threads, "thread") if machine.device == "cpu" else machine.device
    probed = "a layer" if machine.device == "cpu" else "multiplying matrices"
    totals.append(
        f"Estimates, within about 40 %: training in {machine.precision} at {machine.training / 1e9:,.0f} GFLOP/s, "
        f"scoring in fp32 at {machine.scoring / 1e9:,.0f}, from what {probed} reached just now ({on}). "
        "Nothing was written."
    )
    return totals
