"""Where token blocks are kept, to be shared by runs: `TINYDISTILBERT_CACHE`, or the user's cache folder."""

import os
from pathlib import Path


def folder() -> Path:
    """`$TINYDISTILBERT_CACHE`, else `$XDG_CACHE_HOME/tinydistilbert`, else `~/.cache/tinydistilbert`."""
    if own := os.environ.get("TINYDISTILBERT_CACHE"):
        return Path(own)
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "tinydistilbert"
