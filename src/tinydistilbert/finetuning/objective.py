"""The objective of a fine-tuning: the labels and, with a teacher of the task, its soft targets and its layers."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.losses import terms as losses
from tinydistilbert.losses.layers import layer_terms, layers_of_student, layers_of_teacher
from tinydistilbert.models.capture import LayerOutputs, capturing
from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.first_token import first_token_only
from tinydistilbert.models.matching import Matches
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe.objective import TERMS, MeanOver
from tinydistilbert.recipe.schema import TaskDistillation
from tinydistilbert.tasks.base import Kind
from tinydistilbert.tasks.encoding import NO_LABEL
from tinydistilbert.tasks.inference import INPUTS
from tinydistilbert.training.job import Batch, scaled_sum, token_shares

NO_MATCHES = Matches()
SOFT_WORDS = "teacher_words"
"""In batches of token classification: (batch, length) whether a token has soft targets."""


@dataclass(frozen=True)
class TaskLoss:
    """The weighted terms of a fine-tuning: `hard` and, with a teacher, `soft` and inner terms.

    `hard` compares with the labels, `soft` with the teacher's soft targets, which are in the batches. The inner terms
    are the rows of the table in recipe/objective.py that compare layers of both models.
    """

    kind: Kind
    distillation: TaskDistillation | None = None
    """None = no teacher; only `hard` has weight."""
    teacher: PreTrainedModel | None = None
    """Runs in every step where an inner term has weight."""
    matches: Matches = NO_MATCHES
    intermediate_steps: int = 0
    """The first steps, with only the inner terms; later steps have only the other terms; 0 = all terms in all steps."""

    @property
    def inner(self) -> dict[str, float]:
        """The weights of the terms that compare layers."""
        return {} if self.distillation is None else self.distillation.inner_terms

    def term_weights(self, step: int) -> dict[str, float]:
        """The weight of each term at a step."""
        if self.distillation is None:
            return {"hard": 1.0}
        soft = self.distillation.soft
        outer = {name: weight for name, weight in (("hard", 1 - soft), ("soft", soft)) if weight}
        if step < self.intermediate_steps:
            return {**dict.fromkeys(outer, 0.0), **self.inner}
        return {**outer, **(dict.fromkeys(self.inner, 0.0) if self.intermediate_steps else self.inner)}

    def token_shares(self, micro_batches: list[Batch]) -> list[dict[str, float]]:
        """Return, for each micro-batch of a step, its share of each term's mean over the step."""
        return token_shares([self._counts(batch) for batch in micro_batches])

    def _counts(self, batch: Batch) -> dict[str, int]:
        """Return the number of examples, positions or pairs of positions that each term is a mean over."""
        soft = int(batch[SOFT_WORDS].sum()) if SOFT_WORDS in batch else len(batch["input_ids"])
        counts = {"hard": int(self._labelled(batch).sum()), "soft": soft}
        for name in self.inner:
            is_over_pairs = TERMS[name].mean_over is MeanOver.PAIRS
            counts[name] = int((_visible(batch) if is_over_pairs else batch["attention_mask"]).sum())
        return {name: counts[name] for name in self.term_weights(0)}

    def _labelled(self, batch: Batch) -> Bool[Tensor, "batch *length"]:
        """Return which examples (in token classification: which tokens) have a label."""
        if self.kind == "span":
            return torch.ones(len(batch["input_ids"]), dtype=torch.bool)
        labels = batch["labels"]
        if self.kind == "multi-label":
            return ~labels[:, 0].isnan()
        return ~labels.isnan() if self.kind == "regression" else labels != NO_LABEL

    @contextmanager
    def quick(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside the `with`, the model computes only what this objective reads, and uses a faster dropout."""
        with ExitStack() as stack:
            stack.enter_context(quick_dropout(model))
            if self.kind not in ("span", "token-classification") and not self.inner:
                stack.enter_context(first_token_only(model))
            yield

    def loss(
        self, model: nn.Module, batch: Batch, term_scales: Mapping[str, float], _step: int
    ) -> tuple[Float[Tensor, ""], Mapping[str, Float[Tensor, ""]]]:
        """Return the scaled sum of the terms, and each term's mean; terms without weight at this step are skipped."""
        assert isinstance(model, ProjectedStudent)
        names = {name for name, scale in term_scales.items() if scale}
        inner = names & self.inner.keys()
        inputs = {name: batch[name] for name in INPUTS if name in batch}
        with capturing(model.student, **layers_of_student(inner, self.matches)) as student_layers:
            output = model.student(**inputs)
        terms: dict[str, Tensor] = {}
        if inner:
            counted = batch["attention_mask"].flatten().nonzero().squeeze(-1)
            terms |= layer_terms(
                inner, student_layers, self._teacher_layers(inner, inputs), self.matches,
                visible=lambda: _visible(batch), counted=counted, relation_heads=0, projection=model.projection,
            )  # fmt: skip
        if "hard" in names:
            terms["hard"] = self._hard(output, batch)
        if "soft" in names:
            terms["soft"] = self._soft(output, batch)
        return scaled_sum(terms, term_scales)

    def _teacher_layers(self, names: Collection[str], inputs: Mapping[str, Tensor]) -> LayerOutputs:
        """Return the teacher's layer outputs that the terms read."""
        assert self.teacher is not None, "a term on layers needs the teacher"
        if int(getattr(self.teacher.config, "type_vocab_size", 0)) <= 1:
            inputs = {name: value for name, value in inputs.items() if name != "token_type_ids"}
        with torch.no_grad(), capturing(self.teacher, **layers_of_teacher(names, self.matches)) as teacher_layers:
            self.teacher.base_model(**inputs)
        return teacher_layers

    def _hard(self, output: Any, batch: Batch) -> Tensor:
        """Return the cross-entropy or squared error against the labels, mean over the examples that have one.

        In multi-label tasks it is the binary cross-entropy, mean over examples and labels. In token classification it
        is the cross-entropy at the first token of each word, mean over those tokens.
        """
        if self.kind == "span":
            # Unlike in transformers, padding has no probability: the loss must not depend on what else is in the batch.
            padding, low = batch["attention_mask"] == 0, torch.finfo(output.start_logits.dtype).min
            ends = ((output.start_logits, "start"), (output.end_logits, "end"))
            values = [
                F.cross_entropy(logits.masked_fill(padding, low), batch[f"{end}_positions"]) for logits, end in ends
            ]
            return torch.stack(values).mean()
        labelled = self._labelled(batch)
        # In training the term has no scale if there is no label. Asking a GPU would make the host wait.
        if labelled.device.type == "cpu" and not labelled.any():
            return 0 * torch.as_tensor(output.logits).sum()
        if self.kind == "regression":
            return F.mse_loss(output.logits.squeeze(-1)[labelled], batch["labels"][labelled])
        if self.kind == "multi-label":
            return F.binary_cross_entropy_with_logits(output.logits[labelled], batch["labels"][labelled])
        if self.kind == "token-classification":
            return F.cross_entropy(output.logits[labelled], batch["labels"][labelled])
        return F.cross_entropy(output.logits, batch["labels"], ignore_index=NO_LABEL)

    def _soft(self, output: Any, batch: Batch) -> Tensor:
        """Return the KL from the teacher's distributions at the temperature, or the squared difference to its score.

        In token classification, at the first token of each word that the teacher read, labelled or not.
        """
        assert self.distillation is not None
        temperature = self.distillation.temperature
        if self.kind == "span":
            counted = batch["attention_mask"].bool()
            ends = ((output.start_logits, "start"), (output.end_logits, "end"))
            soft = [losses.span_kl(logits, batch[f"teacher_{end}"], counted, temperature) for logits, end in ends]
            return torch.stack(soft).mean()
        if self.kind == "regression":
            return F.mse_loss(output.logits, batch["teacher_logits"])
        if self.kind == "multi-label":
            return losses.binary_kl(output.logits, batch["teacher_logits"], temperature)
        if self.kind == "token-classification":
            counted = batch[SOFT_WORDS]
            if counted.device.type == "cpu" and not counted.any():
                return 0 * torch.as_tensor(output.logits).sum()
            return losses.kl(output.logits[counted], batch["teacher_logits"][counted], temperature)
        return losses.kl(output.logits, batch["teacher_logits"], temperature)


def _visible(batch: Batch) -> Bool[Tensor, "batch length length"]:
    """Return the pairs of positions of which neither is padding."""
    mask = batch["attention_mask"].bool()
    return mask[:, :, None] & mask[:, None, :]
