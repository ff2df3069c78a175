"""What differs on a GPU: precision and devices. The numbers must agree with the CPU's as far as bfloat16 goes."""

from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tinydistilbert.losses.vocabulary import TeacherHead, vocabulary_loss
from tinydistilbert.recipe import schema
from tinydistilbert.training.device import Compute, choose_device
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train
from tinydistilbert.training.precision import chosen_precision

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")]


class Killed(BaseException):
    """The end of a process, as far as a training can tell."""


def fit(folder: Path, device: torch.device, *, die_at: int | None = None) -> list[Tensor]:
    """A few steps of a small regression with a checkpoint after each; the parameters it ends with, on the CPU."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 1))
    rows = torch.randn(32, 8, generator=torch.Generator().manual_seed(1))

    def loss(
        net: nn.Module, batch: Batch, term_scales: Mapping[str, float], _: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        fitted = (net(batch["rows"]).float().squeeze(-1) - batch["rows"].sum(-1)).square().mean()
        return scaled_sum({"fit": fitted}, term_scales)

    def micro_batches(step: int, oom_splits: int = 0) -> list[Batch]:
        if step == die_at:
            raise Killed
        return [{"rows": part} for part in rows.split(16 >> oom_splits)]

    job = TrainingJob(
        steps=20, micro_batches=micro_batches, loss=loss,
        token_shares=lambda parts: token_shares([{"fit": len(part["rows"])} for part in parts]),
        term_weights=lambda _: {"fit": 1.0}, tokens=lambda batch: len(batch["rows"]),
    )  # fmt: skip
    folder.mkdir(exist_ok=True)
    train(
        model, job, schema.Optimization(learning_rate=1e-2), Compute(device, "auto", 0), seed=0, folder=folder,
        label="fit",
    )  # fmt: skip
    return [parameter.detach().cpu() for parameter in model.parameters()]


def test_auto_takes_the_gpu() -> None:
    assert choose_device("auto").type == "cuda"
    assert chosen_precision(torch.device("cpu")) == "fp32"


def test_training_on_the_gpu_agrees_with_the_cpu(tmp_path: Path) -> None:
    on_gpu, on_cpu = (fit(tmp_path / name, torch.device(name)) for name in ("cuda", "cpu"))
    for gpu_weight, cpu_weight in zip(on_gpu, on_cpu, strict=True):
        torch.testing.assert_close(gpu_weight, cpu_weight, rtol=0.1, atol=0.05)


def test_a_training_that_was_killed_goes_on_where_it_was(tmp_path: Path) -> None:
    cuda = torch.device("cuda")
    whole = fit(tmp_path / "whole", cuda)
    with pytest.raises(Killed):
        fit(tmp_path / "killed", cuda, die_at=11)
    for resumed, expected in zip(fit(tmp_path / "killed", cuda), whole, strict=True):
        torch.testing.assert_close(resumed, expected, rtol=1e-4, atol=1e-5)


def test_the_vocabulary_losses_agree_with_the_cpu() -> None:
    random = torch.Generator().manual_seed(0)
    inputs, weight, teacher_inputs = (
        torch.randn(*shape, generator=random) for shape in ((600, 32), (3000, 32), (600, 48))
    )
    teacher_weight, labels = torch.randn(3000, 48, generator=random), torch.randint(3000, (90,), generator=random)
    outputs = {}
    for name in ("cpu", "cuda"):
        leaves = [tensor.to(name).requires_grad_() for tensor in (inputs, weight)]
        total, terms = vocabulary_loss(
            *leaves, None, TeacherHead(teacher_inputs.to(name), teacher_weight.to(name), None), labels.to(name),
            temperature=2.0, term_scales={"kl": 5.0, "mlm": 2.0},
        )  # fmt: skip
        gradients = torch.autograd.grad(total, leaves)
        outputs[name] = [value.detach().cpu() for value in (*terms.values(), *gradients)]
    for gpu_value, cpu_value in zip(outputs["cuda"], outputs["cpu"], strict=True):
        torch.testing.assert_close(gpu_value, cpu_value, rtol=1e-3, atol=1e-4)
