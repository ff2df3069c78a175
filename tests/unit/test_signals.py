"""Requests to stop: the first in good order, the second at once, none of them lost.

Those that a worker of the tests sends to itself come from the interpreter, by `interrupt_main`: on a virtual machine
whose processor has units for products of matrices, the kernel ended workers now and then as it delivered a real one.
Real ones go to processes of their own, here and in `tests/faults`.
"""

import signal
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from tinydistilbert import signals
from tinydistilbert.errors import DiskError, Interrupted, UserError
from tinydistilbert.recipe import schema
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train

pytestmark = pytest.mark.long

BOTH = pytest.mark.parametrize("number", signals.SIGNALS, ids=lambda number: number.name)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Each test begins and ends with the handlers that were there before it."""
    before = {number: signal.getsignal(number) for number in signals.SIGNALS}
    yield
    after = {number: signal.getsignal(number) for number in signals.SIGNALS}
    for number, handler in before.items():
        signal.signal(number, handler)
    assert after == before


@BOTH
def test_a_noted_request_changes_nothing_until_it_is_looked_at(number: signal.Signals) -> None:
    with signals.deferred() as requests:
        assert not requests
        interrupt_main(number)
        assert requests


@BOTH
def test_a_heard_request_is_raised_where_it_comes(number: signal.Signals) -> None:
    done = []
    with pytest.raises(KeyboardInterrupt), signals.handled():
        done.append("before")
        interrupt_main(number)
        done.append("after")
    assert done == ["before"]


@pytest.mark.parametrize("error", [ValueError("no shape"), UserError("a folder", problem="damaged", fix="check it")])
def test_a_request_in_whose_place_a_library_put_an_error_is_raised(error: Exception) -> None:
    with pytest.raises(KeyboardInterrupt) as raised, signals.handled():
        try:
            interrupt_main(signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None
    assert raised.value.__cause__ is error


def test_a_request_that_comes_in_a_finalizer_is_raised_after_it() -> None:
    code = """
import os, signal, time
from tinydistilbert import signals

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)
        print("finalized")

held = Held()
try:
    with signals.handled():
        del held
        print("going on", flush=True)
        time.sleep(60)
except KeyboardInterrupt:
    print("raised")
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "finalized\ngoing on\nraised\n"), done.stderr


@pytest.mark.parametrize("error", [DiskError(Path("run"), "full disk", needed=1, free=0), Interrupted("at step 3")])
def test_an_error_that_says_more_than_a_request_stays(error: Exception) -> None:
    with pytest.raises(type(error)), signals.handled():
        try:
            interrupt_main(signal.SIGTERM)
        except KeyboardInterrupt:
            raise error from None


def test_a_request_that_came_before_is_raised_at_the_beginning_of_the_body() -> None:
    done = []
    with signals.deferred() as requests:
        interrupt_main(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt), requests.raised():
            done.append("body")
        assert requests and not done


def test_after_the_body_a_request_is_noted_again() -> None:
    with signals.deferred() as requests:
        with requests.raised():
            pass
        interrupt_main(signal.SIGINT)
        assert requests


def test_inner_handlers_give_way_to_the_outer_ones() -> None:
    with pytest.raises(KeyboardInterrupt), signals.handled():
        with signals.deferred() as inner:
            interrupt_main(signal.SIGTERM)
        assert inner, "the inner ones noted the first"
        interrupt_main(signal.SIGTERM)
        pytest.fail("the outer ones raise the next")


@pytest.mark.parametrize("name", ["deferred", "handled"])
def test_the_second_request_ends_the_process(name: str) -> None:
    code = f"""
import os, signal
from tinydistilbert import signals
from tinydistilbert.errors import DiskError, Interrupted, UserError
with signals.{name}():
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
    print("noted", flush=True)
    os.kill(os.getpid(), signal.SIGTERM)
    print("still there", flush=True)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "noted\n"), done.stderr


def test_outside_the_main_thread_the_body_runs_and_no_handler_is_touched() -> None:
    observed: list[object] = []

    def work() -> None:
        with signals.deferred() as requests:
            observed.extend((bool(requests), signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert observed == [False, signal.getsignal(signal.SIGTERM)]


def test_a_request_after_the_last_step_of_a_training_is_not_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = TrainingJob(
        steps=2, micro_batches=lambda step, oom_splits=0: [{"rows": torch.ones(4, 3)}],
        token_shares=lambda batches: token_shares([{"size": 4} for _ in batches]),
        term_weights=lambda step: {"size": 1.0},
        loss=lambda model, batch, scales, step: scaled_sum({"size": model(batch["rows"]).square().mean()}, scales),
        tokens=lambda batch: 4, validate=lambda done: {"always": 1.0}, validate_after=frozenset({2}),
    )  # fmt: skip

    def stops(done: int, *_: object) -> None:
        assert done == 2
        interrupt_main(signal.SIGTERM)

    monkeypatch.setattr("tinydistilbert.training.loop.Progress.note", lambda self, *facts: stops(*facts))
    with pytest.raises(KeyboardInterrupt):
        train(
            nn.Linear(3, 1), job, schema.Optimization(), Compute(torch.device("cpu"), "auto", 60), seed=0,
            folder=tmp_path, label="fit",
        )  # fmt: skip


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with signals.handled():
            interrupt_main(signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_a_request_stays_one_where_a_library_puts_another_error_in_its_place() -> None:
    def saved() -> None:
        try:
            interrupt_main(signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            raise TypeError("expected str, bytes or os.PathLike object, not BufferedWriter") from None  # numpy's words

    with pytest.raises(KeyboardInterrupt), signals.handled():
        saved()
    with pytest.raises(TypeError), signals.handled():
        raise TypeError("of the program itself")
