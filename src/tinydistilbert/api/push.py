"""push: upload a model's folder to the Hugging Face hub, after checking everything that would be uploaded."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from tinydistilbert import progress
from tinydistilbert.api.shareable import Push, checked
from tinydistilbert.errors import DiskError, Interrupted, UploadFailed, UserError
from tinydistilbert.notices import notice
from tinydistilbert.optional import require
from tinydistilbert.storage import atomic

AGAIN = "no file was uploaded, and the folder is unchanged; run the same command again"
CUT = "the folder is unchanged; run the same command again to upload what is missing there"


def push(folder: str | Path, name: str, *, private: bool = False, dry_run: bool = False) -> Push:
    """Upload a model's folder to the Hugging Face hub, after a check.

    It checks the files against the manifest, that none of them is a pickle, the header of the card, and the sizes.
    Files that are not part of the model are not uploaded: hidden files, files that the manifest does not list, and
    files that name paths of this machine.

    Args:
        folder: a model folder: fine-tuned, exported, or chosen by `shrink` or `compress`.
        name: `user/name`; the model is created if it does not exist, and its files are replaced if it does.
        private: make the model private; refused if it is already public.
        dry_run: only check and list the files; needs neither a token nor a network.

    Returns:
        The uploaded files and their address.

    Raises:
        UserError: the folder, the name or the token is invalid; nothing was uploaded.
        UploadFailed: the hub failed or could not be reached; the same call tries again.
    """
    require("huggingface_hub", extra="train")
    planned = checked(Path(folder), name, private=private)
    for note in planned.notes:
        notice(str(folder), note)
    return planned if dry_run else _uploaded(planned)


@contextmanager
def _staged(planned: Push) -> Iterator[Path]:
    """Yield a folder with only the files to upload, and a manifest of only those."""
    with tempfile.TemporaryDirectory(prefix="tinydistilbert-push-") as work:
        staged = Path(work) / "model"
        for name in planned.files:
            target = staged / name
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link((planned.folder / name).resolve(), target)
            except OSError:  # another file system, or one without links
                shutil.copyfile(planned.folder / name, target)
        if atomic.is_finished(planned.folder):
            facts = atomic.read_manifest(planned.folder, verify=False)
            listed = {name: of for name, of in facts["files"].items() if name in planned.files}
            (staged / atomic.MANIFEST).unlink()  # a link to the folder's own
            atomic.write_manifest_of(staged, {**facts, "files": listed})
        yield staged


def _uploaded(planned: Push) -> Push:
    """Create the model on the hub, and upload its files in one commit: all of them appear, or none."""
    from huggingface_hub import HfApi, constants, get_token

    where = f"push {planned.name}"
    if constants.HF_HUB_OFFLINE:
        raise UserError(where, problem="HF_HUB_OFFLINE is set", fix="unset it, or give --dry-run")
    if not get_token():
        raise UserError(where, problem="no token for the hub was found", fix="run `hf auth login`, or set HF_TOKEN")
    api = HfApi(library_name="tinydistilbert")
    progress.say(f"uploading {sum(planned.files.values()) / 1e6:,.1f} MB to {api.endpoint}/{planned.name}")
    with _hub_errors(where), _quiet_hub():
        api.create_repo(planned.name, private=planned.private or None, exist_ok=True)
        if planned.private and not api.model_info(planned.name).private:
            problem = "this model exists on the hub already and is public"
            raise UserError(where, problem=problem, fix="make it private there first, or choose another name")
        with _staged(planned) as staged:
            message = f"Upload {planned.folder.resolve().name} by tinydistilbert"
            api.upload_folder(repo_id=planned.name, folder_path=staged, commit_message=message)
    return replace(planned, url=f"{api.endpoint}/{planned.name}")


@contextmanager
def _quiet_hub() -> Iterator[None]:
    """Suppress huggingface_hub's line for each of its retries, some of which are seconds apart."""
    logger = logging.getLogger("huggingface_hub")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


@contextmanager
def _hub_errors(where: str) -> Iterator[None]:
    """Raise problems with the hub as errors of one line.

    Raises:
        UserError: the hub does not allow this user to do this.
        UploadFailed: any other problem of the hub or the network.
    """
    from huggingface_hub.errors import HfHubHTTPError

    try:
        yield
    except (UserError, DiskError, Interrupted):
        raise
    except HfHubHTTPError as error:
        status = error.response.status_code
        message = " ".join((error.server_message or str(error)).split())[:200]
        fixes = {
            401: ("the hub does not accept the token (401)", "run `hf auth login` again, or set another HF_TOKEN"),
            403: ("the token may not write there (403)", "use a token with write access, or your own user name"),
            404: ("the hub knows no such user or model (404)", "check the name"),
            400: (f"the hub refuses the files (400): {message}", "correct what it names"),
            413: ("a file is too large for the hub (413)", "split the weights"),
        }
        if status in fixes:
            problem, fix = fixes[status]
            raise UserError(where, problem=problem, fix=fix) from error
        if status in (409, 412):
            problem = f"somebody else changed the model in the meantime ({status})"
            raise UploadFailed(f"{where}: {problem}; {AGAIN}") from error
        raise UploadFailed(f"{where}: the hub failed ({status}): {message}; {AGAIN}") from error
    except Exception as error:  # a network error: each library has its own, without a common class
        message = " ".join(str(error).split())[:160]
        problem = f"the connection to the hub failed ({type(error).__name__}: {message})"
        raise UploadFailed(f"{where}: {problem}; {CUT}") from error
