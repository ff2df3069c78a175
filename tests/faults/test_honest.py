"""Planted bugs are caught: each harness is silent about the code as it is, and loud about code with one known fault.

A harness that cannot fail would prove nothing.
"""

import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.faults import simulated_disk, tiny_training
from tinydistilbert.errors import UserError
from tinydistilbert.storage import atomic, disk
from tinydistilbert.training import checkpoint
from tinydistilbert.training import loop as training

Plant = Callable[[pytest.MonkeyPatch], None]


@dataclass(frozen=True)
class Harness:
    """Small forms of what the other tests of this folder do; each raises where a promise is broken.

    Args:
        folder: new and empty.
    """

    folder: Path

    def replaced_file(self) -> None:
        """After a crash at any operation a file has its old content or its new one."""
        watched, path = self._new("watched"), "a.json"
        atomic.write_json(watched / path, {"value": "old"})
        with simulated_disk.WatchedFolder(watched) as folder:
            atomic.write_json(watched / path, {"value": "new"})
            folder.promise("new")
        for state in folder.states():
            content = state.tree.get(path)
            expected = {json_of("new")} if state.promised else {json_of("old"), json_of("new")}
            assert content in expected, f"neither old nor new: {content!r}"

    def crash(self) -> None:
        """After a crash at any operation of a third checkpoint a training goes on from the second or the third."""
        save, watched = checkpoint.save, self._new("watched")
        with simulated_disk.WatchedFolder(watched) as folder, pytest.MonkeyPatch.context() as patch:

            def save_and_promise(*arguments: Any, **named: Any) -> None:
                save(*arguments, **named)
                folder.promise(arguments[3].step)

            patch.setattr(checkpoint, "save", save_and_promise)
            with pytest.raises(tiny_training.Killed):
                tiny_training.Tiny(die_at=3).stage(watched / "stage")
        for state in folder.states(lambda moment: moment.promised == 2):
            crashed = self._new("found")
            shutil.rmtree(crashed)
            simulated_disk.build(state.tree, crashed)
            again = tiny_training.Tiny(die_at=3)
            with pytest.raises(tiny_training.Killed):
                again.stage(crashed / "stage")
            assert again.begun_at >= state.promised, f"it went on from {again.begun_at}, {state.promised} was saved"

    def kill(self) -> None:
        """Killed before any checkpoint is saved, when its step is in the log, it ends as never killed."""
        expected, save = self._ended("never killed"), checkpoint.save
        for step in range(1, tiny_training.STEPS + 1):

            def dying(*arguments: Any, at: int = step, **named: Any) -> None:
                if arguments[3].step == at:
                    raise tiny_training.Killed
                save(*arguments, **named)

            with pytest.MonkeyPatch.context() as patch, pytest.raises(tiny_training.Killed):
                patch.setattr(checkpoint, "save", dying)
                self._ended("killed")
            resumed = self._ended("killed", new=False)
            assert resumed == expected, (
                f"killed at {step}: other {sorted(n for n in resumed if resumed[n] != expected.get(n))}"
            )

    def damage(self) -> None:
        """With one bit of the newest checkpoint flipped, it goes on from the one before, and ends the same."""
        expected, output = self._ended("undamaged"), self._new("damaged") / "stage"
        with pytest.raises(tiny_training.Killed):
            tiny_training.Tiny(die_at=3).stage(output)
        (weights,) = output.with_name("stage.partial").glob("checkpoints/step-*3/model.safetensors")
        content = bytearray(weights.read_bytes())
        content[-3] ^= 64
        weights.write_bytes(content)
        tiny_training.Tiny().stage(output)
        assert simulated_disk.read(output) == expected, "other results"

    def other_training(self) -> None:
        """A checkpoint of a longer training is not taken for one of this training."""
        folder = self._new("foreign")
        with pytest.raises(tiny_training.Killed):
            tiny_training.Tiny(steps=8, die_at=3).train(tiny_training.Net(), folder)
        with pytest.raises(UserError, match="2 that were skipped"):
            tiny_training.Tiny().train(tiny_training.Net(), folder)

    def _ended(self, name: str, *, new: bool = True) -> dict[str, bytes]:
        """The finished folder of a training in a process of its own, as far as generators know."""
        output = (self._new(name) if new else self.folder / name) / "stage"
        torch.default_generator.manual_seed(0)
        tiny_training.Tiny().stage(output)
        contents: dict[str, bytes] = simulated_disk.read(output)
        return contents

    def _new(self, name: str) -> Path:
        path = self.folder / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path


def json_of(value: str) -> bytes:
    return f'{{\n  "value": "{value}"\n}}\n'.encode()


def no_flush_of_files(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk, "sync", lambda _: None)


def no_flush_of_folders(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk, "sync_folder", lambda _: None)


def written_in_place(patch: pytest.MonkeyPatch) -> None:
    def write_bytes(path: Path, content: bytes) -> None:
        disk.write(path, content)
        disk.sync(path)
        disk.sync_folder(path.parent)

    patch.setattr(atomic, "write_bytes", write_bytes)


