"""The stages of a run: each makes what is not finished of its part of the run folder."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from tinydistilbert import results, run_folder
from tinydistilbert.benchmark import benchmark
from tinydistilbert.compress import stage as compression
from tinydistilbert.compress.builder import VariantBuilder
from tinydistilbert.distillation.adapt import adapt
from tinydistilbert.distillation.distill import distill
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.baselines import evaluate_baseline
from tinydistilbert.evaluation.evaluate import evaluate
from tinydistilbert.finetuning.augment import augment, questions_alone
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.finetuning.soft_targets import SoftTargetSource, make_soft_targets
from tinydistilbert.models import hub
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, save_model
from tinydistilbert.models.student import cut_task_student, layer_map
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.inputs import CORPUS, PAIRS, VOCABULARY, WHOLE, unlabelled_source
from tinydistilbert.pipeline.jobs import BaselineJob, Job
from tinydistilbert.progress import duration
from tinydistilbert.recipe.names import intermediate_task
from tinydistilbert.report.card import write_card
from tinydistilbert.report.compare import measured_differences
from tinydistilbert.report.page import write_report
from tinydistilbert.run_folder import AUGMENTED_EXAMPLES, MEASUREMENTS, training_facts
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.storage.made_from import MadeFrom
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.recipe_splits import length_for, scored_split
from tinydistilbert.tasks.unlabelled import holds_examples, write_examples
from tinydistilbert.training.precision import multiplying


def make_folder(run: RunContext, path: Path, title: str, make: Callable[[Path], None], sources: MadeFrom) -> None:
    """Make one folder of the run, unless it is finished.

    Raises:
        UserError: it was made from, or begun with, something else than `sources`.
    """
    if atomic.is_finished(path):
        made_from.check(path, sources)
        atomic.tidy(path)
        run.log(f"{title}: finished before, skipped")
        return
    started = time.monotonic()
    made_from.begin(path, sources)
    make(path)
    run_folder.keep_revisions(run.folder, hub.pinned_revisions())
    run.log(f"{title}: {duration(time.monotonic() - started)}")
    write_results(run)


def write_results(run: RunContext) -> None:
    """Write `results.jsonl`: what every finished stage measured, in the order of the stages."""
    folder = run.folder
    scores = [*(job.scores(folder) for job in run.jobs), *(job.scores(folder) for job in run.baselines)]
    summaries = [folder.compressed(name).summary for name in run.recipe.compress.tasks]
    comparisons = [folder.comparisons] if _are_compared(run) else []
    folders = [folder.teacher, folder.control, folder.student, *scores, *comparisons, *summaries, folder.benchmark]
    finished = [path for path in folders if atomic.is_finished(path)]
    results.write(folder.results, [m for path in finished for m in results.read(path / MEASUREMENTS)])


def prepare(run: RunContext) -> None:
    """Text → token blocks in the cache."""
    blocks = run.sources.blocks
    run_folder.keep_fingerprint(run.folder, CORPUS, blocks.fingerprint)
    train, validation, size = len(blocks.train), len(blocks.validation), run.recipe.corpus.block_size
    run.log(f"prepare: {train:,} + {validation:,} blocks of {size} tokens in {blocks.folder}")


def _pretraining_setup(run: RunContext) -> PretrainingSetup:
    return PretrainingSetup.of(run.recipe, run.sources.blocks, run.compute)


def adapt_teacher(run: RunContext) -> None:
    """The teacher into the run folder, adapted to the text if the recipe says so."""

    def make(output: Path) -> None:
        setup, origin = _pretraining_setup(run), results.Origin.of(run.recipe)
        adapt(run.recipe.adapt, run.sources.original_teacher, setup, output, origin=origin)

    sources = run.inputs.of_stage("adapt", models=(run.recipe.teacher.model,), more=_token_blocks(run))
    make_folder(run, run.folder.teacher, "adapt", make, sources)


def _token_blocks(run: RunContext) -> dict[str, str]:
    """The fingerprint of the token blocks, which depends on the text, the tokenizer and how it is cut."""
    return {"token blocks": run.sources.blocks.folder.name}


def distill_student(run: RunContext) -> None:
    """The student, and the control if a table needs it."""

    def make(output: Path, *, control: bool) -> None:
        recipe = run.recipe
        distill(
            recipe.distill, recipe.objective, recipe.student, run.teacher, _pretraining_setup(run), output,
            origin=results.Origin.of(recipe), control=control, log=run.log,
        )  # fmt: skip

    sources = run.inputs.of_stage("distill", models=(run.folder.teacher,), more=_token_blocks(run))
    if "control" in run.recipe.finetune.models:
        make_folder(run, run.folder.control, "distill (control)", partial(make, control=True), sources)
    if run.makes_student():
        make_folder(run, run.folder.student, "distill", partial(make, control=False), sources)


def finetune_tasks(run: RunContext) -> None:
    """Every row of the tables on every task."""
    models = {job: job.model(run.folder) for job in run.jobs if not job.is_given}
    for job, model in models.items():
        make_folder(run, model, _finetune_title(run, job), partial(_finetune, run, job), _training_sources(run, job))


def _training_sources(run: RunContext, job: Job) -> MadeFrom:
    """What a task model is made from."""
    task, finetune = run.tasks[job.task], run.recipe.finetune
    chosen_by = {"heldout": HELD_OUT, "reported": task.evaluation[0]}.get(finetune.select)
    splits = (task.train, *([chosen_by] if chosen_by in run.inputs.read_splits(task) else []))
    data = [f"{task.name} {split}" for split in splits]
    encoder, *teachers = _encoder(run, job), *(task_teachers(run, job.task) if job.is_second_distillation else ())
    if teachers and (source := unlabelled_source(run.recipe, job.task)):
        data.append(source)
    return run.inputs.of_stage("finetune", data=tuple(data), models=(encoder, *teachers), task=job.task)


def _finetune_title(run: RunContext, job: Job) -> str:
    return f"finetune {job.row} on {run.tasks[job.task].title}, seed {job.seed}"


def failed_trainings(run: RunContext) -> tuple[str, ...]:
    """The fine-tunings whose loss became infinite, each with the step."""
    models = {job: job.model(run.folder) for job in run.jobs if not job.is_given}
    failures = {job: training_facts(model).get("failed") for job, model in models.items()}
    return tuple(f"{_finetune_title(run, job)}: {failure}" for job, failure in failures.items() if failure)


def _encoder(run: RunContext, job: Job) -> Path:
    """What a fine-tuning starts from: its folder, or its name; that of a cut teacher is made where it is missing."""
    if (before := _job_before(run, job)) is not None:
        return before.model(run.folder)
    if job.row == "teacher" and run.recipe.finetune.teacher:
        return Path(run.recipe.finetune.teacher)
    if not (job.is_second_distillation and run.recipe.finetune.distillation.start == "teacher"):
        return Path(job.encoder) if run.recipe.finetune.model else run.folder.encoder(job.encoder)
    cut, teacher = run.folder.cut_teacher(job.task), task_teachers(run, job.task)[0]
    sources = run.inputs.of_stage("cut", models=(teacher,), task=job.task)
    title = f"cut the teacher of {run.tasks[job.task].title}"
    make_folder(run, cut, title, partial(_cut, run, job.task, teacher), sources)
    return cut


def _job_before(run: RunContext, job: Job) -> Job | None:
    """Of a task such as `rte@mnli`, the model of the same row and seed on the task before it."""
    first = intermediate_task(job.task)
    return next((j for j in run.jobs if (j.task, j.row, j.seed) == (first, job.row, job.seed) and not j.is_given), None)


def _cut(run: RunContext, task: str, teacher: Path, output: Path) -> None:
    model, distillation = load_model(teacher, run.tasks[task].kind), run.recipe.finetune.distillation
    if distillation.teacher_labels and isinstance(distillation.teachers, tuple):  # by which its head is put into order
        model.config.id2label = dict(enumerate(distillation.teacher_labels))
        model.config.label2id = {label: index for index, label in enumerate(distillation.teacher_labels)}
    with atomic.unfinished(output) as folder:
        save_model(cut_task_student(model, run.recipe.student), load_tokenizer(teacher), folder)


def _finetune(run: RunContext, job: Job, output: Path) -> None:
    soft_targets = _soft_targets(run, job) if job.is_second_distillation else None
    finetune(
        run.recipe.finetune, task_examples(run.recipe, run.tasks[job.task], soft_targets), _encoder(run, job), output,
        compute=run.compute, row=job.row, seed=job.seed, soft_targets=soft_targets,
    )  # fmt: skip


def _soft_targets(run: RunContext, job: Job) -> SoftTargetSource:
    """What the second distillations of a task learn from: made once for all seeds."""
    task, settings = run.tasks[job.task], run.recipe.finetune.settings(job.task)
    encoder, teachers, augmented = _encoder(run, job), task_teachers(run, job.task), None
    train = f"{task.name} {task.train}"
    if settings.distillation.augment:
        folder = run.folder.augmented(job.task)
        proposer = Path(run.recipe.finetune.model or run.folder.teacher)
        sources = run.inputs.of_stage("augment", data=(train,), models=(proposer,), task=job.task)
        make_folder(run, folder, f"augment {task.title}", _in_precision(run, partial(_augment, run, task)), sources)
        file = folder / AUGMENTED_EXAMPLES
        augmented = file if holds_examples(file) else None
    only_originals = settings.distillation.ends_with_originals(task.kind)
    examples, _ = training_examples(run.recipe, task, augmented=augmented, soft=not only_originals)
    targets, are_given = run.folder.soft_targets(job.task), isinstance(settings.distillation.teachers, tuple)
    source = unlabelled_source(run.recipe, job.task)
    data = (train, *([source] if source and not only_originals else ()))
    copies = [run.folder.augmented(job.task)] if settings.distillation.augment and not only_originals else []
    read = (encoder, *teachers, *copies)
    make_folder(
        run, targets, f"soft targets of {task.title}",
        _in_precision(run, partial(
            make_soft_targets, examples, teachers, tokenizer=load_tokenizer(encoder), device=run.device,
            max_length=run.recipe.finetune.max_length(job.task, task.max_length),
            given_labels=settings.distillation.teacher_labels if are_given else None,
        )),
        run.inputs.of_stage("targets", data=data, models=read, task=job.task),
    )  # fmt: skip
    return SoftTargetSource(targets, teachers, augmented, _copied_layers(run, teachers[0]))


def _copied_layers(run: RunContext, teacher: Path) -> tuple[int, ...]:
    """The layers of a task's teacher that the student's were copied from; those of a given student are not known."""
    finetune = run.recipe.finetune
    is_cut_teacher = finetune.distillation.start == "teacher"
    if finetune.model and not is_cut_teacher:
        return ()
    cut = teacher if is_cut_teacher else run.folder.teacher
    return layer_map(run.recipe.student, load_config(cut).num_hidden_layers)


def _in_precision(run: RunContext, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """What a training learns from is computed in the precision of the training."""

    def made(output: Path) -> None:
        compute = run.compute
        with multiplying(compute.device, compute.chosen):
            make(output)

    return made


def task_teachers(run: RunContext, task: str) -> tuple[Path, ...]:
    """Fine-tuned teachers of a task: the given ones, or the run's own, less those whose training failed."""
    chosen = run.recipe.finetune.distillation.teachers
    if isinstance(chosen, tuple):
        return tuple(map(Path, chosen))
    trained = [job.model(run.folder) for job in run.jobs if (job.task, job.row) == (task, "teacher")]
    sound = [folder for folder in trained if "failed" not in training_facts(folder)] or trained
    return tuple(sound if chosen == "all" else sound[:1])


