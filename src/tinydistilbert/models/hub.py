"""Where a model lies: in a folder, or in the hub's cache at one commit, the same for all that is read of it."""

import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tinydistilbert.errors import UserError

COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
FIX = "give a folder with config.json and model.safetensors, a hub name (with network), or 'offline'"
_pinned: dict[str, str] = {}


def pinned_revisions() -> dict[str, str]:
    """The commits at which this process reads hub models that were named without one, by `NAME` or `NAME@REVISION`."""
    return dict(_pinned)


def pin_revisions(commits: Mapping[str, str]) -> None:
    """Read these hub models at these commits, as a run did that now goes on.

    Args:
        commits: by name, as `pinned_revisions` gave them.
    """
    _pinned.update(commits)


def local_folder(name: str | Path, revision: str | None, files: tuple[str, ...]) -> Path:
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
    if not _NAME.fullmatch(known):
        raise UserError(where, expected="a model folder or hub name", found="no such folder", fix=FIX)
    return _downloaded(known, _commit(known, revision or given or None), files)


def _commit(name: str, revision: str | None) -> str:
    """The commit that a revision of a hub model stands for; offline, as the hub's cache remembers it."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    named = f"{name}@{revision}" if revision else name
    if named not in _pinned:
        _pinned[named] = _looked_up(name, revision)
        advice = f'add teacher.revision = "{_pinned[named]}" to the recipe, or write the name so'
        sys.stderr.write(f"pinned {name}@{_pinned[named]}: {advice}\n")
    return _pinned[named]


def _looked_up(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi, snapshot_download

    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as error:  # no network, in the words of whatever library; or no such model
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
        except Exception:  # not in the cache either: the first of the two errors tells why
            raise _not_there(name, revision, error) from None


@functools.cache
def _downloaded(name: str, commit: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(files)))
    except Exception as error:
        raise _not_there(name, commit, error) from None


def _not_there(name: str, revision: str | None, error: Exception) -> UserError:
    found = (str(error).strip().partition("\n")[0] or type(error).__name__)[:160]
    where = f"model {name}" + (f"@{revision}" if revision else "")
    return UserError(where, expected="a model folder or hub name", found=found, fix=FIX)
