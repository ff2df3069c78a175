"""The one training loop: accumulate, clip, schedule, precision, log, validate, checkpoint, resume.

What is trained is described by `TrainingJob`. Every number of it is a pure function of the step, so a resumed training
does the same as one that was never interrupted, and no sampler or random state exists that could be lost.
"""

import gc
import hashlib
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn, Protocol

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tinydistilbert import signals
from tinydistilbert.errors import Interrupted, NonFiniteLoss, OutOfMemory
from tinydistilbert.progress import Progress
from tinydistilbert.recipe import schema
from tinydistilbert.run_folder import LOG
from tinydistilbert.storage import atomic
from tinydistilbert.training import checkpoint
from tinydistilbert.training.allocator import keep_freed_memory
from tinydistilbert.training.device import chosen_precision
from tinydistilbert.training.diagnosis import write_diagnosis
from tinydistilbert.training.optimizer import learning_rate_factor, make_optimizer

Batch = dict[str, Tensor]

LOOK_EVERY = {"cpu": 1, "cuda": 10, "mps": 10}
"""Steps after which the host reads what was computed; to ask a GPU after each one would stop it each time."""


class MicroBatches(Protocol):
    """The micro-batches of each optimiser step, on the CPU: a pure function of its arguments."""

    def __call__(self, step: int, oom_splits: int = 0) -> list[Batch]:
        """Those of one step; after `oom_splits` each is of 1 / 2^oom_splits the size, and the step reads the same."""
        ...


@dataclass(frozen=True)
class TrainingJob:
    """What to train on and towards."""

    steps: int
    micro_batches: MicroBatches
    token_shares: Callable[[list[Batch]], list[dict[str, float]]]
    """For each micro-batch of a step, how much of each term's mean over the step falls to it."""
    term_weights: Callable[[int], Mapping[str, float]]
    """The weight of each term at a step; the names are the same at all."""
    loss: Callable[[nn.Module, Batch, Mapping[str, float], int], tuple[Tensor, Mapping[str, Tensor]]]
    """Of model, micro-batch, term scales (term weight x token share) and step: the scaled sum, to call backward on, and
    each term's plain mean over the micro-batch, detached."""
    tokens: Callable[[Batch], int]
    """Useful tokens (no padding) in a micro-batch."""
    validate: Callable[[int], dict[str, float]] | None = None
    """Of the number of finished steps: what is measured then."""
    validate_after: frozenset[int] = field(default_factory=frozenset)
    """Numbers of finished steps after which to validate."""
    oom_splits: int = 0
    """How often micro-batches can be halved when memory runs out."""


def token_shares(counts: list[dict[str, int]]) -> list[dict[str, float]]:
    """Token shares, in proportion to how many positions or examples each term's mean was taken over.

    With them 8 x 1 accumulated is 1 x 8 exactly, though micro-batches have different numbers of masked tokens.
    """
    totals = {name: max(sum(count[name] for count in counts), 1) for name in counts[0]}
    return [{name: count[name] / totals[name] for name in count} for count in counts]


