"""Entities and the tags that mark them: what counts as one, as conlleval and seqeval have it, and other spellings.

A tag is `O` for a word outside of all entities, or a prefix and a type: `B-LOC` begins an entity, `I-LOC` goes on with
it (IOB2). IOB1 writes `B-` only between two entities of one type that touch; BILOU and BIOES also mark last words and
entities of one word. One reading serves all of them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OUTSIDE = "O"
NO_ENTITIES = "(no entity)"
"""What a reader sees of a text without one."""
Entity = tuple[str, int, int]
"""Its type, its first word and its last."""

_TAG = re.compile(r"O|[BILUESMW]-\S.*")
_BEGINS, _ENDS = "BSUW", "ELSUW"
"""Prefixes of words that always begin an entity, and of words that always end one."""
_SCHEMES = (("LU", "BILOU"), ("ES", "BIOES"), ("MW", "BMEWO"))
"""Prefixes that only one way of writing has, and its name."""


def is_tag(text: str) -> bool:
    """Whether a text is a tag of IOB or of a scheme with marks for last and single words."""
    return _TAG.fullmatch(text) is not None


def type_of(tag: str) -> str:
    """The type of a tag: `LOC` of `B-LOC`; empty of `O`."""
    return tag[2:]


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """The entities that tags mark, by the rules of conlleval and of seqeval's default mode.

    A tag begins an entity if its prefix says so, if the word before is outside, ends one, or is of another type. So
    `I-LOC` behind `O` begins one too, and no tag is without effect.
    """
    found: list[Entity] = []
    before = OUTSIDE
    for word, tag in enumerate(tags):
        if tag != OUTSIDE:
            is_new = before == OUTSIDE or tag[0] in _BEGINS or before[0] in _ENDS or type_of(tag) != type_of(before)
            found.append((type_of(tag), word, word) if is_new else (type_of(tag), found.pop()[1], word))
        before = tag
    return found


def tags_of(entities: Iterable[Entity], words: int) -> list[str]:
    """The IOB2 tags of so many words."""
    tags = [OUTSIDE] * words
    for kind, first, last in entities:
        tags[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
    return tags


def tag_names(types: Iterable[str]) -> tuple[str, ...]:
    """All tags of some types of entities, in the order of a model's outputs."""
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


def types_of(labels: Sequence[str]) -> tuple[str, ...]:
    """The types of entities that tags are of, in their order."""
    return tuple(dict.fromkeys(type_of(tag) for tag in labels if tag != OUTSIDE))


@dataclass(frozen=True)
class Iob2:
    """Tags of texts as IOB2, and how they were written."""

    tags: list[list[str]]
    changed: int
    """Tags that were written otherwise."""
    scheme: str
    """How, where some were: `IOB1`, `BILOU` …"""


def as_iob2(written: Sequence[Sequence[str]]) -> Iob2:
    """Tags in any of the known schemes as IOB2."""
    tags = [tags_of(entities_of(of_text), len(of_text)) for of_text in written]
    changed = sum(
        old != new for one, other in zip(written, tags, strict=True) for old, new in zip(one, other, strict=True)
    )
    prefixes = {tag[0] for of_text in written for tag in of_text}
    scheme = next((name for marks, name in _SCHEMES if prefixes & {*marks}), "IOB1")
    return Iob2(tags, changed, scheme)


def counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """How many entities of a text are predicted rightly (type, first, last word), are predicted, and are there."""
    right, guessed = {*entities_of(gold)}, {*entities_of(predicted)}
    return len(right & guessed), len(guessed), len(right)
