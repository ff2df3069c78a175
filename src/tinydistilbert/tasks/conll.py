"""CoNLL files: one word with its tags per line, columns separated by spaces or tabs, empty lines between sentences."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice

DOCUMENT, COMMENT = "-DOCSTART-", "#"
TOKENS, TAGS = "tokens", "ner_tags"
"""The columns of words and of their tags, named as in hub data sets."""


@dataclass
class Sentences:
    """The sentences of a file, by column."""

    columns: dict[str, list[list[str]]] = field(default_factory=dict)
    """`tokens` (the first column), `ner_tags` (the last), and each column by its number from 1."""
    lines: list[int] = field(default_factory=list)
    """The line where each sentence begins."""


def sentences_of(lines: Sequence[str], where: str) -> Sentences:
    """Return the sentences of a CoNLL file.

    Columns are separated by tabs if the first word's line has one, else by spaces. Document lines (`-DOCSTART-`) and
    comment lines (`#`, with another number of columns, before a sentence) are left out and counted.

    Raises:
        UserError: a line has another number of columns than the first one, or there is only one column.
    """
    numbered = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    words = [(number, line) for number, line in numbered if not line.startswith(DOCUMENT)]
    plain = [(number, line) for number, line in words if not line.startswith(COMMENT)] or words
    if not plain:
        return Sentences()
    first, line = plain[0]
    separator = "\t" if "\t" in line else None
    width = len(_cells(line, separator))
    if width == 1:
        fix = "write a word and its tag on each line, separated by a blank or a tab"
        raise UserError(f"{where}:{first}", problem=f"there is only one column: {line.strip()[:60]!r}", fix=fix)
    sentences, begins = list[list[list[str]]](), list[int]()
    before, comments = -1, 0
    for number, line in words:
        cells, is_open = _cells(line, separator), before == number - 1
        if line.startswith(COMMENT) and not is_open and len(cells) != width:
            comments += 1
            continue
        if len(cells) != width:
            expected = f"{width} columns separated by {'tabs' if separator else 'blanks'}, as on line {first}"
            found, fix = f"{len(cells)}: {line.strip()[:60]!r}", "correct the line; an empty line ends a sentence"
            raise UserError(f"{where}:{number}", expected=expected, found=found, fix=fix)
        if not is_open:
            sentences.append([])
            begins.append(number)
        sentences[-1].append(cells)
        before = number
    if documents := len(numbered) - len(words):
        notice(where, f"{counted(documents, 'line')} with {DOCUMENT} left out")
    if comments:
        notice(where, f"{counted(comments, 'comment line')} ({COMMENT}) left out")
    indices = {TOKENS: 0, TAGS: width - 1} | {str(index + 1): index for index in range(width)}
    columns = {name: [[cells[index] for cells in one] for one in sentences] for name, index in indices.items()}
    return Sentences(columns, begins)


def _cells(line: str, separator: str | None) -> list[str]:
    if separator:
        return [cell.strip() for cell in line.strip("\r\n").split(separator)]
    return re.split(r"[ \t]+", line.strip(" \t\r\n"))  # a word may have a no-break space in it: 10 000
