"""Checks that the models of a fine-tuning fit its task and each other, before the first one is trained."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from tinydistilbert.models.loading import check_length, load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.models.matching import task_matches
from tinydistilbert.recipe.schema import Finetune
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.compatible import check_classes, check_same_tokenizer


@dataclass(frozen=True)
class DistilledStudent:
    """The student of a second distillation, before it is trained."""

    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    teacher: PretrainedConfig | None
    """Of the run's own teacher, if it has one."""
    copied_layers: tuple[int, ...] = ()
    """The teacher's layers that the student's are copied from, if known."""


def check_models(finetune: Finetune, task: Task, student: DistilledStudent | None) -> None:
    """Check a given model and given teachers, and that the layers which the recipe compares can be compared.

    Args:
        finetune: the settings of all tasks.
        task: with its classes.
        student: the model that learns from a teacher on this task, if any.

    Raises:
        UserError: a model has no head or another one, inputs are too long for a teacher, tokenizers differ where they
            must not, or layers or heads do not fit.
    """
    settings, given = finetune.settings(task.name).distillation, finetune.distillation.teachers
    if name := finetune.model:
        load_model(name, task.kind, labels=task.labels)
        if settings.augment and student:
            load_model(name, "masked-lm")
    inner = bool(settings.hidden or settings.attention or settings.relation)
    for teacher in map(Path, given if isinstance(given, tuple) else ()):
        config = load_config(teacher)
        check_classes(teacher, config, task, settings.teacher_labels)
        where = f"max_length of {task.name}, which {teacher} reads too"
        check_length(where, finetune.max_length(task.name, task.max_length), longest_input(config))
        if student and (inner or task.kind == "span"):
            check_same_tokenizer(teacher, load_tokenizer(teacher), student.tokenizer)
        if student and inner:
            task_matches(config, student.config, settings, student.copied_layers)
    if student and inner and student.teacher is not None and not isinstance(given, tuple):
        task_matches(student.teacher, student.config, settings, student.copied_layers)
