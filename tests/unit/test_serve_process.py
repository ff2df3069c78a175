"""serve as a process: without torch, the answers of `predict`, signals, memory; and the image that holds it."""

import http.client
import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from tinydistilbert.optional import TRAINING
from tinydistilbert.predictor import load

ROOT = Path(__file__).resolve().parents[2]
Maker = Callable[[str, str], Path]
SERVER = f"""
import sys
class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {sorted(TRAINING)!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Missing())
from tinydistilbert.cli.main import main
main(["serve", *sys.argv[1:]])
"""


@contextmanager
def process(*command: str | Path) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """A server in a process of its own, and its port, which it says."""
    server = subprocess.Popen([*map(str, command), "--port", "0"], stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    try:
        lines = []
        for line in server.stderr:
            lines.append(line)
            if port := re.search(r"http://127.0.0.1:(\d+)", line):
                yield server, int(port[1])
                break
        else:
            raise AssertionError("".join(lines))
    finally:
        server.kill()
        server.wait(30)
        server.stderr.close()


def ask(port: int, inputs: Any) -> Any:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", "/predict", json.dumps({"inputs": inputs, "truncate": True}))
    response = connection.getresponse()
    content = json.loads(response.read())
    connection.close()
    assert response.status == 200, content
    return content


@pytest.mark.long
@pytest.mark.parametrize("head", ["classification", "regression", "span"])
def test_without_torch_the_answers_are_those_of_predict_and_it_ends_when_asked(exported: Maker, head: str) -> None:
    folder = exported("distilbert" if head == "regression" else "bert", head)
    texts = ["a cat", "the student learns " * 30, "ünder [SEP]", "<b>x</b>", ""] * 5
    pairs = ["Paris lies on the river Seine. " * 30] * len(texts) if head == "span" else None
    expected = load(folder).predict(texts, pairs)
    inputs: list[Any] = [[text] for text in texts]
    if pairs:
        inputs = [{"question": q, "context": c} for q, c in zip(texts, pairs, strict=True)]
    with process(sys.executable, "-c", SERVER, folder) as (server, port):
        with ThreadPoolExecutor(8) as pool:
            alone = [*pool.map(lambda one: ask(port, [one])[0], inputs)]
        for answers in (alone, ask(port, inputs)):
            for answer, like in zip(answers, expected, strict=True):
                assert answer[0]["score"] == pytest.approx(like["score"], abs=1e-4)
                assert answer[0].get("label") == like.get("label") and answer[0].get("answer") == like.get("answer")
        before = psutil.Process(server.pid).memory_info().rss
        for _ in range(20):
            ask(port, inputs)
        assert psutil.Process(server.pid).memory_info().rss - before < 40e6
        with ThreadPoolExecutor(1) as pool:
            last = pool.submit(ask, port, inputs)
            time.sleep(0.1)
            server.send_signal(signal.SIGTERM)
            assert len(last.result()) == len(inputs), "what was asked is answered"
        assert server.wait(30) == 0


def image() -> str:
    return (ROOT / "Dockerfile").read_text(encoding="utf-8")


def test_the_image_installs_the_extra_alone_and_says_that_it_was_not_built() -> None:
    text = image()
    assert "was not built" in text
    (step,) = re.findall(r"^RUN pip install (.*?)(?:&&|$)", text, re.M)
    assert "'/src[serve]'" in step and "-c /src/constraints.txt" in step and "torch" not in step
    copied = {name for line in re.findall(r"^COPY (.*) \S+$", text, re.M) for name in line.split()}
    assert all((ROOT / name).exists() for name in copied)
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert ignored[0] == "*" and {name.removeprefix("!") for name in ignored[1:]} == copied
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = {re.split(r"[>=\[]", name)[0] for name in extras["serve"]}
    assert names == {"tinydistilbert", "starlette", "uvicorn"} and extras["serve"][0] == "tinydistilbert[run]"
    entry = json.loads(re.findall(r"^ENTRYPOINT (.*)$", text, re.M)[0])
    assert entry[:2] == ["tinydistilbert", "serve"], "the exec form, so that SIGTERM reaches the server"


@pytest.mark.slow
def test_the_pip_step_of_the_image_in_a_fresh_environment(exported: Maker, tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (step,) = re.findall(r"^RUN pip install (.*?)(?:&&|$)", image(), re.M)
    words = [word.strip("'").replace("/src", str(ROOT)) for word in step.split()]
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    pip = [tmp_path / "venv" / "bin" / "python", "-m", "pip"]
    subprocess.run([*pip, "install", "--quiet", *words], check=True, env=environment)
    listed = subprocess.run([*pip, "list", "--format=freeze"], check=True, env=environment, capture_output=True)
    assert not re.search(rb"^(torch|transformers)==", listed.stdout, re.M)
    with process(tmp_path / "venv" / "bin" / "tinydistilbert", "serve", exported("bert", "classification")) as (
        _,
        port,
    ):
        assert ask(port, "a cat")[0]["label"] in ("bad", "fair", "good")
