"""serve: the contract, the queue, and what it refuses, with a model that is made of a few lines; and bad folders."""

import http.client
import json
import math
import shutil
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tinydistilbert import signals
from tinydistilbert.errors import UserError
from tinydistilbert.predictor import Prediction
from tinydistilbert.serve.app import application, as_items
from tinydistilbert.serve.asked import Refused, read_request
from tinydistilbert.serve.batches import Batcher, Full, Waiting, of_like_length
from tinydistilbert.serve.limits import LIMITS, Limits
from tinydistilbert.serve.model import Served, load_served
from tinydistilbert.serve.openapi import openapi
from tinydistilbert.serve.run import listening, serve, server_for

SECRET = "the patient's secret"
HOSTILE = '<img src=x onerror=alert(1)>"\u2028\x1b[31m'


class Echo:
    """Stands in for a predictor: answers a text with its length, fails on `bad`, and can be held up."""

    kind, labels, text_limit, truncation_side = "classification", ("short", HOSTILE), 8, "right"

    def __init__(self, kind: str = "classification") -> None:
        self.kind = kind
        self.batches: list[list[str]] = []
        self.go = threading.Event()
        self.go.set()

    def predict(self, texts: Sequence[str], pairs: Sequence[str] | None = None) -> list[Prediction]:
        self.batches.append([*texts])
        assert self.go.wait(30)
        if "bad" in texts:
            raise RuntimeError(SECRET)
        assert pairs is None or len(pairs) == len(texts)
        return [self.answer(text, pairs[i] if pairs else None) for i, text in enumerate(texts)]

    def answer(self, text: str, pair: str | None) -> Prediction:
        long = len(text) / (len(text) + 10)
        scores = {"short": 1 - long, HOSTILE: long}
        if self.kind == "span":
            return {"answer": (pair or "")[:3], "start": 0, "end": 3, "score": 0.5}
        cut = {"cut_tokens": len(text.split()) - 8} if len(text.split()) > 8 else {}
        return {
            "label": max(scores, key=lambda name: scores[name]),
            "score": max(scores.values()),
            "scores": scores,
        } | cut


def served(predictor: Any, texts: int | None = None, defer_below: float | None = None) -> Served:
    return Served(predictor, "model", "fp32", texts, defer_below, "")


class Client:
    """A client with one connection, for one request or with `keep` until it is closed."""

    def __init__(self, port: int, *, keep: bool = False) -> None:
        self.connection, self.keep = http.client.HTTPConnection("127.0.0.1", port, timeout=30), keep

    def __call__(self, method: str, path: str, body: Any = None) -> tuple[int, Any, dict[str, str]]:
        sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        self.connection.request(method, path, sent)
        response = self.connection.getresponse()
        answer = json.loads(response.read())
        if not self.keep:
            self.connection.close()
        return response.status, answer, {name.lower(): value for name, value in response.getheaders()}

    def predict(self, inputs: Any, **more: Any) -> tuple[int, Any]:
        return self("POST", "/predict", {"inputs": inputs, **more})[:2]


@contextmanager
def running(model: Served, limits: Limits = LIMITS) -> Iterator[int]:
    """The port of a server in a thread."""
    with listening("127.0.0.1", 0) as listener:
        batcher = Batcher(model.predictor, limits.waiting)
        server = server_for(application(model, batcher, limits), limits, signals.Requests())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        port = listener.getsockname()[1]
        thread.start()
        try:
            yield port
        finally:
            server.should_exit = True
            thread.join(30)
            batcher.close()
            assert not thread.is_alive()


@pytest.fixture
def echo() -> Echo:
    return Echo()


@pytest.fixture
def port(echo: Echo) -> Iterator[int]:
    with running(served(echo)) as number:
        yield number


def read(inputs: Any, texts: int | None = None, kind: str = "classification", **more: Any) -> Any:
    body = json.dumps({"inputs": inputs, **more}).encode()
    return read_request(body, served(Echo(kind), texts), replace(LIMITS, text_bytes=100, texts=3))


