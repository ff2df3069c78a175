"""Run the trials of a sweep; several processes share its folder and its storage."""

import dataclasses
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from tinydistilbert import progress
from tinydistilbert.dry_run import plan as dry_run
from tinydistilbert.errors import NonFiniteLoss, UserError
from tinydistilbert.notices import counted
from tinydistilbert.pipeline.preflight import check_data_folder
from tinydistilbert.pipeline.run import check_inputs, run_context, run_stages
from tinydistilbert.progress import duration
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report.sweep import Swept, TrialRow, write_sweep
from tinydistilbert.report.table import Table
from tinydistilbert.storage import atomic, locks
from tinydistilbert.tuning.study import STARTUP_TRIALS, SweepSetup, storage_errors, sweep_of
from tinydistilbert.workers.jobs import Jobs, Part
from tinydistilbert.workers.process import stop_with_parent
from tinydistilbert.workers.run import run_parts

TRIALS = 20
"""The default number of trials."""
WHY, SECONDS = "why", "seconds"
"""Attributes of a trial in Optuna's record: why it failed, and the seconds of all processes that worked on it."""
FAILED_AT_ONCE = 3
"""If this many trials fail before one succeeds, the recipe is wrong."""
FAILED_IN_A_ROW = 10
"""If so many trials fail one after the other, something changed, such as the data: each is replaced, without end."""


def sweep(
    recipe: Recipe, space: Path, output: Path, *, trials: int, storage: str = "", log: Callable[[str], None],
    command: str = "", workers: Jobs | None = None,
) -> tuple[Table, str]:  # fmt: skip
    """Try settings of a recipe until that many trials are done, and write table and page.

    The same call in another process joins the sweep. After a kill, the same call continues, and so does the trial that
    was stopped. Each trial is an ordinary run in `output/trials`.

    Args:
        recipe: the recipe to run repeatedly.
        space: file of the settings and their limits (`Space.read`).
        output: folder of the sweep; made if missing, continued if it is one of this recipe and space.
        trials: total number of trials, of all processes; those stopped early count.
        storage: URL of a database for Optuna; empty = a journal in the folder.
        log: called with a line for each stage of each trial.
        command: the command line that the page shows.
        workers: how trials run in parallel; None = one after the other, in this process.

    Returns:
        The table, and the best trial in a sentence.

    Raises:
        UserError: an input is wrong, or the first trials all failed.
        Interrupted: the user asked to stop; the same call continues.
    """
    swept = sweep_of(recipe, space, output, storage=storage, log=log)
    check_data_folder(recipe.data)
    check_inputs(run_context(recipe, swept.folder.base.path, until=swept.until, log=log))
    swept.claim()
    study = swept.study()
    if swept.shares_teacher:
        _adapt_once(swept)
    log(f"sweep: {basis(swept)}")
    with storage_errors(swept.where):  # which leave a trial as it is: the same command goes on with it
        study.sampler = _sampler(recipe.seed + len(study.trials))
        if workers:
            _run_side_by_side(study, swept, trials, workers, space, command)
            return publish(study, swept, command)
        while _left(study, trials) > 0 or _stopped(study, swept):
            trial = _stopped(study, swept) or study.ask()
            with ExitStack() as held:
                try:
                    held.enter_context(locks.alone(swept.folder.lock(trial.number), where=f"trial {trial.number}"))
                except UserError:
                    continue  # another process took it up first
                if _state(study, trial.number) == "RUNNING":
                    _run(study, trial, swept, swept.log_of(trial.number))
            publish(study, swept, command)
        return publish(study, swept, command)


def _run_side_by_side(
    study: Any, swept: SweepSetup, trials: int, workers: Jobs, space: Path, command: str
) -> None:  # fmt: skip
    """Run trials in separate processes until that many are done."""
    begun: dict[str, int] = {}
    storage = ("--storage", swept.storage) if swept.storage else ()
    recipe, output = str(swept.folder.recipe), str(swept.folder.path)
    device_and_data = ("--device", swept.recipe.device, *(("--data", swept.recipe.data) if swept.recipe.data else ()))

    def next_part() -> Part | None:
        trial = _stopped(study, swept, besides=begun.values())
        if trial is None and _left(study, trials) > 0:
            trial = study.ask()
        if trial is None:
            return None
        swept.space.suggest(trial)  # by this process's sampler, whose draws depend on the seed
        name = f"trial {trial.number}"
        part = ("--output", output, *device_and_data, *storage, "--part", str(trial.number))
        begun[name] = trial.number
        return Part(name, ("sweep", recipe, "--space", str(space), *part))

    def ended(part: Part, why: str) -> None:
        number = begun[part.name]
        if why and _state(study, number) == "RUNNING":
            swept.log(f"{part.name}: failed, {why}")
            _trial(study, number).set_user_attr(WHY, why)
            study.tell(number, state=_fail())
        publish(study, swept, command)
        if why:
            _refuse_hopeless(study, why)

    left = max(0, _left(study, trials)) + sum(trial.state.name == "RUNNING" for trial in study.trials)
    run_parts(workers, left, next_part, ended, folder=swept.folder.path, log=swept.log)


