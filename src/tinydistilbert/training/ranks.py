"""The processes that do one training together: which one this is, and how they agree.

A launcher such as torchrun starts them. Rank r of W computes every W-th micro-batch of a step, and gradients and means
are summed, so W processes compute the same as one, up to rounding. They decide everything together, never alone. Rank 0
is the main process: only it holds the run folder's lock, writes and prints.
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
"""Time within which all processes must connect."""
STEP_MINUTES = 30.0
"""Longest time that a process waits for the others inside a training."""
WAIT_HOURS = 48.0
"""Longest time that the others wait for work that rank 0 does alone; if it dies, they end at once."""
LISTEN_SECONDS = 2.0
"""Time that another process waits for rank 0 to report an error, before it reports the error itself."""
PART_SECONDS = 10.0
"""Longest time that rank 0 stays until the others have noticed that it ends."""


@dataclass(frozen=True)
class Ranks:
    """This process, as one of those that train together."""

    rank: int = 0
    world: int = 1
    """Number of processes."""
    store: Any = field(default=None, repr=False, compare=False)
    """Where they leave messages for each other, a `torch.distributed.Store`; None with a single process."""

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    def sum_(self, tensors: Sequence["Tensor"]) -> None:
        """Replace each tensor by its sum over the processes, all of which have one of the same shape."""
        if self.world == 1 or not tensors:
            return
        import torch
        import torch.distributed as dist

        # One message for all tensors: on a network the number of waits is what costs time.
        flat = torch.cat([tensor.detach().reshape(-1).float() for tensor in tensors])
        with peers_answer():
            dist.all_reduce(flat)
        for tensor, summed in zip(tensors, torch.split(flat, [tensor.numel() for tensor in tensors]), strict=True):
            tensor.detach().copy_(summed.view(tensor.shape))

    def total(self, numbers: Iterable[float]) -> list[float]:
        """Return the sum of each number over the processes."""
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
        """Return for each flag whether it is true in any process; all processes get the same answer."""
        return [count > 0 for count in self.total(map(float, flags))]

    def broadcast(self, value: Any, source: int = 0) -> Any:
        """Return the value of one process, rank 0 by default, in every process; anything that JSON can represent."""
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
        """Copy rank 0's values into each tensor, in every process."""
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
        """Open `atomic.unfinished` in the process that writes; in the others a temporary folder."""
        if self.is_main:
            with atomic.unfinished(folder, **facts) as partial:
                yield partial
        else:
            with TemporaryDirectory() as scratch:
                yield Path(scratch)

    @contextlib.contextmanager
    def main_first(self, what: str) -> Iterator[None]:
        """Run the body in rank 0, then in the others: for files that one process makes and all read."""
        if not self.is_main:
            self.wait_for(what)
        yield
        if self.is_main:
            self.publish(what)

    def publish(self, what: str, value: Any = True) -> None:
        """Leave a value for the other processes, without waiting for them to read it."""
        if self.world > 1:
            with peers_answer():
                self.store.set(f"{_sessions}/{what}", json.dumps(value))

    def wait_for(self, what: str) -> Any:
        """Wait for a value that rank 0 publishes; unlike the collectives, this can be interrupted, and can take hours.

        Raises:
            ReportedElsewhere: another process ended with an error, which it has reported.
            RankLost: rank 0 is gone, or did not publish in time.
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
        """Refuse processes with different commands or environments.

        Args:
            facts: values that must be equal in all processes, by names that the user knows.

        Raises:
            UserError: a value differs; only rank 0 reports it.
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
            device: of all processes; `check_alike` has checked that it is the same.

        Raises:
            UserError: the GPUs are shared or cannot connect; one process reports it.
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
        """Run one command in all processes: only rank 0 prints in the body, and one process reports an error.

        Raises:
            ReportedElsewhere: another process has reported the error.
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
        """Let rank 0 leave last, because the store may end with it."""
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
        """Return whether this process is the first to report an error; rank 0 has precedence."""
        try:
            end = time.monotonic() + LISTEN_SECONDS
            with contextlib.suppress(KeyboardInterrupt):  # the launcher ends the remaining processes
                while not self.is_main and not self.store.check([_LEFT]) and time.monotonic() < end:
                    time.sleep(0.02)
            return bool(self.store.add(_LEFT, 1) == 1)
        except (RuntimeError, ValueError):  # the store ended with rank 0
            local = int(os.environ.get("LOCAL_RANK") or 0)
            return local == (1 if local == self.rank else 0)  # the first on this machine that is not rank 0

    def _disconnect(self) -> None:
        """End the connections, so that processes that wait for this one notice."""
        import torch.distributed as dist

        with contextlib.suppress(RuntimeError, ValueError, AssertionError, KeyboardInterrupt):
            _abort_on_gpus()
            dist.destroy_process_group()
            if not self.is_main:
                self.store.add("gone", 1)
            elif os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":  # the store ends with this process
                self._wait_for_count("gone")


def _gpu_id() -> str:
    """Return an id that no other GPU has."""
    import torch

    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid)


def _abort_on_gpus() -> None:
    """Abort pending GPU communication: NCCL would keep waiting for a process that is gone."""
    import torch
    import torch.distributed as dist

    if torch.cuda.is_initialized() and dist.is_initialized():  # type: ignore[no-untyped-call]
        assert dist.group.WORLD is not None
        dist.group.WORLD.abort()


ALONE = Ranks()
_LEFT = "left"
_joined: Ranks | None = None
_reports = False
"""Whether this process is the one that reports an error."""
_sessions = 0
"""Number of sessions so far; the same in all processes, because they run the same commands."""


def join(device: "torch.device") -> Ranks:
    """Connect this process with the others that a launcher started; without a launcher it is alone.

    Args:
        device: where a training will compute; with several GPUs, each process on a machine takes its own.

    Raises:
        UserError: the launcher's variables or the devices are wrong, or not all processes connect.
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
        dist.all_reduce(torch.zeros(1))  # test the connection
    except RuntimeError as error:
        why = str(error).split("\n", 1)[0][:200]
        problem = f"not all {world_size()} processes have started ({why})"
        raise UserError("launcher", problem=problem, fix="see the messages of the other processes") from error
    return Ranks(rank, world, PrefixStore("tinydistilbert", store))


@contextlib.contextmanager
def only_main_prints() -> Iterator[None]:
    """In the body, silence a launcher's other processes: no output, and no events to callbacks."""
    if not own_rank():
        yield
        return
    no_output = _NoOutput()
    with (
        contextlib.redirect_stdout(no_output), contextlib.redirect_stderr(no_output), progress.silence(),
    ):  # fmt: skip
        yield


def is_to_report() -> bool:
    """Return whether this process should report an error: all processes find most errors, and one report is enough.

    Before the processes are connected, those other than rank 0 give the launcher time to end them, because rank 0 may
    have found the same error.
    """
    if own_rank() and _joined is None:
        time.sleep(LISTEN_SECONDS)
    return not own_rank() or _joined is None or _reports


class _NoOutput(io.TextIOBase):
    """A stream that discards all text."""

    def write(self, text: str, /) -> int:
        """Discard the text."""
        return len(text)
