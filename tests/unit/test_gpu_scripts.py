"""The day on a GPU: parts that fail or take too long hold nothing up, and a pack comes out as it went in."""

import io
import json
import subprocess
import sys
from pathlib import Path

import gpu_day
import gpu_pack
import numpy as np
import pytest

pytestmark = pytest.mark.long


def day(folder: Path, monkeypatch: pytest.MonkeyPatch, *programs: str) -> object:
    """A day whose parts run these programs side by side."""
    made = gpu_day.Day(data=folder, teacher=folder, output=folder, run=folder, device="cpu", size="toy", workers=1)
    commands = [[sys.executable, "-c", program] for program in programs]
    monkeypatch.setattr(gpu_day.Day, "commands", lambda *_: commands)
    return made


def test_a_part_that_fails_is_recorded_with_its_last_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = io.StringIO()
    made = day(tmp_path, monkeypatch, "print('fine')", "print('begun'); raise ValueError('boom')")
    row = gpu_day.run_part(made, "steps", 60.0, log)
    assert row["state"] == "failed" and row["exit_codes"] == [0, 1]
    assert row["last_lines"][0][0] == "begun" and row["last_lines"][0][-1] == "ValueError: boom"
    assert "fine" in log.getvalue() and "boom" in log.getvalue()


def test_a_part_that_takes_too_long_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = day(tmp_path, monkeypatch, "import time; print('waiting', flush=True); time.sleep(3000)")
    row = gpu_day.run_part(made, "latency", 1.5, io.StringIO())
    assert row["state"] == "out of time" and row["last_lines"] == [["waiting"]]


def test_what_is_done_is_not_done_again(tmp_path: Path) -> None:
    rows = [("tests", "done", "full"), ("steps", "failed", "full"), ("latency", "done", "quick")]
    lines = [json.dumps({"part": part, "state": state, "size": size}) for part, state, size in rows]
    (tmp_path / "parts.jsonl").write_text("\n".join(lines) + "\n")
    assert gpu_day.finished(tmp_path / "parts.jsonl", "full") == {"tests"}


def test_the_tasks_are_shared_out_among_the_processes(tmp_path: Path) -> None:
    made = gpu_day.Day(tmp_path, tmp_path, tmp_path, tmp_path, "cuda", "full", workers=3)
    commands = made.commands("finetune", 100.0)
    shared = [command[command.index("--tasks") + 1 :] for command in commands]
    assert len(shared) == 3
    assert sorted(task for tasks in shared for task in tasks) == sorted(gpu_day.TASKS)


@pytest.fixture
def packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folders with a pack of made-up data; random numbers, which no archive makes smaller."""
    monkeypatch.setattr(gpu_pack, "CODE", ("pyproject.toml",))
    content = np.random.default_rng(0).bytes(150_000)
    for name in ("data/glue/rte/train.parquet", "data/glue/qnli/train_reconstructed_from_squad.parquet"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_bytes(content)
    for folder in ("teacher", "wheels"):
        (tmp_path / folder).mkdir()
    (tmp_path / "teacher" / "config.json").write_text("{}")
    gpu_pack.main([
        "--data", str(tmp_path / "data"), "--parts", "glue/rte", "glue/qnli", "--teacher", str(tmp_path / "teacher"),
        "--wheels", str(tmp_path / "wheels"), "--output", str(tmp_path / "packs"), "--limit", "0.08",
    ])  # fmt: skip
    return tmp_path / "packs"


def unpack(folder: Path, target: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, folder / "gpu_unpack.py", target], capture_output=True, text=True, check=False
    )


def test_a_pack_comes_out_as_it_went_in(packed: Path, tmp_path: Path) -> None:
    folders = sorted(packed.glob("pack-*"))
    assert len(folders) >= 2
    for folder in folders:
        assert sum(file.stat().st_size for file in folder.iterdir()) < 0.08 * 2**20
    target = tmp_path / "target"
    for folder in reversed(folders):
        assert not (target / "teacher").exists()
        done = unpack(folder, target)
        assert done.returncode == 0, done.stderr
    data = target / "data" / "glue"
    assert (data / "rte" / "train.parquet").read_bytes() == np.random.default_rng(0).bytes(150_000)
    assert not (data / "qnli").exists()  # of which nothing is read
    assert (target / "teacher" / "config.json").exists() and (target / "pyproject.toml").exists()
    assert "before" in unpack(folders[0], target).stdout


def test_a_damaged_piece_is_refused(packed: Path, tmp_path: Path) -> None:
    piece = next(packed.glob("pack-1/pack.tar.gz.*"))
    piece.write_bytes(b"x" + piece.read_bytes()[1:])
    for folder in sorted(packed.glob("pack-*")):
        done = unpack(folder, tmp_path / "target")
    assert done.returncode == 1 and "damaged" in done.stderr
    assert not (tmp_path / "target" / "teacher").exists()


def test_wheels_are_those_that_an_image_lacks() -> None:
    wheels = [line.split("==")[0] for line in gpu_pack.needed(gpu_pack.PRESENT)]
    assert "pydantic" in wheels and "pydantic-core" in wheels
    assert not {"torch", "numpy", "transformers"} & set(wheels)
    assert "torch" in [line.split("==")[0] for line in gpu_pack.needed([])]
