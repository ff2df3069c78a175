"""Dynamic masking: which tokens the model has to guess, drawn anew each time a block is seen."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Int64

from tinydistilbert.data.randomness import generator
from tinydistilbert.recipe import Masking

IGNORED = -100
"""Label of a position that no loss counts, as in PyTorch's cross-entropy."""


def mask_tokens(
    input_ids: Int64[np.ndarray, "batch length"],
    masking: Masking,
    *,
    special_ids: Sequence[int],
    mask_token_id: int,
    vocab_size: int,
    seed: int,
    step: int,
) -> tuple[Int64[np.ndarray, "batch length"], Int64[np.ndarray, "batch length"]]:
    """Choose tokens to be guessed, and hide most of them: a pure function of its arguments.

    Each token that is not special is chosen with probability `masking.rate`; in a row where that chooses none, one of
    them is taken all the same. Of the chosen, `mask_share` become [MASK], `random_share` a token drawn evenly from all
    that are not special, and the rest stay as they are (80/10/10 in Devlin et al. 2019, section 3.1).

    Args:
        input_ids: whole tokens; the array is not changed.
        masking: rate and shares.
        special_ids: tokens that are neither chosen nor drawn: [CLS], [SEP], [PAD], [UNK], [MASK].
        mask_token_id: the token that hides another.
        vocab_size: number of tokens; every id is below it.
        seed: the run's seed.
        step: number of the batch; another number gives another mask.

    Returns:
        The ids with the chosen ones hidden, and the labels: the token where it was chosen, -100 elsewhere.
    """
    random = generator("masking", seed, step)
    is_special = np.zeros(vocab_size, dtype=bool)
    is_special[list(special_ids)] = True
    ordinary_ids = np.flatnonzero(~is_special)

    scores = np.where(is_special[input_ids], np.inf, random.random(input_ids.shape))
    # Every row with a finite score loses its lowest one: that changes only rows in which no score is below the rate.
    chosen = (scores < masking.rate) | ((scores == scores.min(axis=1, keepdims=True)) & np.isfinite(scores))
    fate = random.random(input_ids.shape)
    replacements = ordinary_ids[random.integers(len(ordinary_ids), size=input_ids.shape)]

    masked_ids = input_ids.copy()
    becomes_mask = chosen & (fate < masking.mask_share)
    becomes_random = chosen & ~becomes_mask & (fate < masking.mask_share + masking.random_share)
    masked_ids[becomes_mask] = mask_token_id
    masked_ids[becomes_random] = replacements[becomes_random]
    return masked_ids, np.where(chosen, input_ids, IGNORED)
