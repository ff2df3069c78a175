"""Where a model lies: in a folder, or in the hub's cache at one commit, the same for all that is read of it."""

import functools
import re
import sys
from pathlib import Path

from tinydistilbert.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
CURE = "give a folder with config.json and model.safetensors, a hub name (with network), or 'offline'"


def place(name: str | Path, revision: str | None, files: tuple[str, ...]) -> Path:
    """The folder of a model, with those of its files that there are.

    A hub model without a commit is pinned: the commit that its name (or branch, or tag) stands for is looked up once in
    a process, and told on standard error, so that config, tokenizer and weights are always of one version.

    Args:
        name: local folder or hub name; `NAME@REVISION` is a name with its revision.
        revision: commit, branch or tag of a hub model.
        files: names of what is wanted of a hub model, `*` for any letters.

    Raises:
        UserError: there is no such folder or model.
    """
    path, where = Path(name), f"model {name}" + (f"@{revision}" if revision else "")
    if path.is_dir():
        return path
    known, _, given = str(name).partition("@")
    if path.is_absolute() or str(name).startswith(".") or not _NAME.fullmatch(known):
        raise UserError(where, expected="a model folder or hub name", found="no such folder", cure=CURE)
    return _downloaded(known, _commit(known, revision or given or None), files)


@functools.cache
def _commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a hub model stands for; offline, as the hub's cache remembers it."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    from huggingface_hub import HfApi, snapshot_download

    try:
        found = str(HfApi().model_info(name, revision=revision).sha)
    except Exception as error:  # no network, in the words of whatever library; or no such model
        try:
            found = Path(snapshot_download(name, revision=revision, local_files_only=True)).name
        except Exception:  # not in the cache either: the first of the two errors tells why
            raise _not_there(name, revision, error) from None
    advice = f'add teacher.revision = "{found}" to the recipe, or write the name so'
    sys.stderr.write(f"pinned {name}@{found}: {advice}\n")
    return found


@functools.cache
def _downloaded(name: str, commit: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(files)))
    except Exception as error:
        raise _not_there(name, commit, error) from None


def _not_there(name: str, revision: str | None, error: Exception) -> UserError:
    found = (str(error).strip().split("\n", 1)[0] or type(error).__name__)[:160]
    where = f"model {name}" + (f"@{revision}" if revision else "")
    return UserError(where, expected="a model folder or hub name", found=found, cure=CURE)
