"""The preset `seed` is TinyDistilBERT's notebook as published, its faults included.

What the notebook did is written here once more, from its description, with torch, transformers' scheduler and
transformers' BERT alone; the preset must do the same.
"""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import BertForMaskedLM, get_linear_schedule_with_warmup

from tests import tiny
from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masked_batches import MaskedBatches
from tinydistilbert.distillation.distill import distill_steps
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.recipe.schema import Masking, Optimization, Recipe, to_dict
from tinydistilbert.recipe.toml import from_dict, load, merge
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob
from tinydistilbert.training.loop import train
from tinydistilbert.training.optimizer import learning_rate_factor, make_optimizer

LINES, STEPS, STEPS_PER_EPOCH, WARMUP_STEPS = 36_718, 27, 9, 2
PAD, CLS, SEP, MASK, VOCABULARY = 0, 2, 3, 4, 40
SEED = load("seed")


def lines(count: int, length: int) -> TokenBlocks:
    """A corpus of padded lines: [CLS] some words [SEP], of every length that fits."""
    ids = np.random.default_rng(0).integers(5, VOCABULARY, size=(count, length)).astype(np.uint16)
    ids[:, 0] = CLS
    for row in range(count):
        end = 3 + row % (length - 3)
        ids[row, end] = SEP
        ids[row, end + 1 :] = PAD
    return TokenBlocks(
        train=ids, validation=ids[:2], token_counts=np.bincount(ids.ravel(), minlength=VOCABULARY),
        continues_word=np.zeros(VOCABULARY, bool), pad_token_id=PAD, sep_token_id=SEP, special_ids=(0, 1, 2, 3, 4),
        mask_token_id=MASK, vocab_size=VOCABULARY, fingerprint="", folder=Path(), manifest={},
    )  # fmt: skip


def bert(seed: int, layers: int) -> BertForMaskedLM:
    settings = {"vocab_size": VOCABULARY, "num_hidden_layers": layers, "max_position_embeddings": 16}
    without_dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    return tiny.model(seed=seed, initializer_range=0.3, **settings, **without_dropout).double()


def notebook_loss(student: BertForMaskedLM, teacher: BertForMaskedLM, batch: Batch) -> Tensor:
    """MLM + 4 · batchmean KL at T = 2 over all of [batch, length, vocabulary] + the cosine embedding loss at [CLS]."""
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"], "output_hidden_states": True}
    teacher_output = teacher(**inputs)
    student_output = student(**inputs, labels=batch["labels"])
    tempered = F.log_softmax(student_output.logits / 2, dim=-1), F.softmax(teacher_output.logits / 2, dim=-1)
    soft = torch.nn.KLDivLoss(reduction="batchmean")(*tempered) * 4
    target = torch.ones(len(batch["input_ids"]))
    direction = torch.nn.CosineEmbeddingLoss()(
        student_output.hidden_states[-1][:, 0], teacher_output.hidden_states[-1][:, 0], target
    )
    return student_output.loss + soft + direction


def small_seed(**optimization: float) -> Recipe:
    """The preset for a tiny corpus; many tokens are masked, for the notebook has no loss where none is."""
    changes = {"distill": {"optimization": optimization}, "masking": {"rate": 0.5}}
    return from_dict(merge(to_dict(SEED), changes), "small seed")


def batches_of(recipe: Recipe, blocks: TokenBlocks, steps: int) -> MaskedBatches:
    setup = PretrainingSetup.of(recipe, blocks, torch.device("cpu"))
    return setup.batches(recipe.objective, recipe.distill.optimization, steps=steps)


def parts_of(recipe: Recipe, blocks: TokenBlocks, teacher: BertForMaskedLM) -> tuple[MaskedBatches, PretrainingLoss]:
    steps = distill_steps(recipe.distill, recipe.objective, len(blocks.train))
    batches = batches_of(recipe, blocks, steps)
    accumulation = recipe.distill.optimization.gradient_accumulation_steps
    return batches, PretrainingLoss(recipe.objective, teacher, steps=steps, accumulation=accumulation)


def test_the_settings_are_those_of_the_notebook() -> None:
    assert SEED.distill.optimization == Optimization(
        learning_rate=5e-4, weight_decay=0.01, decayed="all", adam_beta1=0.9, adam_beta2=0.999, adam_epsilon=1e-8,
        warmup_ratio=0.1, warmup_start="zero", max_grad_norm=0, batch_size=16, gradient_accumulation_steps=256,
    )  # fmt: skip
    assert SEED.precision == "fp32" and SEED.adapt.tokens == 0 and SEED.distill.epochs == 3
    assert (SEED.corpus.packing, SEED.corpus.block_size) == ("lines", 128)
    assert (SEED.student.initialization, SEED.student.num_hidden_layers) == ("random", 0)  # 0: 6 of BERT's 12
    assert SEED.masking == Masking(rate=0.15, mask_share=0.8, random_share=0.1)
    objective = SEED.objective
    assert (objective.kl, objective.mlm, objective.cosine, objective.temperature) == (1, 1, 1, 2)


