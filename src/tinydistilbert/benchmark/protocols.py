"""The pairs as the inputs of a row, in each of the protocols."""

from collections.abc import Callable, Sequence

import numpy as np

from tinydistilbert.benchmark.pairs import PADDED_LENGTH, Pairs, slices_of_like_lengths
from tinydistilbert.benchmark.rows import Subject
from tinydistilbert.benchmark.timing import Timed
from tinydistilbert.recipe import Benchmark
from tinydistilbert.runtime import Inputs, Runtime
from tinydistilbert.tasks.encoding import Features, collate, encode
from tinydistilbert.tasks.inference import INPUTS

PADDED, TRUE_LENGTH, WITH_TOKENIZER = "padded-128", "true-length", "with-tokenizer"


def encoded_pairs(subjects: Sequence[Subject], pairs: Pairs) -> dict[str, Features]:
    """The pairs in the tokens of every subject, by its name; subjects that share a tokenizer share them."""
    made = {id(s.tokenizer): encode(pairs.examples, s.tokenizer, PADDED_LENGTH) for s in subjects}
    return {subject.name: made[id(subject.tokenizer)] for subject in subjects}


def slices_of(features: Features, settings: Benchmark, protocol: str, seed: int) -> list[list[int]]:
    """The rounds of a protocol: every row is given the same pairs, dealt by their lengths in one tokenizer."""
    examples = settings.padded_examples if protocol == PADDED else settings.examples
    return slices_of_like_lengths(features.lengths.tolist(), examples, settings.rounds, seed)


class PairInputs:
    """The pairs as inputs of a row.

    Args:
        subject: whose tokenizer reads the texts.
        token_types: whether the row takes them.
        pairs: the texts.
        features: the pairs in the tokens of that tokenizer.
    """

    def __init__(self, subject: Subject, token_types: bool, pairs: Pairs, features: Features) -> None:
        self.subject, self.token_types, self.pairs, self.features = subject, token_types, pairs, features

    def timed(self, protocol: str, runtime: Runtime) -> Timed:
        """What lies ready before the clock starts, and what is timed, in a protocol."""
        if protocol == WITH_TOKENIZER:
            read = reader(self.subject, self.token_types)
            return Timed(self.pairs.texts, lambda texts: runtime(read(*texts)))
        return Timed(lambda index: self.at(index, PADDED_LENGTH if protocol == PADDED else None), runtime)

    def at(self, index: int, pad_to: int | None = None) -> Inputs:
        """The pair of a number, at its true length or padded."""
        pad = int(self.subject.tokenizer.pad_token_id or 0)
        batch = collate(self.features, [index], pad, token_types=self.token_types, pad_to=pad_to)
        return _known({name: batch[name].numpy() for name in INPUTS if name in batch}, self.subject)


def reader(subject: Subject, token_types: bool) -> Callable[[str, str], Inputs]:
    """From two texts to inputs, by the shortest way: the tokenizer behind transformers' own, without its wrapping."""
    tokenizer = subject.tokenizer
    if subject.words is None:  # its tokens are rows of characters, which only the wrapping makes

        def characters(first: str, second: str) -> Inputs:
            encoded = tokenizer(first, second, truncation=True, max_length=PADDED_LENGTH)
            return {name: np.array([encoded[name]], dtype=np.int64) for name in INPUTS}

        return characters
    backend = tokenizer.backend_tokenizer
    backend.enable_truncation(PADDED_LENGTH)

    def words(first: str, second: str) -> Inputs:
        encoded = backend.encode(first, second)
        arrays = {"input_ids": np.array([encoded.ids]), "attention_mask": np.array([encoded.attention_mask])}
        if token_types:
            arrays["token_type_ids"] = np.array([encoded.type_ids])
        return _known(arrays, subject)

    return words


def _known(inputs: Inputs, subject: Subject) -> Inputs:
    """Inputs without words beyond the subject's embedding: one with random weights may have fewer than the tokenizer.

    Its time does not depend on which words they are.
    """
    if subject.words is None or subject.words >= len(subject.tokenizer):
        return inputs
    return {**inputs, "input_ids": np.minimum(inputs["input_ids"], subject.words - 1)}
