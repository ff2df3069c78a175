"""The one training loop: accumulate, clip, schedule, precision, log, validate, checkpoint, resume.

What is trained is described by `Work`. Every number of it is a pure function of the step, so a resumed training does
the same as one that was never interrupted, and no sampler or random state exists that could be lost.
"""

import hashlib
import json
import os
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from tinydistilbert import checkpoint, recipe
from tinydistilbert.allocator import keep_freed_memory
from tinydistilbert.errors import Interrupted, NonFiniteLoss, UserError
from tinydistilbert.progress import Progress

Batch = dict[str, Tensor]

LOOK_EVERY = {"cpu": 1, "cuda": 10, "mps": 10}
"""Steps after which the host reads what was computed; to ask a GPU after each one would stop it each time."""


@dataclass(frozen=True)
class Work:
    """What to train on and towards."""

    steps: int
    micro_batches: Callable[[int], list[Batch]]
    """The micro-batches of one optimiser step, on the CPU: a pure function of the step."""
    shares: Callable[[list[Batch]], list[dict[str, float]]]
    """For each micro-batch of a step, how much of each term's mean over the whole step is its own."""
    weights: Callable[[int], Mapping[str, float]]
    """The weight of each term at a step; the names are the same at all."""
    loss: Callable[[nn.Module, Batch, Mapping[str, float], int], tuple[Tensor, Mapping[str, Tensor]]]
    """Of model, micro-batch, what each term counts in it (weight times share) and step: the sum to derive, and each
    term's plain mean over the micro-batch, detached."""
    tokens: Callable[[Batch], int]
    """Useful tokens (no padding) in a micro-batch."""
    validate: Callable[[int], dict[str, float]] | None = None
    """Of the number of finished steps: what is measured then."""
    validate_after: frozenset[int] = field(default_factory=frozenset)
    """Numbers of finished steps after which to validate."""


def shares_of(counts: list[dict[str, int]]) -> list[dict[str, float]]:
    """Shares in proportion to how many positions or examples each term's mean was taken over.

    With them 8 x 1 accumulated is 1 x 8 exactly, though micro-batches have different numbers of masked tokens.
    """
    totals = {name: max(sum(count[name] for count in counts), 1) for name in counts[0]}
    return [{name: count[name] / totals[name] for name in count} for count in counts]


def weighted(terms: Mapping[str, Tensor], scales: Mapping[str, float]) -> tuple[Tensor, Mapping[str, Tensor]]:
    """What `Work.loss` returns, from plain means that can be derived."""
    total = sum(
        (scales[name] * value.to(torch.promote_types(value.dtype, torch.float32)) for name, value in terms.items()),
        torch.zeros(()),
    )
    return total, {name: value.detach() for name, value in terms.items()}


