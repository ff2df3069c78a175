"""Requests to stop: SIGINT and SIGTERM. A first one stops in good order, a second one at once.

Outside of a training nothing is lost by stopping anywhere, since only finished folders count: a request is raised as
KeyboardInterrupt. A training goes on to the end of its step and saves a checkpoint.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Requests:
    """The requests that came while they are noted; true when there is one."""

    def __init__(self) -> None:
        self._numbers: list[int] = []
        self._is_raised = False

    def __bool__(self) -> bool:
        return bool(self._numbers)

    def note(self, number: int, _frame: FrameType | None) -> None:
        """The handler of the signals."""
        for each in SIGNALS:
            if signal.getsignal(each) is not signal.SIG_IGN:
                signal.signal(each, signal.SIG_DFL)  # the next one takes effect at once
        self._numbers.append(number)
        if self._is_raised:
            raise KeyboardInterrupt

    @contextmanager
    def raised(self) -> Iterator[None]:
        """In the body a request is raised as KeyboardInterrupt, one that came before it as well."""
        self._is_raised = True
        try:
            if self:
                raise KeyboardInterrupt
            yield
        finally:
            self._is_raised = False


@contextmanager
def deferred() -> Iterator[Requests]:
    """Note requests instead of dying of them; outside the main thread, whose owner handles them, none comes.

    A signal that the process was told to ignore, as SIGINT is in the background jobs of scripts, stays ignored.
    """
    requests = Requests()
    wanted = [number for number in SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
    try:
        before = {number: signal.signal(number, requests.note) for number in wanted}
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
    """The first request in the body is raised as KeyboardInterrupt, the second ends the process."""
    with deferred() as requests, requests.raised():
        yield
