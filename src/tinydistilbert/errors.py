"""The errors that a command may end with; the command line prints each on one line, and each has its exit code."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class UserError(ValueError):
    """A mistake in a recipe, a file or a flag; its one line says where it is, what is wrong and how to fix it.

    Give either `expected` and `found`, as nouns, or `problem`, as a sentence.

    Args:
        where: the flag, key, file or file:line that is wrong.
        expected: the value that would be right.
        found: the actual value.
        problem: what is wrong, where "expected X, found Y" would be hard to read.
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
    """Return the text without control characters: parts that come from files could break lines or move the cursor."""
    plain = text.replace("\n", " ")
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in plain)


class Interrupted(Exception):
    """The user or the system requested a stop. A checkpoint was saved; the same command resumes from it."""


class NonFiniteLoss(ArithmeticError):
    """A loss or a gradient became infinite or NaN; no weight was updated with it."""


class MissedTarget(Exception):
    """Everything was made, but nothing reaches the target; the message says how close it came."""


class UploadFailed(Exception):
    """The hub failed or could not be reached; the files are still here, and the same call tries again."""


class SourceLost(Exception):
    """A data set could not be read to its end. What was prepared of it stays, and the same command continues."""


class OutOfMemory(Exception):
    """Not even a micro-batch of one example fits into memory, or something other than a training does not fit."""


class DeviceLost(Exception):
    """The GPU failed. Finished work and the last checkpoint stay, and the same command continues there."""


class RankLost(Exception):
    """One of several processes that train together has ended. The same command continues from the last checkpoint."""


class ReportedElsewhere(Exception):
    """Another of the processes that train together has already reported why they end."""


class DiskError(Exception):
    """The disk is full or failing. Data that was already durable is unchanged, and the same command resumes from it.

    Args:
        path: the file or folder that was being written.
        failure: what is wrong with the disk, as a noun.
        needed: bytes to write; 0 = unknown.
        free: free bytes on that disk.
    """

    def __init__(self, path: Path, failure: str, *, needed: int, free: int) -> None:
        self.path, self.needed, self.free = path, needed, free
        space = f"{needed / 1e6:,.1f} MB to write, " if needed else ""
        space += f"{free / 1e6:,.1f} MB free"
        super().__init__(f"{path}: {failure} ({space}); free some space, then run the same command to go on")


@contextmanager
def as_user_error(where: str, *, expected: str, fix: str) -> Iterator[None]:
    """Turn any exception that a library raises in the body into a `UserError` about the file that it reads.

    On a malformed file, libraries raise exceptions of any class, and Rust libraries some that are not an `Exception`.

    Raises:
        UserError: instead of the library's exception.
    """
    try:
        yield
    except (UserError, DiskError):
        raise
    except Exception as error:
        raise UserError(where, expected=expected, found=_last_line(error), fix=fix) from None
    except BaseException as error:
        if type(error).__name__ != "PanicException":  # raised by Rust libraries; its class cannot be imported
            raise
        raise UserError(where, expected=expected, found=_last_line(error), fix=fix) from None


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__
