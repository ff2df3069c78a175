"""Measurements, each one number with everything needed to verify it, and their file."""

import dataclasses
import datetime
import functools
import os
import platform
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field
from importlib import metadata, util
from pathlib import Path
from typing import Any, Self

from tinydistilbert.errors import as_user_error
from tinydistilbert.models.processor import processor
from tinydistilbert.recipe import schema
from tinydistilbert.storage import json_lines

LIBRARIES = ("torch", "transformers", "tokenizers", "datasets", "numpy", "scikit-learn")
COMPARE = "compare"
"""`task` of measurements that compare two rows; the name of the actual task is in their details."""
OPTIONAL_LIBRARIES = ("onnxruntime", "openvino")


def _git_commit() -> str:
    """Return the commit of the checkout this code runs from, with `+` for uncommitted changes; empty outside one."""
    root = Path(__file__).resolve().parents[2]
    if not (root / ".git").exists():
        return ""
    run = functools.partial(subprocess.run, cwd=root, capture_output=True, text=True, timeout=10, check=False)
    try:
        commit = run(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        return commit + ("+" if run(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.TimeoutExpired):  # no git, or a slow disk
        return ""


def version_of_module(name: str) -> str | None:
    """Return the version of the distribution that brings a module; None if none does.

    Its name may be another one: `onnxruntime-gpu` brings `onnxruntime`. A folder of the module's name in the working
    folder, such as an exported model, is no module.
    """
    if not util.find_spec(name):
        return None
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        bringing = metadata.packages_distributions().get(name, ())
        return metadata.version(bringing[0]) if bringing else None


@functools.cache
def environment() -> dict[str, Any]:
    """Return the machine and the software that this process measures on."""
    libraries = {name: metadata.version(name) for name in LIBRARIES}
    libraries |= {name: version for name in OPTIONAL_LIBRARIES if (version := version_of_module(name))}
    return {
        "commit": _git_commit(),
        "python": platform.python_version(),
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count(),
        **processor(),
        **libraries,
    }


@dataclass(frozen=True)
class Origin:
    """The recipe behind a measurement."""

    recipe: str
    """Its name."""
    recipe_hash: str

    @classmethod
    def of(cls, recipe: schema.Recipe) -> Self:
        """Return the origin for a recipe: its name and hash."""
        return cls(recipe.name, schema.recipe_hash(recipe))


@dataclass(frozen=True)
class Measurement:
    """One number. Fields hold what every number needs; `details` what only some need (p50, threads, warnings)."""

    model: str
    """Row of the tables: `teacher`, `student`, `student (D)` (after a second distillation), `control`, `bert-base` …"""
    task: str
    """Name in `TASKS`, or `pretraining`, `size`, `latency`, `compare`, `compress`."""
    metric: str
    """`accuracy`, `f1`, `kl`, `parameters`, `seconds_per_pass` …; shares lie in 0..1, correlations in -1..1."""
    value: float
    split: str = ""
    higher_is_better: bool = True
    examples: int = 0
    """Examples that the value was computed from."""
    examples_total: int = 0
    """Examples of the whole split; more than `examples` means a subset, which tables mark or note."""
    train_examples: int = 0
    train_examples_total: int = 0
    seed: int = 0
    seconds: float = 0.0
    """Wall-clock seconds of the work behind the value."""
    recipe: str = ""
    recipe_hash: str = ""
    data_fingerprint: str = ""
    date: str = field(default_factory=lambda: datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"))
    environment: dict[str, Any] = field(default_factory=environment)
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def is_subset(self) -> bool:
        """Whether the value was computed from only a part of the split."""
        return 0 < self.examples < self.examples_total

    @property
    def is_trained_on_subset(self) -> bool:
        """Whether the model was trained on only a part of the task's train split."""
        return 0 < self.train_examples < self.train_examples_total


def write(path: Path, measurements: Iterable[Measurement]) -> None:
    """Write the measurements to `path`, one per line, replacing the file."""
    json_lines.write(path, map(dataclasses.asdict, measurements))


RENAMED_MODELS = {"taught again": "recovery fine-tuning alone"}
"""How variants begin in results of earlier versions, and how they do now."""


def read(path: Path) -> list[Measurement]:
    """Return the measurements of a JSON-lines file, in order; in a finished folder, check its manifest first.

    Raises:
        UserError: the file differs from when its folder was finished, or a line is not a measurement.
    """
    lines = json_lines.read(path)
    with as_user_error(str(path), expected="measurements", fix=json_lines.REMAKE):
        return [_renamed(Measurement(**line)) for line in lines]


def _renamed(measurement: Measurement) -> Measurement:
    for former, name in RENAMED_MODELS.items():
        if measurement.model.startswith(former):
            return dataclasses.replace(measurement, model=name + measurement.model.removeprefix(former))
    return measurement
