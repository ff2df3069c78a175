"""A disk that is full or failing in the middle of a write: told in one line, nothing lost, and the same work goes on.

Three kinds of failure: errors raised at an operation that is announced to `disk.hook`; a limit on the size of files,
which meets the writers of other libraries as well; and, where a name space of its own may be had, a real file system in
memory, which another program fills up at a random moment.
"""

import contextlib
import dataclasses
import errno
import hashlib
import io
import itertools
import json
import os
import random
import resource
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.faults.forks import Forks
from tinydistilbert.cli.main import main
from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.distillation.teacher_cache import make_cache
from tinydistilbert.errors import DiskError
from tinydistilbert.evaluation.evaluate import evaluate
from tinydistilbert.export.to_onnx import export
from tinydistilbert.finetuning.examples import task_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.teacher import load_teacher
from tinydistilbert.pipeline import run
from tinydistilbert.pipeline.folders import write_results
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.toml import from_dict, to_toml
from tinydistilbert.report.page import write_report
from tinydistilbert.storage import atomic, disk
from tinydistilbert.storage.disk import Operation
from tinydistilbert.tasks import tasks_of
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train

CPU = torch.device("cpu")
TASK = "reviews"
OLD = b"the report of yesterday"
NOT_THE_SAME_TWICE = (atomic.MANIFEST, "training.json", "measurements.jsonl")
"""Files with dates or seconds in them."""
MEMORY_DISK = 40_000_000
"""Bytes of the file system in memory: several times what is written."""


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layer = nn.Sequential(nn.Linear(6, 40), nn.Dropout(0.2), nn.Linear(40, 1))


