"""The cost of sharing a step between several processes: the sum of their gradients, as a share of the step.

`scaling.py --ranks` measures it, on gloo over the loopback interface: each process has one thread and distils the
offline pair. Processor seconds hardly depend on other work on the machine. Wall-clock seconds do, but the sum and the
step alike, so that their ratio is comparable.
"""

import os
import socket
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import common
import psutil
import torch
from throughput_ways import models
from torch import Tensor, nn

from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.data.masked_batches import useful_tokens
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import PretrainingSetup, pretrain
from tinydistilbert.recipe import schema
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import MicroBatches
from tinydistilbert.training.precision import Precision, is_possible
from tinydistilbert.training.ranks import Ranks, join

CPU = torch.device("cpu")
SKIPPED, STEPS = 1, 4
"""Steps that are not counted, and those that are; the last one's end is the beginning of one more."""
CHARACTERS = 1_000_000
"""Of the text."""
MICRO_BATCHES = 2
"""In a step, so that two processes have one each and nothing is halved."""
REPEATS = 5
"""Of a sum by itself, of which the quickest counts: processes that wait for one another are not in it."""


def precisions() -> list[Precision]:
    """Those that a training takes here by itself."""
    known: tuple[Precision, ...] = ("fp32", "bf16")
    return [precision for precision in known if is_possible(CPU, precision)]


@dataclass(frozen=True)
class RankCost:
    """Of a step that so many processes share; seconds are means over the steps."""

    tokens: float
    """Useful ones in a step."""
    processor_seconds: float
    """Of all processes."""
    sum_processor_seconds: float
    """Of all processes, in the sum of gradients and means."""
    seconds: float
    """On the clock."""
    sum_seconds: float
    """On the clock of rank 0, in the sum; with the wait for the other processes."""
    sum_alone_seconds: float
    """On the clock, of such a sum by itself."""
    message_bytes: int
    """What is summed."""
    embedding_bytes: int
    """Of it, the word embedding's gradient, which the backward pass finishes last."""
    sent_bytes: float
    """By each process, as the loopback interface counts it."""


class _Meter:
    """Reads the clocks when the micro-batches of the first and the last counted step are asked for."""

    def __init__(self, batches: MicroBatches) -> None:
        self.batches, self.tokens, self.reads = batches, 0, dict[int, tuple[float, ...]]()
        self.in_sum = [0.0, 0.0]
        sum_ = Ranks.sum_

        def timed(ranks: Ranks, tensors: Sequence[Tensor]) -> None:
            begun = time.process_time(), time.perf_counter()
            sum_(ranks, tensors)
            self.in_sum[0] += time.process_time() - begun[0]
            self.in_sum[1] += time.perf_counter() - begun[1]

        Ranks.sum_ = timed  # type: ignore[method-assign]

    def __call__(self, step: int, oom_splits: int = 0) -> list[dict[str, Tensor]]:
        """The micro-batches of a step."""
        if step in (SKIPPED, SKIPPED + STEPS):
            self.reads[step] = (time.process_time(), *self.in_sum, time.perf_counter())
        made = self.batches(step, oom_splits)
        self.tokens += sum(map(useful_tokens, made)) if SKIPPED <= step < SKIPPED + STEPS else 0
        return made

    def means(self) -> list[float]:
        """Of a step: processor seconds, those in the sum, seconds in the sum, seconds."""
        first, last = self.reads[SKIPPED], self.reads[SKIPPED + STEPS]
        return [(after - before) / STEPS for before, after in zip(first, last, strict=True)]


