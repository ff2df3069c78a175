"""Requests per second, latency and memory of `tinydistilbert serve` by the number of simultaneous clients."""

import argparse
import http.client
import json
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import common
import numpy as np
import psutil

TEXTS = ["a fine film", "the student learns what the teacher knows, and forgets the rest", "what a dull evening " * 12]


def started(folder: Path, threads: int | None) -> tuple["subprocess.Popen[str]", int]:
    """A server in a process of its own, and its port."""
    command = [sys.executable, "-m", "tinydistilbert", "serve", str(folder), "--port", "0"]
    command += ["--threads", str(threads)] if threads else []
    server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    assert server.stderr is not None
    printed = ""
    for line in server.stderr:
        printed += line
        if port := re.search(r"http://127.0.0.1:(\d+)", line):
            return server, int(port[1])
    sys.exit(printed.strip())


def load(port: int, clients: int, requests: int, inputs: Sequence[object]) -> tuple[float, np.ndarray, int]:
    """Seconds in all, seconds of each answer, and how many requests were refused because too many waited."""
    seconds: list[float] = []
    refused = 0
    lock = threading.Lock()
    left = iter(range(requests))

    def ask() -> None:
        nonlocal refused
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                number = next(left, None)
            if number is None:
                break
            body = json.dumps({"inputs": inputs[number % len(inputs)], "truncate": True})
            begun = time.perf_counter()
            connection.request("POST", "/predict", body)
            response = connection.getresponse()
            response.read()
            taken = time.perf_counter() - begun
            with lock:
                if response.status == 200:
                    seconds.append(taken)
                elif response.status == 503:
                    refused += 1
                else:
                    raise SystemExit(f"status {response.status}")
        connection.close()

    begun = time.perf_counter()
    threads = [threading.Thread(target=ask) for _ in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return time.perf_counter() - begun, np.array(seconds), refused


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="an exported model")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64])
    parser.add_argument("--requests", type=int, default=10_000, help="in each row")
    parser.add_argument("--threads", type=int, help="of the model")
    parser.add_argument("--span", action="store_true", help="the model answers questions")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "serve_load.jsonl")
    asked = parser.parse_args()
    inputs = (
        [{"question": "what is it?", "context": text} for text in TEXTS] if asked.span else [[text] for text in TEXTS]
    )
    server, port = started(asked.folder, asked.threads)
    process = psutil.Process(server.pid)
    try:
        load(port, 4, 100, inputs)  # first calls are slower
        headings = ("clients", "requests/s", "p50 ms", "p95 ms", "refused", "MiB before", "after")
        print("".join(f"{name:>12}" for name in headings))
        for clients in asked.clients:
            before = process.memory_info().rss
            total, seconds, refused = load(port, clients, asked.requests, inputs)
            p50, p95 = 1000 * np.percentile(seconds, [50, 95])
            row = [len(seconds) / total, p50, p95, refused, before / common.MIB, process.memory_info().rss / common.MIB]
            print(f"{clients:12}" + "".join(f"{value:12.1f}" for value in row), flush=True)
            numbers = {name: round(float(value), 2) for name, value in zip(headings[1:], row, strict=True)}
            about = {"model": asked.folder.name, "threads": asked.threads, "requests": asked.requests}
            common.append(asked.output, [{**about, "clients": clients, **numbers}])
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait(60)


if __name__ == "__main__":
    main()
