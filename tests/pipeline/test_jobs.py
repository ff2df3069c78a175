"""`--jobs`: parts of a study in processes of their own give what one gives, die alone, and stop in good order."""

import json
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest

import tinydistilbert as td
from tests.faults.forks import Child, Forks
from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.pipeline.parts import make_part
from tinydistilbert.pipeline.run import run_context
from tinydistilbert.recipe import toml
from tinydistilbert.results import Measurement
from tinydistilbert.storage import disk
from tinydistilbert.training.cores import AT_ONCE
from tinydistilbert.workers import process

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_text: str) -> Path:
    text = recipe_text.replace('tasks = ["acceptability", "adjacency", "cloze-qa"]', 'tasks = ["adjacency"]')
    text = text.replace("max_steps = 40", "max_steps = 4").replace("seeds = [0]", "seeds = [0, 1]")
    text = text.replace('models = ["teacher", "student", "control"]', 'models = ["teacher", "student"]', 1)
    path = tmp_path / "tiny.toml"
    path.write_text(text.replace("tokens = 2_000", "tokens = 0"))
    return path


@dataclass
class ForkedPart:
    """A part at work, as `workers.process.Process` is one, without five seconds of imports."""

    name: str
    child: Child
    looks: list[Callable[["ForkedPart"], None]]
    """Called before it is asked whether it has ended."""

    def exit_code(self) -> int | None:
        for callback in self.looks:
            callback(self)
        return self.child.status()

    def ask_to_stop(self) -> None:
        self.child.send(signal.SIGTERM)

    def wait(self, seconds: float) -> bool:
        self.child.wait()
        return True


@pytest.fixture
def looks(forks: Forks, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[ForkedPart], None]]:
    """What is called whenever a part is looked at; parts are forked, where they are new processes of Python else."""
    called: list[Callable[[ForkedPart], None]] = []

    def begin(arguments: Sequence[str], log: Path, *, threads: int, at_once: int, gpu: str | None) -> ForkedPart:
        disk.make_folder(log.parent)
        given = [*map(str, arguments), "--threads", str(threads)]
        child = forks.start(
            "main", {"arguments": given}, log=log, environment={"WORLD_SIZE": "1", AT_ONCE: str(at_once)}
        )
        return ForkedPart(given[given.index("--part") + 1], child, called)

    monkeypatch.setattr(process, "begin", begin)
    return called


forked_parts = pytest.mark.usefixtures("looks")


def numbers(path: Path) -> list[tuple[object, ...]]:
    """What was measured, without times and machines."""

    def key(m: Measurement) -> tuple[object, ...]:
        return (m.model, m.task, m.split, m.metric, m.seed, m.value)

    return sorted(map(key, results.read(path)), key=repr)


def weights(folder: Path) -> dict[str, bytes]:
    files = sorted(folder.rglob("model.safetensors"))
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def children_of(output: Path) -> list[psutil.Process]:
    """The processes at work on parts in a folder."""
    processes = []
    for running in psutil.process_iter(["cmdline"]):
        line = running.info["cmdline"] or []
        if "--part" in line and str(output) in line:
            processes.append(running)
    return processes


def wait_for(what: Callable[[], object], seconds: float = 500) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


@forked_parts
def test_task_models_side_by_side_are_those_of_one_process(recipe_file: Path, tmp_path: Path, call: Call) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    keep = ("--finetune.keep", "all", "--threads", "1", "--finetune.seeds", "1")
    assert call("evaluate", recipe_file, "--output", alone, *keep)[0] == 0
    code, printed, error = call("evaluate", recipe_file, "--output", together, *keep, "--jobs", "2")
    assert code == 0, error
    assert "2 at a time, each with 1 thread" in printed
    assert "student (D) on Adjacency, seed 1: finetune" in printed and "soft targets of Adjacency: " in printed
    assert weights(together) == weights(alone) and len(weights(alone)) == 2 + 3
    assert numbers(together / "results.jsonl") == numbers(alone / "results.jsonl")
    names = [{path.relative_to(folder) for path in folder.rglob("*")} for folder in (alone, together)]
    assert names[0] == names[1], "no lock, log or folder of the jobs stays"
    assert json.loads((together / "inputs.json").read_text()) == json.loads((alone / "inputs.json").read_text())

    code, printed, _ = call("evaluate", recipe_file, "--output", together, *keep, "--jobs", "2")
    assert code == 0 and "at a time" not in printed, "nothing is left to do, and no process is started"


