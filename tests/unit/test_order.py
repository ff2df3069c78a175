"""The order of examples: every one as often as the others, and the same order however it is asked for."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tinydistilbert.data import order as batches
from tinydistilbert.data.order import epoch_part, length_grouped, stream_part
from tinydistilbert.data.randomness import generator

counts = st.integers(1, 40)
seeds = st.integers(0, 2**33)


def indices_at(step: int, examples: int, batch_size: int, seed: int) -> np.ndarray:
    return stream_part(step, examples, batch_size, seed)[0]


def stream(examples: int, batch_size: int, seed: int, length: int) -> list[int]:
    steps = -(-length // batch_size)
    return np.concatenate([indices_at(step, examples, batch_size, seed) for step in range(steps)])[:length].tolist()


@given(examples=counts, batch_size=counts, seed=seeds)
def test_each_epoch_is_a_permutation(examples: int, batch_size: int, seed: int) -> None:
    """Also where a batch lies across epochs, or is larger than one."""
    indices = stream(examples, batch_size, seed, 3 * examples)
    for epoch in range(3):
        assert sorted(indices[epoch * examples : (epoch + 1) * examples]) == list(range(examples))


@given(examples=counts, one=counts, other=counts, seed=seeds)
def test_the_batch_size_only_cuts_the_stream(examples: int, one: int, other: int, seed: int) -> None:
    assert stream(examples, one, seed, 100) == stream(examples, other, seed, 100)


@given(step=st.integers(0, 10**9), examples=counts, batch_size=counts, seed=seeds)
def test_a_batch_does_not_depend_on_what_was_asked_before(step: int, examples: int, batch_size: int, seed: int) -> None:
    indices = indices_at(step, examples, batch_size, seed)
    assert len(indices) == batch_size
    batches._epoch_order.cache_clear()
    assert (indices_at(step, examples, batch_size, seed) == indices).all()


def test_epochs_and_seeds_have_different_orders() -> None:
    orders = {tuple(indices_at(epoch, 50, 50, seed)) for epoch in range(5) for seed in range(5)}
    assert len(orders) == 25


def test_the_caller_may_change_a_batch() -> None:
    first = indices_at(0, 10, 4, 0)
    expected = first.copy()
    first[:] = 0
    assert (indices_at(0, 10, 4, 0) == expected).all()


@given(step=st.integers(0, 50), examples=counts, batch_size=counts, seed=seeds)
def test_each_index_comes_with_its_epoch(step: int, examples: int, batch_size: int, seed: int) -> None:
    indices, epochs = stream_part(step, examples, batch_size, seed)
    assert epochs.tolist() == [place // examples for place in range(step * batch_size, (step + 1) * batch_size)]
    for epoch in set(epochs.tolist()):
        epoch_indices = indices[epochs == epoch].tolist()
        order = epoch_part(0, epoch, examples, examples, seed).tolist()
        assert epoch_indices == [index for index in order if index in epoch_indices], "in the order of their epoch"


@given(examples=counts, batch_size=counts, seed=seeds, epoch=st.integers(0, 5))
def test_parts_of_an_epoch_hold_every_example_once(examples: int, batch_size: int, seed: int, epoch: int) -> None:
    parts = [epoch_part(part, epoch, examples, batch_size, seed) for part in range(-(-examples // batch_size))]
    assert np.concatenate(parts).tolist() == indices_at(epoch, examples, examples, seed).tolist()
    assert all(len(part) == batch_size for part in parts[:-1]) and 0 < len(parts[-1]) <= batch_size


@given(lengths=st.lists(st.integers(1, 512), max_size=300), batch_size=st.integers(1, 7), seed=seeds, epoch=counts)
def test_groups_hold_every_example_once(lengths: list[int], batch_size: int, seed: int, epoch: int) -> None:
    groups = length_grouped(lengths, batch_size, seed, epoch)
    assert sorted(index for group in groups for index in group) == list(range(len(lengths)))
    sizes = [len(group) for group in groups]
    assert len(groups) == -(-len(lengths) // batch_size)
    assert sum(size < batch_size for size in sizes) <= 1 and max(sizes, default=0) <= batch_size
    again = length_grouped(lengths, batch_size, seed, epoch)
    assert all((one == other).all() for one, other in zip(groups, again, strict=True))


def padded(groups: list[np.ndarray], lengths: np.ndarray) -> int:
    return sum(int(lengths[group].max()) * len(group) for group in groups)


def test_groups_hardly_pad_and_are_in_random_order() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, size=6400)
    groups = length_grouped(lengths, 16, 0, 0)
    plain = np.random.default_rng(1).permutation(6400).reshape(-1, 16)
    assert padded(groups, lengths) < 1.05 * lengths.sum()
    assert padded(list(plain), lengths) > 1.7 * lengths.sum()
    means = np.array([lengths[group].mean() for group in groups])
    assert abs(np.corrcoef(means[:-1], means[1:])[0, 1]) < 0.2, "neighbouring batches are not alike"
    other_epoch = length_grouped(lengths, 16, 0, 1)
    assert {tuple(sorted(group)) for group in groups}.isdisjoint(tuple(sorted(group)) for group in other_epoch)


def test_groups_are_those_that_runs_of_earlier_versions_began_with() -> None:
    lengths = np.random.default_rng(0).integers(5, 200, size=203)
    random = generator("length-grouped order", 3, 1)
    order, expected = random.permutation(203), []
    for start in range(0, 203, 20):
        group = order[start : start + 20]
        group = group[np.argsort(lengths[group], kind="stable")]
        expected += [group[first : first + 4] for first in range(0, len(group), 4)]
    expected = [expected[index] for index in random.permutation(len(expected))]
    groups = length_grouped(lengths, 4, 3, 1, sorted_together=5)
    assert [batch.tolist() for batch in groups] == [batch.tolist() for batch in expected]
    assert [batch.tolist() for batch in groups[2:5]] == [batch.tolist() for batch in expected[2:5]]


def test_batches_that_are_not_sorted_together_mix_lengths():
    lengths = list(range(64))
    sorted_ones, random_ones = (length_grouped(lengths, 8, 0, 0, sorted_together=batches) for batches in (8, 1))
    assert all(np.ptp(batch) == 7 for batch in sorted_ones), "neighbours"
    assert min(np.ptp(batch) for batch in random_ones) > 20
    assert sorted(np.concatenate(random_ones)) == lengths
