"""Two tiers of the same trials, and the ledger that their counts go into.

`FAULTS=full` asks for the full tier, else it is the quick one. Where `FAULTS_LEDGER` names a file, every goal adds a
line to it: what was tried how often, how often it failed, in how many seconds, at which commit, when.
"""

import datetime
import functools
import json
import os
import random
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tinydistilbert.storage import atomic

TIER = os.environ.get("FAULTS", "quick")
assert TIER in ("quick", "full"), f"FAULTS: expected quick or full, found {TIER!r}"
MOST_SHOWN = 5
LONGEST_SHOWN = 2000
"""Characters of what went wrong in a trial."""


class Trials:
    """The trials of one goal: a random generator for each, and what went wrong in which.

    Args:
        goal: what is promised, as the table of the reliability page says it.
        count: of the trials.
    """

    def __init__(self, goal: str, count: int) -> None:
        self.goal, self.count = goal, count
        self.failures: list[str] = []
        self.facts: dict[str, Any] = {}
        """What else is worth a place in the ledger, such as how many kills hit a save."""

    def __iter__(self) -> Iterator[random.Random]:
        """A generator for each trial, always the same: a trial that fails can be looked at again."""
        return (random.Random(f"{self.goal} {number}") for number in range(self.count))

    @contextmanager
    def trial(self, name: object) -> Iterator[None]:
        """One trial; whatever is raised in it is a failure under that name, and the others go on."""
        try:
            yield
        except (Exception, SystemExit, KeyboardInterrupt, pytest.fail.Exception) as error:
            text = str(error)  # the end too: of a traceback that is where the reason stands
            shown = text if len(text) <= LONGEST_SHOWN else f"{text[:300]} … {text[300 - LONGEST_SHOWN :]}"
            self.failures.append(f"{name}: {type(error).__name__}: {shown}")


@functools.cache
def commit() -> str:
    """The commit that is tried, with `+` when its code was changed since; the ledger itself is no code."""
    git = functools.partial(subprocess.run, cwd=Path(__file__).parents[2], capture_output=True, text=True, check=False)
    head = git(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
    return head + ("+" if git(["git", "status", "--porcelain", "-uno", "--", "src", "tests"]).stdout.strip() else "")


@pytest.fixture
def trials() -> Callable[..., Any]:
    """What makes the trials of a goal, for a `with`; it takes the goal, and the counts `quick` and `full`.

    At the end it writes the ledger's line, and fails if one of them failed.
    """

    @contextmanager
    def begun(goal: str, *, quick: int, full: int) -> Iterator[Trials]:
        attempts, start = Trials(goal, quick if TIER == "quick" else full), time.monotonic()
        yield attempts
        if ledger := os.environ.get("FAULTS_LEDGER"):
            row = {
                "goal": goal, "tier": TIER, "trials": attempts.count, "failures": len(attempts.failures),
                "seconds": round(time.monotonic() - start, 1), **attempts.facts,
                "commit": commit(),
                "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            }  # fmt: skip
            atomic.append_line(Path(ledger), json.dumps(row))
        shown = "\n".join(attempts.failures[:MOST_SHOWN])
        assert not attempts.failures, f"{len(attempts.failures)} of {attempts.count} trials failed; the first:\n{shown}"

    return begun
