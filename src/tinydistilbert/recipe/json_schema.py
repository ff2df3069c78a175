"""The recipe as a JSON Schema, with which editors complete and check recipes: `tinydistilbert recipes --schema`."""

import dataclasses
import functools
from typing import Any, get_args, get_origin

from pydantic import TypeAdapter

from tinydistilbert.recipe.keys import Key, members, sections
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.types import RENAMED_VALUES

DRAFT = "http://json-schema.org/draft-07/schema#"
"""The draft that common editors support for TOML."""


def json_schema() -> dict[str, Any]:
    """Return the schema of a recipe's TOML file: every key with its type, limits, choices, default and help."""
    root: dict[str, Any] = {"$schema": DRAFT, "title": "TinyDistilBERT recipe"}
    definitions: dict[str, Any] = {}
    for section in sections():
        table = root
        for part in filter(None, section.name.split(".")):
            table = table["properties"].setdefault(part, {})
        table |= {"type": "object", "description": section.help, "additionalProperties": False}
        table["properties"] = {key.name.rpartition(".")[2]: _of_key(key, definitions) for key in section.keys}
    for name, kind, text in _tables_by_name():
        *parents, leaf = name.split(".")
        table = functools.reduce(lambda outer, parent: outer["properties"][parent], parents, root)
        table["properties"][leaf] = {**_of_type(kind, definitions), "description": text}
    rows = root["properties"]["ablate"]["properties"]["rows"]
    rows["additionalProperties"] = {"$ref": "#"}  # a row changes settings of the recipe
    return {**root, "definitions": definitions}


def _of_key(key: Key, definitions: dict[str, Any]) -> dict[str, Any]:
    kind = _of_type(key.kind, definitions)
    if deprecated := RENAMED_VALUES.get(key.name):
        kind = {"anyOf": [kind, {"enum": [*deprecated], "deprecated": True}]}
    if key.item is not None:
        item, is_list_alone = _of_type(key.item, definitions), len(members(key.kind)) == 1
        if is_list_alone or item.get("type") == "integer":  # a list of one needs no brackets
            kind = {"anyOf": [kind, item]}
    value = list(key.default) if isinstance(key.default, tuple) else key.default
    default = {} if value is None else {"default": value}
    return {**kind, "description": key.help, **default}


def _of_type(kind: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    schema = TypeAdapter(kind).json_schema(ref_template="#/definitions/{model}")
    definitions |= {name: _plain(inner) for name, inner in schema.pop("$defs", {}).items()}
    plain: dict[str, Any] = _plain(schema)
    return plain


def _plain(schema: Any) -> Any:
    """Return a schema without titles, which editors would show beside the help, and without null, which TOML lacks."""
    if isinstance(schema, list):
        return [_plain(item) for item in schema if item != {"type": "null"}]
    if not isinstance(schema, dict):
        return schema
    plain = {
        key: {name: _plain(inner) for name, inner in value.items()} if key == "properties" else _plain(value)
        for key, value in schema.items()
        if key != "title" and not (key == "default" and (value is None or isinstance(value, dict)))
    }
    return {**plain.pop("anyOf")[0], **plain} if len(plain.get("anyOf", ())) == 1 else plain


def _tables_by_name(section: Any = None, prefix: str = "") -> list[tuple[str, Any, str]]:
    """Return the tables whose keys are names (`finetune.override`): full key, type and help of each."""
    section = Recipe() if section is None else section
    tables = []
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            tables += _tables_by_name(value, f"{prefix}{field.name}.")
        elif get_origin(field.type) is dict and get_args(field.type):
            text = section.__pydantic_fields__[field.name].description or ""
            tables.append((prefix + field.name, field.type, " ".join(text.split())))
    return tables
