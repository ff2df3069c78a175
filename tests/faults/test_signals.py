"""SIGINT and SIGTERM at any moment of any stage: out in good order, and the same command goes on to the same end."""

import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.faults import tiny_runs

GOAL = "SIGTERM or SIGINT at a random moment: out in good order, resumed the same"
STOPPED = "; the same command goes on from"
TASK = "tasks/acceptability"
LONG = 300.0
"""Seconds that nobody waits for."""


@dataclass(frozen=True)
class Phase:
    """A part of a command, and the run in which all before it is finished."""

    command: str
    functions: tuple[str, ...]
    """In which the signal is to come: MODULE:NAME, where their callers find them."""
    unmade: tuple[str, ...]
    """Folders of the run that the command has to make."""
    is_training: bool = False
    seconds: float = 0.05
    """How long after its beginning the signal may come."""
    with_cache: bool = True
    """Whether the token blocks are there."""


PHASES = {
    "tokenising": Phase("prepare", ("tinydistilbert.data.corpus:write_split",), (), seconds=0.01, with_cache=False),
    "training": Phase("distill", ("tinydistilbert.training.loop:_Loop.update",), ("student",), is_training=True),
    "validation": Phase(
        "distill", ("tinydistilbert.distillation.pretraining:validation_losses",), ("student",), is_training=True
    ),
    "evaluating": Phase("evaluate", ("tinydistilbert.pipeline.stages:evaluate",), (f"{TASK}/student/seed-0/scores",)),
    "exporting": Phase(
        "compress",
        ("tinydistilbert.compress.variants:export", "tinydistilbert.compress.variants:quantize"),
        (f"{TASK}/compressed",),
    ),
    "report": Phase("report", ("tinydistilbert.pipeline.stages:write_report",), ("report.html",)),
}


@dataclass(frozen=True)
class Bench:
    """What the trials share."""

    recipe: Path
    cache: Path
    folder: Path
    whole: Path
    """A finished run."""


@pytest.fixture(scope="module")
def bench(forks: Any, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("signals")
    # A training that has no checkpoint but the one that it saves when it is stopped.
    recipe = tiny_runs.Inputs(folder / "inputs", tokenizer).recipe("tiny", minutes=60.0, more=tiny_runs.MEASURE)
    whole, cache = folder / "whole", folder / "cache"
    child = forks.start("main", {"arguments": ["replicate", str(recipe), "--output", str(whole)]}, cache=cache)
    assert child.wait() == 0, child.err()
    forks.learn(child)
    return Bench(recipe, cache, folder, whole)


def begin(bench: Bench, phase: Phase, name: str) -> tuple[list[str], Path, Path]:
    """The command of a phase, its run with all that comes before, and the cache."""
    run, cache = bench.folder / f"run {name}", bench.cache
    if phase.with_cache:
        shutil.copytree(bench.whole, run)
        for unmade in phase.unmade:
            (shutil.rmtree if (run / unmade).is_dir() else Path.unlink)(run / unmade)
    else:
        cache = bench.folder / f"cache {name}"
    return [phase.command, str(bench.recipe), "--output", str(run)], run, cache


def made(run: Path, cache: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """What is in the run and in the cache, but for what the clock chooses and what only the report writes."""
    run_outcome = {name: value for name, value in tiny_runs.outcome(run).items() if "/best/" not in name}
    run_outcome.pop("student/README.md", None)
    return run_outcome, tiny_runs.outcome(cache)


def stopped(forks: Any, phase: Phase, command: list[str], run: Path, cache: Path, random: random.Random) -> bool:
    """Send a signal in the phase; whether it came before the end. Then the command ended as it should."""
    number = random.choice((signal.SIGINT, signal.SIGTERM))
    child = forks.start("main", {"arguments": command}, cache=cache, phase=phase.functions, ignore_late=True)
    for _ in range(random.randint(1, 4) if phase.is_training else 1):  # a training comes there often
        child.wait_until(lambda board: board["phase"] == 1)
        time.sleep(random.random() ** 2 * phase.seconds)
    child.send(number)
    status, messages = child.wait(), child.err().splitlines()
    assert "Traceback" not in child.err() and "ignored" not in child.err(), child.err()
    assert status in (0, 130), (status, messages)
    if status == 0:
        assert not any(STOPPED in line for line in messages), messages
        return False
    assert STOPPED in messages[-1] and sum(STOPPED in line for line in messages) == 1, messages
    step = re.search(r"stopped after step (\d+)", messages[-1])
    if step:
        assert phase.is_training
        kept = run / "student.partial" / "checkpoints" / f"step-{int(step[1]):08d}" / "manifest.json"
        assert kept.is_file(), f"{kept} is not there"
    return True


def test_a_stopped_command_goes_on_to_the_same_end(forks: Any, bench: Bench, trials: Callable[..., Any]) -> None:
    stops = dict.fromkeys(PHASES, 0)
    expected = dict.fromkeys(PHASES, made(bench.whole, bench.cache))
    command, run, cache = begin(bench, PHASES["tokenising"], "alone")
    child = forks.start("main", {"arguments": command}, cache=cache)
    assert child.wait() == 0, child.err()
    expected["tokenising"] = made(run, cache)
    with trials(GOAL, quick=6, full=300) as all_of_them:
        for number, random in enumerate(all_of_them):
            name = list(PHASES)[number % len(PHASES)]
            phase = PHASES[name]
            with all_of_them.trial(f"{number}, {name}"):
                command, run, cache = begin(bench, phase, str(number))
                stops[name] += stopped(forks, phase, command, run, cache, random)
                child = forks.start("main", {"arguments": command}, cache=cache)
                assert child.wait() == 0, child.err()
                outcome = made(run, cache)
                assert outcome == expected[name], [
                    tiny_runs.differing(*pair) for pair in zip(outcome, expected[name], strict=True)
                ]
                assert list(tiny_runs.leftovers(run)) == []
                shutil.rmtree(run)
        all_of_them.facts["stopped in"] = stops
    # Whether a signal comes before a phase is over is up to the machine; a third must have.
    assert sum(stops.values()) >= all_of_them.count / 3, stops


@pytest.mark.parametrize("name", ["training", "evaluating"])
@pytest.mark.parametrize("numbers", [(signal.SIGINT, signal.SIGTERM), (signal.SIGTERM, signal.SIGTERM)])
def test_a_second_request_ends_the_process_at_once(
    name: str, numbers: tuple[signal.Signals, ...], forks: Any, bench: Bench
) -> None:
    phase = PHASES[name]
    command, run, cache = begin(bench, phase, f"{name} {numbers[0].name} twice")
    # The first is noted by a step that takes minutes; where there is no training, minutes are taken by the way out.
    child = forks.start("main", {"arguments": command}, cache=cache, phase=phase.functions, hold=LONG, slow_exit=LONG)
    assert child.wait_until(lambda board: board["phase"] == 1), child.err()
    child.send(numbers[0])
    assert child.wait_until(lambda board: board["requests"] == 1), child.err()
    assert child.status() is None
    child.send(numbers[1])
    assert child.wait() == -numbers[1], child.err()
    child = forks.start("main", {"arguments": command}, cache=cache)
    assert child.wait() == 0, child.err()
    assert list(tiny_runs.leftovers(run)) == []
