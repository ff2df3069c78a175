"""How long a fine-tuning takes, and its learning rates: one phase, or the two stages of a second distillation."""

import math

from tinydistilbert.recipe import schema
from tinydistilbert.training.job import Phase


def finetune_steps(settings: schema.Finetune, features: int) -> int:
    """Optimiser steps of a fine-tuning on `features` inputs (in span tasks: windows): its epochs, and `min_steps`."""
    return max(_steps(settings, settings.epochs, features), settings.min_steps)


def intermediate_steps(settings: schema.Finetune, features: int) -> int:
    """The first steps of a second distillation on so many inputs, in which only the terms on layers count."""
    batches = settings.distillation.intermediate_epochs * math.ceil(features / settings.optimization.batch_size)
    return round(batches / settings.optimization.gradient_accumulation_steps)


def distillation_phases(settings: schema.Finetune, features: int, originals: int = 0) -> tuple[Phase, ...]:
    """The phases of a second distillation on so many inputs: one, or where the recipe says so, its two stages.

    Args:
        settings: of the task.
        features: inputs.
        originals: where the second stage reads the train examples alone, how many inputs they are; 0 = it reads all.
    """
    distillation, usual = settings.distillation, settings.optimization.learning_rate
    steps, first = finetune_steps(settings, features), intermediate_steps(settings, features)
    if not (distillation.has_stages or originals):
        return (Phase(steps, usual),)
    if distillation.epochs is None and not originals:
        last = Phase(steps - first, distillation.learning_rate or usual)
    else:
        epochs = distillation.epochs or settings.epochs - distillation.intermediate_epochs
        last = Phase(_steps(settings, epochs, originals or features), distillation.learning_rate or usual)
    if not first:
        return (last,)
    return Phase(first, distillation.intermediate_learning_rate or usual), last


def _steps(settings: schema.Finetune, epochs: float, features: int) -> int:
    batches = math.ceil(features / settings.optimization.batch_size)
    return math.ceil(epochs * batches / settings.optimization.gradient_accumulation_steps)
