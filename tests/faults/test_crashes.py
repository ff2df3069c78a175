"""The power fails at every file operation: nothing that was told to be durable is lost, nothing unfinished is believed.

Real code runs once while its folder is watched; then every state that a disk may have kept is built, and the same
command runs on it.
"""

import functools
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests.faults import simulated_disk, tiny_runs, tiny_training
from tinydistilbert import results, run_record
from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.distillation import teacher_cache
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.errors import UserError
from tinydistilbert.export import to_onnx as exporting
from tinydistilbert.models.loading import load_model
from tinydistilbert.pipeline import run as pipeline
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Distill, Recipe, TeacherCache
from tinydistilbert.report.card import write_card
from tinydistilbert.report.page import write_report
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.training import checkpoint

CPU = torch.device("cpu")
Promise = Callable[[Any], None]


@dataclass(frozen=True)
class Scenario:
    """Code that writes into a folder, and what must hold whenever it ends."""

    act: Callable[[Path, Promise], None]
    """In the folder; calls the promise with what is durable from there on."""
    judge: Callable[[Path, Any], None]
    """Of the folder as it was found and the last promise; raises when one of them does not hold."""
    before: Callable[[Path], None] = lambda _: None
    """Fills the folder, durably."""


@pytest.fixture(autouse=True)
def no_real_flushes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is a simulated one."""
    monkeypatch.setattr(os, "fsync", lambda _: None)


@pytest.fixture
def training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Scenario]:
    """Makes the scenario of a training: a checkpoint after each step, retention, the finished folder."""
    save = checkpoint.save

    def scenario(*, killed_before: int | None = None, **settings: Any) -> Scenario:
        reference = tmp_path / "reference"
        shutil.rmtree(reference, ignore_errors=True)
        reference.mkdir()
        tiny_training.Tiny(**settings).stage(reference / "stage")
        expected = simulated_disk.read(reference)

        def before(folder: Path) -> None:
            if killed_before is not None:
                with pytest.raises(tiny_training.Killed):
                    tiny_training.Tiny(die_at=killed_before, **settings).stage(folder / "stage")
                (folder / "stage.partial" / "checkpoints" / "step-00000009.partial").mkdir()
                with (folder / "stage.partial" / "log.jsonl").open("a") as log:
                    log.write('{"step": 3, "loss": 1')

        def act(folder: Path, promise: Promise) -> None:
            def save_and_promise(*arguments: Any, **named: Any) -> None:
                save(*arguments, **named)
                promise(arguments[3].step)

            with monkeypatch.context() as patch:
                patch.setattr(checkpoint, "save", save_and_promise)
                tiny_training.Tiny(**settings).stage(folder / "stage")
            promise("finished")

        def judge(folder: Path, promised: Any) -> None:
            stage = folder / "stage"
            is_finished = atomic.is_finished(stage)
            assert is_finished or promised != "finished", "the finished folder is lost"
            if is_finished:
                atomic.read_manifest(stage)
            again = tiny_training.Tiny(**settings)
            again.stage(stage)
            begun_at = tiny_training.STEPS if again.begun_at is None else again.begun_at
            assert is_finished or begun_at >= (promised or 0), f"it went on from {begun_at}, after {promised} was saved"
            content = simulated_disk.read(folder)
            assert content == expected, sorted(n for n in {**content, **expected} if content.get(n) != expected.get(n))

        return Scenario(act, judge, before)

    return scenario


@pytest.fixture
def run_trials(tmp_path: Path) -> Callable[..., None]:
    """Adds a trial to all of them for every state that a scenario may leave behind."""

    def run(all_of_them: Any, name: str, scenario: Scenario, wanted: Callable[[Any], bool] = lambda _: True) -> None:
        watched = tmp_path / f"watched {name}"
        watched.mkdir()
        scenario.before(watched)
        with simulated_disk.WatchedFolder(watched) as folder:
            scenario.act(watched, folder.promise)
        states = folder.states(wanted)
        assert len(states) > 1, "something was watched"
        for state in states:
            place = tmp_path / "found"
            with all_of_them.trial(f"{name}: {state.label}"):
                simulated_disk.build(state.tree, place)
                scenario.judge(place, state.promised)
            shutil.rmtree(place)
        all_of_them.count += len(states)
        all_of_them.facts[f"states of {name}"] = len(states)

    return run


def measurement(value: float) -> results.Measurement:
    """One that the report shows."""
    return results.Measurement(
        model="student", task="acceptability", split="validation", metric="matthews_correlation", value=value,
        higher_is_better=True, examples=16, examples_total=16, date="2026-01-01",
    )  # fmt: skip


def results_file() -> Scenario:
    """`results.jsonl` is replaced."""

    def write(folder: Path, value: float) -> None:
        results.write(folder / "results.jsonl", [measurement(value)] * 3)

    def act(folder: Path, promise: Promise) -> None:
        write(folder, 0.75)
        promise(0.75)

    def judge(folder: Path, promised: Any) -> None:
        values = {line.value for line in results.read(folder / "results.jsonl")}
        assert len(values) == 1 and (promised is None or values == {promised}), f"found {values}, after {promised}"
        write(folder, 0.5)
        assert {line.value for line in results.read(folder / "results.jsonl")} == {0.5}

    return Scenario(act, judge, before=functools.partial(write, value=0.5))


def appended_lines() -> Scenario:
    """A line is added to a file, twice."""

    def act(folder: Path, promise: Promise) -> None:
        for count in (1, 2):
            atomic.append_line(folder / "new" / "lines", f"line {count}")
            promise(count)

    def judge(folder: Path, promised: Any) -> None:
        path = folder / "new" / "lines"
        before = path.read_text().splitlines() if path.exists() else []
        assert before[: promised or 0] == ["line 1", "line 2"][: promised or 0]
        atomic.append_line(path, "line 3")
        after = path.read_text().splitlines()
        assert after == [*before, "line 3"], "a line that was cut short is by itself"

    return Scenario(act, judge)


def written_report(inputs: Any) -> Scenario:
    """A run's model card and report are written again."""
    settings = toml.load(str(inputs.recipe("report")))
    names = ("results.jsonl", "report.html", "student/README.md")
    contents: dict[str, list[bytes]] = {name: [] for name in names}

    def act(folder: Path, promise: Promise, value: float = 0.75) -> None:
        results.write(folder / "results.jsonl", [measurement(value)])
        promise(1)
        write_card(folder)
        promise(2)
        write_report(folder)
        promise(3)
        for name in names:
            contents[name].append((folder / name).read_bytes())

    def before(folder: Path) -> None:
        atomic.write_text(folder / "recipe.toml", toml.to_toml(settings))
        act(folder, lambda _: None, value=0.5)

    def judge(folder: Path, promised: Any) -> None:
        for number, name in enumerate(("results.jsonl", "student/README.md", "report.html"), start=1):
            old, new = contents[name]
            allowed = (new,) if (promised or 0) >= number else (old, new)
            assert old != new and (folder / name).read_bytes() in allowed, name

    return Scenario(act, judge, before)


