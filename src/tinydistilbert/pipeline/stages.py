"""The stages of a run: each makes what is unfinished in its part of the run folder."""

import shutil
import time
from functools import partial
from pathlib import Path

from tinydistilbert import results, run_record
from tinydistilbert.benchmark import benchmark
from tinydistilbert.compress import stage as compression
from tinydistilbert.compress.builder import VariantBuilder
from tinydistilbert.distillation.adapt import adapt
from tinydistilbert.distillation.distill import distill
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.baselines import evaluate_baseline
from tinydistilbert.evaluation.evaluate import evaluate
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.folders import are_compared, make_folder, scores_hash, write_results
from tinydistilbert.pipeline.inputs import CORPUS, PAIRS, VOCABULARY, WHOLE
from tinydistilbert.pipeline.jobs import BaselineJob, Job
from tinydistilbert.pipeline.task_models import task_teachers
from tinydistilbert.progress import duration
from tinydistilbert.report.card import write_card
from tinydistilbert.report.compare import measured_differences
from tinydistilbert.report.page import write_report
from tinydistilbert.report.task_card import write_task_cards
from tinydistilbert.run_folder import MEASUREMENTS, training_facts
from tinydistilbert.storage import atomic
from tinydistilbert.storage.made_from import MadeFrom
from tinydistilbert.tasks.recipe_splits import length_for, scored_split


def prepare(run: RunContext) -> None:
    """Text → token blocks in the cache."""
    blocks = run.sources.blocks
    run_record.keep_fingerprint(run.folder, CORPUS, blocks.fingerprint)
    train, validation, size = len(blocks.train), len(blocks.validation), run.recipe.corpus.block_size
    run.log(f"prepare: {train:,} + {validation:,} blocks of {size} tokens in {blocks.folder}")


def _pretraining_setup(run: RunContext) -> PretrainingSetup:
    return PretrainingSetup.of(run.recipe, run.sources.blocks, run.compute)


def adapt_teacher(run: RunContext) -> None:
    """Put the teacher into the run folder, adapted to the text if the recipe says so."""

    def make(output: Path) -> None:
        setup, origin = _pretraining_setup(run), results.Origin.of(run.recipe)
        adapt(run.recipe.adapt, run.sources.original_teacher, setup, output, origin=origin, log=run.log)

    sources = run.inputs.of_stage("adapt", models=(run.recipe.teacher.model,), more=_token_blocks(run))
    make_folder(run, run.folder.teacher, "adapt", make, sources, together=True)


def _token_blocks(run: RunContext) -> dict[str, str]:
    """The fingerprint of the token blocks, which depends on the text, the tokenizer and how it is cut."""
    return {"token blocks": run.sources.blocks.folder.name}


def distill_student(run: RunContext) -> None:
    """Make the student, and the control if a table needs it."""

    def make(output: Path, *, control: bool) -> None:
        recipe = run.recipe
        distill(
            recipe.distill, recipe.objective, recipe.student, run.teacher, _pretraining_setup(run), output,
            origin=results.Origin.of(recipe), control=control, log=run.log,
        )  # fmt: skip

    sources = run.inputs.of_stage("distill", models=(run.folder.teacher,), more=_token_blocks(run))
    if "control" in run.recipe.finetune.models:
        make_folder(run, run.folder.control, "distill (control)", partial(make, control=True), sources, together=True)
    if run.makes_student():
        make_folder(run, run.folder.student, "distill", partial(make, control=False), sources, together=True)


def evaluate_tasks(run: RunContext) -> None:
    """Score every task model and the cheap baselines, and compare the rows."""
    was_finished = all(atomic.is_finished(job.scores(run.folder)) for job in run.jobs)
    for job in run.jobs:
        if job not in run.lost:
            evaluate_model(run, job)
    if not run.ranks.is_main:
        return
    for baseline in run.baselines:
        title = f"evaluate {baseline.row} on {run.tasks[baseline.task].title}"
        try:
            sources, make = _baseline_sources(run, baseline), partial(_evaluate_baseline, run, baseline)
            make_folder(run, baseline.scores(run.folder), title, make, sources)
        except UserError as error:
            if not was_finished or atomic.is_finished(baseline.scores(run.folder)):
                raise
            run.log(f"{title}: not computed: {error}")  # a run of an earlier version, whose data may be gone
    _compare_rows(run)


def evaluate_model(run: RunContext, job: Job) -> None:
    """Score one task model."""
    task = run.tasks[job.task]
    title = f"evaluate {job.row} on {task.title}, seed {job.seed}"
    data = tuple(f"{task.name} {split}" for split in run.inputs.read_splits(task))
    sources = run.inputs.of_stage("evaluate", data=data, models=(job.model(run.folder),), task=task.name)
    make_folder(run, job.scores(run.folder), title, partial(_evaluate, run, job), sources, together=True)


def _baseline_encoder(run: RunContext) -> Path:
    return Path(run.recipe.finetune.model or run.folder.teacher)


def _baseline_sources(run: RunContext, job: BaselineJob) -> MadeFrom:
    """What a cheap baseline is made from."""
    task = run.tasks[job.task]
    data = tuple(f"{task.name} {split}" for split in (task.train, *run.inputs.read_splits(task)))
    return run.inputs.of_stage("evaluate", data=data, models=(_baseline_encoder(run),), task=task.name)


