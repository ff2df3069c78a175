"""KL and masked-LM loss of a whole chunk of positions at once, for GPUs, which wait for memory, not for arithmetic.

On a CPU, `losses/vocabulary.py` processes a chunk a few rows (`ROWS`) at a time, which fit into the cache. A GPU has no
such cache, and each operation reads and writes the whole chunk. So the matrix product also applies temperature and
bias, and the rest is one function, which torch.compile reduces to two passes.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

CHUNK = 2048
"""Positions whose logits exist at a time: 250 MB in single precision for BERT's vocabulary."""


def logits_at(
    inputs: Float[Tensor, "positions hidden"],
    weight: Float[Tensor, "vocabulary hidden"],
    bias: Float[Tensor, "vocabulary"] | None,
    temperature: float,
) -> Float[Tensor, "positions vocabulary"]:
    """Return the logits divided by the temperature, in the type of `inputs`, rounded once."""
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
    """Return the gradient with respect to the student's logits, and the sums of the KL and of the cross-entropy.

    Args:
        logits: the student's, divided by the temperature (`logits_at`).
        teacher: the teacher's logits, divided by the temperature; None = no KL.
        labels: of the first positions; empty = no masked-LM loss.
        temperature: multiplied back into the student's logits for the cross-entropy.
        scales: factors of KL and cross-entropy in the gradient.

    Returns:
        The gradient with respect to logits at temperature 1, in the type of `logits`; the sums in at least single
        precision.
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
def compiled(backend: str | Callable[..., Any] = "inductor") -> Any:
    """Return `gradient_and_sums` compiled for any number of positions; if compiling fails, torch runs it uncompiled.

    It is compiled for the vocabulary at hand: for one of any size, torch 2.11's compiler splits the sums over the words
    into several kernels, with a warning.
    """
    function = torch.compile(gradient_and_sums, backend=backend)

    def of_chunk(logits: Tensor, teacher: Tensor | None, labels: Tensor, *rest: Any) -> Any:
        for tensor in (logits, teacher, labels):
            if tensor is not None and len(tensor) > 1:  # none and one are always a case of their own
                torch._dynamo.maybe_mark_dynamic(tensor, 0)
        return function(logits, teacher, labels, *rest)

    return of_chunk
