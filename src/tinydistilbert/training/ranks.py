"""The processes that do one training together: which one this is, and what they agree on.

A launcher such as torchrun starts them. Rank r of W computes every W-th micro-batch of a step, gradients and means are
summed, and so W processes do what one does, up to rounding. Decisions are taken together, never by one of them alone.
The first, rank 0, is the main one: it alone holds the run folder's lock, writes and prints.
"""

import contextlib
import io
import json
import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from tinydistilbert import progress
from tinydistilbert.errors import RankLost, ReportedElsewhere, UserError
from tinydistilbert.storage import atomic
from tinydistilbert.training.launcher import adopt, own_rank, stay_on_this_machine, take_gpu, world_size
from tinydistilbert.training.peers import GONE, is_of_connection, lost_message, peers_answer

if TYPE_CHECKING:  # the command line asks whether there is a launcher before torch is needed
    import torch
    from torch import Tensor

START_MINUTES = 10.0
"""Within which all processes have to be there."""
STEP_MINUTES = 30.0
"""For which one process waits for the others inside a training, at most."""
WAIT_HOURS = 48.0
"""For which the others wait for what rank 0 does alone, at most; when it dies they end at once."""
LISTEN_SECONDS = 2.0
"""For which another process than rank 0 waits for it to say what went wrong, before it says so itself."""
PART_SECONDS = 10.0
"""For which rank 0 stays until the others have noticed that it ends."""


