"""Text from data sets that the `datasets` library reads: from the hub, or from a folder written by `save_to_disk`."""

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from tinydistilbert.data import files
from tinydistilbert.errors import SourceLost, UserError, as_user_error
from tinydistilbert.notices import notice
from tinydistilbert.storage import disk

if TYPE_CHECKING:
    from datasets import Dataset, IterableDataset

D = TypeVar("D")
_NAME = re.compile(r"[\w-][\w.-]*/[\w.-]+")
"""`owner/name`."""
_NAME_WITH_PARTS = re.compile(r"(?P<name>[\w-][\w.-]*(?:/[\w.-]+)?):(?P<config>[^:/\\]*)(?::(?P<split>[^/\\]+))?")
"""A name with parts; `C:\\texts` is a path on Windows."""
_SPLIT_OF_FOLDER = re.compile(r"(?P<folder>.+)::(?P<split>[\w.-]+)")


@dataclass(frozen=True)
class HubName:
    """A data set on the hub with the arguments of `datasets.load_dataset`: `owner/name:configuration:split`."""

    name: str
    config: str | None = None
    split: str | None = None
    """A split, or a part of one such as `train[:10%]`."""


def parse(text: str) -> HubName | None:
    """Parse `owner/name`, with `:configuration`, `:configuration:split` or `::split`; None for other texts."""
    if _NAME.fullmatch(text):
        return HubName(text)
    match = _NAME_WITH_PARTS.fullmatch(text)
    if not match or not (match["config"] or match["split"]):
        return None
    return HubName(match["name"], match["config"] or None, match["split"] or None)


def saved_folder(text: str) -> tuple[Path, str | None] | None:
    """Return folder and split of `folder` or `folder::split`, if `save_to_disk` wrote the folder; else None."""
    match = _SPLIT_OF_FOLDER.fullmatch(text)
    folder, split = (match["folder"], match["split"]) if match else (text, None)
    path = disk.in_home(folder)
    return (path, split) if is_saved(path) else None


def load_saved(folder: Path, split: str | None, *, default: str, where: str) -> "Dataset":
    """Return one split of a folder that `save_to_disk` wrote; a data set without splits is taken whole.

    Args:
        folder: as returned by `saved_folder`.
        split: name of the split; None = `default`.
        default: the default split of a folder with splits.
        where: the recipe key, for errors.

    Raises:
        UserError: it cannot be read, or has no such split.
    """
    import datasets

    fix = "save the data set again with save_to_disk"
    with as_user_error(f"{where} {folder}", expected="a data set that save_to_disk wrote", fix=fix):
        loaded = datasets.load_from_disk(str(folder))
    wanted = split or default
    if isinstance(loaded, datasets.Dataset):
        if split is not None:
            fix = f"leave ::{split} out"
            raise UserError(f"{where} {folder}", problem="this data set has no splits", fix=fix)
        return loaded
    if wanted not in loaded:
        fix = f"name one after the folder: {folder}::{next(iter(loaded), 'train')}"
        raise UserError(f"{where} {folder}", expected=f"a split {wanted}", found=", ".join(loaded), fix=fix)
    return loaded[wanted]


LOCAL_FIX = "or name a local file or folder (text, JSONL, Parquet), or `python-docs`, as corpus.source"


def is_saved(folder: Path) -> bool:
    """Whether `folder` was written by `save_to_disk` of the `datasets` library."""
    try:
        return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()
    except OSError:  # the name is too long
        return False


