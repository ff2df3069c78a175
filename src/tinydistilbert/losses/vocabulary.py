"""KL and masked-LM loss over the whole vocabulary, a chunk of positions at a time, with a custom backward pass.

Their definitions are `kl` and `mlm` in `losses/terms.py`; a test compares values and gradients. The purpose here is to
save memory: logits are by far the largest tensors of a distillation step. Those of 2,048 tokens over 30,522 words take
250 MB, and autograd keeps about seven tensors of that size. This module computes the gradient of a chunk while its
logits exist, so there are never more than two tensors of the size of a chunk, and no logit is computed twice.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tinydistilbert.losses import whole_chunks

CHUNK = 512
"""Positions whose logits exist at a time: 62 MB for BERT's vocabulary. From 256 on, matrix products lose no speed."""
ROWS = 4
"""Positions of a chunk whose softmax is computed at a time on a CPU: the four tensors of 0.5 MB fit into its cache."""
ROW_DEVICES = ("cpu",)
"""Devices that process a chunk by rows; others process it whole (`losses/whole_chunks.py`), except for `TeacherTop`."""
TINY = 1e-12
"""Lower bound of a probability whose logarithm is computed."""


@dataclass(frozen=True)
class TeacherHead:
    """The inputs and the matrix of the teacher's head, from which the logits of a chunk are computed when needed."""

    inputs: Float[Tensor, "positions teacher_hidden"]
    weight: Float[Tensor, "vocabulary teacher_hidden"]
    bias: Float[Tensor, "vocabulary"] | None


