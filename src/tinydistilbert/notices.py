"""Notices: what was dropped, renamed or read in an unexpected way, with counts; each is given once per command."""

import logging
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

_logger = logging.getLogger(__name__)
_given: dict[str, None] = {}
_recorded: list[dict[str, None]] = []
_marks: list[str] = []


def notice(where: str, text: str) -> None:
    """Warn that something was left out, renamed or read in a debatable way, with the count.

    The line goes through `logging`, so that `--quiet` keeps it and a program can collect it. A line that was given
    since `begin` is not repeated, because a file is read before, during and after a run.

    Args:
        where: the file, line or column.
        text: what was done, with counts, and how to change that.
    """
    repeat([" ".join(f"{where}: {' '.join(_marks)} {text}".split())])


def repeat(lines: Iterable[str]) -> None:
    """Give the lines that `recorded` collected again, because what was read then is used again."""
    for line in lines:
        _say(line)


def _say(line: str) -> None:
    for lines in _recorded:
        lines[line] = None
    if line not in _given:
        _given[line] = None
        _logger.warning("%s", line)


def all_notices() -> tuple[str, ...]:
    """Return the lines since `begin`, in their order."""
    return tuple(_given)


@contextmanager
def marked(mark: str) -> Iterator[None]:
    """Put a mark before the text of every notice in the body."""
    _marks.append(mark)
    try:
        yield
    finally:
        _marks.pop()


@contextmanager
def recorded() -> Iterator[Collection[str]]:
    """Collect the notices of the body, including those that were already given."""
    lines: dict[str, None] = {}
    _recorded.append(lines)
    try:
        yield lines.keys()
    finally:
        _recorded.remove(lines)


def begin() -> None:
    """Forget all lines so far, at the start of a command."""
    _given.clear()


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: `1 row`, `2 rows`, with thousands separators; `many` is an irregular plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
