"""Dynamic masking: rates, shares, and what may never happen."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydistilbert.data.masking import mask_tokens, token_chances
from tinydistilbert.data.randomness import generator
from tinydistilbert.recipe.schema import Masking

PAD, UNK, CLS, SEP, MASK = SPECIAL = (0, 1, 2, 3, 4)
VOCABULARY = 1000
DEFAULT = Masking()


def blocks(rows: int, length: int = 128, seed: int = 0) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, size=(rows, length))
    ids[:, 0], ids[:, -1], ids[::3, 1] = CLS, SEP, UNK
    return ids


def mask(
    ids: np.ndarray,
    masking: Masking = DEFAULT,
    seed: int = 0,
    step: int = 0,
    chance: float | np.ndarray | None = None,
    continues_word: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(
        ids, masking, chance=masking.rate if chance is None else chance, continues_word=continues_word,
        special_ids=SPECIAL, mask_token_id=MASK, vocab_size=VOCABULARY, seed=seed, step=step,
    )  # fmt: skip


def assert_share(count: int, total: int, share: float) -> None:
    """Within five standard deviations of the binomial distribution."""
    assert abs(count - share * total) < 5 * math.sqrt(total * share * (1 - share)), (count / total, share)


@pytest.mark.parametrize("masking", [DEFAULT, Masking(rate=0.4, mask_share=0.5, random_share=0.25)])
def test_rates_are_as_set(masking: Masking) -> None:
    ids = blocks(1000)
    masked, labels = mask(ids, masking)
    chosen = labels != -100
    is_ordinary = ids > MASK
    assert_share(chosen.sum(), is_ordinary.sum(), masking.rate)
    became_mask, stayed = chosen & (masked == MASK), chosen & (masked == ids)
    changed = chosen & ~became_mask & ~stayed
    assert_share(became_mask.sum(), chosen.sum(), masking.mask_share)
    ordinary_tokens = VOCABULARY - len(SPECIAL)  # one random token in so many is the one that was there
    assert_share(changed.sum(), chosen.sum(), masking.random_share * (1 - 1 / ordinary_tokens))
    per_column = chosen[:, 2:-1].mean(axis=0)
    assert abs(per_column - masking.rate).max() < 0.07, "every position is as likely as another"


def test_pure_masks_hide_every_chosen_token() -> None:
    masked, labels = mask(blocks(20), Masking(mask_share=1, random_share=0))
    assert (masked[labels != -100] == MASK).all() and (masked == MASK).any()


def test_random_tokens_are_drawn_evenly_from_all_ordinary_ones() -> None:
    ids = np.full((2000, 128), 7)
    masked, _ = mask(ids, Masking(rate=0.9, mask_share=0, random_share=1))
    counts = np.bincount(masked[masked != 7], minlength=VOCABULARY)
    assert not counts[list(SPECIAL)].any()
    mean = counts[8:].mean()
    assert abs(counts[8:] - mean).max() < 6 * math.sqrt(mean)


def test_labels_hold_the_tokens_and_the_rest_is_untouched() -> None:
    ids = blocks(50)
    before = ids.copy()
    masked, labels = mask(ids)
    chosen = labels != -100
    assert (ids == before).all()
    assert (labels[chosen] == ids[chosen]).all()
    assert (masked[~chosen] == ids[~chosen]).all()
    assert not chosen[ids <= MASK].any(), "no special token is chosen"
    assert masked.dtype == labels.dtype == np.int64


def test_masks_are_a_pure_function_of_seed_and_step() -> None:
    ids = blocks(20)
    one, same = mask(ids, seed=3, step=8), mask(ids, seed=3, step=8)
    assert (one[0] == same[0]).all() and (one[1] == same[1]).all()
    masks = {tuple(mask(ids, seed=seed, step=step)[1].ravel()) for seed in range(3) for step in range(3)}
    assert len(masks) == 9


@given(length=st.integers(3, 12), rate=st.floats(0.001, 0.999), seed=st.integers(0, 2**40), step=st.integers(0, 2**40))
def test_every_row_with_a_word_has_something_to_guess(length: int, rate: float, seed: int, step: int) -> None:
    ids = blocks(4, length, seed % 7)
    ids[1, 1:] = PAD
    ids[1, 1] = SEP  # an empty line
    _, labels = mask(ids, Masking(rate=rate), seed, step)
    assert ((labels != -100).any(axis=1) == (ids > MASK).any(axis=1)).all()


@pytest.mark.parametrize("step", range(5))
def test_the_rate_alone_gives_the_masks_that_it_always_gave(step: int) -> None:
    """Spelt out: a step's masks are part of what a seed promises."""
    ids = blocks(40, 32)
    random = generator("masking", 3, step)
    draws = np.where(ids <= MASK, np.inf, random.random(ids.shape))
    chosen = (draws < 0.05) | ((draws == draws.min(axis=1, keepdims=True)) & np.isfinite(draws))
    fate, other = random.random(ids.shape), np.arange(5, VOCABULARY)[random.integers(VOCABULARY - 5, size=ids.shape)]
    expected = np.where(chosen & (fate < 0.8), MASK, np.where(chosen & (fate >= 0.8) & (fate < 0.9), other, ids))
    masked, labels = mask(ids, Masking(rate=0.05), seed=3, step=step)
    assert (masked == expected).all() and (labels == np.where(chosen, ids, -100)).all()