def choose_device(name: str) -> torch.device:
    """The device of that name; `auto` takes CUDA, then MPS, then the CPU.

    Raises:
        UserError: the device does not exist here.
    """
    if name == "auto":
        mps = torch.backends.mps.is_available()
        return torch.device("cuda" if torch.cuda.is_available() else "mps" if mps else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        found = str(error).split("\n", 1)[0][:120]
        expected = "auto, cpu, cuda or mps, and present"
        raise UserError("--device", expected=expected, found=f"{name!r} ({found})", cure="use --device auto") from None
    return device


def chosen_precision(device: torch.device, wanted: str = "auto") -> str:
    """`bf16` or `no`; by itself bf16 on GPUs that have it, and never on a CPU.

    Raises:
        UserError: bf16 is asked for on a device that computes it several times slower than fp32.
    """
    if device.type == "cuda":
        has_bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        has_bf16 = device.type == "cpu" and torch.cpu._is_amx_tile_supported()
    if wanted == "bf16" and not has_bf16:
        expected, found = "a device that multiplies in bf16", f"{device.type} without units for it"
        raise UserError("precision", expected=expected, found=found, cure="leave it at auto, or set fp32")
    return "bf16" if wanted == "bf16" or (wanted == "auto" and has_bf16 and device.type == "cuda") else "no"


def learning_rate_factor(step: int, steps: int, warmup_ratio: float, *, from_zero: bool = False) -> float:
    """Share of the peak learning rate at `step` (from 0): linear warm-up from just above 0, then linear decay.

    `from_zero` gives transformers' `get_linear_schedule_with_warmup`: 0 at the first step, and the peak after it later.
    """
    warmup = int(steps * warmup_ratio)
    if step < warmup:
        return step / warmup if from_zero else (step + 1) / (warmup + 1)
    return (steps - step) / (steps - warmup)


def step_seed(seed: int, *numbers: int) -> int:
    """A 63-bit seed that depends on all of its arguments (for dropout: seed, step, micro-batch)."""
    digest = hashlib.blake2b(",".join(map(str, (seed, *numbers))).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def make_optimizer(model: nn.Module, settings: recipe.Optimization) -> torch.optim.AdamW:
    """Fused AdamW; weight decay on matrices only, not on biases and normalisation weights (as in BERT's own recipe)."""
    decays_all = settings.decayed == "all"
    matrices = [p for p in model.parameters() if p.requires_grad and (p.dim() >= 2 or decays_all)]
    others = [p for p in model.parameters() if p.requires_grad and not (p.dim() >= 2 or decays_all)]
    groups = [{"params": matrices, "weight_decay": settings.weight_decay}, {"params": others, "weight_decay": 0.0}]
    betas = (settings.adam_beta1, settings.adam_beta2)
    return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=betas, eps=settings.adam_epsilon, fused=True)


@contextmanager
def _stop_requests() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying in mid-step; a second one takes effect at once."""
    requests: list[int] = []

    def note(number: int, _frame: FrameType | None) -> None:
        requests.append(number)
        signal.signal(number, signal.SIG_DFL)

    try:
        before = {number: signal.signal(number, note) for number in (signal.SIGINT, signal.SIGTERM)}
    except ValueError:  # not in the main thread: whoever owns it handles signals
        yield requests
        return
    try:
        yield requests
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def train(
    model: nn.Module,
    work: Work,
    settings: recipe.Optimization,
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
    and, until the end, `checkpoints/`. When checkpoints are there, the training goes on from the newest whole one.

    Raises:
        Interrupted: SIGINT or SIGTERM came; a checkpoint was saved.
        NonFiniteLoss: a loss or gradient is not finite; the step and the term are named, and `model` is as it was
            before that step, though on a GPU it is noticed up to `LOOK_EVERY` - 1 steps later.
    """
    if device.type == "cpu":
        keep_freed_memory()
    accelerator = Accelerator(cpu=device.type == "cpu", mixed_precision=chosen_precision(device, precision))
    model.to(device).train()
    optimizer = make_optimizer(model, settings)
    state = checkpoint.load(folder / "checkpoints", model, optimizer) or checkpoint.State(0, 0, 0, 0.0)
    log = _open_log(folder / "log.jsonl", state.log_bytes)
    progress = Progress(label, work.steps, done=state.step)
    begun = last_save = time.monotonic()
    tokens = state.tokens

    def save(step: int) -> None:
        log.flush()
        os.fsync(log.fileno())
        length = os.fstat(log.fileno()).st_size
        now = checkpoint.State(step, tokens, length, state.seconds + time.monotonic() - begun)
        checkpoint.save(folder / "checkpoints", model, optimizer, now)

    pending: list[_Step] = []
    failed = torch.zeros((), device=device)

    def look() -> None:
        """Read the numbers of the steps that are not yet looked at, and log them."""
        for item in pending:
            _log_step(log, item)
            if progress.wants(item.step + 1):
                progress.show(item.step + 1, item.tokens - state.tokens, item.values())
        pending.clear()

    with _stop_requests() as stop, log:
        for step in range(state.step, work.steps):
            micro_batches, weights = work.micro_batches(step), work.weights(step)
            sums = {name: torch.zeros((), device=device) for name in weights}
            for index, (cpu_batch, share) in enumerate(zip(micro_batches, work.shares(micro_batches), strict=True)):
                torch.manual_seed(step_seed(seed, step, index))
                batch = {name: _moved(value, device) for name, value in cpu_batch.items()}
                scales = {name: weight * share[name] for name, weight in weights.items()}
                with accelerator.autocast():
                    loss, terms = work.loss(model, batch, scales, step)
                accelerator.backward(loss)
                for name, value in terms.items():
                    sums[name] += value.float() * share[name]
            norm = nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm or float("inf"))
            rate = settings.learning_rate * learning_rate_factor(
                step, work.steps, settings.warmup_ratio, from_zero=settings.warmup_start == "zero"
            )
            for group in optimizer.param_groups:
                group["lr"] = rate
            # GradScaler's protocol with fused optimisers, an attribute that torch's types do not know: where it is 1
            # the update leaves everything as it is, so nobody has to wait for the answer. It stays 1: the steps until
            # somebody looks change nothing either.
            failed = torch.maximum(failed, (~torch.isfinite(norm)).float())
            optimizer.found_inf = failed  # type: ignore[attr-defined]
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
            tokens += sum(work.tokens(batch) for batch in micro_batches)
            pending.append(_Step(step, sums, norm, weights, rate, tokens))
            is_checked = work.validate is not None and step + 1 in work.validate_after
            is_due = time.monotonic() - last_save > checkpoint_minutes * 60 and step + 1 < work.steps
            if len(pending) == LOOK_EVERY[device.type] or is_checked or is_due or stop:
                look()
            if is_checked:
                assert work.validate is not None
                model.eval()
                measured = work.validate(step + 1)
                model.train()
                log.write(json.dumps({"step": step + 1, "validation": measured}) + "\n")
                progress.note(step + 1, "validation", measured)
            if stop:
                look()
                save(step + 1)
                done = f"{label}: stopped after step {step + 1} of {work.steps}"
                raise Interrupted(f"{done}; the same command goes on from there")
            if is_due:
                save(step + 1)
                last_save = time.monotonic()
        look()
    model.eval()
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return state.seconds + time.monotonic() - begun


