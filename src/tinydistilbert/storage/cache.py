"""The folder in which runs share token blocks and teacher outputs."""

import os
from pathlib import Path

from tinydistilbert.storage.disk import in_home


def folder() -> Path:
    """`$TINYDISTILBERT_CACHE`, else `$XDG_CACHE_HOME/tinydistilbert`, else `~/.cache/tinydistilbert`."""
    if configured := os.environ.get("TINYDISTILBERT_CACHE"):
        return in_home(configured)  # a file of settings, as of Docker, leaves a `~` in it
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tinydistilbert"