def scaled_sum(terms: Mapping[str, Tensor], term_scales: Mapping[str, float]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What `TrainingJob.loss` returns, from plain means that can be derived."""
    exact = {name: value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in terms.items()}
    total = sum((term_scales[name] * value for name, value in exact.items()), torch.zeros(()))
    return total, {name: value.detach() for name, value in terms.items()}


def step_seed(seed: int, *numbers: int) -> int:
    """A 63-bit seed that depends on all of its arguments (for dropout: seed, step, micro-batch)."""
    digest = hashlib.blake2b(",".join(map(str, (seed, *numbers))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def train(
    model: nn.Module,
    work: TrainingJob,
    settings: schema.Optimization,
    *,
    seed: int,
    folder: Path,
    device: torch.device,
    label: str,
    checkpoint_minutes: float,
    precision: str = "auto",
) -> float:
    """Train `model` in place; returns the wall-clock seconds that it took, those before an interruption included.

    `folder` gets `log.jsonl` (a line each step and each validation; no clock in it, so that equal runs have equal logs)
    and `checkpoints/`, which `atomic.unfinished` deletes when the folder is finished. When checkpoints are there, the
    training goes on from the newest whole one.

    When memory runs out in a step, the micro-batches are halved from that step on and the step is done again: it reads
    the same examples, in smaller parts. A line in the log tells.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved.
        KeyboardInterrupt: it came when the last step was done.
        NonFiniteLoss: a loss or gradient is not finite; the step and the term are named, and `model` is as it was
            before that step, though on a GPU it is noticed up to `LOOK_EVERY` - 1 steps later. What led to it is in
            `folder/diagnosis`.
        OutOfMemory: even the smallest micro-batches do not fit.
        DiskError: the disk is full or failing; the last checkpoint is whole.
    """
    if device.type == "cpu":
        keep_freed_memory()
    model.to(device).train()
    loop = _Loop(model, work, settings, seed, folder, device, label, checkpoint_minutes, precision)
    with loop.log, signals.deferred() as loop.stop:
        loop.run()
    if loop.stop:  # since the last step was looked at: there is nothing left to save, but the command is to end
        raise KeyboardInterrupt
    model.eval()
    return loop.seconds


class _Loop:
    """One training: where it is at, and how it goes on."""

    def __init__(
        self, model: nn.Module, work: TrainingJob, settings: schema.Optimization, seed: int, folder: Path,
        device: torch.device, label: str, checkpoint_minutes: float, precision: str,
    ) -> None:  # fmt: skip
        self.model, self.work, self.settings, self.seed, self.device = model, work, settings, seed, device
        self.folder, self.label, self.checkpoint_minutes = folder, label, checkpoint_minutes
        self.name = f"{label}, seed {seed}, {work.steps} steps"
        self.stop = signals.Requests()
        self.accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=chosen_precision(device, precision))
        self.optimizer = make_optimizer(model, settings)
        log = folder / LOG
        self.state = (
            checkpoint.load(folder / atomic.CHECKPOINTS, model, self.optimizer, training=self.name, log=log)
            or checkpoint.State()
        )
        # Lines after the checkpoint's belong to steps that are done again.
        self.log = atomic.Log(log, self.state.log_bytes)
        self.progress = Progress(label, work.steps, done=self.state.step)
        self.begun = self.last_save = time.monotonic()
        self.tokens, self.oom_splits = self.state.tokens, self.state.oom_splits
        self.pending: list[_Step] = []
        self.failed = torch.zeros((), device=device)

    @property
    def seconds(self) -> float:
        """That the training has taken so far, in this process and in earlier ones."""
        return self.state.seconds + time.monotonic() - self.begun

    def run(self) -> None:
        """Every step that is left."""
        self.validate(self.state.step)
        for step in range(self.state.step, self.work.steps):
            self.update(step)
            is_due = time.monotonic() - self.last_save > self.checkpoint_minutes * 60
            is_checked = step + 1 in self.work.validate_after
            if len(self.pending) == LOOK_EVERY[self.device.type] or is_checked or is_due or self.stop:
                self.look()
            if self.stop:
                self.leave(step + 1)
            if is_due:  # before it is validated: who goes on from here validates first
                self.save(step + 1)
            self.validate(step + 1)
        self.look()
        self.log.sync()  # before anybody notes durably that the training is over

    def update(self, step: int) -> None:
        """One optimiser step."""
        sums, tokens = self.gradients(step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm or float("inf"))
        rate = self.settings.learning_rate * learning_rate_factor(
            step, self.work.steps, self.settings.warmup_ratio, from_zero=self.settings.warmup_start == "zero"
        )
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        # GradScaler's protocol with fused optimisers, an attribute that torch's types do not know: where it is 1
        # the update leaves everything as it is, so nobody has to wait for the answer. It stays 1: the steps until
        # somebody looks change nothing either.
        self.failed = torch.maximum(self.failed, (~torch.isfinite(norm)).float())
        self.optimizer.found_inf = self.failed  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens += tokens
        self.pending.append(_Step(step, sums, norm, self.work.term_weights(step), rate, self.tokens))

    def gradients(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Gradients of a step, in parts that fit into the memory; gives the terms' means and the useful tokens."""
        while True:
            try:
                return self.accumulate(step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            self.halve(step)  # out here, where the error and all that it holds on to are gone

    def accumulate(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Forward and backward passes of a step's micro-batches."""
        micro_batches, term_weights = self.work.micro_batches(step, self.oom_splits), self.work.term_weights(step)
        shares = self.work.token_shares(micro_batches)
        sums = {name: torch.zeros((), device=self.device) for name in term_weights}
        for index, (cpu_batch, share) in enumerate(zip(micro_batches, shares, strict=True)):
            torch.manual_seed(step_seed(self.seed, step, index))
            batch = {name: _moved(value, self.device) for name, value in cpu_batch.items()}
            term_scales = {name: weight * share[name] for name, weight in term_weights.items()}
            with self.accelerator.autocast():
                loss, terms = self.work.loss(self.model, batch, term_scales, step)
            self.accelerator.backward(loss)
            for name, value in terms.items():
                sums[name] += value.float() * share[name]
        return sums, sum(self.work.tokens(batch) for batch in micro_batches)

    def halve(self, step: int) -> None:
        """Smaller micro-batches from this step on.

        Raises:
            OutOfMemory: they cannot be smaller.
        """
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.look()
        if self.oom_splits == self.work.oom_splits:
            fix = "lower max_length or corpus.block_size, take a smaller model, or more memory"
            raise OutOfMemory(f"{self.label}: expected memory for step {step + 1}, found too little; {fix}")
        self.oom_splits += 1
        self.log.write({"step": step + 1, "micro_batches_halved": self.oom_splits})
        sys.stderr.write(
            f"{self.label}: out of memory in step {step + 1}; from here on in micro-batches of "
            f"1/{2**self.oom_splits} of their size, with as many examples in a step as before\n"
        )

    def look(self) -> None:
        """Read the numbers of the steps that are not yet looked at, and log them.

        Raises:
            NonFiniteLoss: a gradient was not finite; then neither that step nor one after it has changed anything.
        """
        for item in self.pending:
            if not torch.isfinite(item.norm):
                self.diagnose(item)
            self.log.write(item.line())
            if self.progress.wants(item.step + 1):
                self.progress.show(item.step + 1, item.tokens - self.state.tokens, item.values())
        self.pending.clear()

    def diagnose(self, item: "_Step") -> NoReturn:
        """Write down what led to numbers that are not finite, by doing the step's passes again.

        Raises:
            NonFiniteLoss: always.
        """
        bad = [name for name, value in item.sums.items() if not torch.isfinite(value)]
        what = f"the term {', '.join(bad)}" if bad else "the gradient"
        self.optimizer.zero_grad(set_to_none=True)
        self.accumulate(item.step)
        place = write_diagnosis(
            self.folder, self.model, self.work.micro_batches(item.step, self.oom_splits),
            facts={
                "step": item.step + 1, "seed": self.seed, "terms": item.values(), "weights": dict(item.term_weights),
                "learning_rate": item.learning_rate, "gradient_norm": float(item.norm),
            },
        )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        fix = f"lower the learning rate, or look at the data of this step, which are in {place}"
        where = f"step {item.step + 1}: expected finite numbers, found {what} infinite or not a number"
        raise NonFiniteLoss(f"{where}; {fix}")

    def validate(self, done: int) -> None:
        """What is measured after so many steps, if anything is; a request to stop does not wait for its end."""
        if self.work.validate is None or done not in self.work.validate_after:
            return
        self.model.eval()
        try:
            with self.stop.raised():
                measured = self.work.validate(done)
        except KeyboardInterrupt:
            self.leave(done)
        finally:
            self.model.train()
        self.log.write({"step": done, "validation": measured})
        self.progress.note(done, "validation", measured)

    def save(self, done: int) -> None:
        """A checkpoint after so many steps, all of which are in the log."""
        length, digest = self.log.sync()
        state = checkpoint.State(done, self.tokens, length, digest, self.seconds, self.oom_splits)
        checkpoint.save(self.folder / atomic.CHECKPOINTS, self.model, self.optimizer, state, training=self.name)
        self.last_save = time.monotonic()

    def leave(self, done: int) -> NoReturn:
        """A checkpoint, and out.

        Raises:
            Interrupted: always.
        """
        self.save(done)
        stopped = f"{self.label}: stopped after step {done} of {self.work.steps}"
        raise Interrupted(f"{stopped}; the same command goes on from there")


@dataclass(frozen=True)
class _Step:
    """A step whose numbers may still lie on the device."""

    step: int
    sums: dict[str, Tensor]
    norm: Tensor
    term_weights: Mapping[str, float]
    learning_rate: float
    tokens: int

    def values(self) -> dict[str, float]:
        """The mean of each term; on a GPU this waits for it."""
        return {name: float(value) for name, value in self.sums.items()}

    def line(self) -> dict[str, float]:
        """Its line in the log."""
        terms = self.values()
        loss = sum(self.term_weights[name] * value for name, value in terms.items())
        line = {
            "step": self.step + 1, "loss": loss, **terms, "learning_rate": self.learning_rate, "tokens": self.tokens,
        }  # fmt: skip
        return {name: float(f"{value:.6g}") if isinstance(value, float) else value for name, value in line.items()}


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; towards a GPU from pinned memory, so that the copy holds nothing up."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error tells that memory ran out; PyTorch's own class for it is raised by GPUs only."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or "can't allocate memory" in str(error)
