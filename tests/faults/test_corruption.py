"""Damaged files: each is refused by name, made anew, or does not matter. None changes a result in silence.

Every kind of file that one stage leaves for another is made once, twice over from two seeds. A trial copies it,
damages one file (cut off, a bit flipped, a block zeroed, exchanged for its twin's or a neighbour's, deleted), and calls
whatever reads it. What comes out must be what comes out of the whole file, or a `UserError`.
"""

import contextlib
import dataclasses
import hashlib
import io
import json
import random
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert import predictor, results, run_record
from tinydistilbert.data.corpus import load_blocks, prepare, tokenizer_hash
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.distillation.teacher_cache import make_cache, weights_hash
from tinydistilbert.errors import Interrupted, UserError
from tinydistilbert.export.to_onnx import export
from tinydistilbert.finetuning.examples import training_examples
from tinydistilbert.finetuning.soft_targets import SoftTargets
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.models.teacher import load_teacher
from tinydistilbert.pipeline import run as pipeline
from tinydistilbert.pipeline.folders import write_results
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.toml import from_dict
from tinydistilbert.report.predictions import read_predicted, scored_run
from tinydistilbert.run_folder import RunFolder, training_facts
from tinydistilbert.storage import atomic, cache
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train

CPU = torch.device("cpu")
TASK = "reviews"
STEPS = 8


def digest(*parts: Any) -> str:
    """A fingerprint of arrays, bytes and what JSON can say."""
    hasher = hashlib.sha256()
    for part in parts:
        if isinstance(part, Tensor):
            part = part.detach().numpy()
        if isinstance(part, np.ndarray):
            hasher.update(f"{part.dtype} {part.shape}".encode())
            part = part.tobytes()
        hasher.update(part if isinstance(part, bytes) else json.dumps(part, sort_keys=True).encode())
    return hasher.hexdigest()


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layer = nn.Sequential(nn.Linear(6, 4), nn.Dropout(0.2), nn.Linear(4, 1))