@dataclass(frozen=True)
class TeacherTop:
    """The teacher's `k` likeliest tokens at each position. The rest of its probability counts as one more token."""

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
    compiled: bool = False,
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Return the scaled sum of KL over all positions and cross-entropy over the masked positions, which come first.

    Value and gradient equal those of `terms.kl` and `terms.mlm` on the full logits.

    Args:
        inputs: what the student's head multiplies by its vocabulary matrix, masked positions first.
        weight: the student's vocabulary matrix.
        bias: added to the student's logits.
        teacher: where the soft targets come from; None without KL.
        labels: the original tokens of the first `len(labels)` positions.
        temperature: of the KL.
        term_scales: factors of `kl` and `mlm`; a term without a factor is not computed.
        compiled: on a GPU, compile what is computed from the logits.

    Returns:
        The scaled sum, to call backward on, and the mean of each term, detached.

    Raises:
        ValueError: a term has no position.
    """
    assert "kl" not in term_scales or teacher is not None
    if ("kl" in term_scales and not len(inputs)) or ("mlm" in term_scales and not len(labels)):
        raise ValueError("a loss needs at least one counted position")
    apply: Any = _VocabularyLoss.apply
    total, kl, mlm = apply(inputs, weight, bias, teacher, labels, temperature, term_scales, compiled)
    return total, {name: value for name, value in (("kl", kl), ("mlm", mlm)) if name in term_scales}


class _VocabularyLoss(torch.autograd.Function):
    """Computes value and gradient in the forward pass; the backward pass only passes the gradient on."""

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
        compiled: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        device = inputs.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else inputs.dtype
        with torch.autocast(device, enabled=False):
            given = inputs.to(dtype), weight.to(dtype), bias, teacher, labels, temperature, term_scales
            if device in ROW_DEVICES or isinstance(teacher, TeacherTop):
                means, gradients = _means_and_gradients(*given)
            else:
                means, gradients = _by_whole_chunks(*given, compiled=compiled)
        ctx.save_for_backward(*gradients)
        ctx.mark_non_differentiable(*means.values())
        total = sum((scale * means[name] for name, scale in term_scales.items()), means["kl"] * 0)
        return total, means["kl"], means["mlm"]

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        d_inputs, d_weight, d_bias = ctx.saved_tensors
        d_total = grads[0]
        if d_total.device.type != "cpu" or float(d_total) != 1.0:  # reading the number would stop a GPU
            d_inputs, d_weight = d_inputs * d_total, d_weight * d_total
            d_bias = None if d_bias is None else d_bias * d_total
        return d_inputs, d_weight, d_bias, None, None, None, None, None


def _means_and_gradients(
    inputs: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    teacher: TeacherHead | TeacherTop | None,
    labels: Tensor,
    temperature: float,
    term_scales: Mapping[str, float],
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor | None]]:
    """Return the mean of each term (0 if not requested) and the scaled sum's gradients for inputs, weight and bias.

    Matrix products use the type of `inputs`; everything else is computed in at least single precision.
    """
    exact = torch.float32 if inputs.dtype in (torch.bfloat16, torch.float16) else inputs.dtype
    d_inputs = torch.empty_like(inputs, dtype=exact)
    d_weight: Tensor | None = None
    d_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)
    kl_sum, mlm_sum = inputs.new_zeros((2,), dtype=exact)
    positions = len(inputs)
    rows = ROWS if inputs.device.type in ROW_DEVICES else CHUNK
    for start in range(0, positions, CHUNK):
        chunk = slice(start, min(start + CHUNK, positions))
        chunk_inputs = inputs[chunk]
        # Logits in half precision stay so: rows are converted, and the bias added, once they are in the CPU's cache.
        logits = chunk_inputs @ weight.t()
        soft_targets = _soft_targets(teacher, chunk, inputs.dtype) if "kl" in term_scales else None
        for first in range(0, len(chunk_inputs), rows):
            part = slice(first, min(first + rows, len(chunk_inputs)))
            masked = min(max(len(labels) - start - first, 0), part.stop - first) if "mlm" in term_scales else 0
            rows_logits = logits[part].to(exact)  # a view, no copy, if the logits already have this type
            if bias is not None:
                rows_logits += bias
            d_masked = None  # gradient of the cross-entropy with respect to the logits: softmax - one-hot of the label
            if masked:
                part_labels = labels[start + first : start + first + masked, None]
                d_masked = torch.log_softmax(rows_logits[:masked], dim=-1)
                mlm_sum -= d_masked.gather(1, part_labels).sum()
                d_masked.exp_().scatter_add_(1, part_labels, torch.full_like(part_labels, -1.0, dtype=exact))
            # From here on `rows_logits` holds the gradient with respect to the logits.
            if soft_targets is not None:
                scale = term_scales["kl"] * temperature / positions
                kl_sum += soft_targets.kl_and_gradient(rows_logits, part, temperature, scale)
            else:
                rows_logits.zero_()
            if d_masked is not None:
                rows_logits[:masked].add_(d_masked, alpha=term_scales["mlm"] / len(labels))
            if exact != logits.dtype:
                logits[part] = rows_logits
                if d_bias is not None:
                    d_bias += rows_logits.sum(0)
        d_inputs[chunk] = logits @ weight
        if d_weight is None:
            d_weight = (logits.t() @ chunk_inputs).to(exact)
        elif exact == inputs.dtype:
            d_weight.addmm_(logits.t(), chunk_inputs)
        else:
            d_weight += logits.t() @ chunk_inputs
        if d_bias is not None and exact == logits.dtype:
            d_bias += logits.sum(0)
    assert d_weight is not None, "a loss has a position"
    means = {"kl": kl_sum * (temperature**2 / max(positions, 1)), "mlm": mlm_sum / max(len(labels), 1)}
    return means, (d_inputs, d_weight, d_bias)


def _by_whole_chunks(
    inputs: Tensor, weight: Tensor, bias: Tensor | None, teacher: TeacherHead | TeacherTop | None, labels: Tensor,
    temperature: float, term_scales: Mapping[str, float], *, compiled: bool,
) -> tuple[dict[str, Tensor], tuple[Tensor, Tensor, Tensor | None]]:  # fmt: skip
    """Do the same as `_means_and_gradients` on whole chunks; the host never waits for the device."""
    gradient_and_sums = whole_chunks.compiled() if compiled else whole_chunks.gradient_and_sums
    exact, positions = torch.promote_types(inputs.dtype, torch.float32), len(inputs)
    d_inputs, d_weight = torch.empty_like(inputs, dtype=exact), torch.zeros_like(weight, dtype=exact)
    d_bias = None if bias is None else torch.zeros_like(bias, dtype=exact)
    kl_sum, mlm_sum = inputs.new_zeros((2,), dtype=exact)
    has_kl = "kl" in term_scales
    if not has_kl:  # then only masked positions count
        positions, temperature = len(labels), 1.0
        d_inputs[positions:] = 0
    labels = labels if "mlm" in term_scales else labels[:0]
    scales = torch.stack([
        torch.full((), factor, dtype=exact, device=inputs.device)  # unlike a copy, it does not make the host wait
        for factor in (
            term_scales.get("kl", 0.0) * temperature / max(positions, 1),
            term_scales.get("mlm", 0.0) / max(len(labels), 1),
        )
    ])  # fmt: skip
    for start in range(0, positions, whole_chunks.CHUNK):
        chunk = slice(start, min(start + whole_chunks.CHUNK, positions))
        soft_targets = None
        if has_kl:
            assert isinstance(teacher, TeacherHead)
            of_teacher = teacher.inputs[chunk].to(inputs.dtype), teacher.weight.to(inputs.dtype), teacher.bias
            soft_targets = whole_chunks.logits_at(*of_teacher, temperature)
        logits = whole_chunks.logits_at(inputs[chunk], weight, bias, temperature)
        d_logits, kl, mlm = gradient_and_sums(logits, soft_targets, labels[chunk], temperature, scales)
        kl_sum += kl
        mlm_sum += mlm
        d_inputs[chunk] = d_logits @ weight
        d_weight += d_logits.t() @ inputs[chunk]
        if d_bias is not None:
            d_bias += d_logits.sum(0, dtype=exact)
    means = {"kl": kl_sum * (temperature**2 / max(positions, 1)), "mlm": mlm_sum / max(len(labels), 1)}
    return means, (d_inputs, d_weight, d_bias)


def _soft_targets(
    teacher: TeacherHead | TeacherTop | None, chunk: slice, products: torch.dtype
) -> "_AllTokens | _TopTokens":
    """Return the teacher's soft targets at the positions of a chunk."""
    if isinstance(teacher, TeacherTop):
        return _TopTokens(teacher.ids[chunk], teacher.log_probabilities[chunk])
    assert teacher is not None
    logits = teacher.inputs[chunk].to(products) @ teacher.weight.to(products).t()
    return _AllTokens(logits, teacher.bias)


