"""Running a recipe in a folder, which every function and every command with a recipe does in the end."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tinydistilbert import notices, progress
from tinydistilbert.api.outcomes import Run
from tinydistilbert.dry_run import plan as dry_run
from tinydistilbert.errors import NonFiniteLoss
from tinydistilbert.pipeline.parts import make_part
from tinydistilbert.pipeline.run import run_context, run_stages
from tinydistilbert.progress import duration
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe, to_dict
from tinydistilbert.recipe.types import with_current_keys
from tinydistilbert.storage.disk import in_home
from tinydistilbert.training.device import use_threads
from tinydistilbert.workers.jobs import jobs_of
from tinydistilbert.workers.process import stop_with_parent

OnLog = Callable[[dict[str, Any]], object]
"""Called with a dictionary for each step of a training, each validation and each line about the work."""
MEASURED = ("evaluate", "compress", "benchmark", "report")
"""Stages after which the tables contain something."""


@contextmanager
def session(*, quiet: bool, on_log: OnLog | None) -> Iterator[Callable[[str], None]]:
    """Surround one call from Python; yield the function that prints messages about the work."""

    def log(line: str) -> None:
        progress.emit(message=line)
        progress.say(line)

    notices.begin()
    with progress.reporting(quiet=quiet), progress.listening(on_log):
        yield log


def run(
    recipe: Recipe, output: Path, *, until: str, log: Callable[[str], None], command: str = "",
    threads: int | None = None, estimate_time: bool = False, jobs: int | str | None = None,
) -> Run:  # fmt: skip
    """Run the unfinished stages of a recipe up to `until`.

    Args:
        recipe: what to do.
        output: the run folder; made if missing, continued if it belongs to this recipe.
        until: name of the last stage.
        log: called with a line for each stage that was done or skipped.
        command: what the report shows for reproducing it.
        threads: threads for matrix products; None = the cores that this process may use.
        estimate_time: begin with a line that estimates the time.
        jobs: number of task models to make at a time, each in a separate process, and of processes that tokenise the
            corpus; `ray`: task models on Ray's cluster.

    Raises:
        UserError: an input is wrong; when it was found before the first stage, nothing was written.
        MissedTarget: a compression did not reach its target; everything was written.
        Interrupted: the user asked to stop; the same call continues.
    """
    workers = jobs_of(jobs, threads, recipe.device)
    processes = (workers.at_once or 1) if workers else 1
    use_threads(threads)
    context = run_context(recipe, output, until=until, log=log, command=command, workers=workers, jobs=processes)
    with context.ranks.session():
        if context.ranks.is_main:
            seconds = dry_run.refuse_full_disk(context)
            if estimate_time:
                resumes = f"if it is stopped, the same call continues from what is in {output}"
                log(f"about {duration(seconds)} in all (an estimate); {resumes}")
        failures = run_stages(context)
    return Run(output, until, tuple(failures))


def run_part(
    recipe: Recipe, output: Path, part: str, *, until: str, log: Callable[[str], None], threads: int | None
) -> None:
    """Make one part of a run, in a process that another one started for `jobs`.

    Raises:
        UserError: there is no such part.
    """
    stop_with_parent()
    use_threads(threads)
    make_part(run_context(recipe, output, until=until, log=log, is_part=True), part)


def plan(
    recipe: Recipe, output: Path, *, until: str, threads: int | None = None, as_data: bool = False,
    jobs: int | str | None = None,
) -> Any:  # fmt: skip
    """Return what `run` would do and cost, as plain text or as data; nothing is written.

    Raises:
        UserError: as `run`.
    """
    workers = jobs_of(jobs, threads, recipe.device)
    use_threads(threads)
    context = run_context(recipe, output, until=until, log=lambda _: None, workers=workers)
    return dry_run.plan_as_json(context) if as_data else dry_run.plan(context)


def replicate(
    recipe: str | Path | Recipe = "quickstart", *, output: str | Path | None = None,
    settings: dict[str, Any] | None = None, until: str = "report", threads: int | None = None,
    jobs: int | str | None = None, quiet: bool = False, on_log: OnLog | None = None,
) -> Run:  # fmt: skip
    """Run a whole recipe: distil, fine-tune, score, time, report; a second call continues where the first stopped.

    Args:
        recipe: the name of a preset, a TOML file, or a `Recipe`.
        output: the run folder; None = `runs/NAME` of the recipe.
        settings: keys of the recipe and their values: `{"distill.max_steps": 100}`.
        until: the last stage: `prepare`, `adapt`, `distill`, `finetune`, `evaluate`, `compress`, `benchmark`, `report`.
        threads: threads for matrix products; None = the cores that this process may use, or a job's share of them.
        jobs: number of task models to fine-tune and score at a time, each in a separate process (`"ray"`: by Ray); also
            the number of views of the teacher's cache to make at a time and of processes that tokenise the corpus, with
            the same result; None = one after the other, in this process.
        quiet: print no progress.
        on_log: called with a dictionary for each step, each validation and each message about the work; for jobs, with
            their messages.

    Raises:
        UserError: the recipe or the data is invalid, or `jobs` is less than 1.
        MissedTarget: a compression did not reach its target.
        NonFiniteLoss: a loss became infinite; if in a fine-tuning, after the rest of the run was finished.
    """
    chosen = with_settings(recipe if isinstance(recipe, Recipe) else toml.load(str(recipe)), settings)
    with session(quiet=quiet, on_log=on_log) as log:
        done = run(
            chosen, in_home(output or Path("runs") / chosen.name), until=until, log=log, threads=threads, jobs=jobs
        )
    if done.failures:
        raise NonFiniteLoss("; ".join(done.failures))
    return done


def with_settings(recipe: Recipe, settings: dict[str, Any] | None) -> Recipe:
    """Return the recipe with some keys changed, given by their full names.

    Raises:
        UserError: an unknown key, or a value that it does not accept.
    """
    if not settings:
        return recipe
    changes = with_current_keys(toml.nested(settings), "settings")  # before the recipe, which has them all, is merged
    return toml.from_dict(toml.merge(to_dict(recipe), changes), "settings")
