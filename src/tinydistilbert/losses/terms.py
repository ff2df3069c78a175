"""The terms of the objective: pure functions on tensors.

`kl`, `mlm`, `cosine` and `hidden` are means over the counted positions. The caller gathers those first (no padding, or
only the masked ones), so they never see padding and cannot depend on it. `relation` and `attention` compare pairs of
positions and are told which are `visible`. The temperature's factor T² keeps the size of the gradient about the same
for every T (Hinton et al. 2015).
"""

from typing import Protocol

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


def hidden(
    student_hidden: Float[Tensor, "positions hidden"], teacher_hidden: Float[Tensor, "positions hidden"]
) -> Float[Tensor, ""]:
    """Mean squared difference of hidden states, over positions and dimensions (TinyBERT, Jiao et al. 2020, L_hidn).

    Where the widths differ the caller projects the student's first.

    Raises:
        ValueError: there is no position.
    """
    _require(len(student_hidden))
    return F.mse_loss(student_hidden, teacher_hidden)


class QueryKey(Protocol):
    """Queries and keys of one self-attention layer."""

    @property
    def query(self) -> Float[Tensor, "batch heads length size"]:
        """Of every position and head."""
        ...

    @property
    def key(self) -> Float[Tensor, "batch heads length size"]:
        """Of every position and head."""
        ...

    @property
    def scaling(self) -> float:
        """What the model multiplies the scores by; 1/sqrt(size) where not stated otherwise."""
        ...


def _visible_pairs(visible: Bool[Tensor, "batch length length"]) -> Bool[Tensor, "batch length length"]:
    """`visible` without the queries that do not see themselves, which are padding."""
    return visible & visible.diagonal(dim1=1, dim2=2).unsqueeze(2)


def attention(student: QueryKey, teacher: QueryKey, visible: Bool[Tensor, "batch length length"]) -> Float[Tensor, ""]:
    """Mean squared difference of the attention scores before the softmax, over heads and visible pairs.

    TinyBERT's L_attn (Jiao et al. 2020, section 3.1), which averages over padding too; here it does not count.
    `visible` says which keys each query may look at: neither is padding, and both are of one document where documents
    are kept apart. Without any such pair the loss is 0.

    Raises:
        ValueError: student and teacher have different numbers of heads.
    """
    heads, teacher_heads = student.query.shape[1], teacher.query.shape[1]
    if heads != teacher_heads:
        raise ValueError(f"attention scores compare equal numbers of heads, found {heads} and {teacher_heads}")
    pairs = _visible_pairs(visible)
    # The vectors are scaled and not their products: those are length / size times as many numbers.
    difference = (student.query * student.scaling) @ student.key.mT - (teacher.query * teacher.scaling) @ teacher.key.mT
    squares = difference.masked_fill(~pairs.unsqueeze(1), 0).square()
    total = squares.sum(dtype=torch.promote_types(squares.dtype, torch.float32))  # bf16 cannot hold a long sum
    return total / (pairs.sum() * heads).clamp(min=1)


def _log_relations(
    vectors: Float[Tensor, "batch heads length size"], relation_heads: int, pairs: Bool[Tensor, "batch length length"]
) -> Float[Tensor, "batch relation_heads length length"]:
    """Log softmax of the scaled products of every vector with those that it sees, for each relation head."""
    batch, heads, length, head_size = vectors.shape
    width = heads * head_size
    if relation_heads < 1 or width % relation_heads:
        raise ValueError(f"{relation_heads} relation heads do not divide a width of {width}")
    size = width // relation_heads
    parts = vectors.transpose(1, 2).reshape(batch, length, relation_heads, size).transpose(1, 2)
    scores = (parts * size**-0.5) @ parts.mT
    # The lowest finite number, not -inf: queries that see nothing stay free of NaN (and are not counted).
    return F.log_softmax(scores.masked_fill(~pairs.unsqueeze(1), torch.finfo(scores.dtype).min), dim=-1)


def relation(
    student: Float[Tensor, "batch student_heads length student_size"],
    teacher: Float[Tensor, "batch teacher_heads length teacher_size"],
    relation_heads: int,
    visible: Bool[Tensor, "batch length length"],
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of self-attention relations, in nats, mean over relation heads and queries.

    One of MiniLMv2's (Wang et al. 2021, section 3.1) Q-Q, K-K and V-V: the vectors of all heads are laid side by side
    and cut into `relation_heads`; a query's relation is softmax(A·Aᵀ / sqrt(size of a relation head)) over the keys
    that it sees. Numbers of heads and widths of student and teacher may differ. `visible` is as in `attention`; without
    any visible pair the loss is 0.

    Raises:
        ValueError: `relation_heads` does not divide a width.
    """
    pairs = _visible_pairs(visible)
    student_log, teacher_log = (_log_relations(vectors, relation_heads, pairs) for vectors in (student, teacher))
    # Of a query that sees nothing both relations are even, so it adds exactly 0; nor is it counted.
    total = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
    queries = visible.diagonal(dim1=1, dim2=2).sum()
    return total / (queries * relation_heads).clamp(min=1)


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
