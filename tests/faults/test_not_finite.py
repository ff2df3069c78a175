"""NaN and infinity, wherever they come from: the training stops before the update, says where, and can go on.

What is promised is about what reaches the loss or a gradient: then nothing is updated. An infinity that reaches
neither, because it is masked or saturates a function, is no error, and nobody could tell it from what attention masks
do on purpose; `test_an_infinity_that_reaches_no_gradient_is_no_error` shows where the line is.
"""

import json
import math
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert import results
from tinydistilbert.cli.main import main
from tinydistilbert.data.corpus import TokenBlocks, load_blocks, prepare
from tinydistilbert.distillation.distill import distill
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.errors import NonFiniteLoss
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.teacher import LoadedTeacher
from tinydistilbert.recipe import schema
from tinydistilbert.recipe.toml import from_dict
from tinydistilbert.training import loop
from tinydistilbert.training.device import Compute
from tinydistilbert.training.diagnosis import FOLDER
from tinydistilbert.training.job import Batch, TrainingJob, scaled_sum, token_shares
from tinydistilbert.training.loop import train

CPU = torch.device("cpu")
STEPS = 12
DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
VALUES = (math.nan, math.inf, -math.inf)
LOCATIONS = ("batch", "teacher", "loss", "gradient", "weights", "distillation")


class Net(nn.Module):
    """A regression with dropout, whose one weight can be spoiled."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(7)
        self.layers = nn.Sequential(nn.Linear(6, 8), nn.LayerNorm(8), nn.Dropout(0.2), nn.Linear(8, 1))


class Spoilt(torch.autograd.Function):
    """The identity, whose gradient is not finite though its value is."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, by: float) -> Tensor:
        ctx.by = by
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return gradient * ctx.by, None


