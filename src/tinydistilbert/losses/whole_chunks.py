"""KL and masked-LM loss of a whole chunk of positions at once, for GPUs: there memory is waited for, not products.

`losses/vocabulary.py` takes a chunk 16 rows at a time on a CPU, whose cache they fit into. A GPU has no such cache, and
each operation reads and writes the whole chunk: so temperature and bias are left to the matrix product, and what
follows is one function, of which torch.compile makes two passes.
"""

from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 2048
"""Positions whose logits exist at a time: 250 MB in single precision, in BERT's vocabulary."""


def logits_at(
    inputs: Float[Tensor, "positions hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    bias: Float[Tensor, "vocabulary"] | None,
    temperature: float,
) -> Float[Tensor, "positions vocabulary"]:
    """The logits divided by the temperature, in the type of `inputs`, rounded once."""
    nothing = inputs.new_zeros(()) if bias is None else bias.to(inputs.dtype)
    factor = 1 / temperature
    return torch.addmm(nothing, inputs, weight.t(), beta=0 if bias is None else factor, alpha=factor)


def gradient_and_sums(
    logits: Float[Tensor, "positions vocabulary"],
    teacher: Float[Tensor, "positions vocabulary"] | None,
    labels: Int[Tensor, "masked"],
    temperature: float,
    scales: Float[Tensor, "2"],
) -> tuple[Float[Tensor, "positions vocabulary"], Float[Tensor, ""], Float[Tensor, ""]]:
    """The gradient by the student's logits, and the sums of the KL and of the cross-entropy; both terms at once.

    Args:
        logits: the student's at the temperature (`logits_at`).
        teacher: the teacher's at the temperature; None = no KL.
        labels: of the first positions; none = no masked-LM loss.
        temperature: by which the student's are multiplied for the cross-entropy.
        scales: factors of KL and cross-entropy in the gradient.

    Returns:
        The gradient, by logits at temperature 1, in the type of `logits`; the sums in single precision at least.
    """
    exact = torch.promote_types(logits.dtype, torch.float32)
    student = logits.to(exact)
    kl = mlm = student.new_zeros(())
    masked = len(labels)
    token = None
    if masked:
        log = torch.log_softmax(student[:masked] * temperature, dim=-1)
        mlm = -log.gather(1, labels[:, None]).sum()
        token = log.exp().scatter_add(1, labels[:, None], torch.full_like(labels[:, None], -1, dtype=exact)) * scales[1]
    if teacher is None:
        assert token is not None, "there is a term"
        return token.to(logits.dtype), kl, mlm
    student_log, teacher_log = torch.log_softmax(student, dim=-1), torch.log_softmax(teacher.to(exact), dim=-1)
    probabilities = teacher_log.exp()
    kl = (probabilities * (teacher_log - student_log)).sum()
    gradient = (student_log.exp() - probabilities) * scales[0]
    if token is not None:
        gradient[:masked] += token
    return gradient.to(logits.dtype), kl, mlm


@cache
def compiled() -> Any:
    """`gradient_and_sums` by torch.compile, for chunks of any size; where that fails, torch runs it as it is."""
    return torch.compile(gradient_and_sums, dynamic=True)
