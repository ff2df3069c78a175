"""AdamW and the schedule of its learning rate."""

import re
from typing import Any

import torch
from torch import nn

from tinydistilbert.recipe import schema

SCALE = "learning_rate_scale"
"""Key in a parameter group of AdamW: its share of the learning rate."""
_LAYER = re.compile(r".*\blayers?\.(\d+)\..*")


def learning_rate_factor(step: int, steps: int, warmup_ratio: float, *, from_zero: bool = False) -> float:
    """Return the share of the peak learning rate at `step` (from 0): linear warm-up from just above 0, linear decay.

    `from_zero` is transformers' `get_linear_schedule_with_warmup`: 0 at the first step, and a later peak.
    """
    warmup = int(steps * warmup_ratio)
    if step < warmup:
        return step / warmup if from_zero else (step + 1) / (warmup + 1)
    return (steps - step) / (steps - warmup)


def make_optimizer(model: nn.Module, settings: schema.Optimization, layer_decay: float = 1.0) -> torch.optim.AdamW:
    """Return a fused AdamW; by default weight decay is on matrices only, not on biases and normalisation weights.

    That is BERT's recipe; `settings.decayed` can extend it to all. Each group has the `SCALE` of the learning rate for
    its depth: see `layer_scales`.
    """
    decays_all, scales = settings.decayed == "all", layer_scales(model, layer_decay)
    groups: list[dict[str, Any]] = []
    for scale in sorted(set(scales.values()), reverse=True):
        trained = [p for name, p in model.named_parameters() if p.requires_grad and scales[name] == scale]
        matrices = [p for p in trained if p.dim() >= 2 or decays_all]
        others = [p for p in trained if not (p.dim() >= 2 or decays_all)]
        groups += [
            {"params": matrices, "weight_decay": settings.weight_decay, SCALE: scale},
            {"params": others, "weight_decay": 0.0, SCALE: scale},
        ]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)


def layer_scales(model: nn.Module, layer_decay: float) -> dict[str, float]:
    """Return the share of the learning rate that each parameter has, by its name.

    Parameters above the layers have the full rate, the last layer `layer_decay` of it, each layer that share of the
    layer above, and the embeddings that share of the first layer.
    """
    layers = {name: int(match[1]) for name, _ in model.named_parameters() if (match := _LAYER.fullmatch(name))}
    top = max(layers.values(), default=-1) + 2

    def height(name: str) -> int:
        return layers[name] + 1 if name in layers else 0 if "embeddings" in name else top

    return {name: layer_decay ** (top - height(name)) for name, _ in model.named_parameters()}
