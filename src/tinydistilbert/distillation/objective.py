"""The objective: the recipe's weighted terms as functions of a student, a micro-batch and the step.

`adapt` is distillation without a teacher: only the masked-LM term has weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.losses import terms as losses
from tinydistilbert.losses.layers import INNER, attention_layers, layer_terms
from tinydistilbert.losses.vocabulary import TeacherHead, TeacherTop, vocabulary_loss
from tinydistilbert.models.heads import Seen, encode, vocabulary_input, vocabulary_logits, vocabulary_matrix
from tinydistilbert.models.matching import Matches
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.names import TERMS
from tinydistilbert.recipe.types import highest, ramp_at
from tinydistilbert.training.loop import Batch, scaled_sum, token_shares

NO_MATCHES = Matches()


@dataclass(frozen=True)
class PretrainingLoss:
    """The weighted terms of the recipe's objective as functions of a micro-batch and the step."""

    objective: schema.Objective
    teacher: PreTrainedModel | None = None
    matches: Matches = NO_MATCHES
    """Which layers of the teacher the student's are compared with."""
    steps: int = 1
    """Of the whole training; weights and temperature that change reach their second value at the last one."""
    accumulation: int = 1
    """Micro-batches in a step; only TinyDistilBERT's way of averaging needs to know."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that count at any step."""
        names = TERMS if self.teacher is not None else ("mlm",)
        return tuple(name for name in names if highest(getattr(self.objective, name)) > 0)

    def term_weights(self, step: int) -> dict[str, float]:
        """The weight of each term at a step."""
        return {name: ramp_at(getattr(self.objective, name), step, self.steps) for name in self.terms}

    def token_shares(self, micro_batches: list[Batch]) -> list[dict[str, float]]:
        """How much of each term's mean over the step is each micro-batch's own."""
        if self.objective.reduction == "notebook":
            return [dict.fromkeys(self.terms, 1 / self.accumulation) for _ in micro_batches]
        return token_shares([self._counts(batch) for batch in micro_batches])

    def _counts(self, batch: Batch) -> dict[str, int]:
        """Over how many positions, or pairs of positions, each term of this micro-batch is a mean."""
        counted = len(batch["counted"])
        counts = {"kl": len(batch["soft"]), "mlm": len(batch["masked"]), "cosine": counted, "relation": counted}
        counts["hidden"] = counted
        if "attention" in self.terms:
            counts["attention"] = int(_visible(batch).sum())
        return {name: counts[name] for name in self.terms}

    def loss(
        self, model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The scaled sum of the terms, and each term's mean; logits are computed only where a term reads them."""
        assert isinstance(model, ProjectedStudent)
        mask, own = batch.get("attention_mask"), self.matches.student_layers
        student = encode(
            model.student, batch["input_ids"], mask,
            layers=own if "hidden" in term_scales else (), attention=attention_layers(term_scales, own, own[-1:]),
        )  # fmt: skip
        teacher = self._teacher(batch, term_scales)
        if self.objective.reduction == "notebook":
            return scaled_sum(self._notebook_terms(model.student, student.last, teacher.last, batch), term_scales)
        terms = self._layer_terms(model, student, teacher, batch, term_scales)
        inner, found = scaled_sum(terms, term_scales) if terms else (student.last.sum() * 0, {})
        if {"kl", "mlm"} & term_scales.keys():
            outer, at_words = self._vocabulary(model.student, student.last, teacher.last, batch, term_scales, step)
            inner, found = inner + outer, {**at_words, **found}
        return inner, found

    def _teacher(self, batch: Batch, term_scales: Mapping[str, float]) -> Seen:
        """What the teacher says of the batch: computed, or read from the cache that the batch comes from."""
        if "teacher_hidden" in batch:
            return Seen(batch["teacher_hidden"].to(torch.get_default_dtype()), {}, {})
        if self.teacher is None or "teacher_top_ids" in batch or term_scales.keys() <= {"mlm"}:
            return Seen(torch.empty(0, 0, 0), {}, {})  # no term reads it
        with torch.no_grad():
            return encode(
                self.teacher, batch["input_ids"], batch.get("attention_mask"),
                layers=self.matches.teacher_layers if "hidden" in term_scales else (),
                attention=attention_layers(term_scales, self.matches.teacher_layers, (self.matches.relation_layer,)),
            )  # fmt: skip

    def _layer_terms(
        self, model: ProjectedStudent, student: Seen, teacher: Seen, batch: Batch, term_scales: Mapping[str, float]
    ) -> dict[str, Tensor]:
        """The terms on hidden states and attention."""
        counted = batch["counted"]
        terms: dict[str, Tensor] = {}
        if "cosine" in term_scales:
            terms["cosine"] = losses.cosine(
                model.projection(student.last.flatten(0, 1)[counted]), teacher.last.flatten(0, 1)[counted]
            )
        if inner := INNER & term_scales.keys():
            terms |= layer_terms(
                inner, student, teacher, self.matches, visible=lambda: _visible(batch), counted=counted,
                relation_heads=self.objective.relation_heads, projection=model.projection,
            )  # fmt: skip
        return terms

    def _vocabulary(
        self,
        student: PreTrainedModel,
        student_last: Tensor,
        teacher_last: Tensor,
        batch: Batch,
        term_scales: Mapping[str, float],
        step: int,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The terms on logits: at the positions of the soft targets, or where there are none at the masked ones."""
        masked = batch["masked"]
        positions = batch["soft"] if "kl" in term_scales else masked
        labels = batch["labels"].flatten()[masked]
        wanted = {name: term_scales[name] for name in ("kl", "mlm") if name in term_scales}
        if not len(masked):  # of a micro-batch of blank lines, in which no token is masked: it counts 0
            nothing = {name: student_last.new_zeros(()) for name in wanted if name == "mlm" or not len(positions)}
            wanted = {name: scale for name, scale in wanted.items() if name not in nothing}
            if not wanted:
                return student_last.sum() * 0, nothing
        else:
            nothing = {}
        told: TeacherHead | TeacherTop | None = None
        if "kl" in wanted and "teacher_top_ids" in batch:
            told = TeacherTop(batch["teacher_top_ids"], batch["teacher_top_log_probabilities"])
        elif "kl" in wanted and self.teacher is not None:
            with torch.no_grad():
                seen = vocabulary_input(self.teacher, teacher_last.flatten(0, 1)[positions])
                told = TeacherHead(seen, *vocabulary_matrix(self.teacher))
        total, found = vocabulary_loss(
            vocabulary_input(student, student_last.flatten(0, 1)[positions]), *vocabulary_matrix(student), told, labels,
            temperature=ramp_at(self.objective.temperature, step, self.steps), term_scales=wanted,
        )  # fmt: skip
        return total, {**found, **nothing}

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
        temperature = highest(self.objective.temperature)
        terms = {
            "kl": losses.notebook_kl(student_logits, teacher_logits, temperature),
            "mlm": losses.mlm(at_masked, labels) if len(labels) else student_hidden.sum() * 0,
            "cosine": losses.cosine(student_hidden[:, 0], teacher_hidden[:, 0]),
        }
        return {name: terms[name] for name in self.terms}


def _visible(batch: Batch) -> Bool[Tensor, "batch length length"]:
    """Pairs of positions of which the first attends to the second: no padding, and one document if they are apart."""
    mask, rows = batch.get("attention_mask"), batch["input_ids"]
    if mask is None:
        return torch.ones((), dtype=torch.bool, device=rows.device).expand(len(rows), rows.shape[1], rows.shape[1])
    if mask.dim() == 4:  # there each position may look at itself, padding too, which counts nowhere
        counted = torch.zeros(rows.numel(), dtype=torch.bool, device=rows.device).index_fill_(0, batch["counted"], True)
        return mask[:, 0] & counted.view(rows.shape)[:, :, None]
    return mask.bool()[:, :, None] & mask.bool()[:, None, :]