class Place:
    """A tiny model with its text and its task, and the pieces of work that write something."""

    def __init__(self, folder: Path) -> None:
        self.folder, quick = folder, {"batch_size": 4, "learning_rate": 1e-3}
        custom_task = {
            "train": str(folder / "train.csv"),
            "validation": str(folder / "validation.csv"),
            "max_length": 16,
        }
        content = {
            "teacher": {"model": str(folder / "teacher")}, "checkpoint_minutes": 1e-9,
            "corpus": {"source": str(folder / "corpus.txt"), "block_size": 16},
            "distill": {"cache": {"kind": "hidden", "views": 2}, "optimization": quick},
            "finetune": {
                "model": str(folder / "teacher"), "tasks": [TASK], "custom": {TASK: custom_task}, "epochs": 1,
                "min_steps": 0, "seeds": [0], "optimization": quick,
            },
        }  # fmt: skip
        self.recipe = from_dict(content, "test")
        self.task = tasks_of(self.recipe.finetune)[TASK]
        self.model = folder / "run" / "tasks" / TASK / "model" / "seed-0" / "model"
        self.works: dict[str, Callable[[Path], object]] = {
            "training": self.training, "token cache": self.token_cache, "teacher's cache": self.teacher_cache,
            "task model": self.task_model, "scores": self.scores, "report": self.report, "export": self.export,
        }  # fmt: skip

    @classmethod
    def made(cls, folder: Path, tokenizer: PreTrainedTokenizerFast) -> "Place":
        """With the files that it stands on."""
        save_model(tiny.model(), tokenizer, folder / "teacher")
        rows = [f"the tower {i},good\nthe student {i},bad\n" for i in range(8)]
        (folder / "train.csv").write_text(f"text,label\n{''.join(rows)}")
        others = "".join(row.replace("the ", "the old ") for row in rows)
        (folder / "validation.csv").write_text(f"text,label\n{others}")
        prose = (f"The student {i} learns from the teacher in a large house near the lake {i}." for i in range(150))
        (folder / "corpus.txt").write_text("\n\n".join(prose))
        place = cls(folder)
        run.run_stages(run.run_context(place.recipe, folder / "run", until="evaluate", log=lambda _: None))
        place.blocks(folder / "cache")
        return place

    def training(self, output: Path) -> None:
        data = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))

        def loss(
            model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
        ) -> tuple[Tensor, Mapping[str, Tensor]]:
            predicted = model.get_submodule("layer")(batch["rows"]).squeeze(-1)
            return scaled_sum({"fit": (predicted - batch["rows"].sum(-1)).square().mean()}, term_scales)

        job = TrainingJob(
            steps=8, micro_batches=lambda step, _=0: [{"rows": data[step * 8 : step * 8 + 8]}], loss=loss,
            term_weights=lambda _: {"fit": 1.0}, tokens=lambda _: 8,
            token_shares=lambda batches: token_shares([{"fit": 8} for _ in batches]),
        )  # fmt: skip
        if atomic.is_finished(output / "model"):
            return
        with atomic.unfinished(output / "model") as folder:
            model = Net()
            settings = schema.Optimization(learning_rate=0.05)
            train(model, job, settings, Compute(CPU, "auto", 1e-9), seed=3, folder=folder, label="fit")
            atomic.write_bytes(folder / "weights", b"".join(p.detach().numpy().tobytes() for p in model.parameters()))

    def blocks(self, output: Path) -> Any:
        return load_blocks(prepare(self.recipe.corpus, load_teacher(self.recipe.teacher).tokenizer, output, None))

    def token_cache(self, output: Path) -> None:
        self.blocks(output)

    def teacher_cache(self, output: Path) -> None:
        teacher = load_teacher(self.recipe.teacher).model
        setup = PretrainingSetup.of(self.recipe, self.blocks(self.folder / "cache"), CPU)
        settings = self.recipe.distill
        batches = setup.batches(self.recipe.objective, settings.optimization, steps=1)
        make_cache(settings.cache, batches, teacher, output, setup.compute, lambda _: None)

    def task_model(self, output: Path) -> None:
        if not atomic.is_finished(output / "model"):
            finetune(
                self.recipe.finetune, task_examples(self.recipe, self.task, None), self.folder / "teacher",
                output / "model", compute=Compute.of(self.recipe, CPU), row="model", seed=0,
            )  # fmt: skip

    def scores(self, output: Path) -> None:
        if not atomic.is_finished(output / "scores"):
            evaluate(
                self.model, self.task, row="model", seed=0, recipe=self.recipe, output=output / "scores", device=CPU,
                training={}, max_length=self.task.max_length,
            )  # fmt: skip

    def report(self, output: Path) -> None:
        write_results(run.run_context(self.recipe, output, until="evaluate", log=lambda _: None))
        write_report(output, command="tinydistilbert replicate")  # the run's own has its folder in it

    def begin(self, name: str, output: Path) -> None:
        """Make the folder that a piece of work finds: for a report a run, and the report of yesterday."""
        output.mkdir(parents=True)
        if name == "report":
            shutil.copytree(self.folder / "run", output, dirs_exist_ok=True)
            (output / "report.html").write_bytes(OLD)

    def export(self, output: Path) -> None:
        if not atomic.is_finished(output / "exported"):
            export(self.model, output / "exported")


def digest(folder: Path) -> str:
    """Of every file that is the same whenever it is made."""
    hasher = hashlib.sha256()
    for path in sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in NOT_THE_SAME_TWICE):
        hasher.update(f"{path.relative_to(folder)}\0".encode() + path.read_bytes())
    return hasher.hexdigest()


def leftovers(folder: Path) -> list[str]:
    """What no finished work leaves."""
    parts = ("*.partial", ".*.tmp", "*.lock", atomic.CHECKPOINTS)
    return sorted(str(path.relative_to(folder)) for part in parts for path in folder.rglob(part))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Place:
    return Place.made(tmp_path_factory.mktemp("disk"), tokenizer)


@dataclasses.dataclass(frozen=True)
class Undisturbed:
    """What a piece of work writes, and in how many operations."""

    operations: int
    digest: str
    largest: int
    """Bytes of the largest file that it always writes alike."""


