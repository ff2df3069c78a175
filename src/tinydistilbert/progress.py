"""One line that says how far a long job is: rewritten in place on a terminal, now and then a new line elsewhere."""

import sys
import time
from collections.abc import Mapping

SECONDS_BETWEEN_LINES = 20.0
"""Where the output is a file or a pipe, a line as often as this."""


def duration(seconds: float) -> str:
    """Seconds as people say them: 42 s, 3 min 05 s, 2 h 07 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Progress:
    """Prints to standard error: what, how far, useful tokens per second, loss terms, time left."""

    def __init__(self, label: str, steps: int, *, done: int = 0) -> None:
        self.label, self.steps, self.first = label, steps, done
        self.terminal = sys.stderr.isatty()
        self.start = self.last = time.monotonic()

    def wants(self, step: int) -> bool:
        """Whether it is time for a line after `step` steps; ask before fetching numbers from a device."""
        wait = 0.5 if self.terminal else SECONDS_BETWEEN_LINES
        return step == self.steps or time.monotonic() - self.last >= wait

    def line(self, step: int, tokens: int, terms: Mapping[str, float]) -> str:
        """The line after `step` steps, of which this process did those since its start, with `tokens` useful tokens."""
        seconds = max(time.monotonic() - self.start, 1e-9)
        left = seconds / max(step - self.first, 1) * (self.steps - step)
        numbers = "  ".join(f"{name} {value:.3f}" for name, value in terms.items())
        when = f"{duration(left)} left" if step < self.steps else f"done in {duration(seconds)}"
        return f"{self.label}: step {step}/{self.steps}  {tokens / seconds:,.0f} tokens/s  {numbers}  {when}"

    def show(self, step: int, tokens: int, terms: Mapping[str, float]) -> None:
        """Print the line."""
        self.last = time.monotonic()
        text = self.line(step, tokens, terms)
        if self.terminal:
            sys.stderr.write(f"\r\033[K{text[:200]}" + ("\n" if step == self.steps else ""))
        else:
            sys.stderr.write(text + "\n")
        sys.stderr.flush()

    def note(self, step: int, what: str, numbers: Mapping[str, float]) -> None:
        """Print a line that stays, such as the losses on validation text after `step` steps."""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in numbers.items())
        sys.stderr.write(
            ("\r\033[K" if self.terminal else "") + f"{self.label}: step {step}/{self.steps}  {what}: {shown}\n"
        )
        sys.stderr.flush()
