"""What a task is, and the examples of one split of it."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Kind = Literal["classification", "regression", "span"]


@dataclass(frozen=True)
class Task:
    """A row of `TASKS` or a task of one's own: where the examples are, which head they need, how they are scored."""

    name: str
    title: str
    """The name that tables print."""
    family: Literal["glue", "imdb", "squad", "probe", "custom"]
    kind: Kind
    text: str
    """Column of the first text; of the question in span tasks."""
    text_pair: str | None
    """Column of the second text, if there is one; of the context in span tasks."""
    labels: tuple[str, ...]
    """Names of the classes 0, 1, …; empty for regression and span, and for one's own task before its data is read."""
    metrics: tuple[str, ...]
    headline: str
    """The metric that stands for the task in tables and means."""
    label: str = "label"
    """Column of the label; span tasks have their column `answers` instead."""
    folder: str = ""
    """Folder of the split files below the data folder."""
    hub: tuple[str, str | None] = ("", None)
    """Name and configuration of the data set on the Hugging Face hub."""
    files: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Of a task of one's own: the file or hub name of each split, empty where there is none."""
    train: str = "train"
    evaluation: tuple[str, ...] = ("validation",)
    """Splits that are reported; the first is the one in the tables."""
    max_length: int = 128
    """Longest input in tokens."""
    doc_stride: int = 0
    """Tokens that two neighbouring windows of a long context share (span tasks only)."""
    official: Mapping[str, int] = field(default_factory=dict, hash=False)
    """Rows of the published splits, so that a file with a part of one is known for what it is."""


@dataclass(frozen=True)
class Examples:
    """Examples of one split, by column.

    Columns of classification and regression: `idx` (row in the split), `text`, `text_pair` (if the task has one) and
    `label`; of span tasks: `id`, `question`, `context` and `answers` ({"text": [...], "answer_start": [...]}).
    """

    task: Task
    split: str
    columns: dict[str, list[Any]]
    total: int
    """Rows of the whole split; more than `len(self)` means a sample, or a file that holds a part of the split."""

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the content, and of the names of the classes where those are the file's own."""
        digest = hashlib.sha256()
        if self.task.family == "custom":
            digest.update(json.dumps(self.task.labels, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        for name in sorted(self.columns):
            digest.update(json.dumps([name, self.columns[name]], ensure_ascii=False).encode("utf-8", "surrogatepass"))
        return digest.hexdigest()


def choose(total: int, limit: int, seed: int, *, pairs: bool = False) -> NDArray[np.int64]:
    """Rows of a seeded sample without replacement, in their own order; all rows when `limit` is 0 or not below `total`.

    With `pairs`, rows 0 and 1, 2 and 3 … are drawn together, which keeps two labels balanced that alternate.
    """
    if limit == 0 or limit >= total:
        return np.arange(total)
    group = 2 if pairs else 1
    groups = np.random.default_rng(seed).choice(total // group, -(-limit // group), replace=False)
    rows: NDArray[np.int64] = (np.sort(groups)[:, None] * group + np.arange(group)).ravel()
    return rows[:limit]
