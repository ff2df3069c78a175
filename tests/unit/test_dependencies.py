"""What pyproject.toml declares is what the code imports, and the other way round."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib import metadata
from pathlib import Path

import oldest

from tinydistilbert.optional import TRAINING

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = SETTINGS["project"]
WITHOUT_IMPORT = {
    "import-linter",
    "mkdocs-material",
    "mypy",
    "pytest-timeout",
    "pytest-xdist",
    "ruff",
    "scipy-stubs",
    "mutmut",
    "accelerate",
}
"""Tools, and what transformers' Trainer imports, with which a benchmark compares."""


def normalized(requirement: str) -> str:
    """The name of a distribution, of a requirement or of a module, in the one spelling that all have in common."""
    return re.split(r"[<>=!~;\[ ]", requirement)[0].lower().replace("_", "-")


def with_extras(requirements: list[str]) -> set[str]:
    """The names in an extra, and those in the extras that it includes: `tinydistilbert[run,train]`."""
    names: set[str] = set()
    for requirement in requirements:
        included = re.fullmatch(r"tinydistilbert\[([\w,]+)\]", requirement)
        for extra in included[1].split(",") if included else ():
            names |= with_extras(PROJECT["optional-dependencies"][extra])
        names |= set() if included else {normalized(requirement)}
    return names


EXTRAS = {extra: with_extras(names) for extra, names in PROJECT["optional-dependencies"].items()}
TOOLS = {normalized(name) for names in SETTINGS["dependency-groups"].values() for name in names}
"""What no installation of the package brings."""
SERVING = {normalized(name) for name in PROJECT["dependencies"]}
"""What every installation has."""
TRAINED = EXTRAS["train"]
RUNTIME = SERVING | TRAINED
OPTIONAL = {name for names in EXTRAS.values() for name in names}
ELSEWHERE = {"optimum"}
"""What a script in a test's text imports, which runs in an environment of its own."""
KERNEL = {"ipython"}
"""What is imported only where it runs already: in the kernel of a notebook."""
DECLARED = RUNTIME | OPTIONAL | TOOLS
SCRIPTS = [path.stem for folder in ("benchmarks", "results") for path in (ROOT / folder).glob("*.py")]
STARTED = [path.stem for path in (ROOT / "tests").rglob("*.py")]
"""Tests start some of their modules as scripts, which others then import by name."""
FIRST_PARTY = {"tinydistilbert", "tests", *SCRIPTS, *STARTED}


@cache
def distributions() -> Mapping[str, list[str]]:
    """Those that bring each module."""
    return metadata.packages_distributions()


def imports(code: ast.AST, *, nested: bool = False) -> Iterator[tuple[str, bool]]:
    """The distributions that are imported, each with whether that happens only when a function is called, or never."""
    for node in ast.iter_child_nodes(code):
        if isinstance(node, ast.expr):  # most nodes; nothing is imported in one
            continue
        modules = []
        if isinstance(node, ast.Import):
            modules = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            modules = [node.module or ""]
        for module in {module.partition(".")[0] for module in modules} - sys.stdlib_module_names - FIRST_PARTY:
            for distribution in distributions().get(module, [module]):
                yield normalized(distribution), nested
        test = node.test if isinstance(node, ast.If) else None
        is_for_types = isinstance(test, ast.Name) and test.id == "TYPE_CHECKING"  # never imported
        is_called = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imports(node, nested=nested or is_called or is_for_types)


def files(*folders: str) -> dict[str, str]:
    """The content of every file of Python."""
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    return {str(path.relative_to(ROOT)): path.read_text(encoding="utf-8") for path in paths}


@cache
def parsed() -> dict[str, ast.Module]:
    """The package."""
    return {file: ast.parse(content) for file, content in files("src").items()}


LINE = re.compile(r"^[ \t]*((?:import|from[ \t]+[\w.]+[ \t]+import)[ \t].*)$", re.MULTILINE)


