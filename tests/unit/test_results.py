"""The committed results: the pages show what they hold."""

import importlib.util
import re
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest

from tinydistilbert.storage import atomic

ROOT = Path(__file__).resolve().parents[2]


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "results" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def readme() -> ModuleType:
    return loaded("readme")


def test_the_readme_shows_the_tables_of_the_committed_run(readme: ModuleType) -> None:
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert readme.written(text, readme.PAGES["README.md"]) == text, "run: python results/readme.py"


def test_the_mutants_page_shows_what_was_counted(readme: ModuleType) -> None:
    text = (ROOT / "docs" / "explanation" / "mutants.md").read_text(encoding="utf-8")
    assert readme.written(text, readme.PAGES["docs/explanation/mutants.md"]) == text, "run: python results/readme.py"


def test_most_mutants_were_caught_and_each_survivor_is_explained() -> None:
    mutants = loaded("mutants")
    assert mutants.faults(atomic.read_json(mutants.COUNTS)) == []


def test_the_reliability_page_shows_the_ledger_as_it_was_when_the_page_was_made(readme: ModuleType) -> None:
    text = (ROOT / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")
    (date,) = re.findall(r"^As of (\S+):$", text, flags=re.MULTILINE)
    made = readme.written(text, {"faults": partial(readme.faults_section, date)})
    assert made == text, "run: python results/readme.py"
