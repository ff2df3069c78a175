"""A small folder of data for diagnosing a loss or a gradient that is not finite, or for sending to somebody who can."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tinydistilbert.storage import atomic

FOLDER = "diagnosis"
MOST_NAMED = 20
"""Most parameters that are named."""


def write_diagnosis(
    folder: Path, model: nn.Module, micro_batches: Sequence[Mapping[str, Tensor]], *, facts: Mapping[str, Any]
) -> Path:
    """Write `folder/diagnosis/`: the batch of a failed step and where its numbers stop being finite.

    Args:
        folder: of the training.
        model: with the gradients of the step.
        micro_batches: of the step; written to `batch.safetensors`, named `NUMBER/NAME`.
        facts: other facts; written to `facts.json`, with the names of `parameters` and `gradients` that are not finite.

    Returns:
        The folder.
    """
    diagnosis = folder / FOLDER
    diagnosis.mkdir(parents=True, exist_ok=True)
    named = list(model.named_parameters())
    bad = {
        "parameters": [name for name, parameter in named if not torch.isfinite(parameter).all()],
        "gradients": [name for name, p in named if p.grad is not None and not torch.isfinite(p.grad).all()],
    }
    counts = {f"{kind}_not_finite": len(names) for kind, names in bad.items()}
    shown = {kind: names[:MOST_NAMED] for kind, names in bad.items()}
    # JSON cannot represent numbers that are not finite.
    atomic.write_json(diagnosis / "facts.json", _as_text({**facts, **counts, **shown}))
    tensors = {
        f"{number}/{name}": value.contiguous()
        for number, batch in enumerate(micro_batches)
        for name, value in batch.items()
    }
    temporary = diagnosis / ".batch.safetensors.tmp"
    save_file(tensors, temporary)
    atomic.adopt(temporary, diagnosis / "batch.safetensors")
    return diagnosis


def _as_text(value: Any) -> Any:
    """Return the value with numbers that are not finite as words: nan, inf, -inf."""
    if isinstance(value, dict):
        return {key: _as_text(inner) for key, inner in value.items()}
    return str(value) if isinstance(value, float) and value - value != 0 else value
