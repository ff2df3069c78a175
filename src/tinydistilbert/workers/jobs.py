"""What `--jobs` asks for: how many parts of a study run in parallel, where, and with how many threads each."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted
from tinydistilbert.training.cores import usable_cores
from tinydistilbert.training.launcher import refuse_several

RAY: Literal["ray"] = "ray"
FLAG = "--jobs"


@dataclass(frozen=True)
class Jobs:
    """How the parts of a study are run; made by `jobs_of`."""

    at_once: int
    """Parts at a time on this machine; 0 if Ray decides."""
    threads: int | None = None
    """Threads of each part; None = its share of the cores."""
    device: str = "auto"
    """The recipe's device, which decides whether parts need a GPU."""

    @property
    def by_ray(self) -> bool:
        """Whether Ray runs them."""
        return self.at_once == 0


@dataclass(frozen=True)
class Part:
    """The part of a study that one process does."""

    name: str
    """Printed before each of its lines."""
    arguments: tuple[str, ...]
    """Arguments of the command line that does only this part."""


def jobs_of(jobs: int | str | None, threads: int | None, device: str = "auto") -> Jobs | None:
    """Return what `--jobs` asks for; None = one after the other, in this process.

    Raises:
        UserError: it is neither a number of at least 1 nor `ray`, or a launcher has started this process.
    """
    if jobs is None:
        return None
    if jobs != RAY and (isinstance(jobs, bool | str | float) or jobs < 1):
        raise UserError(FLAG, expected="a whole number >= 1, or ray", found=repr(jobs), fix="change the value")
    refuse_several(FLAG)
    return None if jobs == 1 else Jobs(0 if jobs == RAY else int(jobs), threads, device)


def sharing(at_once: int, gpus: int) -> int:
    """Return how many of the parts that run at a time use the memory of one device; without GPUs, all."""
    return math.ceil(at_once / max(1, gpus))


def shares(jobs: Jobs, parts: int, log: Callable[[str], None]) -> tuple[int, int]:
    """Return how many parts run at a time on this machine, and the threads of each; log both in one line."""
    cores, at_once = usable_cores(), max(1, min(jobs.at_once, parts))
    threads = jobs.threads or max(1, cores // at_once)
    asked = f"{jobs.at_once} asked for, {parts} left to do: " if at_once < jobs.at_once else ""
    line = f"jobs: {asked}{at_once} at a time, each with {counted(threads, 'thread')}; {counted(cores, 'core')}"
    log(line + (": too many, so each slows the others" if at_once * threads > cores else ""))
    return at_once, threads
