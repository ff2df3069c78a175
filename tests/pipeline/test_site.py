"""The documentation builds as a site, strictly: no page, link or anchor is missing, nothing comes from other hosts."""

import os
import re
import subprocess
import sys
from pathlib import Path

import docs_site
import pytest

ROOT = Path(__file__).resolve().parents[2]
REPOSITORY = "https://example.org/repository"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    variables = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.long
def test_it_has_every_page_every_report_and_a_search(site: Path) -> None:
    for page in (ROOT / "docs").rglob("*.md"):
        assert (site / page.relative_to(ROOT / "docs")).with_suffix(".html").is_file()
    assert docs_site.reports()
    for report in docs_site.reports():
        assert (site / report).read_bytes() == (ROOT / report).read_bytes()
    assert "temperature" in (site / "search" / "search_index.json").read_text(encoding="utf-8")


@pytest.mark.long
def test_it_has_a_list_of_the_pages_for_language_models(site: Path) -> None:
    text = (site / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith("# TinyDistilBERT\n") and "\n## Do\n" in text
    pages = re.findall(r"^- \[[^\]]+\]\(https://raw\.githubusercontent\.com/[\w/-]+/main/([^)]+)\)", text, re.MULTILINE)
    assert all((ROOT / page).is_file() for page in pages)
    assert {path.relative_to(ROOT).as_posix() for path in (ROOT / "docs/how-to").glob("*.md")} <= set(pages)


@pytest.mark.long
def test_it_loads_nothing_from_other_hosts(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|link)\b[^>]*?\b(?:src|href)=[\"']?((?:https?:)?//[^\"' >]+)", page.read_text("utf-8")
        )
        assert [address for address in loaded if "canonical" not in address] == [], page
    for style in site.rglob("*.css"):
        assert re.findall(r"url\([\"']?(?:https?:)?//", style.read_text(encoding="utf-8")) == [], style


@pytest.mark.long
def test_links_within_the_repository_lead_somewhere(site: Path) -> None:
    """Those that mkdocs does not check: to the repository's own files."""
    start = re.search(r"^repo_url: (.*)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert start
    paths = {
        path
        for page in site.rglob("*.html")
        for path in re.findall(rf"{re.escape(start[1])}/(?:blob|tree)/main/([^\"#]+)", page.read_text(encoding="utf-8"))
    }
    assert len(paths) > 20
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_anchors_of_pages_outside_of_docs_are_headings() -> None:
    """Those of the pages themselves are checked by mkdocs."""
    links = [
        (page.name, path, anchor)
        for page in (ROOT / "docs").rglob("*.md")
        for path, anchor in re.findall(r"\]\([./]*/([\w/]+\.md)#([^)]+)\)", page.read_text(encoding="utf-8"))
        if (ROOT / path).is_file()
    ]
    assert links
    for page, path, anchor in links:
        headings = re.findall(r"^#+ (.*)$", (ROOT / path).read_text(encoding="utf-8"), re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in anchors, (page, path)


def test_links_to_files_outside_the_pages_lead_to_the_repository() -> None:
    def changed(link: str) -> str:
        return docs_site.with_links_of_the_site(f"[a]({link})", "explanation/elmo.md", REPOSITORY)[4:-1]

    assert changed("protocol.md#a") == "protocol.md#a"
    assert changed("../results.md") == "../results.md"
    assert changed("https://example.org/x") == "https://example.org/x"
    assert changed("#here") == "#here"
    assert changed("../../benchmarks/README.md#latencypy") == f"{REPOSITORY}/blob/main/benchmarks/README.md#latencypy"
    assert changed("../../results/replication") == f"{REPOSITORY}/tree/main/results/replication"
    assert changed("../../results/table3/report.html") == "../results/table3/report.html"


def test_the_navigation_has_the_pages_that_the_index_names_in_its_order() -> None:
    index = "[b](how-to/b.md) [a](how-to/a.md#x) [r](results.md) [n](../examples/x.ipynb) [a again](how-to/a.md)"
    parts = {title: pages for part in docs_site.navigation(index) for title, pages in part.items()}
    assert parts["How-tos"] == ["how-to/b.md", "how-to/a.md"]
    assert parts["Results"] == "results.md"
    assert parts["Start"] == "index.md" and parts["Tutorial"] == []
