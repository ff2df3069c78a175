"""What a training may take of the memory, and what a micro-batch is estimated to take of it."""

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from tests import tiny
from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.finetuning.trainer import micro_batch_memory
from tinydistilbert.models.size import ATTENTION_WEIGHT_BYTES, Size
from tinydistilbert.recipe.schema import Optimization
from tinydistilbert.training import cores
from tinydistilbert.training.device import Compute
from tinydistilbert.training.memory import HELD, free_bytes, splits_that_fit

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("files", "own_cgroups", "free"),
    [
        ({}, "0::/\n", 9e9),
        ({"memory.max": "max\n", "memory.current": "1\n", "memory.stat": "anon 1\n"}, "0::/\n", 9e9),
        (
            {"job/memory.max": "5000", "job/memory.current": "3000", "job/memory.stat": "anon 2\ninactive_file 400\n"},
            "0::/job\n", 2400,
        ),
        ({"job/memory.max": "5000", "job/memory.current": "6000", "job/memory.stat": "anon 6000\n"}, "0::/job\n", 0),
        (
            {
                "memory/job/memory.limit_in_bytes": "5000\n", "memory/job/memory.usage_in_bytes": "3000\n",
                "memory/job/memory.stat": "total_inactive_file 1000\n",
            },
            "3:cpu:/other\n4:memory:/job\n", 3000,
        ),
    ],
)  # fmt: skip
def test_what_is_free_is_no_more_than_the_control_group_leaves(
    files: dict[str, str], own_cgroups: str, free: float, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    (tmp_path / "own").write_text(own_cgroups)
    monkeypatch.setattr(cores, "CGROUPS", tmp_path)
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=9e9))
    assert free_bytes(CPU) == free
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "3")
    assert free_bytes(CPU) == free / 3, "each of three processes of a launcher has its share"
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1")
    monkeypatch.setenv(cores.AT_ONCE, "4")
    assert free_bytes(CPU) == free / 4, "so has each of four jobs"


def test_micro_batches_are_halved_until_they_fit_or_are_as_small_as_they_can_be() -> None:
    asked: list[int] = []

    def memory(splits: int) -> float:
        asked.append(splits)
        return 100 / 2**splits

    assert [splits_that_fit(memory, 3, budget) for budget in (100, 50, 49, 1)] == [0, 1, 2, 3]
    assert max(asked) == 2, "the smallest are taken anyhow"


def test_attention_weights_count_where_they_are_kept_and_with_the_square_of_the_length() -> None:
    model = tiny.model(head="classification")
    heads, layers = model.config.num_attention_heads, model.config.num_hidden_layers
    assert Size.of(model).heads == heads * layers

    def bytes_of(dropout: float, longest: int, splits: int = 0, device: str = "cpu", precision: str = "fp32") -> float:
        compute = Compute(torch.device(device), precision, 1)
        optimization = Optimization(batch_size=8, attention_dropout=dropout)
        return micro_batch_memory(model, TaskLoss("classification"), optimization, compute, longest, splits)

    plain, long = bytes_of(0.0, 100), bytes_of(0.0, 200)
    assert long == 2 * plain
    kept = HELD * ATTENTION_WEIGHT_BYTES * 8 * heads * layers
    assert bytes_of(0.1, 100) - plain == pytest.approx(kept * 100**2)
    assert bytes_of(0.1, 200) - long == pytest.approx(kept * 200**2)
    assert bytes_of(0.1, 100, splits=3) == pytest.approx(bytes_of(0.1, 100) / 8)
    assert bytes_of(0.1, 100, device="cuda") == pytest.approx(plain / HELD), "there the kernel computes them anew"