def measure_ranks(
    world: int, text: Path, scratch: Path, teacher: Path | None, batch_size: int, precision: Precision
) -> RankCost:
    """A distillation by so many processes of this machine."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    shared = {"WORLD_SIZE": str(world), "LOCAL_WORLD_SIZE": str(world), "MASTER_ADDR": "127.0.0.1"}
    shared["MASTER_PORT"] = str(port)

    def rank(number: int) -> RankCost:
        launched = {**shared, "RANK": str(number), "LOCAL_RANK": str(number)}
        work: Callable[..., RankCost] = _train
        return common.in_fresh_process(1, work, launched, text, scratch, teacher, batch_size, precision)

    prepare(schema.Corpus(source=str(text)), common.open_teacher(teacher).tokenizer, scratch, None)
    with ThreadPoolExecutor(world) as pool:
        first, *_ = pool.map(rank, range(world))
    return first


def _train(
    launched: dict[str, str], text: Path, scratch: Path, teacher: Path | None, batch_size: int, precision: Precision
) -> RankCost:
    """One of the processes; all of them give the same answer."""
    os.environ.update(launched)
    ranks = join(CPU)
    student, large = models("offline", teacher)
    blocks = load_blocks(
        prepare(schema.Corpus(source=str(text)), common.open_teacher(teacher).tokenizer, scratch, None)
    )
    optimization = schema.Optimization(batch_size=batch_size, gradient_accumulation_steps=MICRO_BATCHES)
    settings = schema.Recipe(
        distill=schema.Distill(optimization=optimization), checkpoint_minutes=1e6,
        validation=schema.Validation(times=1, blocks=1),
    )  # fmt: skip
    setup = PretrainingSetup.of(settings, blocks, Compute(CPU, precision, settings.checkpoint_minutes, ranks))
    steps = SKIPPED + STEPS + 1
    meter = _Meter(setup.batches(settings.objective, optimization, steps=steps))
    loss = PretrainingLoss(settings.objective, large, steps=steps, accumulation=MICRO_BATCHES)
    with ranks.session(), TemporaryDirectory() as folder:
        pretrain(student, loss, meter, setup, optimization, folder=Path(folder), label=f"{ranks.world} processes")
        processor, in_sum, sum_seconds, seconds = meter.means()
        processor, sum_processor = ranks.total([processor, in_sum])
        alone, sent = _sum_alone(ranks, student)
    message = sum(parameter.nbytes for parameter in student.parameters())
    embedding = student.get_input_embeddings().weight
    assert isinstance(embedding, Tensor)
    return RankCost(
        meter.tokens / STEPS, processor, sum_processor, seconds, sum_seconds, alone, message, embedding.nbytes, sent,
    )  # fmt: skip


def _sum_alone(ranks: Ranks, student: nn.Module) -> tuple[float, float]:
    """Least seconds, and least bytes that each process sends, of a sum of all gradients that nobody has to wait for."""
    gradients, costs = [torch.zeros_like(parameter) for parameter in student.parameters()], list[tuple[float, float]]()
    for _ in range(REPEATS):
        ranks.total([0.0])
        before, begun = _sent(), time.perf_counter()
        ranks.sum_(gradients)
        seconds = time.perf_counter() - begun
        ranks.total([0.0])
        costs.append((seconds, (_sent() - before) / ranks.world))
    return (min(s for s, _ in costs), min(b for _, b in costs)) if ranks.world > 1 else (0.0, 0.0)


def _sent() -> int:
    name = os.environ.get("GLOO_SOCKET_IFNAME", "")
    counted: Any = psutil.net_io_counters(pernic=True).get(name)
    return int(counted.bytes_sent) if counted else 0


def cells(cost: RankCost, processes: int) -> list[str]:
    """One line of the table."""
    row = [f"{cost.tokens / cost.seconds:,.0f}", f"{cost.processor_seconds:.2f}"]
    if processes == 1:
        return [*row, *[""] * 5]
    sizes = (f"{each / 1e6:.1f}" for each in (cost.message_bytes, cost.embedding_bytes, cost.sent_bytes))
    share, clock = cost.sum_processor_seconds / cost.processor_seconds, cost.sum_alone_seconds / cost.seconds
    return [*row, f"{share:.1%}", f"{clock:.1%}", *sizes]


HEAD = (
    "tokens/s (clock)", "processor seconds a step", "share of the sum", "share on the clock", "MB summed",
    "of them word embedding", "MB sent by each",
)  # fmt: skip
