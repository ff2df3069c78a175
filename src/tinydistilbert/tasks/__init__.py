"""Tasks: what is fine-tuned and scored, and the examples to do it with."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.data.sources import open_source
from tinydistilbert.errors import UserError
from tinydistilbert.names import TASK_NAMES
from tinydistilbert.recipe import Corpus, Finetune
from tinydistilbert.tasks import glue, imdb, probes, squad
from tinydistilbert.tasks.base import Examples, Task, choose
from tinydistilbert.tasks.reading import checked_columns, read_split, split_file

TASKS: dict[str, Task] = {task.name: task for task in (*glue.TASKS, *imdb.TASKS, *squad.TASKS, *probes.TASKS)}

assert tuple(TASKS) == TASK_NAMES, "names.py and the task tables list the same tasks"

__all__ = ["HELD_OUT", "TASKS", "Examples", "Task", "has_split", "held_out_of_train", "load_examples"]

HELD_OUT = "train (held out)"
"""Split of the train examples that are scored and never trained on, where settings are chosen by them."""
HELD_OUT_SHARE = 0.1
HELD_OUT_SEED = 0
"""One for all recipes: whatever the seed of a run, the same examples are held out."""


def has_split(task: Task, split: str, data: str | None) -> bool:
    """Whether the split can be had: its file is in the data folder, or it comes from the hub, or is made from text."""
    return data is None or task.family == "probe" or split_file(task, split, data) is not None


def held_out_of_train(finetune: Finetune, task_name: str) -> int | None:
    """What these settings ask `load_examples` to hold out of the task's train split; None where that is not scored."""
    return finetune.settings(task_name).validation_examples if finetune.score_on == "train" else None


def load_examples(
    task: Task, split: str, *, data: str | None, corpus: Corpus, limit: int, seed: int, held_out: int | None = None
) -> Examples:
    """Examples of a split: from `{data}/{task.folder}/{split}.parquet` (or .jsonl, .csv), without `data` from the hub.

    The probes are made from the text of `corpus`, their train examples from its train documents and the others from its
    validation documents.

    Args:
        task: a row of `TASKS`.
        split: `task.train`, one of `task.evaluation`, or `HELD_OUT`.
        data: folder with the task folders.
        corpus: text for the probes; nothing else uses it.
        limit: size of a seeded sample without replacement, in the order of the split; 0 = all.
        seed: of the sample, and of the probes.
        held_out: of the train split, how many examples are kept for scoring (0 = a tenth), the same for every `seed`:
            the split `HELD_OUT` is those, in full, and `task.train` is the rest, less what repeats one of them. None =
            none are.

    Raises:
        UserError: the split is missing, unreadable or empty, or a row of the sample is not what the task says; fewer
            train examples than are to be held out.
    """
    assert split != HELD_OUT or held_out is not None, "how many were held out is said by whoever wants them"
    source_split = task.train if split == HELD_OUT else split
    if task.family != "probe":
        table, where = read_split(task, source_split, data)
        texts = [task.text, *([task.text_pair] if task.text_pair else [])]
        rows = _rows(
            task, split, table.num_rows, lambda: list(zip(*(table[name].to_pylist() for name in texts), strict=True)),
            limit=limit, seed=seed, held_out=held_out,
        )  # fmt: skip
        columns = checked_columns(task, source_split, table.take(rows), where, rows.tolist())
        total = len(rows) if split == HELD_OUT else max(table.num_rows, task.official.get(split, 0))
        return Examples(task, split, columns, total)
    # Whatever the blocks of the student are packed from, probes need whole documents.
    source = open_source(dataclasses.replace(corpus, packing="documents"), data)
    made_with = seed if held_out is None else HELD_OUT_SEED  # examples of another seed could not be held out
    made = probes.make(task, source.train(), seed=made_with, cap=probes.TRAIN_CAP)
    if source_split != task.train:
        used = {row.key for row in made}
        made = probes.make(task, source.validation(), seed=made_with, cap=probes.EVALUATION_CAP, exclude=used)
    if not made:
        raise UserError(
            f"{task.name} ({split}) from {source.name}", expected="documents of several sentences",
            found="none to make it from", cure="give corpus.source a text with paragraphs of prose",
        )  # fmt: skip
    rows = _rows(task, split, len(made), lambda: [row.key for row in made], limit=limit, seed=seed, held_out=held_out)
    return Examples(task, split, probes.columns(made, rows.tolist()), len(rows) if split == HELD_OUT else len(made))


def _rows(
    task: Task, split: str, total: int, keys: Callable[[], Sequence[Hashable]], *, limit: int, seed: int,
    held_out: int | None,
) -> NDArray[np.int64]:  # fmt: skip
    """Which of `total` rows `load_examples` takes; `keys` tells what makes two rows the same example."""
    pairs = task.family == "probe"
    if held_out is None or split not in (task.train, HELD_OUT):
        return choose(total, limit, seed, pairs=pairs)
    count = held_out or max(1, round(HELD_OUT_SHARE * total))
    if count >= total:
        raise UserError(
            f"finetune.validation_examples of {task.name}", expected=f"fewer than the {total:,} train examples",
            found=f"{count:,}", cure="lower it: with finetune.score_on they are held out of the train split",
        )  # fmt: skip
    scored = choose(total, count, HELD_OUT_SEED, pairs=pairs)
    if split == HELD_OUT:
        return scored
    every = keys()
    apart = {every[row] for row in scored}
    rest = np.array([row for row in range(total) if every[row] not in apart], dtype=np.int64)
    if not len(rest):
        raise UserError(
            task.name, expected="train examples of several texts", found="one text in all of them", cure="mend the file"
        )
    return rest[choose(len(rest), limit, seed, pairs=pairs)]
