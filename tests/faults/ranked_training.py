"""The real training loop on a model of a few weights, shared by the processes of a launcher."""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tinydistilbert.distillation.teacher_shards import place_teacher
from tinydistilbert.models.capture import encoder_layers
from tinydistilbert.models.heads import encode, hidden_states, vocabulary_logits
from tinydistilbert.models.loading import load_model
from tinydistilbert.recipe import schema
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train
from tinydistilbert.training.precision import frozen
from tinydistilbert.training.ranks import join

CPU = torch.device("cpu")
DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
SPLITS = 2


class Net(nn.Module):
    """With dropout, a part that only some micro-batches use, and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 1))
        self.now_and_then, self.never = nn.Linear(6, 1), nn.Linear(6, 1)
        random = torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=random) * 0.3)

    def forward(self, rows: Tensor) -> Tensor:
        whole = self.layers(rows)
        return whole + self.now_and_then(rows) if len(rows) == 3 else whole


def micro_batches(step: int, oom_splits: int = 0, *, parts: list[int]) -> list[Batch]:
    """Of those sizes, the last one only in every second step; each cut into 2^oom_splits parts."""
    rows = DATA[[(step * 8 + i) % 64 for i in range(sum(parts))]]
    of_step = rows.split(parts)[: len(parts) - (step % 2 if len(parts) > 1 else 0)]
    return [{"rows": part} for whole in of_step for part in whole.tensor_split(2**oom_splits) if len(part)]


def loss(
    model: nn.Module, batch: Batch, term_scales: Mapping[str, float], _step: int
) -> tuple[Tensor, Mapping[str, Tensor]]:
    """The mean square of the difference to the rows' sums."""
    predicted = model(batch["rows"]).squeeze(-1)
    return scaled_sum({"fit": (predicted - batch["rows"].sum(-1)).square().mean()}, term_scales)


def shards(teacher: str) -> None:
    """A teacher in shards, whole beside it: print the largest difference, and which share of the layers this one has.

    Args:
        teacher: folder of a masked-LM model.
    """
    ranks = join(CPU)
    whole = load_model(Path(teacher), "masked-lm").eval()
    lines: list[str] = []
    compute = Compute(CPU, "fp32", 1.0, ranks)
    with ranks.session(), torch.no_grad():
        teacher_in_shards = place_teacher(whole, compute, "always", trained=0, log=lines.append)
        differences = [0.0]
        for length, mode in ((9, torch.inference_mode), (5, torch.no_grad), (7, torch.inference_mode)):
            ids = torch.randint(0, 50, (3, length), generator=torch.Generator().manual_seed(length + ranks.rank))
            with mode():
                logits, expected = (
                    vocabulary_logits(model, hidden_states(model, ids, None)) for model in (teacher_in_shards, whole)
                )
            differences.append(float((logits - expected).abs().max()))
        with frozen(teacher_in_shards, "bf16"):
            encode(teacher_in_shards, ids, None, layers=[0], attention=[0])
        layers = [sum(p.numel() for p in layer.parameters()) for layer in encoder_layers(whole)]
        held = [p.to_local() for layer in encoder_layers(teacher_in_shards) for p in layer.parameters()]  # type: ignore[operator]
        share = sum(p.numel() for p in held) / sum(layers)
        ranks.total([1.0])
    sys.stdout.write(json.dumps({"difference": max(differences), "share": share, "lines": lines}))


def main(
    folder: str, steps: int, parts: list[int], stop_after: int = 0, out_of_memory_in: int = -1, infinite_at: int = 0,
    *, in_step: bool = False,
) -> None:  # fmt: skip
    """Train in `folder`, and leave the weights of each process in it.

    Args:
        folder: is there.
        steps: of the training.
        parts: sizes of the micro-batches.
        stop_after: steps after which rank 0 gets a request to stop; 0 = none.
        out_of_memory_in: the rank whose memory runs out in the third step as long as micro-batches are whole.
        infinite_at: step in which the second micro-batch has a loss that is not finite.
        in_step: whether the processes compute each micro-batch together, as with a teacher in shards.
    """
    ranks = join(CPU)
    model = Net()

    def batches(step: int, oom_splits: int = 0) -> list[Batch]:
        if stop_after and step == stop_after and ranks.is_main:
            import os
            import signal

            os.kill(os.getpid(), signal.SIGTERM)
        made = micro_batches(step, oom_splits, parts=parts)
        if out_of_memory_in == ranks.rank and step == 2 and not oom_splits:
            raise MemoryError
        if infinite_at and step == infinite_at:
            made[1]["rows"] = made[1]["rows"] * float("inf")
        return made

    def loss_together(*arguments: Any) -> tuple[Tensor, Mapping[str, Tensor]]:
        ranks.total([1.0])
        return loss(*arguments)

    job = TrainingJob(
        steps=steps, micro_batches=batches, loss=loss_together if in_step else loss,
        term_weights=lambda _: {"fit": 2.0},
        token_shares=lambda made: token_shares([{"fit": len(batch["rows"])} for batch in made]),
        tokens=lambda batch: len(batch["rows"]), validate=lambda done: {"ranks": float(ranks.total([1.0])[0])},
        validate_after=frozenset({steps // 2, steps}), oom_splits=SPLITS,
        keep_pace=(lambda _batch, _step: ranks.total([1.0])) if in_step else None,
    )  # fmt: skip
    settings = schema.Optimization(learning_rate=0.05, weight_decay=0.1)
    with ranks.session(), ranks.unfinished(Path(folder) / "model") as partial:
        train(model, job, settings, Compute(CPU, "fp32", 1e-9, ranks), seed=3, folder=partial, label="fit")
        save_file(dict(model.named_parameters()), Path(folder) / f"rank-{ranks.rank}.safetensors")
    sys.stdout.write(json.dumps({"rank": ranks.rank, "world": ranks.world}))
