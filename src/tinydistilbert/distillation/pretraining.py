"""What `adapt` and `distill` share: training on masked token blocks, and the same numbers on validation blocks."""

import math
from collections.abc import Mapping
from pathlib import Path

import torch
from transformers import PreTrainedModel

from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masked_batches import useful_tokens, validation_batches
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.losses import terms
from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.heads import hidden_states, vocabulary_logits
from tinydistilbert.models.loading import set_dropout
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe import schema
from tinydistilbert.results import Measurement
from tinydistilbert.training.loop import MicroBatches, TrainingJob, step_seed, train


def validation_losses(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    blocks: TokenBlocks,
    settings: schema.Recipe,
    device: torch.device,
) -> dict[str, float]:
    """What the model is worth on held-out text, whatever it was trained with: 15 % are masked, the same ones always.

    Returns:
        `mlm` (cross-entropy in nats), `perplexity` (its exponential), and with a teacher `kl` (teacher ‖ model in nats,
        at temperature 1) and, where both are as wide, `cosine` (1 - cos of the last hidden states, over all tokens):
        means over the positions.
    """
    sums = {"mlm": 0.0, "kl": 0.0, "cosine": 0.0}
    masked = counted = 0
    is_as_wide = teacher is not None and teacher.config.hidden_size == model.config.hidden_size
    with torch.inference_mode():
        for cpu_batch in validation_batches(blocks, settings.validation.blocks, attention=settings.corpus.attention):
            batch = {name: value.to(device) for name, value in cpu_batch.items()}
            mask, here = batch.get("attention_mask"), len(batch["masked"])
            hidden = hidden_states(model, batch["input_ids"], mask).flatten(0, 1)
            logits = vocabulary_logits(model, hidden[batch["masked"]])
            sums["mlm"] += float(terms.mlm(logits, batch["labels"].flatten()[batch["masked"]])) * here
            if teacher is not None:
                told = hidden_states(teacher, batch["input_ids"], mask).flatten(0, 1)
                sums["kl"] += float(terms.kl(logits, vocabulary_logits(teacher, told[batch["masked"]]), 1.0)) * here
                if is_as_wide:
                    in_text = batch["counted"]
                    sums["cosine"] += float(terms.cosine(hidden[in_text], told[in_text])) * len(in_text)
            masked, counted = masked + here, counted + len(batch["counted"])
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
    blocks: TokenBlocks,
    settings: schema.Recipe,
    optimization: schema.Optimization,
    *,
    folder: Path,
    device: torch.device,
    label: str,
) -> float:
    """Train `model` for `loss.steps` optimiser steps, measuring on validation blocks; returns the seconds.

    Args:
        model: what is trained, in place.
        loss: the objective, with the teacher if it has one.
        batches: the micro-batches of each step.
        blocks: their corpus, for its validation blocks.
        settings: its sections validation and corpus are read, and seed, precision and checkpoint_minutes.
        optimization: AdamW and the schedule.
        folder: where `log.jsonl` and the checkpoints go.
        device: where to compute.
        label: what the progress line calls it.

    Raises:
        Interrupted: the user asked to stop; a checkpoint was saved in `folder`.
        NonFiniteLoss: a loss or gradient is not finite.
    """
    torch.manual_seed(step_seed(settings.seed, -1))  # of the projection, whatever was drawn before it
    trained = projected_student_for(model, loss, optimization, device)
    times = settings.validation.times
    # The loss of TinyDistilBERT's loop depends on the size of the micro-batches, so they stay as they are there.
    can_be_halved = settings.objective.reduction != "notebook"
    work = TrainingJob(
        steps=loss.steps, micro_batches=batches, term_weights=loss.term_weights, token_shares=loss.token_shares,
        loss=loss.loss, tokens=useful_tokens,
        validate=lambda _: validation_losses(model, loss.teacher, blocks, settings, device),
        validate_after=frozenset(math.ceil(loss.steps * k / times) for k in range(1, times + 1)),
        oom_splits=int(math.log2(optimization.batch_size)) if can_be_halved else 0,
    )  # fmt: skip
    with quick_dropout(model):
        return train(
            trained, work, optimization, seed=settings.seed, folder=folder, device=device, label=label,
            checkpoint_minutes=settings.checkpoint_minutes, precision=settings.precision,
        )  # fmt: skip


def projected_student_for(
    model: PreTrainedModel, loss: PretrainingLoss, optimization: schema.Optimization, device: torch.device
) -> ProjectedStudent:
    """The student as it is trained: its dropout set, the teacher beside it still and without gradients."""
    set_dropout(model, optimization.dropout, optimization.attention_dropout)
    if loss.teacher is not None:
        loss.teacher.to(device).eval().requires_grad_(False)
    return ProjectedStudent(model, loss.teacher).to(device)


def pretraining_measurements(
    row: str,
    losses_of_row: Mapping[str, float],
    settings: schema.Recipe,
    blocks: TokenBlocks,
    seconds: float,
    **details: float,
) -> list[Measurement]:
    """The validation losses of one row of the tables as measurements; `examples` are blocks."""
    total = len(blocks.validation)
    return [
        Measurement(
            model=row,
            task="pretraining",
            metric=metric,
            value=value,
            split="validation",
            higher_is_better=False,
            examples=min(settings.validation.blocks or total, total),
            examples_total=total,
            seed=settings.seed,
            seconds=round(seconds, 1),
            recipe=settings.name,
            recipe_hash=schema.recipe_hash(settings),
            data_fingerprint=blocks.fingerprint,
            details=dict(details),
        )
        for metric, value in losses_of_row.items()
    ]
