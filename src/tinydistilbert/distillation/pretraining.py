"""What `adapt` and `distill` share: training on masked token blocks, and validation losses on held-out blocks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from transformers import PreTrainedModel

from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masked_batches import Attention, MaskedBatches, useful_tokens, validation_batches
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.teacher_shards import is_in_shards
from tinydistilbert.losses import terms
from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.heads import hidden_states, vocabulary_logits
from tinydistilbert.models.loading import set_dropout
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe import schema
from tinydistilbert.results import Measurement, Origin
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import MicroBatches, TrainingJob, step_seed
from tinydistilbert.training.loop import train
from tinydistilbert.training.precision import Precision, frozen, multiplying


@dataclass(frozen=True)
class PretrainingSetup:
    """What every training on token blocks shares: the text, its masks, its validation, and where to compute."""

    blocks: TokenBlocks
    attention: Attention
    """Across a whole block, or within a document."""
    masking: schema.Masking
    validation: schema.Validation
    seed: int
    compute: Compute
    sharding: schema.Sharding
    """How several processes hold the teacher."""

    @classmethod
    def of(cls, recipe: schema.Recipe, blocks: TokenBlocks, where: torch.device | Compute) -> Self:
        """Return the setup of a recipe on a prepared text; `where` is a device, or a device with its precision."""
        compute = where if isinstance(where, Compute) else Compute.of(recipe, where)
        return cls(
            blocks,
            recipe.corpus.attention,
            recipe.masking,
            recipe.validation,
            recipe.seed,
            compute,
            recipe.teacher.sharding,
        )

    def batches(self, objective: schema.Objective, optimization: schema.Optimization, *, steps: int) -> MaskedBatches:
        """Return the micro-batches of a training of so many steps."""
        return MaskedBatches(
            self.blocks, self.attention, self.masking, objective, optimization, seed=self.seed, steps=steps
        )


def validation_losses(
    model: PreTrainedModel, teacher: PreTrainedModel | None, setup: PretrainingSetup, *, precision: Precision
) -> dict[str, float]:
    """Return a model's losses on held-out text, independent of its objective: always the same 15 % of it are masked.

    Several processes share the batches, and all of them get the same means.

    Args:
        model: the model to measure.
        teacher: the model to compare it with.
        setup: the text, and where to compute.
        precision: of both models' matrix products; losses that are reported are computed in fp32.

    Returns:
        `mlm` (cross-entropy in nats), `perplexity` (its exponential), and with a teacher `kl` (teacher ‖ model in nats,
        at temperature 1) and, if both have the same width, `cosine` (1 - cos of the last hidden states, over all
        tokens): means over the positions.
    """
    sums = {"mlm": 0.0, "kl": 0.0, "cosine": 0.0}
    masked = counted = 0.0
    is_as_wide = teacher is not None and teacher.config.hidden_size == model.config.hidden_size
    ranks, number = setup.compute.ranks, 0
    batches = validation_batches(setup.blocks, setup.validation.blocks, attention=setup.attention)
    with torch.inference_mode(), multiplying(setup.compute.device, precision):
        for number, cpu_batch in enumerate(batches, 1):
            if (number - 1) % ranks.world != ranks.rank:
                continue
            batch = {name: value.to(setup.compute.device) for name, value in cpu_batch.items()}
            mask, masked_count = batch.get("attention_mask"), len(batch["masked"])
            hidden = hidden_states(model, batch["input_ids"], mask).flatten(0, 1)
            logits = vocabulary_logits(model, hidden[batch["masked"]])
            sums["mlm"] += float(terms.mlm(logits, batch["labels"].flatten()[batch["masked"]])) * masked_count
            if teacher is not None:
                teacher_hidden = hidden_states(teacher, batch["input_ids"], mask).flatten(0, 1)
                teacher_logits = vocabulary_logits(teacher, teacher_hidden[batch["masked"]])
                sums["kl"] += float(terms.kl(logits, teacher_logits, 1.0)) * masked_count
                if is_as_wide:
                    in_text = batch["counted"]
                    sums["cosine"] += float(terms.cosine(hidden[in_text], teacher_hidden[in_text])) * len(in_text)
            masked, counted = masked + masked_count, counted + len(batch["counted"])
        if ranks.rank >= (number % ranks.world or ranks.world):  # others have one more batch than this process
            for each in (model, teacher):
                if each is not None and is_in_shards(each):
                    hidden_states(each, cpu_batch["input_ids"].to(setup.compute.device), None)
    *totals, masked, counted = ranks.total([*sums.values(), masked, counted])
    sums = dict(zip(sums, totals, strict=True))
    values = {"mlm": sums["mlm"] / masked, "perplexity": math.exp(min(sums["mlm"] / masked, 700.0))}
    if teacher is not None:
        values["kl"] = sums["kl"] / masked
    if is_as_wide:
        values["cosine"] = sums["cosine"] / counted
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def pretrain(
    model: PreTrainedModel,
    loss: PretrainingLoss,
    batches: MicroBatches,
    setup: PretrainingSetup,
    optimization: schema.Optimization,
    *,
    folder: Path,
    label: str,
) -> float:
    """Train `model` for `loss.steps` optimiser steps, measuring on validation blocks, and return the seconds.

    Args:
        model: trained in place.
        loss: the objective, with the teacher if it has one.
        batches: the micro-batches of each step.
        setup: the validation, the seed, and where to compute.
        optimization: AdamW and the schedule.
        folder: where `log.jsonl` and the checkpoints go.
        label: name of the training in the progress line.

    Raises:
        Interrupted: the user asked to stop; a checkpoint was saved in `folder`.
        NonFiniteLoss: a loss or gradient is not finite.
    """
    torch.manual_seed(step_seed(setup.seed, -1))  # the projection does not depend on earlier draws
    trained = projected_student_for(model, loss, optimization, setup.compute.device)
    times = setup.validation.times
    # The loss of TinyDistilBERT's loop depends on the size of the micro-batches, so they must not be halved.
    can_be_halved = loss.objective.reduction != "notebook"
    job = TrainingJob(
        steps=loss.steps, micro_batches=batches, term_weights=loss.term_weights, token_shares=loss.token_shares,
        loss=loss.loss, tokens=useful_tokens,
        validate=lambda _: validation_losses(model, loss.teacher, setup, precision=setup.compute.chosen),
        validate_after=frozenset(math.ceil(loss.steps * k / times) for k in range(1, times + 1)),
        oom_splits=int(math.log2(optimization.batch_size)) if can_be_halved else 0,
        keep_pace=loss.pass_of_teacher if is_in_shards(loss.teacher) else None,
    )  # fmt: skip
    with quick_dropout(model), frozen(loss.teacher, setup.compute.chosen):
        return train(trained, job, optimization, setup.compute, seed=setup.seed, folder=folder, label=label)


def projected_student_for(
    model: PreTrainedModel, loss: PretrainingLoss, optimization: schema.Optimization, device: torch.device
) -> ProjectedStudent:
    """Return the student with its projection and its dropout set; set the teacher to evaluation without gradients."""
    set_dropout(model, optimization.dropout, optimization.attention_dropout)
    if loss.teacher is not None:
        loss.teacher.to(device).eval().requires_grad_(False)
    return ProjectedStudent(model, loss.teacher).to(device)


def pretraining_measurements(
    row: str,
    losses: Mapping[str, float],
    setup: PretrainingSetup,
    origin: Origin,
    seconds: float,
    **details: float,
) -> list[Measurement]:
    """Return the validation losses of one row of the tables as measurements; `examples` are blocks."""
    total = len(setup.blocks.validation)
    return [
        Measurement(
            model=row,
            task="pretraining",
            metric=metric,
            value=value,
            split="validation",
            higher_is_better=False,
            examples=min(setup.validation.blocks or total, total),
            examples_total=total,
            seed=setup.seed,
            seconds=round(seconds, 1),
            recipe=origin.recipe,
            recipe_hash=origin.recipe_hash,
            data_fingerprint=setup.blocks.fingerprint,
            details={"precision": "fp32", "training_precision": setup.compute.chosen, **details},
        )
        for metric, value in losses.items()
    ]
