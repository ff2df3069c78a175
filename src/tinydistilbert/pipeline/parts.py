"""The task models of a run in parallel (`--jobs`): each is fine-tuned and scored by a separate process.

The process that owns the run folder first makes what they share. Afterwards it goes through the stages as usual and
finds everything finished.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tinydistilbert import notices, run_record
from tinydistilbert.errors import UserError
from tinydistilbert.models import hub, pinned_folders
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.pipeline.folders import write_results
from tinydistilbert.pipeline.jobs import Job
from tinydistilbert.pipeline.stages import evaluate_model
from tinydistilbert.pipeline.task_models import finetune_model, job_before, soft_targets_of
from tinydistilbert.pipeline.view_parts import is_view, make_named_view, part_arguments
from tinydistilbert.run_folder import row_folder
from tinydistilbert.storage import atomic, locks
from tinydistilbert.training.device import device_errors
from tinydistilbert.workers.jobs import Part
from tinydistilbert.workers.run import run_parts


@dataclass(frozen=True)
class TaskPart:
    """The part of a run that one process does."""

    name: str
    """Its name in `--part`: TASK/ROW/seed-N, or TASK/targets."""
    title: str
    make: Callable[[], object]
    makes: tuple[Path, ...]
    """The folders that it makes."""
    needs: tuple[str, ...]
    """The parts that come before it."""
    job: Job | None = None

    def is_finished(self) -> bool:
        """Whether nothing is left to do."""
        return all(map(atomic.is_finished, self.makes))


def task_parts(run: RunContext) -> dict[str, TaskPart]:
    """Return every task model of a run by name, and before second distillations their soft targets."""
    parts: dict[str, TaskPart] = {}
    for job in run.jobs:
        before = job_before(run, job)
        needs = [_name(before)] if before else []
        task = run.tasks[job.task].title
        if job.is_second_distillation:
            targets = f"{job.task}/targets"
            if targets not in parts:
                teachers = [_name(j) for j in run.jobs if (j.task, j.row) == (job.task, "teacher") and not j.is_given]
                parts[targets] = TaskPart(
                    targets, f"soft targets of {task}", partial(soft_targets_of, run, job),
                    (run.folder.soft_targets(job.task),), (*teachers, *needs),
                )  # fmt: skip
            needs.append(targets)
        made = [*([] if job.is_given else [job.model(run.folder)])]
        made += [job.scores(run.folder)] if "evaluate" in run.stages else []
        parts[_name(job)] = TaskPart(
            _name(job), f"{job.row} on {task}, seed {job.seed}", partial(_finetune_and_score, run, job), tuple(made),
            tuple(needs), job,
        )  # fmt: skip
    return parts


def _name(job: Job) -> str:
    return f"{job.task}/{row_folder(job.row)}/seed-{job.seed}"


def _finetune_and_score(run: RunContext, job: Job) -> None:
    if not job.is_given:
        finetune_model(run, job)
    if "evaluate" in run.stages:
        evaluate_model(run, job)


def make_parts(run: RunContext) -> None:
    """Make all unfinished task models in parallel; `run.lost` then has those that failed."""
    parts, begun = task_parts(run), set[str]()
    waiting = left_parts(run, parts)
    lost: dict[str, str] = {}

    def give_up(part: TaskPart, why: str) -> None:
        lost[part.name] = why
        if part.job:
            run.lost[part.job] = why
        run.log(f"{part.title}: failed, {why}")

    def next_part() -> Part | None:
        for part in [each for name, each in waiting.items() if name not in begun]:
            if failed := [parts[name].title for name in part.needs if name in lost]:
                begun.add(part.name)
                give_up(part, f"it needs {failed[0]}, which failed")
            elif all(name not in waiting or parts[name].is_finished() for name in part.needs):
                begun.add(part.name)
                return Part(part.title, _arguments(run, part))
        return None

    def ended(done: Part, why: str) -> None:
        part = next(each for each in waiting.values() if each.title == done.name)
        if why:
            give_up(part, why)
        write_results(run)

    assert run.workers, "asked for by --jobs"
    run_parts(run.workers, len(waiting), next_part, ended, folder=run.folder.path, log=run.log)
    run_record.keep_lost(run.folder, {parts[name].title: why for name, why in lost.items()})


def left_parts(run: RunContext, parts: dict[str, TaskPart]) -> dict[str, TaskPart]:
    """Return the unfinished parts; soft targets only if a training still has to read them."""
    left = {name: part for name, part in parts.items() if not part.is_finished()}
    trainings = [part for part in left.values() if part.job and not atomic.is_finished(part.job.model(run.folder))]
    needed = {name for part in trainings for name in part.needs}
    return {name: part for name, part in left.items() if part.job or name in needed}


def _arguments(run: RunContext, part: TaskPart) -> tuple[str, ...]:
    """The command line that makes a part."""
    command = "evaluate" if "evaluate" in run.stages else "finetune"
    return (*part_arguments(run, command, part.name), "--finetune.keep", run.recipe.finetune.keep)


def make_part(run: RunContext, name: str) -> None:
    """Make one part of a run that another process has begun and owns.

    Raises:
        UserError: there is no such part or no such run.
    """
    part = None if is_view(name) else task_parts(run).get(name)
    if not run.is_begun() or (part is None and not is_view(name)):
        found, fix = repr(name), "leave --part out: --jobs passes it to the processes that it starts"
        raise UserError("--part", expected="a part of a run that was begun", found=found, fix=fix)
    hub.pin_revisions(run_record.kept_revisions(run.folder))
    files = run_record.kept_model_files(run.folder)
    with pinned_folders.pinned(files), device_errors(run.device), run.rows_at_hand():
        if part is None:
            make_named_view(run, name)
        else:
            lock = run.folder.path / "tasks" / f"{name}.lock"
            with locks.alone(lock, where=part.title, wait=True):  # a process of an earlier command may be about to stop
                part.make()
    with locks.alone(run.folder.notices.with_suffix(".lock"), where="the run's notices", wait=True):
        run_record.keep_notices(run.folder, notices.all_notices())
