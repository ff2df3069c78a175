"""JSON-lines files, one object per line: measurements, logs and samples."""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tinydistilbert.errors import as_user_error
from tinydistilbert.storage import atomic

REMAKE = "delete it, or the folder that it is in, and run the command again, which writes it again"
"""The fix of a damaged file."""


def write(path: Path, contents: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file at `path` by one line per object; NaN and infinity are errors."""
    lines = (json.dumps(content, ensure_ascii=False, allow_nan=False) for content in contents)
    atomic.write_text(path, "".join(line + "\n" for line in lines))


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects in the file at `path`, in order; in a finished folder, first check it by the manifest.

    Raises:
        UserError: the file has changed since its folder was finished, or a line is not a JSON object.
    """
    if atomic.is_finished(path.parent):
        atomic.intact(path.parent, path.name)
    with as_user_error(str(path), expected="a file of JSON lines", fix=REMAKE):
        lines = path.read_text(encoding="utf-8").split("\n")
    contents = []
    for number, line in enumerate(lines, start=1):
        if line.strip():
            with as_user_error(f"{path}:{number}", expected="a JSON object", fix=REMAKE):
                content = json.loads(line)
                if not isinstance(content, dict):
                    raise TypeError(f"a {type(content).__name__}")
                contents.append(content)
    return contents
