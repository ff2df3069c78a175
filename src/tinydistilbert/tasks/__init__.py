"""Tasks: what models are fine-tuned and scored on, and their examples."""

import dataclasses
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice
from tinydistilbert.recipe.names import SPAN_NAMES, TASK_NAMES, base_task, intermediate_task
from tinydistilbert.tasks import glue, hold_out, imdb, library, squad, synthetic
from tinydistilbert.tasks.base import Examples, ScoreTable, Task, sample_rows

# Functions that read data import the libraries they need: a served model needs only the tasks.
if TYPE_CHECKING:
    from tinydistilbert.recipe.schema import Corpus, Finetune

_ALL = (*glue.TASKS, *imdb.TASKS, *squad.TASKS, *library.TASKS, *synthetic.TASKS)
TASKS: dict[str, Task] = {task.name: task for task in _ALL}

assert tuple(TASKS) == TASK_NAMES, "names.py and the task tables list the same tasks"
assert tuple(name for name, task in TASKS.items() if task.kind == "span") == SPAN_NAMES

__all__ = ["HELD_OUT", "TASKS", "Examples", "Task", "load_examples", "tables_of", "tasks_of"]

AFTER = ScoreTable(
    "after", "After an intermediate task",
    "Fine-tuned on another task with labels first, then on this one: not comparable with tables without such labels.",
)  # fmt: skip
"""The table of tasks such as `rte@mnli`."""
HELD_OUT = "train (held out)"
"""Split of the train examples that are never trained on, but scored to choose settings."""


def tasks_of(finetune: "Finetune") -> dict[str, Task]:
    """Return all tasks by name: `TASKS`, then the custom tasks of `finetune.custom`, then tasks such as `rte@mnli`.

    Raises:
        UserError: a custom task uses one column for two purposes.
    """
    from tinydistilbert.tasks import custom

    tasks = TASKS | {name: custom.custom_task(name, settings) for name, settings in finetune.custom.items()}
    return tasks | {name: _after(name, tasks) for name in finetune.tasks if intermediate_task(name)}


def _after(name: str, tasks: Mapping[str, Task]) -> Task:
    """Return a task whose models start from those of another task; it has a separate table without published scores."""
    task, first = tasks[base_task(name)], tasks[intermediate_task(name)]
    title = f"{task.title} after {first.title}"
    return dataclasses.replace(task, name=name, title=title, table=AFTER, published={}, corrected={})


def tables_of(tasks: Mapping[str, Task]) -> dict[ScoreTable, tuple[Task, ...]]:
    """Return the tables of tasks, each with its tasks: data sets come before generated tasks."""
    tables: dict[ScoreTable, tuple[Task, ...]] = {}
    for task in sorted(tasks.values(), key=lambda task: task.is_made):
        tables[task.table] = (*tables.get(task.table, ()), task)
    return tables


