"""What differs on a GPU: precision and devices. The numbers must agree with the CPU's as far as bfloat16 goes."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tinydistilbert import recipe
from tinydistilbert.training import Batch, Work, choose_device, precision, train

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


def fit(folder: Path, device: torch.device) -> list[Tensor]:
    """A few steps of a small regression; the parameters it ends with, on the CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1))
    rows = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))

    def terms(net: nn.Module, batch: Batch) -> dict[str, Tensor]:
        return {"fit": (net(batch["rows"]).float().squeeze(-1) - batch["rows"].sum(-1)).square().mean()}

    work = Work(
        steps=20, micro_batches=lambda step: [{"rows": part} for part in rows.split(16)], terms=terms,
        counts=lambda batch: {"fit": len(batch["rows"])}, weights={"fit": 1.0}, tokens=lambda batch: len(batch["rows"]),
    )  # fmt: skip
    folder.mkdir()
    train(
        model, work, recipe.Optimization(learning_rate=1e-2), seed=0, folder=folder, device=device, label="fit",
        checkpoint_minutes=60,
    )  # fmt: skip
    return [parameter.detach().cpu() for parameter in model.parameters()]


def test_auto_takes_the_gpu() -> None:
    assert choose_device("auto").type == "cuda"
    assert precision(torch.device("cpu")) == "no"


def test_training_on_the_gpu_agrees_with_the_cpu(tmp_path: Path) -> None:
    on_gpu, on_cpu = (fit(tmp_path / name, torch.device(name)) for name in ("cuda", "cpu"))
    for ours, theirs in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.05)
