"""Every durable write: a temporary name in the same folder, fsync, rename, fsync of the parent.

Whoever reads a name that these functions wrote sees either the old content or the new one, never a part of it.
A folder is finished when its `manifest.json` is there: it is written last and lists the size and SHA-256 of every file.
"""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinydistilbert.errors import UserError

MANIFEST = "manifest.json"


def sync_folder(folder: Path) -> None:
    """Make the names in `folder` durable (a rename is not, before its folder is flushed)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes(path: Path, content: bytes) -> None:
    """Replace the file at `path` by `content`, atomically and durably; missing parent folders are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    sync_folder(path.parent)


def write_text(path: Path, content: str) -> None:
    """`write_bytes` of the UTF-8 form of `content`."""
    write_bytes(path, content.encode("utf-8"))


def write_json(path: Path, content: Any) -> None:
    """Write `content` as indented JSON; a NaN or an infinity in it is an error, not a non-standard word in the file."""
    write_text(path, json.dumps(content, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """The content of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of the file's content."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def write_manifest(folder: Path, **facts: Any) -> None:
    """Close `folder`: flush each file, then write `manifest.json` with every size and hash, and `facts` beside them."""
    files = {}
    for path in _files(folder):
        with path.open("rb") as stream:
            os.fsync(stream.fileno())
        files[str(path.relative_to(folder))] = {"bytes": path.stat().st_size, "sha256": sha256(path)}
    write_json(folder / MANIFEST, {**facts, "files": files})


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of a finished folder; with `verify`, each file's size and hash are compared with it first.

    Raises:
        UserError: there is no manifest, or a file is missing, of another size or of another content.
    """
    cure = f"delete {folder} and run the command again"
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(
            str(folder), expected="a readable manifest.json", found=type(error).__name__, cure=cure
        ) from None
    if verify:
        for name, facts in manifest["files"].items():
            path = folder / name
            if not path.is_file():
                raise UserError(str(path), expected="a file that the manifest lists", found="no file", cure=cure)
            if path.stat().st_size != facts["bytes"] or sha256(path) != facts["sha256"]:
                raise UserError(str(path), expected=f"sha256 {facts['sha256'][:12]}…", found="other content", cure=cure)
    return manifest


def is_finished(folder: Path) -> bool:
    """Whether `folder` was closed by `unfinished` (its manifest is there)."""
    return (folder / MANIFEST).is_file()


def check_new(folder: Path) -> None:
    """Refuse an output folder that holds something already.

    Raises:
        UserError: it does.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        expected, cure = "a new or empty folder", "give another --output, or delete it"
        raise UserError(f"--output {folder}", expected=expected, found="other files", cure=cure)


@contextmanager
def unfinished(folder: Path, **facts: Any) -> Iterator[Path]:
    """Work towards a finished `folder`: yields `folder.partial`, and on success closes it and renames it to `folder`.

    When the body fails or the process dies, the partial folder stays, so that whoever comes next can resume from what
    is in it. `facts` go into the manifest.
    """
    partial = folder.with_name(folder.name + ".partial")
    partial.mkdir(parents=True, exist_ok=True)
    yield partial
    write_manifest(partial, **facts)
    if folder.exists():  # a folder without manifest: left by another program, or emptied by hand
        shutil.rmtree(folder)
    partial.rename(folder)
    sync_folder(folder.parent)
