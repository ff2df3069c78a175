"""Tasks, and the examples of one split of a task."""

import hashlib
import json
import math
import unicodedata
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from random import Random
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.recipe.names import Quoting
from tinydistilbert.tasks.columns import VALUES_AT_ONCE, taken
from tinydistilbert.tasks.same import hashes_of, numbered

Kind = Literal["classification", "regression", "span", "multi-label", "token-classification"]

NO_LABELS = "(no label)"
"""How reports show a multi-label example without a label."""

Candidate = tuple[str, tuple[dict[str, Any], ...]]
"""The sentence behind a synthetic example, and the example with each label."""
Maker = Callable[[list[str], list[str], Random], Iterator[Candidate]]
"""Makes candidates from the paragraphs of a document, those of the previous document, and a random generator."""


@dataclass(frozen=True)
class ScoreTable:
    """A table of the report. It shows the tasks whose `table` it is, in the order of `TASKS`."""

    name: str
    """A short, stable name: the `id` of the table on the page."""
    title: str
    caption: str
    unit: str = "task"
    """What sentences call one of its tasks."""
    score: str = ""
    """Heading of the mean over all its tasks, if a paper prints one; next to it is the mean over the scored tasks."""
    published_scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    """The printed mean in points, by published model."""
    has_mean: bool = True
    """Whether the mean over the scored tasks is a column."""
    metrics_in_headings: bool = True
    """Whether a heading names the metric next to the task; if not, the caption does."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A row of `TASKS` or a custom task: where its examples are, which head it needs, and how it is scored."""

    name: str
    title: str
    """The name shown in tables."""
    table: ScoreTable
    """The table of the report in which it is a column."""
    kind: Kind
    text: str
    """Column of the first text; in span tasks, of the question."""
    text_pair: str | None
    """Column of the second text, if there is one; in span tasks, of the context."""
    labels: tuple[str, ...]
    """Names of the classes, labels or tags 0, 1, …; empty for regression and span tasks, and with `labels_from_data`
    before data is read."""
    metrics: tuple[str, ...]
    headline: str
    """The metric that represents the task in tables and means."""
    label: str = "label"
    """Column of the label; span tasks use `answers` instead."""
    label_columns: tuple[str, ...] = ()
    """For a multi-label task whose labels are columns of 0 and 1: these columns, which are combined into `label`."""
    label_separator: str = "|"
    """Separator between the labels in a cell (multi-label tasks only)."""
    label_range: tuple[float, float] = (-math.inf, math.inf)
    """Lowest and highest label of a regression task."""
    labels_from_data: bool = False
    """Whether the set of labels comes from the data, which then names classes instead of numbering them."""
    folder: str = ""
    """Folder of the split files in the data folder."""
    hub: tuple[str, str | None] = ("", None)
    """Name and configuration of the data set on the Hugging Face hub."""
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    """For a custom task: the file or hub name of each split; empty if there is none."""
    scored_share: float = 0.0
    """For a custom task: the share of the train file's texts, picked by their hash, that is scored and not trained on;
    0 = the scored examples have a separate file."""
    quoting: Quoting = "auto"
    """How to read quotes in its CSV and TSV files."""
    make: Maker | None = None
    """For a synthetic task: the function that makes its examples from the documents of the corpus."""
    of_library: Callable[[bool], dict[str, list[Any]]] | None = None
    """For a task from Python's library: returns the columns of its train split (False) or validation split (True)."""
    example: tuple[str, str] = ("How good is it?", "It is fine.")
    """A text, and a second one for pairs, with which pages and commands show how to call a model; without quotes."""
    train: str = "train"
    evaluation: tuple[str, ...] = ("validation",)
    """Splits that are reported; tables show the first."""
    max_length: int = 128
    """Maximum input length in tokens."""
    typical_length: int = 0
    """Mean tokens per input, in BERT's uncased vocabulary: an estimate for data that is still on the hub."""
    doc_stride: int = 0
    """Tokens shared by two neighbouring windows of a long context (span tasks only)."""
    answer_units: Literal["words", "characters"] = "words"
    """The units in which answers are compared (span tasks only); SQuAD's official rules use words."""
    may_lack_answer: bool = False
    """Whether questions may have no answer, as in SQuAD 2 (span tasks only)."""
    official: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Number of rows of the published splits, so that a file with a part of one is recognised."""
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    """Published scores in points, by metric and then by model name in `report.published`."""
    corrected: Mapping[str, float] = field(default_factory=dict, hash=False)
    """By model, the value that means use instead of a printed headline score that cannot be right."""

    @property
    def is_synthetic(self) -> bool:
        """Whether its examples are made from the corpus, with alternating labels and names valid in one run only."""
        return self.make is not None

    @property
    def is_made(self) -> bool:
        """Whether its examples are made from the corpus or Python's library, not read from data sets."""
        return self.is_synthetic or self.of_library is not None

    @property
    def texts_per_input(self) -> int:
        """Texts per input: 1, or 2 for pairs."""
        return 2 if self.text_pair else 1

    @property
    def table_metrics(self) -> tuple[str, ...]:
        """The metrics shown in tables of scores and comparisons."""
        return self.metrics if self.kind == "span" else (self.headline,)

    @property
    def has_classes(self) -> bool:
        """Whether its labels have names: one per example, any number per example, or a tag per word."""
        return self.kind in ("classification", "multi-label", "token-classification")

    def text_of(self, label: Any) -> str:
        """Return a label in readable form: the name of a class, the names of several labels, or the tags of words."""
        if self.kind == "token-classification":
            return " ".join(self.labels[tag] for tag in label)
        if self.kind != "multi-label":
            return self.labels[int(label)]
        return ", ".join(name for name, given in zip(self.labels, label, strict=True) if given == 1) or NO_LABELS