def job(place: str = "", at: int = -1, value: float = 0.0, before: list[Any] | None = None) -> TrainingJob:
    """Regression on rows of `DATA`, 8 a step, whose numbers are spoilt in one place at one step.

    What the weights are before each step goes into `before`.
    """

    def micro_batches(step: int, oom_splits: int = 0) -> list[Batch]:
        rows = DATA[[(step * 8 + i) % 64 for i in range(8)]].clone()
        targets = rows.sum(-1)
        if step == at and place == "batch":
            rows[5, 2] = value
        if step == at and place == "teacher":
            targets[5] = value
        return [{"rows": one, "targets": other} for one, other in zip(rows.split(4), targets.split(4), strict=True)]

    def loss(
        model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        net: Any = model
        if before is not None and len(before) == step:
            before.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
        if step == at and place == "weights":
            with torch.no_grad():
                net.layers[0].weight[1, 1] = value
        predicted = net.layers(batch["rows"]).squeeze(-1)
        if step == at and place == "gradient":
            predicted = Spoilt.apply(predicted, value)
        terms = {"fit": (predicted - batch["targets"]).square().mean(), "size": predicted.square().mean()}
        if step == at and place == "loss":
            terms["size"] = terms["size"] * value
        return scaled_sum(terms, term_scales)

    return TrainingJob(
        steps=STEPS, micro_batches=micro_batches, loss=loss, term_weights=lambda _: {"fit": 2.0, "size": 0.1},
        token_shares=lambda batches: token_shares([{"fit": len(b["rows"]), "size": len(b["rows"])} for b in batches]),
        tokens=lambda batch: len(batch["rows"]),
    )  # fmt: skip


def run(folder: Path, what: TrainingJob, minutes: float = 1e-9) -> tuple[Net, NonFiniteLoss | None]:
    model, settings = Net(), schema.Optimization(learning_rate=0.05, weight_decay=0.1)
    folder.mkdir(exist_ok=True)
    try:
        train(model, what, settings, Compute(CPU, "auto", minutes), seed=3, folder=folder, label="fit")
    except NonFiniteLoss as error:
        return model, error
    return model, None


def same(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> bool:
    """Whether all tensors are equal bit for bit, NaN with NaN."""
    return one.keys() == other.keys() and all(
        torch.equal(one[name].view(torch.int32), other[name].view(torch.int32)) for name in one
    )


def check_training(place: str, draw: random.Random, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    at, value = draw.randrange(STEPS), draw.choice(VALUES)
    # Now and then as on a GPU, whose numbers are read late.
    monkeypatch.setitem(loop.FLUSH_EVERY, "cpu", draw.choice((1, 1, 5)))
    before: list[Any] = []
    whole, nothing = run(folder / "whole", job(before=before))
    assert nothing is None and len(before) == STEPS
    minutes = draw.choice((1e-9, 60))
    run_folder = folder / "run"
    model, error = run(run_folder, job(place, at, value), minutes)
    assert error is not None, "not noticed"
    term = {"batch": "fit, size", "teacher": "fit", "loss": "size", "gradient": "", "weights": "fit, size"}[place]
    assert f"step {at + 1}:" in str(error) and (f" {term} became" if term else "the gradient") in str(error), error
    expected = dict(before[at])
    if place == "weights":
        expected["layers.0.weight"][1, 1] = value
    assert same(model.state_dict(), expected), "the weights are not as before that step"
    assert len((run_folder / "log.jsonl").read_text().splitlines()) == at

    facts = json.loads((run_folder / FOLDER / "facts.json").read_text())
    batch = load_file(run_folder / FOLDER / "batch.safetensors")
    assert facts["step"] == at + 1 and str(run_folder / FOLDER) in str(error)
    bad = [name for name, number in facts["terms"].items() if number in ("nan", "inf", "-inf")]
    assert ", ".join(bad) == term and facts["gradients_not_finite"] > 0
    assert facts["parameters"] == (["layers.0.weight"] if place == "weights" else [])
    spoilt = [name for name, tensor in batch.items() if not torch.isfinite(tensor).all()]
    assert spoilt == {"batch": ["1/rows"], "teacher": ["1/targets"]}.get(place, [])

    again, nothing = run(run_folder, job(), minutes)
    assert nothing is None and same(again.state_dict(), whole.state_dict())
    assert (run_folder / "log.jsonl").read_bytes() == (folder / "whole" / "log.jsonl").read_bytes()


SETTINGS: dict[str, Any] = {
    "corpus": {"block_size": 16}, "validation": {"times": 2, "blocks": 2}, "checkpoint_minutes": 1e-9,
    "distill": {"max_steps": 6, "optimization": {"batch_size": 2, "learning_rate": 1e-3}},
}  # fmt: skip
PROSE = "The student learns from the teacher in a large house near the lake. A small model answers quickly.\n\n"


class Distillation:
    """A teacher and a text, to distil from again and again; with a NaN in the teacher's answer if wanted."""

    def __init__(self, folder: Path, tokenizer: PreTrainedTokenizerFast) -> None:
        self.folder, self.tokenizer, self.runs = folder, tokenizer, 0
        self.text = folder / "text.txt"
        self.text.write_text("\n\n".join(f"{PROSE.strip()} In {year} people came." for year in range(1850, 1920)))
        content = {**SETTINGS, "corpus": {**SETTINGS["corpus"], "source": str(self.text)}}
        self.recipe = from_dict(content, "test")
        self.blocks: TokenBlocks = load_blocks(prepare(self.recipe.corpus, tokenizer, folder / "cache", None))
        self.folder_of_teacher = folder / "teacher"
        save_model(self.teacher(), tokenizer, self.folder_of_teacher)

    def teacher(self) -> PreTrainedModel:
        return tiny.model().train()

    def run(self, output: Path, at: int = -1, value: float = 0.0) -> None:
        """Distil; at one training step the teacher's hidden states have one number that is not finite."""
        model, calls = self.teacher(), 0

        def spoil(_module: nn.Module, _inputs: Any, output: Any) -> None:
            nonlocal calls
            if torch.is_inference_mode_enabled():  # a validation, which changes no weight
                return
            if calls == at:
                output.last_hidden_state[1, 3, 2] = value
            calls += 1

        model.bert.register_forward_hook(spoil)
        recipe, teacher = self.recipe, LoadedTeacher(model, self.tokenizer, True)
        setup = PretrainingSetup.of(recipe, self.blocks, CPU)
        distill(
            recipe.distill, recipe.objective, recipe.student, teacher, setup, output, origin=results.Origin.of(recipe)
        )


@pytest.fixture(scope="module")
def distillation(tmp_path_factory: pytest.TempPathFactory, tokenizer: PreTrainedTokenizerFast) -> Distillation:
    """Its undisturbed student is in `whole`."""
    made = Distillation(tmp_path_factory.mktemp("distillation"), tokenizer)
    made.run(made.folder / "whole")
    return made


def check_distillation(draw: random.Random, made: Distillation, folder: Path) -> None:
    at, value, output = draw.randrange(6), draw.choice(VALUES), folder / "student"
    with pytest.raises(NonFiniteLoss, match=rf"step {at + 1}: the terms kl, cosine became infinite"):
        made.run(output, at, value)
    assert not output.exists(), "an unfinished student is not taken for a finished one"
    place = output.with_name("student.partial") / FOLDER
    assert json.loads((place / "facts.json").read_text())["step"] == at + 1
    assert (place / "batch.safetensors").is_file()
    made.run(output)
    for name in ("model.safetensors", "log.jsonl"):
        assert (output / name).read_bytes() == (made.folder / "whole" / name).read_bytes(), name


def test_numbers_that_are_not_finite_stop_the_training_before_the_update(
    trials: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, distillation: Distillation
) -> None:
    with trials("NaN and infinity in batch, teacher, loss, gradient, weights", quick=18, full=150) as all_of_them:
        for number, draw in enumerate(all_of_them):
            place, folder = LOCATIONS[number % len(LOCATIONS)], tmp_path / str(number)
            folder.mkdir()
            with all_of_them.trial(f"{place}, trial {number}"):
                if place == "distillation":
                    check_distillation(draw, distillation, folder)
                else:
                    check_training(place, draw, folder, monkeypatch)


def test_an_infinity_that_reaches_no_gradient_is_no_error(tmp_path: Path) -> None:
    plain = job()

    def loss(
        model: nn.Module, batch: Batch, term_scales: Mapping[str, float], step: int
    ) -> tuple[Tensor, Mapping[str, Tensor]]:
        masked = torch.softmax(torch.tensor([0.0, -math.inf]), 0)[0]  # 1, as attention masks padding
        total, terms = plain.loss(model, batch, term_scales, step)
        return total * masked, terms

    whole, _ = run(tmp_path / "whole", plain)
    other, error = run(tmp_path / "other", TrainingJob(**{**vars(plain), "loss": loss}))
    assert error is None and same(whole.state_dict(), other.state_dict())


def test_the_command_line_ends_with_1_and_names_step_and_folder(
    distillation: Distillation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[teacher]\nmodel = "{distillation.folder_of_teacher}"\n[corpus]\nsource = "{distillation.text}"\n'
        "block_size = 16\n[validation]\nblocks = 2\n[distill]\nmax_steps = 20\n"
        "[distill.optimization]\nbatch_size = 2\nlearning_rate = 1e38\nmax_grad_norm = 0\n"
    )
    with pytest.raises(SystemExit) as stop:
        main(["distill", str(file), "--output", str(tmp_path / "run")])
    last = capsys.readouterr().err.splitlines()[-1]
    assert stop.value.code == 1 and last.startswith("error: step ") and "diagnosis" in last, last


@pytest.mark.parametrize("value", VALUES)
def test_a_teacher_with_a_weight_that_is_not_finite_is_refused(
    value: float, distillation: Distillation, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = distillation.teacher()
    with torch.no_grad():
        model.bert.encoder.layer[1].output.dense.weight[2, 3] = value
    save_model(model, distillation.tokenizer, tmp_path / "teacher")
    file = tmp_path / "mine.toml"
    file.write_text(
        f'[teacher]\nmodel = "{tmp_path / "teacher"}"\n[corpus]\nsource = "{distillation.text}"\nblock_size = 16\n'
    )
    with pytest.raises(SystemExit) as stop:
        main(["distill", str(file), "--output", str(tmp_path / "run")])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and len(error.splitlines()) == 1, error
    assert "encoder.layer.1.output.dense.weight" in error and not (tmp_path / "run").exists()