@forked_parts
def test_views_of_the_cache_side_by_side_are_those_of_one_process(
    recipe_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    students = []
    cached = ("--distill.cache.kind", "hidden", "--distill.cache.views", "3", "--threads", "1")
    for name, jobs in (("alone", ()), ("together", ("--jobs", "2"))):
        monkeypatch.setenv("TINYDISTILBERT_CACHE", str(tmp_path / f"cache of {name}"))
        code, printed, error = call("distill", recipe_file, "--output", tmp_path / name, *cached, *jobs)
        assert code == 0, error
        assert printed.count("3 to be made") == (not jobs) and ("2 at a time" in printed) == bool(jobs)
        students.append((tmp_path / name / "student" / "model.safetensors").read_bytes())
        views = sorted((tmp_path / f"cache of {name}").glob("teacher-*/view-*"))
        assert [view.name for view in views] == ["view-0", "view-1", "view-2"]
    assert "teacher cache, view 3 of 3: " in printed and "none to be made" in printed
    assert students[0] == students[1]
    assert not [*tmp_path.rglob("*.lock")] and not (tmp_path / "together" / "jobs").exists()

    run = run_context(toml.read(tmp_path / "together" / "recipe.toml"), tmp_path / "together", until="distill", log=str)
    for wrong in ("teacher-cache/view-3", "teacher-cache/view-x"):
        with pytest.raises(UserError, match="--part: expected a view of the teacher's cache"):
            make_part(run, wrong)


@forked_parts
def test_views_that_others_did_not_make_are_made_by_the_run(
    recipe_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "a disk of their own"
    begin = process.begin

    def begin_elsewhere(arguments: Sequence[str], log: Path, **more: Any) -> ForkedPart:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TINYDISTILBERT_CACHE", str(elsewhere))
            part: ForkedPart = begin(arguments, log, **more)
            return part

    monkeypatch.setattr(process, "begin", begin_elsewhere)
    monkeypatch.setenv("TINYDISTILBERT_CACHE", str(tmp_path / "cache"))
    cached = ("--distill.cache.kind", "hidden", "--distill.cache.views", "2", "--threads", "1", "--jobs", "2")
    code, printed, error = call("distill", recipe_file, "--output", tmp_path / "run", *cached)
    assert code == 0, error
    assert "2 views still missing" in printed and "TINYDISTILBERT_CACHE must be on storage" in printed
    assert len([*(tmp_path / "cache").glob("teacher-*/view-*")]) == len([*elsewhere.glob("teacher-*/view-*")]) == 2


@forked_parts
def test_seeds_side_by_side_from_python_are_those_of_one_process(teacher: Path, tmp_path: Path) -> None:
    rows = [{"text": f"{'good' if n % 2 else 'bad'} film {n}", "label": n % 2} for n in range(40)]
    settings = {"finetune.epochs": 1, "finetune.min_steps": 0, "finetune.baselines": False, "finetune.keep": "all"}
    lines: list[str] = []

    def made(name: str, jobs: int | None) -> Path:
        log = lines.append if jobs else None
        return td.finetune(
            teacher, train=rows, seeds=2, settings=settings, threads=1, jobs=jobs, output=tmp_path / name, quiet=True,
            on_log=log and (lambda event: log(str(event.get("message")))),
        ).folder  # fmt: skip

    alone, together = made("alone", None), made("together", 2)
    assert any("2 at a time, each with 1 thread" in line for line in lines)
    assert weights(together) == weights(alone) and len(weights(alone)) == 2
    with pytest.raises(UserError, match="whole number"):
        td.finetune(teacher, train=rows, jobs=0, output=tmp_path / "none", quiet=True)
    assert not (tmp_path / "none").exists()


@pytest.fixture
def given_model(recipe_file: Path, teacher: Path) -> tuple[str | Path, ...]:
    """A command that fine-tunes one model with two seeds, and nothing before."""
    more = ("--finetune.model", teacher, "--finetune.distillation.tasks", "none", "--finetune.keep", "all")
    return ("report", recipe_file, *more, "--jobs", "2", "--threads", "1", "--finetune.baselines", "false")


def test_one_that_is_killed_is_run_again_and_one_that_dies_twice_is_a_line_of_the_report(
    given_model: tuple[str | Path, ...], tmp_path: Path, call: Call, looks: list[Callable[[ForkedPart], None]]
) -> None:
    output = tmp_path / "run"
    arguments = (*given_model, "--output", output, "--finetune.epochs", "8")
    times = {"adjacency/model/seed-0": 1, "adjacency/model/seed-1": 2}
    killed = dict.fromkeys(times, 0)

    def kill(part: ForkedPart) -> None:
        if killed[part.name] < times[part.name] and (output / "tasks" / part.name / "model.partial/log.jsonl").exists():
            part.child.send(signal.SIGKILL)
            part.child.wait()
            killed[part.name] += 1

    looks.append(kill)
    code, printed, error = call(*arguments)
    assert killed == times, printed
    assert code == 1
    assert (printed + error).count("killed by SIGKILL; trying once more") == 2
    failure = "model on Adjacency, seed 1: failed, killed by SIGKILL, twice"
    assert failure in printed + error and failure in (output / "report.html").read_text()
    assert {m.seed for m in results.read(output / "results.jsonl") if m.task == "adjacency"} == {0}
    assert (output / "jobs" / "model-on-Adjacency--seed-1.log").is_file()

    looks.clear()
    code, printed, error = call(*arguments)
    assert code == 0, error
    assert "1 at a time" in printed and "failed, killed" not in (output / "report.html").read_text()
    assert not (output / "jobs").exists() and not (output / "failed.json").exists() and not list(output.rglob("*.lock"))


@pytest.mark.parametrize(("number", "seeds"), [(signal.SIGINT, 2), (signal.SIGKILL, 1)])
def test_no_process_stays_when_the_study_is_stopped_or_killed(
    given_model: tuple[str | Path, ...], tmp_path: Path, forks: Forks, number: signal.Signals, seeds: int
) -> None:
    output = tmp_path / "run"
    arguments = [*given_model, "--output", output, "--finetune.epochs", "2000", "--finetune.seeds", *range(seeds)]
    study = forks.start("main", {"arguments": [*map(str, arguments)]})
    models = [output / "tasks" / "adjacency" / "model" / f"seed-{seed}" / "model.partial" for seed in range(seeds)]

    def are_training() -> bool:
        assert study.status() is None, study.err()
        return all((model / "log.jsonl").exists() and (model / "log.jsonl").stat().st_size for model in models)

    wait_for(are_training)
    at_work = children_of(output)
    assert len(at_work) == seeds
    study.send(number)
    assert study.wait() == (130 if number == signal.SIGINT else -signal.SIGKILL)
    assert psutil.wait_procs(at_work, 60)[1] == []
    assert all((model / "checkpoints").is_dir() for model in models), "each has saved what it had"


@forked_parts
def test_rows_side_by_side_are_those_of_one_process_and_one_that_breaks_is_told(
    recipe_file: Path, tmp_path: Path, call: Call
) -> None:
    rows = 'rows = { "broken" = { distill.optimization.learning_rate = 1e37 } }\n'
    recipe_file.write_text(recipe_file.read_text() + f"[ablate]\ntable4 = false\n{rows}")
    arguments = (recipe_file, "--threads", "1", "--finetune.tasks", "[]")
    assert call("ablate", *arguments, "--output", tmp_path / "alone")[0] == 1
    code, printed, error = call("ablate", *arguments, "--output", tmp_path / "together", "--jobs", "3")
    assert code == 1 and "row 'broken', seed 0" in error
    assert "3 asked for, 2 left to do: 2 at a time" in printed and "baseline, seed 0: distill: " in printed
    assert weights(tmp_path / "together") == weights(tmp_path / "alone")
    assert numbers(tmp_path / "together" / "results.jsonl") == numbers(tmp_path / "alone" / "results.jsonl")
    notes = [
        [line for line in (tmp_path / name / "ablation.md").read_text().splitlines() if "failed" in line]
        for name in ("alone", "together")
    ]
    assert notes[0] == [line.replace("/together/", "/alone/") for line in notes[1]] and len(notes[0]) == 1


@forked_parts
def test_trials_side_by_side_are_those_of_one_process(recipe_file: Path, tmp_path: Path, call: Call) -> None:
    pytest.importorskip("optuna", reason="optuna (extra sweep) is not installed")
    space = tmp_path / "space.toml"
    space.write_text('["distill.optimization.learning_rate"]\nlow = 1e-4\nhigh = 1e-2\nlog = true\n')
    arguments = ("sweep", recipe_file, "--space", space, "--trials", "3", "--threads", "1", "--finetune.tasks", "[]")
    assert call(*arguments, "--output", tmp_path / "alone")[0] == 0
    code, printed, error = call(*arguments, "--output", tmp_path / "together", "--jobs", "2")
    assert code == 0, error
    assert "trial 2: distill: " in printed and "Best of 3" in printed
    assert weights(tmp_path / "together") == weights(tmp_path / "alone")
    assert (tmp_path / "together" / "best.toml").read_text() == (tmp_path / "alone" / "best.toml").read_text()
    assert not list(tmp_path.rglob("*.lock")) and not (tmp_path / "together" / "jobs").exists()
