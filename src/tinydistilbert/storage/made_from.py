"""What a finished folder was made from: a file in the folder, compared before the folder is used again.

`made-from.json` holds fingerprints of the inputs, the settings that were read, and a format number, which changes when
a version of the program computes other results from the same inputs. A folder without the file is from version 0.1, and
accepted unchecked.
"""

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tinydistilbert.errors import UserError, as_user_error
from tinydistilbert.storage import atomic

FILE = "made-from.json"
MOST_NAMED = 6
"""Maximum number of folders that a message names for deletion."""


@dataclass(frozen=True)
class MadeFrom:
    """Everything on which the content of a folder depends."""

    inputs: Mapping[str, str]
    """Fingerprints: of data by name, of a folder of the same run by its path in the run."""
    settings: Mapping[str, Any]
    """Recipe settings by full key."""
    defaults: Mapping[str, Any]
    """By recipe key: the value in effect in versions that did not have the key yet."""
    run: Path
    """The run folder."""
    format: int = 1
    """Format number; raise it when the same inputs give other results than in the version before."""
    renamed: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Earlier spellings of values, by key."""


def begin(folder: Path, made_from: MadeFrom) -> None:
    """Record in the partial folder what `folder` is made from, or compare it with what was recorded before.

    Raises:
        UserError: the partial folder was begun from something else.
    """
    path = atomic.partial(folder) / FILE
    if path.is_file():
        _compare(atomic.partial(folder), _read(path), made_from)
    written = asdict(made_from)
    atomic.write_json(path, {name: written[name] for name in ("format", "inputs", "settings")})


def check(folder: Path, made_from: MadeFrom) -> None:
    """Check that a finished folder was made from the current inputs and settings.

    Raises:
        UserError: it was made from something else, or its file has changed since it was written.
    """
    if FILE in atomic.read_manifest(folder, verify=False)["files"]:
        _compare(folder, _read(atomic.intact(folder, FILE)), made_from)


def _read(path: Path) -> dict[str, Any]:
    """Return the content of a file that `begin` wrote.

    Raises:
        UserError: it is damaged.
    """
    with as_user_error(str(path), expected="what a folder was made from", fix=f"delete {path.parent}"):
        stored = atomic.read_json(path)
        return {"inputs": dict(stored["inputs"]), "settings": dict(stored["settings"]), "format": int(stored["format"])}


def _compare(folder: Path, stored: Mapping[str, Any], made_from: MadeFrom) -> None:
    difference = next(_differences(stored, made_from), None)
    if difference is None:
        return
    also = [_name_of(path, made_from.run) for path in _made_with(folder, made_from.run)]
    named = [*also[:MOST_NAMED], *([f"{len(also) - MOST_NAMED} more"] if len(also) > MOST_NAMED else [])]
    what = f"this folder and what was made with it ({', '.join(named)})" if named else "this folder"
    fix = f"delete {what} and run the command again, give another --output, or restore what it was made from"
    raise UserError(str(folder), problem=f"it was made from something else: {difference}", fix=fix)


def _differences(stored: Mapping[str, Any], made_from: MadeFrom) -> Iterator[str]:
    """Yield each difference in words, inputs first: they name whatever an edited setting changed."""
    before, now = stored["inputs"], made_from.inputs
    for name in before:
        if before[name] != now.get(name):
            is_now = f"now sha256 {now[name][:12]}…" if name in now else "now missing"
            yield f"{name} has changed (then sha256 {before[name][:12]}…, {is_now})"
    settings = stored["settings"]
    for key in [*made_from.settings, *(key for key in settings if key not in made_from.settings)]:
        value = settings.get(key, made_from.defaults.get(key))
        earlier = made_from.renamed.get(key, {})
        value = earlier.get(value, value) if isinstance(value, str) else value
        given = made_from.settings.get(key, made_from.defaults.get(key))
        if value != given:
            yield f"{key} = {value!r} (now {given!r})"
    if stored["format"] != made_from.format:
        yield "another version of the program, whose results differ"


def _made_with(folder: Path, run: Path) -> list[Path]:
    """Return the finished folders of the run that were made from this one, directly or indirectly.

    A folder whose finished folders are all among them replaces them.
    """
    inputs = {file.parent: set(_read(file)["inputs"]) for file in sorted(run.rglob(FILE)) if file.parent != folder}
    names = {_name_of(folder, run)}
    descendants: list[Path] = []
    while more := [path for path, read in inputs.items() if path not in descendants and names & read]:
        descendants += more
        names |= {_name_of(path, run) for path in more}
    others = [path.parent for path in run.rglob(atomic.MANIFEST) if path.parent not in (*descendants, folder)]

    def highest(path: Path) -> Path:
        above = path.parent
        return path if above == run or any(other.is_relative_to(above) for other in others) else highest(above)

    return list(dict.fromkeys(map(highest, descendants)))


def _name_of(folder: Path, run: Path) -> str:
    return folder.relative_to(run).as_posix()
