"""Whether the models of a fine-tuning fit its task and each other: asked before the first one is trained."""

from dataclasses import dataclass
from pathlib import Path

from transformers import PretrainedConfig, PreTrainedTokenizerFast

from tinydistilbert.models.loading import check_length, load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.models.matching import uniform_matches
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.compatible import check_classes, check_same_tokenizer


@dataclass(frozen=True)
class Taught:
    """What a second distillation starts from."""

    config: PretrainedConfig
    tokenizer: PreTrainedTokenizerFast
    teacher: PretrainedConfig | None
    """Of the run's own teacher, if it has one."""


def check_models(recipe: Recipe, task: Task, taught: Taught | None) -> None:
    """Look at a given model and at given teachers, and at whether the layers can be compared that the recipe compares.

    Args:
        recipe: its section finetune is read.
        task: with its classes.
        taught: what learns from a teacher on this task, if anything does.

    Raises:
        UserError: a model lacks a head or has another, inputs are too long for a teacher, tokenizers differ where they
            must not, or layers or heads do not fit.
    """
    settings, given = recipe.finetune.settings(task.name).distillation, recipe.finetune.distillation.teachers
    if name := recipe.finetune.model:
        load_model(name, task.kind, labels=task.labels)
        if settings.augment and taught:
            load_model(name, "masked-lm")
    inner = bool(settings.hidden or settings.attention or settings.relation)
    for teacher in map(Path, given if isinstance(given, tuple) else ()):
        config = load_config(teacher)
        check_classes(teacher, config, task)
        where = f"max_length of {task.name}, which {teacher} reads too"
        check_length(where, recipe.finetune.max_length(task.name, task.max_length), longest_input(config))
        if taught and (inner or task.kind == "span"):
            check_same_tokenizer(teacher, load_tokenizer(teacher), taught.tokenizer)
        if taught and inner:
            uniform_matches(config, taught.config, settings)
    if taught and inner and taught.teacher is not None and not isinstance(given, tuple):
        uniform_matches(taught.teacher, taught.config, settings)
