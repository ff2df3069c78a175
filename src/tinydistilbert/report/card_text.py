"""Parts of every model card: text that cannot become markup, a header that the hub reads, a file to write into.

Names of labels, files and folders can be anyone's, and a card is shown as Markdown with HTML in it.
"""

import hashlib
import re
from collections.abc import Sequence
from pathlib import Path

from huggingface_hub import ModelCard, ModelCardData

from tinydistilbert.errors import UserError
from tinydistilbert.notices import notice
from tinydistilbert.run_folder import CARD
from tinydistilbert.storage import atomic

LONGEST = 200
"""Characters of a name that are shown."""
_MARKUP = re.compile(r"[\\`*\[\]|~]|(?<![^\W_])_|_(?![^\W_])|#(?!\d+;)|(?<=www)\.", re.IGNORECASE)
_ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;", "$": "&#36;", "://": "&#58;//"}
"""Characters that begin HTML, links, mentions and formulas, and their replacements."""
_TAG = re.compile(r"<(?=[A-Za-z/!?])")
EARLIER = "A masked language model, distilled with TinyDistilBERT. Load it from the folder"
_MARK = re.compile(r"\n<!-- tinydistilbert ([0-9a-f]{16}) -->\n\Z")
"""The last line of a card as it was written: the beginning of the SHA-256 of the text above it."""


def _plain(text: object) -> str:
    """Return the text on one line, without invisible characters, and not too long."""
    line = " ".join(str(text).split())
    seen = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in line)
    return seen if len(seen) <= LONGEST else seen[: LONGEST - 1] + "…"


def escaped(text: object) -> str:
    """Return the text as Markdown that shows exactly it, without tags, links, headings, columns or formulas."""
    entities = re.sub("|".join(map(re.escape, _ENTITIES)), lambda match: _ENTITIES[match[0]], _plain(text))
    return _MARKUP.sub(r"\\\g<0>", entities)


def code(text: object) -> str:
    """Return the text as inline code, whatever it contains."""
    plain = _plain(text)
    fence = "`" * (1 + max((len(run) for run in re.findall("`+", plain)), default=0))
    space = " " if plain.startswith("`") or plain.endswith("`") or not plain else ""
    return f"{fence}{space}{plain or ' '}{space}{fence}"


def table(columns: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    """Return a table of cells that are Markdown already; numbers are right-aligned."""
    rule = "|" + "|".join([" :-- "] + [" --: "] * (len(columns) - 1)) + "|"
    return "\n".join(["| " + " | ".join(columns) + " |", rule, *("| " + " | ".join(row) + " |" for row in rows)]) + "\n"


def card(data: ModelCardData, body: str) -> str:
    """Return the whole file, after reading it back to find what the hub would refuse.

    Raises:
        AssertionError: the header does not come back as it was given.
    """
    text = f"---\n{data.to_yaml()}\n---\n\n{body.strip()}\n"
    assert ModelCard(text).data.to_yaml() == data.to_yaml(), "YAML gives back what it was given"
    return text


def without_tags(body: str) -> str:
    """Return our Markdown with others' names in it so that no tag begins in it."""
    return _TAG.sub("&lt;", body)


def write(folder: Path, text: str) -> Path:
    """Write a card into a model's folder and return its path; a card that somebody has edited is kept."""
    path = folder / CARD
    if path.is_file() and not is_as_written(path):
        notice(str(path), "the card was changed by hand and is kept; delete it to have it written again")
        return path
    mark = hashlib.sha256(text.encode()).hexdigest()[:16]
    atomic.write_text(path, f"{text}\n<!-- tinydistilbert {mark} -->\n")
    return path


def is_as_written(path: Path) -> bool:
    """Whether a card is unedited. Cards of version 0.1 have no mark, but one sentence in common."""
    content = path.read_bytes().decode("utf-8", "replace")
    if mark := _MARK.search(content):
        return hashlib.sha256(content[: mark.start()].encode()).hexdigest()[:16] == mark[1]
    return EARLIER in content


def read_card(path: Path) -> ModelCard:
    """Return the card of a folder.

    Raises:
        UserError: it has no header, or one that the hub would refuse.
    """
    fix = "delete it and run `tinydistilbert report RUN`, or correct its header"
    try:
        content = path.read_text(encoding="utf-8")
        if not content.startswith("---"):
            raise ValueError("no header between two lines ---")
        return ModelCard(content)
    except Exception as error:  # of the YAML library, of huggingface_hub, or an encoding
        found = " ".join(str(error).split())[:160] or type(error).__name__
        raise UserError(str(path), expected="a card with a header that the hub reads", found=found, fix=fix) from None
