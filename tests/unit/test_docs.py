"""The documentation names only what exists: pages, make targets, commands, presets, settings and their defaults."""

import json
import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from tinydistilbert.cli import flags
from tinydistilbert.cli.arguments import COMMANDS
from tinydistilbert.cli.parser import build, parse
from tinydistilbert.cli.request import request
from tinydistilbert.recipe import keys, schema, toml
from tinydistilbert.recipe.objective import TERMS
from tinydistilbert.recipe.types import RENAMED_KEYS

ROOT = Path(__file__).resolve().parents[2]
REFERENCE = ROOT / "docs/reference/command-line.md"
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])


def settings(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its full key; tables without fixed keys (`finetune.override`) are left out."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


DEFAULTS = settings(schema.to_dict(schema.Recipe()))


def commands() -> list[tuple[str, str]]:
    """Each `tinydistilbert` command line in a fenced block, with the page it stands on."""
    command_lines = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = re.findall(r"^tinydistilbert [^#>\n]+", block.replace("\\\n", " "), re.MULTILINE)
            command_lines += [(page.name, line) for line in lines]
    return command_lines


def test_the_readme_shows_commands():
    assert len(commands()) > 5


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path):
    links = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    local = [link.partition("#")[0] for link in links if not link.startswith(("http://", "https://", "#"))]
    assert [link for link in local if not (page.parent / link).exists()] == []


def test_every_page_is_reachable_from_the_index():
    index = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    pages = [str(page.relative_to(ROOT / "docs")) for page in PAGES if (ROOT / "docs") in page.parents]
    assert [page for page in pages if page != "index.md" and f"({page})" not in index] == []


def test_make_targets_exist():
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z0-9-]+)", text, re.MULTILINE))
        assert named <= targets, page


def test_the_reference_lists_the_commands_of_the_parser():
    listed = re.findall(r"^\| `([a-z]+)` \| (?!`--)", REFERENCE.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(COMMANDS)


def test_the_reference_lists_the_short_flags_of_each_command():
    """A row is a flag without dashes, and under each command the key that it sets, or nothing."""
    text = REFERENCE.read_text(encoding="utf-8")
    stated: dict[str, dict[str, str]] = {command: {} for command in flags.SHORT}
    for commands_cell, flag, key in re.findall(r"^\| ([^|]+) \| `--([a-z-]+)` \| `([a-z_.]+)` \|", text, re.MULTILINE):
        for command in re.findall(r"`([a-z]+)`", commands_cell):
            stated[command][flag] = key
    assert stated == flags.SHORT


@pytest.mark.parametrize(("page", "line"), commands())
def test_command_lines_of_the_pages_are_understood(page: str, line: str, monkeypatch: pytest.MonkeyPatch):
    """They are parsed and checked as far as that goes without the files that they name."""
    words = shlex.split(line)[1:]
    if words[1:2] == ["RECIPE"] or (len(words) > 1 and words[1].endswith(".toml")):
        words[1] = "quickstart"
    parsed = parse(words)
    is_of_a_model = words[0] == "compress" and words[1].startswith("runs/")
    if words[0] in flags.SHORT and not is_of_a_model:
        assert request(parsed).command == words[0]


def test_whole_recipes_of_the_pages_are_read(tmp_path: Path):
    blocks = [re.findall(r"```toml\n(name = .*?)```", page.read_text(encoding="utf-8"), re.DOTALL) for page in PAGES]
    recipes = [recipe for of_page in blocks for recipe in of_page]
    assert len(recipes) > 1
    for recipe in recipes:
        (tmp_path / "recipe.toml").write_text(recipe, encoding="utf-8")
        assert toml.read(tmp_path / "recipe.toml").name in recipe


def test_the_reference_states_every_setting_with_its_default():
    """A row is key, default, meaning; the three optimization sections share one table with a column each."""
    _, _, tables = (ROOT / "docs/reference/recipe.md").read_text(encoding="utf-8").partition("## The recipe itself")
    stated: dict[str, str] = {}
    for line in re.findall(r"^\| (`.*) \|$", tables, re.MULTILINE):
        cells = [cell.strip("`") for cell in line.split(" | ")]
        if len(cells) == 3:
            stated[cells[0]] = cells[1]
        elif len(cells) == 5:
            sections = ("adapt", "distill", "finetune")
            stated |= {f"{name}.optimization.{cells[0]}": cells[1 + i] for i, name in enumerate(sections)}
    assert stated == {key: "unset" if value is None else json.dumps(value) for key, value in DEFAULTS.items()}


def test_the_page_of_the_objective_lists_the_terms_of_the_table():
    page = (ROOT / "docs/reference/objective.md").read_text(encoding="utf-8")
    rows = [line.strip("| ").split(" | ") for line in re.findall(r"^\| `\w+` \| \d.*$", page, re.MULTILINE)]
    assert [(name, weight, compares) for name, weight, _, compares, *_ in rows] == [
        (f"`{name}`", f"{getattr(schema.Objective(), name):g}", term.needs.value) for name, term in TERMS.items()
    ]
    assert [mean_over.split(";")[0] for *_, mean_over, _ in rows] == [term.mean_over.value for term in TERMS.values()]


def test_the_reference_names_every_flag_of_every_command():
    """Settings of the recipe have a page of their own."""
    text = REFERENCE.read_text(encoding="utf-8")
    (commands_of,) = (action for action in build(everything=False)._actions if isinstance(action.choices, dict))
    known = {key.name for section in keys.sections() for key in section.keys} | set(RENAMED_KEYS)
    for command, parser in commands_of.choices.items():
        flag_names = {flag[2:] for action in parser._actions for flag in action.option_strings if flag.startswith("--")}
        flag_names = {flag for flag in flag_names if "." not in flag and flag.replace("-", "_") not in known}
        assert {flag for flag in flag_names if f"--{flag}" not in text} == set(), command
