"""`sweep` as a user calls it: trials that are runs, killed and gone on with, and the mistakes in a space."""

import json
import signal
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.forks import Forks
from tinydistilbert import progress, results
from tinydistilbert.cli.main import main
from tinydistilbert.errors import Interrupted, UserError
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.storage import atomic
from tinydistilbert.tuning import run as sweeping
from tinydistilbert.tuning.space import Space
from tinydistilbert.tuning.study import SweepSetup, sweep_of

optuna = pytest.importorskip("optuna", reason="optuna (extra sweep) is not installed")
pytestmark = pytest.mark.long
SPACE = """
[distill.optimization.learning_rate]
low = 1e-4
high = 1e-2
log = true
["student.initialization"]
choices = ["teacher", "random"]
"""


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_text: str) -> Path:
    text = recipe_text.replace('tasks = ["acceptability", "adjacency", "cloze-qa"]', 'tasks = ["adjacency"]')
    text = text.replace("max_steps = 40", "max_steps = 4").replace("train_examples = 40\n", "")
    (tmp_path / "space.toml").write_text(SPACE)
    path = tmp_path / "tiny.toml"
    path.write_text(text)
    return path


def arguments(recipe: Path, *more: str) -> list[str]:
    output = recipe.parent / "swept"
    return ["sweep", str(recipe), "--space", str(recipe.parent / "space.toml"), "--output", str(output), *more]


def call(*given: str) -> int:
    try:
        main(list(given))
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def states(output: Path) -> list[str]:
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(output / "trials.log")))
    return [trial.state.name for trial in optuna.load_study(study_name=None, storage=storage).trials]


