"""What `adapt` and `distill` share: the objective on masked token blocks, and the same numbers on validation blocks.

`adapt` is distillation without a teacher: only the masked-LM term has weight.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert import losses, recipe
from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masked import MaskedBatches, useful_tokens, validation_batches
from tinydistilbert.models.heads import hidden_states, vocabulary_logits
from tinydistilbert.models.loading import set_dropout
from tinydistilbert.results import Measurement
from tinydistilbert.training import Batch, Work, train


@dataclass(frozen=True)
class PretrainingLoss:
    """The weighted terms of the recipe's objective as functions of a micro-batch."""

    objective: recipe.Objective
    teacher: PreTrainedModel | None = None

    @property
    def weights(self) -> dict[str, float]:
        """The terms that count, with their weights."""
        names = ("kl", "mlm", "cosine") if self.teacher is not None else ("mlm",)
        return {name: getattr(self.objective, name) for name in names if getattr(self.objective, name) > 0}

    def counts(self, batch: Batch) -> dict[str, int]:
        """Over how many positions (of the notebook's losses: examples) each term of this micro-batch is a mean."""
        if self.objective.reduction == "notebook":
            return dict.fromkeys(self.weights, len(batch["input_ids"]))
        masked, counted = len(batch["masked"]), len(batch["counted"])
        return {"kl": masked if self.objective.kl_positions == "masked" else counted, "mlm": masked, "cosine": counted}

    def terms(self, student: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        """The unweighted terms; vocabulary logits are computed at the positions that a term reads, no others."""
        weights, objective = self.weights, self.objective
        mask = batch.get("attention_mask")
        student_hidden = hidden_states(student, batch["input_ids"], mask)
        teacher_hidden = torch.empty(0, 0, 0)  # of no teacher: no term that reads it has weight
        if self.teacher is not None:
            with torch.no_grad():
                teacher_hidden = hidden_states(self.teacher, batch["input_ids"], mask)
            if objective.reduction == "notebook":
                return self._notebook_terms(student, student_hidden, teacher_hidden, batch)
        flat_student, flat_teacher = student_hidden.flatten(0, 1), teacher_hidden.flatten(0, 1)
        labels = batch["labels"].flatten()[batch["masked"]]
        nothing = student_hidden.sum() * 0  # of a micro-batch of blank lines, in which no token is masked: it counts 0
        terms: dict[str, Tensor] = {}
        if "kl" in weights or "mlm" in weights:
            everywhere = "kl" in weights and objective.kl_positions == "all"
            positions = batch["counted"] if everywhere else batch["masked"]
            student_logits = vocabulary_logits(student, flat_student[positions])
            if "kl" in weights and self.teacher is not None:
                with torch.no_grad():
                    teacher_logits = vocabulary_logits(self.teacher, flat_teacher[positions])
                kl = losses.kl(student_logits, teacher_logits, objective.temperature) if len(positions) else nothing
                terms["kl"] = kl
            if "mlm" in weights:
                at_masked = torch.searchsorted(positions, batch["masked"]) if everywhere else slice(None)
                terms["mlm"] = losses.mlm(student_logits[at_masked], labels) if len(labels) else nothing
        if "cosine" in weights:
            terms["cosine"] = losses.cosine(flat_student[batch["counted"]], flat_teacher[batch["counted"]])
        return terms

    def _notebook_terms(
        self, student: PreTrainedModel, student_hidden: Tensor, teacher_hidden: Tensor, batch: Batch
    ) -> dict[str, Tensor]:
        """TinyDistilBERT's terms: logits and KL at every position, padding too; the cosine of [CLS] alone."""
        assert self.teacher is not None
        student_logits = vocabulary_logits(student, student_hidden)
        with torch.no_grad():
            teacher_logits = vocabulary_logits(self.teacher, teacher_hidden)
        at_masked = student_logits.flatten(0, 1)[batch["masked"]]
        labels = batch["labels"].flatten()[batch["masked"]]
        return {
            "kl": losses.notebook_kl(student_logits, teacher_logits, self.objective.temperature),
            "mlm": losses.mlm(at_masked, labels) if len(labels) else student_hidden.sum() * 0,
            "cosine": losses.cosine(student_hidden[:, 0], teacher_hidden[:, 0]),
        }


def validation_losses(
    model: PreTrainedModel,
    teacher: PreTrainedModel | None,
    blocks: TokenBlocks,
    masking: recipe.Masking,
    *,
    limit: int,
    device: torch.device,
) -> dict[str, float]:
    """What the model is worth on held-out text; equal blocks and `limit` give the same masked positions.

    Returns:
        `mlm` (cross-entropy in nats), `perplexity` (its exponential), and with a teacher `kl` (teacher ‖ model in nats,
        at temperature 1) and `cosine` (1 - cos of the last hidden states, over all tokens): means over the positions.
    """
    sums = {"mlm": 0.0, "kl": 0.0, "cosine": 0.0}
    masked = counted = 0
    with torch.inference_mode():
        for cpu_batch in validation_batches(blocks, masking, limit):
            batch = {name: value.to(device) for name, value in cpu_batch.items()}
            mask, here = batch.get("attention_mask"), len(batch["masked"])
            hidden = hidden_states(model, batch["input_ids"], mask).flatten(0, 1)
            logits = vocabulary_logits(model, hidden[batch["masked"]])
            sums["mlm"] += float(losses.mlm(logits, batch["labels"].flatten()[batch["masked"]])) * here
            if teacher is not None:
                told = hidden_states(teacher, batch["input_ids"], mask).flatten(0, 1)
                sums["kl"] += float(losses.kl(logits, vocabulary_logits(teacher, told[batch["masked"]]), 1.0)) * here
                in_text = batch["counted"]
                sums["cosine"] += float(losses.cosine(hidden[in_text], told[in_text])) * len(in_text)
            masked, counted = masked + here, counted + len(batch["counted"])
    values = {"mlm": sums["mlm"] / masked, "perplexity": math.exp(min(sums["mlm"] / masked, 700.0))}
    if teacher is not None:
        values |= {"kl": sums["kl"] / masked, "cosine": sums["cosine"] / counted}
    return {name: float(f"{value:.6g}") for name, value in values.items()}


def pretrain(
    model: PreTrainedModel,
    loss: PretrainingLoss,
    blocks: TokenBlocks,
    settings: recipe.Recipe,
    optimization: recipe.Optimization,
    *,
    steps: int,
    folder: Path,
    device: torch.device,
    label: str,
) -> float:
    """Train `model` on masked blocks for `steps` optimiser steps, measuring on validation blocks; returns the seconds.

    Raises:
        Interrupted: the user asked to stop; a checkpoint was saved in `folder`.
        NonFiniteLoss: a loss or gradient is not finite.
    """
    set_dropout(model, optimization.dropout, optimization.attention_dropout)
    if loss.teacher is not None:
        loss.teacher.to(device).eval().requires_grad_(False)
    batches = MaskedBatches(
        blocks, settings.masking, optimization.batch_size, optimization.gradient_accumulation_steps, settings.seed
    )

    def validate() -> dict[str, float]:
        return validation_losses(
            model, loss.teacher, blocks, settings.masking,
            limit=settings.validation.blocks, device=device,
        )  # fmt: skip

    times = settings.validation.times
    work = Work(
        steps=steps, micro_batches=batches, terms=loss.terms, counts=loss.counts, weights=loss.weights,
        tokens=useful_tokens, validate=validate,
        validate_after=frozenset(math.ceil(steps * k / times) for k in range(1, times + 1)),
    )  # fmt: skip
    return train(
        model, work, optimization, seed=settings.seed, folder=folder, device=device, label=label,
        checkpoint_minutes=settings.checkpoint_minutes,
    )  # fmt: skip


def pretraining_measurements(
    row: str,
    losses_of_row: Mapping[str, float],
    settings: recipe.Recipe,
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
            recipe_hash=recipe.recipe_hash(settings),
            data_fingerprint=blocks.fingerprint,
            details=dict(details),
        )
        for metric, value in losses_of_row.items()
    ]
