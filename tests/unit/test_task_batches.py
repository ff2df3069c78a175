"""Batches of a fine-tuning where each size of matrices costs something: few lengths, and the same tokens."""

import numpy as np
import pytest
import torch

from tinydistilbert.finetuning.batches import TaskBatches, padded_length
from tinydistilbert.finetuning.soft_targets import SoftTargets
from tinydistilbert.recipe.schema import Optimization
from tinydistilbert.tasks.base import Kind
from tinydistilbert.tasks.encoding import Features


def batches_of(lengths: list[int], *, few_sizes: bool) -> TaskBatches:
    every = np.arange(len(lengths))
    ids = [np.arange(1, length + 1) for length in lengths]
    features = Features(ids, [np.zeros_like(row) for row in ids], every, every)
    return TaskBatches(features, "classification", Optimization(batch_size=2), 0, 0, False, None, few_sizes)


def test_few_lengths_and_little_padding() -> None:
    padded = {length: padded_length(length) for length in range(1, 513)}
    assert all(length <= longer <= 1.125 * length for length, longer in padded.items())
    assert len(set(padded.values())) == 16 + 5 * 8  # as it is up to 16, then 8 lengths up to each power of 2
    assert 0.03 < np.mean([padded[length] / length - 1 for length in range(17, 513)]) < 0.05  # as its docstring says
    assert padded_length(128) == 128
    assert padded_length(129) == 144


@pytest.mark.parametrize(("longest", "expected"), [(57, {57}), (61, {60, 61})])
def test_no_batch_is_longer_than_the_longest_input(longest: int, expected: set[int]) -> None:
    batches = batches_of([longest, longest, 57, 57], few_sizes=True)
    lengths = {batch["input_ids"].shape[1] for step in range(2) for batch in batches(step)}
    assert lengths == expected


def test_the_tokens_are_the_same() -> None:
    lengths = [3, 17, 18, 33, 40, 41, 60, 61]
    plain, few = (batches_of(lengths, few_sizes=few) for few in (False, True))
    sizes = set()
    for step in range(8):
        for one, other in zip(plain(step), few(step), strict=True):
            width = one["input_ids"].shape[1]
            sizes |= {other["input_ids"].shape[1]}
            assert torch.equal(other["input_ids"][:, :width], one["input_ids"])
            assert torch.equal(other["attention_mask"].sum(1), one["attention_mask"].sum(1))
            assert not other["attention_mask"][:, width:].any()
    assert sizes <= {padded_length(size) for size in range(1, 62)} | {61}


@pytest.mark.parametrize("kind", ["span", "token-classification"])
def test_soft_targets_of_tokens_are_as_long_as_the_inputs(kind: Kind) -> None:
    lengths, every = [33, 35, 61, 62], np.arange(4)
    ids = [np.arange(1, length + 1) for length in lengths]
    words = [np.arange(1, length - 1, dtype=np.int32) for length in lengths] if kind != "span" else None
    offsets = [np.zeros((length, 2), dtype=np.int32) for length in lengths] if kind == "span" else None
    labels = np.zeros((4, 2 if kind == "span" else 62), dtype=np.int64)
    features = Features(ids, ids, labels, every, offsets, word_tokens=words)
    logits = np.arange(2 * sum(map(len, ids if words is None else words)), dtype=np.float32).reshape(-1, 2)
    soft = SoftTargets(logits, features)
    batches = TaskBatches(features, kind, Optimization(batch_size=2), 0, 0, False, soft, few_sizes=True)
    epoch = [batch for step in range(2) for batch in batches(step)]
    assert {batch["input_ids"].shape[1] for batch in epoch} == {36, 62}
    for batch in epoch:
        for name in {"teacher_start", "teacher_end", "teacher_logits", "teacher_words"} & batch.keys():
            assert batch[name].shape[:2] == batch["input_ids"].shape
    last = "teacher_end" if words is None else "teacher_logits"
    kept = sum(float((batch[last] if words is None else batch[last][..., 1]).sum()) for batch in epoch)
    assert kept == logits[:, 1].sum()
