"""The sentence pairs as inputs of a benchmark row, in each protocol."""

from collections.abc import Sequence

from tinydistilbert.benchmark.pairs import Pairs, slices_of_like_lengths
from tinydistilbert.benchmark.rows import Subject
from tinydistilbert.benchmark.timing import Timed
from tinydistilbert.models.runtimes import ModelInputs, Runtime
from tinydistilbert.predictor import Predictor
from tinydistilbert.recipe.schema import Benchmark
from tinydistilbert.tasks.encoding import Features, collate, encode
from tinydistilbert.tasks.inference import INPUTS

PADDED, TRUE_LENGTH, WITH_TOKENIZER = "padded-128", "true-length", "with-tokenizer"


def encoded_pairs(subjects: Sequence[Subject], pairs: Pairs) -> dict[str, Features]:
    """Return the pairs in the tokens of every subject, by its name; subjects with the same tokenizer share them."""
    readers = {(id(s.tokenizer), s.max_length): s for s in subjects}
    made = {reader: encode(pairs.examples, s.tokenizer, s.max_length) for reader, s in readers.items()}
    return {subject.name: made[id(subject.tokenizer), subject.max_length] for subject in subjects}


def slices_of(features: Features, settings: Benchmark, protocol: str, seed: int) -> list[list[int]]:
    """Return the rounds of a protocol: the same pairs for every row, split by their lengths in one tokenizer."""
    examples = settings.padded_examples if protocol == PADDED else settings.examples
    return slices_of_like_lengths(features.lengths.tolist(), examples, settings.rounds, seed)


class PairInputs:
    """The pairs as inputs of a row.

    Args:
        subject: its tokenizer reads the texts.
        token_types: whether the row takes token types.
        pairs: the texts.
        features: the pairs in the tokens of that tokenizer.
    """

    def __init__(self, subject: Subject, token_types: bool, pairs: Pairs, features: Features) -> None:
        self.subject, self.token_types, self.pairs, self.features = subject, token_types, pairs, features

    def timed(self, protocol: str, runtime: Runtime) -> Timed:
        """Return what a protocol prepares before the clock starts, and what it times."""
        if protocol == WITH_TOKENIZER:
            predictor = predictor_of(runtime, self.subject)
            return Timed(self.pairs.texts, lambda texts: predictor.logits(texts[:1], texts[1:]))
        return Timed(lambda index: self.at(index, self.subject.max_length if protocol == PADDED else None), runtime)

    def at(self, index: int, pad_to: int | None = None) -> ModelInputs:
        """Return a pair by its index, at its true length or padded."""
        pad = int(self.subject.tokenizer.pad_token_id or 0)
        batch = collate(self.features, [index], pad, token_types=self.token_types, pad_to=pad_to)
        return {name: batch[name].numpy() for name in INPUTS if name in batch}


def predictor_of(runtime: Runtime, subject: Subject) -> Predictor:
    """Return the predictor that a user calls with texts; only its logits are used, so kind and labels do not matter."""
    return Predictor(runtime, subject.tokenizer, "regression", (), subject.max_length)
