"""Names of tasks that the recipe needs too, in a module that imports nothing of this package."""

import re
from pathlib import PurePath

GLUE_NAMES = ("cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli")
SYNTHETIC_NAMES = ("acceptability", "adjacency", "cloze-qa")
SPAN_NAMES = ("squad", "squad_v2", "cloze-qa")
TASK_NAMES = (*GLUE_NAMES, "imdb", "squad", "squad_v2", *SYNTHETIC_NAMES)
BASELINE_NAMES = TF_IDF, STATIC_EMBEDDINGS = "tf-idf", "static embeddings"
"""Rows of cheap models that a student has to beat."""
MEASURED = ("pretraining", "size", "latency")
"""Values of the field `task` in measurements that belong to no task."""


def task_name(train: str) -> str:
    """The name of a task of one's own, after its train file."""
    name = re.sub(r"[^a-z0-9]+", "-", PurePath(train.removesuffix(".gz")).stem.lower()).strip("-") or "own"
    return f"own-{name}" if name in (*TASK_NAMES, *MEASURED) else name
