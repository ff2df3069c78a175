"""What all tests replace, and every process that forks for one: seconds that have nothing to do with what is tested.

A run measures its machine for a second or two and waits for the disk; the exporter takes four seconds for a model, a
figure takes a seventh of one, and most runs of the tests draw what another one has drawn.
"""

import functools
import hashlib
import importlib
import os
import pickle
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from filelock import FileLock

SETTINGS: dict[str, Any] = {
    "tinydistilbert.training.device.busy_elsewhere": lambda: 0.0,  # its line would be in the first training's output
    "tinydistilbert.dry_run.machine.PROBE_SECONDS": 0.0,
    "tinydistilbert.dry_run.machine.PROBE_INPUTS": 2,
    "tinydistilbert.dry_run.machine.COPIED": 100_000,
    "os.fsync": lambda _: None,  # what is flushed, and in which order, tests of durability read from `disk.hook`
}
FIGURES = ("loss_curves", "task_scores", "effects", "pareto", "best_so_far", "trade")
"""Functions of `report/figures.py`. Where it is tested that they give the same bytes twice, `DRAWN` is emptied."""
INITIALIZERS = ("kaiming_uniform_", "normal_", "ones_", "uniform_", "xavier_uniform_", "zeros_")
"""Functions of `torch.nn.init`. Transformers loads into a model without memory, whose numbers torch draws all the same,
step by step in Python."""
LIBRARY = ("documents", "functions")
"""Functions of `data/python_docs.py`, all of whose answer is in Python's library."""
DRAWN: dict[str, str | None] = {}
"""What they have drawn, by a hash of what they were given."""


def drawn_once(function: Callable[..., str | None], folder: Path | None) -> Callable[..., str | None]:
    """The function, which draws the same numbers once; with a folder, once for all processes that share it."""

    @functools.wraps(function)
    def drawn(*arguments: Any, **more: Any) -> str | None:
        try:
            key = hashlib.sha256(pickle.dumps((function.__name__, arguments, more))).hexdigest()
        except Exception:  # of several classes: an argument that has a function in it
            return function(*arguments, **more)
        path = folder / f"{key}.svg" if folder else None
        if key not in DRAWN:
            if path and path.exists():
                DRAWN[key] = path.read_text(encoding="utf-8")
            else:
                DRAWN[key] = svg = function(*arguments, **more)
                if path and svg:
                    with suppress(OSError):  # a disk that a test has filled
                        partial = path.with_suffix(f".{os.getpid()}")
                        partial.write_text(svg, encoding="utf-8")
                        partial.replace(path)
        return DRAWN[key]

    return drawn


def read_once(function: Callable[[], Any], shared: str | None) -> Callable[[], Any]:
    """The function, which reads what does not change; with a folder, once for all processes that share it."""

    @functools.cache
    def read() -> Any:
        if shared is None:
            return function()
        path = Path(shared) / f"{function.__name__}.pickle"
        with FileLock(f"{path}.lock"):
            if path.exists():
                return pickle.loads(path.read_bytes())
            value, partial = function(), path.with_suffix(f".{os.getpid()}")
            with suppress(OSError):  # a disk that a test has filled
                partial.write_bytes(pickle.dumps(value))
                partial.replace(path)
            return value

    return read


def measured_once(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which measures the machine, once a process for each shape of layers and number of threads."""
    import torch  # here, for the process that hands tests out needs none

    measurements: dict[tuple[Any, ...], Any] = {}

    @functools.wraps(function)
    def measured(*what: Any) -> Any:
        key = (*what, torch.get_num_threads())
        if key not in measurements:
            measurements[key] = function(*what)
        return measurements[key]

    return measured


def with_memory(initializer: Callable[..., Any]) -> Callable[..., Any]:
    """The function, which leaves tensors without memory alone."""

    @functools.wraps(initializer)
    def initialized(tensor: Any, *arguments: Any, **more: Any) -> Any:
        return tensor if tensor.is_meta else initializer(tensor, *arguments, **more)

    return initialized


def apply(replace: Callable[[Any, str, Any], None] = setattr, *, folder: Path | None = None) -> None:
    """Replace them all.

    Args:
        replace: what replaces one, such as `MonkeyPatch.setattr`.
        folder: where the processes of a fork server share figures.
    """
    from torch.nn import init

    from tests import tracing  # which imports the package
    from tinydistilbert.data import python_docs
    from tinydistilbert.dry_run import machine
    from tinydistilbert.report import figures

    for name, value in (SETTINGS | {"tinydistilbert.export.to_onnx._traced": tracing.traced}).items():
        module, _, attribute = name.rpartition(".")
        replace(importlib.import_module(module), attribute, value)
    replace(machine, "_measured", measured_once(machine._measured))
    for name in INITIALIZERS:
        replace(init, name, with_memory(getattr(init, name)))
    for name in LIBRARY:
        replace(python_docs, name, read_once(getattr(python_docs, name), os.environ.get(tracing.FOLDER)))
    for name in FIGURES:
        replace(figures, name, drawn_once(getattr(figures, name), folder))
