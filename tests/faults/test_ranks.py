"""Several processes that do one training: what they make is what one makes, and they end together, whatever happens."""

import json
import os
import shutil
import signal
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from transformers import PreTrainedTokenizerFast

from tests.faults import tiny_runs
from tests.faults.forks import Child, Forks

pytestmark = pytest.mark.long
NEAR = 1e-5
"""Of weights, as a relative norm."""
PARTS = [3, 5, 4, 2]
UPDATE = "tinydistilbert.training.loop:_Loop.update"
SOON = {"tinydistilbert.training.ranks:PART_SECONDS": 1.0}
"""With two processes, of which one was killed, nobody is left that rank 0 could wait for."""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def environments(world: int) -> list[dict[str, str]]:
    """What a launcher sets for each of its processes; one process has none."""
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(free_port())
    return [{}] if world == 1 else [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(world)]


def of_srun(world: int) -> list[dict[str, str]]:
    """What Slurm's `srun` sets by itself."""
    shared = {"SLURM_STEP_NUM_TASKS": str(world), "SLURM_STEP_TASKS_PER_NODE": str(world), "SLURM_NODEID": "0"}
    shared |= {"SLURM_STEP_NODELIST": "a-machine-without-a-name", "MASTER_PORT": str(free_port())}
    return [shared | {"SLURM_PROCID": str(rank), "SLURM_LOCALID": str(rank)} for rank in range(world)]


@dataclass(frozen=True)
class Bench:
    """Starts processes, and knows what one makes alone."""

    forks: Forks
    folder: Path
    inputs: tiny_runs.Inputs
    launcher: Callable[[int], list[dict[str, str]]] = environments

    def start(self, world: int, task: str, arguments: list[dict[str, Any]], **wishes: Any) -> list[Child]:
        """As many processes, each with its arguments."""
        return [
            self.forks.start(task, each, cache=self.folder / "cache", environment=environment, **wishes)
            for environment, each in zip(self.launcher(world), arguments, strict=True)
        ]

    def fit(self, world: int, folder: Path, **arguments: Any) -> list[Child]:
        """A tiny training; `folder` goes on with what is in it."""
        folder.mkdir(exist_ok=True)
        asked = {"folder": str(folder), "steps": 20, "parts": PARTS} | arguments
        return self.start(world, "ranked", [asked] * world)

    def command(self, world: int, *arguments: Any, **wishes: Any) -> list[Child]:
        """A command of the command line."""
        return self.start(world, "main", [{"arguments": [*map(str, arguments)]}] * world, **wishes)


