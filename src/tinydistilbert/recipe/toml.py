"""Recipes as TOML: reading, checking, showing. A preset or a recipe of your own states only what differs."""

import dataclasses
import difflib
import numbers
import os
import tomllib
from collections.abc import Iterable, Mapping
from importlib import resources
from pathlib import Path, PurePath
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import ValidationError

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.conflicts import conflicts
from tinydistilbert.recipe.keys import did_you_mean, is_list, members, nearest, sections
from tinydistilbert.recipe.schema import ADAPTER, Recipe, to_dict
from tinydistilbert.recipe.types import Duration, with_current_keys

LONGEST_SHOWN = 200
"""Characters of a value that an error shows."""


def _without_unset(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the content without None, which TOML cannot express."""
    inner = {k: _without_unset(v) if isinstance(v, Mapping) else v for k, v in content.items()}
    return {k: v for k, v in inner.items() if v is not None}


def to_toml(recipe: Recipe) -> str:
    """Return the recipe as TOML with every setting, readable by `from_toml`; unset values (None) are left out."""
    return dumps(to_dict(recipe))


def dumps(content: Mapping[str, Any]) -> str:
    """Return settings as TOML; unset values (None) are left out."""
    return tomli_w.dumps(_without_unset(content))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Apply `changes` to `base`, section by section; any other value, including a list, is replaced as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return merged


def nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings given by full keys as nested sections, as in a TOML file; a section may be given as a whole."""
    root: dict[str, Any] = {}
    for name, value in settings.items():
        content = value
        for part in reversed(name.split(".")):
            content = {part: content}
        root = merge(root, content)
    return root


def _with_texts(content: Any) -> Any:
    """Return the content with paths, which programs give, as texts."""
    if isinstance(content, Mapping):
        return {key: _with_texts(value) for key, value in content.items()}
    if isinstance(content, list | tuple):
        return [_with_texts(value) for value in content]
    return str(content) if isinstance(content, PurePath) else content


def _with_lists(kind: Any, content: Any) -> Any:
    """Return the `content` of a section with single values as lists where needed: `tasks = "cola"`, `keep = 0.5`."""
    if not isinstance(content, Mapping):
        return content
    filled = dict(content)
    for item in dataclasses.fields(kind):
        value, wanted = filled.get(item.name), members(item.type)
        if dataclasses.is_dataclass(item.type):
            filled |= {item.name: _with_lists(item.type, value)} if item.name in filled else {}
        elif isinstance(value, str | numbers.Real) and any(map(is_list, wanted)):
            # If a key also accepts words besides a list of numbers, a word is not an item.
            filled[item.name] = [value] if len(wanted) == 1 or str(value).isdecimal() else value
    return filled


def from_dict(content: Mapping[str, Any], where: str) -> Recipe:
    """Return the checked recipe that `content` describes; what it leaves out has the default of its own section.

    (It is merged into the defaults, because `[finetune] optimization.learning_rate` must not reset the rest of that
    section to the defaults of pretraining.)

    Raises:
        UserError: an unknown key (with the nearest known one), a value of another type or out of its range.
    """
    try:
        current = with_current_keys(_with_texts(content), where)
        recipe = ADAPTER.validate_python(_with_lists(Recipe, merge(to_dict(Recipe()), current)))
    except ValidationError as error:
        raise _explain(error, where) from None
    except RecursionError:
        raise UserError(
            where, expected="a recipe", found="sections in sections without end", fix="correct it"
        ) from None
    return check(recipe, where)


def from_toml(text: str, where: str) -> Recipe:
    """Return the recipe that a TOML text describes; `where` is the name used in errors."""
    try:
        content = tomllib.loads(text)
    except RecursionError:
        found = "too many nested brackets"
        raise UserError(where, expected="TOML", found=found, fix="correct the file") from None
    except ValueError as error:  # also of a number with thousands of digits
        raise UserError(where, expected="TOML", found=_shortened(str(error)), fix="correct the file") from None
    return from_dict(content, where)


def _key_of(location: Iterable[Any]) -> tuple[list[str], Any]:
    """Return the recipe's keys in a location of pydantic, which names union members too, and the type found there."""
    keys: list[str] = []
    kind: Any = Recipe
    for part in location:
        if dataclasses.is_dataclass(kind):
            keys.append(str(part))
            kind = next((item.type for item in dataclasses.fields(kind) if item.name == part), None)
        elif get_origin(kind) is dict:
            keys.append(str(part))
            kind = get_args(kind)[1]
        elif isinstance(part, int) and len(members(kind)) == 1:  # a position in a list
            keys.append(str(part))
    return keys, kind


def _bounds(number: Any) -> str:
    """Return the limits of an annotated number, as signs."""
    annotations = getattr(number, "__metadata__", ())  # limits, or pydantic's `Field` with limits
    limits = [limit for annotation in annotations for limit in getattr(annotation, "metadata", (annotation,))]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return " and ".join(
        f"{sign} {getattr(limit, name)}" for limit in limits for name, sign in signs.items() if hasattr(limit, name)
    )


def _expected(kind: Any, message: str) -> str:
    """Return what a key of type `kind` accepts, for an error; pydantic's own `message` if that is clear."""
    if kind == Duration:
        return "a duration such as 20m, 1h30m or 90s"
    if get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return "a table of keys"
    one, *others = members(kind)
    if not others or others == [type(None)]:
        wanted = message.removeprefix("Input should be ")
        wanted = wanted.replace("String should have at least 1 character", "a text that is not empty")
        return f"a number {wanted}" if wanted.startswith(("greater", "less")) else wanted
    if one is str:
        return "a text or a list of texts"
    if get_origin(one) is Literal:
        choices = ", ".join(map(repr, get_args(one)))
        return f"{choices} or a list of whole numbers {_bounds(get_args(others[0])[0])}"
    return f"a number {_bounds(one)} or two of them (start, end)"


def _nearest_key(keys: list[str], section: Any) -> str:
    """Return the key that an unknown one, in a section of that type, probably means."""
    *parents, leaf = keys
    prefix = "".join(f"{parent}." for parent in parents)
    siblings = [item.name for item in dataclasses.fields(section)]
    deeper = [key.name for part in sections(section()) for key in part.keys]
    near = nearest(prefix + leaf, [prefix + name for name in (*siblings, *deeper)])
    # In the same section, the name is enough.
    near = [name if "." in name.removeprefix(prefix) else name.removeprefix(prefix) for name in near]
    return did_you_mean([repr(name) for name in near]) if near else f"use one of {', '.join(siblings)}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …"


def _explain(error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    keys, kind = _key_of(first["loc"])
    key = ".".join(keys)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        _, section = _key_of(first["loc"][:-1])
        fix = _nearest_key(keys, section)
        return UserError(f"{where}, key {key}", expected="a known key", found=repr(keys[-1]), fix=fix)
    expected, found = _expected(kind, first["msg"]), _shortened(repr(first["input"]))
    return UserError(f"{where}, key {key}", expected=expected, found=found, fix="change the value")


def check(recipe: Recipe, where: str) -> Recipe:
    """Return `recipe` if its settings go together.

    Raises:
        UserError: an unknown task, settings that exclude each other, or an invalid row of an ablation.
    """
    for conflict in conflicts(recipe):
        raise UserError(
            f"{where}, key {conflict.key}", expected=conflict.expected, found=conflict.actual, problem=conflict.problem,
            fix=conflict.fix,
        )  # fmt: skip
    plain = to_dict(dataclasses.replace(recipe, ablate=dataclasses.replace(recipe.ablate, rows={})))
    for name, changes in recipe.ablate.rows.items():
        row = f"{where}, row {name!r} of ablate.rows"
        if not changes:  # it could not be shown either: TOML made from it has no line for it
            raise UserError(row, expected="a change", found="none", fix="write one, such as { masking.rate = 0.3 }")
        from_dict(merge(plain, changes), row)
    return recipe


def presets() -> dict[str, str]:
    """Return name and text of every preset in the package."""
    folder = resources.files("tinydistilbert.recipe") / "presets"
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name)
    return {item.name.removesuffix(".toml"): item.read_text(encoding="utf-8") for item in files}


def read(path: Path) -> Recipe:
    """Return the recipe in a TOML file.

    Raises:
        UserError: it cannot be read, or the recipe is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found, fix = str(error), "save it as UTF-8, or check its permissions"
        raise UserError(str(path), expected="a TOML file in UTF-8", found=found, fix=fix) from None
    return from_toml(text, str(path))


def load(name_or_path: str) -> Recipe:
    """Return the preset of that name, or the recipe in that TOML file.

    Raises:
        UserError: neither exists, or the recipe is wrong.
    """
    known = presets()
    if name_or_path in known:
        return from_toml(known[name_or_path], name_or_path)
    path = Path(name_or_path)
    if os.path.isfile(path):  # noqa: PTH113 # False for a long text, such as that of a recipe
        return read(path)
    near = difflib.get_close_matches(name_or_path, list(known), n=1)
    fix = f"did you mean {near[0]!r}?" if near else "name an existing file"
    where = _shortened(name_or_path)
    raise UserError(where, expected=f"a file or one of {', '.join(known)}", found="neither", fix=fix)
