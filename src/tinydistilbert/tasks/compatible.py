"""Whether a model's tokens and classes fit a task or another model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tinydistilbert.data.corpus import tokenizer_hash
from tinydistilbert.errors import UserError
from tinydistilbert.models.class_names import match_classes
from tinydistilbert.models.task_head import is_multi_label, is_token_head, listed, output_names
from tinydistilbert.notices import notice
from tinydistilbert.tasks.base import Task


def check_same_tokenizer(
    teacher: Path, teacher_tokenizer: PreTrainedTokenizerFast, student_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Refuse a teacher whose tokenizer differs from the student's.

    Raises:
        UserError: it differs.
    """
    if tokenizer_hash(teacher_tokenizer) != tokenizer_hash(student_tokenizer):
        fix = "fine-tune a teacher that shares the student's tokenizer"
        raise UserError(str(teacher), problem="its tokenizer differs from the student's", fix=fix)


def check_classes(teacher: Path, config: Any, task: Task, labels: Sequence[str] = ()) -> list[int] | None:
    """Return the teacher's output for each of the task's classes; None if both have the same order.

    A notice says how outputs are read whose names differ from the task's classes.

    Args:
        teacher: folder of the model.
        config: of that model.
        task: the task with its classes.
        labels: the class of each of the teacher's outputs, if the user gave them.

    Raises:
        UserError: the teacher has other classes or another number of outputs, predicts several classes per text where
            the task has one or vice versa, or tags words where the task does not.
    """
    fix = "give a teacher fine-tuned on this task"
    several = task.kind == "multi-label"
    if is_token_head(config) != (task.kind == "token-classification"):
        kinds = ("a model of whole texts", "a model that tags words")
        expected, found = kinds[task.kind == "token-classification"], kinds[is_token_head(config)]
        raise UserError(str(teacher), expected=expected, found=found, fix=fix)
    if task.has_classes and several != is_multi_label(config):
        kinds = ("a model of one class for a text", "a model of several labels at once")
        raise UserError(str(teacher), expected=kinds[several], found=kinds[not several], fix=fix)
    outputs = {"regression": 1, "span": 2}.get(task.kind, len(task.labels))
    if config.num_labels != outputs:
        found = f"{config.num_labels} outputs"
        raise UserError(str(teacher), expected=f"a {task.kind} model of {outputs}", found=found, fix=fix)
    if not task.has_classes:
        return None
    names, expected = output_names(config), f"the classes {listed(task.labels)}"
    match = match_classes(labels or names, task.labels)
    if match is None and labels:
        where, fix = (
            "finetune.distillation.teacher_labels",
            "name each class once, in the order of the teacher's outputs",
        )
        raise UserError(where, expected=expected, found=listed(labels), fix=fix)
    if match is None:
        fix += ", or name what its outputs stand for: --teacher-labels, with these classes in the order of the outputs"
        raise UserError(str(teacher), expected=expected, found=listed(names), fix=fix)
    of_outputs = [task.labels[match.order.index(output)] for output in range(outputs)]
    if of_outputs != names:
        how = "; --teacher-labels sets another order" if match.by == "number" else ""
        notice(str(teacher), f"its outputs {listed(names)} are read as {listed(of_outputs)} of {task.title}{how}")
    return None if match.is_in_order else [*match.order]