@pytest.mark.parametrize(("inputs", "texts", "expected", "is_batch"), [
    ("a", None, [("a", None)], False), (["a"], None, [("a", None)], False),
    (["a", "b"], None, [("a", "b")], False), (["a", "b"], 2, [("a", "b")], False),
    (["a", "b"], 1, [("a", None), ("b", None)], True), (["a"], 1, [("a", None)], True),
    ([["a"], ["b", "c"]], None, [("a", None), ("b", "c")], True), ([["a"]], 1, [("a", None)], True),
    ({"text": "a", "text_pair": "b"}, 2, [("a", "b")], False), ({"text": "a"}, None, [("a", None)], False),
    ([{"question": "a", "context": "b"}], 2, [("a", "b")], True), ("", 1, [("", None)], False),
])  # fmt: skip
def test_forms_of_inputs(inputs: Any, texts: int | None, expected: list[Any], is_batch: bool) -> None:
    asked = read(inputs, texts, truncate=True, raw_scores=False, truncation_direction="Right")
    assert (asked.inputs, asked.is_batch, asked.truncate) == (expected, is_batch, True)


@pytest.mark.parametrize(("inputs", "texts", "more", "status", "words"), [
    (3, None, {}, 422, "inputs is"), (None, None, {}, 422, "inputs is"), ([], None, {}, 422, "empty"),
    (["a", "b", "c"], None, {}, 422, "brackets"), (["a", ["b"]], None, {}, 422, "mixes texts and lists"),
    ([["a", "b", "c"]], None, {}, 422, "inputs is"), ([[]], None, {}, 422, "inputs is"), ([3], None, {}, 422, "inputs"),
    ({"text": 3}, None, {}, 422, "inputs is"), ({"text": "a", "other": "b"}, None, {}, 422, "inputs is"),
    ({}, None, {}, 422, "inputs is"), ("a", 2, {}, 422, "two texts"), ([["a", "b"]], 1, {}, 422, "inputs[0]"),
    ("\ud800", None, {}, 422, "surrogate"), ("a", None, {"truncate": "yes"}, 422, "truncate"),
    ("a", None, {"raw_scores": True}, 422, "raw_scores"), ("a", None, {"truncation_direction": "left"}, 422, "right"),
    ("a", None, {"truncation_direction": 3}, 422, "right"), ("a", None, {"input": "b"}, 422, "unknown key"),
    ("é" * 51, None, {}, 413, "102 bytes"), ([["a"]] * 4, None, {}, 413, "4 texts"),
])  # fmt: skip
def test_what_is_refused(inputs: Any, texts: int | None, more: dict[str, Any], status: int, words: str) -> None:
    with pytest.raises(Refused) as caught:
        read(inputs, texts, **more)
    assert caught.value.status == status and words in caught.value.message


def test_lengths_are_bytes() -> None:
    assert read([["é"], ["a", "bc"]]).lengths == [2, 3]


def test_a_span_model_says_what_it_takes() -> None:
    with pytest.raises(Refused, match=r"question.*context"):
        read("a question alone", 2, kind="span")


