"""From the parsed arguments to the request: the recipe with the flags applied, and the run folder."""

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert import run_folder
from tinydistilbert.cli.parser import parse
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import schema, toml
from tinydistilbert.recipe.names import task_name
from tinydistilbert.recipe.types import with_current_keys

CONFIG_FILE = "config.json"
"""A folder that contains it is a model, not a recipe."""
_GIVE_A_TASK = "give --task NAME, or --data FILE with --validation FILE, --text and --label"


@dataclass(frozen=True)
class Request:
    """What a command line with a recipe asks for."""

    command: str
    recipe: schema.Recipe
    output: Path
    dry_run: bool = False
    json: bool = False
    quiet: bool = False
    threads: int | None = None
    jobs: int | str | None = None
    part: str | None = None


def request(arguments: Sequence[str] | argparse.Namespace) -> Request:
    """Return the request of a command line whose command takes a recipe.

    The recipe is a preset, a TOML file, or the defaults if `--model` is given. `compress` also accepts the folder of a
    fine-tuned model: the recipe is then that of the run that contains the folder, or the defaults.

    Raises:
        UserError: no recipe, an unknown flag (with the nearest known one), a missing or wrong value.
    """
    parsed = arguments if isinstance(arguments, argparse.Namespace) else parse(arguments)
    changes = with_current_keys(toml.nested(getattr(parsed, "settings", {})), "command line")
    if columns := getattr(parsed, "custom_task", {}):
        _put_custom_task(changes, columns, parsed.command)
    recipe = _recipe(parsed.command, parsed.recipe, changes)
    output = parsed.output or Path("runs") / recipe.name
    jobs, part = getattr(parsed, "jobs", None), getattr(parsed, "part", None)
    return Request(
        parsed.command, recipe, output, parsed.dry_run, parsed.json, parsed.quiet, parsed.threads, jobs, part
    )


def _recipe(command: str, name: str | None, changes: dict[str, Any]) -> schema.Recipe:
    if name is not None and command == "compress" and os.path.isfile(Path(name) / CONFIG_FILE):  # noqa: PTH113 # False for a long text
        return _compression(name, changes)
    if name is not None:
        base = toml.load(name)
        return toml.from_dict(toml.merge(schema.to_dict(base), changes), "command line") if changes else base
    finetune = changes.get("finetune", {})
    if "model" not in finetune:
        fix = f"write it after the command: tinydistilbert {command} quickstart"
        raise UserError("command line", expected="a recipe", found="none", fix=fix)
    if not finetune.get("tasks"):
        raise UserError("--model", problem="no task is given to fine-tune it on", fix=_GIVE_A_TASK)
    changes.setdefault("name", "-".join(finetune["tasks"]))
    if command == "compress":  # what it fine-tunes
        is_distilled = bool(finetune.get("distillation", {}).get("teachers"))
        made = {"tasks": finetune["tasks"], "row": "model (D)" if is_distilled else "model"}
        changes["compress"] = made | changes.get("compress", {})
    return toml.from_dict(changes, "command line")


def _compression(model: str, changes: dict[str, Any]) -> schema.Recipe:
    """Return the recipe of `compress MODEL`: that of the run that made the model, with the model named in it.

    Raises:
        UserError: the task of the model's fine-tuning is unknown.
    """
    base, made_for, row = schema.Recipe(), "", ""
    if made_in := run_folder.run_of_task_model(Path(model)):
        run, made_for, row = made_in
        base = toml.read(run.recipe)
    finetune, compress = (changes.setdefault(section, {}) for section in ("finetune", "compress"))
    tasks = compress.get("tasks") or finetune.get("tasks") or ([made_for] if made_for else [])
    if len(tasks) != 1:
        found = " ".join(tasks) or "none"
        raise UserError(
            f"compress {model}", expected="the one task it was fine-tuned on", found=found, fix=_GIVE_A_TASK
        )
    if made_for and tasks[0] != made_for and tasks[0] not in finetune.get("custom", {}):
        problem = f"the model was fine-tuned on {made_for!r}, not on {tasks[0]!r}"
        raise UserError(f"compress {model}, key compress.tasks", problem=problem, fix="leave --task out")
    finetune["tasks"] = tasks
    compress |= {"model": model, "row": row or "model", "tasks": tasks}
    changes.setdefault("name", f"{tasks[0]}-compressed")
    return toml.from_dict(toml.merge(schema.to_dict(base), changes), "command line")


def _put_custom_task(changes: dict[str, Any], columns: dict[str, Any], command: str) -> None:
    """Add a custom task, named after its train file."""
    if "data" not in changes:
        problem = f"--{next(iter(columns)).replace('_', '-')} has a meaning with --data alone"
        raise UserError("command line", problem=problem, fix="name the train examples: --data train.csv")
    finetune = changes.setdefault("finetune", {})
    if "tasks" in finetune or "tasks" in changes.get("compress", {}):
        fix = "leave --task out: your own task is named after its file"
        raise UserError("--task", problem="it cannot be combined with --data and its columns", fix=fix)
    train = changes.pop("data")
    name = task_name(train)
    finetune["tasks"] = [name]
    finetune.setdefault("custom", {})[name] = {"train": train, **columns}
    if command == "compress":
        changes.setdefault("compress", {})["tasks"] = [name]
