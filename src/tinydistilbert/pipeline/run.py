"""The stages of one recipe in order, in one run folder: finished ones are skipped, half-finished ones continue.

Every command does this: `distill` runs the stages up to distill, `replicate` runs them all.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tinydistilbert import notices, run_record
from tinydistilbert.errors import MissedTarget, UserError
from tinydistilbert.models import hub, pinned_folders
from tinydistilbert.pipeline import folders, keep, parts, preflight, stages, task_models, view_parts
from tinydistilbert.pipeline.context import RunContext, Sources
from tinydistilbert.progress import size_in_words
from tinydistilbert.recipe.keys import did_you_mean, nearest
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic, disk, locks
from tinydistilbert.tasks import read_once
from tinydistilbert.training.device import device_errors
from tinydistilbert.workers.jobs import Jobs


@dataclass(frozen=True)
class Stage:
    """A part of a run; what it will cost is estimated in `dry_run.stages.ESTIMATES`."""

    name: str
    check: Callable[[RunContext], None]
    """Refuses inputs of the stage that are wrong, before the first stage runs."""
    run: Callable[[RunContext], None]
    """Makes what is not finished."""


STAGES = (
    Stage("prepare", preflight.check_teacher_and_student, stages.prepare),
    Stage("adapt", preflight.no_inputs, stages.adapt_teacher),
    Stage("distill", preflight.no_inputs, stages.distill_student),
    Stage("finetune", preflight.check_tasks, task_models.finetune_tasks),
    Stage("evaluate", preflight.no_inputs, stages.evaluate_tasks),
    Stage("compress", preflight.check_compression, stages.compress_models),
    Stage("benchmark", preflight.check_benchmark, stages.measure_speed),
    Stage("report", preflight.no_inputs, stages.report),
)
PRUNE_FURTHER = "--compress.keep 0.25 0.15"
STAGES_OF_GIVEN_MODEL = ("finetune", "evaluate", "compress", "report")
CLAIMED, OVER = "the folder is claimed", "all stages are done"
"""What rank 0 tells the other processes."""
STAGES_OF_GIVEN_TASK_MODEL = ("compress", "report")


def stage_names(recipe: Recipe, until: str) -> tuple[str, ...]:
    """The stages up to `until` that the recipe has: a given model needs no text and no student.

    Raises:
        UserError: there is no such stage.
    """
    names = tuple(stage.name for stage in STAGES)
    if until not in names:
        fix = did_you_mean(nearest(until, names)) if nearest(until, names) else "give one of them"
        raise UserError("until", expected=f"a stage: {', '.join(names)}", found=repr(until), fix=fix)
    names = names[: names.index(until) + 1]
    if recipe.compress.model:
        return tuple(name for name in names if name in STAGES_OF_GIVEN_TASK_MODEL)
    return tuple(name for name in names if name in STAGES_OF_GIVEN_MODEL) if recipe.finetune.model else names


def run_context(
    recipe: Recipe, output: Path, *, until: str, log: Callable[[str], None], command: str = "",
    sources: Sources | None = None, compared_with: RunFolder | None = None, workers: Jobs | None = None,
    is_part: bool = False, jobs: int = 1,
) -> RunContext:  # fmt: skip
    """Return what `run_stages` runs.

    Args:
        recipe: what to do.
        output: the run folder; made if missing, continued if it belongs to this recipe.
        until: name of the last stage.
        log: called with a line for each stage that was done or skipped.
        command: the command that the report shows for reproducing it.
        sources: teacher and text of the recipe, if another run has already loaded them.
        compared_with: a run whose precision is used if the recipe leaves it open.
        workers: how task models are made in parallel.
        is_part: this process makes one part of the run, for `parts.make_part`.
        jobs: processes that tokenise the corpus.
    """
    sources = sources or Sources(recipe.teacher, recipe.corpus, recipe.data, jobs)
    names = stage_names(recipe, until)
    return RunContext(recipe, RunFolder(output), names, sources, log, command, compared_with, workers, is_part)


def check_inputs(run: RunContext) -> None:
    """Check everything that can be wrong in the stages of the run, the quick checks first.

    Raises:
        UserError: something is.
    """
    preflight.check_data_folder(run.recipe.data)
    for stage in STAGES:
        if stage.name in run.stages:
            stage.check(run)
    if "prepare" in run.stages:
        preflight.check_text(run)


@contextmanager
def claimed(run: RunContext) -> Iterator[None]:
    """Claim the run folder for this recipe and this process, after everything that can be checked was checked.

    Raises:
        UserError: the folder belongs to another recipe or to something else, another process works in it, or an input
            is wrong or differs from what the run was begun with; then nothing was written.
    """
    run.check_machine()
    if is_begun := run.is_begun():
        run.inputs.check()
        keep.check_kept(run)
    model_files = _model_files(run)
    with pinned_folders.pinned(model_files):
        if not is_begun:
            check_inputs(run)
        output = run.folder.path
        with locks.alone(output / atomic.LOCK, where=f"--output {output}"):
            atomic.sweep(output)
            if not run.is_begun():
                atomic.write_text(run.folder.recipe, to_toml(run.recipe))
            if run_record.begun_in(run.folder) is None:  # before anything else is kept of what it was begun with
                run_record.keep_precision(run.folder, run.precision.precision)
            # Before the first training; preparing a text computes nothing, in whatever precision.
            if run.recipe.precision == "auto" and run.stages[-1] != "prepare" and not run.folder.results.exists():
                run.log(f"precision: {run.precision.why}")
            run_record.keep_revisions(run.folder, hub.pinned_revisions())
            run_record.keep_model_files(run.folder, model_files)
            run.inputs.keep()
            read_once.keep(run.task_names() or run.recipe.compress.tasks)
            run.ranks.publish(CLAIMED)
            yield


@contextmanager
def _claimed_by_main(run: RunContext) -> Iterator[None]:
    """In a process other than rank 0, join the run that rank 0 has begun.

    Raises:
        UserError: this process does not see it.
    """
    run.ranks.wait_for(CLAIMED)
    if not run.is_begun():
        fix = "give a folder on storage that all machines share"
        problem = "the run that rank 0 has begun is not in this folder"
        raise UserError(f"--output {run.folder.path}", problem=problem, fix=fix)
    with pinned_folders.pinned(_model_files(run)):
        yield


def _follow(run: RunContext) -> None:
    """Run the stages that all processes share, in a process other than rank 0."""
    with _claimed_by_main(run), device_errors(run.device):
        for stage in STAGES:
            if stage.name in run.stages_together:
                run.ranks.wait_for(stage.name)
                stage.run(run)
    run.ranks.wait_for(OVER)


def _lead(run: RunContext) -> None:
    """Run the unfinished stages."""
    with claimed(run), device_errors(run.device):
        for stage in STAGES:
            if stage.name in run.stages:
                run_record.keep_notices(run.folder, notices.all_notices())  # before the page is made, too
                if stage.name == "report":
                    keep.release_models(run)
                run.ranks.publish(stage.name)
                if stage.name == "distill" and run.workers:
                    view_parts.make_views(run)
                if stage.name == "finetune":
                    run_record.keep_lost(run.folder, {})
                    if run.workers:
                        parts.make_parts(run)
                stage.run(run)
        run_record.keep_notices(run.folder, notices.all_notices())
        if run.stages[-1] != "prepare":  # even if something happened to the file meanwhile
            folders.write_results(run)
            if run.stages[-1] != "report":
                keep.release_models(run)
            run.log(f"disk: {size_in_words(disk.bytes_in(run.folder.path))} in {run.folder.path}")
    run.ranks.publish(OVER)


def _model_files(run: RunContext) -> Mapping[str, Mapping[str, str]]:
    """The hashes of the files of every local model that the stages read: as the run was begun with, or as they are."""
    kept = run_record.kept_model_files(run.folder)
    now = {name: pinned_folders.file_hashes(Path(name)) for name in run.given_models() if name not in kept}
    return {name: kept[name] for name in run.given_models() if name in kept} | {n: h for n, h in now.items() if h}


def run_stages(run: RunContext) -> tuple[str, ...]:
    """Run the unfinished stages of a recipe.

    Processes of a launcher share the trainings; rank 0 does everything else while the others wait.

    Returns:
        Failures that did not stop the run: fine-tunings whose loss became infinite.

    Raises:
        UserError: an input is wrong; when it was found before the first stage, nothing was written.
        MissedTarget: a compression did not reach its target; everything was written.
        Interrupted: the user asked to stop; the same call continues.
        DeviceLost: the GPU failed; the same call continues.
    """
    run.check_alike()
    with run.rows_at_hand():
        _lead(run) if run.ranks.is_main else _follow(run)
    missed = stages.missed_targets(run) if "compress" in run.stages else ()
    if missed:
        raise MissedTarget(
            f"missed the target: {'; '.join(missed)}; relax the target, or prune further ({PRUNE_FURTHER})"
        )
    return task_models.failed_trainings(run) if "finetune" in run.stages else ()
