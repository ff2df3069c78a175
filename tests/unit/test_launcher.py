"""What launchers say in the environment: torchrun, and Slurm's `srun` by itself."""

import os
from dataclasses import dataclass
from types import SimpleNamespace

import pytest
import torch

from tinydistilbert.errors import UserError
from tinydistilbert.training import launcher, ranks
from tinydistilbert.training.ranks import Ranks

STEP = {
    "SLURM_JOB_ID": "123456", "SLURM_STEP_ID": "2", "SLURM_STEP_NUM_TASKS": "7", "SLURM_STEP_TASKS_PER_NODE": "2(x2),3",
    "SLURM_STEP_NODELIST": "node[03-04],big-1", "SLURM_PROCID": "5", "SLURM_LOCALID": "1", "SLURM_NODEID": "2",
}  # fmt: skip
NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
CUDA = torch.device("cuda")


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of a launcher; what a test adopts goes with it."""
    clean = {name: value for name, value in os.environ.items() if name not in NAMES and not name.startswith("SLURM_")}
    monkeypatch.setattr(os, "environ", clean)


def step(**other: str) -> None:
    os.environ.update({**STEP, **other})


def test_a_task_of_srun_has_torchruns_variables() -> None:
    step()
    variables = launcher.variables()
    assert [variables[name] for name in NAMES[:5]] == ["5", "7", "1", "3", "node03"]
    assert (launcher.world_size(), launcher.own_rank(), launcher.processes_here()) == (7, 5, 3)
    port = variables["MASTER_PORT"]
    assert 20_000 <= int(port) < 30_000
    step(SLURM_STEP_ID="3")
    assert launcher.variables()["MASTER_PORT"] != port, "two steps of a job at the same time"
    launcher.adopt()
    assert os.environ["WORLD_SIZE"] == "7" and launcher.variables() is os.environ
    with pytest.raises(UserError, match=r"found 7, by a launcher.*WORLD_SIZE=1"):
        launcher.refuse_several("prepare")


def test_on_one_machine_no_name_is_needed() -> None:
    step(SLURM_STEP_NUM_TASKS="2", SLURM_STEP_TASKS_PER_NODE="2", SLURM_STEP_NODELIST="node01", SLURM_NODEID="0")
    assert launcher.variables()["MASTER_ADDR"] == "127.0.0.1"
    os.environ["MASTER_ADDR"] = "10.0.0.7"
    assert launcher.variables()["MASTER_ADDR"] == "10.0.0.7", "what somebody has set stays"


@pytest.mark.parametrize(
    "others",
    [
        {"SLURM_STEP_NUM_TASKS": "1"}, {"SLURM_STEP_NUM_TASKS": ""}, {"WORLD_SIZE": "1"},
    ],
)  # fmt: skip
def test_a_single_task_is_no_launcher(others: dict[str, str]) -> None:
    step(**others)
    assert launcher.world_size() == 1 and launcher.own_rank() == 0
    launcher.refuse_several("prepare")


def test_a_script_of_sbatch_is_no_launcher() -> None:
    os.environ.update(SLURM_JOB_ID="1", SLURM_NTASKS="4", SLURM_PROCID="0", SLURM_JOB_NODELIST="node[1-4]")
    assert launcher.world_size() == 1


@pytest.mark.parametrize("name", ["WORLD_SIZE", "LOCAL_WORLD_SIZE"])
@pytest.mark.parametrize("value", ["two", "0", "-1"])
def test_what_is_no_number_of_processes_is_refused_by_name(name: str, value: str) -> None:
    os.environ.update({"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", name: value})
    with pytest.raises(UserError, match=rf"^{name}: expected a number of processes, found '{value}'"):
        (launcher.world_size if name == "WORLD_SIZE" else launcher.processes_here)()


def test_torchrun_under_srun_counts() -> None:
    step(RANK="3", WORLD_SIZE="4", LOCAL_WORLD_SIZE="4", LOCAL_RANK="3", MASTER_ADDR="a", MASTER_PORT="1")
    launcher.adopt()
    assert (launcher.world_size(), launcher.own_rank(), os.environ["MASTER_ADDR"]) == (4, 3, "a")


def test_what_is_missing_is_named() -> None:
    os.environ.update(WORLD_SIZE="2", RANK="0", MASTER_ADDR="a")
    with pytest.raises(UserError, match="found no MASTER_PORT"):
        launcher.adopt()
    step(SLURM_PROCID="")
    del os.environ["WORLD_SIZE"], os.environ["RANK"]
    with pytest.raises(UserError, match="found no RANK"):
        launcher.adopt()


def gpus(monkeypatch: pytest.MonkeyPatch, count: int) -> list[int]:
    taken: list[int] = []
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return taken


def test_each_process_takes_its_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    os.environ["LOCAL_RANK"] = "2"
    taken = gpus(monkeypatch, 4)
    launcher.take_gpu(CUDA)
    assert taken == [2]
    with pytest.raises(UserError, match="found cuda:1"):
        launcher.take_gpu(torch.device("cuda:1"))
    gpus(monkeypatch, 1)
    with pytest.raises(UserError, match="at most 1 processes on this machine"):
        launcher.take_gpu(CUDA)
    step()  # which shows each task its own GPU
    taken = gpus(monkeypatch, 1)
    launcher.take_gpu(CUDA)
    assert taken == [0]


@dataclass(frozen=True)
class OnGpus(Ranks):
    """A process among others, each on a GPU."""

    others: tuple[str, ...] = ()

    def broadcast(self, value: str, source: int = 0) -> str:
        return self.others[source]


def test_two_processes_on_one_gpu_and_gpus_that_are_apart_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranks, "_gpu_id", lambda: "GPU-0")
    with pytest.raises(UserError, match="rank 0 and rank 2 have the same GPU of a"):
        OnGpus(0, 3, others=("a GPU-0", "b GPU-0", "a GPU-0")).check_gpus(CUDA)

    def fails(_tensor: object) -> None:
        raise RuntimeError("NCCL error: unhandled system error\nmore")

    monkeypatch.setattr(torch, "zeros", lambda *_, **__: SimpleNamespace())
    monkeypatch.setattr(torch.distributed, "all_reduce", fails)
    with pytest.raises(UserError, match=r"cannot reach one another \(NCCL error: unhandled system error\)"):
        OnGpus(0, 2, others=("a GPU-0", "a GPU-1")).check_gpus(CUDA)
    OnGpus(0, 2, others=()).check_gpus(torch.device("cpu"))
