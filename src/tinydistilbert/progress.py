"""Progress of a long job: a bar on a terminal, a changing line in a notebook, an occasional line elsewhere."""

import atexit
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.progress import Progress as Bar

SECONDS_BETWEEN_LINES = 20.0
"""Seconds between lines if the output is not a terminal."""
SECONDS_BETWEEN_UPDATES = 0.5
"""Seconds between updates of the bar."""
SECONDS_BETWEEN_CHANGES = 2.0
"""Seconds between changes of the line in a notebook."""
WIDE = 100
"""Columns that a terminal needs for the bar to show loss terms."""

_listeners: list[Callable[[dict[str, Any]], object]] = []
_is_silent = False
_bar: "Bar | None" = None
"""The bar on the terminal; at most one exists."""


def duration(seconds: float) -> str:
    """Return seconds as people say them: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def size_in_words(count: float) -> str:
    """Return a number of bytes in readable form, in powers of 1,000."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= size:
            return f"{count / size:.1f} {unit}" if count < 10 * size else f"{count / size:.0f} {unit}"
    return f"{count:.0f} B"


@contextmanager
def listening(callback: Callable[[dict[str, Any]], object] | None) -> Iterator[None]:
    """Pass every event of `emit` in the body to `callback`; None = to nobody."""
    if callback is None:
        yield
        return
    _listeners.append(callback)
    try:
        yield
    finally:
        _listeners.remove(callback)


def emit(**event: Any) -> None:
    """Send an event to the listener: a training step, a measurement after it, a finished stage."""
    for listener in _listeners:
        listener(dict(event))


@contextmanager
def reporting(*, quiet: bool) -> Iterator[None]:
    """Show progress in the body unless `quiet`, and restore the terminal afterwards, however the body ended."""
    global _is_silent
    before, _is_silent = _is_silent, quiet
    try:
        yield
    finally:
        _is_silent = before
        _remove_bar()


@contextmanager
def silence() -> Iterator[None]:
    """Show nothing and send no events in the body."""
    listeners = _listeners[:]
    _listeners.clear()
    try:
        with reporting(quiet=True):
            yield
    finally:
        _listeners[:] = listeners


def say(line: str) -> None:
    """Print a permanent line about progress."""
    if not _is_silent:
        print(line, file=sys.stderr, flush=True)


def _is_notebook() -> bool:
    """Whether this process is a notebook kernel; an IPython console counts as an ordinary terminal."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")


def _is_for_bars() -> bool:
    """Whether standard error is a terminal whose lines can be rewritten; a notebook kernel's may only claim that."""
    if _is_notebook():
        return False
    is_plain = os.environ.get("TERM") == "dumb" or os.environ.get("CI", "").lower() not in ("", "0", "false")
    return sys.stderr.isatty() and not is_plain


def _remove_bar() -> None:
    """Remove the bar from the terminal, and show the cursor again."""
    global _bar
    if _bar is not None:
        _bar.stop()
        _bar = None


def _new_bar(label: str, steps: int, done: int) -> "Bar":
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
    from rich.table import Column

    global _bar
    _remove_bar()  # left by a job that an exception ended
    atexit.register(_remove_bar)
    label_column = Column(no_wrap=True, overflow="ellipsis", ratio=2)
    # Other output goes above the bar; standard output only if it is the same terminal and not a file.
    _bar = Progress(
        TextColumn("{task.description}", markup=False, table_column=label_column),
        BarColumn(bar_width=None, table_column=Column(ratio=1, min_width=8)),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        TextColumn("{task.fields[facts]}", markup=False, style="progress.remaining", table_column=Column(no_wrap=True)),
        console=Console(stderr=True), auto_refresh=False, transient=True, expand=True,
        redirect_stdout=sys.stdout.isatty(), redirect_stderr=True,
    )  # fmt: skip
    _bar.add_task(label, total=steps, completed=done, facts="")
    _bar.start()
    return _bar


class Progress:
    """Shows the job, its step, useful tokens per second, time left and, where they fit, loss terms on standard error.

    Args:
        label: what is done, such as "distill".
        steps: total number of steps.
        done: number of steps done in an earlier process.
    """

    def __init__(self, label: str, steps: int, *, done: int = 0) -> None:
        self.label, self.steps, self.first = label, steps, done
        self.start = self.last = time.monotonic()
        self._bar: Bar | None = None
        self._is_for_bars = _is_for_bars()
        self._is_for_display = _is_notebook()
        self._display: Any = None

    def wants(self, step: int) -> bool:
        """Whether it is time to update after `step` steps; check it before fetching numbers from a device."""
        wait = SECONDS_BETWEEN_CHANGES if self._is_for_display else SECONDS_BETWEEN_LINES
        wait = SECONDS_BETWEEN_UPDATES if self._is_for_bars else wait
        return not _is_silent and (step == self.steps or time.monotonic() - self.last >= wait)

    def line(self, step: int, tokens: int, terms: Mapping[str, float]) -> str:
        """Return the line after `step` steps; this process has read `tokens` useful tokens since its start."""
        rate, left = self._rate_and_time(step, tokens)
        return "  ".join([f"{self.label}: step {step}/{self.steps}", rate, *_terms(terms), left])

    def _rate_and_time(self, step: int, tokens: int) -> tuple[str, str]:
        seconds = max(time.monotonic() - self.start, 1e-9)
        left = seconds / max(step - self.first, 1) * (self.steps - step)
        when = f"{duration(left)} left" if step < self.steps else f"done in {duration(seconds)}"
        return f"{tokens / seconds:,.0f} tokens/s", when

    def show(self, step: int, tokens: int, terms: Mapping[str, float]) -> None:
        """Show the progress; the line after the last step stays."""
        self.last = time.monotonic()
        if self._is_for_display:
            self._show_in_notebook(self.line(step, tokens, terms))
            return
        if not self._is_for_bars or step == self.steps:
            _remove_bar()
            print(self.line(step, tokens, terms), file=sys.stderr, flush=True)
            return
        if self._bar is None or self._bar is not _bar:
            self._bar = _new_bar(self.label, self.steps, step)
        rate, left = self._rate_and_time(step, tokens)
        shown = _terms(terms) if self._bar.console.width >= WIDE else []
        self._bar.update(self._bar.task_ids[0], completed=step, facts="  ".join([rate, *shown, left]), refresh=True)

    def _show_in_notebook(self, line: str) -> None:
        """Change the text of one cell output for the whole job: rich would add an output each time."""
        from IPython.display import display  # type: ignore[import-not-found]  # a kernel has it; it is not a dependency

        content = {"text/plain": line}
        if self._display is None:
            self._display = display(content, raw=True, display_id=True)
        else:
            self._display.update(content, raw=True)

    def note(self, step: int, what: str, numbers: Mapping[str, float]) -> None:
        """Print a permanent line, such as the losses on validation text after `step` steps."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        say(f"{self.label}: step {step}/{self.steps}  {what}: {shown}")


def _terms(terms: Mapping[str, float]) -> list[str]:
    return [f"{name} {value:.3f}" for name, value in terms.items()]
