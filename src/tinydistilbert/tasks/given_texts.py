"""Texts as they are given to `predict`: one or many, with their pairs."""

from collections.abc import Iterable, Mapping
from typing import Any

from tinydistilbert.errors import UserError


def as_list(where: str, texts: Any) -> list[Any]:
    """Return one text or many as a list; its items are not checked.

    Raises:
        UserError: it is neither, or it is a table or a dictionary, of which Python lists the names of the columns.
    """
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping) or hasattr(texts, "columns"):
        fix = "give a text, or a list or a column of texts"
        raise UserError(where, expected="a text or several", found=f"a {type(texts).__name__}", fix=fix)
    return [*texts]


def listed(texts: Any, pairs: Any) -> tuple[list[str], list[str] | None]:
    """Return texts and pairs as lists.

    Raises:
        UserError: one of the two is no list of texts, the numbers of pairs and texts differ, or one is no text.
    """
    texts = as_list("texts", texts)
    check_texts("texts", texts)
    pairs = None if pairs is None else as_list("pairs", pairs)
    if pairs is not None and len(pairs) != len(texts):
        problem = f"there are {len(texts)} texts and {len(pairs)} pairs"
        raise UserError("pairs", problem=problem, fix="give one pair for each text")
    check_texts("pairs", pairs or ())
    return texts, pairs


def check_texts(where: str, texts: Any, *, or_words: bool = False) -> None:
    """Refuse what is no text, such as the NaN of an empty cell; with `or_words`, lists of words count as texts.

    Raises:
        UserError: one is no text.
    """
    for number, text in enumerate(texts):
        if or_words and hasattr(text, "__len__") and not isinstance(text, str):
            check_texts(f"{where}[{number}]", text)
        elif not isinstance(text, str) or not (text.isascii() or text.encode("utf-8", "ignore").decode() == text):
            raise UserError(f"{where}[{number}]", expected="a text", found=ascii(text)[:40], fix="correct it")