def begun_run(inputs: Any) -> Scenario:
    """A run folder is made: its recipe, and what it reads."""
    settings = toml.load(str(inputs.recipe("begun")))

    def act(folder: Path, promise: Promise) -> None:
        with pipeline.claimed(
            pipeline.run_context(settings, folder / "runs" / "a", until="prepare", log=lambda _: None)
        ):
            promise(("recipe",))
            for name in ("texts", "examples"):  # the corpus is pinned with the recipe
                run_record.keep_fingerprint(RunFolder(folder / "runs" / "a"), name, f"those of {name}")
                promise(("recipe", "corpus", name))

    def judge(folder: Path, promised: Any) -> None:
        output = folder / "runs" / "a"
        assert run_record.is_begun(RunFolder(output), settings) or not promised, "the recipe is lost"
        kept = atomic.read_json(output / "inputs.json") if (output / "inputs.json").exists() else {}
        assert {*(promised or ())[1:]} <= {*kept}, f"only {kept} is kept"
        act(folder, lambda _: None)
        assert run_record.is_begun(RunFolder(output), settings)
        assert {path.name for path in output.iterdir()} == {"recipe.toml", "inputs.json"}
        with pytest.raises(UserError, match="the data changed since the run was begun"):
            run_record.keep_fingerprint(RunFolder(output), "corpus", "others")

    return Scenario(act, judge)


