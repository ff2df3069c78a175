"""Dynamic masking: the tokens to predict are drawn anew each time a block is used."""

from collections.abc import Sequence

import numpy as np
from jaxtyping import Bool, Float, Int64

from tinydistilbert.data.randomness import generator
from tinydistilbert.recipe.schema import Masking

IGNORED = -100
"""Label of positions that losses ignore, as in PyTorch's cross-entropy."""


def mask_tokens(
    input_ids: Int64[np.ndarray, "batch length"],
    masking: Masking,
    *,
    chance: float | Float[np.ndarray, " vocabulary"],
    continues_word: Bool[np.ndarray, " vocabulary"] | None = None,
    special_ids: Sequence[int],
    mask_token_id: int,
    vocab_size: int,
    seed: int,
    step: int,
) -> tuple[Int64[np.ndarray, "batch length"], Int64[np.ndarray, "batch length"]]:
    """Choose tokens to predict, and mask most of them; a pure function of its arguments.

    Each non-special token is chosen with its `chance`; if a row has none, the token whose draw came nearest to its
    chance is chosen. Of the chosen tokens, `mask_share` become [MASK], `random_share` a token drawn uniformly from all
    non-special ones, and the others stay unchanged (80/10/10 in Devlin et al. 2019, section 3.1).

    With whole words, a word is chosen with the mean chance of its pieces, and then all its pieces are, so the expected
    number of chosen tokens is the same. Whether a piece becomes [MASK], becomes random or stays unchanged is drawn for
    each piece, as in the whole-word release of BERT. A piece after a special token begins a word: it is the rest of a
    word cut at the start of the block, or the first word of a text, which some tokenizers do not mark.

    Args:
        input_ids: unmasked tokens; the array is not changed.
        masking: shares of [MASK] and of random tokens. Its rate is not read, because it may change from step to step.
        chance: probability that each token is chosen: the rate, or the result of `token_chances`.
        continues_word: for whole words: the tokens that belong to the word of the token before them.
        special_ids: tokens that are neither chosen nor drawn: [CLS], [SEP], [PAD], [UNK], [MASK].
        mask_token_id: id of [MASK].
        vocab_size: number of tokens; every id is below it.
        seed: seed of the run.
        step: number of the batch; each batch has another mask.

    Returns:
        The masked ids, and the labels: the token where it was chosen, -100 elsewhere.
    """
    random = generator("masking", seed, step)
    is_special = np.zeros(vocab_size, dtype=bool)
    is_special[list(special_ids)] = True
    ordinary_ids = np.flatnonzero(~is_special)
    special = is_special[input_ids]

    draws = random.random(input_ids.shape)
    chances = chance if isinstance(chance, float) else chance[input_ids]
    if continues_word is not None:
        draws, chances = _by_word(draws, chances, special, continues_word[input_ids])
    draws = np.where(special, np.inf, draws)
    # Mask the lowest finite score of every row: this changes only rows in which no draw is below its chance.
    scores = draws / chances
    chosen = (draws < chances) | ((scores == scores.min(axis=1, keepdims=True)) & np.isfinite(scores))
    fate = random.random(input_ids.shape)
    replacements = ordinary_ids[random.integers(len(ordinary_ids), size=input_ids.shape)]

    masked_ids = input_ids.copy()
    becomes_mask = chosen & (fate < masking.mask_share)
    becomes_random = chosen & ~becomes_mask & (fate < masking.mask_share + masking.random_share)
    masked_ids[becomes_mask] = mask_token_id
    masked_ids[becomes_random] = replacements[becomes_random]
    return masked_ids, np.where(chosen, input_ids, IGNORED)


def _by_word(
    draws: Float[np.ndarray, "batch length"],
    chances: float | Float[np.ndarray, "batch length"],
    special: Bool[np.ndarray, "batch length"],
    continues: Bool[np.ndarray, "batch length"],
) -> tuple[Float[np.ndarray, "batch length"], float | Float[np.ndarray, "batch length"]]:
    """Give all pieces of a word the draw of its first piece and the mean of its pieces' chances."""
    begins = special | ~continues
    begins[:, 0] = True
    begins[:, 1:] |= special[:, :-1]
    word = np.cumsum(begins.ravel()) - 1
    draws = draws.ravel()[np.flatnonzero(begins)][word].reshape(draws.shape)
    if isinstance(chances, float):
        return draws, chances
    means = np.bincount(word, weights=chances.ravel()) / np.bincount(word)
    return draws, means[word].reshape(chances.shape)


def token_chances(
    token_counts: Int64[np.ndarray, " vocabulary"], rate: float, smoothing: float, special_ids: Sequence[int]
) -> Float[np.ndarray, " vocabulary"]:
    """Return the chance of each token to be chosen, higher for rare tokens than for frequent ones.

    It is min(1, scale · max(count, 1)^-smoothing), with the scale for which the expected share of chosen tokens in the
    counted corpus is `rate`. The weights are those of DistilBERT's authors (their `mlm_smoothing`, 0.7). They draw a
    fixed number of tokens per batch with them; here the chance of a token does not depend on its neighbours.

    Args:
        token_counts: how often each token occurs in the training corpus.
        rate: share of the corpus's tokens to choose, below 1.
        smoothing: 0 gives every token the same chance.
        special_ids: tokens that are never chosen, whose counts therefore do not matter.
    """
    counts = token_counts.astype(np.float64)
    weights = np.maximum(counts, 1.0) ** -smoothing
    counts[list(special_ids)] = 0.0
    if not counts.any():
        return np.full(len(counts), rate)
    order = np.argsort(-weights, kind="stable")
    ordered_counts, ordered_weights = counts[order], weights[order]
    # scale[k] is correct if exactly the k tokens with the highest weights have a chance of 1: take the first such k.
    always = np.cumsum(ordered_counts) - ordered_counts
    others = np.cumsum((ordered_counts * ordered_weights)[::-1])[::-1]
    with np.errstate(divide="ignore"):
        scale = (rate * counts.sum() - always) / others
    correct_scale = scale[np.argmax(scale * ordered_weights <= 1.0)]
    chances: np.ndarray = np.minimum(1.0, correct_scale * weights)
    return chances
