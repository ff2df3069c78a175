"""Tasks with real labels that every machine has, made from the documentation of Python's standard library.

`library-area`: which part of the library does a passage document? `same-module`: do two passages document the same
module? `what-does-it-do` (like SQuAD): which sentence says what a function does? Examples depend only on the running
interpreter's library, not on a seed or corpus. A module is in one split only.
"""

import functools
import hashlib
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, zip_longest
from typing import Any, TypeVar

from tinydistilbert.data import python_docs
from tinydistilbert.tasks.base import ScoreTable, Task

TABLE = ScoreTable(
    "library", "Tasks from Python's library",
    "Made from the docstrings and comments in Python's library, scored on modules that were not trained on, in "
    "points. They depend on the version of Python and are not published data sets.",
    unit="library task",
)  # fmt: skip

AREAS = {
    "concurrency": "asyncio concurrent contextvars multiprocessing queue sched selectors signal subprocess threading "
    "_weakrefset",
    "development": "abc ast bdb cProfile code codeop compileall dataclasses dis distutils doctest ensurepip importlib "
    "inspect pdb pickletools pkgutil profile pstats py_compile pydoc runpy symtable timeit tokenize trace traceback "
    "tracemalloc typing unittest venv warnings",
    "files": "_pyio bz2 configparser dbm filecmp fileinput fnmatch genericpath glob gzip io lzma ntpath os pathlib "
    "posixpath shelve shutil stat tarfile tempfile zipfile zipimport",
    "mathematics": "_pydatetime _pydecimal _pylong _strptime bisect calendar colorsys datetime decimal fractions "
    "hashlib heapq hmac numbers random secrets statistics",
    "networking": "asynchat asyncore cgi cgitb email ftplib http imaplib ipaddress mailbox mimetypes netrc nntplib "
    "poplib smtpd smtplib socket socketserver ssl telnetlib urllib webbrowser wsgiref xmlrpc",
    "text": "argparse base64 codecs csv difflib getopt gettext html json locale optparse plistlib quopri re "
    "sre_compile sre_parse string stringprep textwrap xml",
}
"""Areas of the library and their modules. GUIs (tkinter) are left out: some systems lack them."""
_AREA_OF = {module: area for area, modules in AREAS.items() for module in modules.split()}

HELD_OUT_SHARE = 0.25
"""Share of the passages of each area used for validation."""
PER_MODULE = 40
"""Maximum number of passages or questions from one module, so that no large module dominates."""
AREA_CAPS, PAIR_CAPS, QUESTION_CAPS = (40, 60), (50, 35), (400, 300)
"""Maxima in the train and validation split: passages and same-module pairs per area; questions in all."""
WORDS, PAIR_WORDS = (40, 80), (15, 25)
"""Paragraphs are joined until they have the first number of words, and cut after the second."""
SENTENCES = 4
"""Number of sentences in a context, one of which is the answer."""
LONGEST_ANSWER = 80
"""Characters: span models give answers of at most 30 tokens, and names take many tokens."""

Columns = dict[str, list[Any]]
Passage = tuple[str, str]
"""A text and the name of its document."""
Item = TypeVar("Item")


def area_of(document: str) -> str | None:
    """Return the area of a document, such as networking for `module email/message.py`; None if it is in no area."""
    return _AREA_OF.get(document.removeprefix("module ").split("/")[0].removesuffix(".py"))


def names_its_module(paragraph: str, document: str) -> bool:
    """Whether a paragraph names the module that it is in, as "Open a file with the zipfile module" does."""
    parts = re.split(r"[/ ]", document.partition(" ")[2].removesuffix(".py").lower())
    names = {name.strip("_").removeprefix("py") for name in parts if name != "__init__"} | set(parts)
    return not names.isdisjoint(re.findall(r"\w+", paragraph.lower()))


def passages(paragraphs: Iterable[str], words: tuple[int, int]) -> Iterator[str]:
    """Join neighbouring paragraphs until they have `words[0]` words; cut after `words[1]`; leave out a shorter rest."""
    least, most = words
    joined: list[str] = []
    for paragraph in paragraphs:
        joined += paragraph.split()
        if len(joined) >= least:
            yield " ".join(joined[:most])
            joined = []


def _shuffled(items: Iterable[Item], text: Callable[[Item], str]) -> list[Item]:
    """Return the items in an order that depends only on the texts."""
    return sorted(items, key=lambda item: hashlib.sha256(text(item).encode()).digest())


def _in_turn(groups: Iterable[Sequence[Item]]) -> list[Item]:
    """Return the first item of each group, then the second of each, and so on."""
    return [item for item in chain.from_iterable(zip_longest(*groups)) if item is not None]


@functools.cache
def validation_documents() -> frozenset[str]:
    """Return the documents held out of training: in each area, in hash order, about a quarter of its text."""
    by_area: dict[str | None, list[tuple[str, int]]] = {}
    for document, text in python_docs.documents():
        count = min(PER_MODULE, sum(1 for _ in passages(text.split("\n"), WORDS)))
        by_area.setdefault(area_of(document), []).append((document, count))
    chosen: set[str] = set()
    for documents in by_area.values():
        room = HELD_OUT_SHARE * sum(count for _, count in documents)
        for document, count in _shuffled(documents, lambda one: one[0]):
            if room > 0:
                chosen.add(document)
                room -= count
    return frozenset(chosen)


