"""The objective on masked blocks, compared with the formulas worked out here, position by position, in double."""

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM

from tests import tiny
from tinydistilbert.data.masked_batches import useful_tokens
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.errors import UserError
from tinydistilbert.losses import terms as losses
from tinydistilbert.models.heads import encode
from tinydistilbert.models.matching import Matches, match_layers
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.objective import TERMS
from tinydistilbert.training.job import Batch

VOCABULARY, PAD = 50, 0


def model(seed: int) -> BertForMaskedLM:
    return tiny.model(seed=seed, vocab_size=VOCABULARY, initializer_range=0.5).double()


def batch(*, padded: bool, where: str = "all") -> Batch:
    ids = torch.randint(5, VOCABULARY, (3, 8), generator=torch.Generator().manual_seed(0))
    labels = torch.full_like(ids, -100)
    labels[0, 1], labels[1, 4], labels[2, 2], labels[2, 3] = 7, 9, 11, 13
    counted = torch.ones_like(ids, dtype=torch.bool)
    if padded:
        counted[1, 5:] = False
        counted[2, 4:] = False
        ids = ids.masked_fill(~counted, PAD)
    masked, everywhere = np.flatnonzero(labels != -100), np.flatnonzero(counted)
    soft = masked if where == "masked" else np.concatenate([masked, np.setdiff1d(everywhere, masked)])
    flat = {"masked": masked, "counted": everywhere, "soft": soft}
    made = {"input_ids": ids, "labels": labels, **{k: torch.from_numpy(v) for k, v in flat.items()}}
    return {**made, "attention_mask": counted.long()} if padded else made


def one(loss: PretrainingLoss, student: BertForMaskedLM, what: Batch, step: int = 0) -> dict[str, float]:
    """The plain terms of one micro-batch."""
    shares = loss.token_shares([what])[0]
    term_scales = {name: weight * shares[name] for name, weight in loss.term_weights(step).items()}
    _, terms = loss.loss(ProjectedStudent(student, loss.teacher), what, term_scales, step)
    return {name: float(value) for name, value in terms.items()}


def by_hand(
    student: BertForMaskedLM, teacher: BertForMaskedLM, what: Batch, temperature: float, where: str
) -> dict[str, Tensor]:
    """The three terms as plain loops over positions, from the models' own outputs."""
    mask = what.get("attention_mask")
    s, t = (m(input_ids=what["input_ids"], attention_mask=mask, output_hidden_states=True) for m in (student, teacher))
    kls, crosses, cosines = [], [], []
    for row in range(3):
        for column in range(8):
            if mask is not None and not mask[row, column]:
                continue
            label = int(what["labels"][row, column])
            if where == "all" or label != -100:
                p = torch.softmax(t.logits[row, column] / temperature, 0)
                q = torch.softmax(s.logits[row, column] / temperature, 0)
                kls.append(temperature**2 * (p * (p / q).log()).sum())
            if label != -100:
                crosses.append(-torch.log_softmax(s.logits[row, column], 0)[label])
            a, b = s.hidden_states[-1][row, column], t.hidden_states[-1][row, column]
            cosines.append(1 - a @ b / a.norm() / b.norm())
    return {name: torch.stack(v).mean() for name, v in (("kl", kls), ("mlm", crosses), ("cosine", cosines))}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("where", ["all", "masked"])
def test_terms_and_gradient_equal_the_formulas(padded: bool, where: str) -> None:
    student, teacher, what = model(1), model(2).requires_grad_(False), batch(padded=padded, where=where)
    loss = PretrainingLoss(schema.Objective(kl_positions=where, temperature=3.0), teacher)
    term_scales = {"kl": 5.0, "mlm": 2.0, "cosine": 1.0}
    assert loss.term_weights(0) == term_scales
    total, terms = loss.loss(ProjectedStudent(student, teacher), what, term_scales, 0)
    total.backward()
    gradient = {name: p.grad.clone() for name, p in student.named_parameters() if p.grad is not None}
    student.zero_grad()
    expected = by_hand(student, teacher, what, 3.0, where)
    by_formula = 5 * expected["kl"] + 2 * expected["mlm"] + expected["cosine"]
    by_formula.backward()
    term_values = {name: float(value) for name, value in terms.items()}
    assert term_values == pytest.approx({k: float(v.detach()) for k, v in expected.items()}, rel=1e-9)
    assert float(total.detach()) == pytest.approx(float(by_formula.detach()), rel=1e-9)
    expected_gradient = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
    assert expected_gradient.keys() == gradient.keys() and "cls.predictions.bias" in gradient
    for name, value in expected_gradient.items():
        torch.testing.assert_close(gradient[name], value, rtol=1e-9, atol=1e-12)


