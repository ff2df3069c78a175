"""Stop requests: SIGINT and SIGTERM. The first stops the program cleanly, the second at once.

Under a launcher of several processes, the second has no effect: with Ctrl-C each process gets one from the terminal and
one from the launcher, and the launcher itself ends processes that take too long.

Outside of training, stopping at any moment loses nothing, since only finished folders count: the request is raised as
KeyboardInterrupt (`handled`). Training first finishes its step and saves a checkpoint (`deferred`).
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
"""Errors that a received request does not replace. `UserError` is not among them: our code may have made it from an
error that a library raised in place of the request, and a real mistake will come back."""
LATER = 0.01
"""Seconds after which a request that could not be raised is raised again."""


class Requests:
    """The received stop requests; true if there is one."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._is_raised = False

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def note(self, number: int, frame: FrameType | None) -> None:
        """The signal handler."""
        if self._is_raised and _is_finalizing(frame):  # there Python would print the exception and continue
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
        """Raise a request as KeyboardInterrupt in the body; an earlier request is raised at the start of the body."""
        self._is_raised = True
        try:
            if self:
                raise KeyboardInterrupt
            yield
        except OWN_ERRORS:
            raise
        except Exception as error:
            # A library may have replaced the request by an error of its own, as numpy does when it asks a file for its
            # number, or torch when it asks a storage for its length: an intact model would then be reported as damaged.
            if self:
                raise KeyboardInterrupt from error
            raise
        finally:
            self._is_raised = False


def _is_finalizing(frame: FrameType | None) -> bool:
    """Whether the signal interrupted the `__del__` of an object, or code called by it."""
    while frame is not None:
        if frame.f_code.co_name == "__del__":
            return True
        frame = frame.f_back
    return False


@contextmanager
def deferred() -> Iterator[Requests]:
    """Record requests for the body to check, instead of ending the process.

    Outside the main thread, which alone can handle signals, no request is received. A signal that the process ignores,
    as background jobs of scripts ignore SIGINT, stays ignored.
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