def trained(folder: Path, *, seed: int, stop_at: int | None = None) -> str:
    """A training with a checkpoint after each step, from where it is to its end, or to a step where it is stopped."""
    data = torch.randn(64, 6, generator=torch.Generator().manual_seed(seed))

    def micro_batches(step: int, oom_splits: int = 0) -> list[Batch]:
        if step == stop_at:
            raise Interrupted("stopped here")
        return [{"rows": data[step * 8 : step * 8 + 8]}]

    def loss(
        model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        predicted = model.get_submodule("layer")(batch["rows"]).squeeze(-1)
        return scaled_sum({"fit": (predicted - batch["rows"].sum(-1)).square().mean()}, term_scales)

    model = Net()
    job = TrainingJob(
        steps=STEPS, micro_batches=micro_batches, loss=loss, term_weights=lambda _: {"fit": 1.0},
        token_shares=lambda batches: token_shares([{"fit": 8} for _ in batches]), tokens=lambda _: 8,
    )  # fmt: skip
    settings = schema.Optimization(learning_rate=0.05)
    train(model, job, settings, Compute(CPU, "auto", 1e-9), seed=3, folder=folder, label="fit")
    return digest(*model.state_dict().values(), (folder / "log.jsonl").read_bytes())


class Made:
    """A whole tiny run, its caches, an exported model, and a training that was stopped; all from one seed."""

    def __init__(self, folder: Path, inputs: Path, seed: int, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder, self.run, self.tokenizer = folder, folder / "run", tokenizer
        quick = {"batch_size": 4, "learning_rate": 1e-3}
        files = {split: str(inputs / f"{split}-{seed}.csv") for split in ("train", "validation")}
        custom_task = {**files, "max_length": 16}
        content = {
            "seed": seed, "teacher": {"model": str(inputs / "teacher")}, "checkpoint_minutes": 60,
            "corpus": {"source": str(inputs / "corpus.txt"), "block_size": 16, "max_train_documents": 60 - seed},
            "validation": {"times": 1, "blocks": 2},
            "distill": {"max_steps": 2, "cache": {"kind": "hidden", "views": 1}, "optimization": quick},
            "finetune": {
                "tasks": [TASK], "models": ["teacher", "student"], "custom": {TASK: custom_task}, "epochs": 1,
                "min_steps": 0, "seeds": [seed], "optimization": quick,
            },
        }  # fmt: skip
        self.recipe: Recipe = from_dict(content, "test")
        pipeline.run_stages(pipeline.run_context(self.recipe, self.run, until="evaluate", log=lambda _: None))
        self.task = f"tasks/{TASK}/student-d/seed-{seed}"
        export(self.run / self.task / "model", folder / "exported")
        corpus = self.recipe.corpus
        self.teacher = load_teacher(self.recipe.teacher)
        prepare(corpus, tokenizer, folder / "cache", None)
        self.blocks = load_blocks(prepare(corpus, self.teacher.tokenizer, cache.folder(), None))
        self.cached_batches(folder / "teacher-cache")
        (folder / "training").mkdir()
        with contextlib.suppress(Interrupted):
            trained(folder / "training", seed=seed, stop_at=STEPS - 2)
        self.seed = seed
        tasks = tasks_of(self.recipe.finetune)
        self.examples, _ = training_examples(self.recipe, tasks[TASK], augmented=None, soft=True)
        self.features = encode(self.examples, tokenizer, 16)
        self.inputs: dict[str, str] = atomic.read_json(RunFolder(self.run).inputs)

    # What reads each kind of file; `copied` is a copy of the folder that holds it.
    def resumed(self, copied: Path) -> str:
        return trained(copied, seed=self.seed)

    def token_blocks(self, copied: Path) -> str:
        blocks = load_blocks(prepare(self.recipe.corpus, self.tokenizer, copied, None))
        arrays = (blocks.train, blocks.validation, blocks.token_counts, blocks.continues_word)
        return digest(*map(np.asarray, arrays), blocks.special_ids, blocks.mask_token_id, blocks.fingerprint)

    def cached_batches(self, copied: Path) -> str:
        setup, settings = PretrainingSetup.of(self.recipe, self.blocks, CPU), self.recipe.distill
        batches = setup.batches(self.recipe.objective, settings.optimization, steps=1)
        made = make_cache(settings.cache, batches, self.teacher.model, copied, setup.compute, lambda _: None)
        return digest(*(made(step)[0][name] for step in (0, 1) for name in ("teacher_hidden", "input_ids")))

    def student(self, copied: Path) -> str:
        return digest(weights_hash(load_model(copied, "masked-lm")), tokenizer_hash(load_tokenizer(copied)))

    def training_facts(self, copied: Path) -> str:
        return digest(training_facts(copied))

    def targets(self, copied: Path) -> str:
        targets = SoftTargets.open(copied, self.examples, self.features)
        return digest(targets.batch(np.arange(len(self.features)))["teacher_logits"])

    def predictions(self, copied: Path) -> str:
        run = scored_run(copied)
        predicted = read_predicted(run, run.tasks[TASK], "student (D)", "validation")
        return digest(predicted.ids, predicted.gold, predicted.answers[self.seed], predicted.fingerprint)

    def measurements(self, copied: Path) -> str:
        write_results(pipeline.run_context(self.recipe, copied, until="evaluate", log=lambda _: None))
        return digest([dataclasses.asdict(each) for each in results.read(copied / "results.jsonl")])

    def answers(self, copied: Path) -> str:
        return digest(predictor.load(copied, threads=1).predict(["the tower near the lake", "a student"]))

    def remembered(self, copied: Path) -> str:
        for name, fingerprint in self.inputs.items():
            run_record.keep_fingerprint(RunFolder(copied), name, fingerprint)
        recorded = atomic.read_json(RunFolder(copied).inputs)
        return digest([recorded[name] for name in self.inputs])

    def begun(self, copied: Path) -> str:
        assert run_record.is_begun(RunFolder(copied), self.recipe)
        return digest(list(scored_run(copied).rows))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file: the folder that is copied, the files in it that are damaged, and what reads them."""

    folder: str
    files: tuple[str, ...]
    read: Callable[[Made, Path], str]


KINDS: dict[str, Kind] = {
    "checkpoint": Kind(
        "training", ("checkpoints/*/model.safetensors", "checkpoints/*/optimizer.safetensors",
        "checkpoints/*/state.json", "checkpoints/*/manifest.json"), Made.resumed,
    ),
    "log of an unfinished training": Kind("training", ("log.jsonl",), Made.resumed),
    "token blocks": Kind("cache", ("tokens-*/*",), Made.token_blocks),
    "teacher's cache": Kind("teacher-cache", ("teacher-*/*/*",), Made.cached_batches),
    "student": Kind(
        "run/student", ("model.safetensors", "config.json", "tokenizer*.json", "manifest.json"), Made.student
    ),
    "facts of a training": Kind("run/TASK/model", ("training.json", "manifest.json"), Made.training_facts),
    "targets": Kind(f"run/tasks/{TASK}/targets", ("*",), Made.targets),
    "predictions": Kind("run", ("TASK/scores/predictions-*", "TASK/scores/*.json*"), Made.predictions),
    "measurements": Kind(
        "run", ("TASK/scores/measurements.jsonl", "student/measurements.jsonl", "results.jsonl"), Made.measurements
    ),
    "exported model": Kind("exported", ("*",), Made.answers),
    "inputs of a run": Kind("run", ("inputs.json",), Made.remembered),
    "recipe of a run": Kind("run", ("recipe.toml",), Made.begun),
}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> tuple[Made, Made]:
    """The same from two seeds; what lies at one place in both has the same form."""
    folder = tmp_path_factory.mktemp("corruption")
    save_model(tiny.model(), tokenizer, folder / "teacher")
    for split, kind in (("train", ""), ("validation", "old ")):
        rows = [f"the {kind}tower {i},good\nthe {kind}student {i},bad\n" for i in range(8)]
        for seed in (0, 1):
            (folder / f"{split}-{seed}.csv").write_text(f"text,label\n{''.join(rows[seed:])}")
    prose = (f"The student {i} learns from the teacher in a large house near the lake {i}." for i in range(70))
    (folder / "corpus.txt").write_text("\n\n".join(prose))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_CACHE", str(folder / "cache"))
        one, other = (Made(folder / str(seed), folder, seed, tokenizer) for seed in (0, 1))
    return one, other


def damaged(path: Path, twin: Path, draw: random.Random) -> str:
    """Damage one file; gives what was done to it."""
    content = bytearray(path.read_bytes())
    kind = draw.choice(("cut off", "bit flipped", "block zeroed", "exchanged", "deleted"))
    at = draw.randrange(max(1, len(content)))
    if kind == "cut off":
        del content[at:]
    elif kind == "bit flipped" and content:
        content[at] ^= 1 << draw.randrange(8)
    elif kind == "block zeroed":
        end = min(len(content), at + draw.choice((1, 16, 512, 4096)))
        content[at:end] = bytes(end - at)
    elif kind == "exchanged":
        beside = [other for other in sorted(path.parent.iterdir()) if other.is_file() and other != path]
        others = [other for other in (twin, *beside) if other.is_file()]
        content = bytearray(draw.choice(others).read_bytes()) if others else content[::-1]
    if kind == "deleted":
        path.unlink()
    else:
        path.write_bytes(content)
    return kind


def check(name: str, draw: random.Random, made: tuple[Made, Made], expected: Mapping[str, str], place: Path) -> str:
    """One trial; gives what became of it."""
    kind, (one, other) = KINDS[name], made
    copied = place / "there"
    shutil.rmtree(copied, ignore_errors=True)
    shutil.copytree(one.folder / kind.folder.replace("TASK", one.task), copied)
    pattern = draw.choice(kind.files).replace("TASK", one.task)
    chosen = draw.choice(sorted(path for path in copied.glob(pattern) if path.is_file()))
    relative = str(chosen.relative_to(copied)).replace(one.task, other.task)
    twin = other.folder / kind.folder.replace("TASK", other.task) / relative
    what = f"{chosen.relative_to(copied)} {damaged(chosen, twin, draw)}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            fingerprint = kind.read(one, copied)
    except UserError as error:
        named = (chosen.name, chosen.parent.name, str(copied))
        assert any(part in str(error) for part in named) and "\n" not in str(error), f"{what}: {error}"
        return "refused"
    except Exception as error:
        raise AssertionError(f"{what}: {type(error).__name__}: {error}") from error
    assert fingerprint == expected[name], f"{what}: another result, in silence"
    return "told and mended" if printed.getvalue() else "harmless"


def test_damaged_files_are_never_taken_in_silence(
    trials: Callable[..., Any], made: tuple[Made, Made], tmp_path: Path
) -> None:
    expected: dict[str, str] = {}
    for name, kind in KINDS.items():
        shutil.copytree(made[0].folder / kind.folder.replace("TASK", made[0].task), tmp_path / name)
        expected[name] = kind.read(made[0], tmp_path / name)
    with trials(
        "corruption: truncated, flipped, zeroed, swapped files are never taken silently", quick=120, full=9000
    ) as all_of_them:
        for number, draw in enumerate(all_of_them):
            name = list(KINDS)[number % len(KINDS)]
            with all_of_them.trial(f"{name}, trial {number}"):
                became = check(name, draw, made, expected, tmp_path)
                all_of_them.facts[became] = all_of_them.facts.get(became, 0) + 1


@pytest.mark.parametrize("name", KINDS)
def test_what_is_read_differs_between_twins(name: str, made: tuple[Made, Made], tmp_path: Path) -> None:
    # Else an exchange would be harmless, and prove nothing.
    kind, fingerprints = KINDS[name], []
    for each in made:
        shutil.copytree(each.folder / kind.folder.replace("TASK", each.task), tmp_path / str(each.seed))
        fingerprints.append(kind.read(each, tmp_path / str(each.seed)))
    same = {"recipe of a run"}  # whose rows are told, and which refuses any other recipe
    assert (fingerprints[0] == fingerprints[1]) is (name in same)


def test_the_file_that_gathers_the_measurements_is_made_anew(made: tuple[Made, Made], tmp_path: Path) -> None:
    # It has no hash, and no stage is left that would write it.
    run = tmp_path / "run"
    shutil.copytree(made[0].run, run)
    whole = (run / "results.jsonl").read_bytes()
    (run / "results.jsonl").write_bytes(whole.replace(b"0.5", b"0.9"))
    assert (run / "results.jsonl").read_bytes() != whole
    pipeline.run_stages(pipeline.run_context(made[0].recipe, run, until="evaluate", log=lambda _: None))
    assert (run / "results.jsonl").read_bytes() == whole
