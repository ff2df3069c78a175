"""Self-attention with its gradient on a CPU: torch's own kernel against plain products, in fp32 and in bf16.

This is why `models/dropout.py` computes attention with plain products where a gradient is needed in bf16.
"""

import argparse
import itertools
import time
from typing import Any

import common
import torch
from torch import Tensor
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tinydistilbert.benchmark.turns import quartiles, table
from tinydistilbert.models.dropout import plain_attention
from tinydistilbert.training.allocator import keep_freed_memory

SHAPES = ((32, 12, 30, 32), (32, 12, 128, 32), (8, 12, 384, 32), (16, 12, 128, 64))
"""Inputs, heads, tokens and width of a head: short pairs, blocks, SQuAD's windows, and BERT-base's heads."""
MOST_APART = 0.05
"""Relative, of the two ways' gradients in bf16."""


def measure(shape: tuple[int, int, int, int], dtype: str, rounds: int) -> dict[str, tuple[float, float]]:
    """Median milliseconds of processor time of the forward and of the backward pass of each way, in turns.

    Raises:
        ValueError: the ways have other gradients.
    """
    keep_freed_memory()  # as a training does
    torch.manual_seed(0)
    inputs = [torch.randn(shape, dtype=getattr(torch, dtype)).requires_grad_() for _ in range(3)]
    wanted = torch.randn(shape[0], shape[2], shape[1], shape[3], dtype=getattr(torch, dtype))
    kernel, module = ALL_ATTENTION_FUNCTIONS["sdpa"], torch.nn.Module()

    def attend(way: str) -> Tensor:
        if way == "plain products":
            return plain_attention(*inputs, None)
        result: Tensor = kernel(module, *inputs, None, is_causal=False)[0]
        return result

    ways = ("torch's kernel", "plain products")
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in ways}
    first, second = (torch.autograd.grad(attend(way), inputs, wanted) for way in ways)
    for one, other in zip(first, second, strict=True):
        if (one - other).norm() > MOST_APART * other.norm():
            raise ValueError(f"expected the same gradient by both ways, found others at {shape} in {dtype}")
    for _, way in itertools.product(range(rounds), ways):
        begin = time.process_time()
        output = attend(way)
        middle = time.process_time()
        torch.autograd.grad(output, inputs, wanted)
        times[way].append((middle - begin, time.process_time() - middle))
    return {
        way: (1000 * quartiles([each[0] for each in of_way])[1], 1000 * quartiles([each[1] for each in of_way])[1])
        for way, of_way in times.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=9)
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for shape, dtype in itertools.product(SHAPES, ("float32", "bfloat16")):
        timings = common.in_fresh_process(options.threads, measure, shape, dtype, options.rounds)
        rows += [
            {"shape": list(shape), "dtype": dtype, "way": way, "forward_ms": round(forward, 3),
             "backward_ms": round(backward, 3), "threads": options.threads}
            for way, (forward, backward) in timings.items()
        ]  # fmt: skip
    cells = [
        (
            " x ".join(map(str, row["shape"])), row["dtype"], row["way"], f"{row['forward_ms']:.1f}",
            f"{row['backward_ms']:.1f}",
        )
        for row in rows
    ]  # fmt: skip
    print(table(("inputs x heads x tokens x width", "dtype", "way", "forward, ms", "backward, ms"), cells))
    common.append(common.RESULTS / "attention_gradient.jsonl", rows)


if __name__ == "__main__":
    main()
