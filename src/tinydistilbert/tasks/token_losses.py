"""What a tokenizer loses of texts: characters without a token, and differences between texts."""

from collections import Counter, defaultdict
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerFast

from tinydistilbert.notices import counted
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.columns import taken
from tinydistilbert.tasks.encoding import Features
from tinydistilbert.tasks.same import hashes_of, numbered
from tinydistilbert.tasks.token_rows import in_parts

MANY_UNKNOWN = 0.01
"""Share of unknown tokens from which they are reported."""


def token_losses(examples: Examples, features: Features, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """Return one sentence for each loss; none if little is lost.

    Args:
        examples: the texts.
        features: what the tokenizer made of them.
        tokenizer: the model's.
    """
    sentences = [_unknown(examples, features, tokenizer), _alike(examples, features)]
    return [sentence for sentence in sentences if sentence]


def _unknown(examples: Examples, features: Features, tokenizer: PreTrainedTokenizerFast) -> str:
    """Return a sentence if many tokens are unknown tokens."""
    if tokenizer.unk_token_id is None or not len(features) or features.input_ids[0].ndim > 1:  # ELMo reads characters
        return ""
    unknown = sum(np.count_nonzero(ids == tokenizer.unk_token_id) for ids in in_parts(features.input_ids))
    share = float(unknown / features.lengths.sum())
    if share < MANY_UNKNOWN:
        return ""
    counts = np.array([np.count_nonzero(ids == tokenizer.unk_token_id) for ids in features.input_ids])
    texts = len({*features.example[counts > 0].tolist()})
    which = f"{texts:,} of {len(examples):,} {examples.split}"
    return (
        f"{share:.0%} of the tokens are {tokenizer.unk_token}, in {which} examples: the vocabulary lacks these "
        "words or characters; use a model of this language or script"
    )


def _alike(examples: Examples, features: Features) -> str:
    """Return a sentence if capitals, accents or truncation make examples with other texts and labels identical."""
    if examples.task.kind != "classification":
        return ""

    def tokens_of(rows: NDArray[np.int64]) -> list[tuple[bytes, bytes]]:
        return [(features.input_ids[row].tobytes(), features.token_type_ids[row].tobytes()) for row in rows.tolist()]

    pairs = zip(features.input_ids, features.token_type_ids, strict=True)
    numbers = numbered(hashes_of(((ids.tobytes(), types.tobytes()) for ids, types in pairs), len(features)), tokens_of)
    alike = np.flatnonzero(np.bincount(numbers)[numbers] > 1)
    columns = [examples.columns[name] for name in ("text", "text_pair") if name in examples.columns]
    texts_of: dict[int, dict[tuple[str, ...], Any]] = defaultdict(dict)
    labelled = Counter[int]()
    values = zip(taken(examples.columns["label"], alike), *(taken(column, alike) for column in columns), strict=True)
    for number, (label, *texts) in zip(numbers[alike].tolist(), values, strict=True):
        if label is not None:
            texts_of[number][tuple(texts)] = label
            labelled[number] += 1
    count, first = 0, ""
    for number, labels in texts_of.items():
        if len(labels) > 1 and len({*labels.values()}) > 1:
            count += labelled[number]
            first = first or " and ".join(repr(" | ".join(text)[:40]) for text in [*labels][:2])
    if not count:
        return ""
    return (
        f"{counted(count, examples.split + ' example')} with different labels become the same tokens, as the tokenizer "
        f"drops capitals or accents, or cuts the texts: {first}"
    )