CONTINUES = np.arange(VOCABULARY) % 3 == 0
"""Every third token is a later piece of a word."""
CONTINUES[list(SPECIAL)] = False


def words(row: np.ndarray) -> list[list[int]]:
    """Positions of each word of a row."""
    positions: list[list[int]] = []
    for position, token in enumerate(row):
        after_special = position == 0 or row[position - 1] <= MASK
        if token <= MASK:
            continue
        if CONTINUES[token] and not after_special:
            positions[-1].append(position)
        else:
            positions.append([position])
    return positions


@pytest.mark.parametrize("chance", [0.15, np.linspace(0.05, 0.9, VOCABULARY)])
def test_words_are_chosen_whole_and_as_many_tokens_in_all(chance: float | np.ndarray) -> None:
    ids = blocks(1000)
    masked, labels = mask(ids, chance=chance, continues_word=CONTINUES)
    chosen = labels != -100
    for row, chosen_in_row in zip(ids[:100], chosen[:100], strict=True):
        assert all(len(set(chosen_in_row[word])) == 1 for word in words(row)), "all pieces of a word or none"
    ordinary = ids[ids > MASK]
    expected = chance if isinstance(chance, float) else chance[ordinary].mean()
    assert chosen.sum() / len(ordinary) == pytest.approx(expected, rel=0.02)
    fates = [set((masked[row] == MASK)[word]) for row in range(50) for word in words(ids[row]) if chosen[row, word[0]]]
    assert {True, False} in fates, "each piece has a fate of its own"


def test_a_row_without_a_chosen_word_gets_a_whole_one() -> None:
    ids = np.array([[CLS, 6, 7, 9, 12, 8, SEP], [CLS, SEP, PAD, PAD, PAD, PAD, PAD]])
    for step in range(30):
        chosen = mask(ids, step=step, chance=1e-9, continues_word=CONTINUES)[1] != -100
        assert np.flatnonzero(chosen[0]).tolist() in ([1], [2, 3, 4], [5])
        assert not chosen[1].any()


def test_rare_tokens_are_chosen_in_proportion_to_the_power_of_their_counts() -> None:
    """By hand: weights 1, 1/2 and 1/4 of counts 1, 4 and 16 at 0.5 make 1 + 2 + 4 = 7; 10 % of 21 tokens are 2.1."""
    counts = np.array([10**6, 0, 0, 0, 0, 1, 4, 16, 0])
    chances = token_chances(counts, 0.1, 0.5, SPECIAL)
    assert chances[5:].tolist() == pytest.approx([0.3, 0.15, 0.075, 0.3])


def test_a_chance_is_at_most_one_and_the_rest_makes_up_for_it() -> None:
    """By hand: 60 % of 21 tokens are 12.6; counts 1 and 4 are always chosen, and 16 with (12.6 - 5) / 16."""
    chances = token_chances(np.array([0, 0, 0, 0, 0, 1, 4, 16]), 0.6, 1.0, SPECIAL)
    assert chances[5:].tolist() == pytest.approx([1.0, 1.0, 0.475])


@given(
    counts=st.lists(st.integers(0, 10**7), min_size=1, max_size=50).filter(any),
    rate=st.floats(0.001, 0.999),
    smoothing=st.floats(0.01, 3),
)
def test_the_expected_share_over_the_corpus_is_the_rate(counts: list[int], rate: float, smoothing: float) -> None:
    chances = token_chances(np.array([5] * 5 + counts), rate, smoothing, SPECIAL)[5:]
    assert ((chances > 0) & (chances <= 1)).all()
    assert (chances * counts).sum() / sum(counts) == pytest.approx(rate, rel=1e-6)
    rare_first = chances[np.argsort(counts)]
    assert (np.diff(rare_first) <= 0).all()


def test_chances_are_kept_to() -> None:
    chance = np.full(VOCABULARY, 0.5)
    chance[500:] = 0.1
    ids = blocks(500)
    chosen = mask(ids, chance=chance)[1] != -100
    for tokens, share in (((ids > MASK) & (ids < 500), 0.5), (ids >= 500, 0.1)):
        assert_share(chosen[tokens].sum(), tokens.sum(), share)


def test_a_corpus_without_a_word_has_the_rate_everywhere() -> None:
    assert token_chances(np.array([9, 9, 9, 9, 9, 0, 0]), 0.2, 0.7, SPECIAL).tolist() == [0.2] * 7
