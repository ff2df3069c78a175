"""The JSON Schema of recipes: it accepts what the recipe accepts, and refuses misspelt keys and wrong values."""

import json
import re
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import readme

from tinydistilbert.cli.main import main
from tinydistilbert.recipe import keys, schema, toml
from tinydistilbert.recipe.json_schema import json_schema

SCHEMA = json_schema()
TYPES: dict[str, Any] = {
    "object": dict, "array": list, "string": str, "boolean": bool, "integer": int, "number": (int, float)
}  # fmt: skip


def faults(content: Any, part: dict[str, Any], key: str = "") -> list[str]:
    """The keys whose values break a part of the schema: as much of JSON Schema as ours has."""
    if "$ref" in part:
        target = SCHEMA
        for name in filter(None, part["$ref"].lstrip("#").split("/")):
            target = target[name]
        return faults(content, target, key)
    if "anyOf" in part:
        return [] if any(not faults(content, way, key) for way in part["anyOf"]) else [key]
    kind = part.get("type")
    if kind and (not isinstance(content, TYPES[kind]) or (isinstance(content, bool) and kind != "boolean")):
        return [key]
    refused = (
        ("enum" in part and content not in part["enum"])
        or ("minimum" in part and content < part["minimum"])
        or ("maximum" in part and content > part["maximum"])
        or ("exclusiveMinimum" in part and content <= part["exclusiveMinimum"])
        or ("exclusiveMaximum" in part and content >= part["exclusiveMaximum"])
        or ("pattern" in part and not re.search(part["pattern"], content))
        or ("minItems" in part and len(content) < part["minItems"])
        or ("maxItems" in part and len(content) > part["maxItems"])
    )
    if refused:
        return [key]
    broken = []
    if isinstance(content, dict):
        further = part.get("additionalProperties", {})
        for name, value in content.items():
            inner = part.get("properties", {}).get(name, further)
            full = f"{key}.{name}" if key else name
            broken += [full] if inner is False else faults(value, inner, full)
    if isinstance(content, list) and "items" in part:
        broken += [fault for item in content for fault in faults(item, part["items"], key)]
    return broken


def test_the_committed_schema_is_that_of_the_code() -> None:
    constraints = (Path(__file__).resolve().parents[2] / "constraints.txt").read_text(encoding="utf-8")
    if f"\npydantic=={version('pydantic')}\n" not in constraints:
        pytest.skip("another pydantic than in constraints.txt words a schema otherwise")
    assert json.loads(readme.SCHEMA.read_text(encoding="utf-8")) == SCHEMA, "run: python results/readme.py"


@pytest.mark.parametrize("name", toml.presets())
def test_presets_name_the_schema_and_keep_to_it(name: str) -> None:
    text = toml.presets()[name]
    (address,) = re.findall(r"^#:schema (\S+)$", text, re.MULTILINE)
    assert address.endswith(f"/main/{readme.SCHEMA.relative_to(readme.ROOT).as_posix()}")
    assert faults(tomllib.loads(text), SCHEMA) == []
    everything = json.loads(json.dumps(schema.to_dict(toml.load(name))))
    assert faults(tomllib.loads(toml.dumps(everything)), SCHEMA) == []


def test_every_key_is_in_it_with_its_help_and_its_default() -> None:
    for section in keys.sections():
        for key in section.keys:
            part = SCHEMA
            for name in key.name.split("."):
                part = part["properties"][name]
            assert part["description"] == key.help
            assert json.dumps(part.get("default")) == json.dumps(key.default)


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("[distill]\nepoch = 3", "distill.epoch"),
        ("[distill]\nepochs = '3'", "distill.epochs"),
        ("[masking]\nrate = 2", "masking.rate"),
        ("[student]\nlayers = 'frist'", "student.layers"),
        ("[compress]\ntarget_latency = '5 ms'", "compress.target_latency"),
        ("[finetune.override.cola]\nepoch = 3", "finetune.override.cola.epoch"),
        ("[finetune.custom.mine]\nkind = 'clasification'", "finetune.custom.mine.kind"),
        ("[ablate.rows]\nfew = { masking.rat = 0.3 }", "ablate.rows.few.masking.rat"),
    ],
)
def test_what_the_recipe_refuses_is_marked(text: str, wrong: str) -> None:
    assert faults(tomllib.loads(text), SCHEMA) == [wrong]


@pytest.mark.parametrize(
    "text",
    [
        "finetune.tasks = 'cola'", "finetune.seeds = 3", "student.layers = 2", "student.layers = 'authors'",
        "masking.rate = [0.3, 0.15]",
        "[finetune.custom.x]\ntrain = 'a'\nvalidation = 'b'\nkind = 'multi-label'\nlabel = ['c', 'd']",
        "[ablate.rows]\n'rate 30 %' = { masking.rate = 0.3 }", "objective.kl = 5",
    ],
)  # fmt: skip
def test_what_the_recipe_takes_is_not_marked(text: str) -> None:
    toml.from_toml(text, "here")
    assert faults(tomllib.loads(text), SCHEMA) == []


def test_the_command_line_prints_it(capsys: pytest.CaptureFixture[str]) -> None:
    main(["recipes", "--schema"])
    assert json.loads(capsys.readouterr().out) == SCHEMA
    with pytest.raises(SystemExit, match="2"):
        main(["recipes", "quickstart", "--schema"])
