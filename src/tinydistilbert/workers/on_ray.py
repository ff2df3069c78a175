"""Parts as tasks of a Ray cluster: Ray places them and repeats those whose node is lost. Needs the extra `cluster`.

The code that a node runs is sent to it, so that a node without this package, or with another version, can report that.
"""

import os
import signal
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert import __version__, optional
from tinydistilbert.errors import UserError
from tinydistilbert.storage import disk
from tinydistilbert.workers.jobs import Jobs, Part

EXTRA = "cluster"
RETRIES = 10
"""Retries of a part whose node or worker is lost; it continues from its checkpoint."""
SECONDS_TO_ANSWER = 120.0
"""Seconds that a node has to answer what it sees."""
SECONDS_BETWEEN_COUNTS = 10.0
"""Seconds between counts of the cluster's CPUs, whose number may grow."""
WHERE = "--jobs ray"


def _seen_by_node(marker: str, folder: str) -> tuple[str, str, bool]:
    """Return a node's name, its version of tinydistilbert, and whether it sees the study and the working folder."""
    import os
    import socket

    try:
        import tinydistilbert

        version = tinydistilbert.__version__
    except ImportError:
        version = ""
    return socket.gethostname(), version, os.path.isfile(marker) and os.path.isdir(folder)  # noqa: PTH112, PTH113


def _done_by_node(arguments: Sequence[str], log: str, threads: int, folder: str, marker: str, version: str) -> int:
    """Run a part to its end on a node, and return the exit code."""
    import time
    from pathlib import Path

    node, installed, sees = _seen_by_node(marker, folder)  # the node may have joined the cluster later than the others
    if installed != version or not sees:
        raise RuntimeError(
            f"{node} has tinydistilbert {installed or 'not'}" if sees else f"{node} does not see {marker}"
        )
    from tinydistilbert.workers import process

    with Path(log).open("a", encoding="utf-8") as stream:
        stream.write(f"begun on {node}\n")
    running = process.begin(arguments, Path(log), threads=threads, folder=Path(folder))
    try:
        while (code := running.exit_code()) is None:
            time.sleep(0.2)
        return code
    finally:  # Ray may have cancelled the part
        running.ask_to_stop()
        running.wait(process.SECONDS_TO_STOP)


@dataclass
class RayTask:
    """A part that Ray runs."""

    ray: Any
    reference: Any
    log: Path

    def exit_code(self) -> int | None:
        """Return None while it waits or works; 1 if Ray could not run it, with Ray's error at the end of the log."""
        done, _ = self.ray.wait([self.reference], timeout=0)
        if not done:
            return None
        try:
            return int(self.ray.get(self.reference))
        except self.ray.exceptions.TaskCancelledError:
            return 1
        except self.ray.exceptions.RayError as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            with self.log.open("a", encoding="utf-8") as stream:
                stream.write(f"\nerror: Ray: {lines[-1] if lines else type(error).__name__}\n")
            return 1

    def ask_to_stop(self) -> None:
        """Ask the part to save a checkpoint and end."""
        self.ray.cancel(self.reference, force=False)

    def wait(self, seconds: float) -> bool:
        """Return whether it ended within that time; otherwise kill it."""
        done, _ = self.ray.wait([self.reference], timeout=max(0.0, seconds))
        if not done:
            self.ray.cancel(self.reference, force=True)
        return bool(done)


@dataclass
class Cluster:
    """A Ray cluster that this process is connected to."""

    ray: Any
    threads: int
    parts: int
    folder: Path
    marker: Path
    with_gpu: bool
    _counted: float = 0.0
    _at_once: int = 1

    @property
    def at_once(self) -> int:
        """As many parts as there is room for, and one that waits, so that a cluster that can grow does."""
        if time.monotonic() - self._counted > SECONDS_BETWEEN_COUNTS:
            room = int(self.ray.cluster_resources().get("CPU", 0)) // self.threads
            self._at_once, self._counted = max(1, min(self.parts, room + 1)), time.monotonic()
        return self._at_once

    def begin(self, part: Part, log: Path) -> RayTask:
        """Submit a part to Ray."""
        task = self.ray.remote(_done_by_node).options(
            num_cpus=self.threads, num_gpus=int(self.with_gpu), max_retries=RETRIES, name=part.name
        )
        reference = task.remote(
            part.arguments, str(log.resolve()), self.threads, str(Path.cwd()), str(self.marker), __version__
        )
        return RayTask(self.ray, reference, log)


