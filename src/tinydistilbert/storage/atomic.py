"""Durable writes: write to a temporary name in the same folder, fsync, rename, fsync the parent.

A reader sees either the old content or the new content, never a part of it. A folder is finished when it has a
`manifest.json`: it is written last and lists the size and SHA-256 of every file.
"""

import hashlib
import json
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Any, Self

from tinydistilbert.errors import UserError
from tinydistilbert.storage import disk

MANIFEST = "manifest.json"
HASH_KEY = "sha256"
"""Manifest key: the hash of the manifest's other content."""
RELEASED = "released"
"""Manifest key: the files that were deleted on purpose once nothing needed them."""
CHECKPOINTS = "checkpoints"
"""Folder that only unfinished work needs: no manifest lists it, and finished work deletes it."""
_TEMPORARIES = (".*.tmp", ".tmp??????")
"""Temporary names of this module, and of safetensors, which from 0.8 on also writes a temporary file beside its
file."""


def _temporary(path: Path) -> Path:
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, atomically and durably; create missing parent folders.

    Raises:
        DiskError: the disk is full or failing; the old content is unchanged.
    """
    disk.make_folder(path.parent)
    temporary = _temporary(path)
    try:
        disk.write(temporary, content)
        disk.sync(temporary)
        disk.rename(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    disk.sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of the UTF-8 form of `content`."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; NaN and infinity are errors, because JSON has neither."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def append_line(path: Path, line: str) -> None:
    """Append a line to the file, durably; lines of several processes do not mix.

    An incomplete last line, left by a killed process, is ended first.
    """
    disk.make_folder(path.parent)
    before = path.read_bytes() if path.is_file() else b""
    end = b"\n" if before and not before.endswith(b"\n") else b""
    disk.append(path, end + f"{line}\n".encode())
    disk.sync(path)
    disk.sync_folder(path.parent)


def adopt(temporary: Path, path: Path) -> None:
    """Move a file that another library wrote to `path`, atomically and durably."""
    disk.open_to_umask(temporary)
    disk.sync(temporary)
    disk.rename(temporary, path)
    disk.sync_folder(path.parent)


def read_json(path: Path) -> Any:
    """Return the content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Return the hexadecimal SHA-256 of the file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    """Return the files that the manifest of `folder` lists."""
    left_out = {folder / MANIFEST, folder / CHECKPOINTS}
    return sorted(path for path in folder.rglob("*") if path.is_file() and left_out.isdisjoint((path, *path.parents)))


def _hash_of(manifest: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(manifest, sort_keys=True).encode()).hexdigest()


def write_manifest(folder: Path, **facts: Any) -> None:
    """Finish `folder`: flush each file, then write `manifest.json` with every size and hash, and with `facts`."""
    files = {}
    for path in _files(folder):
        disk.open_to_umask(path)
        disk.sync(path)
        files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    for inner in sorted({inner for name in files for inner in PurePosixPath(name).parents} - {PurePosixPath()}):
        disk.sync_folder(folder / inner)
    write_manifest_of(folder, {**facts, "files": files})