@pytest.mark.parametrize("body", [
    b"", b"{bad", b"\xff\xfe", b'{"inputs": NaN}', b"[" * 100_000, b'{"inputs": ' + b"9" * 5000 + b"}",
    b"\xef\xbb\xbf{}",
])  # fmt: skip
def test_what_is_no_json(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_request(body, served(Echo()), LIMITS)
    assert caught.value.status == 400
    for other in (b"[]", b'"a"', b"{}", b"null"):
        with pytest.raises(Refused) as caught:
            read_request(other, served(Echo()), LIMITS)
        assert caught.value.status == 422


def test_answers_in_the_form_of_the_contract() -> None:
    scores = {"a": 0.2, "b": 0.5, "c": 0.3}
    answer = {"label": "b", "score": 0.5, "scores": scores, "cut_tokens": 4}
    first, *others = as_items(answer, defer_below=0.6)
    assert first == {"label": "b", "score": 0.5, "cut_tokens": 4, "defer": True}
    assert others == [{"label": "c", "score": 0.3}, {"label": "a", "score": 0.2}]
    assert as_items(answer, defer_below=0.5)[0]["defer"] is False, "at the threshold it agrees"
    assert as_items(answer, defer_below=math.inf)[0]["defer"] is True
    assert "defer" not in as_items(answer, defer_below=None)[0]
    several = as_items({"labels": ["c"], "scores": scores}, None)
    assert [(item["label"], item["given"]) for item in several] == [("b", False), ("c", True), ("a", False)]
    assert as_items({"score": 3.5}, None) == [{"score": 3.5}]
    assert as_items({"entities": []}, None) == [{"entities": []}]


def test_texts_of_like_length_go_together_and_the_oldest_goes_first() -> None:
    queue = [Waiting(("x", None), length) for length in (300, 10, 250, 5000, 610, 100)]
    assert [one.length for one in of_like_length(queue)] == [300, 250, 610]
    queue.insert(1, Waiting(("x", "y"), 300))
    assert len(of_like_length(queue)) == 3, "pairs have batches of their own"
    assert len(of_like_length([Waiting(("x", None), 5)] * 500)) == 64


def test_the_queue_is_bounded_and_what_is_cancelled_is_not_computed(echo: Echo) -> None:
    echo.go.clear()
    batcher = Batcher(echo, 3)  # type: ignore[arg-type]
    (first,) = batcher.ask([("first", None)], [5])
    while not echo.batches:
        time.sleep(0.01)
    waiting = batcher.ask([("a", None), ("b", None), ("c", None)], [1, 1, 1])
    with pytest.raises(Full):
        batcher.ask([("d", None)], [1])
    assert waiting[1].cancel()
    (later,) = batcher.ask([("d", None)], [1])
    echo.go.set()
    batcher.close()
    assert first.done() and later.result()["label"] == "short", "what was asked is answered before the end"
    assert echo.batches == [["first"], ["a", "c", "d"]]
    with pytest.raises(Full):
        batcher.ask([("e", None)], [1])


def test_one_text_does_not_spoil_the_others(echo: Echo, capfd: pytest.CaptureFixture[str]) -> None:
    batcher = Batcher(echo, 9)  # type: ignore[arg-type]
    answers = batcher.ask([("a", None), ("bad", None), ("c", None)], [1, 3, 1])
    batcher.close()
    assert [answer.exception() is None for answer in answers] == [True, False, True]
    assert "RuntimeError" in (printed := capfd.readouterr().err) and SECRET not in printed


@pytest.mark.parametrize("clients", [1, 8, 64])
def test_clients_at_the_same_time_get_the_answers_of_a_batch(echo: Echo, port: int, clients: int) -> None:
    texts = [f"text {number} " * (1 + number % 7) for number in range(128)]
    expected = dict(zip(texts, Echo().predict(texts), strict=True))

    def ask(some: list[str]) -> list[Any]:
        client = Client(port, keep=True)
        answers = [(text, *client.predict(text, truncate=True)) for text in some]
        client.connection.close()
        return answers

    with ThreadPoolExecutor(clients) as pool:
        for answers in pool.map(ask, [texts[i::clients] for i in range(clients)]):
            for text, status, answer in answers:
                assert status == 200 and answer == as_items(expected[text], None)
    if clients == 64:
        assert max(map(len, echo.batches)) > 1, "clients share batches"


def test_an_answer_waits_for_no_acknowledgement(port: int) -> None:
    client = Client(port, keep=True)
    seconds = []
    for _ in range(9):
        begun = time.monotonic()
        assert client.predict("a text")[0] == 200
        seconds.append(time.monotonic() - begun)
    client.connection.close()
    assert min(seconds[1:]) < 0.03, "40 ms are those of a delayed acknowledgement"


def test_the_paths_and_their_refusals(echo: Echo, port: int, capfd: pytest.CaptureFixture[str]) -> None:
    client = Client(port)
    assert client("GET", "/health")[0] == 200
    status, info, headers = client("GET", "/info")
    assert status == 200 and info["model_type"]["classifier"]["label2id"] == {"short": 0, HOSTILE: 1}
    assert headers["content-type"] == "application/json" and headers["x-content-type-options"] == "nosniff"
    assert client("GET", "/nothing")[0] == 404 and client("GET", "/predict")[0] == 405
    status, several = client.predict([["a b"], [SECRET, "pair"]])
    assert status == 200 and len(several) == 2 and {item["label"] for item in several[1]} == {"short", HOSTILE}
    long = "one two three four five six seven eight nine"
    status, answer = client.predict(long)
    assert status == 413 and "9 tokens" in answer["error"]
    status, answer = client.predict(long, truncate=True)
    assert status == 200 and answer[0]["cut_tokens"] == 1
    status, answer = client.predict([["good"], ["bad"]])
    assert status == 424 and answer == {"error": "inputs[1]: the model gave no answer", "error_type": "backend"}
    for body, expected in ((b"{" + SECRET.encode(), 400), (b'{"inputs": {"' + SECRET.encode() + b'": 1}}', 422)):
        status, refused, _ = client("POST", "/predict", body)
        assert status == expected and set(refused) == {"error", "error_type"}
    status, refused, headers = client("POST", "/predict", SECRET.encode() * 200_000)
    assert status == 413 and headers["connection"] == "close"
    assert SECRET not in "".join(capfd.readouterr()), "no text is written anywhere"


def test_a_full_queue_says_when_to_come_again(echo: Echo) -> None:
    echo.go.clear()
    with running(served(echo), replace(LIMITS, waiting=1)) as port, ThreadPoolExecutor(2) as pool:
        first = pool.submit(lambda: Client(port).predict("first"))
        while not echo.batches:
            time.sleep(0.01)
        second = pool.submit(lambda: Client(port).predict("second"))
        time.sleep(0.2)
        status, refused, headers = Client(port)("POST", "/predict", {"inputs": "third"})
        assert status == 503 and int(headers["retry-after"]) >= 1 and refused["error_type"] == "overloaded"
        assert Client(port)("GET", "/health")[0] == 200
        echo.go.set()
        assert first.result()[0] == second.result()[0] == 200
    with running(served(echo), replace(LIMITS, requests=0)) as port:
        status, _, headers = Client(port)("POST", "/predict", {"inputs": "a"})
        assert status == 503 and "retry-after" in headers


def test_texts_of_a_client_that_left_are_not_computed(echo: Echo, port: int) -> None:
    echo.go.clear()
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: Client(port).predict("first"))
        while not echo.batches:
            time.sleep(0.01)
        body = json.dumps({"inputs": "of one who leaves"}).encode()
        with socket.create_connection(("127.0.0.1", port)) as leaving:
            leaving.sendall(b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
            time.sleep(0.2)
        time.sleep(0.2)
        echo.go.set()
        assert first.result()[0] == 200
    assert Client(port).predict("last")[0] == 200
    assert ["of one who leaves"] not in echo.batches


@pytest.mark.parametrize("sent", [
    b"", b"POST /predict HTTP/1.1\r\nHost", b"POST /predict HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\n\r\n{",
], ids=["nothing", "half a head", "half a body"])  # fmt: skip
def test_slow_clients_are_cut(echo: Echo, sent: bytes) -> None:
    with (
        running(served(echo), replace(LIMITS, seconds=0.4)) as port,
        socket.create_connection(("127.0.0.1", port), timeout=10) as slow,
    ):
        slow.sendall(sent)
        begun = time.monotonic()
        try:
            answer = b"".join(iter(lambda: slow.recv(4096), b""))
        except ConnectionResetError:
            answer = b""
        assert time.monotonic() - begun < 5
        assert (b" 408 " in answer) == sent.endswith(b"{"), answer


def test_a_client_that_sends_nonsense_leaves_the_others_alone(port: int) -> None:
    for nonsense in (b"\x16\x03\x01\x02\x00\x01", b"GET / HTTP/9.9\r\n\r\n", b"A" * 70_000 + b"\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", port), timeout=10) as other:
            other.sendall(nonsense)
            assert other.recv(4096)[:12] in (b"HTTP/1.1 400", b"HTTP/1.1 404", b"")
    assert Client(port).predict("a")[0] == 200


