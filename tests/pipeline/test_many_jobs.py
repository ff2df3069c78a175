"""Studies on a local Ray cluster that loses a node or is told to stop, and a sweep that is killed: `make test-slow`."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.long]


def outcome(tmp_path: Path, study: str, jobs: int) -> dict[str, Any]:
    """What the script of the published outcome says of a smaller study."""
    output = tmp_path / "outcome.jsonl"
    command = [sys.executable, str(ROOT / "benchmarks" / "many_jobs.py"), "--study", study, "--jobs", str(jobs)]
    subprocess.run([*command, "--examples", "32", "--output", str(output)], check=True)
    (row,) = map(json.loads, output.read_text().splitlines())
    return dict(row)


def test_trainings_of_a_node_that_is_killed_go_on_elsewhere(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="ray (extra cluster) is not installed")
    row = outcome(tmp_path, "ray", 4)
    assert row["finished"] == row["jobs"] == 4
    assert row["begun again"] and set(row["begun again"]) <= set(row["at work when a node was killed"])
    assert all(row["same bits as without a kill"])


def test_a_killed_sweep_goes_on_with_the_trials_that_it_has(tmp_path: Path) -> None:
    pytest.importorskip("optuna", reason="optuna (extra sweep) is not installed")
    row = outcome(tmp_path, "sweep", 5)
    assert row["finished"] == row["jobs"] == 5 and row["left behind"] == 0
    assert row["kept as they were"] == row["finished when it was killed"] >= 1


def test_a_study_on_ray_that_is_told_to_stop_saves_its_checkpoints(tmp_path: Path, recipe_text: str) -> None:
    pytest.importorskip("ray", reason="ray (extra cluster) is not installed")
    text = recipe_text.replace('tasks = ["acceptability", "adjacency", "cloze-qa"]', 'tasks = ["adjacency"]')
    (tmp_path / "tiny.toml").write_text(
        text.replace("max_steps = 40", "max_steps = 4").replace("epochs = 1", "epochs = 400")
    )
    output = tmp_path / "run"
    command = [sys.executable, "-m", "tinydistilbert", "finetune", str(tmp_path / "tiny.toml"), "--output", str(output)]
    command += ["--finetune.models", "teacher", "--finetune.distillation.tasks", "none"]
    study = subprocess.Popen([*command, "--jobs", "ray", "--threads", "1"], env={**os.environ})
    model = output / "tasks" / "adjacency" / "teacher" / "seed-0" / "model.partial"
    try:
        deadline = time.monotonic() + 300
        while not ((model / "log.jsonl").exists() and (model / "log.jsonl").stat().st_size):
            assert study.poll() is None and time.monotonic() < deadline
            time.sleep(0.05)
        at_work = [process for process in psutil.process_iter(["cmdline"]) if is_part(process, output)]
        assert at_work
        study.send_signal(signal.SIGINT)
        assert study.wait(150) == 130
    finally:
        study.kill()
        study.wait()
    assert psutil.wait_procs(at_work, 30)[1] == []
    assert (model / "checkpoints").is_dir()


def is_part(process: psutil.Process, output: Path) -> bool:
    """Whether a process works on a part of the study in a folder."""
    line = process.info["cmdline"] or []
    return "--part" in line and str(output) in line
