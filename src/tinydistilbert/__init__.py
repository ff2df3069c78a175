"""Distil a BERT-like teacher into a small fast student, and prove what was kept and what was won."""

from typing import Any

__version__ = "0.1.0"


def __getattr__(name: str) -> Any:
    """`tinydistilbert.load`, imported when it is first asked for: torch takes seconds."""
    if name == "load":
        from tinydistilbert.predictor import load

        return load
    raise AttributeError(f"module 'tinydistilbert' has no attribute {name!r}")
