"""What of a model's folder may be shared: all that a push checks before it uploads."""

import re
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tinydistilbert.errors import UserError
from tinydistilbert.models.runtimes import is_exported
from tinydistilbert.models.untrusted import CONFIG, PICKLE
from tinydistilbert.report import card_text
from tinydistilbert.report.inheritance import UNKNOWN
from tinydistilbert.run_folder import CARD, RunFolder
from tinydistilbert.storage import atomic, made_from

LARGEST = 50_000_000_000
"""The largest file, in bytes, that the hub accepts."""
PICKLED = (".pkl", ".pickle", ".pt", ".pth", ".ckpt", ".joblib", ".dill")
TEXTS_OF_PEOPLE = ("README*", "LICENSE*", "LICENCE*", "NOTICE*", "CITATION*", "*.md")
"""Files without an entry in a manifest that may lie beside a model."""
OF_MODELS = ("*.json", "*.safetensors", "*.txt", "*.model", "*.onnx", "*.onnx_data", "*.onnx.data", "*.xml", "*.bin")
"""The files of a model's folder from elsewhere, which has no manifest."""
LONGEST_NAME = 96
_NAME = re.compile(r"[A-Za-z0-9_]([\w.-]*[A-Za-z0-9_])?", re.ASCII)
"""A name on the hub, by the rules of huggingface_hub."""
PRIVATE = (made_from.FILE,)
"""Our own files that contain paths of this machine."""


@dataclass(frozen=True)
class Push:
    """What is to be uploaded, or was uploaded."""

    folder: Path
    name: str
    """Name on the hub: `user/name`."""
    private: bool
    files: Mapping[str, int]
    """The bytes of each file, by its path in the folder."""
    left_out: Mapping[str, str]
    """Files of the folder that are not uploaded, and why."""
    notes: tuple[str, ...]
    """What a user could miss: an unknown licence, no results."""
    url: str = ""
    """Address of the model on the hub; empty if nothing was uploaded."""


def checked(folder: Path, name: str, *, private: bool) -> Push:
    """Return what would be uploaded.

    Raises:
        UserError: something is wrong with the folder or the name.
    """
    _check_name(name)
    _check_is_model(folder)
    manifest = atomic.read_manifest(folder) if atomic.is_finished(folder) else None
    if manifest is not None:
        atomic.refuse_released(folder, manifest)
    files, left_out = _sorted_out(folder, manifest)
    if largest := [name for name, size in files.items() if size > LARGEST]:
        expected, fix = f"files of at most {LARGEST / 1e9:.0f} GB", "split the weights"
        raise UserError(str(folder / largest[0]), expected=expected, found=f"{files[largest[0]] / 1e9:.1f} GB", fix=fix)
    notes = _notes_on_card(folder)
    if manifest is None:
        notes.append(f"it has no {atomic.MANIFEST}, so it cannot be checked whether its files are as they were written")
    return Push(folder, name, private, files, left_out, tuple(notes))


def _check_name(name: str) -> None:
    user, _, model = name.partition("/")
    is_valid = all(_NAME.fullmatch(part) and "--" not in part and ".." not in part for part in (user, model))
    if not is_valid or len(name) > LONGEST_NAME or model.endswith(".git"):
        fix = "write your user name on the hub, a slash, and a model name of letters, digits, -, _ and ."
        raise UserError("the name on the hub", expected="user/name", found=repr(name)[:80], fix=fix)


def _check_is_model(folder: Path) -> None:
    """Refuse a folder that is not a model's, and name the intended folder if it can be recognised.

    Raises:
        UserError: it is not a model's.
    """
    if not folder.is_dir():
        raise UserError(str(folder), expected="a model's folder", found="none", fix="give the folder of a model")
    run = RunFolder(folder)
    if run.recipe.is_file():
        models = [*folder.glob("tasks/*/compressed/best"), *run.all_task_models(), run.student]
        finished = [str(path) for path in models if atomic.is_finished(path)][:3]
        fix = f"give one of its models, such as {', '.join(finished)}" if finished else "let it run to its end first"
        raise UserError(str(folder), expected="a model's folder", found="a whole run", fix=fix)
    if folder.name.endswith(".partial") or (folder / atomic.CHECKPOINTS).is_dir():
        problem = "this folder is not finished"
        raise UserError(str(folder), problem=problem, fix="run the command that makes it again; it continues")
    if not (folder / CONFIG).is_file():
        problem = f"this is no model's folder: it has no {CONFIG}"
        raise UserError(str(folder), problem=problem, fix="give the folder of a model")
    if not (is_exported(folder) or any(folder.glob("*.safetensors")) or atomic.is_finished(folder)):
        found = "a pickle" if (folder / PICKLE).is_file() else "none"
        convert = f"run: tinydistilbert convert {folder} --output NEW"
        fix = convert if found == "a pickle" else "give a folder with weights"
        raise UserError(str(folder), expected="weights in safetensors or ONNX", found=found, fix=fix)


