"""What a task is, and the examples of one split of it."""

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
"""What a reader sees of an example with none of several labels."""

Candidate = tuple[str, tuple[dict[str, Any], ...]]
"""The sentence that a synthetic example is made from, and the example with each label."""
Maker = Callable[[list[str], list[str], Random], Iterator[Candidate]]
"""From the paragraphs of a document, those of the document before it and a source of chance to candidates."""


@dataclass(frozen=True)
class ScoreTable:
    """A table of the report. The tasks in it are those whose `table` it is, in the order of `TASKS`."""

    name: str
    """Short and stable: the `id` of the table on the page."""
    title: str
    caption: str
    unit: str = "task"
    """What a sentence calls one of its tasks."""
    score: str = ""
    """Heading of the mean over all its tasks, where a paper prints one; beside it, the mean over the tasks scored."""
    published_scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    """That mean as printed, in points, by published model."""
    has_mean: bool = True
    """Whether the mean over the tasks that were scored is a column."""
    metrics_in_headings: bool = True
    """Whether a heading names the metric beside the task; if not, the caption does."""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Task:
    """A row of `TASKS` or a task of one's own: where the examples are, which head they need, how they are scored."""

    name: str
    title: str
    """The name that tables print."""
    table: ScoreTable
    """The table of the report that it is a column of."""
    kind: Kind
    text: str
    """Column of the first text; of the question in span tasks."""
    text_pair: str | None
    """Column of the second text, if there is one; of the context in span tasks."""
    labels: tuple[str, ...]
    """Names of the classes, labels or tags 0, 1, …; empty for regression and span, and with `labels_from_data` before
    data is read."""
    metrics: tuple[str, ...]
    headline: str
    """The metric that stands for the task in tables and means."""
    label: str = "label"
    """Column of the label; span tasks have their column `answers` instead."""
    label_columns: tuple[str, ...] = ()
    """Of a multi-label task whose labels are columns of 0 and 1: these columns, which become the one `label`."""
    label_separator: str = "|"
    """What parts the labels of a cell (multi-label tasks only)."""
    label_range: tuple[float, float] = (-math.inf, math.inf)
    """Lowest and highest label of a regression task."""
    labels_from_data: bool = False
    """Whether what the labels may be comes from the data: classes are named there, and not by their number."""
    folder: str = ""
    """Folder of the split files below the data folder."""
    hub: tuple[str, str | None] = ("", None)
    """Name and configuration of the data set on the Hugging Face hub."""
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Of a task of one's own: the file or hub name of each split, empty where there is none."""
    scored_share: float = 0.0
    """Of a task of one's own: the share of the train file's texts that is scored and not trained on, picked by their
    hash; 0 = the scored examples are a file of their own."""
    quoting: Quoting = "auto"
    """How quotes are read in its CSV and TSV files."""
    make: Maker | None = None
    """Of a synthetic task: what makes its examples from the documents of the corpus."""
    of_library: Callable[[bool], dict[str, list[Any]]] | None = None
    """Of a task from Python's library: the columns of its train split (False) or its validation split (True)."""
    example: tuple[str, str] = ("How good is it?", "It is fine.")
    """A text, and a second one for pairs, by which pages and commands show how a model is asked; without quotes."""
    train: str = "train"
    evaluation: tuple[str, ...] = ("validation",)
    """Splits that are reported; the first is the one in the tables."""
    max_length: int = 128
    """Longest input in tokens."""
    typical_length: int = 0
    """Mean tokens of an input, in BERT's uncased vocabulary: an estimate for data that is still on the hub."""
    doc_stride: int = 0
    """Tokens that two neighbouring windows of a long context share (span tasks only)."""
    answer_units: Literal["words", "characters"] = "words"
    """What answers are compared by (span tasks only): by SQuAD's official rules words."""
    may_lack_answer: bool = False
    """Whether questions may have no answer, as in SQuAD 2 (span tasks only)."""
    official: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Rows of the published splits, so that a file with a part of one is known for what it is."""
    published: Mapping[str, Mapping[str, float]] = field(default_factory=dict, hash=False)
    """Published scores in points, by metric and then by the model's name in `report.published`."""
    corrected: Mapping[str, float] = field(default_factory=dict, hash=False)
    """By model, what means take instead of a printed headline score that cannot be right."""

    @property
    def is_synthetic(self) -> bool:
        """Whether its examples are made from the corpus, with labels in turn, and have no names outside of a run."""
        return self.make is not None

    @property
    def is_made(self) -> bool:
        """Whether its examples are made here, of the corpus or of Python's library, and not read from data sets."""
        return self.is_synthetic or self.of_library is not None

    @property
    def texts_per_input(self) -> int:
        """1, or 2 where an input is a pair."""
        return 2 if self.text_pair else 1

    @property
    def table_metrics(self) -> tuple[str, ...]:
        """The metrics that tables of scores and comparisons show."""
        return self.metrics if self.kind == "span" else (self.headline,)

    @property
    def has_classes(self) -> bool:
        """Whether its labels have names: one for an example, any number of them, or a tag for each word."""
        return self.kind in ("classification", "multi-label", "token-classification")

    def words_of(self, label: Any) -> str:
        """A label as a reader sees it: of a class its name, of several labels their names, of words their tags."""
        if self.kind == "token-classification":
            return " ".join(self.labels[tag] for tag in label)
        if self.kind != "multi-label":
            return self.labels[int(label)]
        return ", ".join(name for name, given in zip(self.labels, label, strict=True) if given == 1) or NO_LABELS


