"""The objective of a fine-tuning: the labels, and where a task's teacher helps, its soft targets and its inside."""

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool
from torch import Tensor, nn
from transformers import PreTrainedModel

from tinydistilbert.losses import terms as losses
from tinydistilbert.losses.layers import INNER, attention_layers, layer_terms
from tinydistilbert.models.capture import capturing
from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.first_token import first_token_only
from tinydistilbert.models.matching import Matches
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe.schema import TaskDistillation
from tinydistilbert.tasks.base import Kind
from tinydistilbert.tasks.encoding import NO_LABEL
from tinydistilbert.tasks.inference import INPUTS
from tinydistilbert.training.loop import Batch, scaled_sum, token_shares

NO_MATCHES = Matches()


@dataclass(frozen=True)
class TaskLoss:
    """The weighted terms of a fine-tuning: `hard`, and with soft targets in the batches `soft` and the inner terms."""

    kind: Kind
    distillation: TaskDistillation | None = None
    """None: there is no teacher, and only `hard` counts."""
    teacher: PreTrainedModel | None = None
    """Runs in every step where an inner term has weight."""
    matches: Matches = NO_MATCHES
    intermediate_steps: int = 0
    """At the beginning, in which only the inner terms count, and after which they do not."""

    @property
    def inner(self) -> dict[str, float]:
        """The weights of the terms that look into the layers."""
        if self.distillation is None:
            return {}
        return {name: weight for name in sorted(INNER) if (weight := getattr(self.distillation, name)) > 0}

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
        """How much of each term's mean over the step is each micro-batch's own."""
        return token_shares([self._counts(batch) for batch in micro_batches])

    def _counts(self, batch: Batch) -> dict[str, int]:
        tokens = int(batch["attention_mask"].sum())
        counts = {"hard": int(self._labelled(batch).sum()), "soft": len(batch["input_ids"])}
        counts |= {"hidden": tokens, "relation": tokens}
        if "attention" in self.inner:
            counts["attention"] = int(_visible(batch).sum())
        return {name: counts[name] for name in self.term_weights(0)}

    def _labelled(self, batch: Batch) -> Bool[Tensor, " batch"]:
        if self.kind == "span":
            return torch.ones(len(batch["input_ids"]), dtype=torch.bool)
        labels = batch["labels"]
        return ~labels.isnan() if self.kind == "regression" else labels != NO_LABEL

    @contextmanager
    def quick(self, model: PreTrainedModel) -> Iterator[None]:
        """Inside the `with`, the model computes only what this objective reads, and drops out quickly."""
        with ExitStack() as stack:
            stack.enter_context(quick_dropout(model))
            if self.kind != "span" and not self.inner:
                stack.enter_context(first_token_only(model))
            yield

    def loss(
        self, model: nn.Module, batch: Batch, term_scales: Mapping[str, float], _step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        """The scaled sum of the terms, and each term's mean; what has no weight at this step is not computed."""
        assert isinstance(model, ProjectedStudent)
        wanted = {name for name, scale in term_scales.items() if scale}
        inner = wanted & INNER
        own = self.matches.student_layers
        with capturing(
            model.student, own if "hidden" in inner else (), attention_layers(inner, own, own[-1:])
        ) as student:
            output = model.student(**{name: batch[name] for name in INPUTS if name in batch})
        terms: dict[str, Tensor] = {}
        if inner:
            assert self.teacher is not None, "a term on layers needs the teacher"
            theirs, related = self.matches.teacher_layers, (self.matches.relation_layer,)
            told = {name: batch[name] for name in INPUTS if name in batch}
            with (
                torch.no_grad(),
                capturing(
                    self.teacher, theirs if "hidden" in inner else (), attention_layers(inner, theirs, related)
                ) as teacher,
            ):
                self.teacher.base_model(**{name: told[name] for name in told if name in self._teacher_inputs})
            counted = batch["attention_mask"].flatten().nonzero().squeeze(-1)
            terms |= layer_terms(
                inner, student, teacher, self.matches, visible=lambda: _visible(batch), counted=counted,
                relation_heads=0, projection=model.projection,
            )  # fmt: skip
        if "hard" in wanted:
            terms["hard"] = self._hard(output, batch)
        if "soft" in wanted:
            terms["soft"] = self._soft(output, batch)
        return scaled_sum(terms, term_scales)

    @property
    def _teacher_inputs(self) -> tuple[str, ...]:
        assert self.teacher is not None
        has_types = int(getattr(self.teacher.config, "type_vocab_size", 0)) > 1
        return INPUTS if has_types else tuple(name for name in INPUTS if name != "token_type_ids")

    def _hard(self, output: Any, batch: Batch) -> Tensor:
        """Cross-entropy or squared error against the labels, mean over the examples that have one."""
        if self.kind == "span":
            # Unlike in transformers padding is no answer: the loss must not depend on what else is in the batch.
            padding, low = batch["attention_mask"] == 0, torch.finfo(output.start_logits.dtype).min
            ends = ((output.start_logits, "start"), (output.end_logits, "end"))
            found = [F.cross_entropy(of.masked_fill(padding, low), batch[f"{end}_positions"]) for of, end in ends]
            return torch.stack(found).mean()
        labelled = self._labelled(batch)
        if not labelled.any():
            return 0 * torch.as_tensor(output.logits).sum()
        if self.kind == "regression":
            return F.mse_loss(output.logits.squeeze(-1)[labelled], batch["labels"][labelled])
        return F.cross_entropy(output.logits, batch["labels"], ignore_index=NO_LABEL)

    def _soft(self, output: Any, batch: Batch) -> Tensor:
        """KL at the temperature from the teacher's distribution, or the squared difference to its score."""
        assert self.distillation is not None
        temperature = self.distillation.temperature
        if self.kind == "span":
            counted = batch["attention_mask"].bool()
            ends = ((output.start_logits, "start"), (output.end_logits, "end"))
            soft = [losses.span_kl(logits, batch[f"teacher_{end}"], counted, temperature) for logits, end in ends]
            return torch.stack(soft).mean()
        if self.kind == "regression":
            return F.mse_loss(output.logits, batch["teacher_logits"])
        return losses.kl(output.logits, batch["teacher_logits"], temperature)


def _visible(batch: Batch) -> Bool[Tensor, "batch length length"]:
    """Pairs of positions that are no padding."""
    mask = batch["attention_mask"].bool()
    return mask[:, :, None] & mask[:, None, :]