def _passages_by_area(validation: bool, words: tuple[int, int], *, nameless: bool) -> dict[str, list[list[Passage]]]:
    """Return by area the shuffled passages of each document in a split; `nameless`: without their module's name."""
    by_area: dict[str, list[list[Passage]]] = {area: [] for area in AREAS}
    for document, text in python_docs.documents():
        area = area_of(document)
        if area is None or (document in validation_documents()) != validation:
            continue
        lines = [line for line in text.split("\n") if not (nameless and names_its_module(line, document))]
        made = [(passage, document) for passage in dict.fromkeys(passages(lines, words))]
        by_area[area].append(_shuffled(made, lambda one: one[0])[:PER_MODULE])
    return by_area


def _library_area(validation: bool) -> Columns:
    areas = _passages_by_area(validation, WORDS, nameless=False)
    cap = AREA_CAPS[validation]
    chosen = {area: _in_turn(modules)[:cap] for area, modules in areas.items()}
    rows = _in_turn([[(text, label) for text, _ in chosen[area]] for label, area in enumerate(AREAS)])
    return {"text": [text for text, _ in rows], "label": [label for _, label in rows]}


def _same_module(validation: bool) -> Columns:
    """Use each text in one pair of one module and one pair of two areas, so that alone it reveals nothing."""
    cap = PAIR_CAPS[validation]
    groups: list[list[tuple[str, str]]] = []
    for modules in _passages_by_area(validation, PAIR_WORDS, nameless=True).values():
        pairs = [[(one[0], two[0]) for one, two in zip(made[::2], made[1::2], strict=False)] for made in modules]
        groups.append(_in_turn(pairs)[:cap])
    # Rotated by the size of the largest group, each second text is from another area: no group is more than half.
    same = [pair for group in groups for pair in group]
    turn = max(map(len, groups))
    assert 2 * turn <= len(same), "the caps keep the areas balanced"
    seconds = [two for _, two in same]
    other = [(one, two) for (one, _), two in zip(same, seconds[turn:] + seconds[:turn], strict=True)]
    rows = _shuffled([*((pair, 1) for pair in same), *((pair, 0) for pair in other)], lambda row: "\0".join(row[0]))
    columns = zip(*((one, two, label) for (one, two), label in rows), strict=True)
    return dict(zip(("text", "text_pair", "label"), map(list, columns), strict=True))


def _what_does_it_do(validation: bool) -> Columns:
    """Make contexts of sentences that document four functions of one module, with one's signature as the question."""
    by_module: dict[str, list[python_docs.Function]] = {}
    for function in python_docs.functions():
        is_short = len(function.summary) <= LONGEST_ANSWER
        if is_short and (function.module in validation_documents()) == validation:
            by_module.setdefault(function.module, []).append(function)
    questions = [list(_questions(functions))[:PER_MODULE] for functions in by_module.values()]
    rows = _in_turn(questions)[: QUESTION_CAPS[validation]]
    return {name: [row[name] for row in rows] for name in ("id", "question", "context", "answers")}


def _questions(functions: Sequence[python_docs.Function]) -> Iterator[dict[str, Any]]:
    for begin in range(0, len(functions) - SENTENCES + 1, SENTENCES):
        group = _shuffled(functions[begin : begin + SENTENCES], lambda one: one.summary)
        context = " ".join(one.summary for one in group)
        start = 0
        for one in group:
            answers = {"text": [one.summary], "answer_start": [start]}
            name = f"{one.module.removeprefix('module ')}:{one.name}"
            question = f"What does {one.name}({', '.join(one.parameters)}) do?"
            yield {"id": name, "question": question, "context": context, "answers": answers}
            start += len(one.summary) + 1


TASKS = (
    Task(
        "library-area", "Library area", TABLE, "classification", "text", None, tuple(AREAS), ("accuracy", "macro_f1"),
        "accuracy", of_library=_library_area, max_length=256,
        example=("Return the greatest common divisor of two integers.", ""),
    ),
    Task(
        "same-module", "Same module", TABLE, "classification", "text", "text_pair", ("different", "same"),
        ("accuracy",), "accuracy", of_library=_same_module, max_length=256,
    ),
    Task(
        "what-does-it-do", "What does it do?", TABLE, "span", "question", "context", (), ("exact_match", "f1"), "f1",
        of_library=_what_does_it_do, max_length=384, doc_stride=128,
    ),
)  # fmt: skip


@functools.cache
def columns(task: Task, split: str) -> Columns:
    """Return the columns of `Examples` of a whole split; callers must not change them."""
    assert task.of_library, f"{task.name} is made of Python's library"
    made = task.of_library(split != task.train)
    return made if "id" in made else {"idx": list(range(len(made["label"]))), **made}
