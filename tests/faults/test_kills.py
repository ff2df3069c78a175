"""kill -9 at any moment of any training: the same command ends with the weights and the log of a run left alone."""

import random
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
from tinydistilbert.compress.builder import VariantBuilder, make_folder
from tinydistilbert.run_folder import CompressedFolder
from tinydistilbert.storage.made_from import MadeFrom

GOAL = "kill -9 at a random moment, then resume: weights and log as never interrupted"
KILLS = (1, 1, 1, 2, 3)
"""In a row, before a run is left alone; one of these numbers."""
LONG = 300.0
"""Seconds that nobody waits for."""


@dataclass(frozen=True)
class Case:
    """One stage with a training in it, and the run in which all but it is finished."""

    command: list[str]
    begun: Path
    expected: dict[str, Any]
    seconds: float
    """That the command takes, uninterrupted."""
    operations: int
    """On files, that it does."""
    save_operations: int
    """Those within checkpoints."""


@pytest.fixture(scope="module")
def cases(
    forks: Any, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory
) -> tuple[dict[str, Case], Path]:
    """A case for each kind of training, and the cache that they share."""
    folder = tmp_path_factory.mktemp("kills")
    inputs, cache = tiny_runs.Inputs(folder / "inputs", tokenizer), folder / "cache"
    recipe, selection = inputs.recipe("tiny"), inputs.selection("selection")
    for source in (recipe, selection):
        child = forks.start("main", {"arguments": ["finetune", str(source), *_to(folder / source.stem)]}, cache=cache)
        assert child.wait() == 0, child.err()
        forks.learn(child)
    kinds = {
        "adapt": ("adapt", recipe, ["teacher", "student", "tasks"]),
        "distill": ("distill", recipe, ["student", "tasks"]),
        "finetune": ("finetune", recipe, ["tasks/acceptability/student"]),
        "finetune (D)": ("finetune", recipe, ["tasks/acceptability/student-d"]),
        "finetune with selection": ("finetune", selection, ["tasks"]),
    }
    named_cases = {}
    for name, (command, source, unmade) in kinds.items():
        begun = tiny_runs.without(folder / source.stem, *unmade, target=folder / f"begun {name}")
        run, start = folder / "alone", time.monotonic()
        shutil.copytree(begun, run)
        child = forks.start("main", {"arguments": [command, str(source), *_to(run)]}, cache=cache)
        assert child.wait() == 0, child.err()
        seconds, expected, board = time.monotonic() - start, tiny_runs.outcome(run), child.board
        shutil.rmtree(run)
        assert list(tiny_runs.leftovers(begun)) == [] and board["save_operations"] > 0
        counts = board["operations"], board["save_operations"]
        named_cases[name] = Case([command, str(source)], begun, expected, seconds, *counts)
    return named_cases, cache


def _to(run: Path) -> list[str]:
    return ["--output", str(run)]


def killed(
    forks: Any, case: Case, run: Path, cache: Path, random: random.Random, *, surely: bool = False
) -> tuple[bool, bool]:
    """Go on with the run and kill it; whether it was killed, and within a save.

    It may have been quicker, if not `surely`, which is only possible from its beginning.
    """
    how, wishes = 0.0 if surely else random.random(), {}
    if how < 0.4:  # at an operation of a save, just before or just after it
        wishes = {"die_at": random.randint(1, case.save_operations), "die_after": random.random() < 0.5}
    child = forks.start("main", {"arguments": [*case.command, *_to(run)]}, cache=cache, **wishes)
    if how >= 0.4:
        if how < 0.7:  # a little after any operation
            number = random.randint(1, case.operations)
            child.wait_until(lambda board: board["operations"] >= number)
            time.sleep(random.random() * 0.02)
        else:  # at any time
            time.sleep(random.random() * case.seconds)
        child.send(signal.SIGKILL)
    status = child.wait()
    assert status in (0, -signal.SIGKILL), child.err()
    return status != 0, status != 0 and bool(child.board["saving"])


