"""The one training loop: accumulate, clip, schedule, precision, log, validate, checkpoint, resume.

`TrainingJob` describes what is trained. Every number of it is a pure function of the step, so a resumed training does
the same as one that was never interrupted, and there is no sampler or random state that could be lost.
"""

import contextlib
import gc
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from torch import Tensor, nn

from tinydistilbert import signals
from tinydistilbert.errors import Interrupted, NonFiniteLoss, OutOfMemory
from tinydistilbert.progress import Progress, emit, say
from tinydistilbert.recipe import schema
from tinydistilbert.run_folder import LOG
from tinydistilbert.storage import atomic
from tinydistilbert.training import checkpoint
from tinydistilbert.training.allocator import keep_freed_memory
from tinydistilbert.training.device import Compute, is_out_of_memory, say_if_busy
from tinydistilbert.training.diagnosis import write_diagnosis
from tinydistilbert.training.job import Batch, TrainingJob, step_seed
from tinydistilbert.training.memory import OPTIMIZER_BYTES, SHARE, free_bytes, splits_that_fit, why_smaller
from tinydistilbert.training.optimizer import SCALE, learning_rate_factor, make_optimizer
from tinydistilbert.training.precision import Precision, autocast, onednn
from tinydistilbert.training.step_numbers import StepNumbers

MICRO_BATCHES = "micro-batches.json"
"""File beside the checkpoints: how often the micro-batches were halved before the first step, for lack of memory."""
FLUSH_EVERY = {"cpu": 1, "cuda": 10, "mps": 10}
"""Steps after which the host reads the metrics; reading them after each step would stall a GPU each time."""


def train(
    model: nn.Module,
    job: TrainingJob,
    settings: schema.Optimization,
    compute: Compute,
    *,
    seed: int,
    folder: Path,
    label: str,
) -> float:
    """Train `model` in place, and return the wall-clock seconds that it took, including those before an interruption.

    `folder` gets `log.jsonl` (a line for each step and each validation, without times, so that equal runs have equal
    logs) and `checkpoints/`, which `atomic.unfinished` deletes when the folder is finished. If there are checkpoints,
    the training resumes from the newest valid one.

    Micro-batches start at a size that is estimated to fit (`job.memory`). If memory still runs out in a step, the
    micro-batches are halved from that step on and the step is repeated: it reads the same examples, in smaller parts. A
    line in the log records it.

    Several processes share the micro-batches of each step (`compute.ranks`); the micro-batches are halved if a step has
    fewer of them than there are processes. Only rank 0 uses `folder` then.

    Args:
        model: the model to train.
        job: the data and the objective.
        settings: AdamW and the schedule.
        compute: where, in which precision, and how often to save.
        seed: of the dropout.
        folder: of the log and the checkpoints.
        label: name of the training in progress lines and errors.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved.
        KeyboardInterrupt: the signal came after the last step.
        NonFiniteLoss: a loss or gradient is not finite; the error names step and term, and `model` is as it was before
            that step, though on a GPU it is noticed up to `FLUSH_EVERY` - 1 steps later. Data for a diagnosis are in
            `folder/diagnosis`.
        OutOfMemory: even the smallest micro-batches do not fit.
        UserError: a step has fewer micro-batches than there are processes.
        RankLost: another process has ended.
        DiskError: the disk is full or failing; the last checkpoint is whole.
    """
    ranks = compute.ranks
    if compute.device.type == "cpu":
        keep_freed_memory()
        if ranks.world == 1:
            say_if_busy()
    model.to(compute.device).train()
    optimizer, log = make_optimizer(model, settings, job.layer_decay), folder / LOG
    name = f"{label}, seed {seed}, {job.steps} steps"
    loaded = checkpoint.load(folder / atomic.CHECKPOINTS, model, optimizer, training=name, log=log)
    state = checkpoint.share(loaded, model, optimizer, ranks) or checkpoint.State()
    loop = _Loop(
        model, job, settings, compute, seed, folder, label, name, optimizer, state,
        # Lines after the checkpoint's belong to steps that are repeated.
        log=atomic.Log(log, state.log_bytes if ranks.is_main else 0),
        progress=Progress(label, job.steps, done=state.step),
        precision=compute.chosen, tokens=state.tokens, oom_splits=state.oom_splits,
        failed=torch.zeros((), device=compute.device),
    )  # fmt: skip
    with loop.log, onednn(loop.precision), signals.deferred() as loop.stop:
        loop.run()
    if loop.stop:  # requested after the last step was flushed: nothing is left to save, but the command must end
        raise KeyboardInterrupt
    model.eval()
    return loop.seconds


