"""Fine-tuning from an encoder to a scored model: steps, selection, second distillation, failures."""

import copy
import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch

from tests import tiny
from tinydistilbert.errors import NonFiniteLoss, UserError
from tinydistilbert.finetuning import trainer
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.finetuning.schedule import finetune_steps
from tinydistilbert.finetuning.soft_targets import SoftTargets, SoftTargetSource, make_soft_targets
from tinydistilbert.finetuning.trainer import TaskTraining, prepare_training
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Finetune, Optimization, Recipe, TaskDistillation
from tinydistilbert.run_folder import SOFT_TARGETS, TRAINING_FACTS
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, Examples
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.unlabelled import write_examples
from tinydistilbert.training.device import Compute
from tinydistilbert.training.step_numbers import StepNumbers

pytestmark = pytest.mark.long

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
}  # fmt: skip
WORDS = ["people", "came to see", "a large model", "Paris", "some cats", "the house", "she walked", "the lake"]


def rows(count: int, seed: int, task: str) -> list[dict[str, Any]]:
    """Sentences in which one word tells the label."""
    draw = random.Random(seed)
    made = []
    for index in range(count):
        label = index % 2
        words = [draw.choice(WORDS) for _ in range(draw.randint(1, 4))]
        words.insert(draw.randint(0, len(words)), "tower" if label else "river")
        text = " ".join(words)
        one = {"sentence": text, "label": label} if task == "cola" else {}
        made.append(one or {"sentence1": text, "sentence2": "the tower", "label": 4.0 * label + 0.5})
    return made


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for task in ("cola", "stsb"):
        for split, count, seed in (("train", 64, 0), ("validation", 30, 1)):
            path = tmp_path / "data" / TASKS[task].folder / f"{split}.parquet"
            path.parent.mkdir(parents=True, exist_ok=True)
            pyarrow.parquet.write_table(pa.Table.from_pylist(rows(count, seed, task)), path)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tokenizer: Any) -> Path:
    folder = tmp_path_factory.mktemp("encoder")
    save_model(tiny.model(initializer_range=0.2, **SIZES), tokenizer, folder)
    return folder


def recipe(data: Path, **changes: Any) -> Recipe:
    optimization = Optimization(learning_rate=3e-3, weight_decay=0.01, batch_size=8, dropout=0.0)
    settings = {"tasks": ("cola",), "epochs": 4.0, "min_steps": 0, "optimization": optimization, **changes}
    return Recipe(name="tiny", data=str(data), finetune=Finetune(**settings))


def finetuned(
    recipe: Recipe, task: str, encoder: Path, output: Path, *, row: str = "student", seed: int = 0,
    soft_targets: SoftTargetSource | None = None,
) -> None:  # fmt: skip
    """Fine-tune as the pipeline does."""
    examples = task_examples(recipe, TASKS[task], soft_targets)
    finetune(
        recipe.finetune, examples, encoder, output, compute=Compute.of(recipe, CPU), row=row, seed=seed,
        soft_targets=soft_targets,
    )  # fmt: skip


def prepared(recipe: Recipe, task: str, encoder: Path, soft_targets: SoftTargetSource | None = None) -> TaskTraining:
    examples, compute = task_examples(recipe, TASKS[task], soft_targets), Compute.of(recipe, CPU)
    return prepare_training(recipe.finetune, examples, encoder, compute=compute, seed=0, soft_targets=soft_targets)