def moments_not_restored(patch: pytest.MonkeyPatch) -> None:
    put = checkpoint._put
    patch.setattr(
        checkpoint, "_put", lambda path, model, optimizer, weights, _moments: put(path, model, optimizer, weights, {})
    )


def newest_deleted(patch: pytest.MonkeyPatch) -> None:
    save = checkpoint.save

    def wrong(folder: Path, *arguments: Any, **named: Any) -> None:
        save(folder, *arguments, **named)
        if len(checkpoints := checkpoint._newest_first(folder)) == checkpoint.KEPT:
            disk.remove(checkpoints[0])

    patch.setattr(checkpoint, "save", wrong)


def dropout_from_a_running_generator(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(torch, "manual_seed", lambda _: None)


def with_start(patch: pytest.MonkeyPatch, change: Callable[[Any, int], None]) -> None:
    """Change a loop once it knows the step that it goes on from."""
    run = training._Loop.run

    def changed(self: Any) -> None:
        change(self, self.resumed_from.step)
        run(self)

    patch.setattr(training._Loop, "run", changed)


def schedule_begins_again(patch: pytest.MonkeyPatch) -> None:
    factor = training.learning_rate_factor

    def change(_loop: Any, start: int) -> None:
        patch.setattr(
            training, "learning_rate_factor", lambda step, *rest, **named: factor(step - start, *rest, **named)
        )

    with_start(patch, change)


def data_begin_again(patch: pytest.MonkeyPatch) -> None:
    def change(loop: Any, start: int) -> None:
        batches = loop.job.micro_batches
        loop.job = replace(loop.job, micro_batches=lambda step, oom_splits=0: batches(step - start, oom_splits))

    with_start(patch, change)


def log_not_cut(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(disk, "cut", lambda *_: None)


def log_cut_one_line_short(patch: pytest.MonkeyPatch) -> None:
    cut = disk.cut

    def wrong(path: Path, length: int) -> None:
        cut(path, length and path.read_bytes().rfind(b"\n", 0, length - 1) + 1)

    patch.setattr(disk, "cut", wrong)


def manifest_unchecked(patch: pytest.MonkeyPatch) -> None:
    read = atomic.read_manifest
    patch.setattr(atomic, "read_manifest", lambda folder, **_: read(folder, verify=False))


def name_unchecked(patch: pytest.MonkeyPatch) -> None:
    read = checkpoint._read

    def wrong(path: Path, _training: str, log: Path) -> Any:
        return read(path, atomic.read_manifest(path)["training"], log)

    patch.setattr(checkpoint, "_read", wrong)


PLANTS: tuple[tuple[Plant, Callable[[Harness], None], str], ...] = (
    (no_flush_of_folders, Harness.crash, r"it went on from 0, \d was saved"),
    (moments_not_restored, Harness.kill, r"other \['log.jsonl', 'manifest.json', 'model.safetensors'\]"),
    (log_not_cut, Harness.kill, r"other \['log.jsonl', 'manifest.json'\]"),
    (no_flush_of_files, Harness.crash, "expected a whole checkpoint"),
    (written_in_place, Harness.replaced_file, "neither old nor new"),
    (newest_deleted, Harness.crash, r"it went on from \d, \d was saved"),
    (dropout_from_a_running_generator, Harness.kill, r"other \['log.jsonl', 'manifest.json', 'model.safetensors'\]"),
    (schedule_begins_again, Harness.kill, r"other \['log.jsonl', 'manifest.json', 'model.safetensors'\]"),
    (data_begin_again, Harness.kill, r"other \['log.jsonl', 'manifest.json', 'model.safetensors'\]"),
    (log_cut_one_line_short, Harness.kill, r"other \['log.jsonl', 'manifest.json'\]"),
    (manifest_unchecked, Harness.damage, "other results"),
    (name_unchecked, Harness.other_training, "DID NOT RAISE"),
)
"""The bug, what must find it, and how it shows. The first three are the quick tier."""
HARNESSES = tuple({harness.__name__: harness for _, harness, _ in PLANTS}.values())


@pytest.fixture
def harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Harness:
    monkeypatch.setattr(os, "fsync", lambda _: None)
    return Harness(tmp_path)


@pytest.mark.parametrize("check", HARNESSES, ids=lambda check: check.__name__)
def test_a_harness_is_silent_about_the_code_as_it_is(check: Callable[[Harness], None], harness: Harness) -> None:
    check(harness)


def test_planted_bugs_are_caught(trials: Callable[..., Any], harness: Harness) -> None:
    with trials("the harness is honest: planted bugs are caught", quick=3, full=len(PLANTS)) as all_of_them:
        for _, (plant, check, how) in zip(all_of_them, PLANTS, strict=False):
            with (
                all_of_them.trial(plant.__name__),
                pytest.MonkeyPatch.context() as patch,
                pytest.raises((Exception, pytest.fail.Exception), match=how),
            ):
                plant(patch)
                check(harness)