def _augment(run: RunContext, task: Task, output: Path) -> None:
    if name := run.recipe.finetune.model:
        model, tokenizer = load_model(name, "masked-lm"), load_tokenizer(name)
    else:
        model, tokenizer = run.teacher.model, run.teacher.tokenizer
    examples, _ = training_examples(run.recipe, task, augmented=None, soft=False)
    if task.kind == "span":
        examples = questions_alone(examples)
    with atomic.unfinished(output) as folder:
        copies = augment(
            examples, model, tokenizer, run.recipe.finetune.settings(task.name).distillation,
            seed=run.recipe.seed, device=run.device, log=run.log,
            max_length=run.recipe.finetune.max_length(task.name, task.max_length),
        )  # fmt: skip
        write_examples(copies, folder / AUGMENTED_EXAMPLES)


def evaluate_tasks(run: RunContext) -> None:
    """The scores of every task model and of the cheap baselines, and the differences between the rows."""
    was_finished = all(atomic.is_finished(job.scores(run.folder)) for job in run.jobs)
    for job in run.jobs:
        task = run.tasks[job.task]
        title = f"evaluate {job.row} on {task.title}, seed {job.seed}"
        data = tuple(f"{task.name} {split}" for split in run.inputs.read_splits(task))
        sources = run.inputs.of_stage("evaluate", data=data, models=(job.model(run.folder),), task=task.name)
        make_folder(run, job.scores(run.folder), title, partial(_evaluate, run, job), sources)
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
        shared=run.inputs.shared_texts(run.tasks[job.task]),
        output_labels=run.recipe.finetune.distillation.teacher_labels if job.is_given else (),
    )  # fmt: skip


