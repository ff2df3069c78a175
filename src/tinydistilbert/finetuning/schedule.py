"""Steps and learning rates of a fine-tuning: one phase, or the two stages of a second distillation."""

import math

from tinydistilbert.recipe import schema
from tinydistilbert.training.job import Phase


def finetune_steps(settings: schema.Finetune, features: int) -> int:
    """Return the steps of its epochs on `features` inputs (in span tasks: windows), at least `min_steps`."""
    return max(_steps(settings, settings.epochs, features), settings.min_steps)


def candidate_rates(settings: schema.Finetune, *, is_distilled: bool) -> tuple[float, ...]:
    """Return the learning rates from which one is chosen; a single one if `distillation` has its own rate."""
    has_rate = is_distilled and settings.distillation.learning_rate is not None
    return (() if has_rate else settings.learning_rates) or (settings.optimization.learning_rate,)


def intermediate_steps(settings: schema.Finetune, features: int) -> int:
    """Return the number of first steps of a second distillation in which only the terms on layers count.

    It is at least one if there are intermediate epochs, however few inputs these have.
    """
    batches = settings.distillation.intermediate_epochs * math.ceil(features / settings.optimization.batch_size)
    return max(round(batches / settings.optimization.gradient_accumulation_steps), min(math.ceil(batches), 1))


def distillation_phases(settings: schema.Finetune, features: int, originals: int = 0) -> tuple[Phase, ...]:
    """Return the phases of a second distillation: one, or two stages if the recipe says so.

    At least one step follows those in which only the terms on layers count: the head learns nothing from these.

    Args:
        settings: of the task.
        features: number of inputs.
        originals: if the second stage reads only the train examples, their number of inputs; 0 = it reads all inputs.
    """
    distillation, usual = settings.distillation, settings.optimization.learning_rate
    first = intermediate_steps(settings, features)
    steps = max(finetune_steps(settings, features), first + 1)
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
