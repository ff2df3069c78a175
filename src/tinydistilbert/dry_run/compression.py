"""The estimate of the stage compress."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinydistilbert.dry_run.basis import SECONDS_A_FOLDER, TOKENIZER_BYTES, Basis, Line, encoder_size, joint_state
from tinydistilbert.dry_run.sizes import TaskSize
from tinydistilbert.finetuning.schedule import finetune_steps
from tinydistilbert.models.size import FORWARD_AND_BACKWARD, Size
from tinydistilbert.recipe.schema import Compress
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import hold_out


def compress_line(basis: Basis) -> Line:
    """Return the line of the stage: all variants of every task's model, though fewer may reach the target.

    How often int8 is repeated with another layer left in float is not known beforehand, and not counted.
    """
    settings = basis.recipe.compress
    what = f"{len(settings.tasks)} model{'s' * (len(settings.tasks) != 1)}, up to {_variants(settings)} variants each"
    folders = {name: basis.run.folder.compressed(name).summary for name in settings.tasks}
    left = [name for name, folder in folders.items() if not atomic.is_finished(folder)]
    if not left:
        state = "finished" if folders else "nothing to do"
        return Line("compress", state, what if folders else "no tasks")
    costs_left = [_cost(basis, name) for name in left]
    state = joint_state(["to do" if name in left else "finished" for name in folders])
    seconds = [cost.seconds for cost in costs_left if cost.seconds is not None]
    steps = sorted({cost.steps for cost in costs_left if cost.steps})
    if steps:
        shown = f"{steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else f"{steps[0]:,}"
        what += f"; {len(_shares(settings, 1))} of them pruned, then recovery fine-tuning of {shown} steps"
    return Line(
        "compress", state, what, sum(seconds) if len(seconds) == len(costs_left) else None,
        sum(cost.disk for cost in costs_left), notes=tuple(note for cost in costs_left for note in cost.notes),
    )  # fmt: skip


SECONDS_A_LAYER = 1.0
"""Seconds per layer of an exported model; 2.4 to 3.3 s for 3 layers of 384 (`benchmarks/shrink_kinds.py`, times of its
files)."""
SECONDS_A_PRUNING = 1.5
"""Seconds per pruning before the first step of recovery fine-tuning, without importance; from the same files."""


@dataclass(frozen=True)
class _Cost:
    """The cost of all variants of one model."""

    disk: float
    seconds: float | None = None
    """None = unknown."""
    steps: int = 0
    """Steps of each recovery fine-tuning."""
    notes: tuple[str, ...] = ()
    """Notes, as in `Line`."""


def _variants(settings: Compress) -> int:
    """Count the model, exported, in int8, and each pruned one; all but the first also for OpenVINO, if asked for."""
    pruned = len(settings.keep) + len(settings.layers)
    return 2 + (settings.quantization != "none") + pruned + _of_openvino(settings) * (1 + pruned)


def _of_openvino(settings: Compress) -> int:
    """Count the OpenVINO variants of each model: bf16 and int8."""
    return 1 + (settings.quantization != "none") if "openvino" in settings.engines else 0


def _shares(settings: Compress, layers: int) -> list[float]:
    """Return what each pruned variant keeps of the weights in the model's encoder layers."""
    shares = sorted(settings.keep, reverse=True)
    last = shares[-1] if shares else 1.0
    return shares + [last * count / layers for count in sorted(settings.layers, reverse=True)]


def _cost(basis: Basis, name: str) -> _Cost:
    settings = basis.recipe.compress
    model, size = _size(basis, name), basis.task_size(name)
    shares, int8 = _shares(settings, model.layers), settings.quantization != "none"
    # Each pruned variant before and after recovery fine-tuning, exported, and in int8.
    openvino = 1 / 2 + int8 / 4 if _of_openvino(settings) else 0
    copies = 1 + int8 / 4 + openvino + sum(shares) * (3 + int8 / 4 + openvino)
    disk = 4 * model.parameters * copies + TOKENIZER_BYTES * (_variants(settings) + 2 * len(shares))
    if size is None:
        return _Cost(disk)
    recovery = replace(basis.recipe.finetune.settings(name), epochs=settings.recovery_epochs, min_steps=0)
    a_tenth = round(hold_out.SHARE * size.features)
    held_out = min(settings.held_out or a_tenth, a_tenth)
    steps = finetune_steps(recovery, max(size.features - held_out, 1) + size.unlabelled) if shares else 0
    examples = steps * recovery.optimization.batch_size * recovery.optimization.gradient_accumulation_steps
    is_taught = bool(recovery.distillation.hidden)  # the teacher runs in every step
    seconds = _seconds(
        basis, model, size, shares, steps=steps, examples=examples, held_out=held_out, with_teacher=is_taught
    )
    return _Cost(disk, seconds, steps, tuple(f"{name}, {note}" for note in size.notes))


def _size(basis: Basis, name: str) -> Size:
    """The size of the model that is compressed."""
    if given := basis.recipe.compress.model:
        return encoder_size(given)
    return basis.task_model(basis.run.compressed_job(name))


def _seconds(
    basis: Basis, model: Size, size: TaskSize, shares: Sequence[float], *, steps: int, examples: int, held_out: int,
    with_teacher: bool,
) -> float:  # fmt: skip
    """Return the time for importance, recovery in that many steps, soft targets, scoring, exports and timing."""
    settings, machine = basis.recipe.compress, basis.machine
    forward = model.forward(size.length, size.length)
    learned = examples + min(settings.importance_examples, size.features)
    times = sum(machine.pruned(share) for share in sorted(settings.keep))
    last = min(settings.keep, default=1.0)
    times += sum(machine.pruned(last) * count / model.layers for count in settings.layers)
    operations = FORWARD_AND_BACKWARD * forward * learned * times
    teacher = _teacher(basis, model)
    of_teacher = teacher.forward(size.length, size.length)
    if shares:
        operations += of_teacher * size.features * max(1, len(settings.teachers))
        operations += with_teacher * of_teacher * examples * len(shares)
    forms = 1 + _of_openvino(settings)
    variants = _variants(settings) - forms * (len(shares) - sum(shares))
    scored = variants * (forward * held_out + model.forward(size.evaluation_tokens, size.length))
    return (
        basis.training_seconds(model, operations, len(shares) * steps, words=size.words)
        + machine.seconds(scored)
        + machine.seconds_on_one_core((variants * forward + of_teacher) * settings.timed_examples)
        + SECONDS_A_LAYER * model.layers * (1 + len(shares))
        + SECONDS_A_PRUNING * len(shares)
        + SECONDS_A_FOLDER * (_variants(settings) + 2 * len(shares))
    )


def _teacher(basis: Basis, model: Size) -> Size:
    """Return the size of the teacher of recovery fine-tuning, as `pipeline.stages.recovery_teachers` chooses it."""
    settings = basis.recipe.compress
    if settings.teachers:
        return encoder_size(settings.teachers[0])
    return model if settings.model or settings.row == "teacher" else basis.task_teacher
