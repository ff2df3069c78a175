"""The page of errors quotes what the program says: each part of a message that does not vary stands in the code."""

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8")
MESSAGES = [line for block in re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]
VARIES = re.compile(r"…|: |; |, |\? | \(|\)|expected |found |'[^']*'|[\d.]+ ?")
"""What parts a message: where values stand, and the punctuation between its parts."""


@functools.cache
def texts() -> str:
    """Every string in the code, with `…` where a value is put in, a line each."""
    texts = []
    for path in (ROOT / "src").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                texts.append("".join(part.value if isinstance(part, ast.Constant) else "…" for part in node.values))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                texts.append(node.value)
    return "\n".join(texts)


def parts_of(message: str) -> list[str]:
    """The parts of a message that do not vary, of two words at least."""
    return [part for part in (piece.strip() for piece in VARIES.split(message)) if " " in part]


@pytest.mark.parametrize("message", MESSAGES)
def test_a_quoted_message_is_what_the_program_says(message: str) -> None:
    parts = parts_of(message)
    assert parts, "nothing in it is compared"
    assert [part for part in parts if part not in texts()] == []


def test_ten_errors_at_least_are_explained() -> None:
    assert len(re.findall(r"^## ", PAGE, re.MULTILINE)) >= 10
    assert len(MESSAGES) >= 10


def test_a_message_that_changed_is_noticed() -> None:
    message = "r.csv: expected the columns a, found 7 b; rename or add a text"
    assert parts_of(message) == ["the columns a", "rename or add a text"]
    assert "rename or remove" not in texts()
