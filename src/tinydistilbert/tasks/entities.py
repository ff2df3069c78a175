"""Entities and the tags that mark them: what counts as one, as in conlleval and seqeval, and other tag schemes.

A tag is `O` for a word outside all entities, or a prefix and a type: `B-LOC` begins an entity, `I-LOC` continues it
(IOB2). IOB1 writes `B-` only between two adjacent entities of one type; BILOU and BIOES also mark last words and
single-word entities. One reader handles all of them.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

OUTSIDE = "O"
NO_ENTITIES = "(no entity)"
"""How reports show a text without an entity."""
Entity = tuple[str, int, int]
"""Type, first word and last word of an entity."""

_TAG = re.compile(r"O|[BILUESMW]-\S.*")
_BEGINS, _ENDS = "BSUW", "ELSUW"
"""Prefixes of words that always begin an entity, and of words that always end one."""
_SCHEMES = (("LU", "BILOU"), ("ES", "BIOES"), ("MW", "BMEWO"))
"""Prefixes that occur in only one scheme, and its name."""


def is_tag(text: str) -> bool:
    """Whether a text is a tag of IOB or of a scheme that marks last and single words."""
    return _TAG.fullmatch(text) is not None


def type_of(tag: str) -> str:
    """Return the type of a tag: `LOC` for `B-LOC`, empty for `O`."""
    return tag[2:]


def entities_of(tags: Sequence[str]) -> list[Entity]:
    """Return the entities that tags mark, by the rules of conlleval and of seqeval's default mode.

    A tag begins an entity if its prefix says so, or if the previous word is outside, ends an entity, or has another
    type. So `I-LOC` after `O` begins one too, and every tag has an effect.
    """
    entities: list[Entity] = []
    before = OUTSIDE
    for word, tag in enumerate(tags):
        if tag != OUTSIDE:
            is_new = before == OUTSIDE or tag[0] in _BEGINS or before[0] in _ENDS or type_of(tag) != type_of(before)
            entities.append((type_of(tag), word, word) if is_new else (type_of(tag), entities.pop()[1], word))
        before = tag
    return entities


def tags_of(entities: Iterable[Entity], words: int) -> list[str]:
    """Return the IOB2 tags of `words` words."""
    tags = [OUTSIDE] * words
    for kind, first, last in entities:
        tags[first : last + 1] = [f"B-{kind}", *[f"I-{kind}"] * (last - first)]
    return tags


def tag_names(types: Iterable[str]) -> tuple[str, ...]:
    """Return all tags of some entity types, in the order of a model's outputs."""
    return (OUTSIDE, *(f"{prefix}-{kind}" for kind in types for prefix in "BI"))


def types_of(labels: Sequence[str]) -> tuple[str, ...]:
    """Return the entity types of tags, in order."""
    return tuple(dict.fromkeys(type_of(tag) for tag in labels if tag != OUTSIDE))


@dataclass(frozen=True)
class Iob2:
    """Tags of texts as IOB2, and their original scheme."""

    tags: list[list[str]]
    changed: int
    """Number of tags that were written differently."""
    scheme: str
    """Their scheme, if there were any: `IOB1`, `BILOU` …"""


def as_iob2(written: Sequence[Sequence[str]]) -> Iob2:
    """Convert tags in any of the known schemes to IOB2."""
    tags = [tags_of(entities_of(of_text), len(of_text)) for of_text in written]
    changed = sum(
        old != new for one, other in zip(written, tags, strict=True) for old, new in zip(one, other, strict=True)
    )
    prefixes = {tag[0] for of_text in written for tag in of_text}
    scheme = next((name for marks, name in _SCHEMES if prefixes & {*marks}), "IOB1")
    return Iob2(tags, changed, scheme)


def counts(gold: Sequence[str], predicted: Sequence[str]) -> tuple[int, int, int]:
    """Return how many entities of a text are predicted correctly (type, first and last word), predicted, and gold."""
    right, guessed = {*entities_of(gold)}, {*entities_of(predicted)}
    return len(right & guessed), len(guessed), len(right)
