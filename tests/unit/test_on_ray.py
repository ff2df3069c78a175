"""What a Ray cluster is asked before anything starts, by a stand-in for Ray; with Ray itself: tests/pipeline."""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tinydistilbert import __version__
from tinydistilbert.errors import UserError
from tinydistilbert.workers import on_ray
from tinydistilbert.workers.jobs import Jobs
from tinydistilbert.workers.on_ray import Cluster, _checked, _done_by_node, _seen_by_node

Answer = tuple[str, str, bool]
FINE = ("a", __version__, True)


def cluster_of(answers: Sequence[Answer], *, cpus: Sequence[float] = (4, 8), gpus: int = 0, slow: bool = False) -> Any:
    """Stands for the module ray: each node gives one of the answers."""
    waiting = iter(answers)

    class GetTimeoutError(Exception):
        pass

    def get(_references: Any, timeout: float) -> Sequence[Answer]:
        if slow:
            raise GetTimeoutError
        return answers

    task = SimpleNamespace(options=lambda **_: SimpleNamespace(remote=lambda *_: next(waiting)))
    nodes = [
        {"Alive": True, "NodeID": str(n), "Resources": {"CPU": count} if count else {}} for n, count in enumerate(cpus)
    ]
    return SimpleNamespace(
        nodes=lambda: [*nodes, {"Alive": False, "NodeID": "gone", "Resources": {}}], remote=lambda _: task, get=get,
        cluster_resources=lambda: {"CPU": sum(cpus), "GPU": gpus},
        exceptions=SimpleNamespace(GetTimeoutError=GetTimeoutError),
        util=SimpleNamespace(
            scheduling_strategies=SimpleNamespace(NodeAffinitySchedulingStrategy=lambda *_, **__: None)
        ),
    )  # fmt: skip


def checked(
    ray: Any, tmp_path: Path, *, jobs: Jobs | None = None, parts: int = 3, lines: list[str] | None = None
) -> Cluster:
    log = (lines if lines is not None else []).append
    return _checked(ray, jobs or Jobs(0), parts, tmp_path, tmp_path / "marker", log)


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        ([FINE, ("b", __version__, False)], "b cannot see"),
        ([FINE, ("b", "0.0.1", True)], "on every node, found 0.0.1 on b"),
        ([FINE, ("b", "", True)], "on every node, found none on b"),
    ],
)
def test_a_node_that_cannot_take_part_is_named_before_anything_starts(
    answers: list[Answer], words: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=words) as raised:
        checked(cluster_of(answers), tmp_path)
    assert str(raised.value).startswith("--jobs ray: ")


def test_clusters_that_cannot_run_a_job_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="an answer of every node"):
        checked(cluster_of([FINE, FINE], slow=True), tmp_path)
    with pytest.raises(UserError, match="a cluster with CPUs"):
        checked(cluster_of([FINE], cpus=[0]), tmp_path)
    with pytest.raises(UserError, match="--threads: expected at most 8"):
        checked(cluster_of([FINE, FINE]), tmp_path, jobs=Jobs(0, threads=9))


@pytest.mark.parametrize(
    ("parts", "threads", "expected"), [(3, None, 4), (2, None, 4), (6, None, 2), (100, None, 1), (3, 8, 8)]
)
def test_each_job_has_its_share_of_the_cluster(parts: int, threads: int | None, expected: int, tmp_path: Path) -> None:
    lines: list[str] = []
    made = checked(cluster_of([FINE, FINE]), tmp_path, jobs=Jobs(0, threads), parts=parts, lines=lines)
    assert made.threads == expected and not made.with_gpu
    assert made.at_once == min(parts, 12 // expected + 1), "one waits, so that a cluster that can grow does so"
    assert f"{parts} on Ray, which has 12 CPUs on 2 nodes; each with {expected}" in lines[0]


def test_gpus_are_asked_for_where_there_are_some(tmp_path: Path) -> None:
    assert checked(cluster_of([FINE, FINE], gpus=2), tmp_path).with_gpu
    assert not checked(cluster_of([FINE, FINE], gpus=2), tmp_path, jobs=Jobs(0, device="cpu")).with_gpu


def test_what_a_node_sees_and_refuses(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    assert _seen_by_node(str(marker), str(tmp_path))[1:] == (__version__, False)
    marker.touch()
    assert _seen_by_node(str(marker), str(tmp_path))[1:] == (__version__, True)
    assert not _seen_by_node(str(marker), str(tmp_path / "none"))[2]
    log = str(tmp_path / "log")
    with pytest.raises(RuntimeError, match="does not see"):
        _done_by_node([], log, 1, str(tmp_path), str(tmp_path / "none"), __version__)
    with pytest.raises(RuntimeError, match="has tinydistilbert"):
        _done_by_node([], log, 1, str(tmp_path), str(marker), "0.0.1")
    assert not Path(log).exists()


def test_without_ray_the_command_that_installs_it_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"tinydistilbert\[cluster\]"), on_ray.cluster(Jobs(0), 1, tmp_path, print):
        pass
    assert list(tmp_path.iterdir()) == []


def test_a_ray_that_gives_no_reason_cannot_be_reached_either(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**_: object) -> None:
        raise ConnectionError

    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(is_initialized=lambda: False, init=init))
    with pytest.raises(UserError, match=r"reached \(ConnectionError\)"), on_ray.cluster(Jobs(0), 1, tmp_path, print):
        pass
