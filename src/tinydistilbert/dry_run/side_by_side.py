"""The estimate of task models that are made in parallel (`--jobs`): when each begins, and when the last one ends."""

import heapq
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tinydistilbert.dry_run.basis import Basis
from tinydistilbert.dry_run.tasks import scoring_seconds, soft_target_seconds, training_seconds
from tinydistilbert.pipeline.jobs import Job
from tinydistilbert.pipeline.parts import TaskPart, left_parts, task_parts
from tinydistilbert.workers.jobs import shares
from tinydistilbert.workers.run import visible_gpus

SECONDS_A_PROCESS = 5.0
"""Processor seconds of each job's start: it imports torch and transformers, and opens the run."""
SIDE_BY_SIDE = ("finetune", "evaluate")
"""The stages whose work the jobs do."""


@dataclass(frozen=True)
class SideBySide:
    """How `--jobs` runs the stages of task models."""

    parts: int
    at_once: int
    threads: int
    """Threads of each job."""
    seconds: float | None
    """Time until the last one is done; None = unknown."""


def side_by_side(basis: Basis) -> SideBySide | None:
    """Return the jobs left of a run on this machine; None = one after the other, or on Ray's unknown cluster."""
    run = basis.run
    if run.workers is None or run.workers.by_ray or "finetune" not in run.stages:
        return None
    left = left_parts(run, task_parts(run))
    if not left:
        return None
    at_once, threads = shares(run.workers, len(left), lambda _: None)
    if basis.machine.device == "cpu":
        slower = basis.machine.threads / threads
    else:
        slower = at_once / min(at_once, max(1, len(visible_gpus())))
    alone = {name: _seconds(basis, part) for name, part in left.items()}
    known = {name: slower * seconds + SECONDS_A_PROCESS for name, seconds in alone.items() if seconds is not None}
    seconds = None
    if len(known) == len(left):
        seconds = end_of_last(known, {name: part.needs for name, part in left.items()}, at_once)
    return SideBySide(len(left), at_once, threads, seconds)


def _seconds(basis: Basis, part: TaskPart) -> float | None:
    """Return the time of one part by itself with all threads; None = unknown."""
    if part.job is None:
        task = part.name.removesuffix("/targets")
        size = basis.task_sizes.get(task)
        return None if size is None else soft_target_seconds(basis, task, size)
    return _of_job(basis, part.job)


def _of_job(basis: Basis, job: Job) -> float | None:
    times = [training_seconds(basis, job)]
    if "evaluate" in basis.run.stages:
        times.append(scoring_seconds(basis, job))
    known = [seconds for seconds in times if seconds is not None]
    return sum(known) if len(known) == len(times) else None


def end_of_last(seconds: Mapping[str, float], needs: Mapping[str, Sequence[str]], at_once: int) -> float:
    """Return when the last part ends, if each begins, in order, once a place is free and what it needs is done.

    Args:
        seconds: seconds of each part; parts that others need and that are missing here are done.
        needs: the parts that come before each.
        at_once: number of parts that run at a time.
    """
    waiting, at_work, now = list(seconds), list[tuple[float, str]](), 0.0
    while waiting or at_work:
        undone = {*waiting, *(name for _, name in at_work)}
        ready = [name for name in waiting if undone.isdisjoint(needs[name])][: at_once - len(at_work)]
        for name in ready:
            waiting.remove(name)
            heapq.heappush(at_work, (now + seconds[name], name))
        assert at_work, "a part needs itself"
        now, _ = heapq.heappop(at_work)
    return now
