"""The estimate of the stage compress."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from tinydistilbert.dry_run import machine as costs
from tinydistilbert.dry_run.basis import SECONDS_A_FOLDER, TOKENIZER_BYTES, Basis, Line, encoder_size, together
from tinydistilbert.dry_run.sizes import TaskSize, task_size
from tinydistilbert.finetuning.trainer import finetune_steps
from tinydistilbert.models.loading import load_tokenizer
from tinydistilbert.models.size import Size
from tinydistilbert.recipe.schema import Compress
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import HELD_OUT_SHARE


def compression(basis: Basis) -> Line:
    """The line of the stage: the whole ladder of every task, though a target may be reached before its end.

    How often int8 is tried with another layer left in float is not known beforehand, and not counted.
    """
    settings = basis.recipe.compress
    forms = f"{len(settings.tasks)} model{'s' * (len(settings.tasks) != 1)} in up to {_forms(settings)} forms"
    folders = {name: basis.run.folder.compressed(name).summary for name in settings.tasks}
    left = [name for name, folder in folders.items() if not atomic.is_finished(folder)]
    if not left:
        state = "finished" if folders else "nothing to do"
        return Line("compress", state, forms if folders else "no tasks")
    found = [_ladder(basis, name) for name in left]
    state = together(["to do" if name in left else "finished" for name in folders])
    seconds = [ladder.seconds for ladder in found if ladder.seconds is not None]
    steps = sorted({ladder.steps for ladder in found if ladder.steps})
    if steps:
        told = f"{steps[0]:,} to {steps[-1]:,}" if len(steps) > 1 else f"{steps[0]:,}"
        forms += f"; {len(_shares(settings, 1))} of them pruned and taught again in {told} steps"
    return Line(
        "compress", state, forms, sum(seconds) if len(seconds) == len(found) else None,
        sum(ladder.disk for ladder in found),
    )  # fmt: skip


@dataclass(frozen=True)
class _Ladder:
    """The forms of one model."""

    disk: float
    seconds: float | None = None
    """None = unknown."""
    steps: int = 0
    """In which each pruned form is taught again."""


def _forms(settings: Compress) -> int:
    """The model as it is, exported, in int8, and each pruned one."""
    return 2 + (settings.quantization != "none") + len(settings.keep) + len(settings.layers)


def _shares(settings: Compress, layers: int) -> list[float]:
    """Of the weights in the model's encoder layers, what each pruned form keeps."""
    shares = sorted(settings.keep, reverse=True)
    last = shares[-1] if shares else 1.0
    return shares + [last * count / layers for count in sorted(settings.layers, reverse=True)]


def _ladder(basis: Basis, name: str) -> _Ladder:
    settings = basis.recipe.compress
    tokenizer = load_tokenizer(settings.model) if settings.model else basis.tokenizer
    model, size = _size(basis, name), task_size(basis.recipe, name, tokenizer)
    shares, int8 = _shares(settings, model.layers), settings.quantization != "none"
    # Each pruned form before and after it is taught, exported, and in int8.
    copies = 1 + int8 / 4 + sum(shares) * (3 + int8 / 4)
    disk = 4 * model.parameters * copies + TOKENIZER_BYTES * (_forms(settings) + 2 * len(shares))
    if size is None:
        return _Ladder(disk)
    own = replace(basis.recipe.finetune.settings(name), epochs=settings.recovery_epochs, min_steps=0)
    held_out = settings.held_out or round(HELD_OUT_SHARE * size.features)
    steps = finetune_steps(own, max(size.features - held_out, 1) + size.unlabelled) if shares else 0
    examples = steps * own.optimization.batch_size * own.optimization.gradient_accumulation_steps
    return _Ladder(disk, _seconds(basis, model, size, shares, steps=steps, examples=examples, held_out=held_out), steps)


def _size(basis: Basis, name: str) -> Size:
    """The size of the model that is compressed."""
    given = basis.recipe.compress.model or basis.recipe.finetune.model
    if given:
        return encoder_size(given)
    return basis.teacher if basis.run.compressed_job(name).row == "teacher" else basis.student


def _seconds(
    basis: Basis, model: Size, size: TaskSize, shares: Sequence[float], *, steps: int, examples: int, held_out: int
) -> float:
    """Time to tell what is important, to teach in so many steps, to ask teachers, to score, and to time on one core."""
    settings, machine = basis.recipe.compress, basis.machine
    forward = model.forward(size.length, size.length)
    learned = examples + min(settings.importance_examples, size.features)
    operations = costs.FORWARD_AND_BACKWARD * forward * learned * sum(shares)
    if shares:
        operations += forward * size.features * max(1, len(settings.teachers))
    forms = _forms(settings) - len(shares) + sum(shares)
    operations += forms * (forward * held_out + model.forward(size.evaluation_tokens, size.length))
    return (
        basis.training_seconds(model, operations, len(shares) * steps)
        + machine.seconds_on_one_core(forms * forward * settings.timed_examples)
        + SECONDS_A_FOLDER * (_forms(settings) + 2 * len(shares))
    )
