"""doctor: what it finds, what it says of what is missing, without torch and without a network."""

import http.client
import json
import os
import subprocess
import sys
import time
import tomllib
from http.server import BaseHTTPRequestHandler, HTTPServer
from importlib import metadata
from pathlib import Path
from threading import Thread

import pytest

import tinydistilbert as td
from tests.unit.test_light import COMMAND_LINE, in_a_light_installation
from tinydistilbert.api import doctor as doctoring
from tinydistilbert.api.doctor import Checkup, Finding


def by_name(checkup: Checkup, section: str) -> dict[str, Finding]:
    return {finding.name: finding for finding in checkup.findings if finding.section == section}


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.mark.usefixtures("offline")
def test_it_looks_at_everything_and_asks_no_hub_where_that_is_forbidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setattr(doctoring, "_asked", lambda _: pytest.fail("the hub was asked"))
    monkeypatch.setattr("tinydistilbert.models.wheel.wheel_folder", lambda: "here")
    checkup = td.doctor()
    sections = list(dict.fromkeys(finding.section for finding in checkup.findings))
    assert sections == [
        "Versions", "Processor", "Training", "Memory and disk", "Hugging Face hub", "Models", "Extras",
    ]  # fmt: skip
    assert by_name(checkup, "Versions")["torch"].value == metadata.version("torch")
    assert by_name(checkup, "Training")["precision = auto"].value.startswith(("fp32", "bf16"))
    assert "usable: " in by_name(checkup, "Processor")["cores"].value
    assert "not asked" in by_name(checkup, "Hugging Face hub")["reached"].value
    assert by_name(checkup, "Hugging Face hub")["token"].value == "there is one" and "hf_secret" not in repr(checkup)
    project = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text(encoding="utf-8"))
    assert by_name(checkup, "Extras").keys() == project["project"]["optional-dependencies"].keys()
    for finding in checkup.findings:
        assert finding.value in repr(checkup)


def test_what_is_missing_or_too_old_is_named_with_its_cure(monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = [
        "onnx>=1.17; extra == 'onnx'",
        "numpy>=2.0",
        "h5py<9,>=3.11; extra == 'elmo'",
        "pytest>=8; extra == 'dev'",
    ]
    versions = {"onnx": "1.16.2"}

    def version(name: str) -> str:
        if name not in versions:
            raise metadata.PackageNotFoundError(name)
        return versions[name]

    monkeypatch.setattr(metadata, "requires", lambda _: wanted)
    monkeypatch.setattr(metadata, "version", version)
    extras = {finding.name: finding for finding in doctoring._extras()}
    assert "onnx 1.16.2 is too old" in extras["onnx"].value and "tinydistilbert[onnx]" in extras["onnx"].fix
    assert extras["elmo"].value == "missing: h5py" and "dev" not in extras and not extras["run"].fix
    versions |= {"onnx": "1.17", "h5py": "3.11.0"}
    assert {finding.fix for finding in doctoring._extras()} == {""}
    (torch,) = doctoring._torch()
    assert "nothing can be trained" in torch.value and "tinydistilbert[train]" in torch.fix


@pytest.mark.parametrize("status", [200, 404, 503])
def test_a_hub_answers_or_not(monkeypatch: pytest.MonkeyPatch, status: int) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    monkeypatch.setenv("HF_ENDPOINT", f"http://127.0.0.1:{server.server_address[1]}")
    reached = next(doctoring._hub())
    server.shutdown()
    server.server_close()
    assert (
        ("it answers with an error (503)" in reached.value) if status == 503 else reached.value.endswith("it answers")
    )
    assert bool(reached.fix) == (status == 503)
    assert "no answer" in next(doctoring._hub()).value, "the server is gone"


def test_a_hub_that_speaks_no_http(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise http.client.BadStatusLine("SSH-2.0")

    monkeypatch.setattr(doctoring.urllib.request, "urlopen", fail)
    assert doctoring._asked("http://127.0.0.1:22") == "no answer: SSH-2.0"


def test_a_hub_that_says_nothing_does_not_hold_it_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctoring, "_asked", lambda _: time.sleep(60) or "")
    monkeypatch.setattr(doctoring, "HUB_SECONDS", 0.05)
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert "no answer in 0.05 seconds" in next(doctoring._hub()).value


@pytest.mark.long
@pytest.mark.usefixtures("offline")
def test_it_runs_where_nothing_can_be_trained() -> None:
    done = in_a_light_installation(COMMAND_LINE, "doctor", "--json")
    assert done.returncode == 0, done.stderr
    values = {finding["name"]: finding for finding in json.loads(done.stdout)}
    assert "nothing can be trained" in values["torch"]["value"] and "[train]" in values["torch"]["fix"]
    assert "GB available" in values["memory"]["value"]
    command = [sys.executable, "-m", "tinydistilbert", "doctor"]
    printed = subprocess.run(command, env=os.environ, capture_output=True, text=True, check=True).stdout
    assert "Processor:" in printed and "precision = auto" in printed
