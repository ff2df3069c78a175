"""KL and masked-LM loss over the whole vocabulary, a chunk of positions at a time, with their own backward pass.

The logits are by far the largest thing in a distillation step: 2,048 tokens x 30,522 words are 250 MB, and the plain
way holds about seven of that size. Here the gradient of a chunk is worked out while its logits are there,
so that no more than two of them exist at any time, and none is computed twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 512
"""Positions whose logits exist at a time: 62 MB in BERT's vocabulary. From 256 on, the matrix products lose nothing."""
ROWS = 16
"""Positions that are worked on at a time on a CPU, whose cache holds their 2 MB; a GPU takes the whole chunk."""
TINY = 1e-12


@dataclass(frozen=True)
class TeacherHead:
    """The teacher's logits at each position, as what its head multiplies: exact, and computed a chunk at a time."""

    inputs: Float[Tensor, "positions teacher_hidden"]
    weight: Float[Tensor, "vocabulary teacher_hidden"]
    bias: Float[Tensor, "vocabulary"] | None


@dataclass(frozen=True)
class TeacherTop:
    """The teacher's likeliest tokens at each position; the rest of its probability counts as one more token."""

    ids: Int[Tensor, "positions k"]
    log_probabilities: Float[Tensor, "positions k"]
    """At the temperature of the loss."""


