"""How many threads torch uses: what was asked for, else no more than the cores that the process may use."""

import collections
import os
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from tinydistilbert.errors import UserError
from tinydistilbert.training import cores, device


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that were set; torch would take three by itself."""
    calls: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    return calls


@pytest.mark.parametrize(("asked", "number", "used"), [(None, 2, 2), (None, 8, 3), (1, 8, 1), (5, 2, 5)])
def test_threads(
    asked: int | None, number: int, used: int, threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: number)
    device.use_threads(asked)
    assert threads == [used]


@pytest.mark.parametrize("asked", [-1, 2.0, "2"])
def test_what_is_no_number_of_threads_is_refused(asked: Any) -> None:
    with pytest.raises(UserError, match="--threads: expected a whole number >= 1"):
        device.use_threads(asked)


def groups(monkeypatch: pytest.MonkeyPatch, folder: Path, membership: str, files: dict[str, str]) -> None:
    """Make the control groups those in `folder`, and six cores those of this process."""
    (folder / "own").write_text(membership)
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content)
    monkeypatch.setattr(cores, "CGROUPS", folder)
    monkeypatch.setattr(cores, "OWN_CGROUPS", folder / "own")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)


@pytest.mark.parametrize(
    ("quota", "usable"),
    [("max 100000\n", 6), ("250000 100000\n", 2), ("50000 100000\n", 1), ("800000 100000\n", 6), ("", 6), ("a b", 6)],
)
def test_usable_cores(quota: str, usable: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    groups(monkeypatch, tmp_path, "0::/\n", {"cpu.max": quota})
    assert cores.usable_cores() == usable
    (tmp_path / "own").unlink()
    assert cores.usable_cores() == usable, "where the system tells no group, the root's counts"


def test_the_tightest_of_nested_groups_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"a/b/cpu.max": "500000 100000", "a/cpu.max": "300000 100000", "cpu.max": "max 100000"}
    groups(monkeypatch, tmp_path, "0::/a/b\n", files)
    assert cores.usable_cores() == 3
    groups(monkeypatch, tmp_path, "0::/of/the/host\n", {"cpu.max": "200000 100000"})
    assert cores.usable_cores() == 2, "a path of the host is not there inside a container"


def test_groups_of_version_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {"cpu,cpuacct/job/cpu.cfs_quota_us": "200000\n", "cpu,cpuacct/job/cpu.cfs_period_us": "100000\n"}
    groups(monkeypatch, tmp_path, "3:memory:/job\n4:cpu,cpuacct:/job\n", files)
    assert cores.usable_cores() == 2
    (tmp_path / "cpu,cpuacct/job/cpu.cfs_quota_us").write_text("-1\n")
    assert cores.usable_cores() == 6


@pytest.mark.parametrize(
    ("others", "of", "taken", "words"),
    [
        (0.2, 2, 2, ""), (1.6, 2, 2, "1.6 of 2 cores busy.*2 threads.*--threads 1"), (1.9, 2, 1, "1 thread:.*wait"),
        (0.9, 2, 1, ""), (5.0, 64, 8, ""), (60.0, 64, 8, "8 threads.*--threads 4"),
    ],
)  # fmt: skip
def test_a_busy_machine_is_said_once(
    others: float, of: int, taken: int, words: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: taken)
    monkeypatch.setattr(device, "own_cores", lambda: tuple(range(of)))
    monkeypatch.setattr(device, "busy_elsewhere", lambda: others)
    device.say_if_busy.cache_clear()
    device.say_if_busy()
    device.say_if_busy()
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == bool(words) and all(re.search(words, line) for line in lines)


def test_what_this_process_does_is_not_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([(10.0, 50.0), (10.3, 50.3)])  # of each of two cores: busy, idle
    seconds = iter([1.0, 1.25])  # of this process
    now = iter([100.0, 100.5])
    each = collections.namedtuple("each", ["user", "idle"])
    monkeypatch.setattr("psutil.cpu_times", lambda percpu: [each(*next_) for next_ in [next(times)] * 2])
    monkeypatch.setattr(cores, "own_cores", lambda: (0, 1))
    monkeypatch.setattr(cores.time, "process_time", lambda: next(seconds))
    monkeypatch.setattr(cores.time, "perf_counter", lambda: next(now))
    monkeypatch.setattr(cores.time, "sleep", lambda _: None)
    assert cores.busy_elsewhere() == pytest.approx((0.6 - 0.25) / 0.5)


def test_processor_seconds_are_those_of_the_clock_or_what_passed_where_it_stood_still(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    used, now, calls = iter([1.0, 1.25, 2.0, 2.0]), iter([100.0, 100.5, 102.0]), []
    monkeypatch.setattr(cores.time, "perf_counter", lambda: next(now))
    assert cores.processor_seconds(lambda: calls.append(1), lambda: next(used)) == 0.25
    assert cores.processor_seconds(lambda: calls.append(2), lambda: next(used)) == 1.5
    assert calls == [1, 2]