def run_trial(
    recipe: Recipe, space: Path, output: Path, number: str, *, storage: str, log: Callable[[str], None]
) -> None:
    """Run one trial, in a process that another one started for `jobs`.

    Raises:
        UserError: there is no such trial, or its settings are wrong.
    """
    stop_with_parent()
    swept = sweep_of(recipe, space, output, storage=storage, log=log)
    study = swept.study()
    if not number.isdecimal() or int(number) >= len(study.trials):
        fix = "leave --part out: --jobs passes it to the processes that it starts"
        raise UserError("--part", expected="the number of a trial", found=repr(number), fix=fix)
    lock = locks.alone(swept.folder.lock(int(number)), where=f"trial {number}", wait=True)
    with storage_errors(swept.where), lock:
        if _state(study, int(number)) == "RUNNING":  # not finished by another process
            _run(study, _trial(study, int(number)), swept, log)


def _trial(study: Any, number: int) -> Any:
    """Return a trial that continues."""
    import optuna

    return optuna.trial.Trial(study, study.trials[number]._trial_id)


def _fail() -> Any:
    import optuna

    return optuna.trial.TrialState.FAIL


def _refuse_hopeless(study: Any, why: str) -> None:
    """End a sweep whose first trials all failed, or whose newest did.

    Raises:
        UserError: all of them failed.
    """
    states = [other.state.name for other in study.trials]
    if states.count("FAIL") >= FAILED_AT_ONCE and "COMPLETE" not in states:
        raise UserError("sweep", problem=f"its first trials failed, the last with: {why}", fix="see the recipe")
    newest = [state for state in states if state != "RUNNING"][-FAILED_IN_A_ROW:]
    if newest == ["FAIL"] * FAILED_IN_A_ROW:
        problem = f"{FAILED_IN_A_ROW} trials in a row failed, the last with: {why}"
        raise UserError("sweep", problem=problem, fix="correct that, and run the same command again")


def basis(swept: SweepSetup) -> str:
    """Say what the trials are compared by."""
    if swept.is_scored:
        return f"trials are compared by the row {swept.row!r} on examples held out of the train splits"
    return "trials are compared by the KL to the teacher on held-out text"


def _sampler(seed: int) -> Any:
    import optuna

    # With constant_liar a process avoids what another one is trying; older versions call it experimental.
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP_TRIALS, constant_liar=True)


def _adapt_once(swept: SweepSetup) -> None:
    base = run_context(swept.recipe, swept.folder.base.path, until="adapt", log=swept.log)
    with locks.alone(swept.folder.path / "base.lock", where="the adapted teacher of the sweep", wait=True):
        if not atomic.is_finished(swept.folder.base.teacher):
            run_stages(base)


def _left(study: Any, trials: int) -> int:
    begun: int = sum(trial.state.name != "FAIL" for trial in study.trials)
    return trials - begun


def _state(study: Any, number: int) -> str:
    name: str = study.trials[number].state.name
    return name


def _stopped(study: Any, swept: SweepSetup, besides: Collection[int] = ()) -> Any:
    """Return a trial that a process left unfinished and no other process works on; None if there is none."""
    import optuna

    for frozen in study.get_trials(deepcopy=False, states=(optuna.trial.TrialState.RUNNING,)):
        if frozen.number in besides:
            continue
        lock = swept.folder.lock(frozen.number)
        try:
            with locks.alone(lock, where=f"trial {frozen.number}"):
                return _trial(study, frozen.number)
        except UserError:
            continue
    return None


def _run(study: Any, trial: Any, swept: SweepSetup, log: Callable[[str], None]) -> None:
    """Run a trial to its end, and tell Optuna."""
    import optuna

    number, begun = trial.number, time.monotonic()
    run = swept.folder.trial(number)

    def add_seconds() -> None:
        trial.set_user_attr(SECONDS, trial.user_attrs.get(SECONDS, 0.0) + time.monotonic() - begun)

    def end_trial(why: str = "", **result: Any) -> None:
        add_seconds()
        if why:
            log(f"failed, {why}")
            trial.set_user_attr(WHY, why)
        study.tell(trial, **result)

    try:
        values = swept.space.suggest(trial)  # a trial that continues keeps its values
        log(
            ", ".join(
                f"{key} = {value:g}" if isinstance(value, float) else f"{key} = {value}"
                for key, value in values.items()
            )
        )
        recipe = swept.recipe_of(number, values)
        with _judged(trial):
            failures = run_stages(run_context(recipe, run.path, until=swept.until, log=log))
        if failures:
            raise NonFiniteLoss("; ".join(failures))
    except optuna.TrialPruned:
        log("stopped early: behind the median of the trials before it")
        end_trial(state=optuna.trial.TrialState.PRUNED)
    except (NonFiniteLoss, UserError) as error:
        end_trial(str(error), state=_fail())
        _refuse_hopeless(study, str(error))
    except BaseException:  # stopped: the trial continues later
        add_seconds()
        raise
    else:
        end_trial(values=swept.value(run, recipe))


