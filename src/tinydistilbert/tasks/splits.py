"""The rows of a split: from the data folder, from a file of your own, or from the hub."""

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tinydistilbert.errors import UserError
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.readers import READERS, Rows, read_rows, table_rows
from tinydistilbert.tasks.row_checks import check_columns

if TYPE_CHECKING:
    from datasets import Dataset

HUB_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""`owner/name`; a path that looks so and is not there is looked for on the hub, unless it ends like a file."""


def has_split(task: Task, split: str, data: str | None) -> bool:
    """Whether the split can be had: its file is named or in the data folder, or it is on the hub, or made from text."""
    if task.family == "custom":
        return bool(task.files.get(split))
    return data is None or task.family == "probe" or _in_folder(task, split, data) is not None


def read_split(task: Task, split: str, data: str | None) -> Rows:
    """All rows of a split, with the columns of the task among others.

    Raises:
        UserError: no such file, a file that cannot be read, no network, a missing column or no row.
    """
    if task.family == "custom":
        rows, fix = _own(task, split, data), f"correct finetune.custom.{task.name} (--text, --text-pair, --label)"
    else:
        rows, fix = _published(task, split, data), ""
    answer = "answers" if task.kind == "span" else task.label
    check_columns(rows, [task.text, *([task.text_pair] if task.text_pair else []), answer], fix)
    return rows


def _in_folder(task: Task, split: str, data: str) -> Path | None:
    """`{data}/{task.folder}/{split}` with one of the endings that can be read."""
    files = (Path(data) / task.folder / (split + suffix) for suffix in READERS)
    return next((file for file in files if file.is_file()), None)


def _published(task: Task, split: str, data: str | None) -> Rows:
    if data is None:
        fix = f"connect to the network, or give --data FOLDER with {task.folder}/{split}.parquet in it"
        return table_rows(_from_hub(*task.hub, split, fix).with_format("arrow")[:], f"{task.hub[0]} ({split})")
    file = _in_folder(task, split, data)
    if file is None:
        where = str(Path(data) / task.folder / f"{split}.parquet")
        fix = f"put the split there ({', '.join(READERS)}), or take {task.name!r} out of finetune.tasks"
        raise UserError(where, expected=f"the {split} split of {task.title}", found="no file", fix=fix)
    return read_rows(file)


def _own(task: Task, split: str, data: str | None) -> Rows:
    """The split of one's own task: a path from the working folder or from the data folder, else a name on the hub."""
    named, key = task.files.get(split, ""), f"finetune.custom.{task.name}.{split}"
    path = Path(named).expanduser()
    places = [path, *([Path(data) / path] if data else [])]
    file = next((place for place in places if _is_file(place)), None)
    if file:
        return read_rows(file)
    if not named or path.suffix.lower() in READERS or not HUB_NAME.fullmatch(named):
        expected = f"a file ({', '.join(READERS)}) or a data set on the hub (owner/name)"
        found = f"no file {' or '.join(map(str, places))}" if named else "nothing"
        raise UserError(key, expected=expected, found=found, fix="correct the path")
    rows = _from_hub(named, None, split, f"correct {key}, connect to the network, or name a file")
    return table_rows(_with_class_names(rows, task.label), f"{named} ({split})")


def _is_file(path: Path) -> bool:
    """As `Path.is_file`, also of a name that is too long for the file system."""
    try:
        return path.is_file()
    except OSError:
        return False


def _from_hub(name: str, configuration: str | None, split: str, fix: str) -> "Dataset":
    import datasets  # slow to import, and not needed where files are given

    try:
        return datasets.load_dataset(name, configuration, split=split)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        expected = f"its {split} split"
        raise UserError(f"hub data set {name}", expected=expected, found=str(error), fix=fix) from error


def _with_class_names(rows: "Dataset", label: str) -> pa.Table:
    """The rows with words where the data set has numbers and a name for each; none for -1, which marks no label."""
    table = rows.with_format("arrow")[:]
    names = getattr(rows.features.get(label), "names", None)
    if names is None:
        return table
    words = pa.array([names[number] if number is not None and number >= 0 else None for number in rows[label]])
    return table.set_column(table.column_names.index(label), label, words)