def write_manifest_of(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Write a manifest with this content and its hash, whatever files the folder has."""
    write_json(folder / MANIFEST, {**manifest, HASH_KEY: _hash_of(dict(manifest))})


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Return the manifest of a finished folder; with `verify`, first compare each file's size and hash with it.

    Raises:
        UserError: the manifest is missing or damaged, or a file is missing or has another size or other content.
    """
    fix = f"delete {folder} and run the command again"
    manifest: Any = {}
    try:
        manifest = read_json(folder / MANIFEST)
        # Manifests of early versions do not contain their own hash.
        found = "other content" if manifest.pop(HASH_KEY, None) not in (None, _hash_of(manifest)) else None
        listed = {name: (int(facts["bytes"]), str(facts["sha256"])) for name, facts in manifest["files"].items()}
        if any(PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts for name in listed):
            found = "the name of a file outside the folder"
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found, listed = type(error).__name__, {}
    if found is not None:
        raise UserError(str(folder), expected=f"a complete {MANIFEST}", found=found, fix=fix)
    if verify:
        for name, (size, digest) in listed.items():
            path = folder / name
            if not path.is_file():
                refuse_released(folder, manifest)
                raise UserError(str(path), expected="a file that the manifest lists", found="no file", fix=fix)
            if path.stat().st_size != size or sha256(path) != digest:
                raise UserError(str(path), expected=f"sha256 {digest[:12]}…", found="other content", fix=fix)
    return dict(manifest)


def intact(folder: Path, name: str) -> Path:
    """Return the path of one file of a finished folder, after comparing only this file with the manifest.

    Raises:
        UserError: the manifest is damaged, does not list the file, or lists it with another size or content.
    """
    manifest, path = read_manifest(folder, verify=False), folder / name
    listed, fix = manifest["files"], f"delete {folder} and run the command again"
    if name not in listed or not path.is_file():
        refuse_released(folder, manifest)
        found = "no file" if name in listed else "none in the manifest"
        raise UserError(str(path), expected="a file that the manifest lists", found=found, fix=fix)
    if sha256(path) != listed[name]["sha256"]:
        expected = f"sha256 {listed[name]['sha256'][:12]}…"
        raise UserError(str(path), expected=expected, found="other content", fix=fix)
    return path


def is_released(folder: Path) -> bool:
    """Whether files of a finished folder were deleted on purpose, so that no model can be loaded from it."""
    return bool(read_manifest(folder, verify=False).get(RELEASED))


def release(folder: Path, kept: Collection[str]) -> int:
    """Delete the files of a finished folder except those in `kept`; the manifest still lists the deleted files.

    The manifest records the deletions first: if the process is killed during them, the next call deletes the rest.

    Returns:
        The bytes that were freed.
    """
    manifest = read_manifest(folder, verify=False)
    released: list[str] = sorted(name for name in manifest["files"] if name not in kept)
    if manifest.get(RELEASED) != released:
        write_manifest_of(folder, {**manifest, RELEASED: released})
    left = [folder / name for name in released if (folder / name).is_file()]
    freed = 0
    for path in left:
        freed += path.stat().st_size
        disk.remove(path)
    return freed


def refuse_released(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a folder whose manifest says that its weights were deleted.

    Raises:
        UserError: they were.
    """
    if manifest.get(RELEASED):
        problem = "its weights were deleted when the run no longer needed them (finetune.keep)"
        fix = f"delete {folder} and run the command of the run again with --finetune.keep all, which trains it again"
        raise UserError(str(folder), problem=problem, fix=fix)


def check_intact(folder: Path) -> None:
    """Compare the files of a folder with the hashes in its manifest, if it has one.

    Raises:
        UserError: a file is missing or has changed.
    """
    if is_finished(folder):
        read_manifest(folder)


def is_finished(folder: Path) -> bool:
    """Whether `folder` was finished by `unfinished`: it has a manifest."""
    return (folder / MANIFEST).is_file()


def is_new(folder: Path, *, beside: str | None = None) -> bool:
    """Whether `folder` does not exist, or holds only a lock, temporary files of interrupted writes, and `beside`."""
    return not folder.exists() or (
        folder.is_dir() and all(path.name in (LOCK, beside) or _is_temporary(path) for path in folder.iterdir())
    )


LOCK = ".lock"
"""Name of the file with which a process locks a folder (`locks.py`)."""


def check_new(folder: Path) -> None:
    """Check that an output folder does not exist or is empty.

    Raises:
        UserError: it holds other files.
    """
    if not is_new(folder):
        expected, fix = "a new or empty folder", "give another --output, or delete it"
        raise UserError(f"--output {folder}", expected=expected, found="other files", fix=fix)


def partial(folder: Path) -> Path:
    """Return the folder that holds the work for `folder` until it is finished."""
    return folder.with_name(folder.name + ".partial")


@contextmanager
def unfinished(folder: Path, **facts: Any) -> Iterator[Path]:
    """Make a finished `folder`: yield `folder.partial`; after the body, write its manifest and rename it to `folder`.

    If the body fails or the process dies, the partial folder stays, so that the next process can resume from it.
    `facts` go into the manifest. Only one process at a time may work on a folder (`locks.py`).

    Raises:
        DiskError: the disk is full or failing.
    """
    begun = partial(folder)
    with disk.disk_errors(begun):
        disk.make_folder(begun)
        sweep(begun)
        yield begun
        _finish(begun, folder, facts)
    tidy(folder)


def _finish(begun: Path, folder: Path, facts: dict[str, Any]) -> None:
    """Write the manifest of the partial folder, and give it its final name."""
    write_manifest(begun, **facts)
    if folder.exists():  # without a manifest: left by another program, or emptied by hand
        disk.remove(folder)
    disk.rename(begun, folder)
    disk.sync_folder(folder.parent)


def sweep(folder: Path) -> None:
    """Delete temporary files of killed processes in `folder` and below; no other process may be writing there."""
    for path in folder.rglob(".*"):
        if _is_temporary(path):
            path.unlink()


def _is_temporary(path: Path) -> bool:
    return any(map(path.match, _TEMPORARIES))


def tidy(folder: Path) -> None:
    """Delete the checkpoints of a finished folder; its process may have died before deleting them."""
    if (folder / CHECKPOINTS).exists():
        disk.remove(folder / CHECKPOINTS)


class Log:
    """A file of JSON lines that grows while a training runs; checkpoints record its length.

    Args:
        path: the file; created if missing.
        length: bytes to keep, as the checkpoint recorded; later lines belong to steps that will be repeated.
    """

    def __init__(self, path: Path, length: int = 0) -> None:
        self._path = path
        path.touch()
        disk.cut(path, length)
        self._hash = hashlib.sha256(path.read_bytes())
        self._stream = path.open("ab", buffering=0)  # each line is visible at once

    def write(self, line: dict[str, Any]) -> None:
        """Add a line."""
        content = f"{json.dumps(line)}\n".encode()
        with disk.disk_errors(self._path, len(content)):
            disk.write_whole(self._stream, content)
        self._hash.update(content)

    def sync(self) -> tuple[int, str]:
        """Make all lines durable; return the length in bytes and the SHA-256 of the file."""
        disk.sync(self._path)
        disk.sync_folder(self._path.parent)  # the file may be new in it
        return os.fstat(self._stream.fileno()).st_size, self._hash.hexdigest()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()


def begins_with(path: Path, length: int, digest: str) -> bool:
    """Whether the file's first `length` bytes have this SHA-256; a missing file counts as empty."""
    content = b""
    if path.is_file():
        with path.open("rb") as stream:
            content = stream.read(length)
    return len(content) == length and hashlib.sha256(content).hexdigest() == digest
