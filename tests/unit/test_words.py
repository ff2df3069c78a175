"""Names in the code are words of the field: those that only this project understood do not come back."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
GONE = {
    "workshop", "rung", "rungs", "climb_down", "lesson", "taught", "told", "said", "cure", "tell", "own", "ours",
    "theirs", "here", "there", "operand", "operands", "halvings", "learner", "foreign", "places", "pins", "fsio",
    "guards", "heard", "noted", "look", "found",
}  # fmt: skip
"""In any case, and without underscores around them."""
GONE_CLASSES = {"Seen", "Inside", "Found"}


def defined_by(node: ast.AST) -> str:
    """The name that a node defines: of a module it imports, a class, function, argument, variable or attribute."""
    match node:
        case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
            return node.name
        case ast.arg():
            return node.arg
        case ast.alias():
            return (node.asname or node.name).rpartition(".")[2]
        case ast.Name(ctx=ast.Store()):
            return node.id
        case ast.Attribute(ctx=ast.Store()):
            return node.attr
    return ""


def is_in_an_error(function: ast.AST) -> bool:
    """Whether a function passes on what it calls `found` as the `found` of an error, or is that error's."""
    return any(
        isinstance(node, ast.keyword | ast.arg)
        and node.arg == "found"
        and (
            isinstance(node, ast.arg) or any(isinstance(n, ast.Name) and n.id == "found" for n in ast.walk(node.value))
        )
        for node in ast.walk(function)
    )


def names_of(tree: ast.AST) -> Iterator[str]:
    """All names that are defined, except for `found` in functions in which an error has it."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and is_in_an_error(node):
            yield from {defined_by(child) for child in ast.walk(node)} - {"found"}
        else:
            yield defined_by(node)
            yield from names_of(node)


def gone_of(source: str) -> set[str]:
    """The names of a file that are words of our own."""
    names = {name.strip("_") for name in names_of(ast.parse(source))}
    return {name for name in names if name.lower() in GONE or name in GONE_CLASSES}


@pytest.mark.long  # it parses every file, for four seconds
@pytest.mark.parametrize("folder", ["src", "benchmarks", "results", "tests"])
def test_no_name_is_a_word_of_our_own(folder: str) -> None:
    files = sorted((ROOT / folder).rglob("*.py"))
    gone = {str(path.relative_to(ROOT)): gone_of(path.read_text(encoding="utf-8")) for path in files}
    assert files and {path: names for path, names in gone.items() if names} == {}


def test_names_are_seen_wherever_they_are_defined() -> None:
    source = "import a.told\nclass Rung: pass\ndef f(ours): HERE = x.there = ours\ndef _climb_down(): pass\nfound = 1"
    assert gone_of(source) == {"told", "Rung", "ours", "HERE", "there", "climb_down", "found"}
    assert gone_of("def f(told):\n    found = g()\n    raise UserError(found=found)") == {"told"}
    assert gone_of("def f():\n    found = g()\n    raise UserError(found=1)") == {"found"}