def test_the_description_has_each_status_and_no_dangling_name() -> None:
    for kind, texts in (
        ("classification", None),
        ("multi-label", 1),
        ("regression", 2),
        ("span", 2),
        ("token-classification", 1),
    ):
        document = openapi(served(Echo(kind), texts), LIMITS)
        text = json.dumps(document)
        schemas = document["components"]["schemas"]
        names = {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]}
        assert names == set(schemas)
        responses = document["paths"]["/predict"]["post"]["responses"]
        assert {"200", "400", "408", "413", "422", "424", "503"} == set(responses)
    assert "context" in json.dumps(openapi(served(Echo("span"), 2), LIMITS)["components"]["schemas"]["Input"])


def test_a_busy_port_and_foreign_addresses_are_said_before_the_model_is_loaded(tmp_path: Path) -> None:
    with listening("127.0.0.1", 0) as taken, pytest.raises(UserError, match=r"port \d+ .*in use.*--port 0"):
        serve(tmp_path / "nothing", port=taken.getsockname()[1])
    for host, words in (
        ("192.0.2.1", "not an address of this machine"),
        ("no.such.invalid", "address of this machine"),
        ("127.0..1", "address of this machine, found '127.0..1'"),
        (f"{'a' * 64}.example", "address of this machine"),
    ):
        with pytest.raises(UserError, match=words):
            serve(tmp_path / "nothing", host=host, port=0)


