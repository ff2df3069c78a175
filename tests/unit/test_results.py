"""The committed results: the pages show what they hold."""

import json
import re
import subprocess
from functools import partial
from pathlib import Path
from typing import Any

import defaults_page
import mutants
import numpy as np
import picture
import pytest
import readme

from tinydistilbert import results
from tinydistilbert.storage import atomic

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "page",
    [
        "README.md", "docs/results.md", "docs/decisions/0031-levers.md", "docs/explanation/mutants.md",
        "docs/explanation/replication.md", "docs/reference/recipe.md", "benchmarks/README.md",
    ],
)  # fmt: skip
def test_a_page_shows_what_was_counted_measured_or_declared(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert readme.written(text, readme.PAGES[page]) == text, "run: python results/readme.py"


def test_the_picture_shows_what_was_measured() -> None:
    """Its words and points; how wide letters are, and so where names go, may differ between versions of matplotlib."""

    def content(svg: str) -> tuple[list[str], list[list[float]]]:
        words = re.findall(r"<text[^>]*>([^<]*)</text>", svg)
        marks = re.findall(r'<use xlink:href="#[^"]+" x="([0-9.]+)" y="([0-9.]+)" style="fill: [^"]+; stroke: var', svg)
        marks += re.findall(r'd="M ([0-9.]+) ([0-9.]+)[^"]+z\s*" clip-path="[^"]+" style="fill: none; stroke: var', svg)
        return sorted(words), [[float(x), float(y)] for x, y in marks]

    (words, marks), (words_now, marks_now) = content(readme.PICTURE.read_text("utf-8")), content(picture.picture())
    assert words == words_now and {model.name for model in picture.models()} <= set(words), (
        "run: python results/readme.py"
    )
    assert len(marks) == len(picture.models()) and np.allclose(marks, marks_now, atol=3)


def test_the_picture_brings_its_colours_and_times_of_one_protocol() -> None:
    svg = readme.PICTURE.read_text(encoding="utf-8")
    used = set(re.findall(r"var\((--[a-z0-9-]+)\)", svg))
    light, dark = svg.split("@media (prefers-color-scheme: dark)")
    assert used and all(f"{name}:" in light for name in used) and "--ink-2:" in dark
    by_name = {model.name: model for model in picture.models()}
    assert round(by_name["BERT-base"].milliseconds, 1) == 60.8 and by_name["BERT-base"].score == 92.7
    assert by_name["Student"].milliseconds > by_name["Student, int8"].milliseconds


def test_most_mutants_were_caught_and_each_survivor_is_explained() -> None:
    counts = atomic.read_json(mutants.COUNTS)
    assert mutants.faults(counts) == []
    (fault,) = mutants.faults(counts | {"timeouts": 200})
    assert "200 changes ran out of time" in fault


def test_the_reliability_page_shows_the_ledger_as_it_was_when_the_page_was_made() -> None:
    text = (ROOT / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")
    (date,) = re.findall(r"^As of (\S+):$", text, flags=re.MULTILINE)
    made = readme.written(text, {"faults": partial(readme.faults_section, date)})
    assert made == text, "run: python results/readme.py"


def test_the_reliability_page_shows_the_kinds_of_cpu_that_were_tried() -> None:
    text = (ROOT / "docs" / "explanation" / "reliability.md").read_text(encoding="utf-8")
    assert readme.written(text, {"cpus": readme.cpus_section}) == text, "run: python results/readme.py"


def test_a_kind_of_cpu_is_shown_by_its_last_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = {
        "machine": "Some CPU", "kind": "plain", "variables": {}, "threads": 2, "passed": 1300, "failed": 1,
        "skipped": 2, "seconds": 400, "commit": "abc", "date": "2026-11-01T00:00:00+00:00",
    }  # fmt: skip
    monkeypatch.setattr(readme, "CPUS", tmp_path / "cpus.jsonl")
    rows = (row, row | {"failed": 0}, row | {"kind": "narrow", "variables": {"ISA": "AVX2"}})
    readme.CPUS.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")
    assert readme.cpus_section().splitlines()[2:] == [
        "| Some CPU | plain  | 2 | 1,300 | 0 | 2 | 400 | `abc` | 2026-11-01 |",
        "| Some CPU | narrow `ISA=AVX2` | 2 | 1,300 | 1 | 2 | 400 | `abc` | 2026-11-01 |",
    ]


def test_the_map_of_the_house_is_that_of_the_import_contract() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert readme.written(text, readme.PAGES["CONTRIBUTING.md"]) == text, "run: python results/readme.py"


def test_every_default_has_a_source_and_every_source_a_default() -> None:
    assert list(defaults_page.unsourced()) == [], "say in results/defaults_page.py where they come from"
    assert defaults_page.unused() == []
    text = (ROOT / "docs/reference/defaults.md").read_text(encoding="utf-8")
    assert readme.written(text, readme.PAGES["docs/reference/defaults.md"]) == text, "run: python results/readme.py"
    decisions = re.findall(r"\]\(\.\./(decisions/[^)]+)\)", text)
    assert decisions and all((ROOT / "docs" / page).is_file() for page in decisions)


def test_a_module_has_the_version_of_whatever_brings_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a_runtime").mkdir()
    (tmp_path / "a_runtime/__init__.py").touch()
    (tmp_path / "an_export").mkdir()  # a folder in the working folder, which Python takes for a module
    info = tmp_path / "a_runtime_gpu-1.5.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: a-runtime-gpu\nVersion: 1.5\n")
    (info / "top_level.txt").write_text("a_runtime\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert results.version_of_module("a_runtime") == "1.5" and results.version_of_module("an_export") is None
    assert results.version_of_module("no_such_module") is None


def test_a_slow_git_does_not_end_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    run = subprocess.run

    def too_slow(command: list[str], *arguments: Any, **options: Any) -> Any:
        if command[0] == "git":
            raise subprocess.TimeoutExpired("git", 10)
        return run(command, *arguments, **options)  # Python's `platform` asks another program

    monkeypatch.setattr(subprocess, "run", too_slow)
    monkeypatch.setattr(Path, "exists", lambda _path: True)
    results.environment.cache_clear()
    try:
        assert results.environment()["commit"] == ""
    finally:
        results.environment.cache_clear()


def test_variants_of_earlier_versions_have_the_names_of_today(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text(
        "".join(
            json.dumps({"model": model, "task": "compress", "metric": "accuracy", "value": 0.5}) + "\n"
            for model in ("taught again, int8", "student")
        )
    )
    assert [row.model for row in results.read(tmp_path / "results.jsonl")] == [
        "recovery fine-tuning alone, int8", "student",
    ]  # fmt: skip
