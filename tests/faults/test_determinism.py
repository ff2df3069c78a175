"""The same recipe on the same machine gives the same bytes, whatever process, cache, hash seed or threads it has."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tests.faults import tiny_runs
from tests.faults.forks import Forks

GOAL = "determinism: same recipe, same machine, same hash"
STEPS = 12


def replicated(recipe: Path, folder: Path, seed: int) -> dict[str, Any]:
    """What a process of its own, with a cache of its own, makes of the recipe; but for what has a clock in it."""
    run = folder / f"run-{seed}"
    environment = {
        **os.environ, "PYTHONHASHSEED": str(seed), "OMP_NUM_THREADS": "1",
        "TINYDISTILBERT_CACHE": str(folder / f"cache-{seed}"),
    }  # fmt: skip
    command = [sys.executable, "-m", "tinydistilbert", "evaluate", str(recipe), "--output", str(run)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return {**tiny_runs.outcome(run), **tiny_runs.outcome(folder / f"cache-{seed}")}


def test_two_processes_make_the_same_models_and_logs(
    forks: Forks, tokenizer: PreTrainedTokenizerFast, trials: Callable[..., Any], tmp_path: Path
) -> None:
    recipe = tiny_runs.Inputs(tmp_path / "inputs", tokenizer).recipe("tiny", minutes=60.0)
    cache, run = tmp_path / "cache-0", tmp_path / "run-0"
    child = forks.start("main", {"arguments": ["evaluate", str(recipe), "--output", str(run)]}, cache=cache)
    assert child.wait() == 0, child.err()
    first = {**tiny_runs.outcome(run), **tiny_runs.outcome(cache)}
    models = [name for name in first if name.endswith("model.safetensors")]
    logs = [name for name in first if name.endswith("log.jsonl")]
    assert (len(models), len(logs)) == (4, 5), "teacher, student, and three models of the task, one without its weights"
    with trials(GOAL, quick=1, full=10) as all_of_them:
        for number, _ in enumerate(all_of_them):
            with all_of_them.trial(number):
                outcome = replicated(recipe, tmp_path, number + 1)
                assert outcome == first, tiny_runs.differing(outcome, first)
        all_of_them.facts["files compared"] = len(first)


def test_batches_are_functions_of_seed_and_step_whatever_the_threads(
    forks: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    inputs = tiny_runs.Inputs(tmp_path / "inputs", tokenizer)
    known = {"recipe": str(inputs.recipe("tiny")), "encoder": str(inputs.teacher), "task": "acceptability"}
    batches_of_runs = []
    for threads in (1, 2, 2):
        child = forks.start("batches", {**known, "threads": threads, "steps": STEPS}, cache=tmp_path / "cache")
        assert child.wait() == 0, child.err()
        batches_of_runs.append(json.loads(child.out()))
    assert batches_of_runs[0] == batches_of_runs[1] == batches_of_runs[2]
    assert len({each for step in batches_of_runs[0] for each in step}) == 2 * STEPS, "and no two steps read the same"