def test_the_learning_rates_are_those_of_transformers_schedule_over_27_steps() -> None:
    model = torch.nn.Linear(1, 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-4)
    schedule = get_linear_schedule_with_warmup(optimizer, WARMUP_STEPS, STEPS)
    expected = []
    for _ in range(STEPS):
        expected.append(schedule.get_last_lr()[0])
        optimizer.step()
        schedule.step()
    settings = SEED.distill.optimization
    steps, from_zero = distill_steps(SEED.distill, SEED.objective, LINES), settings.warmup_start == "zero"
    rates = [
        settings.learning_rate * learning_rate_factor(step, steps, settings.warmup_ratio, from_zero=from_zero)
        for step in range(STEPS)
    ]
    assert rates == pytest.approx(expected, rel=1e-12)
    assert rates[:3] == pytest.approx([0, 2.5e-4, 5e-4]) and rates[-1] == pytest.approx(5e-4 / 25)


def test_weight_decay_is_on_every_parameter() -> None:
    student = bert(1, 2)
    optimizer = make_optimizer(ProjectedStudent(student, bert(2, 2)), SEED.distill.optimization)
    decays = {id(parameter): group["weight_decay"] for group in optimizer.param_groups for parameter in group["params"]}
    assert decays == {id(parameter): 0.01 for parameter in student.parameters()}


def test_27_steps_are_three_epochs_of_nine_and_none_crosses_an_epoch() -> None:
    blocks = lines(LINES, 8)
    assert distill_steps(SEED.distill, SEED.objective, LINES) == STEPS
    batches = batches_of(SEED, blocks, STEPS)
    orders = []
    for epoch in range(3):
        steps = [batches.chosen(step)[0] for step in range(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH)]
        assert [len(step) for step in steps] == [16 * 256] * 8 + [16 * 246 + 14]
        orders.append(np.concatenate(steps))
        assert (np.sort(orders[-1]) == np.arange(LINES)).all(), "each line once an epoch"
    assert not (orders[0] == orders[1]).all() and not (orders[1] == orders[2]).all()
    assert [len(batch["input_ids"]) for batch in batches(0)] == [16] * 256
    assert [len(batch["input_ids"]) for batch in batches(8)] == [16] * 246 + [14]


def test_the_gradient_of_a_short_step_is_the_notebooks() -> None:
    # 20 lines in micro-batches of 3, 4 to a step: the second step of an epoch has 3 micro-batches, the last of 2 lines.
    # Each loss is divided by 4 all the same.
    student, teacher = bert(1, 2), bert(2, 3)
    recipe = small_seed(batch_size=3, gradient_accumulation_steps=4)
    batches, loss = parts_of(recipe, lines(20, 8), teacher.requires_grad_(False))
    micro_batches = batches(1)
    assert [len(batch["input_ids"]) for batch in micro_batches] == [3, 3, 2]

    expected = copy.deepcopy(student)
    for batch in micro_batches:
        (notebook_loss(expected, teacher, batch) / 4).backward()

    projected = ProjectedStudent(student, teacher)
    for batch, share in zip(micro_batches, loss.token_shares(micro_batches), strict=True):
        term_scales = {name: weight * share[name] for name, weight in loss.term_weights(1).items()}
        total, terms = loss.loss(projected, batch, term_scales, 1)
        assert set(terms) == {"kl", "mlm", "cosine"}
        assert total.item() == pytest.approx(
            notebook_loss(student, teacher, batch).item() / 4, rel=1e-6
        )  # summed in fp32
        total.backward()
    for (name, parameter), expected_parameter in zip(student.named_parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(
            parameter.grad, expected_parameter.grad, rtol=1e-8, atol=1e-12, msg=lambda text, name=name: name + text
        )


@pytest.mark.long
def test_a_small_training_ends_with_the_notebooks_weights(tmp_path: Path) -> None:
    # 20 lines, 3 · 4 to a step: 2 steps an epoch, 6 in all, of which int(0.4 · 6) = 2 are warm-up.
    student, teacher = bert(1, 2), bert(2, 3)
    recipe = small_seed(batch_size=3, gradient_accumulation_steps=4, warmup_ratio=0.4)
    batches, loss = parts_of(recipe, lines(20, 8), teacher.requires_grad_(False))
    assert loss.steps == 6

    expected = copy.deepcopy(student)
    optimizer = torch.optim.AdamW(expected.parameters(), lr=5e-4, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.01)
    schedule = get_linear_schedule_with_warmup(optimizer, 2, 6)
    for step in range(6):
        for batch in batches(step):
            (notebook_loss(expected, teacher, batch) / 4).backward()
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()

    before = copy.deepcopy(student)
    job = TrainingJob(
        steps=loss.steps, micro_batches=batches, token_shares=loss.token_shares, term_weights=loss.term_weights,
        loss=loss.loss, tokens=lambda batch: len(batch["counted"]),
    )  # fmt: skip
    train(
        ProjectedStudent(student, teacher), job, recipe.distill.optimization,
        Compute.of(recipe, torch.device("cpu")), seed=0, folder=tmp_path, label="seed",
    )  # fmt: skip
    for weight, wanted, start in zip(student.parameters(), expected.parameters(), before.parameters(), strict=True):
        torch.testing.assert_close(weight, wanted, rtol=1e-7, atol=1e-9)
        assert not torch.equal(weight, start)
