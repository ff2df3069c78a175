"""What a tokenizer loses of texts on their way to a model: characters without a token, and what tells texts apart."""

from collections import defaultdict
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerFast

from tinydistilbert.notices import counted
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features

MANY_UNKNOWN = 0.01
"""Share of the tokens from which on unknown ones are worth a word."""


def token_losses(examples: Examples, features: Features, tokenizer: PreTrainedTokenizerFast) -> list[str]:
    """What is lost, a sentence each; nothing where it is little.

    Args:
        examples: the texts.
        features: what the tokenizer made of them.
        tokenizer: the model's.
    """
    found = [_unknown(examples, features, tokenizer), _alike(examples, features)]
    return [sentence for sentence in found if sentence]


def _unknown(examples: Examples, features: Features, tokenizer: PreTrainedTokenizerFast) -> str:
    """That many tokens are the one for what the vocabulary does not have."""
    if tokenizer.unk_token_id is None or not len(features) or features.input_ids[0].ndim > 1:  # ELMo reads characters
        return ""
    counts = np.array([np.count_nonzero(ids == tokenizer.unk_token_id) for ids in features.input_ids])
    share = float(counts.sum() / features.lengths.sum())
    if share < MANY_UNKNOWN:
        return ""
    texts = len({*features.example[counts > 0].tolist()})
    which = f"{texts:,} of {len(examples):,} {examples.split}"
    return (
        f"{share:.0%} of the tokens are {tokenizer.unk_token}, in {which} examples: the vocabulary does not have what "
        "is written there; a model of that language or script reads more"
    )


def _alike(examples: Examples, features: Features) -> str:
    """That examples with other texts and other labels are the same to the model: by capitals, accents, or the cut."""
    if examples.task.kind != "classification":
        return ""
    columns = [examples.columns[name] for name in ("text", "text_pair") if name in examples.columns]
    labels = examples.columns["label"]
    by_tokens: dict[Any, list[int]] = defaultdict(list)
    for number, (ids, types) in enumerate(zip(features.input_ids, features.token_type_ids, strict=True)):
        by_tokens[ids.tobytes(), types.tobytes()].append(number)
    count, first = 0, ""
    for same in by_tokens.values():
        known = [i for i in same if labels[i] is not None]
        texts = {tuple(column[i] for column in columns): labels[i] for i in known}
        if len(texts) > 1 and len({*texts.values()}) > 1:
            count += len(known)
            first = first or " and ".join(repr(" | ".join(text)[:40]) for text in [*texts][:2])
    if not count:
        return ""
    return (
        f"{counted(count, examples.split + ' example')} with different texts and labels are the same to the tokenizer, "
        f"which drops capitals or accents, or cuts: {first}"
    )
