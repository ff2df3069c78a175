"""The cores that this process may use, how much of them other processes use now, and the processor time of a call."""

import os
import time
from collections.abc import Callable
from pathlib import Path

CGROUPS, OWN_CGROUPS = Path("/sys/fs/cgroup"), Path("/proc/self/cgroup")
LOOK_SECONDS = 0.2
AT_ONCE = "TINYDISTILBERT_AT_ONCE"
"""Variable that `--jobs` sets in its processes: how many of them use the memory of their device at a time."""


def own_cores() -> tuple[int, ...]:
    """Return the numbers of the cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return tuple(sorted(os.sched_getaffinity(0)))
    return tuple(range(os.cpu_count() or 1))


def usable_cores() -> int:
    """Return how many cores this process may use: those it may run on, limited by its control groups' quotas."""
    return max(1, min([len(own_cores()), *map(int, _quotas())]))


def _quotas() -> list[float]:
    """Return the limits, in cores, of the control groups around this process that have one."""
    return [quota for folder in group_folders("cpu") for quota in _quota_of(folder)]


def group_folders(controller: str) -> list[Path]:
    """Return the folders of the control groups around this process for `cpu` or `memory`, the innermost first."""
    try:
        groups = [line.split(":", 2) for line in OWN_CGROUPS.read_text().splitlines()]
    except OSError:
        groups = []
    folders = []
    for _, controllers, path in (group for group in groups if len(group) == 3):
        if controllers and controller not in controllers.split(","):
            continue
        root = CGROUPS / controllers if controllers else CGROUPS
        folder = root / path.lstrip("/")  # may not exist inside a container, where only the root does
        for level in (folder, *folder.parents):
            folders.append(level)
            if level == root:
                break
    return [*folders, CGROUPS]


def _quota_of(folder: Path) -> list[float]:
    """Return the limit of one control group, of version 2 or 1; an empty list if it has none."""
    for files in (("cpu.max",), ("cpu.cfs_quota_us", "cpu.cfs_period_us")):
        try:
            quota, period = " ".join((folder / file).read_text() for file in files).split()
            return [int(quota) / int(period)] if int(quota) > 0 else []
        except (OSError, ValueError, ZeroDivisionError):  # no such file, or `max`
            continue
    return []


def busy_elsewhere() -> float:
    """Return how many of the cores that this process may run on are used by other processes now."""
    before, before_here = _busy_seconds(), time.process_time()
    begin = time.perf_counter()
    time.sleep(LOOK_SECONDS)
    passed = time.perf_counter() - begin
    busy = _busy_seconds() - before - (time.process_time() - before_here)
    return min(max(0.0, busy / passed), float(len(own_cores())))


def _busy_seconds() -> float:
    """Return the busy seconds of these cores since the system started; of all cores if they are not listed singly."""
    import psutil  # missing in the small installation, where `doctor` uses this module

    times, cores = psutil.cpu_times(percpu=True), own_cores()
    chosen = [times[core] for core in cores if core < len(times)] or times
    not_busy = ("idle", "iowait", "guest")  # `user` includes a guest's time
    return float(sum(sum(each) - sum(getattr(each, name, 0.0) for name in not_busy) for each in chosen))


def processor_seconds(call: Callable[[], object], clock: Callable[[], float] = time.process_time) -> float:
    """Return the processor seconds of a call, which other processes hardly change.

    Where the clock has not moved meanwhile, they are the seconds that passed: on Windows it moves 64 times a second,
    under some profilers 250 times, and rates are divided by them.

    Args:
        call: what is timed, once.
        clock: `time.process_time` counts the time of all threads; `time.thread_time` counts that of the calling one.
    """
    begin, begin_used = time.perf_counter(), clock()
    call()
    used = clock() - begin_used
    return used or time.perf_counter() - begin
