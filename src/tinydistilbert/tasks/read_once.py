"""Large splits are read and checked once: the run folder keeps their rows as a memory-mapped Arrow file.

Stored rows are used only while the file's SHA-256 and everything that determines how it is read are the same; the
notices of reading it are repeated.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.notices import notice, recorded, repeat
from tinydistilbert.storage import atomic
from tinydistilbert.tasks.base import Examples, Task
from tinydistilbert.tasks.columns import VALUES_AT_ONCE, Column
from tinydistilbert.tasks.mapped_tables import is_large, mapped
from tinydistilbert.tasks.samples import is_sampled
from tinydistilbert.tasks.words import WORDS

FILE = "rows.arrow"
FORMAT = 1
"""Format number; raise it when the same file gives other rows than in the version before."""
MOST = 8
"""Maximum number of splits that a process caches."""
_HOW_READ = (
    "kind", "text", "text_pair", "label", "label_columns", "label_separator", "label_range", "labels",
    "labels_from_data", "scored_share", "quoting", "may_lack_answer", "train", "evaluation",
)  # fmt: skip
"""Fields of a task that determine its rows."""

Columns = Mapping[str, Sequence[Any]]


@dataclasses.dataclass
class _Split:
    """A split after reading."""

    examples: Examples
    """All examples of the split."""
    notices: tuple[str, ...]
    made_from: str
    """Hash of the files and of how they are read."""


_at_hand: dict[Any, _Split] = {}
"""The cached splits, by what they were read from."""
_folders: list[Callable[[str, str], Path]] = []


@contextmanager
def kept_in(folder_of: Callable[[str, str], Path]) -> Iterator[None]:
    """In the body, look for stored splits in the folder that `folder_of` returns for task and split."""
    _folders.append(folder_of)
    try:
        yield
    finally:
        _folders.pop()


def read_once(
    task: Task, split: str, files: Sequence[Path | None], more: Any, read: Callable[[], Examples]
) -> Examples:
    """Return all examples of a split: cached, stored in the run folder, or read now.

    Args:
        task: the task without classes that come from the data.
        split: a split of the task.
        files: the files from which the split and its classes are read; None = not on this machine.
        more: anything else that determines how they are read, as JSON data.
        read: reads and checks them.

    Raises:
        UserError: as for `read`.
    """
    paths = [path for path in dict.fromkeys(files) if path is not None]
    if None in files or not any(map(is_large, paths)):
        return read()
    is_sample = any(map(is_sampled, paths))
    key = (is_sample, task, split, json.dumps(more), *map(_identity, paths))
    cached = _at_hand.pop(key, None)
    if cached is None and is_sample:
        cached = _Split(read(), (), "")
    if cached is None:
        how = {name: getattr(task, name) for name in _HOW_READ} | {"official": dict(task.official)}
        described = [FORMAT, split, more, how, [atomic.sha256(path) for path in paths], [path.suffix for path in paths]]
        made_from = hashlib.sha256(json.dumps(described).encode()).hexdigest()
        cached = _kept(task, split, made_from)
        if cached is None:
            with recorded() as lines:
                examples = read()
                cached = _Split(examples, tuple(lines), made_from)
    repeat(cached.notices)
    _at_hand[key] = cached
    for oldest in [*_at_hand][:-MOST]:
        del _at_hand[oldest]
    return cached.examples


def forget() -> None:
    """Empty the cache of this process."""
    _at_hand.clear()


def _identity(path: Path) -> tuple[Any, ...]:
    """Return values that change when a file is written or replaced: no program can set its ctime."""
    status = path.stat()
    return path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


def _kept(task: Task, split: str, made_from: str) -> _Split | None:
    """Return the stored split, if it was made from `made_from`."""
    for folder_of in reversed(_folders):
        folder = folder_of(task.name, split)
        if not atomic.is_finished(folder):
            continue
        try:
            manifest = atomic.read_manifest(folder)
            if manifest["made_from"] != made_from:
                continue
            named = dataclasses.replace(task, labels=tuple(manifest["labels"]))
            examples = Examples(named, split, _columns_of(named, folder), manifest["total"])
            return _Split(examples, tuple(manifest["notices"]), made_from)
        except (UserError, LookupError, TypeError, pa.ArrowException) as error:
            notice(
                str(folder), f"this copy is damaged ({type(error).__name__}); the rows are read from their file again"
            )
    return None


def _columns_of(task: Task, folder: Path) -> Columns:
    with (folder / FILE).open("rb") as stream:
        table = mapped(stream)
    return {name: Column(table[name], form=_form(task, name)) for name in table.column_names}


def keep(tasks: Collection[str]) -> None:
    """Store the cached splits of custom tasks in the folder of `kept_in`, if they are not there yet.

    Without such a folder nothing is stored.

    Args:
        tasks: names of the tasks whose splits are stored.

    Raises:
        DiskError: the disk is full or failing.
    """
    if not _folders:
        return
    newest = {(cached.examples.task.name, cached.examples.split): cached for cached in _at_hand.values()}
    for (name, split), cached in newest.items():
        task, folder = cached.examples.task, _folders[-1](name, split)
        if name not in tasks or not task.files or not cached.made_from:
            continue
        if (
            atomic.is_finished(folder)
            and atomic.read_manifest(folder, verify=False).get("made_from") == cached.made_from
        ):
            continue
        schema = pa.schema([(column, _type(task, column)) for column in cached.examples.columns])
        facts = {
            "made_from": cached.made_from,
            "labels": task.labels,
            "notices": cached.notices,
            "total": cached.examples.total,
        }
        with atomic.unfinished(folder, **facts) as begun, pa.ipc.new_file(str(begun / FILE), schema) as writer:
            for batch in _batches(cached.examples.columns, schema):
                writer.write_batch(batch)
        cached.examples = cached.examples.lying_in(_columns_of(task, folder))


def _batches(columns: Columns, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for begin in range(0, len(next(iter(columns.values()))), VALUES_AT_ONCE):
        part = slice(begin, begin + VALUES_AT_ONCE)
        yield pa.record_batch([pa.array([*columns[field.name][part]], field.type) for field in schema], schema)


def as_columns(task: Task, columns: Columns) -> Columns:
    """Return the columns of `Examples` of many rows as Arrow columns: Python's take several times the memory.

    Args:
        task: the task with its classes.
        columns: columns as any sequences.
    """
    return {name: _as_column(task, name, values) for name, values in columns.items()}


def _as_column(task: Task, name: str, values: Sequence[Any]) -> Column:
    if isinstance(values, Column):
        return values
    kind = _type(task, name)
    if isinstance(values, range):
        return Column(pa.chunked_array([pa.array(np.arange(values.start, values.stop))]))
    parts = (values[begin : begin + VALUES_AT_ONCE] for begin in range(0, len(values), VALUES_AT_ONCE))
    return Column(pa.chunked_array([pa.array(part, kind) for part in parts], kind), form=_form(task, name))


def _type(task: Task, column: str) -> pa.DataType:
    """Return the Arrow type of a column of `Examples`."""
    if column == "idx":
        return pa.int64()
    if column == WORDS:
        return pa.list_(pa.list_(pa.int64()))
    if column == "answers":
        return pa.struct([("text", pa.list_(pa.string())), ("answer_start", pa.list_(pa.int64()))])
    if column != "label":
        return pa.string()
    of_kind = {"classification": pa.int64(), "regression": pa.float64()}
    return of_kind.get(task.kind, pa.list_(pa.int64()))


def _form(task: Task, column: str) -> Callable[[Any], Any] | None:
    """Return the conversion of a column's values for `Examples`, if they differ from what Arrow returns."""
    if column == WORDS:
        return lambda words: tuple(map(tuple, words))
    return tuple if column == "label" and task.kind in ("multi-label", "token-classification") else None