@dataclass(frozen=True)
class Examples:
    """Examples of one split, by column.

    Columns of classification, multi-label and regression: `idx` (row in the split), `text`, `text_pair` (if the task
    has one) and `label` (of multi-label tasks a tuple with 0 or 1 for each label); of token classification also `words`
    (first character and end of each), and `label` is a tuple with the tag of each; of span tasks: `id`, `question`,
    `context` and `answers` ({"text": [...], "answer_start": [...]}, both lists empty where there is no answer).
    """

    task: Task
    split: str
    columns: Mapping[str, Sequence[Any]]
    total: int
    """Rows of the whole split; more than `len(self)` means a sample, or a file that holds a part of the split."""
    left_out: int = 0
    """Of the train split, rows that are neither trained on nor scored, because a row of the same text is held out."""
    sampled_from: int = 0
    """About how many examples there are, where these are a sample that a dry run looks at; 0 = these are all."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @property
    def count(self) -> int:
        """How many there are, of a sample about."""
        return self.sampled_from or len(self)

    @property
    def has_unanswerable(self) -> bool:
        """Whether one of the questions of a span task has no answer."""
        return not all(map(is_answerable, self.columns.get("answers", ())))

    @property
    def needs_threshold(self) -> bool:
        """Whether a model needs one to predict: that there is no answer, or for each label that a text has it."""
        return self.task.kind == "multi-label" or self.has_unanswerable

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, and of the names of the classes where those come from the data."""
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
        """The text of each example; of pairs both, of span tasks question and context."""
        return [*self.each_text()]

    def each_text(self) -> Iterator[tuple[str, ...]]:
        """The `texts`, one after the other."""
        return zip(*self._text_columns, strict=True)

    @cached_property
    def keys(self) -> list[tuple[str, ...]]:
        """The texts by which two examples are the same one: white space at the ends or doubled makes no other text."""
        return [*self.each_key()]

    @cached_property
    def folded_hashes(self) -> NDArray[np.uint32]:
        """(n,) hashes of the `keys` as most models read them, see `folded`; in this process."""
        return hashes_of(map(folded, self.each_key()), len(self))

    @cached_property
    def empty_texts(self) -> int:
        """How many examples have an empty text."""
        return sum(not all(key) for key in self.each_key())

    def each_key(self) -> Iterator[tuple[str, ...]]:
        """The `keys`, one after the other."""
        return map(key_of, self.each_text())

    def keys_of(self, rows: NDArray[np.int64]) -> list[tuple[str, ...]]:
        """The `keys` of some rows."""
        columns = (taken(column, rows) for column in self._text_columns)
        return [*map(key_of, zip(*columns, strict=True))]

    @cached_property
    def text_numbers(self) -> NDArray[np.integer[Any]]:
        """(n,) a number for each different one of the `keys`, in the order in which they first occur."""
        return numbered(hashes_of(self.each_key(), len(self)), self.keys_of)

    def lying_in(self, columns: Mapping[str, Sequence[Any]]) -> "Examples":
        """The same examples in other memory; what was computed of them stays."""
        examples = replace(self, columns=columns)
        examples.__dict__.update({name: value for name, value in self.__dict__.items() if name != "columns"})
        return examples

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> "Examples":
        """Some of the examples, of as many in the split."""
        columns = {name: taken(values, rows) for name, values in self.columns.items()}
        return replace(self, columns=columns, sampled_from=round(self.sampled_from * len(rows) / max(len(self), 1)))

    @cached_property
    def hashes(self) -> list[str]:
        """Sixteen hexadecimal digits of each example's texts and label, by which runs find out that they read alike."""
        labels = self.columns["label"] if "label" in self.columns else [a["text"] for a in self.columns["answers"]]
        if self.task.labels:
            labels = [self.task.words_of(label) for label in labels]
        rows = zip(self.texts, labels, strict=True)
        return [hashlib.sha256(json.dumps(row).encode()).hexdigest()[:16] for row in rows]


def key_of(texts: tuple[str, ...]) -> tuple[str, ...]:
    """The texts of an example without white space at the ends or doubled, by which it is compared with others."""
    return tuple(" ".join(text.split()) for text in texts)


def folded(key: tuple[str, ...]) -> tuple[str, ...]:
    """The texts as most models read them: without capitals, and characters composed in one way."""
    return tuple(unicodedata.normalize("NFKC", text).casefold() for text in key)


def is_answerable(answer: Mapping[str, list[Any]]) -> bool:
    """Whether a question has an answer in its context, by its entry in the column `answers`."""
    return bool(answer["text"])


def sample_rows(total: int, limit: int, seed: int, *, pairs: bool = False) -> NDArray[np.int64]:
    """Rows of a seeded sample without replacement, in their own order; all rows when `limit` is 0 or not below `total`.

    With `pairs`, rows 0 and 1, 2 and 3 … are drawn together, which keeps two labels balanced that alternate.
    """
    if limit == 0 or limit >= total:
        return np.arange(total)
    group = 2 if pairs else 1
    groups = np.random.default_rng(seed).choice(total // group, -(-limit // group), replace=False)
    rows: NDArray[np.int64] = (np.sort(groups)[:, None] * group + np.arange(group)).ravel()
    return rows[:limit]
