"""Text from data sets that the `datasets` library reads: on the hub, or in a folder that `save_to_disk` wrote."""

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from tinydistilbert.data import files
from tinydistilbert.errors import UserError
from tinydistilbert.notices import notice

if TYPE_CHECKING:
    from datasets import Dataset

LOCAL_FIX = "or name a local file or folder (text, JSONL, Parquet), or `python-docs`, as corpus.source"


def is_saved(folder: Path) -> bool:
    """Whether `folder` was written by `save_to_disk` of the `datasets` library."""
    return (folder / "dataset_dict.json").is_file() or (folder / "state.json").is_file()


def load(name: str, config: str | None) -> "dict[str, Dataset]":
    """The splits of a data set on the hub (or in its local cache) or of a saved folder; `train` is among them.

    Raises:
        UserError: it cannot be loaded, because of the network, its name or its configuration, or has no train split.
    """
    import datasets  # takes a second, and other sources do not need it

    where = f"corpus.source {name}"
    fix = f"check the name, corpus.config and the network, {LOCAL_FIX}"
    try:
        loaded = datasets.load_from_disk(name) if is_saved(Path(name)) else datasets.load_dataset(name, config)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        found = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(where, expected="a data set on the hub", found=found, fix=fix) from None
    splits = {"train": loaded} if isinstance(loaded, datasets.Dataset) else dict(loaded)
    if "train" not in splits:
        found, fix = ", ".join(splits), f"use another data set, {LOCAL_FIX}"
        raise UserError(where, expected="a split called train", found=found, fix=fix)
    others = [f"{split} ({len(splits[split]):,} rows)" for split in splits if split not in ("train", "validation")]
    if others:
        notice(where, f"splits left out: {', '.join(others)}")
    return splits


def records(dataset: "Dataset", name: str, column: str) -> Iterator[str]:
    """The texts of one column, read from disk in batches; a null is an empty text.

    Raises:
        UserError: there is no such column, it does not hold texts, or one of them is too long.
    """
    feature = dataset.features.get(column)
    if getattr(feature, "dtype", None) not in ("string", "large_string"):
        found = ", ".join(dataset.column_names) if feature is None else f"{feature} in it"
        expected = f"a column {column!r} of texts"
        raise UserError(f"corpus.source {name}", expected=expected, found=found, fix="set corpus.text_column")
    for batch in dataset.select_columns([column]).iter(batch_size=files.PARQUET_ROWS):
        for text in batch[column]:
            yield files.not_too_long(text or "", f"corpus.source {name}")


def fingerprint(splits: "dict[str, Dataset]") -> str:
    """SHA-256 over the fingerprints of the splits by `datasets`, which change with the revision of the data."""
    lines = [f"{split} {dataset._fingerprint}" for split, dataset in sorted(splits.items())]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
