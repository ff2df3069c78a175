"""Names in the code are words of the field: those that only this project understood do not come back."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GONE = {
    "Workshop", "Rung", "rung", "rungs", "climb_down", "Lesson", "lesson", "Taught", "taught", "told", "said", "cure",
    "own", "ours", "theirs", "here", "there", "operand", "operands", "halvings", "Seen", "Inside", "Learner", "learner",
    "foreign", "pins", "fsio", "guards", "heard", "noted",
}  # fmt: skip
"""Without underscores around them."""
FILES = sorted(path for folder in ("src", "benchmarks") for path in (ROOT / folder).rglob("*.py"))


def names(source: str) -> set[str]:
    """What a file defines: modules it imports under a name, classes, functions, arguments, variables and attributes."""
    defined: set[str] = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            defined.add(node.name)
        elif isinstance(node, ast.arg):
            defined.add(node.arg)
        elif isinstance(node, ast.alias):
            defined.add((node.asname or node.name).rpartition(".")[2])
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            defined.add(node.id)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            defined.add(node.attr)
    return defined


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_name_is_a_word_of_our_own(path: Path) -> None:
    defined = {name.strip("_") for name in names(path.read_text(encoding="utf-8"))}
    assert defined & GONE == set()


def test_names_are_found_wherever_they_are_defined() -> None:
    source = "import a.told\nclass Rung: pass\ndef f(ours): here = x.there = ours\ndef _climb_down(): pass"
    assert {"told", "Rung", "ours", "here", "there", "_climb_down"} <= names(source)