def test_trials_are_runs_that_are_compared_on_held_out_examples(
    recipe_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = recipe_file.parent / "swept"
    assert call(*arguments(recipe_file, "--trials", "2", "--json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert sorted(path.name for path in (output / "trials").iterdir() if path.is_dir()) == ["0000", "0001"]
    scores = []
    for number in (0, 1):
        (path,) = (output / "trials" / f"{number:04d}" / "tasks" / "adjacency").glob(
            "student/seed-0/scores/measurements.jsonl"
        )
        measured = next(m for m in results.read(path) if m.metric == "accuracy")
        assert measured.split not in ("validation", "test")
        scores.append(100 * measured.value)
    best = scores.index(max(scores))
    assert f"trial {best}, {max(scores):.1f} points" in printed["best"]
    tried = toml.read(output / "trials" / f"{best:04d}" / "recipe.toml")
    best_recipe = toml.read(output / "best.toml")
    assert best_recipe.distill.optimization.learning_rate == tried.distill.optimization.learning_rate
    assert best_recipe.student.initialization == tried.student.initialization
    assert best_recipe.finetune.score_on != "train"  # the best is scored as the recipe says
    page = (output / "report.html").read_text()
    assert "Trial by trial" in page and "distill.optimization.learning_rate" in page

    before = (output / "trials" / "0000" / "results.jsonl").stat().st_mtime_ns
    assert call(*arguments(recipe_file, "--trials", "2")) == 0
    assert (output / "trials" / "0000" / "results.jsonl").stat().st_mtime_ns == before
    assert states(output) == ["COMPLETE"] * 2

    (recipe_file.parent / "space.toml").write_text(SPACE.replace("1e-2", "1e-3"))
    assert call(*arguments(recipe_file, "--trials", "2")) == 2
    assert "another space" in capsys.readouterr().err


def test_a_killed_process_leaves_a_trial_that_another_finishes(recipe_file: Path, forks: Forks, tmp_path: Path) -> None:
    output = recipe_file.parent / "swept"
    child = forks.start("main", {"arguments": arguments(recipe_file, "--trials", "2")})
    begun = output / "trials" / "0000" / "recipe.toml"
    assert child.wait_until(lambda _: begun.exists()), f"no trial was begun: {child.err()}"
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, child.err()
    assert states(output) == ["RUNNING"]
    assert call(*arguments(recipe_file, "--trials", "2", "--quiet")) == 0
    assert states(output) == ["COMPLETE", "COMPLETE"]
    assert not list((output / "trials").glob("*.lock"))


def test_a_trial_behind_the_others_is_stopped() -> None:
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=2))
    for worth in (1.0, 2.0):
        trial = study.ask()
        with sweeping._judged(trial):
            progress.emit(step=1, **{"validation/kl": worth})
        study.tell(trial, values=-worth)
    trial = study.ask()
    with pytest.raises(optuna.TrialPruned), sweeping._judged(trial):
        progress.emit(step=1, **{"validation/kl": 9.0})
    trial = study.ask()
    with sweeping._judged(trial):
        progress.emit(step=1, **{"validation/kl": 0.5})
        progress.emit(step=1, loss=3.0)  # of a step: nothing to compare by
    assert study.trials[trial.number].intermediate_values == {0: -0.5}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "names no setting"),
        ("not toml", "cannot be read"),
        ("[corpus.block_size]\nlow = 8\nhigh = 16", "corpus.block_size"),
        ("[distill.optimization.learnin_rate]\nlow = 1e-5\nhigh = 1e-3", "learnin_rate"),
        ("[distill.optimization.learning_rate]\nlow = 1e-3\nhigh = 1e-5", "low below high"),
        ("[distill.optimization.learning_rate]\nlow = 0\nhigh = 1\nlog = true", "above 0"),
        ("[distill.optimization.learning_rate]\nlow = 1e-5", "low and high"),
        ("[objective.kl]\nlow = 1.0\nhigh = 4.0\nstep = 0", "a step above 0"),
        ("[distill.max_steps]\nlow = 1\nhigh = 4\nstep = 0.5", "step is 0.5"),
        ("[distill.optimization.learning_rate]\nmin = 1e-5", "low, high, log, step, or choices"),
        ('[student.initialization]\nchoices = ["teacher"]', "two values"),
        ('[student.initialization]\nchoices = ["teacher", "rondom"]', "rondom"),
        ("[masking.rate]\nlow = 0.1\nhigh = 7.0", "7.0"),
        ('[masking.rate]\nlow = 0.1\nhigh = 0.2\nlog = "false"', "true or false as log"),
        ("[objective.kl]\n[masking.rate]\nlow = 0.1\nhigh = 0.2", "objective.kl"),
    ],
)
def test_a_wrong_space_is_refused_before_anything_is_written(
    recipe_file: Path, text: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (recipe_file.parent / "space.toml").write_text(text)
    assert call(*arguments(recipe_file)) == 2
    error = capsys.readouterr().err.strip()
    assert words in error and "\n" not in error.removeprefix("error: ")
    assert not (recipe_file.parent / "swept").exists()


def test_a_dry_run_writes_nothing(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(*arguments(recipe_file, "--dry-run", "--trials", "7")) == 0
    printed = capsys.readouterr().out
    assert "7 trials" in printed and "learning_rate: 0.0001 to 0.01, by ratio" in printed
    assert not (recipe_file.parent / "swept").exists()


def test_what_trials_share_is_estimated_once(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The text is prepared and the teacher adapted before the trials, which fit no baselines."""
    asked: list[Recipe] = []

    def planned(run: RunContext) -> dict[str, Any]:
        asked.append(run.recipe)
        seconds = {"prepare": 100.0, "adapt": 1000.0, "distill": 7.0, "evaluate": None}
        return {"stages": [{"stage": name, "seconds": each} for name, each in seconds.items()], "seconds": 1107.0}

    monkeypatch.setattr(sweeping.dry_run, "plan_as_json", planned)
    for tokens, seconds in ((4096, 1100 + 5 * 7), (0, 100 + 5 * 1007)):
        more = ("--dry-run", "--json", "--trials", "5", "--adapt.tokens", str(tokens))
        assert call(*arguments(recipe_file, *more)) == 0
        assert json.loads(capsys.readouterr().out)["seconds"] == seconds
    assert [(recipe.adapt.tokens, recipe.finetune.baselines) for recipe in asked] == [(4096, False), (0, False)]
    base = recipe_file.parent / "swept" / "base" / "teacher"
    base.mkdir(parents=True)
    atomic.write_manifest(base)
    assert call(*arguments(recipe_file, "--dry-run", "--trials", "1", "--adapt.tokens", "4096")) == 0
    assert "1 trial of about 7 s each, in all 7 s of one process" in capsys.readouterr().out


@pytest.mark.parametrize("select", ["heldout", "reported"])
def test_a_recipe_that_chooses_an_epoch_has_trials_that_can_be_read_again(recipe_file: Path, select: str) -> None:
    """The last epoch counts, as in an ablation: the held-out examples choose the settings."""
    recipe = toml.read(recipe_file)
    rates = (1e-4, 1e-3) if select == "heldout" else ()
    finetune = replace(recipe.finetune, select=select, learning_rates=rates)
    space = recipe_file.parent / "space.toml"
    swept = sweep_of(replace(recipe, finetune=finetune), space, space.parent / "swept", storage="", log=pytest.fail)
    trial = swept.recipe_of(0, {})
    assert toml.from_toml(toml.to_toml(trial), "trial") == trial


def test_trials_without_the_row_teacher_have_no_encoder_for_it(recipe_file: Path) -> None:
    recipe = toml.read(recipe_file)
    alone = replace(recipe.finetune.distillation, tasks="none")
    finetune = replace(recipe.finetune, models=("teacher", "student"), teacher="original", distillation=alone)
    space = recipe_file.parent / "space.toml"
    swept = sweep_of(replace(recipe, finetune=finetune), space, space.parent / "swept", storage="", log=pytest.fail)
    trial = swept.recipe_of(0, {})
    assert trial.finetune.models == ("student",) and toml.from_toml(toml.to_toml(trial), "trial") == trial


def test_trials_that_all_fail_from_some_moment_on_end_the_sweep() -> None:
    """Each is replaced by another one, which would go on without end."""
    study = optuna.create_study()
    study.tell(study.ask(), 1.0)
    for number in range(sweeping.FAILED_IN_A_ROW):
        sweeping._refuse_hopeless(study, "no such file") if number else None
        study.tell(study.ask(), state=optuna.trial.TrialState.FAIL)
    study.ask()  # one that another process works on
    with pytest.raises(UserError, match="10 trials in a row failed, the last with: no such file"):
        sweeping._refuse_hopeless(study, "no such file")
    study.tell(1 + sweeping.FAILED_IN_A_ROW, 1.0)
    sweeping._refuse_hopeless(study, "no such file")


def test_a_space_may_begin_with_a_byte_order_mark(recipe_file: Path) -> None:
    (recipe_file.parent / "space.toml").write_text(SPACE.lstrip(), encoding="utf-8-sig")
    assert len(Space.read(recipe_file.parent / "space.toml", toml.read(recipe_file)).dimensions) == 2


def test_what_each_dimension_suggests(recipe_file: Path) -> None:
    (recipe_file.parent / "space.toml").write_text("[finetune.epochs]\nlow = 1\nhigh = 3\n" + SPACE)
    space = Space.read(recipe_file.parent / "space.toml", toml.read(recipe_file))
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    drawn: list[dict[str, Any]] = [space.suggest(study.ask()) for _ in range(20)]
    assert {values["finetune.epochs"] for values in drawn} == {1, 2, 3}
    assert {values["student.initialization"] for values in drawn} == {"teacher", "random"}
    rates = [values["distill.optimization.learning_rate"] for values in drawn]
    assert min(rates) >= 1e-4 and max(rates) <= 1e-2 and sum(rate < 1e-3 for rate in rates) >= 5


def test_a_storage_that_is_none(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (recipe_file.parent / "no.db").write_text("this is no data base, " * 100)
    storage = f"sqlite:///{recipe_file.parent / 'no.db'}"
    assert call(*arguments(recipe_file, "--storage", storage)) == 2
    assert "storage" in capsys.readouterr().err


@contextmanager
def held(storage: Path) -> Iterator[str]:
    """A data base that another program has for itself; its URL."""
    optuna.create_study(storage=f"sqlite:///{storage}", study_name="another")
    with closing(sqlite3.connect(storage, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        yield f"sqlite:///{storage}?timeout=0.1"


def test_a_storage_that_another_program_holds(recipe_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with held(recipe_file.parent / "held.db") as storage:
        assert call(*arguments(recipe_file, "--storage", storage)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "database is locked" in error and "no other program locks it" in error
    assert not (recipe_file.parent / "swept" / "trials").exists()


def test_a_storage_that_is_held_on_the_way_does_not_fail_the_trial(
    recipe_file: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    storage = f"sqlite:///{recipe_file.parent / 'ours.db'}?timeout=0.1"
    with ExitStack() as stack:

        def hold(*_: object) -> tuple[str, ...]:
            other = stack.enter_context(closing(sqlite3.connect(recipe_file.parent / "ours.db", isolation_level=None)))
            other.execute("BEGIN EXCLUSIVE")
            return ()

        monkeypatch.setattr(sweeping, "_adapt_once", lambda _: None)
        monkeypatch.setattr(sweeping, "run_stages", hold)
        monkeypatch.setattr(SweepSetup, "value", lambda *_: 1.0)
        assert call(*arguments(recipe_file, "--storage", storage, "--trials", "1")) == 2
    assert "database is locked" in capsys.readouterr().err
    assert [trial.state.name for trial in optuna.load_study(study_name=None, storage=storage).trials] == ["RUNNING"]


def test_two_sweeps_of_one_name_do_not_share_a_record(recipe_file: Path) -> None:
    recipe, space = toml.read(recipe_file), recipe_file.parent / "space.toml"
    storage = f"sqlite:///{recipe_file.parent / 'shared.db'}"

    def opened(recipe: Recipe, output: str) -> str:
        swept = sweep_of(recipe, space, recipe_file.parent / output, storage=storage, log=pytest.fail)
        return str(swept.study().study_name)

    assert opened(recipe, "one") == opened(replace(recipe, device="cuda"), "elsewhere") == recipe.name
    with pytest.raises(UserError, match=r"another recipe or space; give the recipe another name"):
        opened(replace(recipe, seed=7), "two")
    space.write_text(SPACE.replace("1e-2", "1e-3"))
    with pytest.raises(UserError, match="another recipe or space"):
        opened(recipe, "three")
    assert opened(replace(recipe, name="other"), "four") == "other"


def test_a_sweep_goes_on_with_another_device_and_keys_that_it_was_begun_without(recipe_file: Path) -> None:
    recipe, space = toml.read(recipe_file), recipe_file.parent / "space.toml"

    def claim(recipe: Recipe) -> SweepSetup:
        swept = sweep_of(recipe, space, recipe_file.parent / "swept", storage="", log=pytest.fail)
        swept.claim()
        return swept

    folder = claim(recipe).folder
    lines = folder.recipe.read_text().splitlines(keepends=True)
    folder.recipe.write_text("".join(line for line in lines if not line.startswith("streaming =")))
    claim(replace(recipe, device="cuda", data="elsewhere"))
    with pytest.raises(UserError, match=r"expected a sweep of this recipe, found a sweep with seed = 0 \(here 7\)"):
        claim(replace(recipe, seed=7))


def test_a_space_with_values_of_another_kind_is_refused(recipe_file: Path) -> None:
    recipe, space = toml.read(recipe_file), recipe_file.parent / "space.toml"
    storage = f"sqlite:///{recipe_file.parent / 'shared.db'}"
    whole = '[objective.kl]\nlow = 0\nhigh = 1\n["student.initialization"]\nchoices = ["teacher", "random"]'
    for text in (whole, whole, whole.replace("0", "0.0").replace("= 1", "= 1.0")):
        space.write_text(text)
        swept = sweep_of(recipe, space, recipe_file.parent / "swept", storage=storage, log=pytest.fail)
        if text == whole:
            swept.space.suggest(swept.study().ask())
    with pytest.raises(UserError, match=r"objective\.kl had values of another kind when the sweep was begun"):
        swept.study()


def test_the_seconds_of_a_trial_that_was_stopped_count(recipe_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe, space = toml.read(recipe_file), recipe_file.parent / "space.toml"
    swept = sweep_of(recipe, space, recipe_file.parent / "swept", storage="", log=lambda _: None)
    swept.claim()
    study = swept.study()
    trial = study.ask()

    def stop(_: object) -> tuple[str, ...]:
        raise Interrupted("stopped")

    monkeypatch.setattr(sweeping, "run_context", lambda *_, **__: None)
    monkeypatch.setattr(sweeping, "run_stages", stop)
    with pytest.raises(Interrupted):
        sweeping._run(study, trial, swept, lambda _: None)
    (left,) = study.trials
    assert left.state.name == "RUNNING" and left.user_attrs[sweeping.SECONDS] > 0


def test_without_optuna_the_command_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "optuna", None)
    from tinydistilbert import optional

    with pytest.raises(UserError, match="sweep"):
        optional.require("optuna", extra="sweep")