def undisturbed(place: Place, name: str, output: Path, monkeypatch: pytest.MonkeyPatch) -> Undisturbed:
    seen: list[Operation] = []

    def record(operation: Operation) -> contextlib.AbstractContextManager[object]:
        seen.append(operation)
        return contextlib.nullcontext()

    place.begin(name, output)
    before = {path: path.stat().st_ino for path in output.rglob("*")}
    with monkeypatch.context() as patch:
        patch.setattr(disk, "hook", record)
        place.works[name](output)
    assert not leftovers(output)
    made = [path for path in output.rglob("*") if path.is_file() and path.stat().st_ino != before.get(path)]
    largest = max(path.stat().st_size for path in made if path.name not in NOT_THE_SAME_TWICE)
    return Undisturbed(len(seen), digest(output), largest)


@contextlib.contextmanager
def failing(at: int, number: int, *, for_good: bool) -> Iterator[None]:
    """The operation `at` fails with that error number, and if `for_good` all after it that take room."""
    counter = itertools.count()

    def fail(operation: Operation) -> contextlib.AbstractContextManager[object]:
        now = next(counter)
        if now == at or (for_good and now > at and operation.kind in ("write", "sync")):
            raise OSError(number, os.strerror(number))
        return contextlib.nullcontext()

    before, disk.hook = disk.hook, fail
    try:
        yield
    finally:
        disk.hook = before


@contextlib.contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes; Python ignores the signal, so writers get EFBIG."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def check(place: Place, name: str, whole: Undisturbed, draw: random.Random, output: Path, *, limited: bool) -> None:
    """One piece of work that meets a failing disk, and is done again on a sound one."""
    place.begin(name, output)
    if limited:
        limit = draw.choice((0, 1, draw.randrange(whole.largest), whole.largest - 1))
        fault, what = files_of_at_most(limit), f"files of at most {limit} bytes"
    else:
        at, number = draw.randrange(whole.operations), draw.choice((errno.ENOSPC, errno.EIO, errno.EDQUOT))
        fault = failing(at, number, for_good=draw.random() < 0.5)
        what = f"{errno.errorcode[number]} at operation {at} of {whole.operations}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed), fault:
            place.works[name](output)
    except DiskError as error:
        message = str(error)
        where = tempfile.gettempdir() if name == "export" else str(output)  # it is made elsewhere first
        assert where in message and "MB free" in message and "\n" not in message, f"{what}: {message}"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    else:
        raise AssertionError(f"{what}: not noticed")
    if name == "report":
        shown = (output / "report.html").read_bytes()
        assert shown == OLD or shown.endswith(b"</html>"), f"{what}: half a report"
    with contextlib.redirect_stderr(printed):
        place.works[name](output)
    assert "skipping" not in printed.getvalue(), f"{what}: {printed.getvalue()}"
    assert digest(output) == whole.digest, f"{what}: another result"
    assert not leftovers(output), f"{what}: {leftovers(output)}"


GOAL = "disk full or failing in mid-write: old state intact, path and MB named, resume identical"
IN_MEMORY = {"quick": 2, "full": 12}
"""Trials on a real file system, of `trials`; the rest are in this process."""


