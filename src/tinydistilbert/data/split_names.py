"""Which files of a folder are the training, validation and test splits, by their names."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from tinydistilbert.data.compressed import COMPRESSED
from tinydistilbert.errors import UserError
from tinydistilbert.notices import counted, notice

Split = Literal["train", "validation", "test"]
_WORD = re.compile(
    r"(?<![a-z])(?:(?P<train>train(?:ing)?)|(?P<validation>validation|valid|val|dev)|(?P<test>test(?:ing)?))(?![a-z])"
)
_TRAIN_FOLDERS = ("train", "training")


def splits_by_name(files: Sequence[Path], folder: Path) -> tuple[list[Path], list[Path]]:
    """Return training and validation files by `train` and `validation` (`valid`, `val`, `dev`) in their names.

    The names are clear if every file is named after a split; if the names of training and other files differ only in
    the split (`wiki.train.raw`, `wiki.valid.raw`); or if training files are in a folder `train`. Then a notice names
    the files left out. Otherwise such a word does not count as a split, and all files are training files, which a
    notice reports.

    Args:
        files: files of the folder; at least one.
        folder: the folder to which names are relative.

    Raises:
        UserError: the names are not clear, and some files are named after a validation split.
    """
    names = {file: file.relative_to(folder).as_posix().lower() for file in files}
    splits: dict[Split | None, list[Path]] = {"train": [], "validation": [], "test": [], None: []}
    for file in files:
        splits[_split_of(names[file])].append(file)
    train, validation, test, unnamed = splits["train"], splits["validation"], splits["test"], splits[None]
    if not train:
        if validation:
            count = counted(len(validation), "file")
            text = (
                f"{count} named like a validation split, {_example(validation, folder)}, but none like a training split"
            )
            notice(str(folder), f"{text}; all {len(files):,} are used as training text")
        return list(files), []
    left = [*test, *unnamed]
    if not left:
        return train, validation
    templates = {_template(names[file]) for file in (*validation, *test)}
    is_sure = (
        not unnamed
        or any(_template(names[file]) in templates for file in train)
        or all(any(part in _TRAIN_FOLDERS for part in names[file].split("/")[:-1]) for file in train)
    )
    if is_sure:
        by_name = f"{counted(len(train), 'file')} for training and {len(validation):,} for validation, by their names"
        notice(str(folder), f"{counted(len(left), 'file')} left out, {_example(left, folder)}; {by_name}")
        return train, validation
    of_all = f"{len(train) + len(validation):,} of {len(files):,} files"
    if validation:
        example = _example([*train, *validation], folder)
        problem = f"the names of {of_all} contain a split, as {example}, and the other names do not"
        fix = "put them into the folders train and validation, or remove train, dev and the like from the names"
        raise UserError(f"corpus.source {folder}", problem=problem, fix=fix)
    text = f"the word train in the name of {of_all}, {_example(train, folder)}, is not read as a split"
    notice(
        str(folder), f"{text}: all are used as training text (put the files of a training split into a folder train)"
    )
    return list(files), []


def _split_of(name: str) -> Split | None:
    """Return the split that the last such word of a path names: `train/dev.txt` is for validation."""
    words = list(_WORD.finditer(name))
    if not words:
        return None
    split: Split = "train" if words[-1]["train"] else "validation" if words[-1]["validation"] else "test"
    return split


def _template(name: str) -> str:
    """Return a path without ending and numbers, with a star for the split: equal for all files of a data set."""
    stem = next((name.removesuffix(packed) for packed in COMPRESSED if name.endswith(packed)), name)
    stem = re.sub(r"\.\w+$", "", stem)
    words = list(_WORD.finditer(stem))
    if words:
        stem = stem[: words[-1].start()] + "*" + stem[words[-1].end() :]
    return re.sub(r"\d+", "", stem)


def _example(files: Sequence[Path], folder: Path) -> str:
    """Return the names of the first three files."""
    return ", ".join(file.relative_to(folder).as_posix() for file in files[:3]) + ", …" * (len(files) > 3)
