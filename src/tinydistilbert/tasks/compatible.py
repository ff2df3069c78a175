"""Whether a model fits a task or another model: its tokens and its classes."""

from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from tinydistilbert.data.corpus import tokenizer_hash
from tinydistilbert.errors import UserError
from tinydistilbert.models.task_head import refuse_multi_label
from tinydistilbert.notices import notice
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.classes import class_positions


def check_same_tokenizer(
    teacher: Path, teacher_tokenizer: PreTrainedTokenizerFast, student_tokenizer: PreTrainedTokenizerFast
) -> None:
    """Refuse a teacher whose tokenizer is not the student's.

    Raises:
        UserError: it is not.
    """
    if tokenizer_hash(teacher_tokenizer) != tokenizer_hash(student_tokenizer):
        fix = "fine-tune a teacher that shares the student's tokenizer"
        raise UserError(str(teacher), problem="its tokenizer is not the student's", fix=fix)


def check_classes(teacher: Path, config: Any, task: Task) -> list[int] | None:
    """For each of the task's classes the teacher's output; None where the two are in one order.

    Raises:
        UserError: the teacher has other classes, or another number of outputs, or gives several classes at once.
    """
    fix = "give a teacher fine-tuned on this task"
    if task.kind == "classification":
        refuse_multi_label(str(teacher), config)
    outputs = {"classification": len(task.labels), "regression": 1, "span": 2}[task.kind]
    if config.num_labels != outputs:
        found = f"{config.num_labels} outputs"
        raise UserError(str(teacher), expected=f"a {task.kind} model of {outputs}", found=found, fix=fix)
    names = [str(config.id2label[index]) for index in range(outputs)]
    if task.kind != "classification" or names == list(task.labels) or all(n.startswith("LABEL_") for n in names):
        return None
    positions = class_positions(task.labels, names)
    if sorted(positions.values()) != list(range(outputs)):
        expected = f"the classes {', '.join(task.labels)}"
        raise UserError(str(teacher), expected=expected, found=", ".join(names), fix=fix)
    for label, position in positions.items():
        if names[position] != label:
            notice(str(teacher), f"its class {names[position]!r} is taken for {label!r} of {task.title}")
    return [positions[label] for label in task.labels]
