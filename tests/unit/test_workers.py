"""What `--jobs` asks for, and the loop over parts: order, retries, lines, and what an interruption leaves."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tinydistilbert.cli.main import main
from tinydistilbert.errors import UserError
from tinydistilbert.training import launcher
from tinydistilbert.training.cores import AT_ONCE
from tinydistilbert.workers import jobs as asked
from tinydistilbert.workers import process
from tinydistilbert.workers import run as running
from tinydistilbert.workers.jobs import Jobs, Part, jobs_of, shares
from tinydistilbert.workers.run import ThisMachine, run_parts


@pytest.fixture(autouse=True)
def four_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asked, "usable_cores", lambda: 4)
    monkeypatch.setattr(running, "SECONDS_BETWEEN_LOOKS", 0.0)


@dataclass
class Fake:
    """A part whose exit codes are known beforehand."""

    codes: list[int | None]
    log: Path
    stops: list[str]

    def exit_code(self) -> int | None:
        code = self.codes.pop(0)
        self.log.parent.mkdir(exist_ok=True)
        with self.log.open("a") as stream:
            stream.write(f"looked at {code}\nhalf a li")
        return code

    def ask_to_stop(self) -> None:
        self.stops.append(self.log.stem)

    def wait(self, seconds: float) -> bool:
        return True


@dataclass
class FakePlace:
    at_once: int
    codes: dict[str, list[int | None]]
    begun: list[str] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)

    def begin(self, part: Part, log: Path) -> Fake:
        self.begun.append(part.name)
        return Fake(self.codes[part.name], log, self.stops)


def run(
    place: FakePlace, folder: Path, monkeypatch: pytest.MonkeyPatch, log: Callable[[str], None] = lambda _: None
) -> dict[str, str]:
    monkeypatch.setattr(running, "_place", lambda *_: nullcontext(place))
    ends: dict[str, str] = {}
    parts = iter([Part(name, ()) for name in place.codes])
    run_parts(
        Jobs(2), len(place.codes), lambda: next(parts, None), lambda part, why: ends.update({part.name: why}),
        folder=folder, log=log,
    )  # fmt: skip
    return ends


def test_a_killed_part_is_begun_once_more_and_a_failed_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines: list[str] = []
    codes: dict[str, list[int | None]] = {
        "good": [None, 0], "killed": [-9, 0], "killed twice": [-9, -11], "stopped": [130, None, 0], "wrong": [2],
    }  # fmt: skip
    place = FakePlace(2, codes)
    ends = run(place, tmp_path, monkeypatch, lines.append)
    assert ends == {
        "good": "", "killed": "", "killed twice": "killed by SIGSEGV, twice", "stopped": "", "wrong": "looked at 2",
    }  # fmt: skip
    assert sorted(place.begun) == sorted([*codes, "killed", "killed twice", "stopped"])
    assert place.begun[:2] == ["good", "killed"]
    assert "killed: killed by SIGKILL; trying once more" in lines
    assert "good: looked at 0" not in lines and "good: half a lilooked at 0" in lines, "whole lines, each once"
    left = sorted(path.name for path in (tmp_path / "jobs").iterdir())
    assert left == ["killed-twice.log", "wrong.log"], "what a failed part has printed stays"


def test_an_interruption_asks_every_part_to_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(line: str) -> None:
        if line.startswith("b: "):
            raise KeyboardInterrupt

    place = FakePlace(2, {"a": [None] * 5, "b": [None] * 5, "c": [0]})
    with pytest.raises(KeyboardInterrupt):
        run(place, tmp_path, monkeypatch, interrupt)
    assert place.stops == ["a", "b"] and place.begun == ["a", "b"]


@pytest.mark.parametrize(
    ("jobs", "parts", "expected", "words"),
    [
        (Jobs(2), 5, (2, 2), "2 at a time, each with 2 threads; 4 cores"),
        (Jobs(9), 3, (3, 1), "9 asked for, 3 left to do: 3 at a time, each with 1 thread"),
        (Jobs(8), 8, (8, 1), "too many"),
        (Jobs(2, threads=3), 5, (2, 3), "too many"),
        (Jobs(2, threads=1), 5, (2, 1), "each with 1 thread;"),
    ],
)
def test_each_has_its_share_of_the_cores(jobs: Jobs, parts: int, expected: tuple[int, int], words: str) -> None:
    lines: list[str] = []
    assert shares(jobs, parts, lines.append) == expected
    (line,) = lines
    assert words in line and ("too many" in line) == (words == "too many")


def test_gpus_are_dealt_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[tuple[str | None, int]] = []
    monkeypatch.setattr(process, "begin", lambda *_, gpu, at_once, **__: given.append((gpu, at_once)))
    place = ThisMachine(3, 1, ("0", "3"))
    for _ in range(3):
        place.begin(Part("a", ()), tmp_path / "a.log")
    ThisMachine(2, 1, ("0",)).begin(Part("a", ()), tmp_path / "a.log")
    ThisMachine(3, 1).begin(Part("a", ()), tmp_path / "a.log")
    assert given == [("0", 2), ("3", 2), ("0", 2), (None, 2), (None, 3)], "as many share the memory of one device"


def test_a_job_is_no_process_of_the_step_that_ray_runs_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[dict[str, str]] = []
    monkeypatch.setattr(subprocess, "Popen", lambda *_, env, **__: started.append(env))
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "4")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    assert launcher.world_size() == 4
    process.begin(["tasks"], tmp_path / "log", threads=1, at_once=3)
    assert started[0][AT_ONCE] == "3"
    monkeypatch.setattr(os, "environ", started[0])
    assert launcher.world_size() == 1


def test_what_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert jobs_of(None, 3) is None and jobs_of(1, 3) is None
    assert jobs_of(3, 2) == Jobs(3, 2) and not Jobs(3).by_ray
    ray = jobs_of("ray", None)
    assert ray is not None and ray.by_ray
    for wrong in (0, -2, "many", True, 2.5):
        with pytest.raises(UserError, match="--jobs: expected a whole number >= 1, or ray"):
            jobs_of(wrong, None)  # type: ignore[arg-type]
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="by a launcher"):
        jobs_of(2, None)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["finetune", "quickstart", "--jobs", "0"], "whole number >= 1, or ray"),
        (["ablate", "quickstart", "--jobs", "-1"], "--jobs"),
        (["sweep", "quickstart", "--space", "x.toml", "--jobs", "dask"], "whole number >= 1, or ray"),
        (["adapt", "quickstart", "--jobs", "2"], "--jobs"),
    ],
)
def test_wrong_flags_are_refused(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error


def test_a_process_is_asked_to_stop_and_killed_where_it_does_not() -> None:
    waits = "import signal, time; signal.signal(signal.SIGTERM, signal.{}); print(flush=True); time.sleep(60)"
    for answer, code in (("SIG_DFL", -signal.SIGTERM), ("SIG_IGN", -signal.SIGKILL)):
        command = [sys.executable, "-ISc", waits.format(answer)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as started:
            assert started.stdin and started.stdout and started.stdout.readline()
            begun = process.Process(started)
            assert begun.exit_code() is None
            begun.ask_to_stop()
            assert begun.wait(60 if code == -signal.SIGTERM else 0.1) == (code == -signal.SIGTERM)
            assert begun.exit_code() == code and started.stdin.closed


def test_windows_which_would_kill_a_process_closes_its_input_to_stop_it(monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "-ISc", "import os; os.read(0, 1); os._exit(7)"]
    with subprocess.Popen(command, stdin=subprocess.PIPE) as started:
        begun = process.Process(started)
        with monkeypatch.context() as windows:
            windows.setattr(sys, "platform", "win32")
            begun.ask_to_stop()
        assert begun.wait(60) and begun.exit_code() == 7


@pytest.mark.long
def test_a_process_stops_in_good_order_when_its_parent_dies(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    child = (
        "import signal, sys, time; from tinydistilbert.workers.process import stop_with_parent; "
        "signal.signal(signal.SIGTERM, lambda *_: (print('in good order', flush=True), sys.exit(130))); "
        "stop_with_parent(); print('begun', flush=True); time.sleep(3600)"
    )
    script.write_text(
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-c', {child!r}], stdin=subprocess.PIPE, start_new_session=True)\n"
        "time.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    with parent.stdout as stream:
        assert stream.readline() == "begun\n"
        parent.kill()
        parent.wait()
        assert stream.read() == "in good order\n", "read to its end: the child is gone"