def vocabulary_loss(
    inputs: Float[Tensor, "positions hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    bias: Float[Tensor, "vocabulary"] | None,
    teacher: TeacherHead | TeacherTop | None,
    labels: Int[Tensor, "masked"],
    *,
    temperature: float,
    term_scales: Mapping[str, float],
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """KL over all positions and cross-entropy over the first ones, which are masked, each times its scale.

    Value and gradient are those of `losses.kl` and `losses.mlm` on the full logits.

    Args:
        inputs: what the student's head multiplies with its vocabulary matrix, masked positions first.
        weight: the student's vocabulary matrix.
        bias: added to its logits.
        teacher: where the soft targets come from; None for no KL.
        labels: the original tokens of the first `len(labels)` positions.
        temperature: of the KL.
        term_scales: what each term counts; a term that is not named is not computed.

    Returns:
        The sum to derive, and the mean of each term, detached.

    Raises:
        ValueError: a term has no position.
    """
    assert "kl" not in term_scales or teacher is not None
    if ("kl" in term_scales and not len(inputs)) or ("mlm" in term_scales and not len(labels)):
        raise ValueError("a loss needs at least one counted position")
    apply: Any = _VocabularyLoss.apply
    total, kl, mlm = apply(inputs, weight, bias, teacher, labels, temperature, term_scales)
    return total, {name: value for name, value in (("kl", kl), ("mlm", mlm)) if name in term_scales}


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: TeacherHead | TeacherTop | None,
        labels: Tensor,
        temperature: float,
        term_scales: Mapping[str, float],
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = inputs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
        with torch.autocast(device, enabled=False):
            work = _Work(inputs.to(dtype), weight.to(dtype), bias, teacher, labels)
            kl, mlm = work.run(temperature, term_scales)
        ctx.save_for_backward(work.d_inputs, work.d_weight, work.d_bias)
        ctx.mark_non_differentiable(kl, mlm)
        means = {"kl": kl, "mlm": mlm}
        total = sum((scale * means[name] for name, scale in term_scales.items()), kl * 0)
        return total, kl, mlm

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_inputs, d_weight, d_bias = ctx.saved_tensors
        outer = grads[0]
        if outer.device.type != "cpu" or float(outer) != 1.0:  # a GPU is not asked, for the answer would stop it
            d_inputs, d_weight = d_inputs * outer, d_weight * outer
            d_bias = None if d_bias is None else d_bias * outer
        return d_inputs, d_weight, d_bias, None, None, None, None


class _Work:
    """The sums and gradients while they grow, in single precision whatever the products are made in."""

    def __init__(
        self,
        inputs: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        teacher: TeacherHead | TeacherTop | None,
        labels: Tensor,
    ) -> None:
        self.inputs, self.weight, self.bias, self.teacher, self.labels = inputs, weight, bias, teacher, labels
        exact = torch.float32 if inputs.dtype in (torch.bfloat16, torch.float16) else inputs.dtype
        self.exact = exact
        self.d_inputs = torch.empty_like(inputs, dtype=exact)
        self.d_weight = torch.zeros_like(weight, dtype=exact)
        self.d_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)

    def run(self, temperature: float, term_scales: Mapping[str, float]) -> tuple[Tensor, Tensor]:
        """Both means; the gradients of their scaled sum are in `d_inputs`, `d_weight` and `d_bias` then."""
        positions = len(self.inputs)
        rows = ROWS if self.inputs.device.type == "cpu" else CHUNK
        kl, mlm = self.inputs.new_zeros((2,), dtype=self.exact)
        for start in range(0, positions, CHUNK):
            chunk = slice(start, min(start + CHUNK, positions))
            inputs = self.inputs[chunk]
            logits = (inputs @ self.weight.t()).to(self.exact)  # the bias is added below, where a part is in the cache
            told = self._told(chunk, temperature) if "kl" in term_scales else None
            for first in range(0, len(inputs), rows):
                part = slice(first, min(first + rows, len(inputs)))
                masked = min(max(len(self.labels) - start - first, 0), part.stop - first) if "mlm" in term_scales else 0
                if self.bias is not None:
                    logits[part] += self.bias
                at_masked = None
                if masked:
                    labels = self.labels[start + first : start + first + masked, None]
                    at_masked = torch.log_softmax(logits[part][:masked], dim=-1)
                    mlm -= at_masked.gather(1, labels).sum()
                    at_masked.exp_().scatter_add_(1, labels, torch.full_like(labels, -1.0, dtype=self.exact))
                if told is not None:
                    kl += told.learn(logits[part], part, temperature, term_scales["kl"] * temperature / positions)
                else:
                    logits[part].zero_()
                if at_masked is not None:
                    logits[part][:masked].add_(at_masked, alpha=term_scales["mlm"] / len(self.labels))
            gradient = logits.to(inputs.dtype)
            self.d_inputs[chunk] = gradient @ self.weight
            if self.exact == inputs.dtype:
                self.d_weight.addmm_(gradient.t(), inputs)
            else:
                self.d_weight += gradient.t() @ inputs
            if self.d_bias is not None:
                self.d_bias += logits.sum(0)
        return kl * (temperature**2 / max(positions, 1)), mlm / max(len(self.labels), 1)

    def _told(self, chunk: slice, temperature: float) -> "_Told | _ToldTop":
        if isinstance(self.teacher, TeacherTop):
            return _ToldTop(self.teacher.ids[chunk], self.teacher.log_probabilities[chunk].to(self.exact))
        assert self.teacher is not None
        dtype = self.inputs.dtype
        logits = self.teacher.inputs[chunk].to(dtype) @ self.teacher.weight.to(dtype).t()
        return _Told(logits.to(self.exact), self.teacher.bias)


@dataclass
class _Told:
    """The teacher's logits in a chunk, without their bias; they are overwritten while they are read."""

    logits: Tensor
    bias: Tensor | None

    def learn(self, logits: Tensor, part: slice, temperature: float, scale: float) -> Tensor:
        """The sum of the KL over `part`; the student's `logits` become `scale` x its gradient (without T's factor)."""
        student = torch.log_softmax(logits / temperature, dim=-1)
        told = self.logits[part]
        if self.bias is not None:
            told += self.bias
        difference = torch.log_softmax(told.div_(temperature), dim=-1)
        teacher = torch.exp(difference, out=told)
        difference -= student
        value = torch.dot(teacher.reshape(-1), difference.reshape(-1))
        torch.exp(student, out=logits)
        logits.sub_(teacher).mul_(scale)
        return value


@dataclass
class _ToldTop:
    """The teacher's likeliest tokens in a chunk."""

    ids: Tensor
    log_probabilities: Tensor

    def learn(self, logits: Tensor, part: slice, temperature: float, scale: float) -> Tensor:
        """As `_Told.learn`; what both models give to all other tokens is compared as a whole."""
        ids, told = self.ids[part], self.log_probabilities[part]
        student = torch.log_softmax(logits / temperature, dim=-1)
        known, teacher = student.gather(1, ids), told.exp()
        torch.exp(student, out=logits)
        logits.scatter_(1, ids, 0.0)  # the rest is summed up, for 1 - the known ones cancels where they have nearly all
        rest_teacher = (1 - teacher.sum(1, keepdim=True)).clamp_(min=0)
        rest_student = logits.sum(1, keepdim=True).clamp_(min=TINY)
        value = (teacher * (told - known)).sum()
        value += (rest_teacher * (rest_teacher.clamp(min=TINY).log() - rest_student.log())).sum()
        logits.mul_(1 - rest_teacher / rest_student).scatter_(1, ids, known.exp() - teacher).mul_(scale)
        return value
