"""Shows the folder of a demo: a local file server that runs until Ctrl-C."""

import functools
import http.server
import socketserver
import webbrowser
from pathlib import Path
from typing import Any

from tinydistilbert import progress
from tinydistilbert.serve.limits import HOST
from tinydistilbert.serve.run import listening

TYPES = {".mjs": "text/javascript", ".js": "text/javascript", ".wasm": "application/wasm", ".json": "application/json"}


class _Files(http.server.SimpleHTTPRequestHandler):
    def guess_type(self, path: Any) -> str:
        """Return a file's type, as browsers require it for modules and WebAssembly."""
        return TYPES.get(Path(path).suffix) or super().guess_type(path)

    def log_message(self, format: str, *arguments: Any) -> None:
        """Do nothing."""


class _Server(socketserver.ThreadingMixIn, http.server.HTTPServer):
    daemon_threads = True

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Do nothing: a browser that disconnects in the middle of a file is not an error."""


def server_of(folder: Path, port: int = 0) -> http.server.HTTPServer:
    """Return a server for the files of a folder, reachable from this machine only.

    Raises:
        UserError: the port is in use.
    """
    server = _Server((HOST, port), functools.partial(_Files, directory=str(folder)), bind_and_activate=False)
    server.socket.close()
    server.socket = listening(HOST, port)
    server.server_address = server.socket.getsockname()
    return server


def show(folder: Path, port: int = 0) -> None:
    """Open a demo in the browser, and serve it until Ctrl-C.

    Raises:
        UserError: the port is in use.
    """
    with server_of(folder, port) as server:
        address = f"http://{HOST}:{server.server_address[1]}/"
        progress.say(f"{folder} is shown at {address}; press Ctrl-C to stop")
        webbrowser.open(address)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            progress.say("stopped")
