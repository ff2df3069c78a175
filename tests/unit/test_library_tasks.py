"""Tasks from Python's library: the same every time, balanced, with real labels and splits that share nothing."""

import ast
import functools
import re
from collections import Counter

import numpy as np
import pytest

from tinydistilbert.data import python_docs
from tinydistilbert.recipe.names import LIBRARY_NAMES
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.tasks import HELD_OUT, TASKS, Examples, library, load_examples
from tinydistilbert.tasks.repeated import shared_with_train

pytestmark = pytest.mark.long  # reads all of Python's manual
EACH = pytest.mark.parametrize("name", LIBRARY_NAMES)


def load(name: str, split: str, *, limit: int = 0, seed: int = 0, source: str = "python-docs") -> Examples:
    return load_examples(TASKS[name], split, data=None, corpus=Corpus(source=source), limit=limit, seed=seed)


def area(document: str) -> str:
    area_name = library.area_of(document)
    assert area_name
    return area_name


@functools.cache
def joined_documents() -> dict[str, str]:
    return {name: " ".join(content.split()) for name, content in python_docs.documents()}


def homes(text: str) -> set[str]:
    """The documents that a passage may be from: those in which all of its words stand in a row."""
    return {name for name, content in joined_documents().items() if text in content}


def home_of_pair_text(text: str) -> set[str]:
    """The same of a passage from which paragraphs may be missing: by the words at its beginning."""
    return homes(" ".join(text.split()[:8]))


@EACH
def test_examples_depend_on_neither_seed_nor_corpus(name: str) -> None:
    assert load(name, "train").fingerprint == load(name, "train", seed=7, source="no such file").fingerprint


def test_examples_are_the_same_every_time() -> None:
    first = load("same-module", "train").fingerprint
    library.columns.cache_clear()
    assert first == load("same-module", "train").fingerprint


@EACH
def test_splits_are_large_enough_and_share_no_text(name: str) -> None:
    train, validation = load(name, "train"), load(name, "validation")
    assert len(train) >= 240 and len(validation) >= 250
    assert shared_with_train(train, validation) == 0
    for examples in (train, validation):
        assert len(set(examples.keys)) == len(examples), "no text twice"


def test_splits_share_no_module() -> None:
    held_out = library.validation_documents()
    for split in ("train", "validation"):
        for text in load("library-area", split).columns["text"][::20]:
            assert {name in held_out for name in homes(text)} == {split == "validation"}
        modules = {f"module {id.partition(':')[0]}" for id in load("what-does-it-do", split).columns["id"]}
        assert {name in held_out for name in modules} == {split == "validation"}
    texts = load("same-module", "validation").columns["text"]
    assert all(homes_of & held_out for text in texts[::20] if (homes_of := home_of_pair_text(text)))


def test_labels_are_balanced() -> None:
    for split in ("train", "validation"):
        areas = Counter(load("library-area", split).columns["label"])
        assert len(areas) == len(library.AREAS) == 6
        assert max(areas.values()) <= 1.3 * min(areas.values())
        pairs = Counter(load("same-module", split).columns["label"])
        assert pairs[0] == pairs[1]
    sample = load("library-area", "train", limit=120).columns["label"]
    assert len(sample) == 120 and len(set(sample)) == 6


def test_the_area_is_that_of_the_module() -> None:
    assert area("module email/message.py") == area("module socket.py") == "networking"
    assert library.area_of("module this.py") is None and library.area_of("topic io") is None
    columns = load("library-area", "validation").columns
    for text, label in list(zip(columns["text"], columns["label"], strict=True))[::20]:
        assert {library.area_of(name) for name in homes(text)} == {tuple(library.AREAS)[label]}


def test_a_module_is_in_one_area() -> None:
    modules = [module for names in library.AREAS.values() for module in names.split()]
    assert len(modules) == len(set(modules))


