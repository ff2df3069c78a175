"""The stage finetune: every task model, and what second distillations learn from and start from."""

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedModel

from tinydistilbert.compress.importance import importance_on
from tinydistilbert.compress.prune import most_important_layers
from tinydistilbert.finetuning.augment import augment, questions_alone
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.finetuning.soft_labels import joined_soft_labels
from tinydistilbert.finetuning.soft_targets import SoftTargetSource, make_soft_targets
from tinydistilbert.models.loading import load_config, load_model, load_tokenizer, save_model
from tinydistilbert.models.student import cut_task_student, layer_map
from tinydistilbert.models.task_head import reorder_outputs
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.folders import make_folder
from tinydistilbert.pipeline.inputs import SOFT_LABELS, unlabelled_source
from tinydistilbert.pipeline.jobs import Job
from tinydistilbert.recipe.names import intermediate_task
from tinydistilbert.run_folder import AUGMENTED_EXAMPLES, training_facts
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.storage.made_from import MadeFrom
from tinydistilbert.tasks import HELD_OUT
from tinydistilbert.tasks.base import Examples, Task, sample_rows
from tinydistilbert.tasks.compatible import check_classes
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.unlabelled import holds_examples, write_examples
from tinydistilbert.training.precision import multiplying


def finetune_tasks(run: RunContext) -> None:
    """Fine-tune every row of the tables on every task."""
    for job in run.jobs:
        if not job.is_given and job not in run.lost:
            finetune_model(run, job)


def finetune_model(run: RunContext, job: Job) -> None:
    """Fine-tune one row on one task with one seed."""
    make_folder(
        run, job.model(run.folder), _finetune_title(run, job), partial(_finetune, run, job),
        _training_sources(run, job), together=True,
    )  # fmt: skip


def _training_sources(run: RunContext, job: Job) -> MadeFrom:
    """What a task model is made from."""
    task, finetune = run.tasks[job.task], run.recipe.finetune
    chosen_by = {"heldout": HELD_OUT, "reported": task.evaluation[0]}.get(finetune.select)
    splits = (task.train, *([chosen_by] if chosen_by in run.inputs.read_splits(task) else []))
    data = [f"{task.name} {split}" for split in splits]
    encoder, *teachers = _encoder(run, job), *(task_teachers(run, job.task) if job.is_second_distillation else ())
    if teachers and (source := unlabelled_source(run.recipe, job.task)):
        data.append(source)
    if teachers and finetune.distillation.soft_labels:
        data.append(SOFT_LABELS)
    return run.inputs.of_stage("finetune", data=tuple(data), models=(encoder, *teachers), task=job.task)


def _finetune_title(run: RunContext, job: Job) -> str:
    return f"finetune {job.row} on {run.tasks[job.task].title}, seed {job.seed}"


def failed_trainings(run: RunContext) -> tuple[str, ...]:
    """The fine-tunings whose loss became infinite, each with the step, and those whose process failed."""
    models = {job: job.model(run.folder) for job in run.jobs if not job.is_given}
    failures = {job: training_facts(model).get("failed") for job, model in models.items()} | run.lost
    return tuple(f"{_finetune_title(run, job)}: {failure}" for job, failure in failures.items() if failure)


def _encoder(run: RunContext, job: Job) -> Path:
    """Return the folder or name of what a fine-tuning starts from; a cut teacher is made if it is missing."""
    if (before := job_before(run, job)) is not None:
        return before.model(run.folder)
    if job.row == "teacher" and run.recipe.task_encoder:
        return Path(run.recipe.task_encoder)
    if not (job.is_second_distillation and run.recipe.finetune.distillation.start == "teacher"):
        return Path(job.encoder) if run.recipe.finetune.model else run.folder.encoder(job.encoder)
    cut, teacher = run.folder.cut_teacher(job.task), task_teachers(run, job.task)[0]
    by_importance = run.recipe.finetune.distillation.cut == "importance"
    data = (f"{job.task} {run.tasks[job.task].train}",) if by_importance else ()
    sources = run.inputs.of_stage("cut", data=data, models=(teacher,), task=job.task)
    if atomic.is_finished(cut):  # usually made by this command a moment ago: no line that it was skipped
        made_from.check(cut, sources)
    else:
        title = f"cut the teacher of {run.tasks[job.task].title}"
        make_folder(run, cut, title, partial(_cut, run, job.task, teacher), sources)
    return cut


def job_before(run: RunContext, job: Job) -> Job | None:
    """Return for a task such as `rte@mnli` the job of the same row and seed on the task before it."""
    first = intermediate_task(job.task)
    return next((j for j in run.jobs if (j.task, j.row, j.seed) == (first, job.row, job.seed) and not j.is_given), None)


