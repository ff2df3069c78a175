"""Dynamic masking: rates, shares, and what may never happen."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tinydistilbert.data.masking import mask_tokens
from tinydistilbert.recipe import Masking

PAD, UNK, CLS, SEP, MASK = SPECIAL = (0, 1, 2, 3, 4)
VOCABULARY = 1000
DEFAULT = Masking()


def blocks(rows: int, length: int = 128, seed: int = 0) -> np.ndarray:
    ids = np.random.default_rng(seed).integers(5, VOCABULARY, size=(rows, length))
    ids[:, 0], ids[:, -1], ids[::3, 1] = CLS, SEP, UNK
    return ids


def mask(ids: np.ndarray, masking: Masking = DEFAULT, seed: int = 0, step: int = 0) -> tuple[np.ndarray, np.ndarray]:
    return mask_tokens(
        ids, masking, special_ids=SPECIAL, mask_token_id=MASK, vocab_size=VOCABULARY, seed=seed, step=step
    )


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
