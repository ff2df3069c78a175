"""Runs a server for a folder until SIGTERM or Ctrl-C; it then answers pending requests and ends."""

import errno
import ipaddress
import math
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinydistilbert import progress, signals
from tinydistilbert.errors import UserError
from tinydistilbert.optional import require
from tinydistilbert.serve.app import application
from tinydistilbert.serve.batches import Batcher
from tinydistilbert.serve.limits import HOST, LIMITS, PORT, Limits
from tinydistilbert.serve.model import load_served

if TYPE_CHECKING:
    from asyncio import Transport

    import uvicorn

WAITING_CONNECTIONS = 2048
"""Connections that the system holds before they are accepted."""


def serve(
    folder: str | Path, *, port: int = PORT, host: str = HOST, threads: int = 0, defer_below: float | None = None,
    limits: Limits = LIMITS,
) -> None:  # fmt: skip
    """Serve an exported model over HTTP, with the API of text-embeddings-inference, until stopped.

    Args:
        folder: a model folder made by `export`, `compress` or `shrink`.
        port: port to listen on; 0 = any free one, which is printed.
        host: address to listen on; a non-local one can be reached from other machines, without a password.
        threads: threads per operation of the model; 0 = the cores that this process may use.
        defer_below: confidence below which an answer has `"defer": true`; None = the threshold in the folder.
        limits: limits beyond which requests are refused.

    Raises:
        UserError: the port is in use, the address does not belong to this machine, there is no exported model, or
            starlette and uvicorn are not installed.
    """
    for library in ("starlette", "uvicorn"):
        require(library, extra="serve")
    with listening(host, port) as listener:
        model = load_served(Path(folder), threads=threads, defer_below=defer_below)
        batcher = Batcher(model.predictor, limits.waiting)
        try:
            address = _url(host, listener.getsockname()[1])
            if not _is_own(host):
                progress.say(f"warning: other machines can reach {address}, without password or encryption")
            progress.say(f"{folder} is served at {address} (POST /predict); press Ctrl-C to stop")
            with signals.deferred() as requests:
                server_for(application(model, batcher, limits), limits, requests).run(sockets=[listener])
        finally:
            batcher.close()
    progress.say("stopped")


def listening(host: str, port: int) -> socket.socket:
    """Return the socket, bound before the model is loaded.

    Raises:
        UserError: another program uses the port, it is not allowed or there is none of this number, or the address does
            not belong to this machine.
    """
    if port not in range(65536):  # the system would take the remainder
        raise UserError("--port", expected="a port from 0 to 65535", found=repr(port), fix="correct it")
    try:
        addresses = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, _, _, _, address = addresses[0]
        return socket.create_server(address, family=family, backlog=WAITING_CONNECTIONS)
    except (socket.gaierror, UnicodeError):  # the latter for an empty or very long part between two dots
        raise UserError("--host", expected="an address of this machine", found=repr(host), fix=f"use {HOST}") from None
    except OSError as error:
        fix = "give another one, or --port 0 for any that is free"
        if error.errno == errno.EADDRINUSE:
            problem = f"port {port} of {host} is in use by another program"
        elif error.errno == errno.EACCES:
            problem = f"this user is not allowed to open port {port}"
        else:
            problem, fix = f"{host} is not an address of this machine", f"use --host {HOST}"
            raise UserError("--host", problem=problem, fix=fix) from None
        raise UserError("--port", problem=problem, fix=fix) from None


def _is_own(host: str) -> bool:
    """Whether only this machine can reach an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:  # a host name
        return False


def _url(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def server_for(app: Any, limits: Limits, requests: signals.Requests) -> "uvicorn.Server":
    """Return a Uvicorn server with this program's signal handling and without a request log."""
    import contextlib
    from collections.abc import Iterator

    import uvicorn

    class Server(uvicorn.Server):
        @contextlib.contextmanager
        def capture_signals(self) -> Iterator[None]:
            yield

        async def on_tick(self, counter: int) -> bool:
            return bool(requests) or await super().on_tick(counter)

    config = uvicorn.Config(
        app, http=_impatient(limits.seconds), ws="none", lifespan="off", log_config=None, log_level="critical",
        access_log=False, server_header=False, timeout_keep_alive=math.ceil(limits.seconds),
        timeout_graceful_shutdown=math.ceil(limits.seconds),
    )  # fmt: skip
    return Server(config)


def _impatient(seconds: float) -> Any:
    """Return a Uvicorn protocol that drops clients who open a connection, or begin a request, and then stall.

    The time limit for request bodies is in `app.py`; the one for answers that the client does not read is here.
    """
    from uvicorn.protocols.http.h11_impl import H11Protocol

    class Impatient(H11Protocol):
        _cut: Any = None
        _stalled: Any = None

        def connection_made(self, transport: "Transport") -> None:  # type: ignore[override]
            super().connection_made(transport)
            # asyncio does this only for sockets that declare TCP; without it each answer waits 40 ms for the client.
            transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._watch()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            self._watch()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._watch()

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stalled = self.loop.call_later(seconds, self.transport.abort)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._end("_stalled")

        def connection_lost(self, exc: Exception | None) -> None:
            self._end("_cut")
            self._end("_stalled")
            super().connection_lost(exc)

        def _watch(self) -> None:
            cycle: Any = self.cycle  # None before the first request
            if cycle is not None and not cycle.response_complete:
                self._end("_cut")
            elif self._cut is None:
                self._cut = self.loop.call_later(seconds, self.transport.abort)

        def _end(self, name: str) -> None:
            if (timer := getattr(self, name)) is not None:
                timer.cancel()
                setattr(self, name, None)

    return Impatient
