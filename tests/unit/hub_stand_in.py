"""The part of the Hugging Face hub's HTTP API that an upload uses, on this machine, with its failures."""

import base64
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class StandIn:
    """A hub with one user."""

    fails: dict[str, int] = field(default_factory=dict)
    """The status with which a step (`create`, `commit`) fails; 0 = the connection is cut."""
    existing: dict[str, bool] = field(default_factory=dict)
    """Models by name, and whether they are private."""
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)
    url: str = ""


@contextmanager
def running(hub: StandIn) -> Iterator[StandIn]:
    """Serve it until the body ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

        def _answer(self, content: Any, status: int = 200) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status >= 400:
                self.send_header("X-Error-Message", str(content.get("error", "")))
            self.end_headers()
            self.wfile.write(body)

        def _body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline().split(b";")[0], 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length", 0)))

        def _failed(self, step: str) -> bool:
            hub.asked.append(step)
            status = hub.fails.get(step)
            if status == 0:
                self.close_connection = True
                self.connection.close()
            elif status:
                self._answer({"error": f"the stand-in fails with {status}"}, status)
            return status is not None

        def do_GET(self) -> None:
            """Facts about a model."""
            name = self.path.removeprefix("/api/models/").partition("?")[0]
            if name.removesuffix("/revision/main") in hub.existing:
                name = name.removesuffix("/revision/main")
                self._answer({"id": name, "sha": "0" * 40, "private": hub.existing[name], "siblings": []})
            else:
                self._answer({"error": "not found"}, 404)

        def do_POST(self) -> None:
            """Make a model, and upload files into it."""
            body = self._body()
            if self.path == "/api/repos/create":
                if self._failed("create"):
                    return
                asked = json.loads(body)
                name = f"{asked['organization']}/{asked['name']}"
                if name in hub.existing:
                    self._answer({"url": f"{hub.url}/{name}", "error": "it exists"}, 409)
                    return
                hub.existing[name] = asked.get("visibility") == "private" or bool(asked.get("private"))
                self._answer({"url": f"{hub.url}/{name}", "name": name})
            elif self.path == "/api/validate-yaml":
                self._answer({"errors": [], "warnings": []})
            elif "/preupload/" in self.path:
                files = json.loads(body)["files"]
                self._answer(
                    {"files": [{"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in files]}
                )
            elif "/commit/" in self.path:
                if self._failed("commit"):
                    return
                for line in body.decode().splitlines():
                    item = json.loads(line)
                    if item["key"] == "file":
                        hub.files[item["value"]["path"]] = base64.b64decode(item["value"]["content"])
                self._answer({"commitUrl": f"{hub.url}/me/x/commit/{'1' * 40}", "commitOid": "1" * 40, "success": True})
            else:
                self._answer({"error": f"unknown: {self.path}"}, 404)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