def load(name: str, config: str | None, split: str | None = None) -> "dict[str, Dataset]":
    """Return the splits of a data set on the hub (or in its local cache) or in a saved folder; `train` is among them.

    Args:
        name: name on the hub, or a folder.
        config: configuration on the hub.
        split: the split to use as `train`; then there is no other.

    Raises:
        UserError: it cannot be loaded, because of the network, its name or its configuration, or it has no train split.
    """
    import datasets  # takes a second to import; other sources do not need it

    where = f"corpus.source {name}"
    if is_saved(Path(name)) and split is not None:
        return {"train": load_saved(Path(name), split, default="train", where="corpus.source")}
    with _loading(where):
        if is_saved(Path(name)):
            loaded = datasets.load_from_disk(name)
        else:
            loaded = datasets.load_dataset(name, config, split=split)
    splits = {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    return _with_train(splits, name, config, lambda dataset: f" ({len(dataset):,} rows)")


def stream(name: str, config: str | None, split: str | None = None) -> "tuple[dict[str, IterableDataset], str]":
    """Return the splits of a data set on the hub, fetched while they are read, and their fingerprint.

    The revision is pinned, because the data set may change on the hub while it is read.

    Args:
        name: name on the hub.
        config: configuration on the hub.
        split: the split to use as `train`; then there is no other.

    Raises:
        UserError: as for `load`.
    """
    import datasets
    from huggingface_hub import HfApi

    with _loading(f"corpus.source {name}"):
        revision = HfApi().dataset_info(name).sha
        loaded = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
    splits = {"train": loaded} if isinstance(loaded, datasets.IterableDataset) else dict(loaded)
    named = _with_train(splits, name, config, lambda _: "")
    lines = [name, str(config), str(split), str(revision)]
    return named, hashlib.sha256("\n".join(lines).encode()).hexdigest()


@contextmanager
def _loading(where: str) -> Iterator[None]:
    """Turn errors of reading a data set on the hub into `UserError`.

    Raises:
        UserError: it cannot be read.
    """
    import datasets

    fix = f"check the name (owner/name:configuration:split), corpus.config and the network, {LOCAL_FIX}"
    try:
        yield
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        found = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(where, expected="a data set on the hub", found=found, fix=fix) from None


def _with_train(splits: dict[str, D], name: str, config: str | None, size: Callable[[D], str]) -> dict[str, D]:
    """Return the splits, if `train` is among them; a notice names those that are not read, with their sizes."""
    where = f"corpus.source {name}"
    if "train" not in splits:
        found, fix = ", ".join(splits), f"name one: {name}:{config or ''}:{next(iter(splits), 'split')}"
        raise UserError(where, expected="a split called train", found=found, fix=fix)
    others = [f"{other}{size(splits[other])}" for other in splits if other not in ("train", "validation")]
    if others:
        notice(where, f"splits left out: {', '.join(others)}")
    return splits


def records(dataset: "Dataset | IterableDataset", name: str, column: str) -> Iterator[str]:
    """Yield the texts of one column, read in batches from disk or from the hub; a null becomes an empty text.

    Raises:
        UserError: there is no such column, it does not hold texts, or one of them is too long.
        SourceLost: the hub failed part of the way.
    """
    features = dataset.features
    if features is None:  # a stream of JSON: its first row shows its columns
        row: dict[str, Any] = next(_fetched(dataset.take(1), name), {})
        found, is_text = ", ".join(row), isinstance(row.get(column, 0), str | None)
    else:
        feature = features.get(column)
        is_text = getattr(feature, "dtype", None) in ("string", "large_string")
        found = ", ".join(dataset.column_names or ()) if feature is None else f"{feature} in it"
    if not is_text:
        expected = f"a column {column!r} of texts"
        raise UserError(f"corpus.source {name}", expected=expected, found=found, fix="set corpus.text_column")
    plain = dataset.with_format(None)  # a folder of save_to_disk keeps a format, such as some columns as tensors
    for batch in _fetched(plain.select_columns([column]).iter(batch_size=files.PARQUET_ROWS), name):
        for text in batch[column]:
            if not isinstance(text, str | None):  # a stream of JSON may have another type further on
                raise UserError(
                    f"corpus.source {name}", expected=f"a column {column!r} of texts",
                    found=f"{type(text).__name__} in it", fix="set corpus.text_column",
                )  # fmt: skip
            yield files.not_too_long(text or "", f"corpus.source {name}")


def _fetched(rows: Iterable[Any], name: str) -> Iterator[Any]:
    """Yield rows or batches as they arrive.

    Raises:
        SourceLost: reading them failed. Any exception counts, because network libraries have no common error class.
    """
    iterator = iter(rows)
    while True:
        try:
            row = next(iterator, None)
        except Exception as error:
            reason = str(error).partition("\n")[0][:200] or type(error).__name__
            again = "if the network failed, the same command continues after the last finished shard"
            raise SourceLost(f"corpus.source {name}: it could not be read to its end: {reason}; {again}") from error
        if row is None:
            return
        yield row


def fingerprint(splits: "dict[str, Dataset]") -> str:
    """Return the SHA-256 over the splits' fingerprints by `datasets`, which change with the revision of the data."""
    lines = [f"{split} {dataset._fingerprint}" for split, dataset in sorted(splits.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