def facts(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = atomic.read_json(folder / TRAINING_FACTS)
    return content


def steps_logged(folder: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "learning_rate" in line]


def test_batches_are_of_like_length_but_where_scores_are_learned(data: Path, encoder: Path) -> None:
    for task, is_sorted in (("cola", True), ("stsb", False)):
        training = prepared(recipe(data), task, encoder)
        spreads = [np.ptp(b["attention_mask"].sum(1).numpy()) for n in range(8) for b in training.batches(n)]
        assert (np.mean(spreads) <= 2) == is_sorted, (task, spreads)


def test_small_sets_are_gone_through_more_often() -> None:
    settings = Finetune(epochs=3, min_steps=50, optimization=Optimization(batch_size=10))
    assert finetune_steps(settings, 64) == 50
    assert finetune_steps(settings, 1000) == 300
    assert finetune_steps(Finetune(epochs=3, min_steps=0, optimization=Optimization(batch_size=10)), 64) == 21


def test_it_learns_and_tells_what_it_did(data: Path, encoder: Path, tmp_path: Path) -> None:
    finetuned(recipe(data), "cola", encoder, tmp_path / "model", seed=0)
    record = facts(tmp_path / "model")
    assert record["steps"] == 32 and record["train_examples"] == record["train_examples_total"] * 64 // 8551
    assert record["loss_without_learning"] == pytest.approx(np.log(2))
    assert record["loss"] < 0.75 * np.log(2)
    model = load_model(tmp_path / "model", "classification", require_head=True)
    assert model.config.id2label == {0: "unacceptable", 1: "acceptable"}
    assert model.get_input_embeddings().num_embeddings == model.config.vocab_size
    assert not list((tmp_path / "model").glob("best*"))


def test_the_same_seed_gives_the_same_model_and_another_seed_another(data: Path, encoder: Path, tmp_path: Path) -> None:
    made = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        finetuned(recipe(data), "cola", encoder, tmp_path / name, seed=seed)
        made.append(atomic.sha256(tmp_path / name / "model.safetensors"))
    assert made[0] == made[1] != made[2]


@pytest.mark.parametrize("select", ["heldout", "reported"])
def test_an_epoch_is_chosen_by_the_examples_that_the_recipe_names(
    select: str, data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scores = iter([0.1, 0.7, 0.7, 0.2])
    monkeypatch.setattr(trainer, "selection_score", lambda training: next(scores))
    settings = recipe(data, select=select)
    finetuned(settings, "cola", encoder, tmp_path / "chosen", seed=0)
    selected = facts(tmp_path / "chosen")["selected"]
    train = 64 if select == "reported" else 64 - 6
    steps = 4 * -(-train // 8)
    assert selected == {
        "by": select, "score": 0.7, "step": steps // 2, "epoch": 2.0,
        "examples": 30 if select == "reported" else 6,
    }  # fmt: skip
    left_out = facts(tmp_path / "chosen").get("left_out", 0)  # further rows of a text that is held out
    assert facts(tmp_path / "chosen")["train_examples"] == train - left_out

    # The weights are those of that epoch: as if the same schedule had been stopped there.
    training = prepared(settings, "cola", encoder)
    stopped = tmp_path / "stopped"
    stopped.mkdir()
    scored = {1: 0.1, 2: 0.7}
    monkeypatch.setattr(
        trainer, "selection_score", lambda training: scored.get(len(steps_logged(stopped)) // (steps // 4), 0.0)
    )
    trainer.run_training(training, stopped, "again")
    chosen = load_model(tmp_path / "chosen", "classification", require_head=True)
    for (name, one), other in zip(chosen.named_parameters(), training.model.parameters(), strict=True):
        assert torch.equal(one, other), name


def test_learning_rates_are_chosen_among_by_held_out_examples(data: Path, encoder: Path, tmp_path: Path) -> None:
    settings = recipe(data, select="heldout", learning_rates=(1e-7, 3e-3))
    finetuned(settings, "cola", encoder, tmp_path / "model", seed=0)
    record = facts(tmp_path / "model")
    assert record["learning_rate"] == 3e-3 and record["learning_rates"].keys() == {"1e-07", "0.003"}
    assert record["learning_rates"]["0.003"] == record["selected"]["score"] > record["learning_rates"]["1e-07"]
    assert [path.name for path in (tmp_path / "model").iterdir() if path.is_dir()] == []


def test_a_training_that_breaks_is_kept_and_told(
    data: Path, encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StepNumbers.line

    def breaks(item: StepNumbers) -> dict[str, float]:
        if item.step == 5:
            raise NonFiniteLoss("step 6: the loss is infinite")
        return real(item)

    monkeypatch.setattr(StepNumbers, "line", breaks)
    finetuned(recipe(data), "cola", encoder, tmp_path / "model", seed=0)
    assert facts(tmp_path / "model")["failed"] == "step 6: the loss is infinite"
    assert load_model(tmp_path / "model", "classification", require_head=True).config.num_labels == 2
    assert not (tmp_path / "model" / "checkpoints").exists()


def teachers(data: Path, encoder: Path, tmp_path: Path, task: str, seeds: Sequence[int]) -> list[Path]:
    made = []
    for seed in seeds:
        made.append(tmp_path / f"teacher-{seed}")
        finetuned(recipe(data), task, encoder, made[-1], row="teacher", seed=seed)
    return made


def soft_targets_of(
    settings: Recipe, task: str, encoder: Path, folders: list[Path], output: Path
) -> SoftTargetSource:  # fmt: skip
    examples, _ = training_examples(settings, TASKS[task], augmented=None, soft=True)
    make_soft_targets(examples, folders, output, tokenizer=load_tokenizer(encoder), max_length=128, device=CPU)
    return SoftTargetSource(output, tuple(folders))


@pytest.mark.parametrize("task", ["cola", "stsb"])
def test_a_student_learns_from_its_teachers_without_any_label(
    task: str, data: Path, encoder: Path, tmp_path: Path
) -> None:
    folders = teachers(data, encoder, tmp_path, task, [0, 1])
    settings = recipe(data, distillation=TaskDistillation(soft=1.0))
    source = soft_targets_of(settings, task, encoder, folders, tmp_path / "targets")
    one, two = (
        np.load(soft_targets_of(settings, task, encoder, [teacher], tmp_path / f"of-{i}").targets / SOFT_TARGETS)
        for i, teacher in enumerate(folders)
    )
    both = np.load(source.targets / SOFT_TARGETS)
    assert both.shape == (64, 2 if task == "cola" else 1)
    np.testing.assert_allclose(both, (one + two) / 2, atol=1e-6)
    finetuned(settings, task, encoder, tmp_path / "d", row="student (D)", seed=5, soft_targets=source)
    first, *_, last = steps_logged(tmp_path / "d")
    assert "hard" not in last and last["soft"] < 0.75 * first["soft"]
    assert facts(tmp_path / "d")["loss"] is None


def test_the_padding_token_may_be_any_and_never_changes_what_is_learned(
    data: Path, tmp_path: Path, tokenizer: Any
) -> None:
    model = tiny.model(vocab_size=len(tokenizer) + 1, initializer_range=0.2, pad_token_id=None, **SIZES)
    trained = []
    other = copy.deepcopy(tokenizer)
    other.add_special_tokens({"pad_token": "[FILL]"})
    assert (tokenizer.pad_token_id, other.pad_token_id) == (0, len(tokenizer))
    distillation = TaskDistillation(hidden=1.0)
    for name, variant in (("usual", tokenizer), ("last", other)):
        folder = tmp_path / name
        save_model(model, variant, folder / "encoder")
        settings = recipe(data, epochs=1.0, select="heldout", distillation=distillation)
        folders = [folder / "teacher"]
        finetuned(settings, "cola", folder / "encoder", folders[0], row="teacher", seed=0)
        source = soft_targets_of(settings, "cola", folder / "encoder", folders, folder / "targets")
        finetuned(
            settings, "cola", folder / "encoder", folder / "d", row="student (D)", seed=1,
            soft_targets=source,
        )  # fmt: skip
        trained.append(load_model(folder / "d", "classification", require_head=True).state_dict())
    for name, value in trained[0].items():
        torch.testing.assert_close(trained[1][name], value, rtol=1e-4, atol=1e-5)


def test_copies_of_published_examples_may_be_as_empty_as_those(data: Path, tmp_path: Path) -> None:
    columns = {"idx": [3], "text": ["some cats"], "text_pair": [""], "label": [None]}
    write_examples(TASKS["stsb"], [Examples(TASKS["stsb"], "train", columns, 1)], tmp_path / "copies.parquet")
    examples, labelled = training_examples(
        recipe(data), TASKS["stsb"], augmented=tmp_path / "copies.parquet", soft=True
    )
    assert (labelled, len(examples)) == (64, 65) and examples.columns["text_pair"][64] == ""


def test_targets_belong_to_their_examples(data: Path, encoder: Path, tmp_path: Path) -> None:
    folders = teachers(data, encoder, tmp_path, "cola", [0])
    settings = recipe(data)
    source = soft_targets_of(settings, "cola", encoder, folders, tmp_path / "targets")
    fewer = recipe(data, train_examples=20)
    with pytest.raises(UserError, match="sha256"):
        prepared(fewer, "cola", encoder, source)
    examples, _ = training_examples(settings, TASKS["cola"], augmented=None, soft=True)
    targets = SoftTargets.open(source.targets, examples, encode(examples, load_tokenizer(encoder), 128))
    logits = np.load(source.targets / SOFT_TARGETS)
    np.testing.assert_array_equal(targets.batch(np.array([7, 3]))["teacher_logits"].numpy(), logits[[7, 3]])


def test_a_teacher_may_number_the_classes_in_its_own_way_but_must_have_them(
    data: Path, encoder: Path, tmp_path: Path, tokenizer: Any
) -> None:
    turned = tiny.model(head="classification", seed=3, initializer_range=0.5, num_labels=2, **SIZES)
    config = turned.config
    config.id2label = {0: "acceptable", 1: "unacceptable"}
    save_model(turned, tokenizer, tmp_path / "turned")
    config.id2label = {0: "unacceptable", 1: "acceptable"}
    save_model(turned, tokenizer, tmp_path / "straight")
    config.id2label = {0: "unacceptable", 1: "splendid"}
    save_model(turned, tokenizer, tmp_path / "other")
    settings = recipe(data)
    sources = (
        soft_targets_of(settings, "cola", encoder, [tmp_path / name], tmp_path / f"of-{name}")
        for name in ("straight", "turned")
    )
    straight, reversed_ = (np.load(source.targets / SOFT_TARGETS) for source in sources)
    np.testing.assert_allclose(straight, reversed_[:, ::-1])
    with pytest.raises(UserError, match="splendid"):
        soft_targets_of(settings, "cola", encoder, [tmp_path / "other"], tmp_path / "of-other")
    with pytest.raises(UserError, match="regression model of 1"):
        soft_targets_of(settings, "stsb", encoder, [tmp_path / "turned"], tmp_path / "of-stsb")


def test_layers_are_learned_first_where_the_recipe_says_so(data: Path, encoder: Path, tmp_path: Path) -> None:
    folders = teachers(data, encoder, tmp_path, "cola", [0])
    distillation = TaskDistillation(hidden=1.0, relation=1.0, intermediate_epochs=1.0)
    settings = recipe(data, epochs=2.0, distillation=distillation)
    source = soft_targets_of(settings, "cola", encoder, folders, tmp_path / "targets")
    finetuned(
        settings, "cola", encoder, tmp_path / "d", row="student (D)", seed=1, soft_targets=source
    )  # fmt: skip
    log = steps_logged(tmp_path / "d")
    assert [line["step"] for line in log if line["hidden"] > 0] == list(range(1, 9))
    assert [line["step"] for line in log if line["soft"] > 0] == list(range(9, 17))
    load_model(tmp_path / "d", "classification", require_head=True)


def test_rows_that_learn_from_teachers_may_have_larger_batches(data: Path, encoder: Path, tmp_path: Path) -> None:
    folders = teachers(data, encoder, tmp_path, "cola", [0])
    settings = recipe(data, epochs=1.0, distillation=TaskDistillation(batch_size=32))
    source = soft_targets_of(settings, "cola", encoder, folders, tmp_path / "targets")
    finetuned(settings, "cola", encoder, tmp_path / "plain", row="student", seed=1)
    finetuned(settings, "cola", encoder, tmp_path / "d", row="student (D)", seed=1, soft_targets=source)
    assert [facts(tmp_path / name)["steps"] for name in ("plain", "d")] == [8, 2], "of 64 examples"
    section = toml.from_dict({"finetune": {"override": {"cola": {"distillation": {"batch_size": 7}}}}}, "here").finetune
    sizes = [section.settings(task, is_distilled=True).optimization.batch_size for task in ("cola", "mrpc")]
    assert (
        sizes == [7, section.optimization.batch_size] and section.settings("cola").optimization.batch_size == sizes[1]
    )