def test_shares_follow_the_number_of_positions_of_each_term() -> None:
    full, padded = batch(padded=False), batch(padded=True)
    padded["masked"] = padded["masked"][:2]
    shares = PretrainingLoss(schema.Objective(attention=1), model(2)).token_shares([full, padded])
    # 24 and 17 tokens; 4 and 2 masked; pairs within rows of 8, 8, 8 and of 8, 5, 4 tokens: 192 and 105.
    assert shares[0] == pytest.approx({"kl": 24 / 41, "mlm": 4 / 6, "cosine": 24 / 41, "attention": 192 / 297})
    assert [sum(share[name] for share in shares) for name in shares[0]] == pytest.approx([1.0] * 4)
    assert useful_tokens(full) == 24 and useful_tokens(padded) == 17


def test_a_term_without_weight_is_not_computed() -> None:
    student, teacher, what = model(1), model(2), batch(padded=False)
    matches = Matches((0, 1), (0, 1), 1)
    for name in TERMS:
        only = schema.Objective(**{**dict.fromkeys(TERMS, 0.0), name: 1.0})
        terms = one(PretrainingLoss(only, teacher, matches), student, what)
        assert set(terms) == {name}
    assert set(one(PretrainingLoss(schema.Objective(kl_positions="masked")), student, what)) == {"mlm"}


def test_every_row_of_the_table_has_its_function() -> None:
    assert losses.FUNCTIONS.keys() == TERMS.keys()
    assert {name for name, term in TERMS.items() if term.by_chunks} == {"kl", "mlm"}  # what losses/vocabulary.py knows


