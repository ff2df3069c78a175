"""What a run folder was begun with, which stays: one recipe, one set of data, one version of each hub model."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Recipe, to_dict
from tinydistilbert.recipe.toml import read
from tinydistilbert.storage import atomic

RECIPE, INPUTS, RESULTS = "recipe.toml", "inputs.json", "results.jsonl"
_MODEL = "model "


def is_begun(recipe: Recipe, output: Path) -> bool:
    """Whether the folder holds a run of this recipe; if not, it is new or empty.

    Raises:
        UserError: it belongs to another recipe or to something else.
    """
    path = output / RECIPE
    try:
        is_there = path.is_file()
    except OSError as error:  # a name too long, say
        found, fix = error.strerror or str(error), "give another --output"
        raise UserError("--output", expected="a folder that can be made", found=found, fix=fix) from None
    if is_there:
        _compare(recipe, read(path), output)
        return True
    if not atomic.is_new(output):
        expected, fix = "a new or empty folder, or a run", "give another --output"
        raise UserError(f"--output {output}", expected=expected, found="other files", fix=fix)
    return False


def _compare(here: Recipe, there: Recipe, output: Path) -> None:
    ours, theirs = dict(_flat(to_dict(here))), dict(_flat(to_dict(there)))
    for key in sorted(ours.keys() | theirs.keys()):
        if key not in ("device", "data") and ours.get(key) != theirs.get(key):
            found = f"one with {key} = {theirs.get(key)!r} (here {ours.get(key)!r})"
            fix = "give another --output, or delete the folder"
            raise UserError(f"--output {output}", expected="a run of this recipe", found=found, fix=fix)


def _flat(content: object, path: str = "") -> Iterator[tuple[str, object]]:
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, content


def remember(output: Path, name: str, fingerprint: str) -> None:
    """Keep the fingerprint of data that the run reads; `name` says which.

    Raises:
        UserError: it was begun with other data.
    """
    there = _inputs(output)
    before = there.setdefault(name, fingerprint)
    if before != fingerprint:
        expected, found = f"the data it was begun with ({name}: sha256 {before[:12]}…)", f"sha256 {fingerprint[:12]}…"
        fix = "give another --output, or bring the old data back"
        raise UserError(f"--output {output}", expected=expected, found=found, fix=fix)
    atomic.write_json(output / INPUTS, there)


def models(output: Path) -> dict[str, str]:
    """The commits at which hub models were read that were named without one, by their names.

    Raises:
        UserError: the file that keeps them is damaged.
    """
    return {key.removeprefix(_MODEL): commit for key, commit in _inputs(output).items() if key.startswith(_MODEL)}


def remember_models(output: Path, commits: Mapping[str, str]) -> None:
    """Keep the commits of hub models; those that are kept already stay."""
    there = _inputs(output)
    new = {_MODEL + name: commit for name, commit in commits.items()} | there
    if new != there:
        atomic.write_json(output / INPUTS, new)


def _inputs(output: Path) -> dict[str, str]:
    path = output / INPUTS
    try:
        there = atomic.read_json(path) if path.is_file() else {}
        return {str(name): str(fingerprint) for name, fingerprint in there.items()}
    except (ValueError, AttributeError, RecursionError) as error:
        fix = "restore it from a copy, or give another --output"
        expected, found = "fingerprints as JSON", str(error) or type(error).__name__
        raise UserError(str(path), expected=expected, found=found, fix=fix) from None


def compressed_folder(task: str) -> str:
    """Where the compressed forms of a task's model lie in a run."""
    return f"tasks/{task}/compressed"


def place_in_run(model: Path) -> tuple[Path | None, str, str]:
    """Run folder, task and row of a model that lies at RUN/tasks/TASK/ROW/seed-N/model; None where it does not."""
    parts = model.absolute().parts
    if len(parts) < 6 or parts[-5] != "tasks" or not (run := Path(*parts[:-5])).joinpath(RECIPE).is_file():
        return None, "", ""
    return run, parts[-4], parts[-3].replace("-d", " (D)")
