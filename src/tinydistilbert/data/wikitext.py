"""WikiText: splits its lines into articles, and turns its spaced tokens back into text.

Both variants (Merity et al. 2017) are split into tokens by spaces and write hyphens and the marks in numbers as
` @-@ `, ` @,@ ` and ` @.@ `; the word-level one also has `<unk>` for rare words, which stays in the text for the
tokenizer. A text that is not split into tokens is not changed.
"""

import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Sequence

UNKNOWN = "<unk>"

_TITLE = re.compile(r" ?= [^=].* = ?")
_SECTION = re.compile(r" ?(?:= ){2,}[^=].*(?: =){2,} ?")
_SPACED_MARK = re.compile(r" [,.](?= |$)")
_ATTACHED_MARK = re.compile(r"\w[,.](?= |$)")

_CLOSING = frozenset(",.;:!?%)]}”’")
_OPENING = frozenset("([{“\u2018$£€¥₹")
_JOINING = {"@-@": "-", "@,@": ",", "@.@": ".", "/": "/"}
_ENDINGS = frozenset({"s", "t", "re", "m", "ve", "ll", "d"})


def is_wikitext(lines: Sequence[str]) -> bool:
    """Whether one of these lines is an article title such as ` = Title = `."""
    return any(title for title, _ in _marked(lines))


def is_tokenized(lines: Iterable[str]) -> bool:
    """Whether most commas and full stops in these lines have spaces on both sides."""
    text = " ".join(lines)
    return len(_SPACED_MARK.findall(text)) > len(_ATTACHED_MARK.findall(text))


def _marked(lines: Iterable[str]) -> Iterator[tuple[bool, str]]:
    """Yield each line and whether it is a title; table lines have the same pattern, but no blank lines around them."""
    before, line = "", None
    for after in itertools.chain(lines, [""]):
        if line is not None:
            yield bool(_TITLE.fullmatch(line)) and not before.strip() and not after.strip(), line
            before = line
        line = after


def articles(lines: Iterable[str], *, tokenized: bool, on_heading: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Yield the text of each article, one paragraph per line; drop titles, section headings and blank lines.

    Args:
        lines: lines of a WikiText file, without their line breaks.
        tokenized: whether the lines are spaced tokens to turn back into text.
        on_heading: called for each title and section heading.
    """
    paragraphs: list[str] = []
    for is_title, line in _marked(lines):
        if is_title and paragraphs:
            yield "\n".join(paragraphs)
            paragraphs = []
        if is_title or _SECTION.fullmatch(line):
            on_heading()
        elif line.strip():
            paragraphs.append(detokenize(line) if tokenized else line.strip())
    if paragraphs:
        yield "\n".join(paragraphs)


def _is_number(token: str) -> bool:
    return token[:1].isdigit()


def _is_elision(tokens: Sequence[str], index: int) -> bool:
    """Whether the `'` at `index`, outside a quotation, belongs to the word before it: the boys ' club."""
    word = tokens[index - 1] if index else ""
    if word.endswith(("s", "z")) or (word.endswith("in") and len(word) > 4):
        return True
    return word[-1:].isalnum() and "'" not in tokens[index + 1 :]


def detokenize(line: str) -> str:
    """Return a line of WikiText with the spaces of normal text.

    Straight quotation marks open and close alternately within a line. In the few ambiguous cases (an apostrophe at the
    end of a word beside single quotation marks) the preceding word decides.
    """
    tokens = line.split()
    pieces: list[str] = []
    joined = True  # whether the next token follows without a space
    open_marks: set[str] = set()
    for index, token in enumerate(tokens):
        before = tokens[index - 1] if index else ""
        after = tokens[index + 1] if index + 1 < len(tokens) else ""
        to_left, to_right = token in _CLOSING, token in _OPENING
        if token in _JOINING:
            token, to_left, to_right = _JOINING[token], True, True
        elif token in ("–", ":") and _is_number(before) and _is_number(after):
            to_left = to_right = True
        elif token == "#":
            to_right = _is_number(after)
        elif token == "’" and after in _ENDINGS:
            to_right = True
        elif token in ('"', "'"):
            to_left = token in open_marks or (token == "'" and _is_elision(tokens, index))
            to_right = not to_left
            if to_right:
                open_marks.add(token)
            else:
                open_marks.discard(token)
        elif token.startswith("'"):
            to_left = True
        if not (joined or to_left):
            pieces.append(" ")
        pieces.append(token)
        joined = to_right
    return "".join(pieces)
