"""The record of what a run started with: one recipe, one set of data, one version of each model, one precision.

The folder is refused with anything else. The notices of its commands are kept there too.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.schema import Recipe, to_dict
from tinydistilbert.recipe.toml import read
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic

_MODEL = "model "
"""Prefix of the names of hub models in `inputs.json`."""
_FILE = "file "
"""Prefix of the paths of local models' files in `inputs.json`."""
_PRECISION = "precision"
MAY_DIFFER = ("device", "data", "finetune.keep", "teacher.sharding")
"""Keys of the recipe that do not change what a run computes, so they may differ from one command to the next."""


def is_begun(run: RunFolder, recipe: Recipe) -> bool:
    """Whether the folder holds a run of this recipe; if not, it is new or empty.

    Raises:
        UserError: the folder belongs to another recipe or to something else.
    """
    try:
        has_recipe = run.recipe.is_file()
    except OSError as error:  # for example, a name that is too long
        found, fix = error.strerror or str(error), "give another --output"
        raise UserError("--output", expected="a folder that can be made", found=found, fix=fix) from None
    if has_recipe:
        check_same_recipe(run.recipe, recipe)
        return True
    if not atomic.is_new(run.path, beside=run.given_data.name):
        expected, fix = "a new or empty folder, or a run", "give another --output"
        raise UserError(f"--output {run.path}", expected=expected, found="other files", fix=fix)
    return False


def check_same_recipe(file: Path, recipe: Recipe, *, what: str = "a run") -> None:
    """Compare a recipe with the one that is kept in a folder, by the keys that change what is computed.

    Args:
        file: the recipe in the folder.
        recipe: that of this command.
        what: what the folder holds.

    Raises:
        UserError: they differ.
    """
    given, stored = dict(flat(to_dict(recipe))), dict(flat(to_dict(read(file))))
    for key in sorted(given.keys() | stored.keys()):
        if key not in MAY_DIFFER and given.get(key) != stored.get(key):
            found = f"{what} with {key} = {stored.get(key)!r} (here {given.get(key)!r})"
            fix = "give another --output, or delete the folder"
            raise UserError(f"--output {file.parent}", expected=f"{what} of this recipe", found=found, fix=fix)


def keep_fingerprint(run: RunFolder, name: str, fingerprint: str) -> None:
    """Store the fingerprint of data that the run reads, under `name`.

    Raises:
        UserError: the run began with other data.
    """
    check_fingerprint(run, name, fingerprint)
    stored = _inputs(run)
    if name not in stored:
        atomic.write_json(run.inputs, stored | {name: fingerprint})


def check_fingerprint(run: RunFolder, name: str, fingerprint: str) -> None:
    """Compare the fingerprint of data with the one that is kept, if there is one.

    Raises:
        UserError: the run began with other data.
    """
    before = _inputs(run).get(name, fingerprint)
    if before != fingerprint:
        problem = f"the data changed since the run was begun ({name}: sha256 {before[:12]}…, now {fingerprint[:12]}…)"
        fix = "give another --output, or restore the old data"
        raise UserError(f"--output {run.path}", problem=problem, fix=fix)


def kept_fingerprints(run: RunFolder) -> dict[str, str]:
    """Return the fingerprints of the data that the run began with, by name.

    Raises:
        UserError: the file that stores them is damaged.
    """
    return {name: kept for name, kept in _inputs(run).items() if not name.startswith((_MODEL, _FILE))}


def kept_notices(run: RunFolder) -> list[str]:
    """Return the notices of the commands that ran in the folder, without duplicates."""
    if not run.notices.is_file():
        return []
    return run.notices.read_text(encoding="utf-8", errors="replace").splitlines()


def keep_notices(run: RunFolder, lines: Sequence[str]) -> None:
    """Store further notices for the page."""
    kept = kept_notices(run)
    every = list(dict.fromkeys([*kept, *lines]))
    if len(every) > len(kept):
        atomic.write_text(run.notices, "\n".join(every) + "\n")


def keep_lost(run: RunFolder, lost: Mapping[str, str]) -> None:
    """Store for the page which task models failed, and why; an empty mapping deletes those of an earlier command."""
    if lost:
        atomic.write_json(run.lost, dict(lost))
    else:
        run.lost.unlink(missing_ok=True)


def kept_lost(run: RunFolder) -> dict[str, str]:
    """Return what `keep_lost` stored."""
    return dict(atomic.read_json(run.lost)) if run.lost.is_file() else {}


def kept_revisions(run: RunFolder) -> dict[str, str]:
    """The commits of the hub models for which the recipe names none, by model name.

    Raises:
        UserError: the file that stores them is damaged.
    """
    return {key.removeprefix(_MODEL): commit for key, commit in _inputs(run).items() if key.startswith(_MODEL)}


def keep_revisions(run: RunFolder, commits: Mapping[str, str]) -> None:
    """Store the commits of hub models; those already stored stay."""
    stored = _inputs(run)
    new = {_MODEL + name: commit for name, commit in commits.items()} | stored
    if new != stored:
        atomic.write_json(run.inputs, new)


def begun_in(run: RunFolder) -> str | None:
    """Return the precision of matrix products with which the run began; None if it is new.

    `auto` for a run that was begun by a version that kept none.

    Raises:
        UserError: the file that stores it is damaged.
    """
    stored = _inputs(run)
    return stored.get(_PRECISION, "auto" if stored else None)


def keep_precision(run: RunFolder, precision: str) -> None:
    """Keep the precision that the run begins with.

    Raises:
        UserError: another process has begun it in another precision.
    """
    stored = _inputs(run)
    before = stored.setdefault(_PRECISION, precision)
    if before != precision:
        fix = "run the same command again"
        raise UserError(
            f"--output {run.path}",
            expected=precision,
            found=f"a run that another process began in {before} in the meantime",
            fix=fix,
        )
    atomic.write_json(run.inputs, stored)


def kept_model_files(run: RunFolder) -> dict[str, dict[str, str]]:
    """The hashes of the files of local models that the run was begun with, by folder (as in the recipe) and file name.

    Raises:
        UserError: the file that stores them is damaged.
    """
    folders: dict[str, dict[str, str]] = {}
    for key, digest in _inputs(run).items():
        if key.startswith(_FILE):
            folder, _, name = key.removeprefix(_FILE).rpartition("/")
            folders.setdefault(folder, {})[name] = digest
    return folders


def keep_model_files(run: RunFolder, folders: Mapping[str, Mapping[str, str]]) -> None:
    """Store the hashes of the files of local models; folders already stored stay unchanged."""
    kept, stored = kept_model_files(run), _inputs(run)
    new = {
        f"{_FILE}{folder}/{name}": digest
        for folder, hashes in folders.items() if folder not in kept
        for name, digest in hashes.items()
    }  # fmt: skip
    if new:
        atomic.write_json(run.inputs, stored | new)


def _inputs(run: RunFolder) -> dict[str, str]:
    try:
        stored = atomic.read_json(run.inputs) if run.inputs.is_file() else {}
        return {str(name): str(fingerprint) for name, fingerprint in stored.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        fix = "restore it from a copy, or give another --output"
        expected, found = "fingerprints as JSON", str(error) or type(error).__name__
        raise UserError(str(run.inputs), expected=expected, found=found, fix=fix) from None
    except OSError as error:  # for example, a name that is too long
        found, fix = error.strerror or str(error), "give another --output"
        raise UserError("--output", expected="a folder that can be made", found=found, fix=fix) from None
