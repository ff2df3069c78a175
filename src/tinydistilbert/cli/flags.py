"""What follows a command: a recipe, and flags that are keys of it, short names of some, or the files of a task.

Values are read as their keys' types want them; several after one flag, or commas between them, make a list.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert import run_folder
from tinydistilbert.errors import UserError
from tinydistilbert.recipe import schema, toml
from tinydistilbert.recipe.names import MEASURED, TASK_NAMES

SHORT = {
    "time-budget": "distill.time_budget", "model": "finetune.model", "task": "finetune.tasks",
    "teacher": "finetune.distillation.teachers", "select": "finetune.select", "seeds": "finetune.seeds",
    "epochs": "finetune.epochs", "learning-rate": "finetune.optimization.learning_rate",
    "batch-size": "finetune.optimization.batch_size", "target-latency": "compress.target_latency",
    "target-size": "compress.target_size", "target-operations": "compress.target_operations",
    "max-loss": "compress.max_loss", "keep": "compress.keep",
}  # fmt: skip
"""Flags that stand for a key of the recipe."""
COLUMNS = ("validation", "text", "text-pair", "label", "kind", "max-length")
"""Flags that describe a task of one's own, whose train examples are `--data`: the keys of finetune.custom."""


MODEL_FILE = "config.json"
"""By which a model folder is told from a recipe."""


@dataclass(frozen=True)
class Request:
    """What a command line asks for."""

    recipe: schema.Recipe
    output: Path
    dry_run: bool


def words(rest: list[str]) -> Iterator[tuple[str, list[str]]]:
    """Flags with their values, in order; what stands before the first flag, or behind one with `=`, has no flag ("").

    Raises:
        UserError: a flag without a value.
    """
    index = 0
    while index < len(rest):
        word, index = rest[index], index + 1
        if not word.startswith("--"):
            yield "", [word]
            continue
        flag, equals, inline = word[2:].partition("=")
        values = [inline] if equals else []
        while flag != "dry-run" and not equals and index < len(rest) and not rest[index].startswith("--"):
            values.append(rest[index])
            index += 1
        if not values and flag != "dry-run":
            raise UserError(f"--{flag}", expected="a value", found="none", fix="write it after the flag")
        yield flag, values


def parse(rest: list[str]) -> Request:
    """A recipe (a preset, a TOML file, or the defaults where `--model` is given) with the flags laid over it.

    In place of a recipe there may be the folder of a fine-tuned model, which is to be compressed: then the recipe is
    that of the run in which the folder lies, or the defaults.

    Raises:
        UserError: no recipe, an unknown flag (with the nearest known one), a missing or wrong value.
    """
    names: list[str] = []
    output, dry_run = None, False
    overrides: dict[str, Any] = {}
    own: dict[str, list[str]] = {}
    for flag, values in words(rest):
        if not flag:
            names += values
        elif flag == "dry-run":
            dry_run = True
        elif flag == "output":
            output = Path(values[0])
        elif flag in COLUMNS or (flag == "data" and _names_a_task(rest)):
            own[flag] = values
        else:
            key = SHORT.get(flag, flag)
            _put(overrides, key.replace("-", "_") if key.count(".") < 2 else key, values)
    if len(names) > 1:
        found = f"{names[0]!r} and {names[1]!r}"
        raise UserError("command line", expected="one recipe", found=found, fix="delete one")
    if own:
        _put_own_task(overrides, own)
    if names and (Path(names[0]) / MODEL_FILE).is_file():
        chosen = _compression(names[0], overrides)
        return Request(chosen, output or Path("runs") / chosen.name, dry_run)
    given_model = "model" in overrides.get("finetune", {})
    if not names and not given_model:
        fix = "for example: tinydistilbert replicate quickstart"
        raise UserError("command line", expected="a recipe", found="none", fix=fix)
    if not names:
        tasks = overrides["finetune"].get("tasks", ["finetune"])
        overrides.setdefault("name", tasks if isinstance(tasks, str) else "-".join(tasks))
    if not names and not overrides["finetune"].get("tasks"):
        fix = "give --task NAME, or --data FILE with --validation FILE, --text and --label"
        raise UserError("--model", expected="a task to fine-tune it on", found="none", fix=fix)
    base = toml.load(names[0]) if names else schema.Recipe()
    merged = toml.merge(schema.to_dict(base), overrides)
    chosen = toml.from_dict(merged, "command line") if overrides else base
    return Request(chosen, output or Path("runs") / chosen.name, dry_run)


def _compression(model: str, overrides: dict[str, Any]) -> schema.Recipe:
    """What `compress MODEL` does: the recipe of the run that made the model, with the model named in it.

    Raises:
        UserError: it is not told which task the model was fine-tuned on.
    """
    base, task, row = schema.Recipe(), "", ""
    if made_in := run_folder.run_of_task_model(Path(model)):
        run, task, row = made_in
        base = toml.read(run.recipe)
    finetune, compress = (overrides.setdefault(section, {}) for section in ("finetune", "compress"))
    tasks = finetune.setdefault("tasks", [task] if task else [])
    tasks = [tasks] if isinstance(tasks, str) else tasks
    if len(tasks) != 1:
        fix = "give --task NAME, or --data FILE with --validation FILE, --text and --label"
        found = " ".join(tasks) or "none"
        raise UserError(f"compress {model}", expected="the one task it was fine-tuned on", found=found, fix=fix)
    if teachers := finetune.get("distillation", {}).pop("teachers", None):
        compress["teachers"] = teachers
    compress |= {"model": model, "row": row or "model", "tasks": compress.get("tasks", tasks)}
    overrides.setdefault("name", f"{tasks[0]}-compressed")
    return toml.from_dict(toml.merge(schema.to_dict(base), overrides), "command line")


def _names_a_task(rest: list[str]) -> bool:
    return any(word.partition("=")[0] == f"--{flag}" for word in rest for flag in COLUMNS)


def _put(overrides: dict[str, Any], flag: str, values: list[str]) -> None:
    *path, key = flag.split(".")
    place = overrides
    for part in path:
        place = place.setdefault(part, {})
    split = [item.strip() for value in values for item in value.strip("[]").split(",")]
    place[key] = split[0] if len(split) == 1 and key != "teachers" and values != ["[]"] else [i for i in split if i]
    if key == "teachers" and place[key] in (["first"], ["all"]):
        place[key] = place[key][0]


def _put_own_task(overrides: dict[str, Any], own: dict[str, list[str]]) -> None:
    """A task of one's own, called after its train file."""
    if "data" not in own:
        found, fix = f"--{next(iter(own))} alone", "name its train examples: --data train.csv"
        raise UserError("command line", expected="--data beside it", found=found, fix=fix)
    if several := next((flag for flag, values in own.items() if len(values) > 1), None):
        raise UserError(f"--{several}", expected="one value", found=" ".join(own[several]), fix="delete the others")
    if "tasks" in overrides.get("finetune", {}):
        fix = "leave --task out: a task of your own is called after its file"
        raise UserError("--task", expected="no other task beside --data with columns", found="one", fix=fix)
    train = own.pop("data")[0]
    name = re.sub(r"[^a-z0-9]+", "-", Path(train).stem.lower()).strip("-") or "own"
    if name in (*TASK_NAMES, *MEASURED):
        name = f"own-{name}"
    section = {"train": train, **{flag.replace("-", "_"): values[0] for flag, values in own.items()}}
    finetune = overrides.setdefault("finetune", {})
    finetune["tasks"] = [name]
    finetune.setdefault("custom", {})[name] = section