@contextmanager
def _judged(trial: Any) -> Iterator[None]:
    """Report each measurement on held-out text or examples to Optuna, which may stop the trial.

    Each measurement is numbered by those before it, so that trials are compared at the same point.
    """
    import optuna

    maximizes = trial.study.direction == optuna.study.StudyDirection.MAXIMIZE
    reported = len(trial.study.trials[trial.number].intermediate_values)  # not 0 if the trial continues

    def listen(event: dict[str, Any]) -> None:
        nonlocal reported
        kl = event.get("validation/kl")
        value = event.get("validation/score") if kl is None else -kl if maximizes else kl
        if value is None:
            return
        trial.report(float(value), reported)
        reported += 1
        if trial.should_prune():
            raise optuna.TrialPruned

    with progress.listening(listen):
        yield


def publish(study: Any, swept: SweepSetup, command: str) -> tuple[Table, str]:
    """Write table, page and the best recipe of what is finished so far."""
    rows = [
        TrialRow(
            trial.number, trial.state.name, trial.value, dict(trial.params), trial.user_attrs.get(SECONDS),
            trial.user_attrs.get(WHY, ""),
        )
        for trial in study.trials
    ]  # fmt: skip
    done = [row for row in rows if row.state == "COMPLETE"]
    sign = 1 if swept.is_scored else -1
    best = max(done, key=lambda row: sign * (row.value or 0.0), default=None)
    made = Swept(swept.recipe, rows, best, swept.is_scored, basis(swept), importance(study))
    with locks.alone(swept.folder.path / "page.lock", where="the page of the sweep", wait=True):
        if best:
            recipe = swept.space.recipe(swept.recipe, best.values)
            recipe = dataclasses.replace(recipe, name=f"{swept.recipe.name}-best")
            atomic.write_text(swept.folder.best, to_toml(recipe))
        return write_sweep(swept.folder, made, command=command), made.best_in_words


def importance(study: Any) -> dict[str, float]:
    """Return the share of the differences between trials that each setting explains (fANOVA); empty if unknown."""
    import optuna

    done = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(done) < 4 or len({trial.value for trial in done}) < 2:
        return {}
    shares: dict[str, float] = optuna.importance.get_param_importances(
        study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
    )
    return shares


def plan(recipe: Recipe, space: Path, output: Path, *, trials: int) -> dict[str, Any]:
    """Return what `sweep` would do, and about how long it would take one process; nothing is written.

    Raises:
        UserError: an input is wrong.
    """
    swept = sweep_of(recipe, space, output, storage="", log=lambda _: None)
    # As the trials are, but with the teacher that is adapted before them, in a folder that no run has.
    of_trial = dataclasses.replace(swept.recipe_of(0, {}), teacher=recipe.teacher, adapt=recipe.adapt)
    planned = dry_run.plan_as_json(run_context(of_trial, output / "planned", until=swept.until, log=swept.log))
    shared = ("prepare", "adapt") if swept.shares_teacher else ("prepare",)
    once = sum(line["seconds"] or 0.0 for line in planned["stages"] if line["stage"] in shared)
    each = planned["seconds"] - once
    if swept.shares_teacher and atomic.is_finished(swept.folder.base.teacher):
        once = 0.0
    return {
        "settings": {dimension.key: dimension.description for dimension in swept.space.dimensions},
        "compared_by": basis(swept), "trials": trials, "seconds": once + trials * each, "seconds_of_trial": each,
        "output": str(output),
    }  # fmt: skip


def plan_in_words(planned: dict[str, Any]) -> str:
    """Return a plan as plain text."""
    settings = [f"{key}: {values}" for key, values in planned["settings"].items()]
    each = duration(planned["seconds_of_trial"])
    lines = [
        f"{counted(planned['trials'], 'trial')} of about {each} each, in all {duration(planned['seconds'])} of one "
        "process",
        planned["compared_by"],
        "an estimate; trials that fall behind are stopped early. Nothing was written.",
    ]
    return "\n".join([*settings, "", *lines])
