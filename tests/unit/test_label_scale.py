"""Regressions of numbers of any size: trained in standard units, given back as labels, alike in every form."""

import copy
import csv
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests import tiny
from tinydistilbert import notices
from tinydistilbert.errors import Interrupted, UserError
from tinydistilbert.export.to_onnx import export, to_half
from tinydistilbert.finetuning.examples import TaskExamples, training_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.finetuning.label_scale import PLAIN, LabelScale
from tinydistilbert.finetuning.soft_targets import SoftTargetSource, make_soft_targets
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.models.task_head import output_layer
from tinydistilbert.predictor import load
from tinydistilbert.recipe.schema import CustomTask, Finetune, Optimization, Recipe, TaskDistillation
from tinydistilbert.run_folder import training_facts
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import tasks_of
from tinydistilbert.tasks.base import Examples
from tinydistilbert.training import checkpoint
from tinydistilbert.training.device import Compute

CPU = torch.device("cpu")
FILLERS = ("some", "many", "the", "a", "old", "near", "large", "small")


def examples(labels: list[float | None]) -> Examples:
    task = tasks_of(Finetune(custom={"prices": CustomTask(train="none.csv", kind="regression")}))["prices"]
    columns = {"idx": [*range(len(labels))], "text": [*map(str, range(len(labels)))], "label": labels}
    return Examples(task, "train", columns, len(labels))


@pytest.mark.parametrize(
    ("labels", "mean", "deviation"),
    [
        ([0.0, 2.5, 5.0, 3.8], 0, 1),  # as STS-B's
        ([1, 2, 3, 4, 5], 0, 1),
        ([-3.0, 3.0], 0, 1),
        ([0.2, 0.9, None, 0.4], 0, 1),
        ([7.0, 7.0], 0, 1),
        ([100_000, 900_000], 500_000, 400_000),
        ([-900_000, None, -100_000], -500_000, 400_000),
        ([1e-6, 3e-6], 2e-6, 1e-6),
        ([1000, 1002], 1001, 1),
        ([5.01, 5.03], 5.02, 0.01),
        ([500_000, 500_000], 500_000, 1),
        ([2**53 + 2, 2**53 + 2**40 + 2], 2**53 + 2**39 + 2, 2**39),
    ],
)
def test_labels_of_the_order_of_one_stay_as_they_are(labels: list[Any], mean: float, deviation: float) -> None:
    scale = LabelScale.of(examples(labels))
    assert scale.is_plain == (deviation == 1 and mean == 0)
    assert (scale.mean, scale.deviation) == (pytest.approx(mean), pytest.approx(deviation))
    standard = scale.standard(labels)
    assert [np.isnan(value) for value in standard] == [label is None for label in labels]
    given_back = scale.labels(standard)
    np.testing.assert_allclose(given_back[~np.isnan(standard)], [label for label in labels if label is not None])


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([1e19, 2e19], r"numbers up to 1e\+18, found 2e\+19; divide all labels by 1e\+19"),
        ([1e-20, 3e-20], r"found 1e-20; multiply all labels by 1e\+15"),
        (
            [1_000_000_000, 1_000_000_010],
            "deviation is 5, but single-precision .* are 64 apart; subtract 1,000,000,005",
        ),
    ],
)
def test_what_single_precision_cannot_tell_apart_is_refused(labels: list[Any], message: str) -> None:
    with pytest.raises(UserError, match=f"the labels of prices: .*{message}"):
        LabelScale.of(examples(labels))


def test_it_is_told_with_the_numbers(caplog: pytest.LogCaptureFixture) -> None:
    notices.begin()
    LabelScale.of(examples([1.0, 2.0, 4.0]))
    assert not caplog.text
    LabelScale.of(examples([100_000, 900_000]))
    assert "100,000 to 900,000, mean 5e+05, standard deviation 4e+05" in caplog.text


def test_mean_and_deviation_go_into_the_head_of_every_family_and_out_again(family: str) -> None:
    model = tiny.scrambled(tiny.model(family, "regression", num_labels=1, pad_token_id=0))
    inputs = {"input_ids": torch.randint(5, 232, (3, 9), generator=torch.Generator().manual_seed(0))}
    scale = LabelScale(mean=-5e5, deviation=2e5)
    with torch.inference_mode():
        before = model(**inputs).logits
        scale.to_labels(model)
        tiny.assert_equal_up_to_rounding(model(**inputs).logits, before.double() * 2e5 - 5e5)
        scale.to_standard(model)
        torch.testing.assert_close(model(**inputs).logits, before, rtol=1e-5, atol=1e-5)
        kept = copy.deepcopy(model.state_dict())
        PLAIN.to_labels(model)
    assert all(torch.equal(tensor, kept[key]) for key, tensor in model.state_dict().items())


