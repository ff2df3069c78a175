"""Names of tasks that the recipe also needs, in a module that imports nothing of this package."""

import re
from pathlib import PurePath
from typing import Literal

GLUE_NAMES = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
LIBRARY_NAMES = ("library-area", "same-module", "what-does-it-do")
SYNTHETIC_NAMES = ("acceptability", "adjacency", "cloze-qa")
SPAN_NAMES = ("squad", "squad_v2", "what-does-it-do", "cloze-qa")
TASK_NAMES = (*GLUE_NAMES, "imdb", "squad", "squad_v2", *LIBRARY_NAMES, *SYNTHETIC_NAMES)
TEXT_BASELINES = TF_IDF, STATIC_EMBEDDINGS = "tf-idf", "static embeddings"
MOST_FREQUENT_TAG = "most frequent tag"
BASELINE_NAMES = (*TEXT_BASELINES, MOST_FREQUENT_TAG)
"""Rows of cheap models that a student has to beat: two for whole texts, and one for tagged words."""
MEASURED = ("pretraining", "size", "latency")
"""Values of a measurement's field `task` that are not a task."""

CORPUS_TEXTS, TASK_TEXTS = "corpus", "task:"
"""Sources of unlabelled texts that are not files: the corpus' sentences, and, with its name, a task's train texts."""


Quoting = Literal["auto", "none", "csv"]
"""How quotes are read in CSV and TSV."""


def is_built_in(source: str) -> bool:
    """Whether a source of texts without labels is not a file."""
    return source == CORPUS_TEXTS or source.startswith(TASK_TEXTS)


def task_of_source(source: str) -> str:
    """Return the task whose train texts a source is; empty for others."""
    return source.removeprefix(TASK_TEXTS) if source.startswith(TASK_TEXTS) else ""


def base_task(name: str) -> str:
    """Return the task whose examples and settings `rte@mnli` has: `rte`; for a plain name, the name."""
    return name.partition("@")[0]


def intermediate_task(name: str) -> str:
    """Return the task whose models `rte@mnli` starts from: `mnli`; empty for a plain name."""
    return name.partition("@")[2]


def task_name(train: str) -> str:
    """Return the name of a custom task, made from its train file."""
    stem = PurePath(train.removesuffix(".gz").removesuffix(".zst")).stem
    name = re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-") or "own"
    return f"own-{name}" if name in (*TASK_NAMES, *MEASURED) else name
