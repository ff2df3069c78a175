"""The ways of distilling that distill_throughput.py measures, in turns, each in a separate process."""

import os
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from io import StringIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Protocol

import common
import numpy as np
import reference_ways
import torch
from torch import Tensor
from transformers import BertConfig, BertForMaskedLM, PreTrainedModel

from tinydistilbert.benchmark.turns import Sample, distillation_operations
from tinydistilbert.data.corpus import load_blocks
from tinydistilbert.data.masked_batches import MaskedBatches, useful_tokens
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import PretrainingSetup, pretrain
from tinydistilbert.distillation.teacher_cache import make_cache
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.size import Size
from tinydistilbert.models.student import cut_student
from tinydistilbert.recipe import schema
from tinydistilbert.training.job import MicroBatches
from tinydistilbert.training.precision import CAPACITY, Precision, onednn

PAIRS = ("bert-base", "offline")
PUBLISHED_WAYS = ("notebook", "authors_all", "authors_masked")
LIBRARY_WAYS = {
    "ours_all": schema.Objective(kl_positions="all"),
    "ours_masked": schema.Objective(kl_positions="masked"),
    "ours_cached": schema.Objective(kl_positions="masked"),
    "ours_no_dropout": schema.Objective(kl_positions="masked"),
}
NOTEBOOK = schema.Objective(kl=1, mlm=1, cosine=1, reduction="notebook")


@dataclass(frozen=True)
class Setup:
    """All that a process needs to measure one way of a pair."""

    pair: str
    teacher: Path | None
    blocks: Path
    cached_blocks: Path
    rows: np.ndarray
    """The notebook's lines."""
    sequences: list[list[int]]
    """The authors' sequences."""
    vocabulary: reference_ways.Vocabulary
    batch_size: int
    positions: int
    """In the authors' micro-batch."""
    threads: int
    precision: Precision = "fp32"
    """Of everybody's matrix products."""


class Finished(Exception):
    """The parent has no more turns for this process."""


class Channel(Protocol):
    """The part of a connection that `Clock` uses."""

    def send(self, message: object) -> None:
        """Hand over what was measured."""

    def recv(self) -> Any:
        """Wait for an order: the seconds of the next turn, or None to end."""


class Clock:
    """Stops a training between two steps until it is this way's turn, and measures the turns."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.begun: float | None = None
        self.seconds = self.tokens = self.operations = 0.0

    def between_steps(self) -> None:
        """To be called before every step: ends a turn that was long enough, and waits for the next.

        Raises:
            Finished: there is none.
        """
        now = time.perf_counter()
        if self.begun is not None and now - self.begun < self.seconds:
            return
        done = None
        if self.begun is not None:
            done = Sample(self.tokens, self.operations, now - self.begun, common.peak_mib())
        self.channel.send(done)
        order = self.channel.recv()
        if order is None:
            raise Finished
        self.seconds, self.tokens, self.operations = order, 0.0, 0.0
        common.restart_peak()
        self.begun = time.perf_counter()

    def count(self, tokens: float, operations: float = 0.0) -> None:
        """Add what the coming step does to the turn."""
        self.tokens += tokens
        self.operations += operations


def models(pair: str, teacher: Path | None) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher of a pair: the same weights in every process."""
    torch.manual_seed(0)
    if pair == "bert-base":
        large: PreTrainedModel = BertForMaskedLM(BertConfig())
        return cut_student(large, schema.Student(architecture="distilbert"), seed=0), large.eval()
    large = common.open_teacher(teacher).model
    return cut_student(large, schema.Student(), seed=0), large.eval()


def measure_theirs(way: str, setup: Setup, clock: Clock) -> None:
    """Take micro-steps of the notebook's or the authors' way until the clock has enough."""
    student, teacher = models(setup.pair, setup.teacher)
    student.train()
    teacher.requires_grad_(False)
    if way == "notebook":
        batches: Iterator[tuple[reference_ways.Batch, float]] = reference_ways.notebook_batches(
            setup.rows, setup.vocabulary, 0
        )
        step: Callable[[reference_ways.Batch], object] = partial(
            reference_ways.notebook_micro_step, student, teacher, precision=setup.precision
        )
    else:
        only_masked = way == "authors_masked"
        batches = reference_ways.authors_batches(setup.sequences, setup.positions, setup.vocabulary, 0)
        step = partial(
            reference_ways.authors_micro_step, student, teacher, only_masked=only_masked, precision=setup.precision
        )
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-7)
    step({name: value[:2] for name, value in next(batches)[0].items()})
    optimizer.step()  # their memory holds its state; its time is left out
    while True:
        batch, tokens = next(batches)
        clock.between_steps()
        clock.count(tokens)
        step(batch)


def settings_for(way: str, batch_size: int) -> schema.Recipe:
    """The recipe of one of our ways: the defaults, but for where the KL is taken, and dropout in the extra row."""
    dropout = 0.0 if way == "ours_no_dropout" else None
    optimization = schema.Optimization(batch_size=batch_size, dropout=dropout, attention_dropout=dropout)
    kind = "hidden" if way == "ours_cached" else "none"
    return schema.Recipe(
        objective=LIBRARY_WAYS[way], checkpoint_minutes=1e6,
        distill=schema.Distill(optimization=optimization, cache=schema.TeacherCache(kind=kind, views=1)),
    )  # fmt: skip


