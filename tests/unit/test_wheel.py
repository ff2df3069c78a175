"""The wheel as a user installs it: built, checked by twine, and each extra alone in an environment (`make test-wheel`).

Every environment comes from the package index, with the versions of constraints.txt; those with torch take a gigabyte.
"""

import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.unit.test_serve_process import ask, process
from tinydistilbert.export.openvino import to_bf16
from tinydistilbert.models.loading import save_model

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parents[2]
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
WITHOUT_TORCH = ("run", "serve", "openvino")
ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"} | {"HF_HUB_OFFLINE": "1"}
Maker = Callable[[str, str], Path]


def run(*command: object, expected: int = 0) -> str:
    """What a command prints, without this checkout on its path."""
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=ENVIRONMENT, cwd="/", timeout=3000, check=False
    )
    assert done.returncode == expected, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def fresh(folder: Path, *requirements: object) -> Path:
    """The `bin` of a fresh environment with that."""
    run(sys.executable, "-m", "venv", folder)
    pip = [folder / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "install", "--quiet", "--no-compile"]
    run(*pip, "-c", ROOT / "constraints.txt", *requirements)
    return folder / "bin"


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The source distribution, and the wheel that is built from it."""
    folder = tmp_path_factory.mktemp("dist")
    tools = fresh(folder / "tools", "build", "twine")
    run(tools / "python", "-m", "build", "--outdir", folder / "dist", ROOT)
    (source,), (wheel,) = (folder / "dist").glob("*.tar.gz"), (folder / "dist").glob("*.whl")
    assert run(tools / "twine", "check", "--strict", source, wheel).count("PASSED") == 2
    return source, wheel


def command_of(
    extra: str, tool: Path, folder: Path, task_model: Maker, exported: Maker, tokenizer: PreTrainedTokenizerFast
) -> tuple[Sequence[object], str]:
    """A command that needs the extra, and what stands in its output."""
    model, onnx = task_model("bert", "classification"), exported("bert", "classification")
    space, teacher = folder / "space.toml", folder / "teacher"
    space.write_text('["distill.optimization.learning_rate"]\nlow = 1e-4\nhigh = 1e-3\nlog = true\n')
    if extra == "sweep":
        save_model(tiny.model("bert", **tiny.WIDER, num_hidden_layers=4), tokenizer, teacher)
    if extra == "openvino":
        pytest.importorskip("openvino", reason="OpenVINO, which makes the model, is not installed")
        to_bf16(onnx, folder / "openvino")
    sweep = ("sweep", "wikitext2", "--space", space, "--corpus.source", "python-docs", "--teacher.model", teacher)
    h5py = "import h5py; from tinydistilbert.models.elmo import published; print(h5py.__version__)"
    commands: dict[str, tuple[Sequence[object], str]] = {
        "run": ((tool, "predict", onnx, "a cat"), '"label"'),
        "serve": ((tool, "serve", "--help"), "--port"),  # and a request, below
        "train": ((tool, "predict", model, "a cat"), '"label"'),
        "offline": ((tool, "replicate", "quickstart", "--dry-run", "--output", folder / "run"), "time left"),
        "onnx": ((tool, "export", model, "--int8", "--output", folder / "int8"), ""),
        "openvino": ((tool, "predict", folder / "openvino", "a cat"), '"label"'),
        "nncf": ((tool.parent / "python", "-c", "import nncf, openvino; print(nncf.__version__)"), "."),
        "elmo": ((tool.parent / "python", "-c", h5py), "."),
        "cluster": ((tool.parent / "python", "-c", "import ray; print(ray.__version__)"), "."),
        "sweep": ((tool, *sweep, "--trials", "1", "--output", folder / "swept", "--dry-run"), "trial"),
    }
    return commands[extra]


def test_every_extra_has_its_command() -> None:
    assert EXTRAS.keys() == {"run", "serve", "train", "offline", "onnx", "openvino", "nncf", "elmo", "sweep", "cluster"}


@pytest.mark.parametrize("extra", EXTRAS)
def test_an_extra_of_the_wheel_alone(
    extra: str, distributions: tuple[Path, Path], task_model: Maker, exported: Maker, tmp_path: Path, tokenizer
) -> None:
    binaries = fresh(tmp_path / "venv", f"{distributions[1]}[{extra}]")
    tool = binaries / "tinydistilbert"
    command, shown = command_of(extra, tool, tmp_path, task_model, exported, tokenizer)
    assert shown in run(*command)
    listed = {one["name"] for one in json.loads(run(binaries / "python", "-m", "pip", "list", "--format", "json"))}
    assert ("torch" in listed) == (extra not in WITHOUT_TORCH)
    extras = {one["name"]: one for one in json.loads(run(tool, "doctor", "--json")) if one["section"] == "Extras"}
    assert extras.keys() == EXTRAS.keys() and extras[extra]["value"] == "complete"
    if extra == "serve":
        with process(tool, "serve", exported("bert", "classification")) as (_, port):
            assert ask(port, "a cat")[0]["label"] in ("bad", "fair", "good")
