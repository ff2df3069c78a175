"""The rows of a split: from the data folder, from the user's file, or from the hub."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tinydistilbert.data.hub import HubName, load_saved, parse, saved_folder
from tinydistilbert.errors import UserError
from tinydistilbert.storage.disk import in_home
from tinydistilbert.tasks.answers import with_answers
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.hash_split import part_of
from tinydistilbert.tasks.label_sets import with_label_lists
from tinydistilbert.tasks.readers import CONLL_ENDINGS, ENDINGS, can_be_read, is_conll, read_conll, read_rows
from tinydistilbert.tasks.row_checks import check_columns
from tinydistilbert.tasks.rows import Rows, table_rows
from tinydistilbert.tasks.word_tags import TEXT_COLUMNS, with_words

if TYPE_CHECKING:
    from datasets import Dataset


@dataclass(frozen=True)
class _Sources:
    """Where to look for a split: the first existing file, a folder written by `save_to_disk`, or else the hub."""

    files: tuple[Path, ...]
    hub: HubName | None = None
    saved: tuple[Path, str | None] | None = None
    """The folder, and its split if one is named."""

    @property
    def file(self) -> Path | None:
        return next((file for file in self.files if _is(file, Path.is_file)), None)


def _sources(task: Task, split: str, data: str | None) -> _Sources:
    """Return the sources of a split. A task that names files has paths in the working or data folder, or hub names.

    Other tasks have `{data}/{task.folder}/{split}` with a readable ending, or without a data folder, the hub.
    """
    if not task.files:
        if data is None:
            return _Sources((), HubName(*task.hub))
        return _Sources(tuple(Path(data) / task.folder / (split + suffix) for suffix in ENDINGS))
    named = task.files.get(split, "")
    path = in_home(named)
    saved = None
    if named:  # an empty name would be the working folder
        saved = saved_folder(named) or (saved_folder(str(Path(data) / named)) if data else None)
    on_hub = None if saved or can_be_read(path) or _is_conll(task, path) else parse(named)
    return _Sources((path, *([Path(data) / path] if data else [])), on_hub, saved)


def has_split(task: Task, split: str, data: str | None) -> bool:
    """Whether the split is available: its file is named or in the data folder, it is on the hub, or made from text."""
    if task.is_made or task.files.get(split):
        return True
    sources = _sources(task, split, data)
    return sources.hub is not None or sources.file is not None or sources.saved is not None


def is_fetched(task: Task, split: str, data: str | None) -> bool:
    """Whether `read_split` would fetch the split from the hub."""
    if task.is_made:
        return False
    sources = _sources(task, split, data)
    return sources.hub is not None and sources.file is None


def file_of(task: Task, split: str, data: str | None) -> Path | None:
    """Return the file that `read_split` would read; None if it is not on this machine."""
    return _sources(task, split, data).file


def read_split(task: Task, split: str, data: str | None) -> Rows:
    """Read all rows of a split, including the columns of the task.

    Raises:
        UserError: the file does not exist or cannot be read, there is no network, a column is missing, or there is no
            row.
    """
    sources = _sources(task, split, data)
    if sources.file:
        rows = read_conll(sources.file) if _is_conll(task, sources.file) else read_rows(sources.file, task.quoting)
    elif sources.saved:
        folder, name = sources.saved
        where = f"finetune.custom.{task.name}.{split}"
        of_file = task.train if task.scored_share else split
        rows = _rows_of(task, load_saved(folder, name, default=of_file, where=where), f"{folder} ({name or of_file})")
    elif sources.hub:
        rows = _hub_rows(task, task.train if task.scored_share else split, sources.hub)
    else:
        raise _nothing_there(task, split, data, sources)
    if task.kind == "token-classification":
        rows = with_words(task, rows)
        return part_of(task, split, rows) if task.scored_share else rows
    if task.kind == "span":
        rows = with_answers(rows)
    answer = "answers" if task.kind == "span" else task.label
    fix = f"correct finetune.custom.{task.name} (--text, --text-pair, --label)" if task.files else ""
    check_columns(
        rows, [task.text, *([task.text_pair] if task.text_pair else []), *(task.label_columns or [answer])], fix
    )
    if task.kind == "multi-label":
        rows = with_label_lists(task, split, rows)
    return part_of(task, split, rows) if task.scored_share else rows


def _nothing_there(task: Task, split: str, data: str | None, sources: _Sources) -> UserError:
    endings = ", ".join((*CONLL_ENDINGS, *ENDINGS) if task.kind == "token-classification" else ENDINGS)
    if task.files:
        where = f"finetune.custom.{task.name}.{split}"
        expected = f"a file ({endings}), a folder of save_to_disk, or a data set on the hub (owner/name:config:split)"
        is_folder = bool(task.files.get(split)) and any(_is(file, Path.is_dir) for file in sources.files)
        found = f"no file {' or '.join(map(str, sources.files))}" if task.files.get(split) else "nothing"
        found = f"another folder, {task.files[split]}" if is_folder else found
        fix = "name the file in it" if is_folder else "correct the path"
        return UserError(where, expected=expected, found=found, fix=fix)
    return UserError(
        str(Path(data or "") / task.folder / f"{split}.parquet"),
        expected=f"the {split} split of {task.title}", found="no file",
        fix=f"put the split there ({endings}), or remove {task.name!r} from finetune.tasks",
    )  # fmt: skip


def _is_conll(task: Task, path: Path) -> bool:
    """Whether to read a file as CoNLL: the task tags words, and the file is not a table."""
    return task.kind == "token-classification" and is_conll(path, (task.text, *TEXT_COLUMNS))


def _is(path: Path, of_kind: Callable[[Path], bool]) -> bool:
    """Call `Path.is_file` or `Path.is_dir`; False for a name that is too long for the file system."""
    try:
        return of_kind(path)
    except OSError:
        return False


def _hub_rows(task: Task, split: str, hub: HubName) -> Rows:
    import datasets  # slow to import, and not needed for files

    name, wanted = hub.name, hub.split or split
    if task.files:
        fix = (
            f"correct finetune.custom.{task.name}.{split} ({name}:configuration:split), connect to the network, or name"
        )
        fix += " a file"
    else:
        fix = f"connect to the network, or give --data FOLDER with {task.folder}/{split}.parquet in it"
    try:
        rows = datasets.load_dataset(name, hub.config, split=wanted)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        expected = f"its {wanted} split"
        raise UserError(f"hub data set {name}", expected=expected, found=str(error), fix=fix) from error
    return _rows_of(task, rows, f"{name} ({wanted})")


def _rows_of(task: Task, rows: "Dataset", where: str) -> Rows:
    table = with_class_names(rows, task.label) if task.labels_from_data else rows.with_format("arrow")[:]
    return table_rows(table, where)


def with_class_names(rows: "Dataset", label: str) -> pa.Table:
    """Return the rows with class names if the data set has numbers with names; null for -1, which marks no label.

    In lists of numbers a null takes the place of each number below 0, so that it is refused and not read as a name.
    """
    table = rows.with_format("arrow")[:]
    feature = rows.features.get(label)
    of_list = getattr(getattr(feature, "feature", None), "names", None)  # a list of classes
    names = of_list or getattr(feature, "names", None)
    if names is None:
        return table

    def name_of(number: int | None) -> str | None:
        return str(names[number]) if number is not None and number >= 0 else None

    values = table[label].to_pylist()  # those of `rows` depend on its format, such as tensors
    if of_list:
        label_names = pa.array([numbers and [*map(name_of, numbers)] for numbers in values])
    else:
        label_names = pa.array([*map(name_of, values)])
    return table.set_column(table.column_names.index(label), label, label_names)
