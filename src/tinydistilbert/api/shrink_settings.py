"""Settings of the recipe in a call of `shrink`: those that its arguments set, and those that it does not use."""

from collections.abc import Mapping
from typing import Any

from tinydistilbert.errors import UserError
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.types import with_current_keys

_SAID_BY = {
    "name": "--output", "finetune.model": "--teacher", "finetune.tasks": "FILE", "finetune.seeds": "--seeds",
    "finetune.distillation.teachers": "--teacher", "finetune.distillation.unlabelled": "--unlabelled",
    "finetune.distillation.soft_labels": "--soft-labels", "compress.teachers": "--teacher",
    "compress.min_kept": "--keep", "compress.target_latency": "--to", "compress.target_size": "--to",
    "compress.target_operations": "--to",
}  # fmt: skip
_ITS_OWN = ("compress.model", "compress.row", "compress.tasks", "finetune.distillation.tasks")
"""Keys that `shrink` fixes: it compresses the student that it distils, and nothing else."""
_PRETRAINING = ("adapt", "distill", "masking", "objective", "validation", "ablate", "teacher.model")
"""Sections, and a key, of stages that `shrink` does not have."""
SCALED = (
    "finetune.epochs", "finetune.distillation.epochs", "finetune.distillation.intermediate_epochs",
    "finetune.train_examples", "compress.recovery_epochs",
)  # fmt: skip
"""Settings that a time budget changes."""


def checked_settings(settings: Mapping[str, Any], time_budget: str = "") -> dict[str, Any]:
    """Return the settings as in a TOML file.

    Raises:
        UserError: an argument of `shrink` sets it, nothing reads it, or the time budget chooses it.
    """
    content = with_current_keys(toml.nested(settings), "shrink")
    for key in dict(flat(content)):
        if key in _SAID_BY:
            raise UserError(f"shrink, key {key}", problem=f"{_SAID_BY[key]} sets it already", fix="leave the key out")
        if key in _ITS_OWN:
            problem = "shrink sets it itself: it always compresses the student that it distils"
            raise UserError(f"shrink, key {key}", problem=problem, fix="leave it out, or use the command compress")
        if key in _PRETRAINING or key.startswith(tuple(f"{name}." for name in _PRETRAINING)):
            problem = "shrink has no such stage: it fine-tunes, distils for the task and compresses"
            fix = "leave it out; the settings of these stages begin with finetune, student and compress"
            raise UserError(f"shrink, key {key}", problem=problem, fix=fix)
        if time_budget and key in SCALED:
            raise UserError(f"shrink, key {key}", problem="--time-budget sets it already", fix="leave one of them out")
    return content
