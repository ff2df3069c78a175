"""The documentation names only what exists: pages, make targets, commands, presets, settings and their defaults."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tinydistilbert.cli import flags
from tinydistilbert.cli.help import MODEL_COMMANDS
from tinydistilbert.recipe import schema, toml

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
OPTIONS = {"--output", "--seed", "--device", "--data", "--dry-run", "--help"}
OPTIONS |= {"--weights", "--options", "--int8", "--plain", "--half"}  # of commands without a recipe
OPTIONS |= {f"--{flag}" for flag in (*flags.SHORT, *flags.COLUMNS)}


def settings(content: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Every setting by its full key; tables without fixed keys (`finetune.override`) are left out."""
    flat: dict[str, Any] = {}
    for key, value in content.items():
        flat |= settings(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


DEFAULTS = settings(schema.to_dict(schema.Recipe()))


def commands() -> list[tuple[str, str]]:
    """Each `tinydistilbert` command line in a fenced block, with the page it stands on."""
    found = []
    for page in PAGES:
        for block in re.findall(r"```sh\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
            lines = re.findall(r"^tinydistilbert [^#>\n]+", block.replace("\\\n", " "), re.MULTILINE)
            found += [(page.name, line) for line in lines]
    return found


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
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, page


def test_commands_exist():
    run = [sys.executable, "-c", "from tinydistilbert.cli.main import main; main()", "--help"]
    words = set(re.findall(r"[a-z]+", subprocess.run(run, capture_output=True, text=True, check=True).stdout))
    listed = set(re.findall(r"^\| `([a-z]+)` \|", (ROOT / "docs/reference/command-line.md").read_text(), re.MULTILINE))
    assert {"prepare", "replicate", "recipes", "tasks"} <= listed
    assert (listed | {line.split()[1] for _, line in commands()}) <= words


def test_presets_and_flags_exist():
    for page, line in commands():
        command, *words = line.split()[1:]
        known = {*toml.presets(), "RECIPE"}
        is_without = command in ("tasks", "compare", *MODEL_COMMANDS) or "--model" in words
        is_model = command == "compress" and words[0].endswith("/model")
        assert not words or words[0].endswith(".toml") or is_without or is_model or words[0] in known, (page, line)
        given = {word for word in words if word.startswith("--")}
        assert given <= OPTIONS | {f"--{key}" for key in DEFAULTS}, (page, line)


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