def _max_length(run: RunContext, job: Job) -> int:
    """Tokens that a task model reads of an input."""
    finetune, task = run.recipe.finetune, run.tasks[job.task]
    return length_for(finetune, task, job.encoder) if job.is_given else finetune.max_length(task.name, task.max_length)


def _are_compared(run: RunContext) -> bool:
    """Whether the comparisons of the rows are those of the scores that there are now."""
    comparisons = run.folder.comparisons
    if not atomic.is_finished(comparisons):
        return False
    return bool(atomic.read_manifest(comparisons)["scores"] == _scores_hash(run))


def _scores_hash(run: RunContext) -> str:
    """One hash of everything that was scored."""
    manifests = [path / atomic.MANIFEST for path in run.folder.all_scores() if atomic.is_finished(path)]
    hashes = [[path.parent.relative_to(run.folder.path).as_posix(), atomic.sha256(path)] for path in manifests]
    return hashlib.sha256(json.dumps(hashes).encode()).hexdigest()


def _compare_rows(run: RunContext) -> None:
    """The differences between the rows, made anew whenever other scores are there."""
    if _are_compared(run):
        return
    started = time.monotonic()
    measured = measured_differences(run.folder.path, results.Origin.of(run.recipe))
    shutil.rmtree(run.folder.comparisons, ignore_errors=True)
    with atomic.unfinished(run.folder.comparisons, scores=_scores_hash(run)) as folder:
        results.write(folder / MEASUREMENTS, measured)
    run.log(f"compare the rows: {duration(time.monotonic() - started)}")
    write_results(run)


