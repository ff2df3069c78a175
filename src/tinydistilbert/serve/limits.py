"""What a server bears: sizes, numbers and times from which on it refuses instead of growing."""

from dataclasses import dataclass

HOST, PORT = "127.0.0.1", 8080


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    text_bytes: int = 100_000
    """Of one text, in UTF-8."""
    request_bytes: int = 2_000_000
    """Of the body of a request."""
    texts: int = 64
    """Of one request, pairs counted once."""
    waiting: int = 1024
    """Texts that wait for the model; a request that would be beyond is answered with 503 at once."""
    requests: int = 512
    """That are read or wait at the same time."""
    seconds: float = 10.0
    """In which a client has to send a request that it began, or to take an answer; and to be answered at the end."""


LIMITS = Limits()
