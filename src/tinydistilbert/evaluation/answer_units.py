"""The units that answers are compared by: the words of SQuAD's official rules, or characters in scripts without spaces.

The words of SQuAD (Rajpurkar et al. 2016) are separated by spaces, without ASCII punctuation and English articles. In a
script without spaces between words, F1 of these words is exact match. MLQA (Lewis et al. 2020) therefore counts every
Chinese character as one word, and splits other text at spaces, after the "mixed segmentation" of CMRC 2018 (Cui et al.
2019); DRCD and JaQuAD count characters too. `characters` applies MLQA's rule for Chinese to all such scripts.
"""

import re
import string
import unicodedata
from collections.abc import Callable, Iterable
from typing import Literal

Units = Literal["words", "characters"]

_WITHOUT_BLANKS = (
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x0F00, 0x109F),  # Tibetan, Myanmar
    (0x1780, 0x17FF),  # Khmer
    (0x3005, 0x3007), (0x3021, 0x3029), (0x3031, 0x30FF),  # marks of iteration, Hiragana, Katakana
    (0x3100, 0x312F), (0x31A0, 0x31FF), (0x3400, 0x4DBF), (0x4E00, 0x9FFF),  # Bopomofo, Katakana, Han
    (0xAA60, 0xAA7F), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),  # Myanmar, Han, Katakana, Han
)  # fmt: skip
"""Characters of scripts without spaces between words. Korean has spaces."""


def words(text: str) -> list[str]:
    """Return an answer's words as SQuAD's scripts compare them: lower case, without ASCII punctuation and articles."""
    plain = "".join(character for character in text.lower() if character not in string.punctuation)
    return re.sub(r"\b(a|an|the)\b", " ", plain).split()


def characters(text: str) -> list[str]:
    """Return each character (with its marks) of scripts without spaces, and the space-separated words of others.

    They are in lower case, without punctuation of any script; articles stay.
    """
    units: list[str] = []
    is_open = False  # whether the next character belongs to the last unit
    for sign in text.lower():
        category = unicodedata.category(sign)
        if category.startswith("P") or sign in string.punctuation:
            continue
        if sign.isspace():
            is_open = False
        elif category.startswith("M") and units:
            units[-1] += sign
        elif lacks_blanks(sign):
            units.append(sign)
            is_open = False
        elif is_open:
            units[-1] += sign
        else:
            units.append(sign)
            is_open = True
    return units


UNITS: dict[Units, Callable[[str], list[str]]] = {"words": words, "characters": characters}


def lacks_blanks(sign: str) -> bool:
    """Return whether a character belongs to a script without spaces between words."""
    return any(first <= ord(sign) <= last for first, last in _WITHOUT_BLANKS)


def without_blanks(answers: Iterable[str]) -> int:
    """Return how many of the answers have two or more characters of a script without spaces between words."""
    return sum(sum(map(lacks_blanks, answer)) > 1 for answer in answers)
