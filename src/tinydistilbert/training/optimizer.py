"""AdamW and the schedule of its learning rate."""

import torch
from torch import nn

from tinydistilbert.recipe import schema


def learning_rate_factor(step: int, steps: int, warmup_ratio: float, *, from_zero: bool = False) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up from just above 0, then linear decay.

    `from_zero` gives transformers' `get_linear_schedule_with_warmup`: 0 at the first step, and the peak after it later.
    """
    warmup = int(steps * warmup_ratio)
    if step < warmup:
        return step / warmup if from_zero else (step + 1) / (warmup + 1)
    return (steps - step) / (steps - warmup)


def make_optimizer(model: nn.Module, settings: schema.Optimization) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only, not on biases and normalisation weights (as in BERT's own recipe)."""
    decays_all = settings.decayed == "all"
    matrices = [p for p in model.parameters() if p.requires_grad and (p.dim() >= 2 or decays_all)]
    others = [p for p in model.parameters() if p.requires_grad and not (p.dim() >= 2 or decays_all)]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)
