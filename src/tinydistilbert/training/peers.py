"""A process of the training that is gone, or does not answer: how the others notice it, and what they say."""

import contextlib
from collections.abc import Iterator

from tinydistilbert.errors import RankLost

GONE = "a process of this training has ended, or has not answered for too long"


@contextlib.contextmanager
def peers_answer() -> Iterator[None]:
    """Report that another process does not answer any more as what it is.

    Raises:
        RankLost: in place of torch's error.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise RankLost(lost_message(GONE)) from error


def is_of_connection(error: BaseException) -> bool:
    """Whether torch says that another process does not answer: also where torch itself asked (FSDP)."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def lost_message(why: str) -> str:
    """Why nothing goes on, and how it does."""
    return f"{why}; what is finished and the last checkpoint are on the disk: the same command goes on from there"
