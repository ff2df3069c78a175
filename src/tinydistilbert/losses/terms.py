"""The loss terms: pure functions on tensors. Everything else about them is in the table of recipe/objective.py.

`kl`, `mlm`, `cosine` and `hidden` receive only the positions that count: the caller leaves out padding and, for `mlm`,
every token that is not masked. So they cannot depend on padding. `relation` and `attention` compare pairs of
positions; `visible` says which pairs count. The factor T² of `kl` keeps its gradient about the same size at every
temperature T (Hinton et al. 2015).
"""

from collections.abc import Callable, Mapping
from typing import Protocol, runtime_checkable

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
    """Return T² · KL(teacher ‖ student) of the softmaxes of logits / T, in nats, mean over the positions.

    The soft-target loss of Hinton et al. (2015) and DistilBERT's L_ce (up to T² and the teacher's constant entropy).
    Over the vocabulary, training computes it in `losses/vocabulary.py`: by chunks, together with `mlm`, and with a
    handwritten gradient. A test compares that implementation with this function, which is the definition; validation
    and the soft targets of tasks use it.

    Raises:
        ValueError: there is no position.
    """
    _require(len(student_logits))
    student = F.log_softmax(student_logits / temperature, dim=-1)
    teacher = F.log_softmax(teacher_logits / temperature, dim=-1)
    return F.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def binary_kl(
    student_logits: Float[Tensor, "examples labels"],
    teacher_logits: Float[Tensor, "examples labels"],
    temperature: float,
) -> Float[Tensor, ""]:
    """Return T² · KL(teacher ‖ student) of the sigmoids of logits / T, in nats, mean over examples and labels.

    For tasks in which an example may have several labels: each label is a separate distribution over yes and no. For
    one label with the logit z it equals `kl` of two classes with the logits (z, 0).

    Raises:
        ValueError: there is no example.
    """
    _require(len(student_logits))
    student, teacher = student_logits / temperature, teacher_logits / temperature
    yes, log_yes, log_no = teacher.sigmoid(), F.logsigmoid(teacher), F.logsigmoid(-teacher)
    divergence = yes * (log_yes - F.logsigmoid(student)) + (1 - yes) * (log_no - F.logsigmoid(-student))
    return divergence.mean() * temperature**2


