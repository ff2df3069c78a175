"""Chromium without a window, told what to do by its own protocol over a pipe: no package is needed for that."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


class Browser:
    """A page."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest, self._number, self.events = read, write, b"", 0, list[dict[str, Any]]()
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def send(self, method: str, *, session: str | None = None, **parameters: Any) -> dict[str, Any]:
        self._number += 1
        message: dict[str, Any] = {"id": self._number, "method": method, "params": parameters}
        os.write(self._write, json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._read, 2**16) or b"{}\0"
            line, _, self._rest = self._rest.partition(b"\0")
            answer = json.loads(line)
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                result: dict[str, Any] = answer["result"]
                return result
            self.events.append(answer)

    def __call__(self, method: str, **parameters: Any) -> dict[str, Any]:
        return self.send(method, session=self.session, **parameters)

    def value(self, expression: str) -> Any:
        reply = self("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in reply, reply
        return reply["result"].get("value")

    def wait(self, expression: str, seconds: float = 120) -> None:
        end = time.monotonic() + seconds
        while not self.value(expression):
            assert time.monotonic() < end, (expression, self.value("document.body.innerText"), self.logged())
            time.sleep(0.1)

    def logged(self) -> list[str]:
        return [json.dumps(event["params"]) for event in self.events
                if event.get("method") in ("Log.entryAdded", "Runtime.exceptionThrown")]  # fmt: skip

    def key(self, key: str, code: int, text: str = "", modifiers: int = 0) -> None:
        common = {"key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers}
        self("Input.dispatchKeyEvent", type="keyDown", text=text, **common)
        self("Input.dispatchKeyEvent", type="keyUp", **common)


@contextmanager
def browser(profile: Path) -> Iterator[Browser]:
    to_it, write_end = os.pipe()
    read_end, from_it = os.pipe()
    options = f"--headless=new --no-sandbox --disable-gpu --remote-debugging-pipe --user-data-dir='{profile}'"
    command = f"exec {CHROMIUM} {options} 3<&{to_it} 4>&{from_it}"
    process = subprocess.Popen(
        ["bash", "-c", command], pass_fds=(to_it, from_it), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_it)
    os.close(from_it)
    try:
        yield Browser(read_end, write_end)
    finally:
        process.kill()
        process.wait(30)
        os.close(write_end)
        os.close(read_end)
