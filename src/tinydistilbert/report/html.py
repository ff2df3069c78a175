"""Pages from the templates, in the common style."""

from importlib import resources
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tinydistilbert.report.table import Table


def figure(svg: str | None, caption: str) -> list[dict[str, Any]]:
    """Return a drawing with its caption for the templates; an empty list for no drawing."""
    return [{"svg": Markup(svg), "caption": caption}] if svg else []  # drawn by figures.py, words escaped there


def as_html(table: Table) -> str:
    """Return a single table as HTML, for notebooks."""
    template = _environment().from_string('{% from "parts.html" import show %}{{ show(table) }}')
    return template.render(table=table)


def render(template: str, **content: Any) -> str:
    """Return a page from one of the templates, in the common style."""
    style = (resources.files("tinydistilbert.report") / "templates" / "page.css").read_text(encoding="utf-8")
    return _environment().get_template(template).render(style=Markup(style), **content)  # the style is our own file


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("tinydistilbert.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
