"""A corpus that every machine has: the Python manual and the standard library's documentation.

The library's source files are parsed, not imported. English paragraphs of their docstrings and comment blocks are kept,
one per line. A document is one topic of the manual or one module.
"""

import ast
import functools
import inspect
import re
import sysconfig
from collections.abc import Iterable, Iterator
from pathlib import Path
from pydoc_data import topics as manual
from typing import NamedTuple

Document = tuple[str, str]
"""Name and text, one paragraph per line."""


class Function(NamedTuple):
    """A public function or method of the library, with the summary of its docstring."""

    module: str
    """Name of its document: `module shutil.py`."""
    name: str
    """Name with the class: `ZipFile.extract`."""
    parameters: tuple[str, ...]
    """Parameter names, without `self` and `cls`."""
    summary: str
    """The first sentence of the docstring."""


# Tests, programs, installed packages, character tables, and the file of the manual, which is read by topic.
SKIPPED_FOLDERS = frozenset({
    "test", "tests", "idle_test", "idlelib", "lib2to3", "turtledemo", "__phello__", "encodings", "pydoc_data",
    "site-packages", "dist-packages", "__pycache__",
})  # fmt: skip
MIN_WORDS = 8
MIN_SUMMARY_WORDS = 5
MIN_LETTERS = 0.85
MIN_PLAIN_WORDS = 0.75
# English sentences contain some of these; lists of names, signatures and code seldom do.
FUNCTION_WORDS = frozenset({
    "a", "an", "and", "are", "as", "at", "be", "by", "for", "from", "if", "in", "is", "it", "not", "of", "on", "or",
    "that", "the", "this", "to", "was", "when", "which", "with",
})  # fmt: skip
MIN_FUNCTION_WORDS = 0.15

_BULLET = re.compile(r"(?:[-*•+]|\(?\d{1,2}[.)]|\[\d+\])\s+")
_ROLE = re.compile(r":[a-z:]+:`~?([^`]+)`")
_MARKS = re.compile(r"``|`_{0,2}|\*\*|(?<!\w)\*(?=\w)|(?<=\w)\*(?!\w)|\[\d+\]_")
_SPLIT_WORD = re.compile(r"(?<=[A-Za-z])- (?!(?:and|or|to)\b)(?=[a-z])")
_SENTENCES = re.compile(r".*[.!?][\"')\]”’]*(?=\s|$)")
_FIRST_SENTENCE = re.compile(r".*?[.!?](?=\s+[A-Z]|$)")
_PLAIN_WORD = re.compile(r"[(\[\"'“\u2018]*[A-Za-z][a-z]*(?:['’-][A-Za-z]?[a-z]*)*[)\]\"'”’]*[.,;:!?]*[)\]\"'”’]*")
_COMMENT = re.compile(r"[ \t]*#+ ?(?P<text>.*)")


def _segments(text: str) -> Iterator[str]:
    """Split a text at blank lines, bullets and changes of indentation, and join the lines of each part.

    This separates a signature from its indented description, and a code block from the paragraph before it.
    """
    lines: list[str] = []
    indent: int | None = None  # None: the next line sets it, as the one after a bullet does
    for line in text.expandtabs().splitlines():
        content = line.strip()
        bullet = _BULLET.match(content)
        line_indent = len(line) - len(line.lstrip())
        if lines and (not content or bullet or (indent is not None and line_indent != indent)):
            yield " ".join(lines)
            lines = []
        if content:
            lines.append(content[bullet.end() :] if bullet else content)
            indent = None if bullet else line_indent
    if lines:
        yield " ".join(lines)


def _without_markup(paragraph: str) -> str:
    plain = _MARKS.sub("", _ROLE.sub(r"\1", paragraph))
    return _SPLIT_WORD.sub("-", " ".join(plain.split()))


def is_prose(paragraph: str, min_words: int) -> bool:
    """Whether a paragraph reads as English: mostly letters and plain words, including function words."""
    words = paragraph.split()
    if len(words) < min_words or ">>>" in paragraph or "::" in paragraph:
        return False
    characters = "".join(words)
    letters = sum(map(str.isalpha, characters)) / len(characters)
    plain = sum(_PLAIN_WORD.fullmatch(word) is not None for word in words) / len(words)
    function_words = sum(word.strip("().,;:").lower() in FUNCTION_WORDS for word in words) / len(words)
    return letters >= MIN_LETTERS and plain >= MIN_PLAIN_WORDS and function_words >= MIN_FUNCTION_WORDS


