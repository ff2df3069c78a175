"""The scripts in benchmarks/ as modules."""

import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
NAMES = (
    "common",
    "reference_ways",
    "throughput_ways",
    "distill_throughput",
    "finetune_ways",
    "finetune_scores",
    "finetune_throughput",
    "corpus_scaling",
    "cache_payoff",
    "narrowing",
)
"""Each after those that it imports."""


@pytest.fixture(scope="module")
def scripts() -> Iterator[dict[str, ModuleType]]:
    """The scripts as modules; they import each other by name, as they do when one of them is run."""
    found: dict[str, ModuleType] = {}
    for name in NAMES:
        spec = importlib.util.spec_from_file_location(name, BENCHMARKS / f"{name}.py")
        assert spec is not None and spec.loader is not None
        found[name] = sys.modules[name] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(found[name])
    yield found
    for name in NAMES:
        del sys.modules[name]
