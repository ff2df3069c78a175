"""Limits of a server: sizes, numbers and times beyond which it refuses requests instead of growing."""

from dataclasses import dataclass

HOST, PORT = "127.0.0.1", 8080


@dataclass(frozen=True)
class Limits:
    """The limits of a server."""

    text_bytes: int = 100_000
    """Bytes of one text, in UTF-8."""
    request_bytes: int = 2_000_000
    """Bytes of a request body."""
    texts: int = 64
    """Texts of one request, counting pairs once."""
    waiting: int = 1024
    """Texts that wait for the model; a request that would exceed this is answered with 503 at once."""
    requests: int = 512
    """Requests that are read or wait at the same time."""
    seconds: float = 10.0
    """Seconds for a client to send a request that it began or to take an answer, and for last answers at the end."""


LIMITS = Limits()
