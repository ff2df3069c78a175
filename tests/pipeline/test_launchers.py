"""The launchers themselves, in place of the variables that they set: torchrun, and Accelerate's (`make test-slow`)."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests.faults import tiny_runs
from tests.faults.test_ranks import ACCUMULATED, IN_SHARDS, NEAR, distance, free_port

pytestmark = [pytest.mark.slow, pytest.mark.long]
LAUNCHERS = {
    "torchrun": ("torch.distributed.run", "--standalone", "--nproc-per-node", "2"),
    "accelerate": (
        "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2", "--num_machines", "1",
        "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", str(free_port()),
    ),
}  # fmt: skip


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_launcher_starts_the_processes_of_a_training(
    launcher: str, tokenizer: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    pytest.importorskip(LAUNCHERS[launcher][0].partition(".")[0])
    recipe = tiny_runs.Inputs(tmp_path / "inputs", tokenizer).recipe("tiny")
    command = ["tinydistilbert", "distill", str(recipe), *ACCUMULATED[:2], "--output"]
    alone, together = tmp_path / "alone", tmp_path / "together"
    subprocess.run([sys.executable, "-m", *command, str(alone)], check=True)
    started = [sys.executable, "-m", *LAUNCHERS[launcher], "-m", *command, str(together), IN_SHARDS, "--device", "cpu"]
    ended = subprocess.run(started, check=False, capture_output=True, text=True, timeout=300)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("teacher: in shards over 2 processes") == 1, "two processes, one of which is heard"
    assert distance(alone / "student/model.safetensors", together / "student/model.safetensors") < NEAR
