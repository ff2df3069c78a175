"""Reading a run folder: recipe, measurements and logs."""

from pathlib import Path
from typing import Any

from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.results import Measurement
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import json_lines


def read_run(run: Path) -> tuple[Recipe, list[Measurement]]:
    """Return the recipe and the measurements of a run folder.

    Raises:
        UserError: one of the two files is missing or damaged.
    """
    folder = RunFolder(run)
    for path in (folder.recipe, folder.results):
        if not path.is_file():
            fix = "give the folder that `tinydistilbert replicate` wrote"
            raise UserError(str(run), expected=f"a run folder with {path.name}", found="none", fix=fix)
    return toml.load(str(folder.recipe)), results.read(folder.results)


def read_log(path: Path) -> list[dict[str, Any]]:
    """Return the lines of a training's log; none if it is missing.

    Raises:
        UserError: the log differs from when its folder was finished, or a line is not a JSON object.
    """
    return json_lines.read(path) if path.is_file() else []
