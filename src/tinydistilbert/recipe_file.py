"""Recipes as TOML: reading, checking, showing. A preset or a recipe of your own states only what differs."""

import dataclasses
import difflib
import json
import tomllib
from collections.abc import Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from tinydistilbert.errors import UserError
from tinydistilbert.names import TASK_NAMES, TERMS
from tinydistilbert.recipe import ADAPTER, Finetune, Recipe, TaskSettings, highest, to_dict


def _toml_value(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_toml_value(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False)  # strings, numbers and booleans are written as in JSON


def _toml_lines(content: Mapping[str, Any], path: tuple[str, ...] = ()) -> Iterator[str]:
    plain = {k: v for k, v in content.items() if not isinstance(v, dict) and v is not None}
    if path and plain:
        yield f"\n[{'.'.join(path)}]"
    for key, value in plain.items():
        yield f"{key} = {_toml_value(value)}"
    for key, value in content.items():
        if isinstance(value, dict):
            yield from _toml_lines(
                value, (*path, key if key.replace("-", "").replace("_", "").isalnum() else json.dumps(key))
            )


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every setting, readable by `from_toml`; what is unset (None) is left out."""
    return "\n".join(_toml_lines(to_dict(recipe))) + "\n"


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section; one word where a list is expected is a list of it."""
    merged = dict(base)
    for key, value in changes.items():
        there = merged.get(key)
        if isinstance(value, Mapping) and isinstance(there, Mapping):
            merged[key] = merge(there, value)
        else:
            merged[key] = [value] if isinstance(there, list) and not isinstance(value, list) else value
    return merged


def from_dict(content: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `content` describes, checked; what it leaves out has the default of its own section.

    (Laid over the defaults, because `[finetune] optimization.learning_rate` must not reset the rest of that section to
    the defaults of pretraining.)

    Raises:
        UserError: an unknown key (with the nearest known one), a value of another type or out of its range.
    """
    try:
        recipe = ADAPTER.validate_python(merge(to_dict(Recipe()), content))
    except ValidationError as error:
        raise _explain(error, where) from None
    return check(recipe, where)


def from_toml(text: str, where: str) -> Recipe:
    """The recipe that a TOML text describes; `where` is the name used in errors."""
    try:
        content = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise UserError(where, expected="TOML", found=str(error), cure="mend the file") from None
    return from_dict(content, where)


def _keys_at(location: tuple[Any, ...]) -> list[str]:
    kind: Any = Recipe
    for name in location:
        if kind is Finetune and name == "override":
            kind = dict
        elif kind is dict:
            kind = TaskSettings
        else:
            kind = next((f.type for f in dataclasses.fields(kind) if f.name == name), None)
    return [f.name for f in dataclasses.fields(kind)] if dataclasses.is_dataclass(kind) else []


def _explain(error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    # Of the parts of a location, pydantic's own ("tuple[…]", "constrained-int") are no keys of ours.
    location = tuple(p for p in first["loc"] if p in TASK_NAMES or not (isinstance(p, str) and ("[" in p or "-" in p)))
    key = ".".join(str(part) for part in location)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        known = _keys_at(location[:-1])
        near = difflib.get_close_matches(str(location[-1]), known, n=1)
        cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(known)}"
        return UserError(f"{where}, key {key}", expected="a known key", found=repr(location[-1]), cure=cure)
    message = first["msg"].removeprefix("Input should be ")
    return UserError(f"{where}, key {key}", expected=message, found=repr(first["input"]), cure="change the value")


def check(recipe: Recipe, where: str) -> Recipe:
    """Return `recipe` if its settings go together.

    Raises:
        UserError: an unknown task, or settings that exclude each other.
    """
    for key, names in (
        ("finetune.tasks", recipe.finetune.tasks),
        ("finetune.override", tuple(recipe.finetune.override)),
    ):
        for name in names:
            if name not in TASK_NAMES:
                near = difflib.get_close_matches(name, TASK_NAMES, n=1)
                cure = f"did you mean {near[0]!r}?" if near else f"use one of {', '.join(TASK_NAMES)}"
                raise UserError(f"{where}, key {key}", expected="a known task", found=repr(name), cure=cure)
    if recipe.masking.mask_share + recipe.masking.random_share > 1:
        found = f"{recipe.masking.mask_share} + {recipe.masking.random_share}"
        raise UserError(
            f"{where}, key masking", expected="mask_share + random_share <= 1", found=found, cure="lower one"
        )
    if not any(highest(getattr(recipe.objective, term)) for term in TERMS):
        cure = f"give one of {', '.join(TERMS)} a weight"
        raise UserError(f"{where}, key objective", expected="a term with weight", found="only zeros", cure=cure)
    if recipe.student.num_hidden_layers and not isinstance(recipe.student.layers, str):
        raise UserError(
            f"{where}, key student", expected="layers as a list or num_hidden_layers", found="both", cure="delete one"
        )
    if recipe.finetune.tasks and not recipe.finetune.models:
        raise UserError(
            f"{where}, key finetune.models", expected="at least one model", found="none", cure='add "student"'
        )
    return recipe


def presets() -> dict[str, str]:
    """Name and text of every preset that comes with the package."""
    folder = resources.files("tinydistilbert") / "recipes"
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name)
    return {item.name.removesuffix(".toml"): item.read_text(encoding="utf-8") for item in files}


def load(name_or_path: str) -> Recipe:
    """The preset of that name, or the recipe in that TOML file.

    Raises:
        UserError: neither exists, or the recipe is wrong.
    """
    known = presets()
    if name_or_path in known:
        return from_toml(known[name_or_path], name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        try:
            return from_toml(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise UserError(
                str(path), expected="a TOML file in UTF-8", found=str(error), cure="save it as UTF-8"
            ) from None
    near = difflib.get_close_matches(name_or_path, list(known), n=1)
    cure = f"did you mean {near[0]!r}?" if near else "name an existing file"
    raise UserError(name_or_path, expected=f"a file or one of {', '.join(known)}", found="neither", cure=cure)
