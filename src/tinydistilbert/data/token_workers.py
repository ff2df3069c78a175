"""Worker processes that tokenise: fed through standard input, in the order in which their answers are used.

A worker is this file, started with `python -m`. It imports neither torch nor transformers, and exits when its input
ends, so no worker outlives the process that started it, however that dies.
"""

import json
import os
import queue
import signal
import subprocess
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import IO, Any

import numpy as np
from tokenizers import Tokenizer

from tinydistilbert.data.document_tokens import DocumentTokenizer, TokenizedDocuments, batches_of
from tinydistilbert.errors import OutOfMemory

CHARACTERS_OF_A_CALL = 200_000
"""Characters that a worker tokenises at once: it has one thread, and each character takes 150 bytes of memory."""
WAITING = 2
"""Batches per worker that are read ahead of the one whose answer is needed."""


def tokenized(
    batches: Iterable[Sequence[str]], tokenizer: DocumentTokenizer, jobs: int
) -> Iterator[TokenizedDocuments]:
    """Yield the tokens of batches of documents, in order.

    Args:
        batches: read on demand, a few ahead.
        tokenizer: turns documents into tokens.
        jobs: processes that tokenise; 1 = this one, with its threads.

    Raises:
        OutOfMemory: a worker process was killed.
    """
    if jobs == 1:
        yield from map(tokenizer, batches)
        return
    with _workers(tokenizer, jobs) as idle, ThreadPoolExecutor(jobs) as threads:
        waiting: deque[Future[TokenizedDocuments]] = deque()
        try:
            for batch in batches:
                waiting.append(threads.submit(_asked, idle, batch))
                if len(waiting) > WAITING * jobs:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            threads.shutdown(wait=True, cancel_futures=True)


@contextmanager
def _workers(tokenizer: DocumentTokenizer, jobs: int) -> "Iterator[queue.SimpleQueue[subprocess.Popen[bytes]]]":
    """Run worker processes during the body; idle workers are in the queue."""
    path = os.pathsep.join(filter(None, sys.path))
    alone = {"PYTHONPATH": path, "TOKENIZERS_PARALLELISM": "false", "RAYON_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    facts = {"unk_token": tokenizer.unk_token, "unk_id": tokenizer.unk_id, "lowers": tokenizer.lowers}
    first = json.dumps({"tokenizer": tokenizer.backend.to_str(), **facts})
    idle: queue.SimpleQueue[subprocess.Popen[bytes]] = queue.SimpleQueue()
    started: list[subprocess.Popen[bytes]] = []
    try:
        for _ in range(jobs):
            command = [sys.executable, "-m", __name__]
            worker = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env={**os.environ, **alone}
            )
            started.append(worker)
            _send(worker, first)
            idle.put(worker)
        yield idle
    finally:
        for worker in started:
            worker.kill()
            worker.wait()
            _close(worker)


def _close(worker: "subprocess.Popen[bytes]") -> None:
    for stream in (worker.stdin, worker.stdout):
        assert stream is not None, "both are pipes"
        try:
            stream.close()
        except OSError:  # unwritten data for a worker that has exited
            continue


def _asked(idle: "queue.SimpleQueue[subprocess.Popen[bytes]]", batch: Sequence[str]) -> TokenizedDocuments:
    """Return the answer of an idle worker."""
    worker = idle.get()
    assert worker.stdout is not None, "it is a pipe"
    try:
        _send(worker, json.dumps(batch))
        header: dict[str, Any] = json.loads(worker.stdout.readline() or "{}")
        if not header:
            raise _died(worker)
        lengths = np.frombuffer(_exactly(worker, 8 * header["documents"]), dtype=np.int64)
        ids = np.frombuffer(_exactly(worker, 4 * header["tokens"]), dtype=np.uint32)
    finally:
        idle.put(worker)
    return TokenizedDocuments(ids, lengths, header["unknown"], header["with_capitals"])


def _send(worker: "subprocess.Popen[bytes]", line: str) -> None:
    assert worker.stdin is not None, "it is a pipe"
    try:
        worker.stdin.write(line.encode() + b"\n")
        worker.stdin.flush()
    except OSError:
        raise _died(worker) from None


def _exactly(worker: "subprocess.Popen[bytes]", count: int) -> bytes:
    assert worker.stdout is not None, "it is a pipe"
    content = worker.stdout.read(count)
    if len(content) < count:
        raise _died(worker)
    return content


def _died(worker: "subprocess.Popen[bytes]") -> Exception:
    """Return the error for a worker that exited early."""
    code = worker.wait()
    if code >= 0:  # it reported the reason on standard error
        return RuntimeError(f"a process that tokenises ended with code {code}")
    name = signal.Signals(-code).name
    return OutOfMemory(
        f"a process that tokenises was ended by {name}, probably because memory ran out; "
        "the same command continues from the finished shards; --jobs 1 needs less memory"
    )


def _serve(asks: IO[bytes], answers: IO[bytes]) -> None:
    """Answer batches of documents until the input ends."""
    facts = json.loads(asks.readline())
    tokenizer = DocumentTokenizer(
        Tokenizer.from_str(facts["tokenizer"]), facts["unk_token"], facts["unk_id"], facts["lowers"]
    )
    for line in iter(asks.readline, b""):
        parts = [tokenizer(part) for part in batches_of(json.loads(line), CHARACTERS_OF_A_CALL)]
        lengths, ids = (np.concatenate(arrays) for arrays in zip(*((p.lengths, p.ids) for p in parts), strict=True))
        losses = {name: sum(getattr(part, name) for part in parts) for name in ("unknown", "with_capitals")}
        answers.write(json.dumps({"documents": len(lengths), "tokens": len(ids), **losses}).encode() + b"\n")
        answers.write(lengths.tobytes() + ids.tobytes())
        answers.flush()


if __name__ == "__main__":
    # Stop signals are for the process that started this one, which then ends the input.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    try:
        _serve(sys.stdin.buffer, sys.stdout.buffer)
    except BrokenPipeError:
        os._exit(0)  # nobody needs the answer any more
