"""What the documentation site needs besides its pages: the hooks that mkdocs calls; `make docs` builds it.

The pages are written to be read in the repository, and link to files outside docs/. On the site, such a link leads to
the repository, or, for a report of `results/`, to a copy of it in the site.
"""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
DOCS = "docs"
LINK = re.compile(r"\]\(([^)\s]+)\)")
PARTS = {
    "Tutorial": "tutorial/", "How-tos": "how-to/", "Reference": "reference/", "Explanation": "explanation/",
    "Results": "results.md", "Troubleshooting": "troubleshooting.md", "Glossary": "glossary.md",
    "For agents": "agents.md", "Decisions": "decisions/",
}  # fmt: skip
"""The navigation: folders and pages."""


def reports() -> list[str]:
    """The committed report pages, as paths in the repository; they have the same paths in the site."""
    return sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "results").glob("*/report.html"))


def navigation(index: str) -> list[dict[str, Any]]:
    """The parts of the navigation; pages of a folder come in the order in which the index names them.

    A page that the index does not name is missing here, and the strict build says so.
    """
    named = list(dict.fromkeys(link.partition("#")[0] for link in LINK.findall(index)))
    parts: list[dict[str, Any]] = [{"Start": "index.md"}]
    for title, part in PARTS.items():
        parts.append({title: part if part in named else [name for name in named if name.startswith(part)]})
    return parts


def with_links_of_the_site(markdown: str, page: str, repository: str) -> str:
    """A page with links to files outside docs/ that hold on the site.

    Args:
        markdown: its text.
        page: its path below docs/.
        repository: address of the repository.
    """

    def replaced(match: re.Match[str]) -> str:
        link, mark, anchor = match[1].partition("#")
        path = posixpath.normpath(posixpath.join(DOCS, posixpath.dirname(page), link))
        if not link or ":" in link or path.startswith(f"{DOCS}/"):
            return match[0]
        if path in reports():
            return f"]({posixpath.relpath(path, posixpath.dirname(page) or '.')})"
        return f"]({repository}/{'tree' if (ROOT / path).is_dir() else 'blob'}/main/{path}{mark}{anchor})"

    return LINK.sub(replaced, markdown)


def for_language_models(index: str, raw: str) -> str:
    """The index in the form of https://llmstxt.org, with links to the pages as they are written.

    Args:
        index: docs/index.md.
        raw: where files of the repository are read as they are.
    """
    purpose = "Distil a BERT-like teacher into a small fast student, and prove what was kept and what was won."
    shown = ["# TinyDistilBERT", "", f"> {purpose}", "", f"Begin with [the guide for agents]({raw}/{DOCS}/agents.md)."]
    for part in re.split(r"^\*\*(?=\w)", index, flags=re.MULTILINE)[1:]:
        title, _, content = part.partition("**")
        links = re.findall(r"\[([^\]]+)\]\(([^)\s]+\.md)\)(?:: ([^\n]+))?", content)
        shown += ["", f"## {title}", ""]
        shown += [
            f"- [{name}]({raw}/{posixpath.normpath(f'{DOCS}/{page}')}){f': {text}' if text else ''}"
            for name, page, text in links
        ]
    return "\n".join(shown) + "\n"


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """The navigation."""
    config.nav = navigation((ROOT / DOCS / "index.md").read_text(encoding="utf-8"))
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """The report pages, and llms.txt."""
    for path in reports():
        files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
    raw = f"{config.repo_url.replace('//github.com', '//raw.githubusercontent.com')}/main"
    index = (ROOT / DOCS / "index.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "llms.txt", content=for_language_models(index, raw)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """The links of a page."""
    return with_links_of_the_site(markdown, page.file.src_uri, config.repo_url)