def test_a_full_or_failing_disk_loses_nothing(
    trials: Callable[..., Any], place: Place, forks: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tier = os.environ.get("FAULTS", "quick")
    names = [name for name in place.works if name != "export" or tier == "full"]
    whole = {name: undisturbed(place, name, tmp_path / name / "run", monkeypatch) for name in names}
    real = on_real_disk(forks, place.folder, IN_MEMORY[tier])
    with trials(GOAL, quick=10, full=100) as all_of_them:
        all_of_them.facts["on a real file system that fills up"] = len(real)
        for number, draw in enumerate(all_of_them):
            if number < len(real):
                with all_of_them.trial(f"real disk, trial {number}"):
                    check_real(real[number])
                continue
            name = names[number % len(names)]
            with all_of_them.trial(f"{name}, trial {number}"):
                limited = draw.random() < 0.5
                check(place, name, whole[name], draw, tmp_path / str(number) / "run", limited=limited)


@pytest.mark.parametrize("limit", [0, 20_000])
def test_the_command_line_ends_with_3_and_goes_on_when_there_is_room(
    limit: int, place: Place, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYDISTILBERT_CACHE", str(tmp_path / "cache"))
    (tmp_path / "mine.toml").write_text(to_toml(place.recipe))
    command = ["finetune", str(tmp_path / "mine.toml"), "--output", str(tmp_path / "run")]
    with pytest.raises(SystemExit) as stop, files_of_at_most(limit):
        main(command)
    error = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 3, error
    assert error.startswith(f"error: {tmp_path}") and "MB free" in error, error
    main(command)
    assert not leftovers(tmp_path / "run")


def on_real_disk(forks: Forks, folder: Path, count: int) -> list[dict[str, Any]]:
    """What became of so many trials of `fill_up` in a process of its own; none where no such disk can be had."""
    disk_at = folder / "mounted"
    disk_at.mkdir(exist_ok=True)
    arguments = {"folder": str(folder), "disk_at": str(disk_at), "size": MEMORY_DISK, "count": count}
    child = forks.start("full_disk", arguments, cache=folder / "cache")
    assert child.wait() == 0, child.err()[-2000:]
    outcomes: list[dict[str, Any]] = json.loads(child.out() or "[]")
    return outcomes


def check_real(outcome: dict[str, Any]) -> None:
    assert outcome["code"] == 3 and outcome["error"].startswith("error: ") and "MB free" in outcome["error"], outcome
    assert outcome["at"] in outcome["error"] and outcome["code afterwards"] == 0, outcome
    assert outcome["digest"] == outcome["whole"] and not outcome["leftovers"], outcome


def fill_up(folder: Path, disk_at: Path, count: int) -> list[dict[str, Any]]:
    """Fine-tune on a small disk that another program fills at a random operation; and again when that has gone."""
    place, outcomes = Place(folder), []
    (folder / "mine.toml").write_text(to_toml(place.recipe))

    def call(output: Path, hook: Any) -> tuple[int, str]:
        printed = io.StringIO()
        with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
            try:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(disk, "hook", hook)
                    main(["finetune", str(folder / "mine.toml"), "--output", str(output)])
                code = 0
            except SystemExit as stop:
                code = int(stop.code or 0)
        return code, (printed.getvalue().splitlines() or [""])[-1]

    seen: list[Operation] = []

    def record(operation: Operation) -> contextlib.AbstractContextManager[object]:
        seen.append(operation)
        return contextlib.nullcontext()

    assert call(folder / "whole", record) == (0, "") or (folder / "whole" / "report.html").is_file()
    models = f"tasks/{TASK}/model/seed-0/model"
    for number in range(count):
        draw, output, ballast = random.Random(f"real {number}"), disk_at / "run", disk_at / "ballast"
        # Where most of the room is taken: not among the last operations, which take next to none.
        counter, at = itertools.count(), draw.randrange(len(seen) * 3 // 4)

        def fill(
            _: Operation, counter: Any = counter, at: int = at, ballast: Path = ballast
        ) -> contextlib.AbstractContextManager[object]:
            if next(counter) >= at:  # also what is freed meanwhile
                with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as stream:
                    while True:
                        stream.write(bytes(4096))
            return contextlib.nullcontext()

        code, error = call(output, fill)
        ballast.unlink(missing_ok=True)
        after, _ = call(output, lambda _: contextlib.nullcontext())
        outcomes.append(
            {
                "code": code, "error": error, "at": str(disk_at), "code afterwards": after,
                "digest": digest(output / models), "whole": digest(folder / "whole" / models),
                "leftovers": leftovers(output),
            }
        )  # fmt: skip
        shutil.rmtree(output)
    return outcomes