def token_cache(inputs: Any, tokenizer: PreTrainedTokenizerFast, read: Callable[[Path], dict[str, bytes]]) -> Scenario:
    """Token blocks are made."""
    corpus = replace(toml.load(str(inputs.recipe("tokens"))).corpus, block_size=16)
    expected: dict[str, bytes] = {}

    def act(folder: Path, promise: Promise) -> None:
        prepare(corpus, tokenizer, folder / "cache", None)
        promise("made")
        expected.update(read(folder))

    def judge(folder: Path, promised: Any) -> None:
        finished = [path for path in folder.glob("cache/tokens-????????????????") if atomic.is_finished(path)]
        assert finished or promised is None, "the finished blocks are lost"
        for path in finished:
            load_blocks(path)
        prepare(corpus, tokenizer, folder / "cache", None)
        assert read(folder) == expected

    return Scenario(act, judge)


def teachers_cache(
    inputs: Any, tokenizer: PreTrainedTokenizerFast, tmp_path: Path, read: Callable[[Path], dict[str, bytes]]
) -> Scenario:
    """Two views of a teacher's cache are made."""
    settings = Recipe(distill=Distill(cache=TeacherCache(kind="hidden", views=2)))
    corpus = replace(toml.load(str(inputs.recipe("teacher"))).corpus, block_size=64)
    blocks = load_blocks(prepare(corpus, tokenizer, tmp_path / "tokens", None))
    blocks = replace(blocks, train=blocks.train[:5])
    teacher = load_model(inputs.teacher, "masked-lm").eval()
    expected: dict[str, bytes] = {}

    def make(folder: Path) -> None:
        setup = PretrainingSetup.of(settings, blocks, CPU)
        batches = setup.batches(settings.objective, settings.distill.optimization, steps=1)
        wanted = settings.distill.cache
        teacher_cache.make_cache(wanted, batches, teacher, folder / "caches", setup.compute, lambda _: None)

    def act(folder: Path, promise: Promise) -> None:
        make(folder)
        promise(2)
        expected.update(read(folder))

    def judge(folder: Path, promised: Any) -> None:
        finished = [path for path in folder.glob("caches/*/view-?") if atomic.is_finished(path)]
        assert len(finished) >= (promised or 0), "a finished view is lost"
        for path in finished:
            atomic.read_manifest(path)
        make(folder)
        assert read(folder) == expected

    return Scenario(act, judge)


def exported_model(inputs: Any, read: Callable[[Path], dict[str, bytes]], monkeypatch: pytest.MonkeyPatch) -> Scenario:
    """A model is exported."""
    monkeypatch.setattr(exporting, "_traced", functools.cache(exporting._traced))  # which takes seconds
    monkeypatch.setattr(exporting, "_check_parity", lambda *_: None)
    expected: dict[str, bytes] = {}

    def act(folder: Path, promise: Promise) -> None:
        exporting.export(inputs.teacher, folder / "exported")
        promise("made")
        expected.update(read(folder))

    def judge(folder: Path, promised: Any) -> None:
        output = folder / "exported"
        assert atomic.is_finished(output) or promised is None, "the finished export is lost"
        if atomic.is_finished(output):
            atomic.read_manifest(output)
        else:
            exporting.export(inputs.teacher, output)
        assert read(folder) == expected

    return Scenario(act, judge)


def test_what_was_durable_survives_a_crash_at_every_file_operation(
    trials: Callable[..., Any],
    run_trials: Callable[..., None],
    training: Callable[..., Scenario],
    tokenizer: PreTrainedTokenizerFast,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The quick tier: every operation of the third checkpoint, at which the first one is deleted."""
    is_full = os.environ.get("FAULTS") == "full"
    with trials("a crash at every file operation", quick=0, full=0) as all_of_them:
        if not is_full:
            run_trials(all_of_them, "a checkpoint", training(), lambda moment: moment.promised == 2)
            return
        run_trials(all_of_them, "a training", training())
        run_trials(all_of_them, "a training that goes on", training(killed_before=2))
        run_trials(all_of_them, "a training with a choice", training(scores={2: 0.75, 4: 0.5}))
        run_trials(all_of_them, "results.jsonl", results_file())
        run_trials(all_of_them, "appended lines", appended_lines())
        read, inputs = simulated_disk.read, tiny_runs.Inputs(tmp_path / "inputs", tokenizer, 6)
        run_trials(all_of_them, "report and card", written_report(inputs))
        run_trials(all_of_them, "a run folder", begun_run(inputs))
        run_trials(all_of_them, "token blocks", token_cache(inputs, tokenizer, read))
        run_trials(all_of_them, "a teacher's cache", teachers_cache(inputs, tokenizer, tmp_path, read))
        run_trials(all_of_them, "an export", exported_model(inputs, read, monkeypatch))
