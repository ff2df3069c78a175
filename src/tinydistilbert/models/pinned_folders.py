"""Local model folders that must not change while a run reads them: the SHA-256 of each file, checked at loading.

A run reads a folder many times, with hours in between: the tokenizer for the text, the weights again for every seed,
the teacher for soft targets. If the folder changed meanwhile, one table would mix results of two models.
"""

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from tinydistilbert.errors import UserError
from tinydistilbert.models import untrusted
from tinydistilbert.storage import atomic

FileHashes = Mapping[str, str]
"""SHA-256 of the files of a model folder, by their names."""
_pinned: dict[Path, FileHashes] = {}


def file_hashes(folder: Path) -> dict[str, str]:
    """Return the hashes of config, tokenizer and weights in a local folder; empty if there is no such folder."""
    names = {untrusted.CONFIG, *untrusted.TOKENIZER, untrusted.WEIGHTS, untrusted.INDEX}
    names |= {path.name for path in folder.glob("model-*.safetensors")}
    with suppress(UserError):  # loading the model will raise it
        names |= {path.name for path in untrusted.weight_files(folder, str(folder))}
    return {name: _hash_of(folder / name) for name in sorted(names) if (folder / name).is_file()}


def fingerprint(hashes: FileHashes) -> str:
    """Return the SHA-256 of the names and hashes of a model's files."""
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _hash_of(path: Path) -> str:
    status = path.stat()
    return _sha256(path.absolute(), status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


@functools.cache
def _sha256(path: Path, _inode: int, _size: int, _modified: int, _changed: int) -> str:
    """Return the hash of a file; it is read once per process, and again if its status shows a change.

    No program can set the time of a status change (ctime), so this is safe within one process. The hash is not kept
    for other processes: a second per gigabyte of weights is little compared with loading them.
    """
    return atomic.sha256(path)


@contextmanager
def pinned(folders: Mapping[str, FileHashes]) -> Iterator[None]:
    """Inside the `with`, `check` refuses these folders, by path, if a file differs from its given hash.

    Raises:
        UserError: a file of an existing folder already differs, is missing, or is new.
    """
    before = dict(_pinned)
    _pinned.update({Path(folder).absolute(): hashes for folder, hashes in folders.items()})
    try:
        for folder in map(Path, folders):
            if folder.is_dir():
                check(folder)
        yield
    finally:
        _pinned.clear()
        _pinned.update(before)


def check(folder: Path) -> None:
    """Check that all files of a pinned model folder are unchanged; other folders are not checked.

    Raises:
        UserError: a file differs, is missing, or is new.
    """
    expected = _pinned.get(folder.absolute())
    if expected is None:
        return
    hashes = file_hashes(folder)
    for name in sorted(expected.keys() | hashes.keys()):
        if expected.get(name) != hashes.get(name):
            before, now = (f"sha256 {h[:12]}…" if h else "no such file" for h in (expected.get(name), hashes.get(name)))
            problem = f"{name} changed since the run began with this folder ({before} then, {now} now)"
            raise UserError(str(folder), problem=problem, fix="restore the old folder, or give another --output")