def test_a_killed_training_ends_as_one_that_was_left_alone(
    forks: Any, cases: tuple[dict[str, Case], Path], trials: Callable[..., Any], tmp_path: Path
) -> None:
    known, cache = cases
    kills = {"kills": 0, "inside a save": 0}
    with trials(GOAL, quick=10, full=1000) as all_of_them:
        for number, random in enumerate(all_of_them):
            name = list(known)[number % len(known)]
            case, run = known[name], tmp_path / str(number)
            with all_of_them.trial(f"{number}, {name}"):
                shutil.copytree(case.begun, run)
                for count in range(random.choice(KILLS)):
                    was_killed, in_save = killed(forks, case, run, cache, random)
                    if not (was_killed or count):
                        shutil.rmtree(run)
                        shutil.copytree(case.begun, run)
                        was_killed, in_save = killed(forks, case, run, cache, random, surely=True)
                    kills["kills"] += was_killed
                    kills["inside a save"] += in_save
                    if not was_killed:
                        break
                child = forks.start("main", {"arguments": [*case.command, *_to(run)]}, cache=cache)
                assert child.wait() == 0, child.err()
                outcome = tiny_runs.outcome(run)
                assert outcome == case.expected, tiny_runs.differing(outcome, case.expected)
                assert "skipping checkpoint" not in child.err()
                assert list(tiny_runs.leftovers(run)) == []
                shutil.rmtree(run)
        all_of_them.facts |= kills
    assert kills["kills"] >= all_of_them.count, kills
    assert kills["inside a save"] >= kills["kills"] / 5, kills


def killed_in(forks: Any, case: Case, run: Path, cache: Path, function: str) -> None:
    """Go on with the run and kill it at the beginning of a function."""
    command = {"arguments": [*case.command, *_to(run)]}
    child = forks.start("main", command, cache=cache, phase=[function], hold=LONG)
    assert child.wait_until(lambda board: board["phase"] == 1), child.err()
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("name", "function"),
    [
        ("finetune with selection", "tinydistilbert.finetuning.finetune:run_training"),
        ("finetune with selection", "tinydistilbert.finetuning.finetune:save_model"),
        ("finetune with selection", "tinydistilbert.finetuning.finetune:_last_loss"),
        ("distill", "tinydistilbert.distillation.distill:save_model"),
        ("distill", "tinydistilbert.storage.atomic:write_manifest"),
        ("distill", "tinydistilbert.storage.atomic:tidy"),
        ("distill", "tinydistilbert.pipeline.folders:write_results"),
        ("finetune (D)", "tinydistilbert.storage.disk:rename"),
    ],
)
def test_moments_that_chance_seldom_hits(
    name: str, function: str, forks: Any, cases: tuple[dict[str, Case], Path], tmp_path: Path
) -> None:
    known, cache = cases
    case, run = known[name], tmp_path / "run"
    shutil.copytree(case.begun, run)
    killed_in(forks, case, run, cache, function)
    child = forks.start("main", {"arguments": [*case.command, *_to(run)]}, cache=cache)
    assert child.wait() == 0, child.err()
    outcome = tiny_runs.outcome(run)
    assert outcome == case.expected, tiny_runs.differing(outcome, case.expected)
    assert list(tiny_runs.leftovers(run)) == []


def test_a_run_that_was_killed_at_its_first_file_can_begin(
    forks: Any, cases: tuple[dict[str, Case], Path], tmp_path: Path
) -> None:
    known, cache = cases
    case, run = known["adapt"], tmp_path / "run"
    killed_in(forks, case, run, cache, "tinydistilbert.storage.disk:rename")
    assert [path.name for path in run.iterdir() if path.suffix == ".tmp"], "the recipe was half-written"
    child = forks.start("main", {"arguments": [*case.command, *_to(run)]}, cache=cache)
    assert child.wait() == 0, child.err()
    outcome, expected = (
        {name: value for name, value in each.items() if name.startswith("teacher/")}
        for each in (tiny_runs.outcome(run), case.expected)
    )
    assert outcome == expected, tiny_runs.differing(outcome, expected)
    assert list(tiny_runs.leftovers(run)) == []


def test_a_finished_variant_is_tidied(tmp_path: Path) -> None:
    # Its process was killed between the last rename and the deletion of the checkpoints.
    nothing: Any = None
    folder = CompressedFolder(tmp_path)
    model = folder.variant("keep-50").recovered
    (model / "checkpoints" / "step-00000001").mkdir(parents=True)
    (model / "manifest.json").write_text('{"files": {}}')
    sources = MadeFrom({}, {}, {}, tmp_path)
    builder = VariantBuilder(
        nothing, nothing, nothing, (), "student", folder, nothing, pytest.fail, pytest.fail, sources
    )
    make_folder(builder, model, "recovery fine-tuning", pytest.fail)
    assert [path.name for path in model.iterdir()] == ["manifest.json"]