def load_examples(
    task: Task, split: str, *, data: str | None, corpus: "Corpus", limit: int, seed: int, held_out: int | None = None,
    labels: tuple[str, ...] | None = None,
) -> Examples:  # fmt: skip
    """Load a split from `{data}/{task.folder}/{split}.parquet` (.jsonl, .csv …), or without `data` from the hub.

    Examples of a custom task come from the file or hub data set that it names. The task of the returned examples has
    its classes, if necessary taken from its train split. Every row is checked, including rows that a sample leaves out.

    Synthetic examples are made from the text of `corpus`: train examples from its train documents, the others from its
    validation documents. Examples of the tasks from Python's library depend only on that library.

    Args:
        task: one of `tasks_of`.
        split: `task.train`, one of `task.evaluation`, or `HELD_OUT`.
        data: folder with the task folders; files of custom tasks may be there too.
        corpus: text for synthetic tasks; nothing else uses it.
        limit: size of a seeded sample without replacement, in the order of the split; 0 = all.
        seed: seed of the sample and of synthetic examples.
        held_out: how many texts of the train split are kept for scoring (0 = a tenth), the same for every `seed`: the
            split `HELD_OUT` has one row for each of them, and `task.train` has the rows of all others. None = no
            hold-out.
        labels: classes of a custom classification task, in the order of a model's outputs; by default those of the
            train split, numbers by size, words alphabetically.

    Raises:
        UserError: the split is missing, unreadable or empty, a row does not fit the task, or there are too few train
            examples to hold out as many.
    """
    assert split != HELD_OUT or held_out is not None, "the caller says how many are held out"
    source_split = task.train if split == HELD_OUT else split
    keys: Sequence[Hashable] = ()
    if task.is_synthetic:
        columns, keys = _synthetic_columns(
            task, source_split, data, corpus, hold_out.SEED if held_out is not None else seed
        )
        whole = _whole(task, source_split, columns)
    elif task.of_library:
        whole = _whole(task, source_split, library.columns(task, source_split))
    else:
        whole = _whole_split(task, source_split, data, labels)
    rows, left_out = _rows(whole, keys, split, limit=limit, seed=seed, held_out=held_out)
    if len(rows) == len(whole) and split == source_split:
        return whole
    total = len(rows) if split == HELD_OUT else whole.total
    return dataclasses.replace(whole.take(rows), split=split, total=total, left_out=left_out)


def _whole(task: Task, split: str, columns: Mapping[str, Sequence[Any]]) -> Examples:
    count = len(next(iter(columns.values())))
    return Examples(task, split, columns, max(count, task.official.get(split, 0)))


def _whole_split(task: Task, split: str, data: str | None, labels: tuple[str, ...] | None) -> Examples:
    """Return all examples of a split, with the classes of the task; large files are read only once."""
    from tinydistilbert.tasks.read_once import read_once
    from tinydistilbert.tasks.splits import file_of

    files = [file_of(task, split, data)]
    if task.labels_from_data:
        task = dataclasses.replace(task, labels=())  # the classes are found again
        files += [file_of(task, task.train, data)] if labels is None and task.has_classes else []
    return read_once(task, split, files, labels, lambda: _whole_of(task, split, data, labels))


def _whole_of(task: Task, split: str, data: str | None, labels: tuple[str, ...] | None) -> Examples:
    task, columns, sampled_from = _columns(task, split, data, labels)
    return dataclasses.replace(_whole(task, split, columns), sampled_from=sampled_from)


def _columns(
    task: Task, split: str, data: str | None, labels: tuple[str, ...] | None
) -> tuple[Task, Mapping[str, Sequence[Any]], int]:
    """Return the task with its classes, the columns of `Examples`, and for a sample the estimated number of rows."""
    from tinydistilbert.tasks import classes, label_sets, word_tags
    from tinydistilbert.tasks.mapped_tables import are_many, is_large
    from tinydistilbert.tasks.read_once import as_columns
    from tinydistilbert.tasks.row_checks import checked_columns
    from tinydistilbert.tasks.splits import file_of, read_split

    if split != task.train and labels is None and task.labels_from_data and task.has_classes:
        train_file = file_of(task, task.train, data)
        if train_file is not None and is_large(train_file):
            labels = _whole_split(task, task.train, data, None).task.labels
    source = read_split(task, split, data)
    if task.labels_from_data and task.has_classes:
        labels_of, with_numbers = {
            "multi-label": (label_sets.labels_of, label_sets.with_label_numbers),
            "token-classification": (word_tags.labels_of, word_tags.with_tag_numbers),
        }.get(task.kind, (classes.classes_of, classes.with_class_numbers))
        train = source if split == task.train or labels else read_split(task, task.train, data)
        task = dataclasses.replace(task, labels=labels or labels_of(task, train))
        source = with_numbers(task, source)
    columns = checked_columns(task, split, source)
    if are_many(source.table):
        return task, as_columns(task, columns), source.sampled_from
    return task, {name: [*values] for name, values in columns.items()}, source.sampled_from