def mlm(student_logits: Float[Tensor, "positions vocabulary"], labels: Int[Tensor, "positions"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the original tokens at the masked positions, in nats (Devlin et al. 2019).

    Training computes it in `losses/vocabulary.py`, like `kl`.

    Args:
        student_logits: at the masked positions.
        labels: the original tokens there.

    Raises:
        ValueError: there is no position.
    """
    _require(len(labels))
    return F.cross_entropy(student_logits, labels)


def cosine(
    student_hidden: Float[Tensor, "positions hidden"], teacher_hidden: Float[Tensor, "positions hidden"]
) -> Float[Tensor, ""]:
    """Return the mean of 1 - cos(student, teacher): 0 when the directions agree, 2 when they are opposed.

    The "cosine embedding loss" of DistilBERT (Sanh et al. 2019, section 3), which applies it to the last hidden states
    at every position that is not padding.

    Raises:
        ValueError: there is no position.
    """
    _require(len(student_hidden))
    return (1 - F.cosine_similarity(student_hidden, teacher_hidden, dim=-1)).mean()


def hidden(
    student_hidden: Float[Tensor, "positions hidden"], teacher_hidden: Float[Tensor, "positions hidden"]
) -> Float[Tensor, ""]:
    """Return the mean squared difference of hidden states, over positions and dimensions.

    TinyBERT's L_hidn (Jiao et al. 2020). If the widths differ, the caller first projects the student's states.

    Raises:
        ValueError: there is no position.
    """
    _require(len(student_hidden))
    return F.mse_loss(student_hidden, teacher_hidden)


@runtime_checkable
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
        """Factor of query · key before the softmax; in most models 1 / sqrt(size)."""
        ...


def _visible_pairs(visible: Bool[Tensor, "batch length length"]) -> Bool[Tensor, "batch length length"]:
    """Return `visible` without the rows of padding: a padding position does not attend to itself."""
    return visible & visible.diagonal(dim1=1, dim2=2).unsqueeze(2)


def attention(student: QueryKey, teacher: QueryKey, visible: Bool[Tensor, "batch length length"]) -> Float[Tensor, ""]:
    """Return the mean squared difference of the attention scores before the softmax, over heads and visible pairs.

    TinyBERT's L_attn (Jiao et al. 2020, section 3.1), except that TinyBERT also averages over padding.

    Args:
        student: queries and keys of a layer of the student.
        teacher: queries and keys of a layer of the teacher.
        visible: which keys (last dimension) each query (the dimension before) may attend to: neither is padding, and
            where documents are kept apart, both are in the same document. If there is no such pair, the loss is 0.

    Raises:
        ValueError: student and teacher have different numbers of heads.
    """
    heads, teacher_heads = student.query.shape[1], teacher.query.shape[1]
    if heads != teacher_heads:
        raise ValueError(f"attention scores compare equal numbers of heads, found {heads} and {teacher_heads}")
    pairs = _visible_pairs(visible)
    # Scaling the queries is cheaper than scaling the products, which are length / size times as many numbers.
    difference = (student.query * student.scaling) @ student.key.mT - (teacher.query * teacher.scaling) @ teacher.key.mT
    squares = difference.masked_fill(~pairs.unsqueeze(1), 0).square()
    total = squares.sum(dtype=torch.promote_types(squares.dtype, torch.float32))  # bf16 cannot hold a long sum
    return total / (pairs.sum() * heads).clamp(min=1)


def _log_relations(
    vectors: Float[Tensor, "batch heads length size"], relation_heads: int, pairs: Bool[Tensor, "batch length length"]
) -> Float[Tensor, "batch relation_heads length length"]:
    """Return the log softmax of A·Aᵀ / sqrt(size of a relation head) over the visible keys, for each relation head."""
    batch, heads, length, head_size = vectors.shape
    width = heads * head_size
    if relation_heads < 1 or width % relation_heads:
        raise ValueError(f"{relation_heads} relation heads do not divide a width of {width}")
    size = width // relation_heads
    parts = vectors.transpose(1, 2).reshape(batch, length, relation_heads, size).transpose(1, 2)
    scores = (parts * size**-0.5) @ parts.mT
    # The lowest finite number: with -inf, rows of padding, in which nothing is visible, would become NaN.
    return F.log_softmax(scores.masked_fill(~pairs.unsqueeze(1), torch.finfo(scores.dtype).min), dim=-1)


def relation(
    student: Float[Tensor, "batch student_heads length student_size"],
    teacher: Float[Tensor, "batch teacher_heads length teacher_size"],
    relation_heads: int,
    visible: Bool[Tensor, "batch length length"],
) -> Float[Tensor, ""]:
    """KL(teacher ‖ student) of self-attention relations, in nats, mean over relation heads and counted positions.

    One of Q-Q, K-K and V-V of MiniLMv2 (Wang et al. 2021, section 3.1). The vectors A of all heads are concatenated
    and cut into `relation_heads` parts; the relation is softmax(A·Aᵀ / sqrt(size of a part)), each row over the
    visible keys. Student and teacher may differ in number of heads and in width.

    Args:
        student: queries, keys or values of a layer of the student.
        teacher: the same kind of vectors of a layer of the teacher.
        relation_heads: number of parts to cut into.
        visible: as in `attention`. If there is no visible pair, the loss is 0.

    Raises:
        ValueError: `relation_heads` does not divide a width.
    """
    pairs = _visible_pairs(visible)
    student_log, teacher_log = (_log_relations(vectors, relation_heads, pairs) for vectors in (student, teacher))
    # In a row of padding both relations are uniform, so it adds exactly 0 to the sum, and it is not counted below.
    total = F.kl_div(student_log, teacher_log, reduction="sum", log_target=True)
    queries = visible.diagonal(dim1=1, dim2=2).sum()
    return total / (queries * relation_heads).clamp(min=1)


def notebook_kl(
    student_logits: Float[Tensor, "batch length vocabulary"],
    teacher_logits: Float[Tensor, "batch length vocabulary"],
    temperature: float,
) -> Float[Tensor, ""]:
    """TinyDistilBERT's original KL: T² · the sum over all positions, padding included, divided by the batch size.

    With 128 positions per line it is 128 times the mean over positions. Kept only for the preset `seed`.
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
    """Return `kl` of two distributions over the positions of a window, mean over the batch; padding has no probability.

    The soft targets of the second distillation on SQuAD, "(D)", for the start and the end of an answer (Sanh et al.
    2019, section 3).
    """
    low = torch.finfo(student_logits.dtype).min
    student = student_logits.masked_fill(~counted, low)
    teacher = teacher_logits.masked_fill(~counted, low)
    return kl(student, teacher, temperature)


FUNCTIONS: Mapping[str, Callable[..., Tensor]] = {
    "kl": kl, "mlm": mlm, "cosine": cosine, "relation": relation, "attention": attention, "hidden": hidden,
}  # fmt: skip
"""The function of each row of the table; `Needs` in recipe/objective.py lists its arguments."""
