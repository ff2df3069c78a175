"""Run the tests with the oldest version of every dependency that pyproject.toml allows: `make test-oldest`.

They are installed into a separate environment, which also sees the packages of `.venv`: the tools of the tests, and
torch, of which most package indexes have no older wheel for CPUs alone. `--torch` also installs torch's oldest version,
if the index has it. The tests to run are named after the options; by default all of `make test` except the faults.
"""

import argparse
import os
import re
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENT = ROOT / ".venv-oldest"
TOOLS = ("offline",)
"""Extras whose packages no user of the program needs in an old version."""
TESTS = ("tests/unit", "tests/pipeline", "tests/real")
MOST_WORKERS = 4


def floors(project: dict[str, object], *, with_torch: bool) -> list[str]:
    """`name==version` for every dependency that has a lowest version, of the program and of its extras."""
    extras = project["optional-dependencies"]
    assert isinstance(extras, dict) and isinstance(project["dependencies"], list)
    wanted = [*project["dependencies"], *(name for extra in extras if extra not in TOOLS for name in extras[extra])]
    lowest = []
    for requirement in dict.fromkeys(wanted):
        match = re.fullmatch(r"([\w.-]+)>=([\d.]+)(,.*)?", requirement)
        if match and (with_torch or match[1] != "torch"):
            lowest.append(f"{match[1]}=={match[2]}")
    return lowest


def environment() -> Path:
    """The Python of the environment, made where it is missing."""
    python = ENVIRONMENT / "bin" / "python"
    if not python.exists():
        subprocess.run([sys.executable, "-m", "venv", ENVIRONMENT], check=True)
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = Path(subprocess.run([python, "-c", code], check=True, capture_output=True, text=True).stdout.strip())
    (packages / "beside.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def main() -> int:
    """Install, say what was installed, and run the tests."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--torch", action="store_true", help="install the floor of torch too")
    parser.add_argument("tests", nargs="*", default=TESTS)
    asked, tests = parser.parse_known_args()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted, python = floors(project, with_torch=asked.torch), environment()
    print(f"installing {', '.join(wanted)}", flush=True)
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([python, "-m", "pip", "install", *quiet, *wanted], check=True)
    # pip names tools of .venv that want newer versions: what is tested runs without them.
    workers = str(min(MOST_WORKERS, os.cpu_count() or 1))
    command = [python, "-m", "pytest", "-n", workers, "--dist", "loadfile", "-m", "not slow and not gpu", *tests]
    command += ["--max-worker-restart", "0"]  # a worker that dies ends the run with the test's name; else xdist hangs
    command += ["-W", "default"]  # what old and new packages warn of in each other is theirs
    variables = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"}
    return subprocess.run([*command, *asked.tests], cwd=ROOT, env=variables, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
