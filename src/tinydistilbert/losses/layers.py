"""The loss terms that compare layers of student and teacher, for pretraining and for tasks."""

from collections.abc import Callable, Collection, Iterable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from tinydistilbert.losses.terms import FUNCTIONS
from tinydistilbert.models.capture import LayerOutputs
from tinydistilbert.models.matching import Matches
from tinydistilbert.recipe.objective import TERMS, Needs


def layers_of_student(names: Iterable[str], matches: Matches) -> dict[str, tuple[int, ...]]:
    """Return the student's layers that these terms need, as the arguments `layers` and `attention` of `capturing`."""
    return _layers(names, matches.student_layers, matches.student_layers[-1:])


def layers_of_teacher(names: Iterable[str], matches: Matches) -> dict[str, tuple[int, ...]]:
    """Return the same as `layers_of_student` for the teacher."""
    return _layers(names, matches.teacher_layers, (matches.relation_layer,))


def _layers(names: Iterable[str], matched: tuple[int, ...], related: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    needs = {TERMS[name].needs for name in names}
    attention = {*(matched if Needs.ATTENTION in needs else ()), *(related if Needs.RELATION in needs else ())}
    return {"layers": matched if Needs.HIDDEN_STATES in needs else (), "attention": tuple(sorted(attention))}


def layer_terms(
    names: Collection[str],
    student: LayerOutputs,
    teacher: LayerOutputs,
    matches: Matches,
    *,
    visible: Callable[[], Bool[Tensor, "batch length length"]],
    counted: Int[Tensor, " positions"],
    relation_heads: int,
    projection: Callable[[Tensor], Tensor],
) -> dict[str, Float[Tensor, ""]]:
    """Return those terms among `names` that compare layers, each a mean over the micro-batch.

    Args:
        names: of terms.
        student: what was captured inside the student.
        teacher: what was captured inside the teacher.
        matches: which layers are compared.
        visible: returns the pairs of positions in which the first attends to the second; called only if a term reads
            them.
        counted: positions of the flattened batch that are not padding.
        relation_heads: parts that queries, keys and values are cut into; 0 = as many as the teacher has heads.
        projection: from the student's width to the teacher's.
    """
    layer_pairs = list(zip(matches.student_layers, matches.teacher_layers, strict=True))

    def values(name: str) -> list[Tensor]:
        """Return the term for each pair of matched layers, or for queries, keys and values."""
        function, needs = FUNCTIONS[name], TERMS[name].needs
        if needs is Needs.HIDDEN_STATES:
            return [
                function(
                    projection(student.hidden_states[student_layer].flatten(0, 1).index_select(0, counted)),
                    teacher.hidden_states[teacher_layer].flatten(0, 1).index_select(0, counted),
                )
                for student_layer, teacher_layer in layer_pairs
            ]
        pairs = visible()
        if needs is Needs.ATTENTION:
            return [
                function(student.attention[student_layer], teacher.attention[teacher_layer], pairs)
                for student_layer, teacher_layer in layer_pairs
            ]
        assert needs is Needs.RELATION
        of_student = student.attention[matches.student_layers[-1]]
        of_teacher = teacher.attention[matches.relation_layer]
        heads = relation_heads or of_teacher.query.shape[1]
        return [
            function(student_vectors, teacher_vectors, heads, pairs)
            for student_vectors, teacher_vectors in (
                (of_student.query, of_teacher.query),
                (of_student.key, of_teacher.key),
                (of_student.value, of_teacher.value),
            )
        ]

    inner = [name for name, term in TERMS.items() if term.is_inner and name in names]
    return {name: torch.stack(values(name)).mean() for name in inner}