@contextmanager
def cluster(jobs: Jobs, parts: int, folder: Path, log: Callable[[str], None]) -> Iterator[Cluster]:
    """Connect to this process's Ray cluster, that of `RAY_ADDRESS`, one on this machine, or a new one of its cores.

    Raises:
        UserError: Ray is not installed or cannot be reached, or a node has another version or does not see the folder.
    """
    with _own_signal_handlers():
        ray = optional.require("ray", extra=EXTRA)
        is_connected = ray.is_initialized()
        if not is_connected:
            os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
            try:
                ray.init(log_to_driver=False, include_dashboard=False, logging_level="warning")
            except Exception as error:
                why = (str(error).strip() or type(error).__name__).splitlines()[-1]
                problem = f"Ray cannot be reached ({why})"
                raise UserError(
                    WHERE, problem=problem, fix="check RAY_ADDRESS, and that `ray status` answers"
                ) from None
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    marker = folder.resolve() / "jobs" / f"{uuid.uuid4().hex}.seen"
    disk.make_folder(marker.parent)
    marker.touch()
    try:
        yield _checked(ray, jobs, parts, folder, marker, log)
    finally:
        marker.unlink(missing_ok=True)
        if not is_connected:
            ray.shutdown()


def _checked(ray: Any, jobs: Jobs, parts: int, folder: Path, marker: Path, log: Callable[[str], None]) -> Cluster:
    """Return the cluster after asking each of its nodes what it sees.

    Raises:
        UserError: one has another version or does not see the folder.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    seen = []
    for node in nodes:
        on_node = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        asked = ray.remote(_seen_by_node).options(num_cpus=0, scheduling_strategy=on_node)
        seen.append(asked.remote(str(marker), str(Path.cwd())))
    try:
        answers = ray.get(seen, timeout=SECONDS_TO_ANSWER)
    except ray.exceptions.GetTimeoutError:
        found = f"none within {SECONDS_TO_ANSWER:.0f} s"
        raise UserError(WHERE, expected="an answer of every node", found=found, fix="see `ray status`") from None
    if blind := [name for name, _, sees in answers if not sees]:
        problem = f"{', '.join(blind)} cannot see {folder.resolve()} or {Path.cwd()}"
        fix = "give an --output on storage that all nodes share, and run the command from a folder there"
        raise UserError(WHERE, problem=problem, fix=fix)
    if others := [f"{version or 'none'} on {name}" for name, version, _ in answers if version != __version__]:
        expected, fix = f"tinydistilbert {__version__} on every node", "install the same version there"
        raise UserError(WHERE, expected=expected, found=", ".join(others), fix=fix)
    cpus = [int(node["Resources"].get("CPU", 0)) for node in nodes if node["Resources"].get("CPU", 0) >= 1]
    if not cpus:
        raise UserError(WHERE, expected="a cluster with CPUs", found="none", fix="add a node, or give --jobs N")
    threads = jobs.threads or max(1, min(min(cpus), sum(cpus) // parts))
    if threads > max(cpus):
        expected, fix = f"at most {max(cpus)}, the CPUs of the largest node", "lower it"
        raise UserError("--threads", expected=expected, found=str(threads), fix=fix)
    with_gpu = jobs.device != "cpu" and ray.cluster_resources().get("GPU", 0) >= 1
    beside = " and a GPU" if with_gpu else ""
    log(
        f"jobs: {parts} on Ray, which has {sum(cpus)} CPUs on {len(nodes)} node{'s' if len(nodes) > 1 else ''}; "
        f"each with {threads}{beside}"
    )
    return Cluster(ray, threads, parts, folder, marker, with_gpu)


@contextmanager
def _own_signal_handlers() -> Iterator[None]:
    """Keep this process's signal handlers, which Ray would replace."""
    is_main = threading.current_thread() is threading.main_thread()
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if is_main:
            signal.signal(signal.SIGTERM, before)