@pytest.mark.parametrize("where", ["all", "masked"])
def test_terms_on_logits_are_the_same_by_chunks_and_in_whole(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    # In whole is how a new term on logits is computed, without a line in losses/vocabulary.py.
    what, results = batch(padded=True, where=where), []
    for by_chunks in (True, False):
        for name in ("kl", "mlm"):
            monkeypatch.setitem(TERMS, name, dataclasses.replace(TERMS[name], by_chunks=by_chunks))
        student, teacher = model(1), model(2).requires_grad_(False)
        loss = PretrainingLoss(schema.Objective(temperature=3.0), teacher)
        total, means = loss.loss(ProjectedStudent(student, teacher), what, loss.term_weights(0), 0)
        total.backward()
        gradient = {name: p.grad for name, p in student.named_parameters() if p.grad is not None}
        results.append((total.detach(), dict(means), gradient))
    torch.testing.assert_close(results[0], results[1], rtol=1e-9, atol=1e-12)


def test_no_gradient_reaches_the_teacher() -> None:
    student, teacher = model(1), model(2)
    every = schema.Objective(relation=1, attention=1, hidden=1)
    loss = PretrainingLoss(every, teacher, Matches((0, 1), (0, 1), 1))
    total, _ = loss.loss(ProjectedStudent(student, teacher), batch(padded=True), loss.term_weights(0), 0)
    total.backward()
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(parameter.grad is not None for name, parameter in student.named_parameters() if "pooler" not in name)


def test_every_term_is_zero_for_the_teacher_itself_but_the_masked_lm() -> None:
    every = schema.Objective(relation=1, attention=1, hidden=1)
    terms = one(PretrainingLoss(every, model(2), Matches((0, 1), (0, 1), 1)), model(2), batch(padded=True))
    assert terms.pop("mlm") > 1
    assert terms == pytest.approx(dict.fromkeys(("kl", "cosine", "relation", "attention", "hidden"), 0.0), abs=1e-12)


def test_hidden_states_are_compared_at_the_matched_layers() -> None:
    student, teacher, what = model(1), model(2), batch(padded=True)
    only = schema.Objective(kl=0, mlm=0, cosine=0, hidden=1)
    hidden_term = one(PretrainingLoss(only, teacher, Matches((0, 1), (1, 0), 0)), student, what)["hidden"]
    inputs = {"input_ids": what["input_ids"], "attention_mask": what["attention_mask"], "output_hidden_states": True}
    with torch.no_grad():
        s, t = student(**inputs).hidden_states, teacher(**inputs).hidden_states
    counted = what["attention_mask"].bool()
    crossed = [(s[low + 1][counted] - t[high + 1][counted]).square().mean() for low, high in ((0, 1), (1, 0))]
    assert hidden_term == pytest.approx(float(sum(crossed)) / 2, rel=1e-9)


def test_relations_are_the_mean_of_those_of_queries_keys_and_values() -> None:
    student, teacher, what = model(1), model(2), batch(padded=True)
    only = schema.Objective(kl=0, mlm=0, cosine=0, relation=1, relation_heads=4)
    relation_term = one(PretrainingLoss(only, teacher, Matches((0, 1), (0, 1), 0)), student, what)["relation"]
    mask = what["attention_mask"]
    of_student, of_teacher = (
        encode(m, what["input_ids"], mask, attention=(i,)).layers.attention[i] for m, i in ((student, 1), (teacher, 0))
    )
    visible = mask.bool()[:, :, None] & mask.bool()[:, None, :]
    parts = [
        losses.relation(getattr(of_student, k), getattr(of_teacher, k), 4, visible) for k in ("query", "key", "value")
    ]
    assert relation_term == pytest.approx(float(torch.stack(parts).mean().detach()), rel=1e-9)
    assert len({round(float(part.detach()), 6) for part in parts}) == 3


def test_padding_counts_nowhere_where_documents_are_kept_apart() -> None:
    # There each position may look at itself, padding too, so that no row of the mask is empty.
    student, teacher = model(1), model(2)
    loss = PretrainingLoss(schema.Objective(relation=1, attention=1, hidden=1), teacher, Matches((0, 1), (0, 1), 1))
    terms_and_counts = []
    for extra in (0, 3):
        what = batch(padded=True)
        length = 8 + extra
        wide = torch.full((3, length), PAD)
        wide[:, :8] = what["input_ids"]
        labels = torch.full((3, length), -100)
        labels[:, :8] = what["labels"]
        counted = torch.zeros(3, length, dtype=torch.bool)
        counted[:, :8] = what["attention_mask"].bool()
        masked, everywhere = labels.flatten().ne(-100).nonzero()[:, 0], counted.flatten().nonzero()[:, 0]
        others = everywhere[~torch.isin(everywhere, masked)]
        document = torch.arange(length) // 3  # [CLS] and two more, and so on
        apart = (document[:, None] == document) & counted[:, None, :] | torch.eye(length, dtype=torch.bool)
        made = {"input_ids": wide, "labels": labels, "masked": masked, "counted": everywhere}
        made |= {"soft": torch.cat([masked, others]), "attention_mask": apart[:, None]}
        terms_and_counts.append((one(loss, student, made), loss._counts(made)))
    assert terms_and_counts[0][0] == pytest.approx(terms_and_counts[1][0], rel=1e-9)
    assert terms_and_counts[0][1] == terms_and_counts[1][1]


def test_weights_and_temperature_follow_their_ramps() -> None:
    loss = PretrainingLoss(schema.Objective(kl=(4, 0), mlm=1, temperature=(4, 1)), model(2), steps=5)
    assert [loss.term_weights(step)["kl"] for step in range(5)] == [4, 3, 2, 1, 0]
    what, student = batch(padded=False), model(1)
    for step, temperature in ((0, 4.0), (4, 1.0)):
        expected = by_hand(student, model(2), what, temperature, "all")["kl"]
        assert one(loss, student, what, step)["kl"] == pytest.approx(float(expected.detach()), rel=1e-9)


def test_what_a_cache_holds_takes_the_place_of_the_teacher() -> None:
    student, teacher, what = model(1), model(2), batch(padded=True)
    live = one(PretrainingLoss(schema.Objective(), teacher), student, what)
    mask = what["attention_mask"]
    with torch.no_grad():
        output = teacher(input_ids=what["input_ids"], attention_mask=mask, output_hidden_states=True)
    what["teacher_hidden"] = output.hidden_states[-1]
    torch.set_default_dtype(torch.float64)
    try:
        assert one(PretrainingLoss(schema.Objective(), teacher), student, what) == pytest.approx(live, rel=1e-9)
    finally:
        torch.set_default_dtype(torch.float32)
    del what["teacher_hidden"]
    top = torch.log_softmax(output.logits.flatten(0, 1)[what["soft"]] / 2, -1).topk(VOCABULARY)
    what["teacher_top_ids"], what["teacher_top_log_probabilities"] = top.indices, top.values
    top = one(PretrainingLoss(schema.Objective(cosine=0), teacher), student, what)
    assert top == pytest.approx({name: live[name] for name in ("kl", "mlm")}, rel=1e-6)


def test_a_narrower_student_learns_through_a_projection() -> None:
    sizes = {"hidden_size": 8, "num_attention_heads": 1, "num_hidden_layers": 1}
    narrow, teacher = tiny.model(vocab_size=VOCABULARY, **sizes).double(), model(2)
    projected = ProjectedStudent(narrow, teacher).double()
    loss = PretrainingLoss(schema.Objective(hidden=1, relation=1), teacher, Matches((0,), (1,), 1))
    total, terms = loss.loss(projected, batch(padded=True), loss.term_weights(0), 0)
    total.backward()
    assert terms.keys() == {"kl", "mlm", "cosine", "hidden", "relation"}
    assert projected.projection.weight.shape == (16, 8) and projected.projection.weight.grad.abs().sum() > 0
    assert not any("projection" in name for name in narrow.state_dict())


def test_the_notebooks_loss_is_reproduced_with_its_faults() -> None:
    # KL summed over all positions, padding too, divided by the batch only; cosine of [CLS]; weights 1 : 1 : 1.
    student, teacher, what = model(1), model(2), batch(padded=True)
    objective = dataclasses.replace(recipe_objective_of_the_seed(), temperature=2.0)
    terms = one(PretrainingLoss(objective, teacher), student, what)
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
    assert terms == pytest.approx(expected, rel=1e-9)


def recipe_objective_of_the_seed() -> schema.Objective:
    from tinydistilbert.recipe.toml import load

    return load("seed").objective


@pytest.mark.parametrize("reduction", ["mean", "notebook"])
@pytest.mark.parametrize("where", ["all", "masked"])
def test_blank_lines_alone_count_nothing(reduction: str, where: str) -> None:
    # With packing = "lines" a micro-batch may hold nothing but [CLS] [SEP]: no token can be masked in it.
    what = batch(padded=False)
    blank = {"input_ids": what["input_ids"][:, :2], "labels": what["labels"][:, :2].clone().fill_(-100)}
    blank |= {"masked": torch.empty(0, dtype=torch.long), "counted": torch.arange(6)}
    blank["soft"] = blank["counted"] if where == "all" else blank["masked"]
    student = model(1)
    loss = PretrainingLoss(schema.Objective(kl_positions=where, reduction=reduction), model(2))
    total, terms = loss.loss(ProjectedStudent(student), blank, loss.term_weights(0), 0)
    assert float(terms["mlm"]) == 0 and all(torch.isfinite(value) for value in terms.values())
    assert terms.keys() == {"kl", "mlm", "cosine"}
    total.backward()


def configs(**changes: int) -> tuple[BertConfig, BertConfig]:
    teacher = BertConfig(num_hidden_layers=12, hidden_size=48, num_attention_heads=6)
    return teacher, BertConfig(**{"num_hidden_layers": 6, "hidden_size": 48, "num_attention_heads": 6, **changes})


def matched(objective: schema.Objective, **changes: int) -> Matches:
    return match_layers(objective, schema.Student(), *configs(**changes))


def test_layers_are_matched_as_the_recipe_says() -> None:
    assert matched(schema.Objective()).teacher_layers == (1, 3, 5, 7, 9, 11)  # TinyBERT's uniform map, from 0
    assert matched(schema.Objective(matched_layers="copied")).teacher_layers == (0, 2, 4, 7, 9, 11)
    matches = matched(schema.Objective(matched_layers=(0, 1, 2, 3, 4, 11), relation_layer=-3))
    assert matches == Matches((0, 1, 2, 3, 4, 5), (0, 1, 2, 3, 4, 11), 9)


@pytest.mark.parametrize(
    ("objective", "changes", "key", "shown_value"),
    [
        ({"matched_layers": (0, 1, 2)}, {}, "objective.matched_layers", "[0, 1, 2]"),
        ({"matched_layers": (0, 1, 2, 3, 4, 12)}, {}, "objective.matched_layers", "12"),
        ({"relation_layer": 12}, {}, "objective.relation_layer", "12"),
        ({"relation_layer": -13}, {}, "objective.relation_layer", "-13"),
        ({"relation": 1, "relation_heads": 5}, {}, "objective.relation_heads", "5"),
        ({"relation": 1}, {"hidden_size": 32, "num_attention_heads": 4}, "objective.relation_heads", "6"),
        ({"attention": 1}, {"hidden_size": 24, "num_attention_heads": 3}, "objective.attention", "3"),
    ],
)
def test_layers_and_heads_that_do_not_fit_are_refused(
    objective: dict, changes: dict, key: str, shown_value: str
) -> None:
    with pytest.raises(UserError, match=key) as error:
        matched(schema.Objective(**objective), **changes)
    assert shown_value in str(error.value)