@dataclass(frozen=True)
class Examples:
    """Examples of one split, by column.

    Columns of classification, multi-label and regression tasks: `idx` (row in the split), `text`, `text_pair` (if the
    task has one) and `label` (for multi-label tasks, a tuple with 0 or 1 for each label). Token classification also has
    `words` (start and end of each word in characters), and `label` is a tuple with the tag of each word. Span tasks
    have `id`, `question`, `context` and `answers` ({"text": [...], "answer_start": [...]}, with empty lists if there is
    no answer).
    """

    task: Task
    split: str
    columns: Mapping[str, Sequence[Any]]
    total: int
    """Rows of the whole split; more than `len(self)` means a sample, or a file with a part of the split."""
    left_out: int = 0
    """Rows of the train split that are neither trained on nor scored, because a row with the same text is held out."""
    sampled_from: int = 0
    """Estimated number of all examples, if these are a dry run's sample; 0 = these are all."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def count(self) -> int:
        """Number of examples; for a sample, the estimate for all."""
        return self.sampled_from or len(self)

    @property
    def has_unanswerable(self) -> bool:
        """Whether some question of a span task has no answer."""
        return not all(map(is_answerable, self.columns.get("answers", ())))

    @property
    def needs_threshold(self) -> bool:
        """Whether predicting needs a threshold: for “no answer”, or for each label of a multi-label task."""
        return self.task.kind == "multi-label" or self.has_unanswerable

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, and of the class names if they come from the data."""
        digest = hashlib.sha256()
        if self.task.labels_from_data:
            digest.update(json.dumps(self.task.labels, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        for name in sorted(self.columns):
            digest.update(f"[{json.dumps(name)}, [".encode())
            for begin in range(0, len(self), VALUES_AT_ONCE):
                values = [*self.columns[name][begin : begin + VALUES_AT_ONCE]]
                part = json.dumps(values, ensure_ascii=False)[1:-1]
                digest.update(f"{', ' * (begin > 0)}{part}".encode("utf-8", "surrogatepass"))
            digest.update(b"]]")
        return digest.hexdigest()

    @property
    def _text_columns(self) -> list[Sequence[str]]:
        return [self.columns[name] for name in ("text", "text_pair", "question", "context") if name in self.columns]

    @cached_property
    def texts(self) -> list[tuple[str, ...]]:
        """The texts of each example: one, both of a pair, or question and context in span tasks."""
        return [*self.each_text()]

    def each_text(self) -> Iterator[tuple[str, ...]]:
        """Iterate over the `texts`."""
        return zip(*self._text_columns, strict=True)

    @cached_property
    def keys(self) -> list[tuple[str, ...]]:
        """The texts by which examples are compared: leading, trailing and repeated white space is ignored."""
        return [*self.each_key()]

    @cached_property
    def folded_hashes(self) -> NDArray[np.uint32]:
        """(n,) hashes of the `folded` keys, valid in this process only."""
        return hashes_of(map(folded, self.each_key()), len(self))

    @cached_property
    def empty_texts(self) -> int:
        """Number of examples with an empty text."""
        return sum(not all(key) for key in self.each_key())

    def each_key(self) -> Iterator[tuple[str, ...]]:
        """Iterate over the `keys`."""
        return map(key_of, self.each_text())

    def keys_of(self, rows: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """Return the `keys` of some rows."""
        columns = (taken(column, rows) for column in self._text_columns)
        return [*map(key_of, zip(*columns, strict=True))]

    @cached_property
    def text_numbers(self) -> NDArray[np.integer[Any]]:
        """(n,) a number for each distinct key, in order of first occurrence."""
        return numbered(hashes_of(self.each_key(), len(self)), self.keys_of)

    def lying_in(self, columns: Mapping[str, Sequence[Any]]) -> "Examples":
        """Return the same examples with their columns in other memory; cached values are kept."""
        examples = replace(self, columns=columns)
        examples.__dict__.update({name: value for name, value in self.__dict__.items() if name != "columns"})
        return examples

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Examples":
        """Return some of the examples; the size of the whole split stays."""
        columns = {name: taken(values, rows) for name, values in self.columns.items()}
        return replace(self, columns=columns, sampled_from=round(self.sampled_from * len(rows) / max(len(self), 1)))

    @cached_property
    def hashes(self) -> list[str]:
        """Sixteen hexadecimal hash digits of each example's texts and label, by which runs compare their examples."""
        labels = self.columns["label"] if "label" in self.columns else [a["text"] for a in self.columns["answers"]]
        if self.task.labels:
            labels = [self.task.text_of(label) for label in labels]
        rows = zip(self.texts, labels, strict=True)
        return [hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16] for row in rows]


def key_of(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return an example's texts without leading, trailing or repeated white space, to compare it with others."""
    return tuple(" ".join(text.split()) for text in texts)


def folded(key: tuple[str, ...]) -> tuple[str, ...]:
    """Return the texts as most models read them: without capitals, in one Unicode normalisation."""
    return tuple(unicodedata.normalize("NFKC", text).casefold() for text in key)


def is_answerable(answer: Mapping[str, list[Any]]) -> bool:
    """Whether a question has an answer in its context, according to its entry in the column `answers`."""
    return bool(answer["text"])


def sample_rows(total: int, limit: int, seed: int, *, pairs: bool = False) -> NDArray[np.int64]:
    """Return the rows of a seeded sample without replacement, in order; all rows if `limit` is 0 or at least `total`.

    With `pairs`, rows 0 and 1, 2 and 3 … are drawn together, which keeps two alternating labels balanced.
    """
    if limit == 0 or limit >= total:
        return np.arange(total)
    group = 2 if pairs else 1
    groups = np.random.default_rng(seed).choice(total // group, -(-limit // group), replace=False)
    rows: NDArray[np.int64] = (np.sort(groups)[:, None] * group + np.arange(group)).ravel()
    return rows[:limit]
