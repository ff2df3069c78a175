"""Reading a run folder: recipe, measurements and logs."""

import json
from pathlib import Path
from typing import Any

from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.results import Measurement
from tinydistilbert.storage import atomic


def read_run(run: Path) -> tuple[Recipe, list[Measurement]]:
    """The recipe and the measurements of a run folder.

    Raises:
        UserError: one of the two files is not there, or is damaged.
    """
    for name in ("recipe.toml", "results.jsonl"):
        if not (run / name).is_file():
            fix = "give the folder that `tinydistilbert replicate` wrote"
            raise UserError(str(run), expected=f"a run folder with {name}", found="none", fix=fix)
    return toml.load(str(run / "recipe.toml")), results.read(run / "results.jsonl")


def read_log(path: Path) -> list[dict[str, Any]]:
    """The lines of a log.jsonl; none when it is not there.

    Raises:
        UserError: the folder is finished, and the log is not as it was then; or a line is no JSON.
    """
    if not path.is_file():
        return []
    if atomic.is_finished(path.parent):
        atomic.intact(path.parent, path.name)
    try:
        return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (ValueError, RecursionError) as error:
        fix = "delete it, or restore it from a copy"
        raise UserError(str(path), expected="a JSON object a line", found=str(error), fix=fix) from None
