"""What a launcher such as torchrun says in the environment: how many processes it started, and which one this is."""

import os
from typing import TYPE_CHECKING

from tinydistilbert.errors import UserError

if TYPE_CHECKING:  # the command line asks whether there is a launcher before torch is needed
    import torch


def world_size() -> int:
    """How many processes a launcher has started for this command; 1 without one.

    Raises:
        UserError: the launcher's variable holds no number.
    """
    value = os.environ.get("WORLD_SIZE") or "1"
    if not value.isdigit() or value == "0":
        raise UserError("WORLD_SIZE", expected="a number of processes", found=repr(value), fix="start it with torchrun")
    return int(value)


def own_rank() -> int:
    """The number of this process among those of the launcher; 0 without one."""
    rank, world = os.environ.get("RANK") or "0", os.environ.get("WORLD_SIZE") or "1"
    return int(rank) if world != "1" and rank.isdigit() else 0


def refuse_several(what: str) -> None:
    """Refuse a launcher for what one process does.

    Raises:
        UserError: a launcher has started several.
    """
    if world_size() > 1:
        fix = "start it without a launcher; adapt, distill, finetune and replicate are what several processes share"
        raise UserError(what, expected="one process", found=f"{world_size()}, by a launcher", fix=fix)


def take_gpu(device: "torch.device") -> None:
    """Each process on a machine takes the GPU of its number there.

    Raises:
        UserError: there are too few, or one was named for all processes.
    """
    import torch

    local = int(os.environ.get("LOCAL_RANK") or 0)
    if str(device) != "cuda":
        fix = "give --device cuda: each process takes its own GPU"
        raise UserError("--device", expected="a kind of device for several processes", found=str(device), fix=fix)
    if local >= torch.cuda.device_count():
        expected = f"at most {torch.cuda.device_count()} processes on this machine, one for each GPU"
        raise UserError("launcher", expected=expected, found=f"process {local + 1}", fix="lower --nproc-per-node")
    torch.cuda.set_device(local)


def stay_on_this_machine() -> None:
    """Connect over the loopback interface where all processes are here: the name of a machine need not be known."""
    is_here = os.environ["MASTER_ADDR"] in ("127.0.0.1", "localhost")
    is_here |= os.environ.get("LOCAL_WORLD_SIZE") == os.environ["WORLD_SIZE"]
    if is_here and "GLOO_SOCKET_IFNAME" not in os.environ:
        import psutil

        addresses = {name: [a.address for a in each] for name, each in psutil.net_if_addrs().items()}
        if loopback := next((name for name, each in addresses.items() if "127.0.0.1" in each), None):
            os.environ["GLOO_SOCKET_IFNAME"] = loopback
