"""The folder in which runs share token blocks and teacher outputs."""

import os
from pathlib import Path


def folder() -> Path:
    """`$TINYDISTILBERT_CACHE`, else `$XDG_CACHE_HOME/tinydistilbert`, else `~/.cache/tinydistilbert`."""
    if configured := os.environ.get("TINYDISTILBERT_CACHE"):
        return Path(configured)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tinydistilbert"