@dataclass
class _AllTokens:
    """Soft targets of a chunk: the teacher's logits, without their bias; reading them overwrites them."""

    logits: Tensor
    bias: Tensor | None

    def kl_and_gradient(self, student_logits: Tensor, part: slice, temperature: float, scale: float) -> Tensor:
        """Return the sum of the KL over `part`, and overwrite `student_logits` with the gradient.

        The gradient is `scale` x (student's - teacher's probabilities).
        """
        student_log = torch.log_softmax(student_logits / temperature, dim=-1)
        teacher_logits = self.logits[part].to(student_logits.dtype)
        if self.bias is not None:
            teacher_logits += self.bias
        difference = torch.log_softmax(teacher_logits.div_(temperature), dim=-1)
        teacher = torch.exp(difference, out=teacher_logits)
        difference -= student_log
        kl = torch.dot(teacher.reshape(-1), difference.reshape(-1))
        torch.exp(student_log, out=student_logits)
        student_logits.sub_(teacher).mul_(scale)
        return kl


@dataclass
class _TopTokens:
    """Soft targets of a chunk: the teacher's likeliest tokens."""

    ids: Tensor
    log_probabilities: Tensor

    def kl_and_gradient(self, student_logits: Tensor, part: slice, temperature: float, scale: float) -> Tensor:
        """Do the same as `_AllTokens`, with all tokens that are not among `ids` compared as if they were one token."""
        ids, teacher_log = self.ids[part], self.log_probabilities[part].to(student_logits.dtype)
        student_log = torch.log_softmax(student_logits / temperature, dim=-1)
        student_top_log, teacher_top = student_log.gather(1, ids), teacher_log.exp()
        student = torch.exp(student_log, out=student_logits)
        # The rest is summed: 1 - sum of the top ones would be only rounding error where those have nearly everything.
        student.scatter_(1, ids, 0.0)
        teacher_rest = (1 - teacher_top.sum(1, keepdim=True)).clamp_(min=0)
        student_rest = student.sum(1, keepdim=True).clamp_(min=TINY)
        kl = (teacher_top * (teacher_log - student_top_log)).sum()
        kl += (teacher_rest * (teacher_rest.clamp(min=TINY).log() - student_rest.log())).sum()
        gradient = student.mul_(1 - teacher_rest / student_rest)
        gradient.scatter_(1, ids, student_top_log.exp() - teacher_top).mul_(scale)
        return kl