def _synthetic_columns(
    task: Task, split: str, data: str | None, corpus: "Corpus", seed: int
) -> tuple[Mapping[str, Sequence[Any]], list[Hashable]]:
    """Return the columns of `Examples` for all examples made for a split, and the source of each."""
    from tinydistilbert.data.sources import open_source

    # However the student's blocks are packed, synthetic examples need whole documents.
    source = open_source(dataclasses.replace(corpus, packing="documents"), data)
    made = synthetic.make(task, source.train(), seed=seed, cap=synthetic.TRAIN_CAP)
    if split != task.train:
        used = {row.key for row in made}
        made = synthetic.make(task, source.validation(), seed=seed, cap=synthetic.EVALUATION_CAP, exclude=used)
    if not made:
        raise UserError(
            f"{task.name} ({split}) from {source.name}", problem="no document has enough sentences to make examples of",
            fix="give corpus.source a text with paragraphs of prose",
        )  # fmt: skip
    return synthetic.columns(made, list(range(len(made)))), [row.key for row in made]


def _rows(
    examples: Examples, made_from: Sequence[Hashable], split: str, *, limit: int, seed: int, held_out: int | None
) -> tuple[NDArray[np.int64], int]:
    """Return the rows of a split that `load_examples` takes, and how many are on neither side of the hold-out.

    Rows count as the same example if they have the same `made_from` (synthetic tasks) or the same text (other tasks).
    """
    task = examples.task
    if held_out is None or split not in (task.train, HELD_OUT):
        return sample_rows(len(examples), limit, seed, pairs=task.is_synthetic), 0
    parts = _held_out_in_pairs(made_from, held_out) if task.is_synthetic else _held_out(examples, held_out)
    if split == HELD_OUT:
        return parts.scored, 0
    return parts.trained[sample_rows(len(parts.trained), limit, seed, pairs=task.is_synthetic)], parts.left_out


def _held_out(examples: Examples, count: int) -> hold_out.HoldOut:
    """Draw the hold-out of a train split by its texts, with notices about what is lost."""
    from tinydistilbert.tasks.rows import shortened

    task, keys = examples.task, examples.text_numbers
    different = int(keys.max(initial=-1)) + 1
    if different < 2:
        problem = "all train examples have the same text"
        raise UserError(task.name, problem=problem, fix="correct the file")
    _check_count(task.name, count, different, "train examples" if different == len(keys) else "different train texts")
    parts = hold_out.draw(keys, hold_out.classes_to_draw_by(examples), count)
    where = f"{task.name} {task.train}"
    if parts.left_out:
        rows = f"{counted(parts.left_out, 'row')} of {len(keys):,} that repeat one of them left out"
        notice(where, f"{counted(len(parts.scored), 'text')} of {different:,} held out; {rows}")
    missing, names = parts.missing, hold_out.names_to_draw_by(task)
    if (given := hold_out.labels_given(examples)) is not None:
        missing = tuple(np.flatnonzero(~(given[parts.scored].any(0) & given[parts.trained].any(0))).tolist())
    if missing:
        named = shortened(", ".join(names[label] for label in missing))
        classes = counted(len(missing), "class has", "classes have")
        notice(where, f"{classes} no examples on one side of the hold-out: {named}")
    return parts


def _held_out_in_pairs(keys: Sequence[Hashable], count: int) -> hold_out.HoldOut:
    """Draw the hold-out of examples that were made in pairs, one of each label."""
    _check_count("synthetic examples", count, len(keys), "train examples")
    count = count or max(1, round(hold_out.SHARE * len(keys)))
    scored = sample_rows(len(keys), count, hold_out.SEED, pairs=True)
    used = {keys[row] for row in scored}
    rest = np.array([row for row, key in enumerate(keys) if key not in used], dtype=np.int64)
    return hold_out.HoldOut(scored, rest, len(keys) - len(scored) - len(rest))


def _check_count(name: str, count: int, total: int, what: str) -> None:
    if count >= total:
        raise UserError(
            f"finetune.validation_examples of {name}", expected=f"fewer than the {total:,} {what}",
            found=f"{count:,}", fix="lower it: finetune.score_on holds them out of the train split",
        )  # fmt: skip