@cache
def imported_beside() -> dict[str, set[str]]:
    """What each file of tests, benchmarks and results imports, wherever; to parse them whole would take seconds.

    Scripts in texts count too, and are run.
    """
    imported: dict[str, set[str]] = {}
    for file, content in files("tests", "benchmarks", "results").items():
        lines = {re.sub(r"import[ \t]*\(.*", "import x", line) for line in LINE.findall(content)}
        imported[file] = set[str]()
        for line in lines:
            with suppress(SyntaxError):  # prose
                imported[file] |= {name for name, _ in imports(ast.parse(line))}
    return imported


def required(code: ast.Module) -> Iterator[tuple[str, str]]:
    """Literal calls of `require`: the library and the extra that it is said to come with."""
    for node in ast.walk(code):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "require":
            library, extra = node.args[0], node.keywords[0].value
            if isinstance(library, ast.Constant) and isinstance(extra, ast.Constant):
                yield library.value, extra.value


def test_imports_are_found_and_their_depth() -> None:
    code = ast.parse(
        "import os, numpy.linalg\nfrom torch import nn\nfrom . import x\ndef f():\n    import sklearn.svm\n"
        "if TYPE_CHECKING:\n    import starlette"
    )
    assert set(imports(code)) == {("numpy", False), ("torch", False), ("scikit-learn", True), ("starlette", True)}


def test_what_the_package_imports_is_declared() -> None:
    imported = {(file, *used) for file, code in parsed().items() for used in imports(code)}
    assert {
        (file, name)
        for file, name, nested in imported
        if name not in RUNTIME | (OPTIONAL | KERNEL if nested else set())
    } == set()


def test_what_tests_and_benchmarks_import_is_declared() -> None:
    imported = {(file, name) for file, names in imported_beside().items() for name in names}
    assert {("tests/tiny.py", "torch"), ("tests/shapes.py", "beartype")} <= imported, "at the top, and in a function"
    assert {(file, name) for file, name in imported if name not in DECLARED | ELSEWHERE} == set()


def test_what_is_declared_is_imported() -> None:
    by_package = {name for code in parsed().values() for name, _ in imports(code)}
    used = by_package.union(*imported_beside().values())
    # Modules of extras may be imported by their name.
    words = {normalized(node.value) for code in parsed().values() for node in ast.walk(code)
             if isinstance(node, ast.Constant) and isinstance(node.value, str)}  # fmt: skip
    assert RUNTIME - by_package == set()
    assert OPTIONAL - by_package - words == set()
    assert DECLARED - RUNTIME - OPTIONAL - used == WITHOUT_IMPORT


def test_an_extra_that_an_error_names_has_the_library() -> None:
    named = {pair for code in parsed().values() for pair in required(code)}
    assert len(named) > 5
    for library, extra in named:
        assert normalized(library.partition(".")[0]) in EXTRAS[extra], (library, extra)


def test_the_libraries_of_training_are_those_of_the_extra_and_no_others() -> None:
    needed = {distribution for name in TRAINING for distribution in distributions().get(name, [name])}
    assert {normalized(name) for name in needed} == TRAINED
    assert SERVING | EXTRAS["run"] == {"numpy", "tokenizers", "onnxruntime"}


def test_extras_for_more_than_running_bring_what_training_needs() -> None:
    for extra in ("onnx", "offline", "elmo"):
        assert EXTRAS[extra] > TRAINED
    assert EXTRAS["run"] < EXTRAS["onnx"]
    assert not TRAINED & (EXTRAS["run"] | EXTRAS["openvino"])


def test_the_oldest_versions_are_those_that_are_declared() -> None:
    floors = oldest.floors(PROJECT, with_torch=False)
    assert "transformers==5.18" in floors and "onnxruntime==1.21" in floors and "tokenizers==0.23.3" in floors
    assert not any(name.startswith(("torch", "pytest", "tinydistilbert")) for name in floors)
    assert "torch==2.10" in oldest.floors(PROJECT, with_torch=True)
    extras = PROJECT["optional-dependencies"]
    declared = [
        *PROJECT["dependencies"],
        *(name for extra in extras for name in extras[extra] if extra not in oldest.TOOLS),
    ]
    bounded = {normalized(name) for name in declared if ">=" in name} - {"torch"}
    assert {normalized(name) for name in floors} == bounded, "one has a form that is not understood"
