"""The terms that compare layers of student and teacher, for pretraining and for tasks."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from tinydistilbert.losses import terms as losses
from tinydistilbert.models.capture import QueryKeyValue
from tinydistilbert.models.matching import Matches


class Inside(Protocol):
    """What was taken from inside a model."""

    @property
    def layers(self) -> Mapping[int, Tensor]:
        """Outputs of layers, (batch, length, hidden)."""
        ...

    @property
    def attention(self) -> Mapping[int, QueryKeyValue]:
        """Queries, keys and values of layers."""
        ...


INNER = frozenset({"relation", "attention", "hidden"})
"""Terms that look into the layers of both models."""


def attention_layers(wanted: Collection[str], layers: tuple[int, ...], related: tuple[int, ...]) -> tuple[int, ...]:
    """Layers of which queries, keys and values are needed: `layers` for attention, `related` for relation."""
    last = related if "relation" in wanted else ()
    return tuple(sorted({*last, *(layers if "attention" in wanted else ())}))


def layer_terms(
    wanted: Collection[str],
    student: Inside,
    teacher: Inside,
    matches: Matches,
    *,
    visible: Callable[[], Bool[Tensor, "batch length length"]],
    counted: Int[Tensor, " positions"],
    relation_heads: int,
    projection: Callable[[Tensor], Tensor],
) -> dict[str, Tensor]:
    """Those of the terms relation, attention and hidden that are `wanted`, each a mean over the micro-batch.

    Args:
        wanted: names of terms.
        student: what was taken from inside the student.
        teacher: the same of the teacher.
        matches: which layers are compared.
        visible: gives the pairs of positions of which the first attends to the second.
        counted: positions of the flattened batch that are no padding.
        relation_heads: heads that queries, keys and values are cut into; 0 = as many as the teacher has.
        projection: from the student's width to the teacher's.
    """
    terms: dict[str, Tensor] = {}
    pairs = list(zip(matches.student_layers, matches.teacher_layers, strict=True))
    if "relation" in wanted:
        ours, told = student.attention[matches.student_layers[-1]], teacher.attention[matches.relation_layer]
        heads, seen = relation_heads or told.query.shape[1], visible()
        kinds = ((ours.query, told.query), (ours.key, told.key), (ours.value, told.value))
        terms["relation"] = torch.stack([losses.relation(a, b, heads, seen) for a, b in kinds]).mean()
    if "attention" in wanted:
        seen = visible()
        scores = [losses.attention(student.attention[own], teacher.attention[other], seen) for own, other in pairs]
        terms["attention"] = torch.stack(scores).mean()
    if "hidden" in wanted:
        differences = [
            losses.hidden(
                projection(student.layers[own].flatten(0, 1)[counted]), teacher.layers[other].flatten(0, 1)[counted]
            )
            for own, other in pairs
        ]
        terms["hidden"] = torch.stack(differences).mean()
    return terms
