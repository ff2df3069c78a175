"""How processes of a training notice that another one is gone or does not respond, and what they report."""

import contextlib
from collections.abc import Iterator

from tinydistilbert.errors import RankLost

GONE = "a process of this training has ended, or has not answered for too long"


@contextlib.contextmanager
def peers_answer() -> Iterator[None]:
    """Turn torch's errors about another process that no longer responds into `RankLost`.

    Raises:
        RankLost: instead of torch's error.
    """
    try:
        yield
    except (RuntimeError, ValueError) as error:
        raise RankLost(lost_message(GONE)) from error


def is_of_connection(error: BaseException) -> bool:
    """Return whether the error means that another process does not respond, also in torch's own collectives (FSDP)."""
    from torch.distributed import DistError

    return isinstance(error, DistError) or (isinstance(error, RuntimeError) and "gloo/" in str(error))


def lost_message(why: str) -> str:
    """Return a message with the reason for the stop, and how to continue."""
    return f"{why}; what is finished and the last checkpoint are on the disk: the same command goes on from there"
