"""The files of `examples/cluster` are well formed, and the command lines in them are ones that this version takes."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "cluster"
SCRIPTS = sorted([*EXAMPLES.glob("*.sbatch"), *EXAMPLES.glob("*.sh")])
RECORD = """#!/bin/sh
printf '%s\\0' "$@" >> "$RECORDED/{name}"
"""
STARTS = """#!/bin/sh
trap 'kill -TERM $!' TERM
"$@" &
wait $! || wait $!
"""


@pytest.fixture
def stubs(tmp_path: Path) -> dict[str, str]:
    """Launchers do nothing but start the command, and commands write down what they were given."""
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    for name in ("tinydistilbert", "torchrun", "ray", "pip"):
        (bin_folder / name).write_text(RECORD.format(name=name))
    (bin_folder / "srun").write_text(STARTS)
    (bin_folder / "scontrol").write_text('#!/bin/sh\necho "$@" >> "$RECORDED/scontrol"; echo node-0\n')
    for path in bin_folder.iterdir():
        path.chmod(0o755)
    return {
        "PATH": f"{bin_folder}:{os.environ['PATH']}", "RECORDED": str(tmp_path), "SLURM_JOB_ID": "7",
        "SLURM_JOB_NODELIST": "node-[0-1]", "SLURM_NNODES": "2", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "2",
        "RUNS": str(tmp_path / "runs"), "SPACE": str(EXAMPLES / "space.toml"),
    }  # fmt: skip


def recorded(tmp_path: Path, name: str) -> list[str]:
    return (tmp_path / name).read_text().split("\0")[:-1]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_a_script_is_well_formed(script: Path) -> None:
    shell = shutil.which("bash") if script.suffix == ".sbatch" else "sh"
    if shell is None:
        pytest.skip("no bash here")
    subprocess.run([shell, "-n", script], check=True)
    if script.suffix == ".sbatch":
        options = re.findall(r"^#SBATCH (--[a-z-]+)", script.read_text(), re.M)
        assert {"--signal", "--requeue", "--time", "--open-mode"} <= set(options), "safe to be pre-empted"


@pytest.mark.long
@pytest.mark.parametrize(
    ("script", "command", "words"),
    [
        ("slurm-training.sbatch", "torchrun", ["distill", "quickstart"]),
        ("slurm-study.sbatch", "tinydistilbert", ["sweep", "quickstart", "--jobs", "4"]),
        ("ray-job.sh", "ray", ["replicate", "quickstart", "--jobs", "ray"]),
        ("sky.yaml", "tinydistilbert", ["replicate", "quickstart", "--jobs", "8"]),
    ],
)
def test_the_command_line_of_an_example_is_planned(
    script: str,
    command: str,
    words: list[str],
    stubs: dict[str, str],
    tmp_path: Path,
    call: Callable[..., tuple[int, str, str]],
) -> None:
    path = EXAMPLES / script
    if script == "sky.yaml":
        content = yaml.safe_load(path.read_text())
        assert {"name", "resources", "envs", "file_mounts", "setup", "run"} == set(content)
        assert content["resources"]["use_spot"] is True and content["file_mounts"]["/shared"]["mode"] == "MOUNT_CACHED"
        text, stubs = content["run"], {**stubs, **content["envs"]}
    else:
        text = path.read_text()
    subprocess.run(["bash", "-c", text], env={**os.environ, **stubs}, check=True, timeout=60)
    given = recorded(tmp_path, command)
    begin = next(index for index, word in enumerate(given) if word == words[0])
    arguments = given[begin:]
    assert [word for word in arguments if word in words] == words
    assert not (tmp_path / "scontrol").exists() or "requeue" not in (tmp_path / "scontrol").read_text()
    at = arguments.index("--output") + 1
    arguments[at] = str(tmp_path / "runs" / Path(arguments[at]).name)
    code, printed, error = call(*arguments, "--dry-run")
    assert code == 0, error
    assert "Nothing was written" in printed and not (tmp_path / "runs").exists()


def test_a_warned_script_lets_the_training_stop_and_is_queued_again(stubs: dict[str, str], tmp_path: Path) -> None:
    (tmp_path / "bin" / "torchrun").write_text(
        "#!/bin/sh\ntrap 'echo saved > \"$RECORDED/saved\"; exit 130' TERM\n"
        'echo begun > "$RECORDED/begun"\nwhile :; do sleep 0.05; done\n'
    )
    script = (EXAMPLES / "slurm-training.sbatch").read_text()
    process = subprocess.Popen(["bash", "-c", script], env={**os.environ, **stubs})
    try:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
        process.terminate()
        process.wait(60)
    finally:
        process.kill()
        process.wait()
    assert (tmp_path / "saved").exists()
    assert "requeue 7" in (tmp_path / "scontrol").read_text()


def test_every_example_is_in_their_readme() -> None:
    text = (EXAMPLES / "README.md").read_text()
    assert {path.name for path in EXAMPLES.iterdir()} - {"README.md"} == set(re.findall(r"\]\(([\w.-]+)\)", text))
