"""The run's existing page, with parts that were drawn from logs and samples that may be gone by now."""

import html
import re
from dataclasses import dataclass
from pathlib import Path

from markupsafe import Markup

_ACTIVE = re.compile(
    r"<\s*(script|iframe|object|embed|link|meta|base|form|img|foreignobject)|\son\w+\s*=|javascript:", re.IGNORECASE
)
"""Markup that our pages never contain; nothing is taken from a page that does."""
_COMMAND = re.compile(r"<dt>Command</dt><dd>(.*?)</dd>", re.DOTALL)
_CURVES = re.compile(r"<h2>Pretraining</h2>.*?(<div class=\"figures\">.*?)</section>", re.DOTALL)
_EXAMPLES = re.compile(r"<h2>(?:Predictions|What they answer)</h2>(.*?)</section>", re.DOTALL)


@dataclass(frozen=True)
class EarlierPage:
    """Parts of the page, unchanged; empty if a part is missing."""

    command: str
    curves: Markup
    examples: Markup

    @classmethod
    def read(cls, page: Path) -> "EarlierPage":
        """Return the parts of a page made by any version of this program."""
        text = page.read_text(encoding="utf-8", errors="replace") if page.is_file() else ""
        if _ACTIVE.search(text.partition("<body>")[2]):
            return NO_PAGE
        matches = (part.search(text) for part in (_COMMAND, _CURVES, _EXAMPLES))
        command, curves, examples = (match[1] if match else "" for match in matches)
        return cls(html.unescape(command), Markup(curves), Markup(examples))


NO_PAGE = EarlierPage("", Markup(), Markup())