@dataclass
class _Loop:
    """One training: its state, and the steps that continue it."""

    model: nn.Module
    job: TrainingJob
    settings: schema.Optimization
    compute: Compute
    seed: int
    folder: Path
    label: str
    name: str
    """Name of the training; its checkpoints belong to no other training."""
    optimizer: torch.optim.Optimizer
    resumed_from: checkpoint.State
    log: atomic.Log
    progress: Progress
    precision: Precision
    tokens: int
    """Useful tokens so far."""
    oom_splits: int
    """How often the micro-batches were halved so far."""
    failed: Tensor
    """1 from the first step whose gradient was not finite; on the device."""
    pending: list[StepNumbers] = field(default_factory=list)
    """Steps whose numbers were not read yet."""
    stop: signals.Requests = field(default_factory=signals.Requests)
    started: float = field(default_factory=time.monotonic)
    last_save: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        """Seconds that the training has taken so far, in this process and in earlier ones."""
        return self.resumed_from.seconds + time.monotonic() - self.started

    def run(self) -> None:
        """Run all remaining steps."""
        self.split_for_ranks()
        self.split_for_memory()
        self.validate(self.resumed_from.step)
        for step in range(self.resumed_from.step, self.job.steps):
            self.update(step)
            is_due = time.monotonic() - self.last_save > self.compute.checkpoint_minutes * 60
            is_due, is_stopped = self.compute.ranks.agree(is_due, bool(self.stop))
            is_validated = step + 1 in self.job.validate_after
            if len(self.pending) == FLUSH_EVERY[self.compute.device.type] or is_validated or is_due or is_stopped:
                self.flush_metrics()
            if is_stopped:
                self.checkpoint_and_exit(step + 1)
            if is_due:  # before the validation: a resumed training validates first
                self.save(step + 1)
            self.validate(step + 1)
        self.flush_metrics()
        self.log.sync()  # before anything durable records that the training is over

    def split_for_ranks(self) -> None:
        """Halve the micro-batches if a step has fewer of them than there are processes."""
        splits = self.job.splits_for(self.compute.ranks.world, self.oom_splits)
        if splits > self.oom_splits:
            self.oom_splits = splits
            self.log.write({"step": self.resumed_from.step + 1, "micro_batches_halved": splits})
            parts = f"in micro-batches of 1/{2**splits} of their size"
            say(f"{self.label}: {parts}, so that each of {self.compute.ranks.world} processes has one in every step")

    def split_for_memory(self) -> None:
        """Halve the micro-batches if whole ones would not fit into `SHARE` of the memory that is free now.

        The decision is made once and kept in the folder until it is finished. So a training that is killed before its
        first checkpoint and restarted with more or less free memory has the same micro-batches, and the same dropout.
        """
        memory, ranks = self.job.memory, self.compute.ranks
        if self.resumed_from.step or memory is None:
            return
        file = self.folder / atomic.CHECKPOINTS / MICRO_BATCHES
        kept = ranks.broadcast(atomic.read_json(file)["halved"] if ranks.is_main and file.is_file() else None)
        free = free_bytes(self.compute.device)
        trained = sum(parameter.numel() for parameter in self.model.parameters() if parameter.requires_grad)

        def needed(splits: int) -> float:
            return OPTIMIZER_BYTES * trained + memory(splits)

        splits = splits_that_fit(needed, self.job.oom_splits, SHARE * free) if kept is None else kept
        before = self.oom_splits
        while self.oom_splits < self.job.oom_splits and any(ranks.agree(self.oom_splits < splits)):
            self.oom_splits += 1
        if ranks.is_main and kept is None:
            atomic.write_json(file, {"halved": self.oom_splits})
        if self.oom_splits > before:
            self.log.write({"step": 1, "micro_batches_halved": self.oom_splits})
            say(f"{self.label}: {why_smaller(self.oom_splits, needed(0), free)}")

    def update(self, step: int) -> None:
        """Do one optimiser step."""
        sums, tokens = self.gradients(step)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), self.settings.max_grad_norm or float("inf"))
        first, phase = self.job.phase_at(step, self.settings.learning_rate)
        rate = phase.learning_rate * learning_rate_factor(
            step - first, phase.steps, self.settings.warmup_ratio, from_zero=self.settings.warmup_start == "zero"
        )
        if step == first:
            self.optimizer.state.clear()  # of the phase before
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group[SCALE]
        # GradScaler's protocol with fused optimisers, an attribute missing in torch's types: if it is 1, the update
        # changes nothing, so the host need not wait for the answer. It stays 1, so the steps until the metrics are
        # flushed change nothing either.
        self.failed = torch.maximum(self.failed, (~torch.isfinite(norm)).float())
        self.optimizer.found_inf = self.failed  # type: ignore[attr-defined]
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.tokens += tokens
        self.pending.append(StepNumbers(step, sums, norm, self.job.term_weights(step), rate, self.tokens))

    def gradients(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Compute the gradients of a step in parts that fit into memory; return the terms' means and useful tokens."""
        while True:
            done = None
            try:
                done = self.accumulate(step)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                if self.job.keep_pace:  # the other processes cannot finish this step without this one
                    fix = "start more processes, or lower batch_size and raise gradient_accumulation_steps"
                    raise OutOfMemory(f"{self.label}: out of memory at step {step + 1}; {fix}") from error
            # Outside the `except`, where the error and the tensors that it references are freed.
            if self.all_reduce({} if done is None else done[0], is_out_of_memory=done is None):
                assert done is not None, "in that process memory has not run out"
                return done
            self.halve(step)

    def all_reduce(self, sums: dict[str, Tensor], *, is_out_of_memory: bool) -> bool:
        """Sum a step's gradients and means over the processes; return False if memory ran out in one of them."""
        ranks = self.compute.ranks
        if ranks.world == 1:
            return not is_out_of_memory
        trained = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        failed, *has_gradient = ranks.agree(is_out_of_memory, *(p.grad is not None for p in trained))
        if failed:
            return False
        used = [parameter for parameter, has in zip(trained, has_gradient, strict=True) if has]
        for parameter in used:
            if parameter.grad is None:  # no micro-batch of this process uses it, or it has no micro-batch
                parameter.grad = torch.zeros_like(parameter)
        ranks.sum_([*(parameter.grad for parameter in used if parameter.grad is not None), *sums.values()])
        return True

    def accumulate(self, step: int) -> tuple[dict[str, Tensor], int]:
        """Run the forward and backward passes of this process's micro-batches of a step."""
        ranks = self.compute.ranks
        micro_batches, term_weights = self.job.micro_batches(step, self.oom_splits), self.job.term_weights(step)
        shares = self.job.token_shares(micro_batches)
        sums = {name: torch.zeros((), device=self.compute.device) for name in term_weights}
        with autocast(self.compute.device, "fp32"):  # the outermost autocast caches converted weights for the step
            numbered = [*enumerate(zip(micro_batches, shares, strict=True))]
            for index, (cpu_batch, share) in numbered[ranks.rank :: ranks.world]:
                _seed(step_seed(self.seed, step, index), self.compute.device)
                batch = _all_moved(cpu_batch, self.compute.device)
                term_scales = {name: weight * share[name] for name, weight in term_weights.items()}
                with autocast(self.compute.device, self.precision):
                    loss, terms = self.job.loss(self.model, batch, term_scales, step)
                loss.backward()  # type: ignore[no-untyped-call]
                for name, value in terms.items():
                    sums[name] += value.float() * share[name]
            if self.job.keep_pace and ranks.rank >= (len(numbered) % ranks.world or ranks.world):
                with autocast(self.compute.device, self.precision):
                    self.job.keep_pace(_all_moved(micro_batches[-1], self.compute.device), step)
        return sums, sum(self.job.tokens(batch) for batch in micro_batches)

    def halve(self, step: int) -> None:
        """Halve the micro-batches from this step on.

        Raises:
            OutOfMemory: they cannot be smaller.
        """
        self.optimizer.zero_grad(set_to_none=True)
        gc.collect()
        if self.compute.device.type == "cuda":
            torch.cuda.empty_cache()
        self.flush_metrics()
        if self.oom_splits == self.job.oom_splits:
            fix = "lower max_length or corpus.block_size, or use a smaller model"
            size = max(len(next(iter(batch.values()))) for batch in self.job.micro_batches(step, self.oom_splits))
            raise OutOfMemory(f"{self.label}: out of memory at step {step + 1} with micro-batches of {size}; {fix}")
        self.oom_splits += 1
        self.log.write({"step": step + 1, "micro_batches_halved": self.oom_splits})
        sys.stderr.write(
            f"{self.label}: out of memory in step {step + 1}; from now on in micro-batches of "
            f"1/{2**self.oom_splits} of their size, with as many examples in a step as before\n"
        )

    def flush_metrics(self) -> None:
        """Read the numbers of the pending steps, and log them.

        Raises:
            NonFiniteLoss: a gradient was not finite; neither that step nor later ones have changed anything.
        """
        for item in self.pending:
            if not torch.isfinite(item.norm):
                self.diagnose(item)
            line = item.line()
            self.log.write(line)
            emit(training=self.label, seed=self.seed, steps=self.job.steps, **line)
            if self.progress.wants(item.step + 1):
                self.progress.show(item.step + 1, item.tokens - self.resumed_from.tokens, item.values())
        self.pending.clear()

    def diagnose(self, item: StepNumbers) -> NoReturn:
        """Write the data that led to numbers that are not finite, by repeating the step's passes.

        Raises:
            NonFiniteLoss: always.
        """
        bad = [name for name, value in item.sums.items() if not torch.isfinite(value)]
        what = f"the {'term' if len(bad) == 1 else 'terms'} {', '.join(bad)}" if bad else "the gradient"
        self.optimizer.zero_grad(set_to_none=True)
        self.gradients(item.step)
        diagnosis = write_diagnosis(
            self.folder, self.model, self.job.micro_batches(item.step, self.oom_splits),
            facts={
                "step": item.step + 1, "seed": self.seed, "terms": item.values(), "weights": dict(item.term_weights),
                "learning_rate": item.learning_rate, "gradient_norm": float(item.norm),
            },
        )  # fmt: skip
        self.optimizer.zero_grad(set_to_none=True)
        fix = f"lower the learning rate, or check the data of this step, which are in {diagnosis}"
        raise NonFiniteLoss(f"step {item.step + 1}: {what} became infinite or not a number; {fix}")

    def validate(self, done: int) -> None:
        """Validate after so many steps, if due; a request to stop interrupts it."""
        if self.job.validate is None or done not in self.job.validate_after:
            return
        self.model.eval()
        try:
            # With several processes none may leave alone: they agree on the request after the next step.
            with self.stop.raised() if self.compute.ranks.world == 1 else contextlib.nullcontext():
                measured = self.job.validate(done)
        except KeyboardInterrupt:
            self.checkpoint_and_exit(done)
        finally:
            self.model.train()
        self.log.write({"step": done, "validation": measured})
        validation = {f"validation/{name}": value for name, value in measured.items()}
        emit(training=self.label, seed=self.seed, steps=self.job.steps, step=done, **validation)
        self.progress.note(done, "validation", measured)

    def save(self, done: int) -> None:
        """Save a checkpoint after so many steps, all of which are in the log; rank 0 writes it."""
        if not self.compute.ranks.is_main:
            self.last_save = time.monotonic()
            return
        length, digest = self.log.sync()
        state = checkpoint.State(done, self.tokens, length, digest, self.seconds, self.oom_splits)
        checkpoint.save(self.folder / atomic.CHECKPOINTS, self.model, self.optimizer, state, training=self.name)
        self.last_save = time.monotonic()

    def checkpoint_and_exit(self, done: int) -> NoReturn:
        """Save a checkpoint and stop.

        Raises:
            Interrupted: always.
        """
        self.save(done)
        stopped = f"{self.label}: stopped after step {done} of {self.job.steps}"
        raise Interrupted(f"{stopped}; the same command goes on from there")


def _seed(seed: int, device: torch.device) -> None:
    """Seed the random numbers of the device, and always those of the CPU.

    Without a GPU, `torch.manual_seed` stores a stack trace for each kind of GPU, which takes a third of a millisecond.
    """
    if device.type == "cpu":
        torch.default_generator.manual_seed(seed)
    else:
        torch.manual_seed(seed)


def _all_moved(batch: Batch, device: torch.device) -> Batch:
    return {name: _moved(value, device) for name, value in batch.items()}


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on the device; copies to a GPU are from pinned memory, so that they do not block."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)
