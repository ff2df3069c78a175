"""Check and run the unfinished part of an ablation, and write its table and page."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from tinydistilbert import results
from tinydistilbert.ablate.study import SCORED_ON, Study, Trial, study_of, variations
from tinydistilbert.errors import NonFiniteLoss, UserError
from tinydistilbert.pipeline.context import RunContext, Sources
from tinydistilbert.pipeline.preflight import check_data_folder
from tinydistilbert.pipeline.run import check_inputs, run_context, run_stages
from tinydistilbert.pipeline.task_models import failed_trainings
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report.ablation import (
    Ablation,
    write_ablation,
)
from tinydistilbert.report.earlier_page import EarlierPage
from tinydistilbert.report.table import Table
from tinydistilbert.run_folder import AblationFolder
from tinydistilbert.storage import atomic, locks
from tinydistilbert.training.launcher import refuse_several
from tinydistilbert.workers.jobs import Jobs, Part
from tinydistilbert.workers.process import stop_with_parent
from tinydistilbert.workers.run import run_parts


def check_study(study: Study) -> None:
    """Check everything that can be wrong in any run, before the first one.

    Raises:
        UserError: the folder belongs to something else, a run in it to another recipe, or an input is wrong; an error
            in a row begins with its name.
    """
    check_folder(study)
    references = study.references.run(study.log)
    references.check_machine()
    check_data_folder(study.recipe.data)
    if not references.is_begun():
        check_inputs(references)
    for trial in study.first_of_each:
        if not atomic.is_finished(trial.folder.student):
            with naming(trial):
                check_inputs(before_adapting(study, trial, until="distill", sources=references.sources))


def check_folder(study: Study) -> None:
    """Refuse a folder with something else in it, and runs of other recipes.

    Raises:
        UserError: there are some.
    """
    refuse_several("ablate")
    output = study.folder.path
    if not study.folder.recipe.is_file() and not atomic.is_new(output):
        expected, fix = "a new or empty folder, or an ablation", "give another --output"
        raise UserError(f"--output {output}", expected=expected, found="other files", fix=fix)
    for trial in study.runs:
        run = trial.run(study.log)
        if run.is_begun() and trial is study.references:  # the rows have the same text and tasks
            run.inputs.check()


def before_adapting(study: Study, trial: Trial, *, until: str, sources: Sources) -> RunContext:
    """Return the run of a trial with the original teacher, because the adapted one may not exist yet."""
    recipe = dataclasses.replace(trial.recipe, teacher=study.recipe.teacher, adapt=study.recipe.adapt)
    return run_context(recipe, trial.folder.path, until=until, log=study.log, sources=sources)


def run_study(study: Study, command: str, workers: Jobs | None) -> tuple[Table, dict[str, str]]:
    """Run what is unfinished; table and page are written again after every row.

    With `workers` the rows run in parallel, after the references, whose teacher they use.

    Returns:
        The table, and why rows failed, by row.
    """
    output, failures = study.folder.path, dict[str, str]()
    with locks.alone(output / atomic.LOCK, where=f"--output {output}"):
        atomic.sweep(output)
        atomic.write_text(study.folder.recipe, to_toml(study.recipe))

        def done(trial: Trial, failed: Iterable[str]) -> None:
            for failure in failed:
                # a failure in a row is a finding about that row, and no reason to stop the others
                name = trial.variation.name if trial.variation else "references"
                failures[name] = "; ".join([*([failures[name]] if name in failures else []), failure])
            if trial.is_finished():
                trial.free()
                publish(study, failures, command)

        left = []
        for trial in study.runs:
            if trial.is_finished():
                trial.free()
                study.log(f"{trial.title}: finished before, skipped")
            elif workers and trial.variation:
                left.append(trial)
            else:
                done(trial, _run_trial(study, trial))
        if workers:
            _run_side_by_side(study, left, workers, done)
        return publish(study, failures, command), failures


def _run_side_by_side(
    study: Study, trials: Sequence[Trial], workers: Jobs, done: Callable[[Trial, Iterable[str]], None]
) -> None:
    """Run trials in separate processes; `done` is called with each and with what failed in it."""
    recipe, output = str(study.folder.recipe), str(study.folder.path)
    parts = {Part(trial.title, ("ablate", recipe, "--output", output, "--part", trial.part)): trial for trial in trials}
    waiting = iter(parts)

    def ended(part: Part, why: str) -> None:
        trial = parts[part]
        failures = (why,) if why else failed_trainings(trial.run(study.log))
        if why:
            study.log(f"{trial.title}: failed, {why}")
        done(trial, [f"seed {trial.seed}: {failure}" for failure in failures])

    run_parts(workers, len(parts), lambda: next(waiting, None), ended, folder=study.folder.path, log=study.log)


def run_row(recipe: Recipe, output: Path, name: str, *, log: Callable[[str], None]) -> None:
    """Run one row with one seed, in a process that another one started for `jobs`.

    Raises:
        UserError: there is no such row, or an input of it is wrong.
        NonFiniteLoss: the loss of its distillation became infinite.
    """
    stop_with_parent()
    trial = next((trial for trial in study_of(recipe, output, log=log).trials if trial.part == name), None)
    if trial is None:
        fix = "leave --part out: --jobs passes it to the processes that it starts"
        raise UserError("--part", expected="a row of the ablation", found=repr(name), fix=fix)
    with naming(trial), locks.alone(trial.folder.path.with_suffix(".lock"), where=trial.title, wait=True):
        run_stages(trial.run(log))


def _run_trial(study: Study, trial: Trial) -> list[str]:
    """Run a trial, and return what failed in it."""

    def log(line: str) -> None:
        study.log(f"{trial.title}: {line}")

    try:
        with naming(trial):
            failures = run_stages(trial.run(log))
    except NonFiniteLoss as error:
        if trial.variation is None:
            raise
        failures = (str(error),)
    for failure in failures:
        log(f"failed, {failure}")
    return [f"seed {trial.seed}: {failure}" for failure in failures]


def publish(study: Study, failures: Mapping[str, str], command: str) -> Table:
    """Write results, table and page of what is finished so far."""
    measurements = [m for trial in study.runs if trial.is_finished() for m in trial.measured()]
    results.write(study.folder.results, measurements)
    ablation = Ablation(study.recipe, study.variations, measurements, failures)
    return write_ablation(study.folder.path, ablation, command=command)


def remake(folder: AblationFolder) -> Table:
    """Write table and page of an ablation again from its recipe and its measurements, which are not changed.

    Raises:
        UserError: the folder has no recipe or no measurements, or one of them is damaged.
    """
    if not folder.results.is_file():
        fix = "run `tinydistilbert ablate` again"
        raise UserError(str(folder.path), expected=f"measurements in {folder.results.name}", found="none", fix=fix)
    recipe = toml.read(folder.recipe)
    ablation = Ablation(recipe, variations(recipe), results.read(folder.results))
    return write_ablation(folder.path, ablation, command=EarlierPage.read(folder.report).command)


@contextmanager
def naming(trial: Trial) -> Iterator[None]:
    """Put the name of the row before user errors of the body."""
    try:
        yield
    except UserError as error:
        if trial.variation is None:
            raise
        where = f"row {trial.variation.name!r}, {error.where}"
        raise UserError(where, problem=error.problem, fix=error.fix) from None


def ablate(
    recipe: Recipe, output: Path, *, log: Callable[[str], None], command: str = "", workers: Jobs | None = None
) -> tuple[Table, Mapping[str, str]]:
    """Run every row of the recipe's ablation that is not finished in the folder `output`.

    Args:
        recipe: the baseline, and in its section ablate the rows and seeds.
        output: folder of the ablation; made if missing, continued if it is one of this recipe.
        log: called with a line for each stage of each row.
        command: the command that the report shows for reproducing it.
        workers: how rows run in parallel; None = one after the other, in this process.

    Returns:
        The table, and why rows failed, by row: a loss that is not finite, or a failed process.

    Raises:
        UserError: an input is wrong; when it was found before the first run, nothing was written.
        Interrupted: the user asked to stop; the same call continues.
        NonFiniteLoss: the loss became infinite while the teacher was adapted.
    """
    study = study_of(recipe, output, log=log)
    if not all(trial.is_finished() for trial in study.runs):
        check_study(study)
    else:
        check_folder(study)
    if recipe.finetune.tasks:
        log(f"ablate: {SCORED_ON}")
    return run_study(study, command, workers)
