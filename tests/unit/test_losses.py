"""Losses: values worked out by hand, and laws."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tinydistilbert.losses import terms


@dataclass(frozen=True)
class QueryKey:
    query: Tensor
    key: Tensor
    scaling: float = 0.5

    def padded(self, positions: int, value: float) -> "QueryKey":
        return QueryKey(pad(self.query, positions, value), pad(self.key, positions, value), self.scaling)


PairLoss = Callable[[QueryKey, QueryKey, Tensor], Tensor]


def pad(vectors: Tensor, positions: int, value: float) -> Tensor:
    """More positions at the end of [batch heads length size], all of them `value`."""
    return torch.nn.functional.pad(vectors, (0, 0, 0, positions), value=value)


def visible_of(mask: Tensor) -> Tensor:
    """Pairs of positions that are both in `mask` [batch length]."""
    return mask[:, :, None] & mask[:, None, :]


def random_vectors(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_kl_by_hand() -> None:
    teacher, student = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    by_hand = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert terms.kl(student, teacher, 1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_kl_at_a_temperature_by_hand() -> None:
    # Logits ln 9 and 0 at T = 2 are 3 : 1; uniform logits stay 1 : 1.
    teacher, student = torch.tensor([[math.log(9), 0.0]]), torch.zeros(1, 2)
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert terms.kl(student, teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-6)


@given(st.integers(1, 5), st.integers(2, 7), st.sampled_from([0.5, 1.0, 2.0, 8.0]))
def test_kl_of_a_model_with_itself_is_zero_and_never_negative(positions: int, classes: int, temperature: float) -> None:
    torch.manual_seed(positions * 10 + classes)
    one, other = torch.randn(2, positions, classes, dtype=torch.float64)
    assert terms.kl(one, one, temperature).item() == pytest.approx(0, abs=1e-12)
    assert terms.kl(one, other, temperature).item() >= 0


def test_kl_is_a_mean_over_positions() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 11, dtype=torch.float64)
    once, twice = terms.kl(student, teacher, 2.0), terms.kl(student.repeat(2, 1), teacher.repeat(2, 1), 2.0)
    assert once.item() == pytest.approx(twice.item(), rel=1e-12)


def test_the_size_of_the_gradient_does_not_depend_on_the_temperature() -> None:
    # For T much larger than the logits the gradient tends to (z_s - z_t) / classes, whatever T is (Hinton et al. 2015).
    teacher = torch.tensor([[0.2, -0.1, -0.1]], dtype=torch.float64)
    sizes = []
    for temperature in (50.0, 200.0):
        student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        terms.kl(student, teacher, temperature).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-2)
    assert sizes[0] == pytest.approx((teacher.norm() / 3).item(), rel=1e-2)


def test_mlm_by_hand() -> None:
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    by_hand = -(math.log(0.75) + math.log(0.5)) / 2
    assert terms.mlm(logits, torch.tensor([1, 0])).item() == pytest.approx(by_hand, rel=1e-6)


def test_cosine_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    teacher = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [4.0, 3.0]])
    assert terms.cosine(student, teacher).item() == pytest.approx((0 + 2 + (1 - 24 / 25)) / 3, rel=1e-6)


def test_hidden_by_hand() -> None:
    student, teacher = torch.tensor([[1.0, 2.0], [0.0, -1.0]]), torch.tensor([[1.0, 0.0], [3.0, 0.0]])
    assert terms.hidden(student, teacher).item() == pytest.approx((0 + 4 + 9 + 1) / 4)
    assert terms.hidden(teacher, teacher).item() == 0


def test_relation_by_hand() -> None:
    # Width 4 in one relation head: scores are products / 2. The first query sees scores (ln 3, 0) of the teacher, thus
    # 3/4 and 1/4, the second (0, 0); the student's are all 0, thus 1/2 and 1/2.
    first = math.sqrt(2 * math.log(3))
    teacher = torch.tensor([[[[first, 0.0], [0.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]]])  # two heads of 2
    student = torch.zeros(1, 1, 2, 4)
    by_hand = (0.75 * math.log(1.5) + 0.25 * math.log(0.5) + 0) / 2
    loss = terms.relation(student, teacher, 1, torch.ones(1, 2, 2).bool())
    assert loss.item() == pytest.approx(by_hand, rel=1e-6)


def test_relation_with_the_models_own_heads_equals_a_naive_loop() -> None:
    batch, heads, length = 2, 3, 5
    student, teacher = random_vectors(batch, heads, length, 4), random_vectors(batch, heads, length, 6, seed=1)
    real = [3, 5]
    values = []
    for row in range(batch):
        for head in range(heads):
            for query in range(real[row]):
                probabilities = []
                for vectors in (teacher, student):
                    states = vectors[row, head, : real[row]]
                    probabilities.append(
                        torch.softmax(states @ states[query] / math.sqrt(states.shape[-1]), 0).tolist()
                    )
                values.append(sum(p * math.log(p / q) for p, q in zip(*probabilities, strict=True)))
    visible = visible_of(torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool())
    loss = terms.relation(student, teacher, heads, visible).item()
    assert loss == pytest.approx(sum(values) / len(values), rel=1e-12)


def test_relation_heads_cut_the_heads_laid_side_by_side() -> None:
    vectors, other = random_vectors(2, 4, 5, 6), random_vectors(2, 4, 5, 6, seed=1)
    visible = torch.ones(2, 5, 5).bool()

    def recut(vectors: Tensor, heads: int) -> Tensor:
        rows = torch.cat([vectors[:, head] for head in range(4)], dim=-1)
        return torch.stack(rows.chunk(heads, dim=-1), dim=1)

    for heads in (1, 2, 3, 8, 24):
        recut_by_hand = terms.relation(recut(vectors, heads), recut(other, heads), heads, visible)
        assert terms.relation(vectors, other, heads, visible).item() == pytest.approx(recut_by_hand.item(), rel=1e-12)


def test_relation_of_a_model_with_itself_is_zero_and_never_negative() -> None:
    one, other = random_vectors(2, 2, 4, 6), random_vectors(2, 2, 4, 6, seed=1)
    visible = torch.ones(2, 4, 4).bool()
    assert terms.relation(one, one, 3, visible).item() == pytest.approx(0, abs=1e-12)
    assert terms.relation(one, other, 3, visible).item() > 0.01


def test_relation_does_not_change_when_a_relation_head_is_rotated() -> None:
    student, teacher = random_vectors(2, 3, 5, 4), random_vectors(2, 3, 5, 4, seed=1)
    rotation = torch.linalg.qr(random_vectors(3, 4, 4, seed=2)).Q
    visible = torch.ones(2, 5, 5).bool()
    plain = terms.relation(student, teacher, 3, visible).item()
    assert terms.relation(student @ rotation, teacher, 3, visible).item() == pytest.approx(plain, rel=1e-10)
    # Another cut does see it: the rotations mix parts of what is now two relation heads.
    assert terms.relation(student @ rotation, teacher, 6, visible).item() != pytest.approx(
        terms.relation(student, teacher, 6, visible).item(), rel=1e-3
    )


def test_relation_does_not_care_about_widths() -> None:
    # Twice as wide with the same products: [a, a] · 2^(-1/4) has A·Aᵀ / sqrt(2 size) as a has A·Aᵀ / sqrt(size).
    teacher = random_vectors(2, 3, 5, 4)
    wide = torch.cat([teacher, teacher], dim=-1) * 2**-0.25
    assert terms.relation(wide, teacher, 3, torch.ones(2, 5, 5).bool()).item() == pytest.approx(0, abs=1e-12)


def test_attention_by_hand() -> None:
    # One head; scores of the student q·k / 2: [[1, 2], [3, 4]] with these keys; the teacher's q·k: [[1, 0], [0, 1]].
    student = QueryKey(torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), 2 * torch.eye(2)[None, None], 0.5)
    teacher = QueryKey(torch.eye(2)[None, None], torch.eye(2)[None, None], 1.0)
    visible = torch.ones(1, 2, 2).bool()
    assert terms.attention(student, teacher, visible).item() == pytest.approx((0 + 4 + 9 + 9) / 4)
    visible[0, 1, 0] = False
    assert terms.attention(student, teacher, visible).item() == pytest.approx((0 + 4 + 9) / 3)
    assert terms.attention(teacher, teacher, visible).item() == 0


def test_more_heads_with_the_same_scores_change_nothing_in_attention() -> None:
    student, teacher = (QueryKey(*(random_vectors(2, 1, 4, 6, seed=s + i) for i in (0, 1)), 0.5) for s in (0, 2))
    doubled = [QueryKey(m.query.repeat(1, 2, 1, 1), m.key.repeat(1, 2, 1, 1), 0.5) for m in (student, teacher)]
    visible = torch.ones(2, 4, 4).bool()
    torch.testing.assert_close(terms.attention(*doubled, visible), terms.attention(student, teacher, visible))


def relation_of(student: QueryKey, teacher: QueryKey, visible: Tensor) -> Tensor:
    return terms.relation(student.query, teacher.query, 2, visible)


@pytest.mark.parametrize("loss", [relation_of, terms.attention])
def test_padding_changes_neither_value_nor_gradient(loss: PairLoss) -> None:
    student, teacher = (
        QueryKey(random_vectors(2, 2, 4, 6, seed=s), random_vectors(2, 2, 4, 6, seed=s + 1)) for s in (0, 2)
    )
    student.query.requires_grad_()
    alone = loss(student, teacher, torch.ones(2, 4, 4).bool())
    (gradient,) = torch.autograd.grad(alone, student.query)
    mask = torch.tensor([[1, 1, 1, 1, 0, 0, 0]] * 2).bool()
    both_sides, keys_only = visible_of(mask), mask[:, None, :].expand(2, 7, 7)
    for visible in (both_sides, keys_only):
        padded = loss(student.padded(3, 1e3), teacher.padded(3, -7.0), visible)
        assert padded.item() == pytest.approx(alone.item(), rel=1e-12)
        (of_padded,) = torch.autograd.grad(padded, student.query)
        torch.testing.assert_close(of_padded, gradient)


@pytest.mark.parametrize("loss", [relation_of, terms.attention])
def test_documents_in_one_block_are_as_if_they_were_blocks(loss: PairLoss) -> None:
    # Lengths 2 and 3 in one block. Means are over all queries or pairs, so the parts weigh by how many they have.
    student, teacher = (
        QueryKey(random_vectors(1, 2, 5, 6, seed=s), random_vectors(1, 2, 5, 6, seed=s + 1)) for s in (0, 2)
    )
    document = torch.tensor([[0, 0, 1, 1, 1]])
    together = loss(student, teacher, document[:, :, None] == document[:, None, :])
    parts = [
        loss(*(QueryKey(m.query[:, :, cut], m.key[:, :, cut]) for m in (student, teacher)), torch.ones(1, n, n).bool())
        for cut, n in ((slice(0, 2), 2), (slice(2, 5), 3))
    ]
    weights = (2, 3) if loss is relation_of else (4, 9)
    by_parts = (weights[0] * parts[0] + weights[1] * parts[1]) / sum(weights)
    assert together.item() == pytest.approx(by_parts.item(), rel=1e-12)


@pytest.mark.parametrize("loss", [relation_of, terms.attention])
def test_gradients_of_pairwise_losses_equal_finite_differences(loss: PairLoss) -> None:
    teacher = QueryKey(random_vectors(2, 2, 4, 6, seed=2), random_vectors(2, 2, 4, 6, seed=3))
    visible = visible_of(torch.tensor([[1, 1, 1, 0], [1, 1, 1, 1]]).bool())
    query, key = (random_vectors(2, 2, 4, 6, seed=seed).requires_grad_() for seed in (0, 1))

    def of_vectors(query: Tensor, key: Tensor) -> Tensor:
        return loss(QueryKey(query, key), teacher, visible)

    inputs = (query, key.detach() if loss is relation_of else key)
    assert torch.autograd.gradcheck(of_vectors, inputs)


def test_nothing_visible_is_zero_and_has_no_gradient() -> None:
    vectors = QueryKey(random_vectors(1, 2, 3, 4).float().requires_grad_(), random_vectors(1, 2, 3, 4).float())
    other = QueryKey(random_vectors(1, 2, 3, 4, seed=5).float(), random_vectors(1, 2, 3, 4).float())
    for loss in (relation_of, terms.attention):
        value = loss(vectors, other, torch.zeros(1, 3, 3).bool())
        (gradient,) = torch.autograd.grad(value, vectors.query)
        assert value.item() == 0 and not gradient.any()


def test_heads_that_do_not_go_together_are_told() -> None:
    visible = torch.ones(1, 3, 3).bool()
    with pytest.raises(ValueError, match="5 relation heads do not divide a width of 8"):
        terms.relation(random_vectors(1, 2, 3, 5), random_vectors(1, 2, 3, 4), 5, visible)
    three, two = (QueryKey(random_vectors(1, heads, 3, 4), random_vectors(1, heads, 3, 4)) for heads in (3, 2))
    with pytest.raises(ValueError, match="equal numbers of heads, found 3 and 2"):
        terms.attention(three, two, visible)


def test_the_notebook_kl_is_the_sum_over_positions_divided_by_the_batch_only() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 128, 9, dtype=torch.float64)
    per_token = terms.kl(student.flatten(0, 1), teacher.flatten(0, 1), 2.0)
    assert terms.notebook_kl(student, teacher, 2.0).item() == pytest.approx(128 * per_token.item(), rel=1e-10)


def test_span_kl_does_not_see_padding() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5)
    counted = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    alone = (terms.kl(student[:1, :3], teacher[:1, :3], 2.0) + terms.kl(student[1:], teacher[1:], 2.0)) / 2
    assert terms.span_kl(student, teacher, counted, 2.0).item() == pytest.approx(alone.item(), rel=1e-5)
    student[0, 3:] = 1e4
    assert terms.span_kl(student, teacher, counted, 2.0).item() == pytest.approx(alone.item(), rel=1e-5)


def test_no_position_is_an_error() -> None:
    nothing = torch.empty(0, 4)
    for call in (
        lambda: terms.kl(nothing, nothing, 1.0),
        lambda: terms.cosine(nothing, nothing),
        lambda: terms.hidden(nothing, nothing),
        lambda: terms.mlm(nothing, torch.empty(0, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match="at least one"):
            call()
