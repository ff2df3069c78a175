"""Memory that runs out for real: the process gets a limit, and the training makes do with smaller micro-batches."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

LEAST, MOST = 60, 500
"""MB that a training gets beside what the process has: from what a few examples of a step need to enough for all."""


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="needs /proc, to know what a process has")
def test_a_training_makes_do_with_less_memory(trials: Callable[..., Any], forks: Any, tmp_path: Path) -> None:
    def trained(name: str, megabytes: int) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
        folder = tmp_path / name
        folder.mkdir(exist_ok=True)
        child = forks.start("wide", {"folder": str(folder), "megabytes": megabytes}, cache=tmp_path / "cache")
        assert child.wait() == 0, child.err()
        lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
        return load_file(folder / "model.safetensors"), lines

    enough, steps = trained("enough", 0)
    with trials("memory runs out: smaller micro-batches, the same steps", quick=4, full=50) as goal:
        halved = 0
        for number, random in enumerate(goal):
            megabytes = random.randint(LEAST, MOST)
            with goal.trial(f"{number}: {megabytes} MB"):
                weights, lines = trained(str(number), megabytes)
                halved += any("micro_batches_halved" in line for line in lines)
                done = [line for line in lines if "learning_rate" in line]
                assert [line["step"] for line in done] == [line["step"] for line in steps]
                assert [line["tokens"] for line in done] == [line["tokens"] for line in steps]
                for name, value in enough.items():
                    torch.testing.assert_close(weights[name], value, rtol=1e-4, atol=1e-5)
        goal.facts["in smaller micro-batches"] = halved
        assert 0 < halved < goal.count, "the limits are all too low or all too high"
