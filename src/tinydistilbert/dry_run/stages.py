"""What each stage of a run will cost."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import replace

import torch

from tinydistilbert.benchmark import ARCHITECTURES, PADDED_LENGTH, PAIRS, WARM_UP
from tinydistilbert.benchmark.protocols import PADDED
from tinydistilbert.data.masked_batches import VALIDATION_RATE
from tinydistilbert.distillation.adapt import adapt_steps, check_head
from tinydistilbert.distillation.distill import distill_steps
from tinydistilbert.distillation.teacher_cache import cache_bytes
from tinydistilbert.dry_run.basis import SECONDS_A_FOLDER, TOKENIZER_BYTES, Basis, Line, state_of
from tinydistilbert.dry_run.compression import compress_line
from tinydistilbert.dry_run.sizes import limited
from tinydistilbert.dry_run.tasks import baselines_line, evaluate_line, finetune_lines
from tinydistilbert.models.matching import match_layers
from tinydistilbert.models.size import FORWARD_AND_BACKWARD, Size
from tinydistilbert.notices import counted
from tinydistilbert.pipeline import run as pipeline
from tinydistilbert.pipeline.preflight import check_compressible, check_data_folder, check_lengths
from tinydistilbert.recipe.objective import TERMS, Needs
from tinydistilbert.recipe.schema import Optimization, Recipe
from tinydistilbert.recipe.types import highest, seconds_of
from tinydistilbert.storage import atomic

PAIR_LENGTH = 31
"""Mean tokens of an STS-B pair, the input of latency measurements."""
SECONDS_OF_REPORT = 5.0


def check_inputs(basis: Basis) -> None:
    """Check what a run refuses before its first stage, without fetching a teacher or a text from the hub.

    Raises:
        UserError: something is wrong.
    """
    run = basis.run
    if run.recipe.finetune.model or run.recipe.compress.model:
        pipeline.check_inputs(run)
        return
    check_data_folder(run.recipe.data)
    teacher, student = basis.models
    match_layers(run.recipe.objective, run.recipe.student, teacher.config, student.config)
    check_lengths(run, teacher.config)
    if run.recipe.compress.tasks and "compress" in run.stages:
        check_compressible(run.recipe.compress, (teacher if run.recipe.compress.row == "teacher" else student).config)
    _ = basis.task_sizes if run.task_names() else None, basis.text


def prepare_line(basis: Basis) -> Line:
    """The line of the token blocks."""
    text = basis.text
    if text is None:
        return Line("prepare", "to do", "data set on the hub: unknown until prepared", None)
    how = "" if text.is_prepared else "about "
    size = basis.recipe.corpus.block_size
    what = f"{how}{text.train:,} + {text.validation:,} blocks of {size}, {how}{text.tokens:,} tokens"
    return Line("prepare", "finished" if text.is_prepared else "to do", what, text.seconds, text.disk)


def adapt_line(basis: Basis) -> Line:
    """Return the line of the teacher in the run folder."""
    is_needed = basis.run.reads_masked_lm() and not atomic.is_finished(basis.run.folder.teacher)
    if basis.shared.teacher_is_local and is_needed:
        check_head(basis.recipe.adapt, basis.run.sources.original_teacher)
    steps = adapt_steps(basis.recipe.adapt, basis.recipe.corpus.block_size)
    return _pretraining(basis, "teacher", "adapt", basis.teacher, basis.recipe.adapt.optimization, steps)


def distill_lines(basis: Basis) -> Iterator[Line]:
    """Yield a line for the control and one for the student, if they are made."""
    if "control" in basis.recipe.finetune.models:
        yield _pretraining(basis, "control", "distill (control)", basis.student, None, 0)
    if basis.run.makes_student():
        yield _student_line(basis)


def _student_line(basis: Basis) -> Line:
    recipe, budget = basis.recipe, basis.recipe.distill.time_budget
    steps = distill_steps(recipe.distill, recipe.objective, basis.text.train) if basis.text else None
    line = _pretraining(basis, "student", "distill", basis.student, basis.recipe.distill.optimization, steps)
    if budget and line.state != "finished":
        line = replace(line, what=f"as many steps as fit into {budget}", seconds=seconds_of(budget))
    settings = basis.recipe.distill.cache
    if settings.kind == "none" or basis.text is None or line.state == "finished":
        return line
    size, width = basis.recipe.corpus.block_size, basis.models[0].config.hidden_size
    disk = cache_bytes(
        settings, recipe.objective, recipe.masking, blocks=basis.text.train, length=size, hidden_size=width,
        vocab_size=basis.teacher.vocabulary,
    )  # fmt: skip
    what = f"{line.what}; teacher cached in {settings.views} views, unless they were made before"
    passes = basis.machine.training_seconds(settings.views * basis.teacher.forward(basis.text.train * size, size))
    return replace(line, what=what, disk=line.disk + disk, seconds=(line.seconds or 0.0) + passes)


def _pretraining(
    basis: Basis, folder: str, title: str, model: Size, optimization: Optimization | None, steps: int | None
) -> Line:
    """Return the line of a training on token blocks with its validation; steps of None = unknown."""
    state, done = state_of(basis.run.folder.encoder(folder))
    size, recipe = basis.recipe.corpus.block_size, basis.recipe
    teacher = None if folder == "teacher" else basis.teacher
    disk = 0 if state == "finished" else 4 * model.parameters + TOKENIZER_BYTES
    if steps is None or (basis.text is None and state != "finished"):
        return Line(title, state, "unknown until the corpus is prepared", None, disk)
    validation = limited(basis.text.validation if basis.text else 0, recipe.validation.blocks) * size
    measured = [m for m in (model, teacher) if m]
    once = sum(m.forward(validation, size) + m.vocabulary_head(validation * VALIDATION_RATE) for m in measured)
    if not steps or optimization is None:
        what = "cut from the teacher, not trained" if folder == "control" else "copied, not trained"
        seconds = 0.0 if state == "finished" else basis.machine.seconds(once) + SECONDS_A_FOLDER
        return Line(title, state, what, seconds, disk)
    blocks = optimization.batch_size * optimization.gradient_accumulation_steps
    tokens = blocks * size
    what = f"{steps:,} steps × {blocks} blocks, {steps * tokens:,} tokens"
    if state == "finished":
        return Line(title, state, what)
    useful = basis.text.useful if basis.text else 1.0
    positions, teacher_positions = _positions(basis.recipe, useful, with_teacher=teacher is not None)
    operations = FORWARD_AND_BACKWARD * (model.forward(tokens, size) + model.vocabulary_head(tokens * positions))
    batch = optimization.batch_size * size
    memory = model.training_memory(batch, batch * positions)
    if teacher is not None:
        is_live = recipe.distill.cache.kind == "none"
        operations += is_live * teacher.forward(tokens, size) + teacher.vocabulary_head(tokens * teacher_positions)
        memory += 4 * teacher.parameters
    times = recipe.validation.times + (1 if teacher else 2)  # at the end, and of a teacher that is adapted also before
    seconds = basis.training_seconds(model, operations * (steps - done), steps - done) + basis.machine.seconds(
        times * once
    )
    return Line(title, state, what, seconds, disk, basis.checkpoints(model, seconds), memory)


def _positions(recipe: Recipe, useful: float, *, with_teacher: bool) -> tuple[float, float]:
    """Return the shares of the positions at which the student's and the teacher's logits are computed."""
    objective, masked = recipe.objective, useful * highest(recipe.masking.rate)
    if not with_teacher:
        return masked, 0.0
    if objective.reduction == "notebook":
        return 1.0, 1.0
    needs = {TERMS[name].needs for name in objective.terms}
    if Needs.LOGITS in needs:
        sampled = masked + (useful - masked) * objective.kl_sampled_share
        share = {"all": useful, "masked": masked, "sampled": sampled}[objective.kl_positions]
        return share, share
    return (masked if Needs.TOKENS in needs else 0.0), 0.0


def benchmark_line(basis: Basis) -> Line:
    """The line of sizes and latencies."""
    settings = basis.recipe.benchmark
    pairs = {
        protocol: limited(PAIRS, settings.padded_examples if protocol == PADDED else settings.examples)
        for protocol in settings.protocols
    }
    models, backends = len(settings.models), len(settings.backends)
    what = f"{counted(models, 'model')} by {counted(backends, 'back end')}, pairs: " + ", ".join(
        f"{count:,} {protocol}" for protocol, count in pairs.items()
    )
    state, _ = state_of(basis.run.folder.benchmark)
    if state == "finished":
        return Line("benchmark", state, what)
    warm_up = WARM_UP * settings.rounds
    operations, disk = 0.0, 0.0
    for name in settings.models:
        if name in ARCHITECTURES:
            with torch.device("meta"):
                model = Size.of(ARCHITECTURES[name]())
        else:
            model = basis.teacher if name == "teacher" else basis.student
        rows = 1 if name == "elmo" else backends  # each counted as if it were as slow as torch
        for protocol, count in pairs.items():
            length = PADDED_LENGTH if protocol == PADDED else PAIR_LENGTH
            operations += rows * model.forward((count + warm_up) * length, length)
            disk += rows * 10 * count
    seconds = basis.machine.seconds_on_one_core(operations) + SECONDS_A_FOLDER * models * backends
    return Line("benchmark", state, what, seconds, disk)


def report_line(_basis: Basis) -> Line:
    """The line of the page."""
    return Line("report", "always made again", "report.html, model card", SECONDS_OF_REPORT, 2e6)


ESTIMATES: Mapping[str, Callable[[Basis], Iterable[Line]]] = {
    "prepare": lambda basis: [prepare_line(basis)],
    "adapt": lambda basis: [adapt_line(basis)],
    "distill": distill_lines,
    "finetune": finetune_lines,
    "evaluate": lambda basis: [evaluate_line(basis), *([baselines_line(basis)] if basis.run.baselines else [])],
    "compress": lambda basis: [compress_line(basis)],
    "benchmark": lambda basis: [benchmark_line(basis)],
    "report": lambda basis: [report_line(basis)],
}
"""The function that gives the lines of the plan, for each of `pipeline.run.STAGES`."""
