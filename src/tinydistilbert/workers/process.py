"""One process of this machine that does a part; it stops in good order when its parent dies."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert.storage import disk
from tinydistilbert.training.cores import AT_ONCE

SECONDS_TO_STOP = 120.0
"""Seconds between asking a process to stop, when a training saves a checkpoint, and killing it."""


@dataclass
class Process:
    """A process at work."""

    process: "subprocess.Popen[bytes]"

    def exit_code(self) -> int | None:
        """Return None while it works; negative = the signal that killed it."""
        code = self.process.poll()
        if code is not None and self.process.stdin:
            self.process.stdin.close()
        return code

    def ask_to_stop(self) -> None:
        """Ask it to save a checkpoint and end."""
        if self.process.poll() is not None:
            return
        if sys.platform == "win32" and self.process.stdin:  # there `terminate` would kill it, without a checkpoint
            self.process.stdin.close()  # `stop_with_parent` notices
        else:
            self.process.terminate()

    def wait(self, seconds: float) -> bool:
        """Return whether it ended within that time; otherwise kill it."""
        try:
            self.process.wait(max(0.0, seconds))
            return True
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False
        finally:
            self.exit_code()


def begin(
    arguments: Sequence[str], log: Path, *, threads: int, at_once: int = 1, gpu: str | None = None,
    folder: Path | None = None,
) -> Process:  # fmt: skip
    """Start a command line in a separate process.

    Args:
        arguments: what follows `tinydistilbert`.
        log: file to which all its output is appended.
        threads: threads of every library in the process.
        at_once: processes that use the memory of its device at a time; it plans with its share.
        gpu: the GPU that the process sees; None = all.
        folder: its working folder; None = the current one.
    """
    count = str(threads)
    environment = {**os.environ, "OMP_NUM_THREADS": count, "RAYON_NUM_THREADS": count, "PYTHONUNBUFFERED": "1"}
    environment[AT_ONCE] = str(at_once)
    environment["WORLD_SIZE"] = "1"  # Ray itself may run as several tasks of a Slurm step
    if gpu is not None:
        environment["CUDA_VISIBLE_DEVICES"] = gpu
    disk.make_folder(log.parent)
    with log.open("ab") as stream:
        # A separate session: Ctrl-C then reaches it once, through its parent. A second request would end it at once.
        # Windows has process groups instead.
        process = subprocess.Popen(
            [sys.executable, "-m", "tinydistilbert", *arguments, "--threads", count],
            stdin=subprocess.PIPE, stdout=stream, stderr=subprocess.STDOUT, env=environment, cwd=folder,
            start_new_session=True, creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )  # fmt: skip
    return Process(process)


def stop_with_parent() -> None:
    """In a process that `begin` started, stop in good order as soon as its parent is gone, even if it was killed."""

    def watch() -> None:
        # Nothing is ever written there: the read returns when the other end closes. `sys.stdin` would not do: a waiting
        # thread would hold its lock when the interpreter ends.
        os.read(0, 1)
        main = threading.main_thread().ident
        if hasattr(signal, "pthread_kill") and main is not None:
            signal.pthread_kill(main, signal.SIGTERM)  # which wakes it from whatever it waits for
        else:
            signal.raise_signal(signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