def _cut(run: RunContext, task: str, teacher: Path, output: Path) -> None:
    model, distillation = load_model(teacher, run.tasks[task].kind), run.recipe.finetune.distillation
    if distillation.teacher_labels and isinstance(distillation.teachers, tuple):  # the order of its head's outputs
        model.config.id2label = dict(enumerate(distillation.teacher_labels))
        model.config.label2id = {label: index for index, label in enumerate(distillation.teacher_labels)}
    student = run.recipe.student
    if distillation.cut == "importance":
        layers = _important_layers(run, run.tasks[task], model, teacher)
        run.log(f"the most important layers of the teacher of {run.tasks[task].title}: {', '.join(map(str, layers))}")
        student = replace(student, layers=layers, num_hidden_layers=0)
    with atomic.unfinished(output, layers=layer_map(student, model.config.num_hidden_layers)) as folder:
        save_model(cut_task_student(model, student), load_tokenizer(teacher), folder)


def _important_layers(run: RunContext, task: Task, model: PreTrainedModel, teacher: Path) -> tuple[int, ...]:
    """Return the layers of a fine-tuned teacher that matter most to its task, as many as the student has."""
    recipe, tokenizer = run.recipe, load_tokenizer(teacher)
    examples, _ = training_examples(recipe, task, augmented=None, soft=False)
    features = encode(examples, tokenizer, recipe.finetune.max_length(task.name, task.max_length))
    rows = sample_rows(len(features), recipe.compress.importance_examples, recipe.seed)
    if (order := check_classes(teacher, model.config, examples.task)) is not None:  # the labels are in the task's order
        model = copy.deepcopy(model)
        reorder_outputs(model, order)
    importance = importance_on(model, features, rows, task.kind, int(tokenizer.pad_token_id))
    return most_important_layers(importance, len(layer_map(recipe.student, model.config.num_hidden_layers)))


def _finetune(run: RunContext, job: Job, output: Path) -> None:
    soft_targets = soft_targets_of(run, job) if job.is_second_distillation else None
    finetune(
        run.recipe.finetune, task_examples(run.recipe, run.tasks[job.task], soft_targets), _encoder(run, job), output,
        compute=run.compute, row=job.row, seed=job.seed, soft_targets=soft_targets,
    )  # fmt: skip


def soft_targets_of(run: RunContext, job: Job) -> SoftTargetSource:
    """Return what the second distillations of a task learn from, made once for all seeds."""
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
    soft_labels = _soft_labels(run, examples)
    data = (
        train,
        *([source] if source and not only_originals else ()),
        *([SOFT_LABELS] if soft_labels is not None else ()),
    )
    copies = [run.folder.augmented(job.task)] if settings.distillation.augment and not only_originals else []
    read = (encoder, *teachers, *copies)
    make_folder(
        run, targets, f"soft targets of {task.title}",
        _in_precision(run, partial(
            make_soft_targets, examples, teachers, tokenizer=load_tokenizer(encoder), device=run.device,
            max_length=run.recipe.finetune.max_length(job.task, task.max_length),
            given_labels=settings.distillation.teacher_labels if are_given else None, soft_labels=soft_labels,
            ranks=run.ranks,
        )),
        run.inputs.of_stage("targets", data=data, models=read, task=job.task), together=True,
    )  # fmt: skip
    return SoftTargetSource(targets, teachers, augmented, _copied_layers(run, job.task, teachers[0]))


def _soft_labels(run: RunContext, examples: Examples) -> NDArray[np.float64] | None:
    file = run.recipe.finetune.distillation.soft_labels
    return joined_soft_labels(Path(file), examples, run.recipe.data) if file else None


def _copied_layers(run: RunContext, task: str, teacher: Path) -> tuple[int, ...]:
    """Return the layers of a task's teacher that the student's were copied from; unknown for a given student."""
    finetune = run.recipe.finetune
    is_cut_teacher = finetune.distillation.start == "teacher"
    if is_cut_teacher and finetune.distillation.cut == "importance":
        first = intermediate_task(task) or task
        cut_folder = run.folder.cut_teacher(first if atomic.is_finished(run.folder.cut_teacher(first)) else task)
        return tuple(atomic.read_manifest(cut_folder)["layers"])
    if finetune.model and not is_cut_teacher:
        return ()
    cut = teacher if is_cut_teacher else run.folder.teacher
    return layer_map(run.recipe.student, load_config(cut).num_hidden_layers)


def _in_precision(run: RunContext, make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Make what a training learns from in the precision of the training."""

    def made(output: Path) -> None:
        compute = run.compute
        with multiplying(compute.device, compute.chosen):
            make(output)

    return made


def task_teachers(run: RunContext, task: str) -> tuple[Path, ...]:
    """Return the fine-tuned teachers of a task: the given ones, or the run's own except those whose training failed."""
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
        write_examples(examples.task, copies, folder / AUGMENTED_EXAMPLES)