def _evaluate_baseline(run: RunContext, job: BaselineJob, output: Path) -> None:
    task = run.tasks[job.task]
    evaluate_baseline(
        job.row, task, encoder=_baseline_encoder(run), recipe=run.recipe, output=output,
        shared=run.inputs.shared_texts(task),
    )  # fmt: skip


def _evaluate(run: RunContext, job: Job, output: Path) -> None:
    model = job.model(run.folder)
    evaluate(
        model, run.tasks[job.task], row=job.row, seed=job.seed, recipe=run.recipe, output=output, device=run.device,
        training={} if job.is_given else training_facts(model), max_length=_max_length(run, job),
        shared=run.inputs.shared_texts(run.tasks[job.task]) if run.ranks.is_main else {}, ranks=run.ranks,
        output_labels=run.recipe.finetune.distillation.teacher_labels if job.is_given else (),
    )  # fmt: skip


def _max_length(run: RunContext, job: Job) -> int:
    """Tokens that a task model reads of an input."""
    finetune, task = run.recipe.finetune, run.tasks[job.task]
    return length_for(finetune, task, job.encoder) if job.is_given else finetune.max_length(task.name, task.max_length)


def _compare_rows(run: RunContext) -> None:
    """Compare the rows, again whenever their scores have changed."""
    if are_compared(run):
        return
    started = time.monotonic()
    measured = measured_differences(run.folder.path, results.Origin.of(run.recipe))
    shutil.rmtree(run.folder.comparisons, ignore_errors=True)
    with atomic.unfinished(run.folder.comparisons, scores=scores_hash(run)) as folder:
        results.write(folder / MEASUREMENTS, measured)
    run.log(f"compare the rows: {duration(time.monotonic() - started)}")
    write_results(run)


def compress_models(run: RunContext) -> None:
    """Make smaller and faster variants of task models, and measure each."""
    for name in run.recipe.compress.tasks:
        if name not in run.compressed_tasks:
            run.log(f"{_compress_title(run, name)}: left out, as a model of the task failed")
            continue
        folder, started = run.folder.compressed(name), time.monotonic()
        was_finished = atomic.is_finished(folder.summary)
        builder = VariantBuilder(
            run.recipe, run.tasks[name], compressed_model(run, name), recovery_teachers(run, name),
            run.recipe.compress.row, folder, run.device, run.log, lambda: run.compute_alone,
            _compression_sources(run, name),
        )  # fmt: skip
        compression.compress_task_model(builder)
        spent = "finished before, skipped" if was_finished else duration(time.monotonic() - started)
        run.log(f"{_compress_title(run, name)}: {spent}; the best is {folder.best}")
        write_results(run)


def _compression_sources(run: RunContext, name: str) -> MadeFrom:
    """What every folder of the compression of a task's model is made from."""
    task, recipe = run.tasks[name], run.recipe
    data = [f"{name} {split}" for split in (WHOLE, scored_split(recipe.finetune, task))]
    if recipe.compress.vocabulary not in ("", "train"):
        data.append(VOCABULARY)
    models = (compressed_model(run, name), *recovery_teachers(run, name))
    return run.inputs.of_stage("compress", data=tuple(data), models=models, task=name)


def _compress_title(run: RunContext, task: str) -> str:
    return f"compress {run.recipe.compress.row} on {run.tasks[task].title}"


def missed_targets(run: RunContext) -> tuple[str, ...]:
    """Return the compressions that did not reach a target, each with how close it came."""
    folders = {name: run.folder.compressed(name) for name in run.compressed_tasks}
    missed = {name: compression.missed_targets(folder) for name, folder in folders.items()}
    return tuple(
        f"{_compress_title(run, name)} reached {what}; the best model is in {folders[name].best}"
        for name, what in missed.items()
        if what
    )


def compressed_model(run: RunContext, task: str) -> Path:
    """Folder of the task model that is compressed."""
    given = run.recipe.compress.model
    return Path(given) if given else run.compressed_job(task).model(run.folder)


def recovery_teachers(run: RunContext, task: str) -> tuple[Path, ...]:
    """Return the teachers of recovery fine-tuning; empty = the model itself."""
    settings = run.recipe.compress
    if settings.teachers or settings.model:
        return tuple(map(Path, settings.teachers))
    return task_teachers(run, task) if settings.row != "teacher" else ()


def measure_speed(run: RunContext) -> None:
    """Measure size and latency."""
    in_folder = {"teacher": run.folder.teacher, "student": run.folder.student}
    models: dict[str, Path | None] = {name: in_folder.get(name) for name in run.recipe.benchmark.models}
    models |= {f"compressed ({name})": run.folder.compressed(name).best for name in run.compressed_tasks}

    def make(output: Path) -> None:
        tokenizer = run.teacher.tokenizer
        benchmark(models, run.recipe.benchmark, recipe=run.recipe, tokenizer=tokenizer, output=output)

    sources = run.inputs.of_stage(
        "benchmark", data=(PAIRS,) if PAIRS in run.inputs.sources else (),
        models=(run.folder.teacher, *(path for path in models.values() if path)),
    )  # fmt: skip
    make_folder(run, run.folder.benchmark, "benchmark", make, sources)


def report(run: RunContext) -> None:
    """Write tables, page and model cards, always anew because that takes only seconds."""
    write_results(run)
    if not run.recipe.finetune.model and run.makes_student():
        write_card(run.folder.path)
    write_task_cards(run.folder.path)
    write_report(run.folder.path, command=run.command)
    run.log("report: written")
