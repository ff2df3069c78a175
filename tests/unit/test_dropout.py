"""Dropout from sixteen bits an element: as many zeros as asked for, the mean kept, and nothing left behind."""

import pytest
import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tests import tiny
from tinydistilbert.models.dropout import ATTENTION, drop, quick_dropout
from tinydistilbert.models.heads import hidden_states
from tinydistilbert.models.loading import set_dropout

FAMILIES = ("bert", "distilbert")


@pytest.mark.parametrize("probability", [0.1, 0.5, 0.9])
def test_the_share_of_zeros_and_the_mean_are_right(probability: float) -> None:
    torch.manual_seed(0)
    values = drop(torch.ones(1001, 1003), probability)
    zeros = float((values == 0).float().mean())
    assert zeros == pytest.approx(probability, abs=0.002)  # 6 standard deviations at 0.5: 0.003
    assert float(values.mean()) == pytest.approx(1, abs=0.02)
    assert values.unique().tolist() == pytest.approx([0, 1 / (1 - probability)], rel=1e-3)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    kept = (drop(torch.ones(400_000), 0.5) > 0).float()
    for distance in (1, 2, 3, 4, 8):
        together = float((kept[distance:] * kept[:-distance]).mean())
        assert together == pytest.approx(0.25, abs=0.005)


def test_the_gradient_goes_where_the_values_went() -> None:
    torch.manual_seed(0)
    values = torch.randn(7, 9, requires_grad=True)
    left = drop(values, 0.3)
    left.backward(torch.full_like(values, 2.0))
    torch.testing.assert_close(values.grad * values.detach() / 2, left.detach())


def test_a_seed_gives_the_same_again() -> None:
    def draw(seed: int) -> torch.Tensor:
        torch.manual_seed(seed)
        return drop(torch.ones(50), 0.4)

    assert draw(1).equal(draw(1)) and not draw(1).equal(draw(2))


@pytest.mark.parametrize("probability", [0.0, 1.0])
def test_nothing_and_all(probability: float) -> None:
    assert float(drop(torch.ones(10), probability).sum()) == 10 * (1 - probability)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("padded", [False, True])
def test_a_model_without_dropout_computes_the_same_by_this_way(family: str, padded: bool) -> None:
    torch.manual_seed(0)
    model = tiny.model(family).train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    ids, mask = torch.randint(40, (3, 8)), None
    if padded:
        mask = torch.ones_like(ids)
        mask[1, 5:] = 0
    expected = hidden_states(model, ids, mask)
    with quick_dropout(model):
        assert model.config._attn_implementation == ATTENTION
        torch.testing.assert_close(hidden_states(model, ids, mask), expected)
        for module in model.modules():  # so small that nothing is dropped, and yet the way with dropped weights is gone
            if isinstance(module, nn.Dropout):
                module.p = 1e-9
        torch.testing.assert_close(hidden_states(model, ids, mask), expected)
    assert model.config._attn_implementation == "sdpa"


def test_outside_nothing_is_changed_even_after_an_error() -> None:
    model = tiny.model("bert")
    before = [type(module) for module in model.modules()]
    with pytest.raises(RuntimeError), quick_dropout(model):
        assert [type(module) for module in model.modules()] != before
        raise RuntimeError
    assert [type(module) for module in model.modules()] == before


def test_in_evaluation_nothing_is_dropped() -> None:
    model = tiny.model("distilbert")
    ids = torch.randint(40, (2, 6))
    with quick_dropout(model):
        torch.testing.assert_close(hidden_states(model, ids, None), hidden_states(model, ids, None))
        model.train()
        assert not hidden_states(model, ids, None).equal(hidden_states(model, ids, None))


@pytest.mark.parametrize("family", FAMILIES)
def test_gradients_in_bf16_are_those_of_plain_products(family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel behind transformers' sdpa takes several times as long for them; without gradients it is used."""
    model = tiny.model(family).train()
    set_dropout(model, 0.0, 0.0)
    ids, mask = torch.randint(40, (3, 8)), torch.ones(3, 8, dtype=torch.long)
    mask[1, 5:] = 0

    def gradients() -> list[torch.Tensor]:
        model.zero_grad()
        (hidden_states(model, ids, mask).float() ** 3)[mask.bool()].sum().backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    exact, called = gradients(), []
    sdpa = ALL_ATTENTION_FUNCTIONS["sdpa"]
    monkeypatch.setitem(
        ALL_ATTENTION_FUNCTIONS, "sdpa", lambda *args, **kwargs: called.append(1) or sdpa(*args, **kwargs)
    )
    with quick_dropout(model), torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            hidden_states(model, ids, mask)
        assert called
        called.clear()
        rounded = gradients()
    assert not called
    scale = max(float(gradient.norm()) for gradient in exact)
    for gradient, expected in zip(rounded, exact, strict=True):
        assert float((gradient - expected).norm()) < 0.05 * scale
