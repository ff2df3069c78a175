"""What a fine-tuning leaves out changes nothing: other tokens of the last layer, and words that do not occur."""

import copy
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    PreTrainedModel,
)

from tests import tiny
from tinydistilbert.models.capture import encoder_layers
from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.first_token import first_token_only
from tinydistilbert.models.used_words import only_used_words
from tinydistilbert.recipe.schema import Optimization
from tinydistilbert.training.optimizer import learning_rate_factor, make_optimizer


def classifier(family: str, seed: int = 0) -> PreTrainedModel:
    return tiny.model(family, "classification", seed=seed, vocab_size=60, num_labels=3)


def batch() -> dict[str, torch.Tensor]:
    ids = torch.tensor([[5, 7, 9, 11, 1, 1], [6, 8, 30, 31, 32, 40]])
    return {"input_ids": ids, "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0], [1] * 6])}


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra", "mpnet", "modernbert"])
@pytest.mark.parametrize("quick", [False, True])
def test_the_first_token_alone_gives_the_same_logits_and_gradients(family: str, quick: bool) -> None:
    model = classifier(family)
    plain = model(**batch()).logits
    plain[:, 0].sum().backward()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    lengths: list[int] = []
    hook = encoder_layers(model)[-1].register_forward_hook(
        lambda _m, _i, out: lengths.append((out[0] if family == "mpnet" else out).shape[1])
    )
    with quick_dropout(model) if quick else nullcontext(), first_token_only(model), first_token_only(model):
        logits = model(**batch()).logits
    logits[:, 0].sum().backward()
    hook.remove()
    assert torch.allclose(logits, plain, atol=1e-6)
    assert lengths == [6 if family == "modernbert" else 1]
    for name, parameter in model.named_parameters():
        if name in gradients:
            assert parameter.grad is not None and torch.allclose(parameter.grad, gradients[name], atol=1e-6), name
    assert "forward" not in vars(encoder_layers(model)[-1])


def train(model: Any, steps: int, settings: Optimization) -> None:
    optimizer = make_optimizer(model, settings)
    ids = torch.tensor([[2, 5, 9, 5], [2, 7, 3, 1]])
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * learning_rate_factor(step, steps, settings.warmup_ratio)
        loss = model(input_ids=ids, attention_mask=(ids != 1).long()).logits.square().sum()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()


@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_training_on_the_words_that_occur_ends_where_training_on_all_does(family: str) -> None:
    settings = Optimization(learning_rate=1e-2, weight_decay=0.1, warmup_ratio=0.2)
    whole = classifier(family)
    cut = copy.deepcopy(whole)
    train(whole, 7, settings)

    with only_used_words(cut, [np.array([2, 5, 9]), np.array([7, 3, 1])]) as decay_others:
        assert cut.get_input_embeddings().num_embeddings == 7
        with pytest.raises(IndexError):
            cut(input_ids=torch.tensor([[2, 50]]))
        train(cut, 7, settings)
        factor = 1.0
        for step in range(7):
            factor *= 1 - 1e-2 * learning_rate_factor(step, 7, 0.2) * 0.1
        decay_others(factor)
    cut_weights, whole_weights = cut.state_dict(), whole.state_dict()
    assert cut_weights.keys() == whole_weights.keys()
    for name, value in whole_weights.items():
        assert torch.allclose(cut_weights[name], value, atol=2e-6), name
    assert not torch.equal(
        whole.get_input_embeddings().weight[50], classifier(family, seed=1).get_input_embeddings().weight[50]
    )
