"""How many threads torch uses: what was asked for, else no more than the cores that the process may use."""

import os
from pathlib import Path

import pytest
import torch

from tinydistilbert.training import device


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of threads that were set; torch would take three by itself."""
    calls: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    monkeypatch.setattr(torch, "set_num_threads", calls.append)
    return calls


@pytest.mark.parametrize(("asked", "cores", "used"), [(None, 2, 2), (None, 8, 3), (1, 8, 1), (5, 2, 5)])
def test_threads(asked: int | None, cores: int, used: int, threads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "usable_cores", lambda: cores)
    device.use_threads(asked)
    assert threads == [used]


@pytest.mark.parametrize(
    ("quota", "cores"),
    [("max 100000\n", 6), ("250000 100000\n", 2), ("50000 100000\n", 1), ("800000 100000\n", 6), ("", 6)],
)
def test_usable_cores(quota: str, cores: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)), raising=False)
    monkeypatch.setattr(Path, "read_text", lambda _: quota)
    assert device.usable_cores() == cores
