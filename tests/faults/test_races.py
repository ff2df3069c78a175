"""Processes that want the same cache or the same output folder at once, some of which are killed."""

import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import PreTrainedTokenizerFast

from tests.faults import tiny_runs

GOAL = "processes racing on one cache or one output folder"
CACHE = """
            [objective]
            cosine = 0
            [distill.cache]
            kind = "top-k"
            views = 2
            top_k = 8
"""
LONG = 300.0
"""Seconds that nobody waits for."""


@pytest.fixture(scope="module")
def recipe(tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Path:
    inputs = tiny_runs.Inputs(tmp_path_factory.mktemp("races") / "inputs", tokenizer, documents=60)
    written: Path = inputs.recipe("cached", more=CACHE)
    return written


def ended_well(child: Any) -> None:
    assert child.wait() == 0, child.err()


@pytest.fixture(scope="module")
def alone(forks: Any, recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], float]:
    """What a process without company makes, and in how many seconds."""
    for _ in range(2):  # the first one has more to import
        cache, start = tmp_path_factory.mktemp("alone") / "cache", time.monotonic()
        child = forks.start("teacher_cache", {"recipe": str(recipe)}, cache=cache)
        ended_well(child)
        seconds = time.monotonic() - start
        forks.learn(child)
    outcome = tiny_runs.outcome(cache)
    assert {name.split("-")[0] for name in outcome} == {"tokens", "teacher"} and list(tiny_runs.leftovers(cache)) == []
    return outcome, seconds


def race(forks: Any, recipe: Path, cache: Path, random: random.Random, seconds: float) -> tuple[int, int]:
    """Start processes at once and kill some of them; how many there were, and how many were killed.

    Of those that are chosen more than half are killed within the `seconds` that one takes alone, be they at work or
    waiting; the others at a certain operation, if they come to that before somebody else has done the work.
    """
    racers = [
        forks.start("teacher_cache", {"recipe": str(recipe)}, cache=cache, dawdle=random.randint(1, 2**31))
        for _ in range(random.randint(2, 4))
    ]
    doomed = [racer for racer in racers if random.random() < 0.4]
    for racer in doomed:
        if random.random() < 0.6:
            time.sleep(random.random() * seconds / len(doomed))
        else:
            number = random.randint(1, 40)
            racer.wait_until(lambda board, number=number: board["operations"] >= number)
            time.sleep(random.random() * 0.01)
        racer.send(signal.SIGKILL)
    for racer in racers:
        if racer not in doomed:
            ended_well(racer)
    return len(racers), sum(racer.wait() != 0 for racer in doomed)


def test_racing_processes_make_what_one_alone_makes(
    forks: Any, recipe: Path, alone: Any, trials: Callable[..., Any], tmp_path: Path
) -> None:
    (expected, seconds), counts = alone, {"processes": 0, "killed": 0}
    with trials(GOAL, quick=8, full=500) as all_of_them:
        for number, random in enumerate(all_of_them):
            with all_of_them.trial(number):
                cache = tmp_path / str(number)
                processes, killed = race(forks, recipe, cache, random, seconds)
                counts["processes"] += processes
                counts["killed"] += killed
                if killed:  # the next one clears up after them, even if it has nothing else to do
                    ended_well(forks.start("teacher_cache", {"recipe": str(recipe)}, cache=cache))
                outcome = tiny_runs.outcome(cache)
                assert outcome == expected, tiny_runs.differing(outcome, expected)
                assert list(tiny_runs.leftovers(cache)) == []
                shutil.rmtree(cache)
        all_of_them.facts |= counts
    assert counts["killed"] >= counts["processes"] / 10, counts


def test_a_lock_whose_holder_was_killed_when_all_was_made_is_cleared_away(
    forks: Any, recipe: Path, alone: Any, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    ended_well(forks.start("teacher_cache", {"recipe": str(recipe)}, cache=cache))
    (tokens,) = cache.glob("tokens-*")
    views = [f"{view.parent.name}-{view.name.removeprefix('view-')}" for view in cache.glob("teacher-*/view-*")]
    for name in (tokens.name, *views):
        (cache / f".{name}.lock").write_text("12345\n")
    assert len(list(tiny_runs.leftovers(cache))) == 1 + len(views) > 1
    ended_well(forks.start("teacher_cache", {"recipe": str(recipe)}, cache=cache))
    assert tiny_runs.outcome(cache) == alone[0] and list(tiny_runs.leftovers(cache)) == []


def test_a_second_run_in_a_folder_is_refused_until_the_first_is_gone(forks: Any, recipe: Path, tmp_path: Path) -> None:
    cache, whole, run = tmp_path / "cache", tmp_path / "whole", tmp_path / "run"
    ended_well(forks.start("main", {"arguments": ["distill", str(recipe), "--output", str(whole)]}, cache=cache))
    command = {"arguments": ["distill", str(recipe), "--output", str(run)]}
    first = forks.start("main", command, cache=cache, phase=["tinydistilbert.training.loop:_Loop.update"], hold=LONG)
    assert first.wait_until(lambda board: board["phase"] == 1), first.err()
    before = tiny_runs.outcome(run)
    second = forks.start("main", command, cache=cache)
    assert second.wait() == 2 and second.err().count("\n") == 1, second.err()
    assert f"found process {first.pid} at work" in second.err() and f"--output {run}" in second.err()
    assert tiny_runs.outcome(run) == before and first.status() is None
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    ended_well(forks.start("main", command, cache=cache))
    outcome, expected = tiny_runs.outcome(run), tiny_runs.outcome(whole)
    assert outcome == expected, tiny_runs.differing(outcome, expected)
    assert list(tiny_runs.leftovers(run)) == []
