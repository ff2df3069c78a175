"""The layers of teacher and student that the terms on hidden states and attention compare."""

from collections.abc import Collection
from dataclasses import dataclass

from transformers import PretrainedConfig

from tinydistilbert.errors import UserError
from tinydistilbert.models.pruned import is_pruned
from tinydistilbert.models.student import layer_map, uniform_layers
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.objective import TERMS, Needs, Objective


@dataclass(frozen=True)
class Matches:
    """Layers that are compared, all counted from 0."""

    student_layers: tuple[int, ...] = ()
    """Every layer of the student, lowest first."""
    teacher_layers: tuple[int, ...] = ()
    """A layer of the teacher for each of them."""
    relation_layer: int = 0
    """The teacher's layer whose relations the student's last layer learns."""


def match_layers(
    objective: Objective, cut: schema.Student, teacher: PretrainedConfig, student: PretrainedConfig
) -> Matches:
    """Return the layers that the objective compares, after checking them.

    Args:
        objective: its terms, `matched_layers`, `relation_layer` and `relation_heads` are read.
        cut: has the teacher's layers that the student's are copied from.
        teacher: the teacher's config.
        student: the config of the student that was cut from it.

    Raises:
        UserError: a layer does not exist, a list does not have one layer for each of the student's, or the numbers of
            heads do not fit.
    """
    depth = teacher.num_hidden_layers
    copied = layer_map(cut, depth)
    size = len(copied)
    if objective.matched_layers == "uniform":
        matched = uniform_layers(size, depth)
    else:
        matched = copied if objective.matched_layers == "copied" else objective.matched_layers
    if len(matched) != size or any(layer >= depth for layer in matched):
        expected = f"{size} layers among 0 to {depth - 1}, one for each layer of the student"
        raise UserError("objective.matched_layers", expected=expected, found=str(list(matched)), fix="change the list")
    if not -depth <= objective.relation_layer < depth:
        expected, found = f"a layer of the teacher, 0 to {depth - 1} or -{depth} to -1", str(objective.relation_layer)
        raise UserError("objective.relation_layer", expected=expected, found=found, fix="change it")
    _check_heads(objective.terms, objective.relation_heads, teacher, student)
    return Matches(tuple(range(size)), matched, objective.relation_layer % depth)


def task_matches(
    teacher: PretrainedConfig, student: PretrainedConfig, distillation: schema.TaskDistillation,
    copied: tuple[int, ...] = (),
) -> Matches:  # fmt: skip
    """Return the layers that a second distillation compares; relations compare the last ones.

    Args:
        teacher: the config of the task's teacher.
        student: the config of the student.
        distillation: the weights of its terms, and `matched_layers`.
        copied: the teacher's layers that the student's were copied from; used if `matched_layers` is "copied".

    Raises:
        UserError: the student is deeper than its teacher, the numbers of heads do not fit, or the student was copied
            from layers that this teacher does not have.
    """
    size, depth = student.num_hidden_layers, teacher.num_hidden_layers
    if size > depth:
        expected, fix = f"a student of at most the teacher's {depth} layers", "set hidden, attention and relation to 0"
        raise UserError("finetune.distillation", expected=expected, found=str(size), fix=fix)
    _check_heads(distillation.inner_terms, 0, teacher, student)
    matched = copied if distillation.matched_layers == "copied" and copied else uniform_layers(size, depth)
    if len(matched) != size or max(matched) >= depth:
        expected = f"{size} of the teacher's {depth} layers, which the student was cut from"
        fix = 'set finetune.distillation.matched_layers = "uniform"'
        raise UserError("finetune.distillation.matched_layers", expected=expected, found=str(list(matched)), fix=fix)
    return Matches(tuple(range(size)), matched, depth - 1)


def _check_heads(
    terms: Collection[str], relation_heads: int, teacher: PretrainedConfig, student: PretrainedConfig
) -> None:
    """Refuse numbers of heads that do not suit those `terms` that read attention."""
    of_attention = [name for name in terms if TERMS[name].needs is Needs.ATTENTION]
    of_relation = [name for name in terms if TERMS[name].needs is Needs.RELATION]
    if (of_attention or of_relation) and (is_pruned(teacher) or is_pruned(student)):
        names = " and ".join(name for name, term in TERMS.items() if term.needs in (Needs.RELATION, Needs.ATTENTION))
        expected, fix = "teacher and student with all their heads", f"leave {names} at 0"
        raise UserError(names, expected=expected, found="a pruned model", fix=fix)
    if of_relation:
        heads = relation_heads or teacher.num_attention_heads
        for name, width in (("teacher", teacher.hidden_size), ("student", student.hidden_size)):
            if width % heads:
                expected = f"a number that divides the {name}'s width of {width}"
                fix = "set another objective.relation_heads"
                raise UserError("objective.relation_heads", expected=expected, found=str(heads), fix=fix)
    if of_attention and teacher.num_attention_heads != student.num_attention_heads:
        expected = f"a student with the teacher's {teacher.num_attention_heads} attention heads"
        fix = "use objective.relation, which does not need that"
        raise UserError(
            f"objective.{of_attention[0]}", expected=expected, found=str(student.num_attention_heads), fix=fix
        )
