"""Masked batches: what is in them, that they are a pure function of the step, and who may look at whom."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tinydistilbert.data.corpus import TokenBlocks
from tinydistilbert.data.masked_batches import MaskedBatches, document_mask, validation_batches
from tinydistilbert.data.masking import mask_tokens, token_chances
from tinydistilbert.recipe import schema

PAD, UNK, CLS, SEP, MASK = SPECIAL = (0, 1, 2, 3, 4)
VOCABULARY, LENGTH = 60, 12


def make_blocks(rows: int, *, padded: bool = False) -> TokenBlocks:
    random = np.random.default_rng(rows)
    ids = random.integers(5, VOCABULARY, size=(rows, LENGTH))
    ids[:, 5] = np.arange(rows) % (VOCABULARY - 5) + 5  # tells the blocks apart
    ids[:, 0], ids[:, -1], ids[::2, 7] = CLS, SEP, SEP
    if padded:
        ids[::2, 8:] = PAD
    counts = np.bincount(ids.ravel(), minlength=VOCABULARY)
    return TokenBlocks(
        train=ids.astype(np.uint16), validation=ids[::-1].astype(np.uint16), token_counts=counts,
        continues_word=np.arange(VOCABULARY) % 4 == 5 % 4, pad_token_id=PAD, sep_token_id=SEP, special_ids=SPECIAL,
        mask_token_id=MASK, vocab_size=VOCABULARY, fingerprint="", folder=Path(), manifest={},
    )  # fmt: skip


def make(blocks: TokenBlocks, **changed: Any) -> MaskedBatches:
    sections = {
        "optimization": {"batch_size": 4, "gradient_accumulation_steps": 1},
        "objective": {"kl_positions": "all", "kl_sampled_share": 0.3, "reduction": "mean"},
    }  # fmt: skip
    of_sections = {
        section: {key: changed.pop(key, value) for key, value in settings.items()}
        for section, settings in sections.items()
    }
    others: dict[str, Any] = {"masking": schema.Masking(), "seed": 0, "steps": 10, "attention": "block", **changed}
    return MaskedBatches(
        blocks=blocks, optimization=schema.Optimization(**of_sections["optimization"]),
        objective=schema.Objective(**of_sections["objective"]), **others,
    )  # fmt: skip


def joined(batches: list[dict[str, torch.Tensor]], name: str) -> list[Any]:
    return torch.cat([batch[name] for batch in batches]).tolist()


def test_positions_are_those_of_the_labels_and_of_the_text() -> None:
    blocks = make_blocks(9, padded=True)
    batches = make(blocks, batch_size=3, gradient_accumulation_steps=3)(0)
    assert [len(batch["input_ids"]) for batch in batches] == [3, 3, 3]
    for batch in batches:
        labels, ids = batch["labels"].flatten(), batch["input_ids"].flatten()
        assert batch["masked"].tolist() == [i for i in range(len(labels)) if labels[i] != -100]
        assert batch["counted"].tolist() == [i for i in range(len(ids)) if ids[i] != PAD]
        assert batch["attention_mask"].flatten().tolist() == [int(token != PAD) for token in ids]


def test_without_padding_there_is_no_mask() -> None:
    assert "attention_mask" not in make(make_blocks(9))(0)[0]


def test_the_kl_is_taken_where_the_recipe_says() -> None:
    blocks = make_blocks(400, padded=True)
    everywhere, masked, sampled = (
        make(blocks, kl_positions=where, batch_size=400)(0)[0] for where in ("all", "masked", "sampled")
    )
    assert sorted(everywhere["soft"].tolist()) == everywhere["counted"].tolist()
    for batch in (everywhere, masked, sampled):
        count = len(batch["masked"])
        soft = batch["soft"].tolist()
        assert soft[:count] == batch["masked"].tolist() and soft[count:] == sorted(soft[count:]), "masked ones first"
    assert masked["soft"].tolist() == masked["masked"].tolist()
    soft, guessed, counted = (set(sampled[name].tolist()) for name in ("soft", "masked", "counted"))
    assert guessed < soft < counted and len(soft) == len(sampled["soft"])
    others = len(counted - guessed)
    assert len(soft - guessed) / others == pytest.approx(0.3, abs=5 * (0.3 * 0.7 / others) ** 0.5)
    for name in ("input_ids", "labels"):
        assert torch.equal(everywhere[name], sampled[name]), "the masks do not depend on it"
    assert make(blocks, kl_positions="sampled", batch_size=400)(1)[0]["soft"].tolist() != sampled["soft"].tolist()


@pytest.mark.parametrize("reduction", ["mean", "notebook"])
def test_accumulation_only_cuts_a_step(reduction: str) -> None:
    blocks = make_blocks(21, padded=True)
    for step in range(6):
        whole, parts = (
            make(
                blocks, batch_size=size, gradient_accumulation_steps=8 // size, kl_positions="sampled",
                reduction=reduction,
            )(step)
            for size in (8, 2)
        )  # fmt: skip
        assert len(whole) == 1
        for name in ("input_ids", "labels"):
            assert joined(whole, name) == joined(parts, name)
        for name in ("masked", "counted", "soft"):
            starts = np.cumsum([0, *(batch["input_ids"].numel() for batch in parts[:-1])])
            moved = [
                place + start for batch, start in zip(parts, starts, strict=True) for place in batch[name].tolist()
            ]
            assert sorted(whole[0][name].tolist()) == sorted(moved)


def test_a_step_does_not_depend_on_what_was_asked_before() -> None:
    blocks = make_blocks(10)
    masking = schema.Masking(rate=(0.1, 0.5), smoothing=0.7, whole_words=True)
    one = make(blocks, masking=masking, kl_positions="sampled")
    for step in reversed(range(5)):
        one(step)
    for batch, again in zip(one(3), make(blocks, masking=masking, kl_positions="sampled")(3), strict=True):
        assert all(torch.equal(batch[name], again[name]) for name in batch)


def shares(batches: MaskedBatches, steps: int) -> list[float]:
    step_shares = []
    for step in range(steps):
        (batch,) = batches(step)
        step_shares.append(len(batch["masked"]) / int((batch["input_ids"] > 0).sum()))
    return step_shares


def test_a_rate_of_two_numbers_changes_evenly_from_the_first_step_to_the_last() -> None:
    blocks = make_blocks(1000)
    step_shares = shares(make(blocks, masking=schema.Masking(rate=(0.6, 0.2)), steps=5, batch_size=1000), 5)
    ordinary = float((blocks.train > MASK).mean())
    assert step_shares == pytest.approx([rate * ordinary for rate in (0.6, 0.5, 0.4, 0.3, 0.2)], abs=0.03)
    (constant,) = shares(make(blocks, masking=schema.Masking(rate=0.6), steps=1, batch_size=1000), 1)
    assert constant == step_shares[0], "the same draws below the same rate"


@pytest.mark.parametrize("masking", [schema.Masking(smoothing=0.7), schema.Masking(whole_words=True)])
def test_smoothing_and_whole_words_reach_the_masks(masking: schema.Masking) -> None:
    blocks = make_blocks(8)
    batches = make(blocks, masking=masking, batch_size=8)
    original = blocks.train[batches.chosen(2)[0]].astype(np.int64)
    chances = token_chances(blocks.token_counts, 0.15, 0.7, SPECIAL)
    masked, labels = mask_tokens(
        original, masking, chance=chances if masking.smoothing else 0.15,
        continues_word=blocks.continues_word if masking.whole_words else None,
        special_ids=SPECIAL, mask_token_id=MASK, vocab_size=VOCABULARY, seed=0, step=2,
    )  # fmt: skip
    (batch,) = batches(2)
    assert batch["input_ids"].tolist() == masked.tolist() and batch["labels"].tolist() == labels.tolist()
    assert batch["input_ids"].tolist() != make(blocks, batch_size=8)(2)[0]["input_ids"].tolist()


def originals(batches: MaskedBatches, step: int) -> list[int]:
    """The tokens at position 5, by which the blocks are told apart."""
    made = batches(step)
    return [
        int(ids[5] if labels[5] == -100 else labels[5])
        for batch in made
        for ids, labels in zip(batch["input_ids"], batch["labels"], strict=True)
    ]


def test_where_epochs_end_steps_the_last_has_what_is_left() -> None:
    """11 blocks by 2, 3 at a time: steps of 6 and 5 blocks, the last of these in micro-batches of 2, 2 and 1."""
    batches = make(make_blocks(11), batch_size=2, gradient_accumulation_steps=3, reduction="notebook")
    assert batches.steps_per_epoch == 2
    sizes = [[len(batch["input_ids"]) for batch in batches(step)] for step in range(4)]
    assert sizes == [[2, 2, 2], [2, 2, 1]] * 2
    epochs = [originals(batches, 2 * epoch) + originals(batches, 2 * epoch + 1) for epoch in range(2)]
    assert all(sorted(epoch) == list(range(5, 16)) for epoch in epochs) and epochs[0] != epochs[1]
    assert batches.chosen(3)[1].tolist() == [1] * 5


def test_an_epoch_that_ends_no_step_goes_on_in_the_next() -> None:
    batches = make(make_blocks(10), batch_size=4)
    seen = [place for step in range(5) for place in originals(batches, step)]
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(5, 15))
    assert batches.chosen(2)[1].tolist() == [0, 0, 1, 1]


def test_tokens_look_within_their_own_document_only() -> None:
    """By hand: [CLS] a a [SEP] b [SEP] of two documents."""
    ids = np.array([[CLS, 8, 9, SEP, 10, SEP]])
    mask = document_mask(ids, SEP, ids != PAD)
    first = [1, 1, 1, 1, 0, 0]
    second = [0, 0, 0, 0, 1, 1]
    assert mask.shape == (1, 1, 6, 6) and mask.dtype == bool
    assert mask[0, 0].astype(int).tolist() == [first, first, first, first, second, second]


def test_nobody_looks_at_padding_but_padding_at_itself() -> None:
    ids = np.array([[CLS, 8, SEP, PAD, PAD]])
    mask = document_mask(ids, SEP, ids != PAD)[0, 0].astype(int).tolist()
    assert mask == [[1, 1, 1, 0, 0]] * 3 + [[0, 0, 0, 1, 0], [0, 0, 0, 0, 1]]


def test_batches_carry_the_mask_of_documents_from_before_tokens_were_hidden() -> None:
    blocks = make_blocks(6)
    batches = make(blocks, attention="documents", batch_size=3, gradient_accumulation_steps=2)
    original = blocks.train[batches.chosen(0)[0]]
    expected = document_mask(original, SEP, original != PAD)
    made = batches(0)
    assert made[0]["attention_mask"].dtype == torch.bool
    assert joined(made, "attention_mask") == expected.tolist()


def test_validation_does_not_depend_on_the_recipe() -> None:
    blocks = make_blocks(40)
    batches = list(validation_batches(blocks, 20, attention="block"))
    assert [len(batch["input_ids"]) for batch in batches] == [16, 4]
    for batch, start in zip(batches, (0, 16), strict=True):
        original = blocks.validation[start : start + len(batch["input_ids"])].astype(np.int64)
        masked, labels = mask_tokens(
            original, schema.Masking(rate=0.15, mask_share=0.8, random_share=0.1), chance=0.15, special_ids=SPECIAL,
            mask_token_id=MASK, vocab_size=VOCABULARY, seed=1, step=start,
        )  # fmt: skip
        assert batch["input_ids"].tolist() == masked.tolist() and batch["labels"].tolist() == labels.tolist()
        assert batch["soft"].tolist() == batch["masked"].tolist()
    assert len(list(validation_batches(blocks, 0, attention="block"))) == 3, "0 is all"
    (first, *_) = validation_batches(blocks, 20, attention="documents")
    assert first["attention_mask"].shape == (16, 1, LENGTH, LENGTH)
    assert torch.equal(first["input_ids"], batches[0]["input_ids"])


def test_rates_of_a_seed_are_those_of_another_with_other_masks() -> None:
    blocks = make_blocks(8)
    one, other = make(blocks, batch_size=8), replace(make(blocks, batch_size=8), seed=1)
    assert one(0)[0]["masked"].tolist() != other(0)[0]["masked"].tolist()
