"""Which models a run keeps: weights that none of its stages reads any more are deleted, unless the recipe keeps all.

The log, the facts of the training and the manifest of a deleted model stay, so that its folder counts as finished, what
was made from it can be compared with it, and opening it reports the deletion.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert import run_folder
from tinydistilbert.errors import UserError
from tinydistilbert.models.untrusted import CONFIG
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.jobs import Job
from tinydistilbert.progress import size_in_words
from tinydistilbert.recipe.names import intermediate_task
from tinydistilbert.run_folder import LOG, MEASUREMENTS, TRAINING_FACTS
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.storage.made_from import MOST_NAMED

KEPT_FILES = (CONFIG, LOG, MEASUREMENTS, TRAINING_FACTS, made_from.FILE)
"""What stays of a model that is not kept."""
REFERENCES = ("teacher", "control")
"""Rows by which the others are judged."""


@dataclass(frozen=True)
class Unkept:
    """A model that is not needed once its readers are finished."""

    folder: Path
    readers: tuple[tuple[str, Path], ...]
    """Each a stage, and a folder that it makes from the model."""
    job: Job | None = None
    """The fine-tuning that makes it, if one does."""

    def is_read(self, stages: tuple[str, ...] | None = None) -> bool:
        """Whether something is still to be made from it, in one of these stages or in any."""
        return any(not atomic.is_finished(path) for stage, path in self.readers if stages is None or stage in stages)


def is_kept(run: RunContext, job: Job) -> bool:
    """Whether `best` keeps a task model: that of the first seed, of a row that the run is about.

    These are all rows except teacher and control, or the teacher if there is no other, and the row that is compressed.
    """
    of_task = [other.row for other in run.jobs if other.task == job.task and not other.is_given]
    rows = [row for row in of_task if row not in REFERENCES] or ["teacher" if "teacher" in of_task else of_task[0]]
    if job.task in run.recipe.compress.tasks and not run.recipe.compress.model:
        if run.recipe.finetune.keep == "least":
            return False
        rows.append(run.recipe.compress.row)
    return job.seed == run.recipe.finetune.seeds[0] and job.row in rows


def unkept(run: RunContext) -> Iterator[Unkept]:
    """The models of the run that `best` or `least` does not keep, finished or not."""
    folder, finetune, compress = run.folder, run.recipe.finetune, run.recipe.compress
    jobs = [job for job in run.jobs if not job.is_given]
    own_teachers = not isinstance(finetune.distillation.teachers, tuple)
    for job in (job for job in jobs if not is_kept(run, job)):
        readers = [("evaluate", job.scores(folder))]
        readers += [("finetune", other.model(folder)) for other in jobs if intermediate_task(other.task) == job.task]
        is_compressed = job.task in compress.tasks and not compress.model
        if job.row == "teacher" and own_teachers:
            readers += _distilled(run, job.task)
        if is_compressed and job.row in ("teacher", compress.row):
            readers.append(("compress", folder.compressed(job.task).summary))
        yield Unkept(job.model(folder), tuple(readers), job)
    for task in dict.fromkeys(job.task for job in jobs):
        yield Unkept(folder.cut_teacher(task), tuple(_distilled(run, task)))
    if "control" in finetune.models and not finetune.model:
        yield Unkept(folder.control, tuple(("finetune", job.model(folder)) for job in jobs if job.encoder == "control"))
    for task in compress.tasks:
        summary = ("compress", folder.compressed(task).summary)
        compressed = folder.compressed(task)
        models = compressed.models() if finetune.keep == "least" else compressed.just_pruned()
        yield from (Unkept(path, (summary,)) for path in models)
    if finetune.keep == "least" and not finetune.model:
        yield Unkept(folder.teacher, tuple(_of_the_teacher(run)))


def _of_the_teacher(run: RunContext) -> Iterator[tuple[str, Path]]:
    """What is made from the adapted teacher."""
    folder, models = run.folder, run.recipe.finetune.models
    yield "distill", folder.student
    yield "benchmark", folder.benchmark
    if "control" in models:
        yield "distill", folder.control
    for job in run.jobs:
        if job.encoder == "teacher" and not job.is_given:
            yield "finetune", job.model(folder)


def _distilled(run: RunContext, task: str) -> list[tuple[str, Path]]:
    """The second distillations of a task, which read its teachers and the layers cut from them."""
    return [("finetune", job.model(run.folder)) for job in run.jobs if job.task == task and job.is_second_distillation]


def check_kept(run: RunContext) -> None:
    """Refuse to continue if a stage would read a model whose weights were deleted before.

    Raises:
        UserError: one would, because what was made from the model is gone.
    """
    for model in unkept(run):
        if atomic.is_finished(model.folder) and atomic.is_released(model.folder) and model.is_read(run.stages):
            unfinished = next(path for stage, path in model.readers if not atomic.is_finished(path))
            problem = f"its weights were deleted (finetune.keep), but {unfinished} has to be made from them"
            fix = f"delete {model.folder} too, and run the command again to make it again"
            raise UserError(str(model.folder), problem=problem, fix=fix)


def release_models(run: RunContext) -> None:
    """Delete the weights that no stage needs any more, and report which; with `all`, report which are gone.

    A run that a version without this setting began keeps every model.
    """
    if run.recipe.finetune.keep == "all":
        if gone := run_folder.released_models(run.folder):
            run.log(
                f"models: the weights of {named(run, gone)} were deleted earlier (finetune.keep); to make such a "
                "model again, delete its folder and run the command again"
            )
        return
    ready = [model.folder for model in unkept(run) if atomic.is_finished(model.folder) and not model.is_read()]
    if ready and not run_folder.states(run.folder, "finetune", "keep"):
        run.log(
            f'models: all are kept, as in the version that began this run; keep = "best" below [finetune] in '
            f"{run.folder.recipe} would delete the weights of {named(run, ready)}"
        )
        return
    released = {folder: freed for folder in ready if (freed := atomic.release(folder, KEPT_FILES))}
    if released:
        size = size_in_words(sum(released.values()))
        run.log(
            f"models: {size} deleted, the weights of {named(run, [*released])}, which are no longer needed "
            "(--finetune.keep all keeps them)"
        )


def named(run: RunContext, folders: Sequence[Path]) -> str:
    """The folders by their paths in the run, the first few of many."""
    names = [folder.relative_to(run.folder.path).as_posix() for folder in folders]
    more = [f"{len(names) - MOST_NAMED} more"] if len(names) > MOST_NAMED else []
    return ", ".join([*names[:MOST_NAMED], *more])
