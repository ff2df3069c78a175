"""Requests to stop: SIGINT and SIGTERM. The first stops the program in good order, the second at once.

Under a launcher of several processes the second changes nothing: with Ctrl-C each process gets one from the terminal
and one from the launcher, which itself ends whoever takes too long.

Outside of a training nothing is lost by stopping at any moment, since only finished folders count: the request is
raised as KeyboardInterrupt (`handled`). A training finishes its step and saves a checkpoint first (`deferred`).
"""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from tinydistilbert.errors import (
    DiskError,
    Interrupted,
    NonFiniteLoss,
    OutOfMemory,
    RankLost,
    ReportedElsewhere,
)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
OWN_ERRORS = (DiskError, NonFiniteLoss, OutOfMemory, Interrupted, RankLost, ReportedElsewhere)
"""Errors that stay what they are although a request was received. A mistake of the user's is not among them: it may be
what our own code made of the error that a library put in the place of the request, and if it is real, it comes back."""
LATER = 0.01
"""Seconds after which a request that could not be raised comes again."""


class Requests:
    """The requests that have been received; true when there is one."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._is_raised = False

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._is_raised and _is_finalizing(frame):  # where Python would print what is raised, and go on
            threading.Timer(LATER, os.kill, (os.getpid(), number)).start()
            return
        if (os.environ.get("WORLD_SIZE") or "1") != "1":
            if self:
                return
            self._numbers.append(number)
            if self._is_raised:
                raise KeyboardInterrupt
            return
        for each in SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, signal.SIG_DFL)  # the next one takes effect at once
        self._numbers.append(number)
        if self._is_raised:
            raise KeyboardInterrupt

    @contextmanager
    def raised(self) -> Iterator[None]:
        """Raise a request as KeyboardInterrupt in the body; one that was received before is raised at its beginning."""
        self._is_raised = True
        try:
            if self:
                raise KeyboardInterrupt
            yield
        except OWN_ERRORS:
            raise
        except Exception as error:
            # A library may have put an error of its own in its place, as numpy does that asks a file for its number, or
            # torch that asks a storage for its length: then a model in good order would be called a damaged one.
            if self:
                raise KeyboardInterrupt from error
            raise
        finally:
            self._is_raised = False


def _is_finalizing(frame: FrameType | None) -> bool:
    """Whether what was interrupted is the `__del__` of an object, or was called by one."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def deferred() -> Iterator[Requests]:
    """Record requests, for the body to look at, instead of ending the process.

    Outside the main thread, which alone can handle signals, none is received. A signal that the process ignores, as
    background jobs of scripts ignore SIGINT, stays ignored.
    """
    requests = Requests()
    not_ignored = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, requests.note) for number in not_ignored}
    except ValueError:  # not in the main thread
        yield requests
        return
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def handled() -> Iterator[None]:
    """Raise the first request in the body as KeyboardInterrupt; the second ends the process."""
    with deferred() as requests, requests.raised():
        yield
