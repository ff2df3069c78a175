"""The terms of the objective: pure functions on tensors.

`kl`, `mlm` and `cosine` are means over the counted positions. The caller gathers those first (no padding, or only the
masked ones), so they never see padding and cannot depend on it. The temperature's factor T² keeps the size of the
gradient about the same for every T (Hinton et al. 2015).
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def _require(positions: int) -> None:
    if positions == 0:
        raise ValueError("a loss needs at least one counted position")


def kl(
    student_logits: Float[Tensor, "positions classes"],
    teacher_logits: Float[Tensor, "positions classes"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T² · KL(teacher ‖ student) of the tempered softmaxes, in nats, mean over the positions.

    The soft-target loss of Hinton et al. (2015) and DistilBERT's L_ce (up to T² and the teacher's constant entropy).

    Raises:
        ValueError: there is no position.
    """
    _require(len(student_logits))
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def mlm(student_logits: Float[Tensor, "positions vocabulary"], labels: Int[Tensor, "positions"]) -> Float[Tensor, ""]:
    """Cross-entropy at the masked positions, in nats, mean (Devlin et al. 2019). `labels` holds the original tokens.

    Raises:
        ValueError: there is no position.
    """
    _require(len(labels))
    return F.cross_entropy(student_logits, labels)


def cosine(
    student_hidden: Float[Tensor, "positions hidden"], teacher_hidden: Float[Tensor, "positions hidden"]
) -> Float[Tensor, ""]:
    """Mean of 1 - cos(student, teacher): 0 when the directions agree, 2 when they are opposed.

    The "cosine embedding loss" of DistilBERT (Sanh et al. 2019, section 3) on the last hidden states, there over every
    position that is not padding.

    Raises:
        ValueError: there is no position.
    """
    _require(len(student_hidden))
    return (1 - F.cosine_similarity(student_hidden, teacher_hidden, dim=-1)).mean()


def notebook_kl(
    student_logits: Float[Tensor, "batch length vocabulary"],
    teacher_logits: Float[Tensor, "batch length vocabulary"],
    temperature: float,
) -> Float[Tensor, ""]:
    """TinyDistilBERT's KL as it was: T² · the sum over all positions, padding too, divided by the batch only.

    At 128 positions a line it is 128 times its value per token. Kept for the preset `seed` alone.
    """
    batch = len(student_logits)
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="sum", log_target=True) * temperature**2 / batch


def span_kl(
    student_logits: Float[Tensor, "batch length"],
    teacher_logits: Float[Tensor, "batch length"],
    counted: Bool[Tensor, "batch length"],
    temperature: float,
) -> Float[Tensor, ""]:
    """T² · KL between two distributions over a window's positions, mean over the batch; padding has no probability.

    The soft part of the second distillation on SQuAD, "(D)", taken for start and for end (Sanh et al. 2019, section 3).
    """
    low = torch.finfo(student_logits.dtype).min
    student = student_logits.masked_fill(~counted, low)
    teacher = teacher_logits.masked_fill(~counted, low)
    return kl(student, teacher, temperature)
