"""Timing on one pinned core, with warm-up, in rounds that take turns; and statistics of the times."""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import psutil
import torch

from tinydistilbert.progress import duration, say
from tinydistilbert.training.cores import processor_seconds

WARM_UP = 2
"""Untimed passes before each slice, because the caches still hold the previous model."""
NOISE_LIMIT = 1.10
"""A larger ratio between the slowest and the fastest round is reported as noise of the machine."""
RESAMPLES = 1000
"""Resamples of the bootstrap of an interval."""

Rounds = Sequence[Sequence[float]]
"""Seconds of each pair, by round."""
InputShapes = tuple[tuple[int, ...], ...]
"""The shape of each of the arrays of an input."""


@dataclass(frozen=True)
class Timed:
    """Something to time on pairs."""

    prepare: Callable[[int], Any]
    """Makes the inputs of a pair by its index, before the clock starts."""
    answer: Callable[[Any], object]
    """The timed call, from those inputs to the logits."""


def wall_clock(answer: Callable[[Any], object], prepared: Any) -> float:
    """Return the seconds of one call."""
    start = time.perf_counter()
    answer(prepared)
    return time.perf_counter() - start


def core_clock(answer: Callable[[Any], object], prepared: Any) -> float:
    """Return the CPU seconds of one call, without the time of other programs, except for their effect on caches."""
    return processor_seconds(lambda: answer(prepared), time.thread_time)


CLOCKS = {"wall": wall_clock, "core": core_clock}
"""Clocks by their names in a recipe."""


def time_in_turns(
    timed: Mapping[str, Timed],
    rounds: Sequence[Sequence[int]],
    clock: Callable[[Callable[[Any], object], Any], float] = wall_clock,
    label: str = "",
) -> dict[str, list[list[float]]]:
    """Return the seconds of each pair, by row and round; each round times every row, and each row in turn goes first.

    Before a row is timed on inputs of a new size, it computes one of them untimed, because OpenVINO prepares its
    products for each new size, and keeps them.

    With a `label`, a line on standard error reports the progress after each round.
    """
    begun = time.monotonic()
    names = list(timed)
    seconds: dict[str, list[list[float]]] = {name: [] for name in names}
    sizes_met: dict[str, set[InputShapes]] = {name: set() for name in names}
    for number, indices in enumerate(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            row = timed[name]
            prepared = [row.prepare(index) for index in indices]
            for one in prepared:
                if isinstance(one, Mapping) and (size := _size(one)) not in sizes_met[name]:
                    sizes_met[name].add(size)
                    row.answer(one)
            for first in prepared[:WARM_UP]:
                row.answer(first)
            seconds[name].append([clock(row.answer, one) for one in prepared])
        if label:
            left = (time.monotonic() - begun) / (number + 1) * (len(rounds) - number - 1)
            say(f"{label}: round {number + 1} of {len(rounds)}, about {duration(left)} left")
    return seconds


def _size(inputs: Mapping[str, Any]) -> InputShapes:
    return tuple(tuple(array.shape) for array in inputs.values())


@contextmanager
def one_core() -> Iterator[None]:
    """Run the body with one torch thread, pinned to one core if the system can; both are restored afterwards."""
    threads, process = torch.get_num_threads(), psutil.Process()
    cores: list[int] = process.cpu_affinity() if hasattr(process, "cpu_affinity") else []  # macOS cannot pin
    try:
        torch.set_num_threads(1)
        if cores:
            process.cpu_affinity([max(cores)])
        yield
    finally:
        torch.set_num_threads(threads)
        if cores:
            process.cpu_affinity(cores)


def load_average() -> float | None:
    """Return the mean number of running or waiting programs in the last minute, including this one; None = unknown."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def summarize(rounds: Rounds, total: int) -> dict[str, Any]:
    """Return the statistics in a row of Table 3, from the seconds of each pair by round.

    `seconds_per_pass` is `total` times the mean, `interval` its 95 % interval, and `spread` the largest mean of a round
    divided by the smallest (1.0 = equal).
    """
    every = np.concatenate([np.asarray(part) for part in rounds])
    means = [float(np.mean(part)) for part in rounds]
    spread = max(means) / min(means)
    return {
        "seconds_per_pass": total * float(every.mean()),
        "interval": [total * bound for bound in mean_interval(rounds)],
        "p50_ms": 1000 * float(np.median(every)),
        "p90_ms": 1000 * float(np.quantile(every, 0.9)),
        "mean_ms": 1000 * float(every.mean()),
        "spread": spread,
        "noisy": spread > NOISE_LIMIT,
        "rounds": len(rounds),
        "estimated": len(every) < total,
    }


def mean_interval(rounds: Rounds) -> tuple[float, float]:
    """Return the 95 % interval of the mean, in seconds: rounds are drawn with replacement, and then pairs in each.

    It is the two-stage bootstrap (Davison and Hinkley 1997, section 3.8). Drawing only pairs would ignore that a
    machine is slower in some minutes, which affects all pairs of a round; five rounds alone are too few values.
    """
    generator = np.random.default_rng(0)
    sizes = np.array([len(part) for part in rounds])
    seconds = np.zeros((len(rounds), sizes.max()))
    for row, part in zip(seconds, rounds, strict=True):
        row[: len(part)] = part
    means = np.zeros((RESAMPLES, len(rounds)))
    for column in range(len(rounds)):
        drawn = generator.integers(len(rounds), size=(RESAMPLES, 1))
        resampled = (generator.random((RESAMPLES, sizes.max())) * sizes[drawn]).astype(np.int64)
        means[:, column] = seconds[drawn, resampled].mean(axis=1)
    low, high = np.quantile(means.mean(axis=1), (0.025, 0.975))
    return float(low), float(high)
