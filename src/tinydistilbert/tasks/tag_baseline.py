"""The baseline that a tagger has to beat: for each word, its most frequent tag in the train texts."""

from collections import Counter, defaultdict
from dataclasses import dataclass

from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.entities import OUTSIDE
from tinydistilbert.tasks.words import WORDS


@dataclass(frozen=True)
class MostFrequentTag:
    """A fitted baseline."""

    tag_of: dict[str, str]
    """The tag by word, as written; unknown words are outside all entities."""

    @classmethod
    def fit(cls, train: Examples) -> "MostFrequentTag":
        """Fit to the words of labelled examples; among equally frequent tags, take the first in the task's order."""
        counts: dict[str, Counter[int]] = defaultdict(Counter)
        for text, words, tags in _rows(train):
            for (begin, end), tag in zip(words, tags, strict=True):
                counts[text[begin:end]][tag] += 1
        labels = train.task.labels
        return cls({word: labels[min(of, key=lambda tag: (-of[tag], tag))] for word, of in counts.items()})

    def tags(self, examples: Examples) -> list[list[str]]:
        """Return a tag for each word of each text."""
        return [
            [self.tag_of.get(text[begin:end], OUTSIDE) for begin, end in words] for text, words, _ in _rows(examples)
        ]


def _rows(examples: Examples) -> "zip[tuple[str, tuple[tuple[int, int], ...], tuple[int, ...]]]":
    return zip(*(examples.columns[name] for name in ("text", WORDS, "label")), strict=True)
