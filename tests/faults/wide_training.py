"""The real training loop on a model with few weights and many numbers for each example, in little memory."""

import resource
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tinydistilbert.recipe import schema
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train

ROWS, WIDTH, STEPS = 32, 200_000, 3
"""What one layer gives for a step's examples are 26 MB, of which a step needs several times as much."""
DATA = torch.randn(ROWS * STEPS, 2, generator=torch.Generator().manual_seed(0))


class Wide(nn.Module):
    """Few weights and many numbers for each example."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.wide = nn.Linear(2, WIDTH)


def loss(
    model: nn.Module, batch: Batch, term_scales: Mapping[str, float], _: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    net: Any = model
    return scaled_sum({"fit": (net.wide(batch["rows"]) - 1).square().mean()}, term_scales)


def micro_batches(step: int, oom_splits: int = 0) -> list[Batch]:
    return [{"rows": rows} for rows in DATA[step * ROWS : (step + 1) * ROWS].split(ROWS >> oom_splits)]


def main(folder: Path, megabytes: int) -> None:
    """Train in a folder that is there, and write the weights; with so much more memory than the process has now."""
    if megabytes:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + megabytes * 2**20,) * 2)
    model = Wide()
    job = TrainingJob(
        steps=STEPS, micro_batches=micro_batches, loss=loss, term_weights=lambda _: {"fit": 1.0},
        token_shares=lambda batches: token_shares([{"fit": len(batch["rows"])} for batch in batches]),
        tokens=lambda batch: len(batch["rows"]), validate=lambda _: {}, validate_after=frozenset(),
        oom_splits=ROWS.bit_length() - 1,
    )  # fmt: skip
    settings = schema.Optimization(learning_rate=0.05)
    train(model, job, settings, Compute(torch.device("cpu"), "auto", 0), seed=3, folder=folder, label="fit")
    save_file({name: value.detach() for name, value in model.named_parameters()}, folder / "model.safetensors")