@dataclass(frozen=True)
class _Step:
    """A step whose numbers may still lie on the device."""

    step: int
    sums: dict[str, Tensor]
    norm: Tensor
    weights: Mapping[str, float]
    learning_rate: float
    tokens: int

    def values(self) -> dict[str, float]:
        """The mean of each term; on a GPU this waits for it."""
        return {name: float(value) for name, value in self.sums.items()}


def _moved(value: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; towards a GPU from pinned memory, so that the copy holds nothing up."""
    return value.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else value.to(device)


def _open_log(path: Path, length: int) -> Any:
    """The log, cut to the length that it had at the checkpoint: lines after it belong to steps that are done again."""
    path.touch()
    os.truncate(path, length)
    return path.open("a", buffering=1, encoding="utf-8")  # line by line, for who watches it


def _log_step(log: Any, item: _Step) -> None:
    """Write the line of a step.

    Raises:
        NonFiniteLoss: its gradient was not finite; then neither it nor a step after it has changed anything.
    """
    if not torch.isfinite(item.norm):
        raise _diagnose(item.sums, item.step)
    terms = item.values()
    loss = sum(item.weights[name] * value for name, value in terms.items())
    line = {
        "step": item.step + 1, "loss": loss, **terms, "learning_rate": item.learning_rate, "tokens": item.tokens,
    }  # fmt: skip
    log.write(json.dumps({k: float(f"{v:.6g}") if isinstance(v, float) else v for k, v in line.items()}) + "\n")


def _diagnose(sums: dict[str, Tensor], step: int) -> NonFiniteLoss:
    bad = [name for name, value in sums.items() if not torch.isfinite(value)]
    what = f"the term {', '.join(bad)}" if bad else "the gradient"
    cure = "lower the learning rate, or look at the data of this step"
    return NonFiniteLoss(f"step {step + 1}: expected finite numbers, found {what} infinite or not a number; {cure}")