def measure_ours(way: str, setup: Setup, clock: Clock) -> None:
    """Train with the library until the clock has enough; the first step is not measured."""
    student, teacher = models(setup.pair, setup.teacher)
    sizes = Size.of(student), Size.of(teacher)
    cached, steps = way == "ours_cached", 10**6
    settings = replace(settings_for(way, setup.batch_size), precision=setup.precision)
    blocks = load_blocks(setup.cached_blocks if cached else setup.blocks)
    optimization = settings.distill.optimization
    shared = PretrainingSetup.of(settings, blocks, torch.device("cpu"))

    def masked_batches(batch_size: int) -> MaskedBatches:
        sized = replace(optimization, batch_size=batch_size)
        return shared.batches(settings.objective, sized, steps=steps)

    with tempfile.TemporaryDirectory() as scratch:
        batches: MicroBatches = masked_batches(setup.batch_size)
        if cached:
            teacher.requires_grad_(False)
            batches = make_cache(
                settings.distill.cache, masked_batches(setup.batch_size), teacher, Path(scratch),
                shared.compute, lambda line: None,
            )  # fmt: skip

        def next_batches(step: int, oom_splits: int = 0) -> list[dict[str, Tensor]]:
            if step == 0:
                return batches(0, oom_splits) if cached else masked_batches(2)(0, oom_splits)
            clock.between_steps()
            made = batches(step, oom_splits)
            for batch in made:
                tokens = useful_tokens(batch)
                operations = distillation_operations(
                    *sizes, tokens, batch["input_ids"].shape[1], len(batch["soft"]), cached=cached
                )
                clock.count(tokens, operations)
            return made

        loss = PretrainingLoss(settings.objective, teacher, steps=steps)
        pretrain(
            student, loss, next_batches, shared, optimization, folder=Path(scratch), label=way
        )  # fmt: skip


def serve(way: str, setup: Setup, connection: Connection) -> None:
    """Measure one way for the process at the other end; what goes wrong is sent to it as a text."""
    try:
        torch.set_num_threads(setup.threads)
        if way not in LIBRARY_WAYS:
            os.environ.pop(CAPACITY, None)  # which this package sets for its own trainings
        with redirect_stderr(StringIO()), onednn(setup.precision):  # the progress line of the training
            (measure_ours if way in LIBRARY_WAYS else measure_theirs)(way, setup, Clock(connection))
    except Finished:
        pass
    except Exception:
        connection.send(traceback.format_exc())


def compare(setup: Setup, connection: Connection) -> None:
    """Send the relative differences of `differences` to the process at the other end."""
    try:
        torch.set_num_threads(setup.threads)
        connection.send(differences(*models(setup.pair, setup.teacher), setup))
    except Exception:
        connection.send(traceback.format_exc())


def differences(student: PreTrainedModel, teacher: PreTrainedModel, setup: Setup) -> dict[str, float]:
    """Relative difference of our loss from each of the others' on the same batch, without dropout."""
    student.eval()
    blocks, by_way = load_blocks(setup.blocks), {}
    for way, other in (("ours_all", "authors_all"), ("ours_masked", "authors_masked")):
        settings = settings_for(way, 2)
        shared = PretrainingSetup.of(settings, blocks, torch.device("cpu"))
        batches = shared.batches(settings.objective, settings.distill.optimization, steps=1)
        (batch,) = batches(0)
        alike = {**batch, "attention_mask": torch.ones_like(batch["input_ids"])}
        with torch.no_grad():
            terms = reference_ways.authors_terms(student, teacher, alike, only_masked=other == "authors_masked")
        by_way[other] = _difference(
            our_loss(student, teacher, settings.objective, batch), reference_ways.authors_loss(terms)
        )
    is_text = setup.rows != setup.vocabulary.pad
    longest = np.argsort(-is_text.sum(1), kind="stable")[[0, len(is_text) // 2]]  # one full line, one with padding
    lines = reference_ways.masked_batch(setup.rows[longest], setup.vocabulary, np.random.default_rng(0))
    with torch.no_grad():
        wanted = reference_ways.notebook_loss(student, teacher, lines)
    by_way["notebook"] = _difference(our_loss(student, teacher, NOTEBOOK, with_positions(lines)), wanted)
    return by_way


def with_positions(batch: reference_ways.Batch) -> reference_ways.Batch:
    """One of the others' batches with the flat positions that our objective reads; KL everywhere."""
    counted = torch.nonzero(batch["attention_mask"].flatten()).flatten()
    is_masked = batch["labels"].flatten() != reference_ways.IGNORED
    masked = torch.nonzero(is_masked).flatten()
    soft = torch.cat([masked, counted[~is_masked[counted]]])
    return {**batch, "masked": masked, "counted": counted, "soft": soft}


def our_loss(
    student: PreTrainedModel, teacher: PreTrainedModel, objective: schema.Objective, batch: reference_ways.Batch
) -> Tensor:
    """The library's weighted sum for one batch that is a whole step."""
    loss = PretrainingLoss(objective, teacher)
    total, _ = loss.loss(ProjectedStudent(student, teacher), batch, loss.term_weights(0), 0)
    return total.detach()


def _difference(loss: Tensor, wanted: Tensor) -> float:
    return abs(float(loss) - float(wanted)) / abs(float(wanted))