@dataclass(frozen=True)
class Ranks:
    """This process among those that train together."""

    rank: int = 0
    world: int = 1
    """How many they are."""
    store: Any = field(default=None, repr=False, compare=False)
    """Where they leave word for each other, a `torch.distributed.Store`; None where there is one process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum_(self, tensors: Sequence["Tensor"]) -> None:
        """Replace each tensor, of which every process has one of that shape, by its sum over the processes."""
        if self.world == 1 or not tensors:
            return
        import torch
        import torch.distributed as dist

        # One message, however many tensors: what counts on a network is how often one waits.
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        with peers_answer():
            dist.all_reduce(flat)
        for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(summed.view(tensor.shape))

    def total(self, numbers: Iterable[float]) -> list[float]:
        """The sum of each number over the processes."""
        values = list(numbers)
        if self.world == 1:
            return values
        import torch
        import torch.distributed as dist

        with peers_answer():
            summed = torch.tensor(values, dtype=torch.float64)
            dist.all_reduce(summed)
        return [float(value) for value in summed]

    def agree(self, *flags: bool) -> list[bool]:
        """For each flag whether it is true in any process: the answer is the same in all of them."""
        return [count > 0 for count in self.total(map(float, flags))]

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """What one of them gives, rank 0 by default, in every process; anything that JSON can hold."""
        if self.world == 1:
            return value
        import torch
        import torch.distributed as dist

        content = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        with peers_answer():
            length = torch.tensor([len(content)])
            dist.broadcast(length, source)
            content = content if self.rank == source else torch.empty(int(length), dtype=torch.uint8)
            dist.broadcast(content, source)
        return json.loads(bytes(content.tolist()))

    def broadcast_(self, tensors: Iterable["Tensor"]) -> None:
        """Put rank 0's values into each tensor, in every process."""
        if self.world == 1:
            return
        import torch.distributed as dist

        with peers_answer():
            for tensor in tensors:
                whole = tensor.detach().contiguous()
                dist.broadcast(whole, 0)
                tensor.detach().copy_(whole)

    @contextlib.contextmanager
    def unfinished(self, folder: Path, **facts: Any) -> Iterator[Path]:
        """`atomic.unfinished` in the process that writes; in the others a folder that is thrown away."""
        if self.is_main:
            with atomic.unfinished(folder, **facts) as partial:
                yield partial
        else:
            with TemporaryDirectory() as scratch:
                yield Path(scratch)

    @contextlib.contextmanager
    def main_first(self, what: str) -> Iterator[None]:
        """The body in rank 0, and when it is through there, in the others: for what only one may make, and all read."""
        if not self.is_main:
            self.wait_for(what)
        yield
        if self.is_main:
            self.publish(what)

    def publish(self, what: str, value: Any = True) -> None:
        """Leave a value for the others, who may be elsewhere and may never ask."""
        if self.world > 1:
            with peers_answer():
                self.store.set(f"{_sessions}/{what}", json.dumps(value))

    def wait_for(self, what: str) -> Any:
        """Wait for a value that rank 0 publishes; unlike the collectives it can be interrupted, and take hours.

        Raises:
            ReportedElsewhere: another process ended with an error instead, which it has said.
            RankLost: there is nobody to wait for.
        """
        key, pause, end = f"{_sessions}/{what}", 0.01, time.monotonic() + WAIT_HOURS * 3600
        with peers_answer():
            while not self.store.check([key]):
                if self.store.check([_LEFT]):
                    raise ReportedElsewhere
                if time.monotonic() > end:
                    raise RankLost(lost_message(f"rank 0 did not reach {what!r} within {WAIT_HOURS:g} hours"))
                time.sleep(pause)
                pause = min(0.5, pause * 1.5)
            return json.loads(self.store.get(key))

    def check_alike(self, facts: Mapping[str, str]) -> None:
        """Refuse processes that are not to do the same, or not in the same way.

        Args:
            facts: what must be alike in all of them, by the name that a user knows.

        Raises:
            UserError: something differs; rank 0 alone says so.
        """
        if self.world == 1:
            return
        of_all = [self.broadcast(dict(facts), rank) for rank in range(self.world)]
        if not self.is_main:
            self.wait_for("all are alike")
            return
        for rank, others in enumerate(of_all):
            for name in sorted(facts.keys() | others.keys()):
                if facts.get(name) != others.get(name):
                    problem = f"rank {rank} has {name} = {others.get(name)}, rank 0 {name} = {facts.get(name)}"
                    raise UserError("launcher", problem=problem, fix="start the same command in the same environment")
        self.publish("all are alike")

    def check_gpus(self, device: "torch.device") -> None:
        """Refuse two processes on one GPU, and GPUs that cannot reach one another, before anything is read.

        Args:
            device: of all of them, as `check_alike` has found.

        Raises:
            UserError: it is so; one process says it.
        """
        if self.world == 1 or device.type != "cuda":
            return
        this_gpu = f"{socket.gethostname()} {_gpu_id()}"
        of_all = [str(self.broadcast(this_gpu, rank)) for rank in range(self.world)]
        for rank, gpu in enumerate(of_all):
            if (first := of_all.index(gpu)) < rank:
                problem = f"rank {first} and rank {rank} have the same GPU of {gpu.split()[0]}"
                raise UserError("launcher", problem=problem, fix="start one process for each GPU")
        import torch
        import torch.distributed as dist

        try:
            dist.all_reduce(torch.zeros(1, device=device))
            torch.cuda.synchronize()
        except RuntimeError as error:
            problem = f"the GPUs cannot reach one another ({str(error).split(chr(10), 1)[0][:200]})"
            fix = "check what NCCL_DEBUG=INFO shows; NCCL_SOCKET_IFNAME selects the network"
            raise UserError("launcher", problem=problem, fix=fix) from error

    @contextlib.contextmanager
    def session(self) -> Iterator[None]:
        """One command of all processes: only rank 0 is heard in the body, and one process says what went wrong.

        Raises:
            ReportedElsewhere: another process has said it.
        """
        global _sessions, _reports
        if self.world == 1:
            yield
            return
        _sessions += 1
        with only_main_prints():
            try:
                yield
                self._end_together()
            except BaseException as error:
                _reports = self._is_first_to_report()
                self._disconnect()
                if _reports and is_of_connection(error):
                    raise RankLost(lost_message(GONE)) from error
                if _reports:
                    raise
                raise ReportedElsewhere from error

    def _end_together(self) -> None:
        """Rank 0, with which the store may go, is the last to leave."""
        if self.is_main:
            self.publish("the end")
            self._wait_for_count(f"{_sessions}/at the end")
        else:
            self.wait_for("the end")
            self.store.add(f"{_sessions}/at the end", 1)

    def _wait_for_count(self, count: str) -> None:
        end = time.monotonic() + PART_SECONDS
        while self.store.add(count, 0) < self.world - 1 and time.monotonic() < end:
            time.sleep(0.01)

    def _is_first_to_report(self) -> bool:
        """Whether this process is the first that says what went wrong; rank 0 has the precedence."""
        try:
            end = time.monotonic() + LISTEN_SECONDS
            with contextlib.suppress(KeyboardInterrupt):  # the launcher ends whoever is left
                while not self.is_main and not self.store.check([_LEFT]) and time.monotonic() < end:
                    time.sleep(0.02)
            return bool(self.store.add(_LEFT, 1) == 1)
        except (RuntimeError, ValueError):  # the store ended with rank 0
            local = int(os.environ.get("LOCAL_RANK") or 0)
            return local == (1 if local == self.rank else 0)  # the first on this machine that is not rank 0

    def _disconnect(self) -> None:
        """End the connections, so that whoever waits for this process notices."""
        import torch.distributed as dist

        with contextlib.suppress(RuntimeError, ValueError, AssertionError, KeyboardInterrupt):
            _abort_on_gpus()
            dist.destroy_process_group()
            if not self.is_main:
                self.store.add("gone", 1)
            elif os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # the store ends with this process
                self._wait_for_count("gone")


