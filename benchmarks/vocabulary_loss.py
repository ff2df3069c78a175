"""KL and masked-LM loss over the vocabulary, with gradients: full logits and chunks, with fresh and reused memory.

The reasons for docs/decisions/0011. Random numbers in the sizes of real steps; both results are compared first.
"""

import argparse
import itertools
import time
from collections.abc import Callable
from typing import Any

import common
import torch
import torch.nn.functional as F
from torch import Tensor

from tinydistilbert.benchmark.turns import quartiles, table
from tinydistilbert.losses import terms, vocabulary
from tinydistilbert.losses.vocabulary import TeacherHead
from tinydistilbert.training.allocator import keep_freed_memory

VOCABULARY, TEMPERATURE, SCALES = 30_522, 2.0, {"kl": 5.0, "mlm": 2.0}
SIZES = {"offline, masked": (307, 384), "offline, every token": (2048, 384), "BERT-base, masked": (154, 768)}
"""Positions (of 16, 16 and 8 blocks of 128) and width."""
CHUNKS = ((128, 16), (256, 16), (512, 16), (512, 512))
"""Positions in a chunk, and positions that are worked on at a time; the third is the default on CPUs."""
MASKED_SHARE = 0.15


def measure(positions: int, width: int, keep: bool, rounds: int) -> dict[str, float]:
    """Median seconds of each way, in turns; each is value and gradient."""
    if keep and not keep_freed_memory():
        return {}
    torch.manual_seed(0)
    inputs, weight, bias = (
        torch.randn(*shape) * 0.3 for shape in ((positions, width), (VOCABULARY, width), (VOCABULARY,))
    )
    teacher_head = TeacherHead(
        torch.randn(positions, width), torch.randn(VOCABULARY, width) * 0.3, torch.zeros(VOCABULARY)
    )
    labels = torch.randint(VOCABULARY, (positions if positions < 1000 else round(MASKED_SHARE * positions),))
    student = [tensor.requires_grad_() for tensor in (inputs, weight, bias)]

    def plain() -> Tensor:
        logits = F.linear(*student)
        with torch.no_grad():
            teacher_logits = F.linear(teacher_head.inputs, teacher_head.weight, teacher_head.bias)
        kl = terms.kl(logits, teacher_logits, TEMPERATURE)
        return SCALES["kl"] * kl + SCALES["mlm"] * terms.mlm(logits[: len(labels)], labels)

    def chunked(chunk: int, rows: int) -> Tensor:
        vocabulary.CHUNK, vocabulary.ROWS = chunk, rows
        return vocabulary.vocabulary_loss(*student, teacher_head, labels, temperature=TEMPERATURE, term_scales=SCALES)[
            0
        ]

    ways: dict[str, Callable[[], Tensor]] = {"full logits": plain}
    ways |= {f"chunks of {c}, {r} at a time": (lambda c=c, r=r: chunked(c, r)) for c, r in CHUNKS}
    expected = torch.autograd.grad(plain(), student)
    for name, way in ways.items():
        for gradient, other in zip(torch.autograd.grad(way(), student), expected, strict=True):
            assert (gradient - other).norm() < 1e-5 * other.norm(), name
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _, (name, way) in itertools.product(range(rounds), ways.items()):
        begin = time.perf_counter()
        torch.autograd.grad(way(), student)
        times[name].append(time.perf_counter() - begin)
    return {name: quartiles(values)[1] for name, values in times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", choices=SIZES, action="append", help="only this one (repeatable)")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for size, keep in itertools.product(options.size or SIZES, (False, True)):
        positions, width = SIZES[size]
        timings = common.in_fresh_process(options.threads, measure, positions, width, keep, options.rounds)
        rows += [
            {"size": size, "positions": positions, "width": width, "memory": "kept" if keep else "fresh", "way": way,
             "seconds": seconds, "threads": options.threads}
            for way, seconds in timings.items()
        ]  # fmt: skip
    first = {row["size"]: row["seconds"] for row in rows if row["memory"] == "fresh" and row["way"] == "full logits"}
    cells = [
        (
            row["size"],
            row["memory"],
            row["way"],
            f"{1000 * row['seconds']:.0f}",
            f"{first[row['size']] / row['seconds']:.2f}",
        )
        for row in rows
    ]
    print(table(("size", "freed memory", "way", "ms", "times as fast"), cells))
    common.append(common.RESULTS / "vocabulary_loss.jsonl", rows)


if __name__ == "__main__":
    main()
