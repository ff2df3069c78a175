"""The outputs of a model as the classes of a task, matched by their names.

Names that differ only in case, spaces, dashes or underscores are equal, and `1.0` equals `1`. `LABEL_2`, or `2`, does
not count as a name: configs have it if nobody named the outputs, and it stands for the class of that number.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

_NUMBERED = re.compile(r"(?:(?:label|class)[ _-]?)?(\d+)", re.IGNORECASE)
_WHOLE_WITH_POINT = re.compile(r"([+-]?[0-9]+)\.0+")
_SEPARATORS = re.compile(r"[\s_-]+")


@dataclass(frozen=True)
class ClassMatch:
    """How the outputs of a model map to classes."""

    order: tuple[int, ...]
    """For each class, the number of the model's output."""
    by: str
    """`name`, `spelling` (the names differ in case or separators), or `number` (the outputs have no names)."""

    @property
    def is_in_order(self) -> bool:
        """Whether output 0 is class 0, and so on."""
        return self.order == tuple(range(len(self.order)))


def match_classes(outputs: Sequence[str], classes: Sequence[str]) -> ClassMatch | None:
    """Return the output for each of `classes`; None if the match is not certain.

    Args:
        outputs: names of a model's outputs, in their order.
        classes: names of the classes to match.
    """
    ways = [("name", [*outputs], [*classes]), ("spelling", [*map(_folded, outputs)], [*map(_folded, classes)])]
    if not set(outputs) & set(classes):  # outputs 0, 1, 2 for classes 1, 2, 3 are ambiguous
        ways.append(("number", _numbers(outputs), [str(number) for number in range(len(classes))]))
    for by, of_outputs, of_classes in ways:
        if sorted(of_outputs) == sorted(of_classes) and len(set(of_classes)) == len(of_classes):
            return ClassMatch(tuple(of_outputs.index(name) for name in of_classes), by)
    return None


def _folded(name: str) -> str:
    whole = _WHOLE_WITH_POINT.fullmatch(name.strip())
    return whole[1] if whole else _SEPARATORS.sub(" ", name.casefold()).strip()


def _numbers(names: Sequence[str]) -> list[str]:
    matches = [_NUMBERED.fullmatch(name.strip()) for name in names]
    return [str(int(match[1])) if match else "" for match in matches]


def are_unnamed(outputs: Sequence[str]) -> bool:
    """Return whether the outputs are only called `LABEL_0`, `LABEL_1` …, or by numbers from 0 on."""
    return sorted(_numbers(outputs)) == sorted(str(number) for number in range(len(outputs)))