def _gpu_id() -> str:
    """What no other GPU has."""
    import torch

    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _abort_on_gpus() -> None:
    """Give up what GPUs still wait for: NCCL would go on waiting for a process that is gone."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_initialized() and dist.is_initialized():  # type: ignore[no-untyped-call]
        assert dist.group.WORLD is not None
        dist.group.WORLD.abort()


ALONE = Ranks()
_LEFT = "left"
_joined: Ranks | None = None
_reports = False
"""Whether this process was the first in which something went wrong."""
_sessions = 0
"""Of this process so far; the same in all processes, for they do the same."""


def join(device: "torch.device") -> Ranks:
    """This process among those that a launcher started, connected with the others; alone without a launcher.

    Args:
        device: where a training is going to compute; of several GPUs each process on a machine takes its own.

    Raises:
        UserError: the launcher's variables or the devices are wrong.
        RankLost: the others did not come.
    """
    global _joined
    if world_size() == 1:
        return ALONE
    if _joined is None:
        _joined = _connected(device)
    return _joined


def _connected(device: "torch.device") -> Ranks:
    import torch
    import torch.distributed as dist
    from torch.distributed.distributed_c10d import PrefixStore
    from torch.distributed.rendezvous import rendezvous

    adopt()
    if dist.is_initialized():
        problem = "this program has already started a process group"
        raise UserError("launcher", problem=problem, fix="let tinydistilbert start it")
    if device.type == "cuda":
        take_gpu(device)
    elif device.type != "cpu":
        expected, found = "GPUs or CPUs for several processes", device.type
        raise UserError("--device", expected=expected, found=found, fix="give --device cpu, or leave the launcher out")
    stay_on_this_machine()
    limit = timedelta(minutes=START_MINUTES)
    try:
        store, rank, world = next(iter(rendezvous("env://", timeout=limit)))
        dist.init_process_group(
            "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo",
            store=PrefixStore("collectives", store), rank=rank, world_size=world,
            timeout=timedelta(minutes=STEP_MINUTES),
        )  # fmt: skip
        dist.all_reduce(torch.zeros(1))  # whether they can talk at all
    except RuntimeError as error:
        why = str(error).split("\n", 1)[0][:200]
        problem = f"not all {world_size()} processes have started ({why})"
        raise UserError("launcher", problem=problem, fix="see the messages of the other processes") from error
    return Ranks(rank, world, PrefixStore("tinydistilbert", store))


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
    """In the body nothing is shown of the other processes of a launcher, and no callback gets their events."""
    if not own_rank():
        yield
        return
    no_output = _NoOutput()
    with (
        contextlib.redirect_stdout(no_output), contextlib.redirect_stderr(no_output), progress.silence(),
    ):  # fmt: skip
        yield


def is_to_report() -> bool:
    """Whether it is for this process to say what went wrong: most mistakes are found by all, and one line is enough.

    Before they are connected, another process than rank 0 gives the launcher time to end it: rank 0 may have found the
    same.
    """
    if own_rank() and _joined is None:
        time.sleep(LISTEN_SECONDS)
    return not own_rank() or _joined is None or _reports


class _NoOutput(io.TextIOBase):
    """Takes any text and keeps none."""

    def write(self, text: str, /) -> int:
        """Nothing is written."""
        return len(text)
