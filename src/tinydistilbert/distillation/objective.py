"""The objective: the recipe's weighted terms as functions of a student, a micro-batch and the step.

The table of recipe/objective.py lists the terms, what they read and what they are means over. `adapt` is distillation
without a teacher: only the masked-LM term has weight.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.losses import terms as losses
from tinydistilbert.losses.layers import layer_terms, layers_of_student, layers_of_teacher
from tinydistilbert.losses.vocabulary import TeacherHead, TeacherTop, vocabulary_loss
from tinydistilbert.models.capture import LayerOutputs
from tinydistilbert.models.heads import EncoderOutput, encode, vocabulary_input, vocabulary_logits, vocabulary_matrix
from tinydistilbert.models.matching import Matches
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.objective import TERMS, MeanOver, Needs
from tinydistilbert.recipe.types import highest, ramp_at
from tinydistilbert.training.job import Batch, scaled_sum, token_shares

NO_MATCHES = Matches()


@dataclass(frozen=True)
class PretrainingLoss:
    """The weighted terms of the recipe's objective as functions of a micro-batch and the step."""

    objective: schema.Objective
    teacher: PreTrainedModel | None = None
    matches: Matches = NO_MATCHES
    """Which layers of student and teacher are compared."""
    steps: int = 1
    """Of the whole training; weights and a temperature that change reach their second value at the last step."""
    accumulation: int = 1
    """Micro-batches in a step; used only by TinyDistilBERT's way of averaging."""
    compiled: bool = False
    """On a GPU, compile what is computed from the logits by chunks."""

    @property
    def terms(self) -> tuple[str, ...]:
        """The terms that have weight at any step."""
        return tuple(name for name in self.objective.terms if self.teacher is not None or not TERMS[name].needs_teacher)

    def term_weights(self, step: int) -> dict[str, float]:
        """The weight of each term at a step."""
        return {name: ramp_at(getattr(self.objective, name), step, self.steps) for name in self.terms}

    def token_shares(self, micro_batches: list[Batch]) -> list[dict[str, float]]:
        """Return, for each micro-batch of a step, its share of each term's mean over the step."""
        if self.objective.reduction == "notebook":
            return [dict.fromkeys(self.terms, 1 / self.accumulation) for _ in micro_batches]
        return token_shares([self._counts(batch) for batch in micro_batches])

    def _counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of positions, or pairs of positions, that each term of this micro-batch is a mean over."""
        counts = {
            MeanOver.KL_POSITIONS: len(batch["soft"]), MeanOver.MASKED: len(batch["masked"]),
            MeanOver.COUNTED: len(batch["counted"]),
        }  # fmt: skip
        if any(TERMS[name].mean_over is MeanOver.PAIRS for name in self.terms):
            counts[MeanOver.PAIRS] = int(_visible(batch).sum())
        return {name: counts[TERMS[name].mean_over] for name in self.terms}

    def loss(
        self, model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
    ) -> tuple[Float[Tensor, ""], Mapping[str, Float[Tensor, ""]]]:
        """Return the scaled sum of the terms, and each term's mean; outputs that no term reads are not computed."""
        assert isinstance(model, ProjectedStudent)
        student = encode(
            model.student, batch["input_ids"], batch.get("attention_mask"),
            **layers_of_student(term_scales, self.matches),
        )  # fmt: skip
        teacher = self._teacher_output(batch, term_scales)
        if self.objective.reduction == "notebook":
            assert teacher is not None
            terms = self._notebook_terms(model.student, student.last_hidden_state, teacher.last_hidden_state, batch)
            return scaled_sum(terms, term_scales)
        terms = self._hidden_terms(model, student, teacher, batch, term_scales)
        temperature = ramp_at(self.objective.temperature, step, self.steps)
        terms |= self._terms_on_whole_logits(model.student, student, teacher, batch, term_scales, temperature)
        total, means = scaled_sum(terms, term_scales)
        if by_chunks := {name: scale for name, scale in term_scales.items() if TERMS[name].by_chunks}:
            total_by_chunks, means_by_chunks = self._terms_by_chunks(
                model.student, student, teacher, batch, by_chunks, temperature
            )
            total, means = total + total_by_chunks, {**means_by_chunks, **means}
        return total, means

    def _teacher_output(self, batch: Batch, term_scales: Mapping[str, float]) -> EncoderOutput | None:
        """Return the teacher's output, computed or from the batch's cache; None if no term reads it."""
        if "teacher_hidden" in batch:
            return EncoderOutput(batch["teacher_hidden"].to(torch.get_default_dtype()), LayerOutputs())
        is_read = any(TERMS[name].needs_teacher for name in term_scales)
        if self.teacher is None or "teacher_top_ids" in batch or not is_read:
            return None
        with torch.no_grad():
            return encode(
                self.teacher, batch["input_ids"], batch.get("attention_mask"),
                **layers_of_teacher(term_scales, self.matches),
            )  # fmt: skip

    def pass_of_teacher(self, batch: Batch, step: int) -> None:
        """Run the teacher as `loss` does, in a process that has no micro-batch while others have one."""
        self._teacher_output(batch, self.term_weights(step))

    def _hidden_terms(
        self,
        model: ProjectedStudent,
        student: EncoderOutput,
        teacher: EncoderOutput | None,
        batch: Batch,
        names: Collection[str],
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the terms on hidden states and attention."""
        names = [name for name in names if not TERMS[name].is_on_logits]
        if not names:
            return {}
        assert teacher is not None
        counted = batch["counted"]
        terms = {
            name: losses.FUNCTIONS[name](
                model.projection(_at(student.last_hidden_state, counted)), _at(teacher.last_hidden_state, counted)
            )
            for name in names
            if TERMS[name].needs is Needs.LAST_HIDDEN_STATE
        }
        return terms | layer_terms(
            names, student.layers, teacher.layers, self.matches, visible=lambda: _visible(batch), counted=counted,
            relation_heads=self.objective.relation_heads, projection=model.projection,
        )  # fmt: skip

    def _terms_on_whole_logits(
        self,
        student_model: PreTrainedModel,
        student: EncoderOutput,
        teacher: EncoderOutput | None,
        batch: Batch,
        names: Collection[str],
        temperature: float,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return the terms on logits that are not computed by chunks; a term without any position is 0."""
        terms = {}
        for name in (name for name in names if TERMS[name].is_on_logits and not TERMS[name].by_chunks):
            positions = batch["soft" if TERMS[name].needs is Needs.LOGITS else "masked"]
            if not len(positions):
                terms[name] = student.last_hidden_state.sum() * 0
                continue
            student_logits = vocabulary_logits(student_model, _at(student.last_hidden_state, positions))
            if TERMS[name].needs is Needs.TOKENS:
                terms[name] = losses.FUNCTIONS[name](student_logits, batch["labels"].flatten()[positions])
                continue
            assert self.teacher is not None and teacher is not None
            with torch.no_grad():
                teacher_logits = vocabulary_logits(self.teacher, _at(teacher.last_hidden_state, positions))
            terms[name] = losses.FUNCTIONS[name](student_logits, teacher_logits, temperature)
        return terms

    def _terms_by_chunks(
        self,
        student_model: PreTrainedModel,
        student: EncoderOutput,
        teacher: EncoderOutput | None,
        batch: Batch,
        term_scales: Mapping[str, float],
        temperature: float,
    ) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
        """Return KL and masked LM at the positions of the KL, masked ones first; without KL, at the masked ones."""
        masked = batch["masked"]
        positions = batch["soft"] if "kl" in term_scales else masked
        # A micro-batch of blank lines has no masked token: a term without any position is 0.
        counts = {"kl": len(positions), "mlm": len(masked)}
        zeros = {name: student.last_hidden_state.new_zeros(()) for name in term_scales if not counts[name]}
        scales = {name: scale for name, scale in term_scales.items() if counts[name]}
        if not scales:
            return student.last_hidden_state.sum() * 0, zeros
        soft_targets: TeacherHead | TeacherTop | None = None
        if "kl" in scales and "teacher_top_ids" in batch:
            soft_targets = TeacherTop(batch["teacher_top_ids"], batch["teacher_top_log_probabilities"])
        elif "kl" in scales:
            assert self.teacher is not None and teacher is not None
            with torch.no_grad():
                head_inputs = vocabulary_input(self.teacher, _at(teacher.last_hidden_state, positions))
                soft_targets = TeacherHead(head_inputs, *vocabulary_matrix(self.teacher))
        total, means = vocabulary_loss(
            vocabulary_input(student_model, _at(student.last_hidden_state, positions)),
            *vocabulary_matrix(student_model),
            soft_targets,
            batch["labels"].flatten()[masked],
            temperature=temperature,
            term_scales=scales,
            compiled=self.compiled,
        )
        return total, means | zeros

    def _notebook_terms(
        self,
        student_model: PreTrainedModel,
        student_hidden: Float[Tensor, "batch length student_width"],
        teacher_hidden: Float[Tensor, "batch length teacher_width"],
        batch: Batch,
    ) -> dict[str, Float[Tensor, ""]]:
        """Return TinyDistilBERT's terms: KL at every position, padding included; the cosine of [CLS] only."""
        assert self.teacher is not None
        student_logits = vocabulary_logits(student_model, student_hidden)
        with torch.no_grad():
            teacher_logits = vocabulary_logits(self.teacher, teacher_hidden)
        masked_logits = _at(student_logits, batch["masked"])
        labels = batch["labels"].flatten()[batch["masked"]]
        temperature = highest(self.objective.temperature)
        terms = {
            "kl": losses.notebook_kl(student_logits, teacher_logits, temperature),
            "mlm": losses.mlm(masked_logits, labels) if len(labels) else student_hidden.sum() * 0,
            "cosine": losses.cosine(student_hidden[:, 0], teacher_hidden[:, 0]),
        }
        return {name: terms[name] for name in self.terms}


def _at(
    states: Float[Tensor, "batch length width"], positions: Int[Tensor, " positions"]
) -> Float[Tensor, "positions width"]:
    """Return the states at these positions of the flattened batch.

    `index_select`, because its gradient on a GPU does not sort the positions.
    """
    return states.flatten(0, 1).index_select(0, positions)


def _visible(batch: Batch) -> Bool[Tensor, "batch length length"]:
    """Return the pairs of positions in which the first attends to the second.

    Neither is padding; where documents are kept apart, both are in the same one.
    """
    mask, rows = batch.get("attention_mask"), batch["input_ids"]
    if mask is None:
        return torch.ones((), dtype=torch.bool, device=rows.device).expand(len(rows), rows.shape[1], rows.shape[1])
    if mask.dim() == 4:  # in this mask padding attends to itself too, but it must not count
        counted = torch.zeros(rows.numel(), dtype=torch.bool, device=rows.device).index_fill_(0, batch["counted"], True)
        return mask[:, 0] & counted.view(rows.shape)[:, :, None]
    return mask.bool()[:, :, None] & mask.bool()[:, None, :]
