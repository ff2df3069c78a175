"""What was dropped, renamed or read otherwise than a user may expect, with counts: said once a command."""

import logging

_logger = logging.getLogger(__name__)
_given: dict[str, None] = {}


def notice(where: str, text: str) -> None:
    """Warn that something was left out, renamed or read in a way that could be doubted, with how many there are.

    The line goes through `logging`, so that `--quiet` keeps it and a program can collect it. One that was given since
    `begin` is not repeated: a file is read before a run, in it, and after it.

    Args:
        where: the file, line or column.
        text: what was done, with counts, and how to have it otherwise.
    """
    line = " ".join(f"{where}: {text}".split())
    if line not in _given:
        _given[line] = None
        _logger.warning("%s", line)


def all_notices() -> tuple[str, ...]:
    """The lines since `begin`, in their order."""
    return tuple(_given)


def begin() -> None:
    """Forget the lines so far: a command begins."""
    _given.clear()


def counted(count: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`, with thousands separators; `many` where it is not `one` with an s."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