def _sorted_out(folder: Path, manifest: Mapping[str, Any] | None) -> tuple[dict[str, int], dict[str, str]]:
    """Return the files to upload with their bytes, and the others with the reason.

    Raises:
        UserError: one is a pickle, or a link out of the folder.
    """
    files, left_out = {}, {}
    listed = None if manifest is None else {*manifest["files"], atomic.MANIFEST}
    for path in sorted(path for path in folder.rglob("*") if path.is_file() or path.is_symlink()):
        name = path.relative_to(folder).as_posix()
        if not path.resolve().is_relative_to(folder.resolve()):
            problem = "this is a link to a file outside of the folder, which would be published"
            raise UserError(str(path), problem=problem, fix="delete it, or put a copy in its place")
        if is_pickle(path):
            fix = "delete it; `tinydistilbert convert` turns pickled weights into safetensors"
            raise UserError(str(path), problem="this is a pickle, which can run code where it is read", fix=fix)
        is_text = any(PurePosixPath(name).match(pattern) for pattern in TEXTS_OF_PEOPLE)
        if any(part.startswith(".") for part in PurePosixPath(name).parts):
            left_out[name] = "hidden"
        elif name in PRIVATE:
            left_out[name] = "it contains paths of this machine"
        elif listed is not None and name not in listed and not is_text:
            left_out[name] = "the manifest does not list it"
        elif listed is None and not is_text and not any(PurePosixPath(name).match(pattern) for pattern in OF_MODELS):
            left_out[name] = "it is not a file of a model"
        else:
            files[name] = path.stat().st_size
    return files, left_out


def is_pickle(path: Path) -> bool:
    """Whether a file is a pickle by its name or content, alone or inside the archive that torch writes."""
    if path.suffix.lower() in PICKLED or path.name == PICKLE:
        return True
    with path.open("rb") as stream:
        begin = stream.read(2)
    if len(begin) == 2 and begin[0] == 0x80 and 2 <= begin[1] <= 5:  # the opcode PROTO and its number
        return True
    if begin != b"PK" or not zipfile.is_zipfile(path):
        return False
    with zipfile.ZipFile(path) as archive:
        return any(name.endswith(".pkl") for name in archive.namelist())


def _notes_on_card(folder: Path) -> list[str]:
    """Return what the card leaves open.

    Raises:
        UserError: there is no card, or one that the hub cannot use.
    """
    path = folder / CARD
    if not path.is_file():
        fix = "run `tinydistilbert report RUN`, which writes it, or write one with a header (license, pipeline_tag)"
        raise UserError(str(path), expected="the model's card", found="none", fix=fix)
    card = card_text.read_card(path)
    missing = [key for key in ("license", "pipeline_tag", "library_name") if not card.data.get(key)]
    if missing:
        fix = f"add {', '.join(f'{key}: …' for key in missing)} between its lines ---"
        raise UserError(str(path), expected="a complete header", found=f"one without {', '.join(missing)}", fix=fix)
    if not re.search(r"^#+ ", card.text, re.MULTILINE):
        fix = "describe below it how the model was made and what it can do"
        raise UserError(str(path), expected="a card with text", found="only a header", fix=fix)
    notes = []
    if card.data.get("license") == UNKNOWN:
        notes.append(f"its licence is unknown: write the right one into {CARD} if you know it")
    if not card.data.get("eval_results"):
        notes.append("its card has no results (model-index)")
    return notes