@pytest.fixture(scope="module")
def bench(forks: Forks, tokenizer: PreTrainedTokenizerFast, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    folder = tmp_path_factory.mktemp("ranks")
    return Bench(forks, folder, tiny_runs.Inputs(folder / "inputs", tokenizer))


@pytest.fixture(scope="module")
def alone(bench: Bench) -> Path:
    """The tiny training by one process."""
    folder = bench.folder / "alone"
    ended(bench.fit(1, folder))
    return folder


def ended(children: list[Child]) -> None:
    """All are done, and well."""
    codes = [child.wait() for child in children]
    assert not any(codes), [child.err() for child in children]


def distance(one: Path, other: Path) -> float:
    """Largest relative difference of the norm of a weight; but of biases of keys, which rounding alone moves."""
    first, second = load_file(one), load_file(other)
    assert first.keys() == second.keys()
    names = (name for name in first if not name.endswith("key.bias"))
    return max(float((first[name] - second[name]).norm() / max(first[name].norm(), 1e-3)) for name in names)


def lines(log: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in log.read_text().splitlines()]


def spoken(children: list[Child], word: str) -> list[str]:
    """The lines of all processes with that word."""
    return [line for child in children for line in child.err().splitlines() if word in line]


@pytest.mark.parametrize("world", [2, 4])  # in every second step there are three micro-batches for the four
def test_processes_train_what_one_trains(bench: Bench, alone: Path, world: int, tmp_path: Path) -> None:
    ended(bench.fit(world, tmp_path))
    for rank in range(world):
        assert distance(alone / "rank-0.safetensors", tmp_path / f"rank-{rank}.safetensors") < NEAR
    log, log_alone = lines(tmp_path / "model" / "log.jsonl"), lines(alone / "model" / "log.jsonl")
    assert [line.get("fit", 0) for line in log] == pytest.approx([line.get("fit", 0) for line in log_alone], rel=1e-4)
    assert [line.get("tokens") for line in log] == [line.get("tokens") for line in log_alone]


def test_srun_needs_no_other_launcher(bench: Bench, alone: Path, tmp_path: Path) -> None:
    ended(replace(bench, launcher=of_srun).fit(2, tmp_path))
    assert distance(alone / "rank-0.safetensors", tmp_path / "rank-1.safetensors") < NEAR


@pytest.mark.parametrize("world", [1, 4])
def test_a_checkpoint_does_not_know_how_many_processes_there_were(
    bench: Bench, alone: Path, world: int, tmp_path: Path
) -> None:
    stopped = bench.fit(2, tmp_path, stop_after=7)
    assert all(child.wait() for child in stopped) and len(spoken(stopped, "stopped after step 8 of 20")) >= 1
    ended(bench.fit(world, tmp_path))
    assert distance(alone / "rank-0.safetensors", tmp_path / "rank-0.safetensors") < NEAR


def test_when_memory_runs_out_in_one_process_all_halve_their_micro_batches(bench: Bench, tmp_path: Path) -> None:
    for world, name in ((1, "one"), (2, "two")):
        ended(bench.fit(world, tmp_path / name, steps=6, out_of_memory_in=world - 1))
        log = lines(tmp_path / name / "model" / "log.jsonl")
        assert [line["step"] for line in log if "micro_batches_halved" in line] == [3]
    assert distance(tmp_path / "one" / "rank-0.safetensors", tmp_path / "two" / "rank-0.safetensors") < NEAR


def test_processes_that_compute_each_micro_batch_together_keep_pace(bench: Bench, alone: Path, tmp_path: Path) -> None:
    ended(bench.fit(2, tmp_path / "whole", in_step=True))  # in every second step the second has one micro-batch less
    assert distance(alone / "rank-0.safetensors", tmp_path / "whole" / "rank-1.safetensors") < NEAR
    children = bench.fit(2, tmp_path / "short", out_of_memory_in=1, in_step=True)
    assert all(child.wait() for child in children)
    assert spoken(children, "OutOfMemory: fit: out of memory at step 3; start more processes")
    assert "ReportedElsewhere" in children[0].err()


def test_a_loss_that_is_not_finite_in_one_process_ends_all(bench: Bench, tmp_path: Path) -> None:
    children = bench.fit(2, tmp_path, infinite_at=4)
    assert all(child.wait() for child in children)
    assert spoken(children, "NonFiniteLoss: step 5: the term fit") and "ReportedElsewhere" in children[1].err()


def test_one_micro_batch_is_halved_for_two_processes_and_none_stays_without_one(bench: Bench, tmp_path: Path) -> None:
    ended(bench.fit(2, tmp_path / "eight", parts=[8]))
    log = lines(tmp_path / "eight" / "model" / "log.jsonl")
    assert log[0] == {"step": 1, "micro_batches_halved": 1}
    children = bench.fit(2, tmp_path / "one", parts=[1])
    assert all(child.wait() for child in children)
    assert spoken(children, "there are 2 processes, but a step has only 1 micro-batch")


ACCUMULATED = [f"--{stage}.optimization.gradient_accumulation_steps=2" for stage in ("adapt", "distill", "finetune")]


@pytest.fixture(scope="module")
def run_alone(bench: Bench) -> Path:
    """All trainings of a recipe by one process."""
    output = bench.folder / "run alone"
    recipe = bench.inputs.recipe("tiny")
    ended(bench.command(1, "evaluate", recipe, "--output", output, *ACCUMULATED))
    return output


def models(run: Path) -> list[Path]:
    return sorted(path.relative_to(run) for path in run.rglob("model.safetensors"))


def test_a_whole_run_of_two_processes_is_that_of_one(bench: Bench, run_alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    children = bench.command(2, "evaluate", bench.inputs.recipe("tiny"), "--output", output, *ACCUMULATED)
    ended(children)
    assert models(output) == models(run_alone) != []
    assert max(distance(output / model, run_alone / model) for model in models(output)) < NEAR
    scores, scores_alone = (lines(run / "results.jsonl") for run in (output, run_alone))
    values = [[(row["model"], row["metric"]) for row in rows] for rows in (scores, scores_alone)]
    assert values[0] == values[1]
    for row, other in zip(scores, scores_alone, strict=True):
        assert row["value"] == pytest.approx(other["value"], rel=1e-4), row
        assert (row["examples"], row["split"]) == (other["examples"], other["split"])
    assert children[1].out() == children[1].err() == "" != children[0].err()
    assert [*tiny_runs.leftovers(output)] == []


IN_SHARDS = "--teacher.sharding=always"


def test_a_teacher_in_shards_says_what_the_whole_one_says(bench: Bench) -> None:
    children = bench.start(2, "shards", [{"teacher": str(bench.inputs.teacher)}] * 2)
    ended(children)
    for child in children:
        report = json.loads(child.out())
        assert report["difference"] < NEAR and 0.4 < report["share"] < 0.6
        assert len(report["lines"]) == 1 and "in shards over 2 processes" in report["lines"][0]


def test_a_student_learns_the_same_from_a_teacher_in_shards(bench: Bench, tmp_path: Path) -> None:
    # Three micro-batches for two processes, and one batch of validation: the second makes passes only to keep pace.
    arguments = ["distill", bench.inputs.recipe("tiny"), "--distill.optimization.gradient_accumulation_steps=3"]
    arguments.append("--adapt.tokens=0")
    ended(bench.command(1, *arguments, "--output", tmp_path / "one"))
    children = bench.command(2, *arguments, IN_SHARDS, "--output", tmp_path / "two")
    ended(children)
    student = "student/model.safetensors"
    assert distance(tmp_path / "one" / student, tmp_path / "two" / student) < NEAR
    output = children[0].out() + children[0].err()
    assert output.count("teacher: in shards over 2 processes") == 2, "to be measured, and to be learned from"
    # Whoever goes on may hold the teacher in another way.
    ended(bench.command(1, *arguments, "--output", tmp_path / "two"))


def test_the_death_of_one_process_is_noticed_in_a_pass_of_a_teacher_in_shards(bench: Bench, tmp_path: Path) -> None:
    arguments = ("distill", bench.inputs.recipe("tiny"), "--output", tmp_path / "run", *ACCUMULATED, IN_SHARDS)
    in_loss = "tinydistilbert.distillation.objective:PretrainingLoss.loss"
    children = bench.command(2, *arguments, phase=(in_loss,), hold=0.1, constants=SOON)
    assert children[1].wait_until(lambda board: board["phase"] == 1)
    os.kill(children[1].pid, signal.SIGKILL)
    begun = time.monotonic()
    assert children[0].wait() == 1 and time.monotonic() - begun < 60
    assert len(spoken(children, "a process of this training has ended")) == 1 and "Traceback" not in children[0].err()


def test_an_epoch_is_chosen_together(bench: Bench, tmp_path: Path) -> None:
    recipe, more = bench.inputs.selection("selection"), {"finetune.optimization.gradient_accumulation_steps": 2}
    for world in (1, 2):  # from Python; the commands are tried elsewhere
        output = tmp_path / f"run {world}"
        asked = {"recipe": str(recipe), "output": str(output), "until": "finetune", "settings": more}
        children = bench.start(world, "replicate", [asked] * world)
        ended(children)
        assert [child.out().count("steps are events") for child in children] == [1, 0][:world]
    one, two = tmp_path / "run 1", tmp_path / "run 2"
    assert max(distance(one / model, two / model) for model in models(one)) < NEAR
    facts = [json.loads(next(run.rglob("training.json")).read_text()) for run in (one, two)]
    assert facts[0]["selected"] == facts[1]["selected"] and facts[0]["learning_rates"] == facts[1]["learning_rates"]


def test_a_fine_tuning_that_fails_is_reported_once(bench: Bench, tmp_path: Path) -> None:
    arguments = ["finetune", bench.inputs.selection("selection"), "--output", tmp_path / "run", *ACCUMULATED[2:]]
    children = bench.command(
        2, *arguments, "--finetune.learning_rates=[]", "--finetune.optimization.learning_rate=1e30"
    )
    assert [child.wait() for child in children] == [1, 1]
    assert len(spoken(children, "error: finetune model on ")) == 1 and children[1].err() == ""


def test_the_death_of_one_process_ends_all_and_the_run_goes_on(bench: Bench, run_alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ("adapt", bench.inputs.recipe("tiny"), "--output", output, *ACCUMULATED)
    children = bench.command(2, *arguments, phase=(UPDATE,), hold=0.1, constants=SOON)
    assert children[1].wait_until(lambda board: board["phase"] == 2)
    os.kill(children[1].pid, signal.SIGKILL)
    begun = time.monotonic()
    assert children[0].wait() == 1 and time.monotonic() - begun < 60
    assert len(spoken(children, "a process of this training has ended")) == 1 and "Traceback" not in children[0].err()
    ended(bench.command(2, *arguments))
    assert distance(output / "teacher/model.safetensors", run_alone / "teacher/model.safetensors") < NEAR


def test_the_death_of_the_main_process_ends_all_with_one_message(bench: Bench, tmp_path: Path) -> None:
    arguments = ("distill", bench.inputs.recipe("tiny"), "--output", tmp_path / "run", *ACCUMULATED)
    children = bench.command(2, *arguments, phase=(UPDATE,), hold=0.1)
    assert children[0].wait_until(lambda board: board["phase"] == 2)
    os.kill(children[0].pid, signal.SIGKILL)
    begun = time.monotonic()
    assert children[1].wait() == 1 and time.monotonic() - begun < 60
    assert len(spoken(children, "rank 1: error: a process of this training has ended")) == 1


def test_a_request_to_stop_that_one_process_gets_stops_all(bench: Bench, run_alone: Path, tmp_path: Path) -> None:
    output = tmp_path / "run"
    arguments = ("adapt", bench.inputs.recipe("tiny", minutes=60.0), "--output", output, *ACCUMULATED)
    children = bench.command(2, *arguments, phase=(UPDATE,), hold=0.1)
    assert children[1].wait_until(lambda board: board["phase"] == 2)
    for number in (signal.SIGINT, signal.SIGTERM):  # as with Ctrl-C: from the terminal, then from the launcher
        children[1].send(number)
    assert children[0].wait() == 130 and children[1].wait() == 1
    assert len(spoken(children, "the same command goes on from there")) == 1
    ended(bench.command(1, *arguments))
    assert distance(output / "teacher/model.safetensors", run_alone / "teacher/model.safetensors") < NEAR


DIFFERENCES: dict[str, Callable[[list[str]], list[str]]] = {
    "distill.max_steps": lambda arguments: [*arguments, "--distill.max_steps=5"],
    "--output": lambda arguments: [*arguments[:-1], f"{arguments[-1]} elsewhere"],
}


@pytest.mark.parametrize("name", DIFFERENCES)
def test_processes_that_are_to_do_different_things_are_refused(bench: Bench, name: str, tmp_path: Path) -> None:
    arguments = ["distill", str(bench.inputs.recipe("tiny")), "--output", str(tmp_path / "run")]
    asked = [{"arguments": each} for each in (arguments, DIFFERENCES[name](arguments))]
    children = bench.start(2, "main", asked)
    assert [child.wait() for child in children] == [2, 1]
    assert f"rank 1 has {name} = " in children[0].err() and children[1].err() == ""
    assert not (tmp_path / "run").exists()


def test_more_processes_than_examples_of_a_step_are_refused_with_the_numbers(bench: Bench, tmp_path: Path) -> None:
    arguments = ["adapt", str(bench.inputs.recipe("tiny")), "--output", str(tmp_path / "run")]
    children = bench.command(2, *arguments, "--adapt.optimization.batch_size=1")
    assert [child.wait() for child in children] == [2, 1]
    assert (
        len(spoken(children, "2 processes, but a step of adapt has only 1 example")) == 1
        and not (tmp_path / "run").exists()
    )


def test_what_one_process_does_is_refused_under_a_launcher(bench: Bench, tmp_path: Path) -> None:
    for command in (["tasks"], ["prepare", str(bench.inputs.recipe("tiny")), "--output", str(tmp_path / "run")]):
        children = bench.command(2, *command)
        assert all(child.wait() == 2 for child in children[:1]) and children[1].wait() in (1, 2)
        assert "expected one process, found 2, by a launcher" in children[0].err()
    shutil.rmtree(tmp_path, ignore_errors=True)
