"""The sentence pairs to time: STS-B validation, or random words of the same lengths; their split into rounds."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.tasks import TASKS, load_examples
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.splits import has_split

PADDED_LENGTH = 128
"""Tokens that inputs are cut to, and padded to in the padded protocol."""
PAIRS = 1500
"""Sentence pairs in STS-B validation."""
LOG_MEAN, LOG_STD, SHORTEST = 3.35, 0.43, 10
"""Lengths of STS-B validation pairs in BERT's uncased word pieces: log-normal, mean 31, from 11 to 87."""


@dataclass(frozen=True)
class Pairs:
    """The pairs to time."""

    examples: Examples
    source: str
    """Description of the pairs, for the table."""
    synthetic: bool

    @property
    def total(self) -> int:
        """Number of pairs of the whole pass."""
        return self.examples.total

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the data; empty for random pairs."""
        return "" if self.synthetic else self.examples.fingerprint

    def texts(self, index: int) -> tuple[str, str]:
        """Return first and second sentence."""
        return self.examples.columns["text"][index], self.examples.columns["text_pair"][index]


def requested_examples(recipe: Recipe) -> Examples | None:
    """Return STS-B validation if it is one of the recipe's tasks or has a folder in the data folder; else None.

    Raises:
        UserError: it is requested, but missing or damaged.
    """
    task, data = TASKS["stsb"], recipe.data
    if task.name not in recipe.finetune.tasks:
        if data is None or not (Path(data) / task.folder).exists():
            return None
        if not has_split(task, "validation", data):
            where, fix = (
                str(Path(data) / task.folder),
                "put the split there, or remove this folder to time random words",
            )
            raise UserError(where, expected="the validation split, which benchmark times", found="no file", fix=fix)
    return load_examples(task, "validation", data=data, corpus=recipe.corpus, limit=0, seed=recipe.seed)


def load_pairs(recipe: Recipe, tokenizer: PreTrainedTokenizerFast) -> Pairs:
    """Return STS-B validation if the recipe requests it; else random words of the same lengths.

    Args:
        recipe: has the location of the data, and the seed.
        tokenizer: that the lengths of random pairs are counted with.

    Raises:
        UserError: STS-B is requested, but missing or damaged.
    """
    examples = requested_examples(recipe)
    if examples is not None:
        return Pairs(examples, "STS-B validation", False)
    source = "random words at lengths distributed as STS-B validation's (mean 31 word pieces)"
    return Pairs(made_up_examples(tokenizer, recipe.seed), source, True)


def made_up_examples(tokenizer: PreTrainedTokenizerFast, seed: int) -> Examples:
    """Return 1,500 pairs of random words with STS-B's distribution of token lengths; words do not affect the times."""
    generator = np.random.default_rng(seed)
    lengths = np.clip(np.rint(generator.lognormal(LOG_MEAN, LOG_STD, PAIRS)), SHORTEST, PADDED_LENGTH)
    counts = lengths.astype(np.int64) - tokenizer.num_special_tokens_to_add(pair=True)
    known = whole_words(tokenizer)
    words = [[known[index] for index in generator.integers(len(known), size=count)] for count in counts]
    columns: dict[str, list[Any]] = {
        "idx": list(range(PAIRS)),
        "text": [" ".join(row[: len(row) // 2]) for row in words],
        "text_pair": [" ".join(row[len(row) // 2 :]) for row in words],
        "label": [0.0] * PAIRS,
    }
    return Examples(TASKS["stsb"], "validation", columns, PAIRS)


def whole_words(tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return words of letters that are one token each."""
    unknown = tokenizer.unk_token_id
    candidates = sorted({token.lstrip("Ġ▁") for token in tokenizer.get_vocab()})  # marks for a space before a word
    candidates = [word for word in candidates if word.isalpha()]
    encoded = tokenizer(candidates, add_special_tokens=False)["input_ids"]
    words = [word for word, ids in zip(candidates, encoded, strict=True) if len(ids) == 1 and ids[0] != unknown]
    assert words, "every tokenizer has letters"
    return words


def slices_of_like_lengths(lengths: Sequence[int], examples: int, rounds: int, seed: int) -> list[list[int]]:
    """Draw `examples` pairs without replacement (0 = all) and return their indices in rounds of similar lengths.

    Pairs in order of length go to the rounds in turn, forwards and backwards, so that rounds have the same mean length
    and only the machine makes their times differ. The order within a round is random.
    """
    generator = np.random.default_rng(seed)
    chosen = generator.permutation(len(lengths))[: examples or len(lengths)]
    by_length = sorted(chosen.tolist(), key=lambda index: lengths[index])
    rounds = min(rounds, len(by_length))
    slices: list[list[int]] = [[] for _ in range(rounds)]
    for position, index in enumerate(by_length):
        lap, turn = divmod(position, rounds)
        slices[turn if lap % 2 == 0 else rounds - 1 - turn].append(index)
    return [generator.permutation(part).tolist() for part in slices]