def prices(tmp_path: Path, of: Callable[[int], float]) -> Recipe:
    """A recipe of a regression in which one word decides the label; `of` makes labels of 0 and 1."""
    path = tmp_path / "prices.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        for row in range(48):
            text = " ".join((FILLERS[row % 8], "tower" if row % 3 == 0 else "river", FILLERS[row // 8]))
            writer.writerow([text, of(int(row % 3 == 0))])
    optimization = Optimization(learning_rate=3e-3, weight_decay=0.01, batch_size=8, dropout=0.0)
    settings = Finetune(
        tasks=("prices",), custom={"prices": CustomTask(train=str(path), validation=str(path), kind="regression")},
        epochs=10.0, min_steps=0, optimization=optimization,
    )  # fmt: skip
    return Recipe(name="tiny", finetune=settings)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_model(tiny.model(initializer_range=0.2, hidden_size=32, num_attention_heads=4), tokenizer, folder)
    return folder


def finetuned(recipe: Recipe, encoder: Path, output: Path, source: SoftTargetSource | None = None) -> Path:
    task = tasks_of(recipe.finetune)["prices"]
    train = TaskExamples(*training_examples(recipe, task, augmented=None, soft=source is not None))
    finetune(
        recipe.finetune, train, encoder, output, compute=Compute.of(recipe, CPU), row="model", seed=0,
        soft_targets=source,
    )  # fmt: skip
    return output


def scores(folder: Path) -> tuple[float, float]:
    """What a model says of the two words."""
    predictions = load(folder).predict(["some river near", "some tower near"])
    return predictions[0]["score"], predictions[1]["score"]


@pytest.mark.long
@pytest.mark.parametrize(("low", "high"), [(100_000, 900_000), (-4e-6, -1e-6), (20_000_000, 20_000_400), (-3e9, 3e9)])
def test_numbers_of_any_size_are_learned_and_exported(low: float, high: float, encoder: Path, tmp_path: Path) -> None:
    model = finetuned(prices(tmp_path, lambda is_tower: high if is_tower else low), encoder, tmp_path / "model")
    folders = [model]
    if low == -4e-6:  # the exported form is compared with torch's in the sizes of these
        export(model, tmp_path / "onnx")
        folders.append(tmp_path / "onnx")
    for folder in folders:
        assert scores(folder) == pytest.approx((low, high), abs=0.2 * (high - low))
    facts = training_facts(model)
    assert facts["loss"] < 0.2 < facts["loss_without_learning"] == pytest.approx(1, rel=1e-4)
    assert facts["label_mean"] == pytest.approx((2 * low + high) / 3)


@pytest.mark.long
def test_a_student_learns_from_scores_of_that_size_and_goes_on_from_its_head(encoder: Path, tmp_path: Path) -> None:
    recipe = prices(tmp_path, lambda is_tower: 100_000 + 800_000 * is_tower)
    teacher = finetuned(recipe, encoder, tmp_path / "teacher")
    soft = replace(recipe, finetune=replace(recipe.finetune, distillation=TaskDistillation(soft=1.0)))
    train, _ = training_examples(soft, tasks_of(soft.finetune)["prices"], augmented=None, soft=True)
    targets = tmp_path / "targets"
    make_soft_targets(train, [teacher], targets, tokenizer=load_tokenizer(encoder), max_length=128, device=CPU)
    student = finetuned(soft, encoder, tmp_path / "student", SoftTargetSource(targets, (teacher,)))
    assert scores(student) == (pytest.approx(1e5, abs=1e5), pytest.approx(9e5, abs=1e5))
    # No step: what the head knew is not forgotten on the way into standard units and back.
    still = replace(recipe.finetune.optimization, learning_rate=1e-12)
    further = replace(recipe, finetune=replace(recipe.finetune, epochs=0.2, optimization=still))
    again = finetuned(further, teacher, tmp_path / "again")
    assert scores(again) == pytest.approx(scores(teacher), rel=1e-4)


@pytest.mark.long
def test_a_resumed_training_ends_with_the_same_bytes(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = prices(tmp_path, lambda is_tower: 100_000 + 800_000 * is_tower)
    whole = finetuned(recipe, encoder, tmp_path / "whole")
    save, saved = checkpoint.save, list[int]()

    def stop(*arguments: Any, **keywords: Any) -> None:
        save(*arguments, **keywords)
        saved.append(1)
        if len(saved) == 7:
            raise Interrupted

    with monkeypatch.context() as patched:
        patched.setattr(checkpoint, "save", stop)
        with pytest.raises(Interrupted):
            finetuned(replace(recipe, checkpoint_minutes=1e-9), encoder, tmp_path / "stopped")
    assert len(saved) == 7
    resumed = finetuned(recipe, encoder, tmp_path / "stopped")
    assert atomic.sha256(resumed / "model.safetensors") == atomic.sha256(whole / "model.safetensors")


@pytest.mark.parametrize(("mean", "deviation", "is_refused"), [(2.5, 1.5, False), (4e4, 1.0, True), (0.0, 1e-7, True)])
def test_half_precision_is_refused_where_it_would_lose_the_scores(
    mean: float, deviation: float, is_refused: bool, tmp_path: Path, tokenizer: Any
) -> None:
    model = tiny.model(head="regression", num_labels=1)
    LabelScale(mean, deviation).to_labels(model)
    save_model(model, tokenizer, tmp_path / "model")
    if is_refused:
        with pytest.raises(
            UserError, match="is too coarse for the scores of this regression; keep it in single precision"
        ):
            to_half(tmp_path / "model", tmp_path / "half")
    else:
        to_half(tmp_path / "model", tmp_path / "half")
        assert output_layer(load_model(tmp_path / "half", "regression", require_head=True)).out_features == 1
