"""One process at a time: who comes second waits or is told, and nothing is left behind, however the first one ended."""

import errno
import fcntl
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.storage import locks

pytestmark = pytest.mark.long

HOLD = """
import sys
from pathlib import Path
from tinydistilbert.storage import locks
with locks.alone(Path(sys.argv[1]), where="there", wait=len(sys.argv) > 2):
    print("held", flush=True)
    sys.stdin.readline()
"""


@contextmanager
def holder(lock: Path, *more: str) -> Iterator[subprocess.Popen[str]]:
    """Another process that wants the lock; it lets go when it is sent a line."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(lock), *more],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def next_line(stream: object) -> str:
    return stream.readline().strip()  # type: ignore[attr-defined, no-any-return]


def test_the_file_names_the_holder_and_is_deleted_when_the_body_ends(tmp_path: Path) -> None:
    lock = tmp_path / "new" / ".lock"
    with locks.alone(lock, where="there"):
        assert lock.read_text() == f"{os.getpid()}\n"
    assert not lock.exists()
    with pytest.raises(ZeroDivisionError), locks.alone(lock, where="there"):
        raise ZeroDivisionError
    assert not lock.exists()


def test_a_lock_that_is_held_is_refused_with_the_holders_id(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with holder(lock) as other:
        assert next_line(other.stdout) == "held"
        message = f"there: .*found process {other.pid} at work; wait"
        with pytest.raises(UserError, match=message), locks.alone(lock, where="there"):
            pass
        assert lock.read_text() == f"{other.pid}\n", "and stays its own"


def test_who_waits_says_so_once_and_gets_the_lock_when_it_is_let_go(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with locks.alone(lock, where="there"):
        other = holder(lock, "wait")
        process = other.__enter__()
        assert next_line(process.stderr) == f"waiting for process {os.getpid()}, which is at work on there"
    try:
        assert next_line(process.stdout) == "held"
        assert lock.read_text() == f"{process.pid}\n", "a new file: the first holder has deleted the old one"
        _, more = process.communicate("\n")
        assert (process.returncode, more) == (0, "")
        assert not lock.exists()
    finally:
        other.__exit__(None, None, None)


def test_the_lock_of_a_killed_holder_is_free_though_its_file_is_there(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    with holder(lock) as other:
        assert next_line(other.stdout) == "held"
        other.send_signal(signal.SIGKILL)
        other.wait()
        assert lock.read_text() == f"{other.pid}\n"
        with locks.alone(lock, where="there"):
            assert lock.read_text() == f"{os.getpid()}\n"
    assert not lock.exists()


def test_only_the_file_of_a_lock_that_nobody_holds_is_tidied_away(tmp_path: Path) -> None:
    lock = tmp_path / ".lock"
    locks.tidy(lock)
    assert not lock.exists(), "none is made for that"
    lock.write_text("12345\n")
    locks.tidy(lock)
    assert not lock.exists()
    with locks.alone(lock, where="there"):
        locks.tidy(lock)
        assert lock.read_text() == f"{os.getpid()}\n"


def test_on_a_file_system_without_locks_the_body_runs_unguarded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def without(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", without)
    lock, done = tmp_path / ".lock", []
    with locks.alone(lock, where="there"), locks.alone(lock, where="there", wait=True):
        done.append(not lock.exists())
    assert done == [True], "and there is no file that would claim otherwise"
    warnings = capsys.readouterr().err.splitlines()
    assert len(warnings) == 2 and all("there" in line and "no locks" in line for line in warnings)


def test_a_new_output_folder_holds_nothing_but_what_a_killed_process_left(tmp_path: Path) -> None:
    output = tmp_path / "run"
    with locks.new_output(output):
        assert (tmp_path / ".run.lock").is_file() and not output.exists()
    output.mkdir()
    for name in (".lock", ".recipe.toml.12345.tmp"):
        (output / name).touch()
    with locks.new_output(output):
        pass
    (output / "thesis.tex").touch()
    with pytest.raises(UserError, match="expected a new or empty folder, found other files"), locks.new_output(output):
        pass
    assert not (tmp_path / ".run.lock").exists()
