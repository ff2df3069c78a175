"""A study of several trainings with `--jobs`, and by hand: commands started at once that each use all cores."""

import csv
import os
import resource
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

TRAININGS = 4
"""Seeds of one task."""
ROWS = 1_000
"""That each reads once."""
BY_HAND = "commands at once, each with all cores"
HEAD = ("trainings", "by", "seconds", "processor seconds", "trainings an hour")


@dataclass(frozen=True)
class StudyCost:
    """Of all trainings, with the processes that they start."""

    seconds: float
    processor_seconds: float


def measure_studies(scratch: Path, words: Sequence[str], model: str, jobs: Sequence[int]) -> dict[str, StudyCost]:
    """By each number of jobs, and by as many commands as the largest: what `TRAININGS` fine-tunings take.

    Args:
        scratch: a folder for the rows and the runs.
        words: of the rows.
        model: the encoder that is fine-tuned.
        jobs: numbers of jobs; none = nothing is measured.
    """
    if not jobs:
        return {}
    for name, first, count in (("rows", 0, ROWS), ("scored", ROWS, 50)):
        _write(scratch / f"{name}.csv", words, first, count)
    costs = {
        f"--jobs {number}": _cost([_command(scratch, model, f"jobs-{number}", range(TRAININGS), ("--jobs", number))])
        for number in jobs
    }
    if (most := max(jobs)) > 1:
        seeds = [range(TRAININGS)[number::most] for number in range(most)]
        commands = [_command(scratch, model, f"hand-{n}", of_one, ()) for n, of_one in enumerate(seeds)]
        costs[f"{most} {BY_HAND}"] = _cost(commands)
    return costs


def cells(way: str, cost: StudyCost) -> list[str]:
    """A row of the table."""
    hourly = TRAININGS * 3600 / cost.seconds
    return [f"{TRAININGS}", way, f"{cost.seconds:.0f}", f"{cost.processor_seconds:.0f}", f"{hourly:.0f}"]


def _write(file: Path, words: Sequence[str], first: int, count: int) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for row in range(first, first + count):
            begin = row * 7 % max(len(words) - 40, 1)
            writer.writerow([f"{' '.join(words[begin : begin + 8 + row % 30])} {row}", ("good", "bad")[row % 2]])


def _command(scratch: Path, model: str, name: str, seeds: Sequence[int], more: Sequence[object]) -> list[str]:
    start = [sys.executable, "-m", "tinydistilbert", "finetune", "--model", model, "--data", scratch / "rows.csv"]
    start += ["--validation", scratch / "scored.csv", "--output", scratch / name, "--quiet", "--seeds", *seeds]
    start += ["--epochs", 1, "--finetune.min_steps", 0, "--finetune.baselines", "false"]
    return [*map(str, (*start, *more))]


def _cost(commands: Sequence[Sequence[str]]) -> StudyCost:
    """Of commands that are begun at once."""
    before, begun = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    # The threads of each are its own to choose, as in a terminal.
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    running = [subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) for command in commands]
    codes = [process.wait() for process in running]
    if any(codes):
        raise SystemExit(f"failed: {' '.join(commands[0])}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return StudyCost(time.perf_counter() - begun, used)
