"""Scores of each entity type, as in seqeval's report."""

from collections import Counter
from collections.abc import Sequence

from tinydistilbert.tasks.entities import entities_of


def scores_by_type(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, dict[str, float]]:
    """Return `precision`, `recall`, `f1` and the number of `entities` of each type, in alphabetical order.

    Args:
        gold: the tags of each text's words.
        predicted: the predicted tags.
    """
    right, guessed, given = Counter[str](), Counter[str](), Counter[str]()
    for tags, others in zip(gold, predicted, strict=True):
        one, other = {*entities_of(tags)}, {*entities_of(others)}
        for count, entities in ((right, one & other), (guessed, other), (given, one)):
            count.update(kind for kind, _, _ in entities)
    return {
        kind: {
            "precision": right[kind] / guessed[kind] if guessed[kind] else 0.0,
            "recall": right[kind] / given[kind] if given[kind] else 0.0,
            "f1": 2 * right[kind] / (guessed[kind] + given[kind]), "entities": given[kind],
        }
        for kind in sorted({*guessed, *given})
    }  # fmt: skip