def test_a_text_alone_says_nothing_about_its_pair() -> None:
    columns = load("same-module", "train").columns
    for column in ("text", "text_pair"):
        labels: dict[str, list[int]] = {}
        for text, label in zip(columns[column], columns["label"], strict=True):
            labels.setdefault(text, []).append(label)
        assert all(sorted(text_labels) == [0, 1] for text_labels in labels.values())


def test_pairs_are_of_one_module_or_of_two_areas() -> None:
    columns = load("same-module", "validation").columns
    rows = list(zip(columns["text"], columns["text_pair"], columns["label"], strict=True))
    judged = 0
    for one, two, label in rows[::10]:
        first, second = home_of_pair_text(one), home_of_pair_text(two)
        if len(first) == len(second) == 1:  # the words at the beginning are in one document alone
            judged += 1
            assert (first == second) == bool(label)
            assert label or {area(name) for name in first} != {area(name) for name in second}
    assert judged > 20


@pytest.mark.parametrize(
    ("paragraph", "document", "names"),
    [
        ("Open a file with the Zipfile module.", "module zipfile.py", True),
        ("Open an archive.", "module zipfile.py", False),
        ("The decimal point moves.", "module _pydecimal.py", True),
        ("See email.message for more.", "module email/message.py", True),
        ("The init of it.", "module json/__init__.py", False),
        ("The json of it.", "module json/__init__.py", True),
    ],
)
def test_paragraphs_that_name_their_module_are_known(paragraph: str, document: str, names: bool) -> None:
    assert library.names_its_module(paragraph, document) is names


def test_no_pair_names_its_module() -> None:
    columns = load("same-module", "validation").columns
    for text in (columns["text"] + columns["text_pair"])[::15]:
        documents = home_of_pair_text(text)
        if len(documents) == 1:
            name = documents.pop().partition(" ")[2].removesuffix(".py").removesuffix("/__init__").split("/")[-1]
            assert name.lower() not in re.findall(r"\w+", text.lower())


def test_passages_are_neighbours_joined_and_cut() -> None:
    paragraphs = ["one two", "three four five", "six", "seven eight nine ten eleven"]
    assert list(library.passages(paragraphs, (4, 5))) == ["one two three four five", "six seven eight nine ten"]
    assert list(library.passages(["one two"], (3, 5))) == []


def test_answers_document_the_function_that_is_asked_for() -> None:
    summaries = {f"{one.module.removeprefix('module ')}:{one.name}": one.summary for one in python_docs.functions()}
    columns = load("what-does-it-do", "validation").columns
    starts = []
    for id, question, context, answers in zip(*columns.values(), strict=True):
        (text,), (start,) = answers["text"], answers["answer_start"]
        assert context[start : start + len(text)] == text == summaries[id]
        assert question.startswith(f"What does {id.partition(':')[2]}(")
        starts.append(start)
    assert 0.1 < np.mean([start == 0 for start in starts]) < 0.4, "the answer stands anywhere"


def test_functions_are_read_from_the_source() -> None:
    source = '''
class Archive:
    def open(self, path, *, mode="r"):
        """Open the archive at `path` for reading.  More is said here.

        And here.
        """
    def _hidden(self):
        """Nobody is told what this function does."""
    def short(self):
        """Too short."""

def listed(names: list[str]) -> None:
    """Print all names of a list e.g. for debugging."""
'''
    functions = list(python_docs.functions_of("module archive.py", ast.parse(source)))
    assert [(one.name, one.parameters, one.summary) for one in functions] == [
        ("Archive.open", ("path", "mode"), "Open the archive at path for reading."),
        ("listed", ("names",), "Print all names of a list e.g. for debugging."),
    ]


def test_train_examples_can_be_held_out_for_choosing() -> None:
    def part(split: str) -> Examples:
        task, corpus = TASKS["library-area"], Corpus()
        return load_examples(task, split, data=None, corpus=corpus, limit=0, seed=0, held_out=24)

    held_out, rest = part(HELD_OUT), part("train")
    assert len(held_out) == 24 and not set(held_out.keys) & set(rest.keys)
