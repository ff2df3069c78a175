"""Run the parts of a study in parallel: output in one place, killed parts once more, failed parts reported."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from tinydistilbert import notices
from tinydistilbert.run_folder import JOBS
from tinydistilbert.storage import disk
from tinydistilbert.workers import process
from tinydistilbert.workers.jobs import Jobs, Part, shares, sharing

SECONDS_BETWEEN_LOOKS = 0.1
STOPPED = 130
"""The exit code of a command that was asked to stop."""


class Running(Protocol):
    """A part at work."""

    def exit_code(self) -> int | None:
        """Return None while it works; negative = the signal that killed it."""

    def ask_to_stop(self) -> None:
        """Ask it to save a checkpoint and end."""

    def wait(self, seconds: float) -> bool:
        """Return whether it ended within that time; otherwise kill it."""


class Place(Protocol):
    """The place where parts run."""

    @property
    def at_once(self) -> int:
        """The number of parts that run at a time."""

    def begin(self, part: Part, log: Path) -> Running:
        """Start a part, and append all its output to the file `log`."""


@dataclass
class ThisMachine:
    """Processes of this machine."""

    at_once: int
    threads: int
    gpus: Sequence[str] = ()
    """GPUs to distribute among the parts, if there are several."""
    _begun: int = 0

    def begin(self, part: Part, log: Path) -> Running:
        """Start a part in a process."""
        gpu = self.gpus[self._begun % len(self.gpus)] if len(self.gpus) > 1 else None
        self._begun += 1
        at_once = sharing(self.at_once, len(self.gpus))
        return process.begin(part.arguments, log, threads=self.threads, at_once=at_once, gpu=gpu)


@dataclass
class _Worker:
    """A running part, and how much of its output was shown."""

    part: Part
    running: Running
    log: Path
    read: int = 0
    attempts: int = 1
    last_line: str = ""
    _rest: bytes = field(default=b"", repr=False)

    def new_lines(self) -> list[str]:
        """Return what it has printed since the last call."""
        try:
            with self.log.open("rb") as stream:
                stream.seek(self.read)
                content = stream.read()
        except OSError:  # on another machine: not there yet
            return []
        self.read += len(content)
        *lines, self._rest = (self._rest + content).split(b"\n")
        printed = [line.decode("utf-8", "replace").rstrip() for line in lines]
        self.last_line = next((line for line in reversed(printed) if line.strip()), self.last_line)
        return [line for line in printed if line]


def run_parts(
    jobs: Jobs, parts: int, next_part: Callable[[], Part | None], ended: Callable[[Part, str], None], *,
    folder: Path, log: Callable[[str], None],
) -> None:  # fmt: skip
    """Run parts until none is left to start and none is running.

    A part that a signal killed is run once more, and continues from its checkpoint. When this process is asked to stop,
    or an exception ends it, all parts save their checkpoints first; when it is killed, they do so by themselves.

    Args:
        jobs: how many parts run at a time, and where.
        parts: number of parts left to do.
        next_part: returns a part to start, or None if there is none for now; called again after each part that ends.
        ended: called when a part has ended, with the reason of its failure, or an empty text.
        folder: the study's folder, on storage that all machines see.
        log: called with each line, the part's name before it.
    """
    if not parts:
        return
    with _place(jobs, parts, folder, log) as place:
        _run_at(place, next_part, ended, folder, log)


def _run_at(
    place: Place, next_part: Callable[[], Part | None], ended: Callable[[Part, str], None], folder: Path,
    log: Callable[[str], None],
) -> None:  # fmt: skip
    workers: list[_Worker] = []
    try:
        while True:
            while len(workers) < place.at_once and (part := next_part()) is not None:
                path = folder / JOBS / f"{_file_name(part.name)}.log"
                path.unlink(missing_ok=True)  # left by an earlier command
                workers.append(_Worker(part, place.begin(part, path), path))
            if not workers:
                break
            for worker in workers[:]:
                code = worker.running.exit_code()
                _show(worker, log)
                if code is None:
                    continue
                if (code < 0 or code == STOPPED) and worker.attempts == 1:
                    log(f"{worker.part.name}: {_killed(code)}; trying once more")
                    worker.attempts, worker.running = 2, place.begin(worker.part, worker.log)
                    continue
                workers.remove(worker)
                if code == 0:
                    worker.log.unlink(missing_ok=True)
                ended(worker.part, _why(worker, code))
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        _stop(workers, log)


@contextmanager
def _place(jobs: Jobs, parts: int, folder: Path, log: Callable[[str], None]) -> Iterator[Place]:
    try:
        if jobs.by_ray:
            from tinydistilbert.workers.on_ray import cluster

            with cluster(jobs, parts, folder, log) as place:
                yield place
        else:
            at_once, threads = shares(jobs, parts, log)
            yield ThisMachine(at_once, threads, visible_gpus() if jobs.device in ("auto", "cuda") else ())
    finally:
        if (folder / JOBS).is_dir() and not any((folder / JOBS).iterdir()):
            disk.remove(folder / JOBS)


def visible_gpus() -> list[str]:
    """The names of the GPUs that this process sees."""
    import torch

    named = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    return named or [str(number) for number in range(torch.cuda.device_count())]


def _file_name(name: str) -> str:
    return "".join(letter if letter.isalnum() or letter in "-." else "-" for letter in name)


def _show(worker: _Worker, log: Callable[[str], None]) -> None:
    known = set(notices.all_notices())  # notices about files, which this process has given too
    for line in worker.new_lines():
        if line not in known:
            log(f"{worker.part.name}: {line}")


def _killed(code: int) -> str:
    if code == STOPPED:
        return "asked to stop by another process"
    try:
        return f"killed by {signal.Signals(-code).name}"
    except ValueError:
        return f"killed by signal {-code}"


def _why(worker: _Worker, code: int) -> str:
    """Why a part failed; empty if it did not."""
    if code == 0:
        return ""
    if code < 0 or code == STOPPED:
        return f"{_killed(code)}, twice"
    return worker.last_line.removeprefix("error: ") or f"exit code {code}"


def _stop(workers: Sequence[_Worker], log: Callable[[str], None]) -> None:
    """Stop the running parts; trainings save their checkpoints."""
    for worker in workers:
        worker.running.ask_to_stop()
    until = time.monotonic() + process.SECONDS_TO_STOP
    try:
        for worker in workers:
            if not worker.running.wait(until - time.monotonic()):
                log(f"{worker.part.name}: killed, as it did not stop within {process.SECONDS_TO_STOP:.0f} s")
            _show(worker, log)
    except BaseException:
        for worker in workers:
            worker.running.wait(0)
        raise
