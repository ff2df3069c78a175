"""The served model, with the facts of its folder that clients can read."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert.errors import UserError
from tinydistilbert.models.runtimes import AGREEMENT, EXPORT_KEY, TEXTS, exported_config
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.predictor import Predictor, load
from tinydistilbert.run_folder import CompressedFolder, RunFolder
from tinydistilbert.storage import atomic


@dataclass(frozen=True)
class Served:
    """A loaded model.

    Args:
        predictor: answers texts.
        name: name of its folder.
        precision: precision of its weights, such as `int8`.
        texts_per_input: number of texts per input, 1 or 2; None = the folder does not say.
        defer_below: confidence below which an answer says that the teacher should be asked; None = never.
        sha256: hash of its manifest, which has the hashes of all files; empty without a manifest.
    """

    predictor: Predictor
    name: str
    precision: str
    texts_per_input: int | None
    defer_below: float | None
    sha256: str


def load_served(folder: Path, *, threads: int = 0, defer_below: float | None = None) -> Served:
    """Load the model of an exported folder, without importing torch.

    Args:
        folder: a folder made by `export`, `compress` or `shrink`.
        threads: threads per operation; 0 = the cores that this process may use.
        defer_below: replaces the threshold in the folder.

    Raises:
        UserError: there is no exported model, it is incomplete, differs from its manifest or has no task head, or a
            threshold is given for a model without classes, or one that is no probability.
    """
    if defer_below is not None and not _is_probability(defer_below):
        fix = "write 80 % as 0.8"
        raise UserError("--defer-below", expected="a number from 0 to 1", found=repr(defer_below)[:40], fix=fix)
    config = exported_config(folder)
    if config is None:
        raise _no_exported_model(folder)
    facts = config[EXPORT_KEY]
    predictor = load(folder, threads=threads)
    if defer_below is not None and predictor.kind != "classification":
        found = f"a {predictor.kind} model"
        raise UserError("--defer-below", expected="a model with classes", found=found, fix="leave it out")
    if defer_below is None and predictor.kind == "classification":
        defer_below = _stored_threshold(folder, facts)
    defer_below = None if defer_below is None else float(defer_below)  # with numpy's, `defer` would be no JSON
    texts = {"span": 2, "token-classification": 1}.get(predictor.kind, facts.get(TEXTS))
    sha256 = atomic.sha256(folder / atomic.MANIFEST) if atomic.is_finished(folder) else ""
    name = folder.resolve().name
    return Served(
        predictor, name, str(facts.get("precision", "fp32")), texts if texts in (1, 2) else None, defer_below, sha256
    )


def _stored_threshold(folder: Path, facts: dict[str, Any]) -> float | None:
    """Return the confidence from which a model agrees with its teacher; infinite if it never does.

    Raises:
        UserError: the stored value is not a probability.
    """
    stored = facts.get(AGREEMENT)
    if stored is None:
        return None
    threshold = stored.get("threshold") if isinstance(stored, dict) else stored
    if threshold is None:
        return math.inf
    if not _is_probability(threshold):
        where, fix = f"{folder / CONFIG}: {AGREEMENT}", "use the folder as it was written, or export the model again"
        raise UserError(where, expected="a threshold from 0 to 1", found=repr(threshold)[:80], fix=fix)
    return float(threshold)


def _is_probability(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def _no_exported_model(folder: Path) -> UserError:
    """Return the error for a folder that cannot be served; its fix names a folder to serve instead, if it finds one."""
    where, expected = str(folder), "the folder of an exported model"
    if not folder.exists():
        return UserError(where, expected=expected, found="no such folder", fix="correct its name")
    if (folder / CONFIG).is_file():
        fix = f"run: tinydistilbert export {folder} --output {folder.resolve().name}-onnx"
        return UserError(where, expected=expected, found="a torch model", fix=fix)
    if RunFolder(folder).recipe.is_file():
        best = (CompressedFolder(path).best for path in sorted(folder.glob("tasks/*/compressed")))
        if ready := [path for path in best if atomic.is_finished(path)]:
            return UserError(where, expected=expected, found="a run", fix=f"give {ready[0]}")
        found = "a run that has no finished one"
        fix = "run the command that began it again, then serve the folder that it names"
        return UserError(where, expected=expected, found=found, fix=fix)
    if atomic.partial(folder).exists():
        fix = "run the command that makes it again"
        return UserError(where, expected=expected, found="an unfinished one", fix=fix)
    found = "no config.json" if folder.is_dir() else "a file"
    return UserError(where, expected=expected, found=found, fix="make one: tinydistilbert export MODEL --output FOLDER")