@pytest.mark.parametrize("port", [-1, 65536, 70000, "8080"])
def test_a_port_that_does_not_exist_is_no_other_one(port: Any) -> None:
    with pytest.raises(UserError, match=rf"--port: expected a port from 0 to 65535, found {port!r}"):
        listening("127.0.0.1", port)


def test_folders_that_cannot_be_served_are_named_for_what_they_are(tmp_path: Path) -> None:
    def why(folder: Path) -> str:
        with pytest.raises(UserError) as caught:
            load_served(folder)
        return str(caught.value)

    assert "no such folder" in why(tmp_path / "nowhere")
    assert "no config.json" in why(tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "a torch model" in why(tmp_path) and "tinydistilbert export" in why(tmp_path)
    run = tmp_path / "run"
    run.mkdir()
    (run / "recipe.toml").write_text("")
    assert "that has no finished one" in why(run)
    best = run / "tasks/reviews/compressed/best"
    best.mkdir(parents=True)
    (best / "manifest.json").write_text('{"files": {}}')
    assert f"give {best}" in why(run)


@pytest.mark.long
def test_the_threshold_of_the_folder_or_the_one_that_is_given(exported: Any, tmp_path: Path) -> None:
    source = exported("bert", "classification")
    assert load_served(source).defer_below is None and load_served(source, defer_below=0.7).defer_below == 0.7
    assert load_served(exported("bert", "span")).texts_per_input == 2
    with pytest.raises(UserError, match="model with classes"):
        load_served(exported("bert", "span"), defer_below=0.7)
    no_probabilities: list[Any] = ["0.7", 70, math.nan, True]
    for given in no_probabilities:
        with pytest.raises(UserError, match=rf"--defer-below: expected a number from 0 to 1, found {given!r}"):
            load_served(source, defer_below=given)
    assert type(load_served(source, defer_below=np.float64(0.7)).defer_below) is float
    for stored, expected in (({"threshold": 0.8}, 0.8), ({"threshold": None}, math.inf)):
        folder = tmp_path / str(expected)
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("manifest.json"))
        config = json.loads((folder / "config.json").read_text())
        config["tinydistilbert"] |= {"agreement": stored, "texts_per_input": 1}
        (folder / "config.json").write_text(json.dumps(config))
        model = load_served(folder)
        assert (model.defer_below, model.texts_per_input) == (expected, 1)
        config["tinydistilbert"]["agreement"] = {"threshold": "high"}
        (folder / "config.json").write_text(json.dumps(config))
        with pytest.raises(UserError, match="threshold from 0 to 1"):
            load_served(folder)
