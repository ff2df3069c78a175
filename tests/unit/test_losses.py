"""Losses: values worked out by hand, and laws."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tinydistilbert import losses


def test_kl_by_hand() -> None:
    teacher, student = torch.tensor([[0.8, 0.2]]).log(), torch.tensor([[0.5, 0.5]]).log()
    by_hand = 0.8 * math.log(1.6) + 0.2 * math.log(0.4)
    assert losses.kl(student, teacher, 1.0).item() == pytest.approx(by_hand, rel=1e-6)


def test_kl_at_a_temperature_by_hand() -> None:
    # Logits ln 9 and 0 at T = 2 are 3 : 1; uniform logits stay 1 : 1.
    teacher, student = torch.tensor([[math.log(9), 0.0]]), torch.zeros(1, 2)
    by_hand = 4 * (0.75 * math.log(1.5) + 0.25 * math.log(0.5))
    assert losses.kl(student, teacher, 2.0).item() == pytest.approx(by_hand, rel=1e-6)


@given(st.integers(1, 5), st.integers(2, 7), st.sampled_from([0.5, 1.0, 2.0, 8.0]))
def test_kl_of_a_model_with_itself_is_zero_and_never_negative(positions: int, classes: int, temperature: float) -> None:
    torch.manual_seed(positions * 10 + classes)
    one, other = torch.randn(2, positions, classes, dtype=torch.float64)
    assert losses.kl(one, one, temperature).item() == pytest.approx(0, abs=1e-12)
    assert losses.kl(one, other, temperature).item() >= 0


def test_kl_is_a_mean_over_positions() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 6, 11, dtype=torch.float64)
    once, twice = losses.kl(student, teacher, 2.0), losses.kl(student.repeat(2, 1), teacher.repeat(2, 1), 2.0)
    assert once.item() == pytest.approx(twice.item(), rel=1e-12)


def test_the_size_of_the_gradient_does_not_depend_on_the_temperature() -> None:
    # For T much larger than the logits the gradient tends to (z_s - z_t) / classes, whatever T is (Hinton et al. 2015).
    teacher = torch.tensor([[0.2, -0.1, -0.1]], dtype=torch.float64)
    sizes = []
    for temperature in (50.0, 200.0):
        student = torch.zeros(1, 3, dtype=torch.float64, requires_grad=True)
        losses.kl(student, teacher, temperature).backward()
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=1e-2)
    assert sizes[0] == pytest.approx((teacher.norm() / 3).item(), rel=1e-2)


def test_mlm_by_hand() -> None:
    logits = torch.tensor([[0.25, 0.75], [0.5, 0.5]]).log()
    by_hand = -(math.log(0.75) + math.log(0.5)) / 2
    assert losses.mlm(logits, torch.tensor([1, 0])).item() == pytest.approx(by_hand, rel=1e-6)


def test_cosine_by_hand() -> None:
    student = torch.tensor([[1.0, 0.0], [1.0, 0.0], [3.0, 4.0]])
    teacher = torch.tensor([[2.0, 0.0], [-1.0, 0.0], [4.0, 3.0]])
    assert losses.cosine(student, teacher).item() == pytest.approx((0 + 2 + (1 - 24 / 25)) / 3, rel=1e-6)


def test_the_notebook_kl_is_the_sum_over_positions_divided_by_the_batch_only() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 3, 128, 9, dtype=torch.float64)
    per_token = losses.kl(student.flatten(0, 1), teacher.flatten(0, 1), 2.0)
    assert losses.notebook_kl(student, teacher, 2.0).item() == pytest.approx(128 * per_token.item(), rel=1e-10)


def test_span_kl_does_not_see_padding() -> None:
    torch.manual_seed(0)
    student, teacher = torch.randn(2, 2, 5)
    counted = torch.tensor([[1, 1, 1, 0, 0], [1, 1, 1, 1, 1]]).bool()
    alone = (losses.kl(student[:1, :3], teacher[:1, :3], 2.0) + losses.kl(student[1:], teacher[1:], 2.0)) / 2
    assert losses.span_kl(student, teacher, counted, 2.0).item() == pytest.approx(alone.item(), rel=1e-5)
    student[0, 3:] = 1e4
    assert losses.span_kl(student, teacher, counted, 2.0).item() == pytest.approx(alone.item(), rel=1e-5)


def test_no_position_is_an_error() -> None:
    nothing = torch.empty(0, 4)
    for call in (
        lambda: losses.kl(nothing, nothing, 1.0),
        lambda: losses.cosine(nothing, nothing),
        lambda: losses.mlm(nothing, torch.empty(0, dtype=torch.long)),
    ):
        with pytest.raises(ValueError, match="at least one"):
            call()
