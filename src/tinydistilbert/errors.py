"""What stops a command in a foreseen way; the command line prints each in one line, with an exit code of its own."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A mistake in a recipe, a file or a flag, in one line: where, what is wrong, and the fix.

    What is wrong is either a value, then `expected` and `found` are nouns, or a `problem` in a sentence of its own.

    Args:
        where: the flag, key, file or file:line that is wrong.
        expected: what would have been right.
        found: what was there instead.
        problem: what is wrong, where "expected X, found Y" would not be a sentence that one reads once.
        fix: what to change, in the imperative.
    """

    def __init__(
        self, where: str, *, fix: str, expected: str | None = None, found: str | None = None, problem: str | None = None
    ) -> None:
        is_value = expected is not None and found is not None
        assert is_value == (problem is None), "either a problem, or what was expected and what was found"
        self.where, self.expected, self.found, self.fix = where, expected, found, fix
        self.problem = f"expected {expected}, found {found}" if problem is None else problem
        super().__init__(_in_one_line(f"{where}: {self.problem}; {fix}"))


def _in_one_line(text: str) -> str:
    """The text for a terminal: what came out of a file or a name may break lines, or move the cursor."""
    plain = text.replace("\n", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)


class Interrupted(Exception):
    """The user or the system asked to stop; a checkpoint was saved, and the same command goes on from it."""


class NonFiniteLoss(ArithmeticError):
    """A loss or a gradient became infinite or not a number; nothing was updated with it."""


class OutOfMemory(Exception):
    """Not even the smallest part of a step fits into the memory."""


class DiskError(Exception):
    """The disk is full or failing. What was durable before is as it was, and the same command goes on from it.

    Args:
        path: what was being written.
        found: what is wrong, in words.
        needed: bytes that were to be written; 0 = unknown.
        free: bytes that are free there.
    """

    def __init__(self, path: Path, found: str, *, needed: int, free: int) -> None:
        self.path, self.needed, self.free = path, needed, free
        room = f"room for {needed / 1e6:,.1f} MB" if needed else "room to write"
        there = f"{found} ({free / 1e6:,.1f} MB free)"
        super().__init__(f"{path}: expected {room}, found {there}; free some, then the same command goes on")


@contextmanager
def as_user_error(where: str, *, expected: str, fix: str) -> Iterator[None]:
    """Report whatever a library stumbles over in the body as a mistake in the file that it reads.

    Libraries raise what they like at a file that they were not made for, the Rust ones even exceptions of their own.

    Raises:
        UserError: instead of any other exception but those that are not about the file.
    """
    try:
        yield
    except (UserError, DiskError):
        raise
    except Exception as error:
        raise UserError(where, expected=expected, found=_in_a_line(error), fix=fix) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # of Rust; its class cannot be imported
            raise
        raise UserError(where, expected=expected, found=_in_a_line(error), fix=fix) from None


def _in_a_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
