"""Tasks: what is fine-tuned and scored, and the examples to do it with."""

import dataclasses

from tinydistilbert.data.sources import open_source
from tinydistilbert.errors import UserError
from tinydistilbert.names import TASK_NAMES
from tinydistilbert.recipe import Corpus
from tinydistilbert.tasks import glue, imdb, probes, squad
from tinydistilbert.tasks.base import Examples, Task, choose
from tinydistilbert.tasks.reading import checked_columns, read_split, split_file

TASKS: dict[str, Task] = {task.name: task for task in (*glue.TASKS, *imdb.TASKS, *squad.TASKS, *probes.TASKS)}

assert tuple(TASKS) == TASK_NAMES, "names.py and the task tables list the same tasks"

__all__ = ["TASKS", "Examples", "Task", "has_split", "load_examples"]


def has_split(task: Task, split: str, data: str | None) -> bool:
    """Whether the split can be had: its file is in the data folder, or it comes from the hub, or is made from text."""
    return data is None or task.family == "probe" or split_file(task, split, data) is not None


def load_examples(task: Task, split: str, *, data: str | None, corpus: Corpus, limit: int, seed: int) -> Examples:
    """Examples of a split: from `{data}/{task.folder}/{split}.parquet` (or .jsonl, .csv), without `data` from the hub.

    The probes are made from the text of `corpus`, their train examples from its train documents and the others from its
    validation documents.

    Args:
        task: a row of `TASKS`.
        split: `task.train` or one of `task.evaluation`.
        data: folder with the task folders.
        corpus: text for the probes; nothing else uses it.
        limit: size of a seeded sample without replacement, in the order of the split; 0 = all.
        seed: of the sample, and of the probes.

    Raises:
        UserError: the split is missing, unreadable or empty, or a row of the sample is not what the task says.
    """
    if task.family != "probe":
        table, where = read_split(task, split, data)
        rows = choose(table.num_rows, limit, seed)
        columns = checked_columns(task, split, table.take(rows), where, rows.tolist())
        return Examples(task, split, columns, max(table.num_rows, task.official.get(split, 0)))
    # Whatever the blocks of the student are packed from, probes need whole documents.
    source = open_source(dataclasses.replace(corpus, packing="documents"), data)
    made = probes.make(task, source.train(), seed=seed, cap=probes.TRAIN_CAP)
    if split != task.train:
        used = {row.key for row in made}
        made = probes.make(task, source.validation(), seed=seed, cap=probes.EVALUATION_CAP, exclude=used)
    if not made:
        raise UserError(
            f"{task.name} ({split}) from {source.name}", expected="documents of several sentences",
            found="none to make it from", cure="give corpus.source a text with paragraphs of prose",
        )  # fmt: skip
    rows = choose(len(made), limit, seed, pairs=True)
    return Examples(task, split, probes.columns(made, rows.tolist()), len(made))
