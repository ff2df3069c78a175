"""The objective on masked blocks, compared with the formulas worked out here, position by position, in double."""

import dataclasses

import numpy as np
import pytest
import torch
from transformers import BertConfig, BertForMaskedLM

from tinydistilbert import recipe
from tinydistilbert.data.masked import useful_tokens
from tinydistilbert.pretraining import PretrainingLoss
from tinydistilbert.training import Batch

VOCABULARY, PAD = 50, 0


def model(seed: int) -> BertForMaskedLM:
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY, hidden_size=16, num_attention_heads=2, intermediate_size=24, num_hidden_layers=2,
        initializer_range=0.5,
    )  # fmt: skip
    return BertForMaskedLM(config).double().eval()


def batch(*, padded: bool) -> Batch:
    ids = torch.randint(5, VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[0, 1], labels[1, 4], labels[2, 2], labels[2, 3] = 7, 9, 11, 13
    counted = torch.ones_like(ids, dtype=torch.bool)
    if padded:
        counted[1, 5:] = False
        counted[2, 4:] = False
        ids = ids.masked_fill(~counted, PAD)
    flat = {"masked": np.flatnonzero(labels != -100), "counted": np.flatnonzero(counted)}
    made = {"input_ids": ids, "labels": labels, **{k: torch.from_numpy(v) for k, v in flat.items()}}
    return {**made, "attention_mask": counted.long()} if padded else made


def by_hand(student: BertForMaskedLM, teacher: BertForMaskedLM, what: Batch, temperature: float, where: str) -> dict:
    """The three terms as plain loops over positions, from the models' own outputs."""
    mask = what.get("attention_mask")
    with torch.no_grad():
        s, t = (
            m(input_ids=what["input_ids"], attention_mask=mask, output_hidden_states=True) for m in (student, teacher)
        )
    kls, crosses, cosines = [], [], []
    for row in range(3):
        for column in range(8):
            if mask is not None and not mask[row, column]:
                continue
            label = int(what["labels"][row, column])
            if where == "all" or label != -100:
                p = torch.softmax(t.logits[row, column] / temperature, 0)
                q = torch.softmax(s.logits[row, column] / temperature, 0)
                kls.append(temperature**2 * float((p * (p / q).log()).sum()))
            if label != -100:
                crosses.append(-float(torch.log_softmax(s.logits[row, column], 0)[label]))
            a, b = s.hidden_states[-1][row, column], t.hidden_states[-1][row, column]
            cosines.append(1 - float(a @ b / a.norm() / b.norm()))
    return {"kl": sum(kls) / len(kls), "mlm": sum(crosses) / len(crosses), "cosine": sum(cosines) / len(cosines)}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("where", ["all", "masked"])
def test_terms_equal_the_formulas(padded: bool, where: str) -> None:
    student, teacher, what = model(1), model(2), batch(padded=padded)
    loss = PretrainingLoss(recipe.Objective(kl_positions=where, temperature=3.0), teacher)
    found = {name: float(value.detach()) for name, value in loss.terms(student, what).items()}
    assert found == pytest.approx(by_hand(student, teacher, what, 3.0, where), rel=1e-9)
    masked, counted = 4, 17 if padded else 24
    assert loss.counts(what) == {"kl": counted if where == "all" else masked, "mlm": masked, "cosine": counted}
    assert useful_tokens(what) == counted


def test_a_term_without_weight_is_not_computed() -> None:
    student, teacher, what = model(1), model(2), batch(padded=False)
    for name in ("kl", "mlm", "cosine"):
        only = recipe.Objective(**{**dict.fromkeys(("kl", "mlm", "cosine"), 0.0), name: 1.0})
        loss = PretrainingLoss(only, teacher)
        assert set(loss.weights) == set(loss.terms(student, what)) == {name}
    assert set(PretrainingLoss(recipe.Objective()).terms(student, what)) == {"mlm"}


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = model(1), model(2)
    terms = PretrainingLoss(recipe.Objective(), teacher).terms(student, batch(padded=False))
    sum(terms.values()).backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for name, parameter in student.named_parameters() if "pooler" not in name)


def test_the_notebooks_loss_is_reproduced_with_its_faults() -> None:
    # KL summed over all positions, padding too, divided by the batch only; cosine of [CLS]; weights 1 : 1 : 1.
    student, teacher, what = model(1), model(2), batch(padded=True)
    objective = dataclasses.replace(recipe_objective_of_the_seed(), temperature=2.0)
    found = PretrainingLoss(objective, teacher).terms(student, what)
    with torch.no_grad():
        s, t = (
            m(input_ids=what["input_ids"], attention_mask=what["attention_mask"], output_hidden_states=True)
            for m in (student, teacher)
        )
        p, q = torch.softmax(t.logits / 2, -1), torch.softmax(s.logits / 2, -1)
        kl = 4 * (p * (p.log() - q.log())).sum() / 3
        cls = 1 - torch.cosine_similarity(s.hidden_states[-1][:, 0], t.hidden_states[-1][:, 0]).mean()
        cross = torch.nn.functional.cross_entropy(s.logits.flatten(0, 1), what["labels"].flatten(), ignore_index=-100)
    expected = {"kl": float(kl), "cosine": float(cls), "mlm": float(cross)}
    assert {name: float(value.detach()) for name, value in found.items()} == pytest.approx(expected, rel=1e-9)


def recipe_objective_of_the_seed() -> recipe.Objective:
    from tinydistilbert.recipe_file import load

    return load("seed").objective


@pytest.mark.parametrize("reduction", ["mean", "notebook"])
@pytest.mark.parametrize("where", ["all", "masked"])
def test_blank_lines_alone_count_nothing(reduction: str, where: str) -> None:
    # With packing = "lines" a micro-batch may hold nothing but [CLS] [SEP]: no token can be masked in it.
    what = batch(padded=False)
    blank = {"input_ids": what["input_ids"][:, :2], "labels": what["labels"][:, :2].clone().fill_(-100)}
    blank |= {"masked": torch.empty(0, dtype=torch.long), "counted": torch.arange(6)}
    student = model(1)
    loss = PretrainingLoss(recipe.Objective(kl_positions=where, reduction=reduction), model(2))
    terms = loss.terms(student, blank)
    assert float(terms["mlm"].detach()) == 0 and all(torch.isfinite(value) for value in terms.values())
    sum(terms.values()).backward()
