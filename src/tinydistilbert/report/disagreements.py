"""The examples that one side gets right and the other wrong, with their texts if the data is available."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.data.sources import is_on_hub
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import metrics, resampling
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.report.predictions import Pairing, Predicted
from tinydistilbert.tasks.base import NO_LABELS, Examples, Task
from tinydistilbert.tasks.entities import NO_ENTITIES
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.tasks.splits import is_fetched
from tinydistilbert.tasks.words import WORDS, in_words

TEXTS = ("question", "context", "text", "text_pair")


@dataclass(frozen=True)
class Case:
    """One example with the predictions of every seed of both sides, as a reader sees them."""

    id: Any
    gold: Any
    first: Mapping[int, Any]
    second: Mapping[int, Any]
    texts: Mapping[str, str]
    """Texts by column; empty if the data is not on this machine."""


@dataclass(frozen=True)
class Disagreement:
    """The differences of two rows on one split of a task."""

    cases: tuple[tuple[Case, ...], tuple[Case, ...]]
    """Examples that only the first side has right, or is closer on, and those of the second; the clearest first."""
    mcnemar: float | None = None
    """p of McNemar's test, if each side is one training and can be right or wrong."""


def disagreement(pairing: Pairing, examples: Examples | None, seed: int) -> Disagreement:
    """Return the examples on which the two sides differ.

    Args:
        pairing: predictions of both sides.
        examples: with the texts, if they are available.
        seed: seed of the order among equally clear cases.
    """
    first, second = _by_margin(pairing, seed)
    reader = _CaseReader(pairing, examples)
    test = None
    if pairing.task.kind != "regression":
        right, others = pairing.right()
        test = resampling.mcnemar(right[0], others[0]) if len(right) == len(others) == 1 else None
    return Disagreement((tuple(map(reader.case, first)), tuple(map(reader.case, second))), test)


def _by_margin(pairing: Pairing, seed: int) -> tuple[list[int], list[int]]:
    """Return indices of examples that only one side has right in most seeds, or is closer on; the clearest first."""
    if pairing.task.kind == "regression":
        margin = np.subtract(*(_error(pairing.labels, guesses) for guesses in reversed(pairing.predictions(""))))
        first, second = margin > 0, margin < 0
    else:
        share, other = (right.mean(0) for right in pairing.right())
        margin = share - other
        first, second = (share > 0.5) & (other < 0.5), (share < 0.5) & (other > 0.5)
    drawn = np.random.default_rng(seed).permutation(len(margin))
    order = np.lexsort((drawn, -np.abs(margin)))
    return [int(i) for i in order if first[i]], [int(i) for i in order if second[i]]


def _error(labels: NDArray[Any], predictions: NDArray[Any]) -> NDArray[np.float64]:
    """Return the distance of the median over seeds from the label; huge but finite if a prediction is not a number."""
    return np.asarray(np.nan_to_num(np.abs(np.median(predictions, axis=0) - labels), nan=1e9))


class _CaseReader:
    """Makes cases of a pairing, with class names and, if available, texts."""

    def __init__(self, pairing: Pairing, examples: Examples | None) -> None:
        self.pairing = pairing
        task = examples.task if examples else pairing.task  # the classes of a custom task are known from its data
        self.task, self.labels = task, task.labels
        self.columns = {name: examples.columns[name] for name in TEXTS if name in examples.columns} if examples else {}
        self.words = examples.columns.get(WORDS, []) if examples else []
        names = examples.columns["id" if task.kind == "span" else "idx"] if examples else []
        self.rows = {name: row for row, name in enumerate(names)}

    def readable(self, value: Any, name: Any) -> Any:
        """Return a label or a prediction of the named example in readable form."""
        if self.pairing.task.kind == "token-classification":
            row = self.rows.get(name)
            entities = (
                " ".join(value)
                if row is None
                else ", ".join(in_words(self.columns["text"][row], self.words[row], value))
            )
            return entities or NO_ENTITIES
        if self.pairing.task.kind == "multi-label":
            if metrics.NO_CLASS in value:
                return None
            return self.task.text_of(value) if self.labels else ", ".join(map(str, np.flatnonzero(value))) or NO_LABELS
        if self.pairing.task.kind == "classification":
            if value == metrics.NO_CLASS:
                return None
            return self.labels[value] if self.labels else str(value)
        return None if isinstance(value, float) and not np.isfinite(value) else value

    def case(self, index: int) -> Case:
        """Return the shared example with that index."""
        name, gold = self.pairing.first.ids[index], self.pairing.first.gold[index]

        def by_seed(side: Predicted) -> dict[int, Any]:
            return {seed: self.readable(answers[index], name) for seed, answers in side.answers.items()}

        texts = {column: values[self.rows[name]] for column, values in self.columns.items()}
        return Case(name, self.readable(gold, name), by_seed(self.pairing.first), by_seed(self.pairing.second), texts)


def most_frequent_answer(answers: Mapping[int, Any]) -> tuple[Any, int]:
    """Return the most frequent prediction, or the median of numbers, and how many seeds predicted exactly that."""
    values = list(answers.values())
    if all(isinstance(value, float) for value in values):
        middle = float(np.median(values))
        return middle, values.count(middle)
    return Counter(values).most_common(1)[0]


def examples_at_hand(pairing: Pairing, recipes: Sequence[Recipe]) -> Examples | None:
    """Return the examples that one of the sides was scored on, if their data is on this machine and unchanged."""
    task = pairing.task
    for recipe in recipes:
        if not is_local(recipe, task):
            continue
        limit = recipe.finetune.settings(task.name).validation_examples
        try:
            examples = recipe_examples(recipe, task, pairing.split, limit=limit)
        except UserError:  # missing or changed since; ids are shown instead
            continue
        if examples.fingerprint in (pairing.first.fingerprint, pairing.second.fingerprint):
            return examples
    return None


def is_local(recipe: Recipe, task: Task) -> bool:
    """Whether the examples of a task can be read without the hub."""
    if task.is_synthetic:
        return not is_on_hub(recipe.corpus, recipe.data)
    return not any(is_fetched(task, split, recipe.data) for split in (task.train, *task.evaluation))


def as_lines(pairing: Pairing, disagreement: Disagreement) -> Iterator[dict[str, Any]]:
    """Yield a line of `differences.jsonl` for each example on which the two sides differ."""
    for better, cases in zip(("first", "second"), disagreement.cases, strict=True):
        for case in cases:
            yield {
                "task": pairing.task.name, "split": pairing.split, "id": case.id, "better": better, "gold": case.gold,
                "first": {"run": str(pairing.first.side.run), "row": pairing.first.side.row, "seeds": case.first},
                "second": {"run": str(pairing.second.side.run), "row": pairing.second.side.row, "seeds": case.second},
                **case.texts,
            }  # fmt: skip