def paragraphs(text: str) -> Iterator[str]:
    """Yield the prose paragraphs of a docstring or manual page, each on one line, up to its last complete sentence.

    Markup, headings, tables, code, signatures and lines that introduce them ("For example:") are dropped.
    """
    for segment in _segments(text):
        sentences = _SENTENCES.match(_without_markup(segment))
        if sentences and is_prose(sentences[0], MIN_WORDS):
            yield sentences[0]


def _docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    nodes: list[ast.stmt | ast.Module] = [tree]
    while nodes:
        node = nodes.pop()
        nodes += [child for child in ast.iter_child_nodes(node) if isinstance(child, ast.stmt)]
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield node.body[0].lineno, text


def _comments(source: str) -> Iterator[tuple[int, str]]:
    """Yield blocks of comment lines, with the number of their last line."""
    block: list[str] = []
    for number, line in enumerate([*source.splitlines(), ""]):
        comment = _COMMENT.fullmatch(line)
        if comment:
            block.append(comment["text"])
        elif block:
            yield number, inspect.cleandoc("\n".join(block))
            block = []


def _module_text(source: str, tree: ast.Module) -> str:
    """Return the docstrings and comments of a source file, in order."""
    parts = sorted([*_docstrings(tree), *_comments(source)])
    return "\n\n".join(text for _, text in parts)


def _modules(library: Path) -> Iterator[tuple[str, Path]]:
    """Yield the document name and source file of each module."""
    for path in sorted(library.rglob("*.py")):
        relative = path.relative_to(library)
        if SKIPPED_FOLDERS.isdisjoint(relative.parts) and not relative.parts[0].startswith("config-"):
            yield f"module {relative.as_posix()}", path


def clean(pages: Iterable[Document]) -> Iterator[Document]:
    """Yield the prose of each page, without paragraphs of earlier pages; drop pages without prose."""
    seen: set[str] = set()
    for name, text in pages:
        new = [p for p in dict.fromkeys(paragraphs(text)) if p not in seen]
        seen.update(new)
        if new:
            yield name, "\n".join(new)


def functions_of(module: str, tree: ast.Module) -> Iterator[Function]:
    """Yield the public functions of a source file whose docstring begins with a sentence of prose, in order."""

    def defined_in(body: list[ast.stmt], prefix: str) -> Iterator[Function]:
        for node in body:
            if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) or node.name[0] == "_":
                continue
            if isinstance(node, ast.ClassDef):
                yield from defined_in(node.body, f"{prefix}{node.name}.")
                continue
            arguments = (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)
            parameters = tuple(one.arg for one in arguments if one.arg not in ("self", "cls"))
            first = _FIRST_SENTENCE.match(_without_markup(next(_segments(ast.get_docstring(node) or ""), "")))
            if first and is_prose(first[0], MIN_SUMMARY_WORDS):
                yield Function(module, prefix + node.name, parameters, first[0])

    yield from defined_in(tree.body, "")


@functools.cache
def _library() -> tuple[tuple[Document, ...], tuple[Function, ...]]:
    """Return documents and functions together: parsing the library is most of the work for either."""
    pages = [(f"topic {name}", text) for name, text in sorted(manual.topics.items())]
    by_summary: dict[str, Function] = {}
    for name, path in _modules(Path(sysconfig.get_path("stdlib"))):
        source = path.read_text(encoding="utf-8", errors="replace")
        tree = ast.parse(source)
        pages.append((name, _module_text(source, tree)))
        for function in functions_of(name, tree):
            by_summary.setdefault(function.summary, function)
    return tuple(clean(pages)), tuple(by_summary.values())


def documents() -> tuple[Document, ...]:
    """Return all documents of the interpreter's library, in a fixed order; the first call takes some seconds."""
    return _library()[0]


def functions() -> tuple[Function, ...]:
    """Return all documented functions of the library, in a fixed order; only the first for each summary."""
    return _library()[1]
