"""Environment variables of a launcher such as torchrun: how many processes it started, and which one this is."""

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

from tinydistilbert.errors import UserError

if TYPE_CHECKING:  # the command line asks whether there is a launcher before torch is needed
    import torch


NEEDED = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
"""Variables that processes need to connect."""


def variables() -> Mapping[str, str]:
    """Return the environment, with torchrun's variables also in a process that Slurm's `srun` started.

    `srun` has other names for them. If `WORLD_SIZE` is already set, the environment stays as it is: torchrun under
    `srun` set it, or a user who wants each process to work alone.
    """
    return os.environ if "WORLD_SIZE" in os.environ or not _is_of_srun() else {**os.environ, **_of_srun(os.environ)}


def _is_of_srun() -> bool:
    """Return whether this is one of several tasks of a job step; a script given to `sbatch` is not a step."""
    return os.environ.get("SLURM_STEP_NUM_TASKS", "1") not in ("", "0", "1")


def _of_srun(slurm: Mapping[str, str]) -> dict[str, str]:
    """Return torchrun's variables from those of a task of a job step."""
    tasks = slurm["SLURM_STEP_NUM_TASKS"]
    own_machine = int(slurm.get("SLURM_NODEID") or 0)
    on_each = _tasks_of_machines(slurm.get("SLURM_STEP_TASKS_PER_NODE") or tasks)
    beside = on_each[own_machine] if own_machine < len(on_each) else int(tasks)
    # A different port for each step of each job, below the range of ephemeral ports.
    port = 20_000 + (101 * int(slurm.get("SLURM_JOB_ID") or 0) + int(slurm.get("SLURM_STEP_ID") or 0)) % 10_000
    first = "127.0.0.1" if beside == int(tasks) else _first_machine(slurm.get("SLURM_STEP_NODELIST") or "")
    return {
        "RANK": slurm.get("SLURM_PROCID", ""), "WORLD_SIZE": tasks, "LOCAL_RANK": slurm.get("SLURM_LOCALID") or "0",
        "LOCAL_WORLD_SIZE": str(beside), "MASTER_ADDR": slurm.get("MASTER_ADDR") or first,
        "MASTER_PORT": slurm.get("MASTER_PORT") or str(port),
    }  # fmt: skip


def _first_machine(machines: str) -> str:
    """Return the first of a list as Slurm writes it: `node01` for `node[01-04,07],other`."""
    return re.sub(r"\[([^],-]+)[^]]*\]", r"\1", machines).split(",")[0]


def _tasks_of_machines(counts: str) -> list[int]:
    """Return the tasks of each machine from Slurm's notation: 4, 4 and 3 for `4(x2),3`."""
    groups = re.findall(r"(\d+)(?:\(x(\d+)\))?", counts)
    return [int(count) for count, times in groups for _ in range(int(times or 1))]


def world_size() -> int:
    """Return how many processes a launcher has started for this command; 1 without a launcher.

    Raises:
        UserError: the launcher's variable is not a number.
    """
    return _processes("WORLD_SIZE")


def _processes(name: str) -> int:
    value = variables().get(name) or "1"
    if not value.isdigit() or value == "0":
        raise UserError(name, expected="a number of processes", found=repr(value), fix="start it with torchrun")
    return int(value)


def own_rank() -> int:
    """Return the number of this process among those of the launcher; 0 without a launcher."""
    rank, world = variables().get("RANK") or "0", variables().get("WORLD_SIZE") or "1"
    return int(rank) if world != "1" and rank.isdigit() else 0


def processes_here() -> int:
    """Return how many processes the launcher has started on this machine; 1 without a launcher.

    Raises:
        UserError: the launcher's variable is not a number.
    """
    return _processes("LOCAL_WORLD_SIZE")


def adopt() -> None:
    """Set the launcher's variables in the environment by the names that torch reads.

    Raises:
        UserError: one is missing.
    """
    environment = variables()
    if missing := [name for name in NEEDED if not environment.get(name)]:
        expected, fix = f"the launcher's variables {', '.join(NEEDED)}", "start it with torchrun, or with Slurm's srun"
        raise UserError("launcher", expected=expected, found=f"no {missing[0]}", fix=fix)
    if environment is not os.environ:
        os.environ.update(_of_srun(environment))


def refuse_several(what: str) -> None:
    """Refuse to run in several processes something that one process does.

    Raises:
        UserError: a launcher has started several processes.
    """
    if world_size() > 1:
        found = f"{world_size()}, by {'srun' if 'WORLD_SIZE' not in os.environ else 'a launcher'}"
        fix = (
            "start it without a launcher (several processes can share adapt, distill, finetune, evaluate, replicate), "
            "or set WORLD_SIZE=1 if each process is to do all of it by itself"
        )
        raise UserError(what, expected="one process", found=found, fix=fix)


def take_gpu(device: "torch.device") -> None:
    """Use the GPU with this process's number on its machine; or the only one, if Slurm shows each process one GPU.

    Raises:
        UserError: there are too few GPUs, or the same one was named for all processes.
    """
    import torch

    local = int(os.environ.get("LOCAL_RANK") or 0)
    if str(device) != "cuda":
        fix = "give --device cuda: each process takes its own GPU"
        raise UserError("--device", expected="a kind of device for several processes", found=str(device), fix=fix)
    if torch.cuda.device_count() == 1 and _is_of_srun():  # --gpus-per-task or --gpu-bind
        local = 0
    if local >= torch.cuda.device_count():
        expected = f"at most {torch.cuda.device_count()} processes on this machine, one for each GPU"
        raise UserError("launcher", expected=expected, found=f"process {local + 1}", fix="lower --nproc-per-node")
    torch.cuda.set_device(local)


def stay_on_this_machine() -> None:
    """Connect over the loopback interface if all processes are on this machine, whose name may not resolve."""
    is_here = os.environ["MASTER_ADDR"] in ("127.0.0.1", "localhost")
    is_here |= os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if is_here and "GLOO_SOCKET_IFNAME" not in os.environ:
        import psutil

        addresses = {name: [a.address for a in each] for name, each in psutil.net_if_addrs().items()}
        if loopback := next((name for name, each in addresses.items() if "127.0.0.1" in each), None):
            os.environ["GLOO_SOCKET_IFNAME"] = loopback