def compress_models(run: RunContext) -> None:
    """Smaller and faster variants of task models, and what each gives."""
    for name in run.recipe.compress.tasks:
        folder, started = run.folder.compressed(name), time.monotonic()
        was_finished = atomic.is_finished(folder.summary)
        builder = VariantBuilder(
            run.recipe, run.tasks[name], compressed_model(run, name), recovery_teachers(run, name),
            run.recipe.compress.row, folder, run.device, run.log, lambda: run.compute, _compression_sources(run, name),
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
    """The compressions that did not reach a target, each with how far it came."""
    folders = {name: run.folder.compressed(name) for name in run.recipe.compress.tasks}
    missed = {name: compression.missed_targets(folder) for name, folder in folders.items()}
    return tuple(
        f"{_compress_title(run, name)} came to {what}; the best model is in {folders[name].best}"
        for name, what in missed.items()
        if what
    )


def compressed_model(run: RunContext, task: str) -> Path:
    """Folder of the task model that is compressed."""
    given = run.recipe.compress.model
    return Path(given) if given else run.compressed_job(task).model(run.folder)


def recovery_teachers(run: RunContext, task: str) -> tuple[Path, ...]:
    """The teachers of recovery fine-tuning; nothing = the model itself."""
    settings = run.recipe.compress
    if settings.teachers or settings.model:
        return tuple(map(Path, settings.teachers))
    return task_teachers(run, task) if settings.row != "teacher" else ()


def measure_speed(run: RunContext) -> None:
    """Size and latency."""
    in_folder = {"teacher": run.folder.teacher, "student": run.folder.student}
    models: dict[str, Path | None] = {name: in_folder.get(name) for name in run.recipe.benchmark.models}
    models |= {f"compressed ({name})": run.folder.compressed(name).best for name in run.recipe.compress.tasks}

    def make(output: Path) -> None:
        tokenizer = run.teacher.tokenizer
        benchmark(models, run.recipe.benchmark, recipe=run.recipe, tokenizer=tokenizer, output=output)

    sources = run.inputs.of_stage(
        "benchmark", data=(PAIRS,) if PAIRS in run.inputs.sources else (),
        models=(run.folder.teacher, *(path for path in models.values() if path)),
    )  # fmt: skip
    make_folder(run, run.folder.benchmark, "benchmark", make, sources)


def report(run: RunContext) -> None:
    """Tables, page and model card; always made anew, for it costs seconds."""
    write_results(run)
    if not run.recipe.finetune.model:
        write_card(run.folder.path)
    write_report(run.folder.path, command=run.command)
    run.log("report: written")
