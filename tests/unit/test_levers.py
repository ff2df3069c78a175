"""The levers of a stronger student: each setting changes what it says, and nothing where it is not set."""

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from tests import tiny
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.schedule import distillation_phases, finetune_steps
from tinydistilbert.models.loading import load_model, save_model
from tinydistilbert.models.matching import task_matches
from tinydistilbert.models.student import layer_map
from tinydistilbert.pipeline import task_models
from tinydistilbert.pipeline.run import run_context
from tinydistilbert.recipe import schema, toml
from tinydistilbert.recipe.schema import Finetune, Optimization, Recipe, TaskDistillation
from tinydistilbert.tasks import TASKS, Examples, tables_of, tasks_of
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Phase, TrainingJob
from tinydistilbert.training.loop import train
from tinydistilbert.training.optimizer import SCALE, make_optimizer

TWO_STAGES = {
    "finetune": {
        "epochs": 3, "min_steps": 0, "optimization": {"learning_rate": 1e-4, "batch_size": 10},
        "distillation": {
            "hidden": 1, "intermediate_epochs": 10, "intermediate_learning_rate": 5e-5, "epochs": 2,
            "learning_rate": 2e-5,
        },
    },
}  # fmt: skip


def recipe_of(*changes: dict[str, Any]) -> Recipe:
    merged: dict[str, Any] = {}
    for change in changes:
        merged = toml.merge(merged, change)
    return toml.from_dict(merged, "here")


def test_each_stage_has_its_epochs_and_its_learning_rate() -> None:
    settings = recipe_of(TWO_STAGES).finetune
    assert distillation_phases(settings, 100) == (Phase(100, 5e-5), Phase(20, 2e-5))
    assert finetune_steps(settings, 100) == 30, "rows without a teacher go by finetune.epochs"
    one = dataclasses.replace(settings, distillation=TaskDistillation(hidden=1, intermediate_epochs=1))
    assert distillation_phases(one, 100) == (Phase(30, 1e-4),), "one schedule where no key of a stage is set"
    rate = dataclasses.replace(one, distillation=TaskDistillation(hidden=1, intermediate_epochs=1, learning_rate=2e-5))
    assert distillation_phases(rate, 100) == (Phase(10, 1e-4), Phase(20, 2e-5))
    alone = dataclasses.replace(one, distillation=TaskDistillation(epochs=1), min_steps=500)
    assert distillation_phases(alone, 100) == (Phase(10, 1e-4),)


def test_stages_of_single_tasks() -> None:
    recipe = recipe_of(TWO_STAGES, {"finetune": {"tasks": ["cola", "rte"], "override": {
        "cola": {"epochs": 5, "distillation": {"intermediate_epochs": 50, "augment": 50, "soft": 1.0}},
    }}})  # fmt: skip
    cola, rte = recipe.finetune.settings("cola"), recipe.finetune.settings("rte")
    assert (cola.epochs, cola.distillation.intermediate_epochs, cola.distillation.augment) == (5, 50, 50)
    assert (cola.distillation.soft, cola.distillation.epochs) == (1.0, 2)
    assert (rte.epochs, rte.distillation.intermediate_epochs, rte.distillation.augment) == (3, 10, 0)
    assert toml.from_toml(toml.to_toml(recipe), "shown") == recipe


@pytest.mark.parametrize(
    ("changes", "parts"),
    [
        ({"hidden": 1, "intermediate_epochs": 3}, ["intermediate_epochs", "fewer than the 3 epochs"]),
        ({"intermediate_epochs": 1, "epochs": 1}, ["intermediate_epochs", "a weight of hidden"]),
        ({"intermediate_learning_rate": 1e-5}, ["intermediate_learning_rate", "found none"]),
    ],
)
def test_stages_that_do_not_go_together_are_refused(changes: dict[str, Any], parts: list[str]) -> None:
    for settings in ({"distillation": changes}, {"override": {"cola": {"distillation": changes}}}):
        with pytest.raises(UserError) as caught:
            recipe_of({"finetune": {"tasks": ["cola"], **settings}})
        assert all(part in str(caught.value) for part in parts), caught.value
    recipe_of({"finetune": {"distillation": {"hidden": 1, "intermediate_epochs": 3, "epochs": 1}}})


class Line(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(2, 2))


def line_job(phases: tuple[Phase, ...]) -> TrainingJob:
    def loss(model: Any, batch: Any, scales: Any, step: int) -> Any:
        value = (model.weight * (1 + step)).sum()
        return value * scales["x"], {"x": value.detach()}

    return TrainingJob(
        steps=sum(phase.steps for phase in phases), micro_batches=lambda step, oom_splits=0: [{"x": torch.zeros(1)}],
        token_shares=lambda batches: [{"x": 1.0}], term_weights=lambda step: {"x": 1.0}, loss=loss,
        tokens=lambda batch: 1, phases=phases,
    )  # fmt: skip


def test_a_stage_begins_as_a_training_of_its_own(tmp_path: Path) -> None:
    """Its first steps are those of a training that begins there: warm-up, and AdamW without moments."""
    settings, compute = Optimization(warmup_ratio=0.5, learning_rate=9.0), Compute.of(Recipe(), torch.device("cpu"))
    phases = (Phase(4, 0.1), Phase(6, 0.01))
    both, first, second = Line(), Line(), Line()
    logs = []
    for name, model, part in (("both", both, phases), ("first", first, phases[:1])):
        (tmp_path / name).mkdir()
        train(model, line_job(part), settings, compute, seed=0, folder=tmp_path / name, label=name)
        logs.append((tmp_path / name / "log.jsonl").read_text().splitlines())
    assert logs[0][:4] == logs[1]
    with torch.no_grad():
        second.weight.copy_(first.weight)
    job = line_job(phases[1:])
    shifted = dataclasses.replace(job, loss=lambda m, b, s, step: job.loss(m, b, s, step + 4))
    (tmp_path / "second").mkdir()
    train(second, shifted, settings, compute, seed=0, folder=tmp_path / "second", label="second")
    torch.testing.assert_close(both.weight, second.weight)


def test_a_student_is_compared_with_the_layers_that_it_was_cut_from() -> None:
    assert layer_map(schema.Student(layers="uniform"), 6) == (1, 3, 5)
    assert layer_map(schema.Student(layers="uniform"), 12) == (1, 3, 5, 7, 9, 11)
    teacher, student = tiny.config(num_hidden_layers=6), tiny.config(num_hidden_layers=3)
    uniform, copied = TaskDistillation(hidden=1), TaskDistillation(hidden=1, matched_layers="copied")
    assert task_matches(teacher, student, uniform, (0, 2, 5)).teacher_layers == (1, 3, 5)
    assert task_matches(teacher, student, copied, (0, 2, 5)).teacher_layers == (0, 2, 5)
    assert task_matches(teacher, student, uniform, (1, 3, 5)) == task_matches(teacher, student, copied, (1, 3, 5))
    with pytest.raises(UserError, match="matched_layers"):
        task_matches(teacher, student, copied, (0, 2, 7))
    with pytest.raises(UserError, match="matched_layers"):
        recipe_of({"finetune": {"model": "m", "distillation": {"teachers": ["t"], "matched_layers": "copied"}}})


def test_the_levers_leave_the_hash_of_recipes_that_do_not_pull_them() -> None:
    plain = Recipe(finetune=Finetune(override={"cola": schema.TaskSettings(epochs=1)}))
    assert schema.recipe_hash(plain) == "8ae71c869f8d"
    pulled = dataclasses.replace(
        plain, finetune=dataclasses.replace(plain.finetune, distillation=TaskDistillation(epochs=1.0))
    )
    assert schema.recipe_hash(pulled) != schema.recipe_hash(plain)


def test_lower_layers_learn_more_slowly() -> None:
    model = tiny.model("bert", "classification", num_hidden_layers=2)
    plain, decayed = make_optimizer(model, Optimization()), make_optimizer(model, Optimization(), 0.5)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    scales = {names[id(p)]: group[SCALE] for group in decayed.param_groups for p in group["params"]}
    assert scales["classifier.weight"] == scales["bert.pooler.dense.bias"] == 1
    assert scales["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert scales["bert.encoder.layer.0.attention.self.query.bias"] == 0.25
    assert scales["bert.embeddings.word_embeddings.weight"] == scales["bert.embeddings.LayerNorm.weight"] == 0.125
    assert len(scales) == len(names), "each parameter is in one group"
    assert [group[SCALE] for group in plain.param_groups] == [1, 1]
    matrices = [group["weight_decay"] for group in make_optimizer(model, Optimization(weight_decay=0.1)).param_groups]
    assert matrices == [0.1, 0]


def test_the_share_of_a_layer_reaches_its_steps(tmp_path: Path) -> None:
    class Layers(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(2, 2, bias=False) for _ in range(2)])
            for layer in self.layers:
                nn.init.ones_(layer.weight)

    def loss(model: Any, batch: Any, scales: Any, step: int) -> Any:
        value = sum(layer.weight.sum() for layer in model.layers)
        return value * scales["x"], {"x": value.detach()}

    job = dataclasses.replace(line_job((Phase(1, 0.1),)), loss=loss, layer_decay=0.5)
    model, compute = Layers(), Compute.of(Recipe(), torch.device("cpu"))
    train(model, job, Optimization(warmup_ratio=0.0), compute, seed=0, folder=tmp_path, label="layers")
    moved = [1 - layer.weight[0, 0].item() for layer in model.layers]
    assert moved == pytest.approx([0.1 * 0.25, 0.1 * 0.5], rel=1e-3)


def test_settings_of_teachers() -> None:
    recipe = recipe_of({"finetune": {"teacher": "offline", "layer_decay": 0.9, "override": {
        "cola": {"layer_decay": 0.8},
    }}})  # fmt: skip
    assert recipe.finetune.settings("cola").layer_decay == 0.8 and recipe.finetune.settings("rte").layer_decay == 0.9
    for wrong in ({"model": "m"}, {"models": ["student"]}):
        with pytest.raises(UserError, match=r"finetune\.teacher"):
            recipe_of({"finetune": {"teacher": "offline", **wrong}})


AFTER_MRPC = {"finetune": {
    "tasks": ["rte@mrpc", "rte", "mrpc"], "seeds": [0, 1], "baselines": False,
    "override": {"rte": {"epochs": 2}, "mrpc": {"epochs": 4}}, "distillation": {"start": "teacher"},
}}  # fmt: skip


def test_a_task_after_another_is_a_column_of_its_own_and_comes_last(tmp_path: Path) -> None:
    recipe = recipe_of(AFTER_MRPC)
    task = tasks_of(recipe.finetune)["rte@mrpc"]
    assert (task.title, task.folder, task.labels) == ("RTE after MRPC", "glue/rte", TASKS["rte"].labels)
    assert task.table is not TASKS["rte"].table and not task.published
    assert tables_of(tasks_of(recipe.finetune))[TASKS["rte"].table] == tables_of(TASKS)[TASKS["rte"].table]
    assert recipe.finetune.settings("rte@mrpc").epochs == 2
    own = recipe_of(AFTER_MRPC, {"finetune": {"override": {"rte@mrpc": {"epochs": 7, "max_length": 64}}}}).finetune
    assert own.settings("rte@mrpc").epochs == 7 and own.settings("rte").epochs == 2
    assert own.max_length("rte@mrpc", 128) == 64 and own.max_length("rte", 128) == 128
    run = run_context(recipe, tmp_path / "run", until="evaluate", log=lambda line: None)
    assert [job.task for job in run.jobs][-6:] == ["rte@mrpc"] * 6
    for job in (job for job in run.jobs if job.task == "rte@mrpc"):
        assert task_models._encoder(run, job) == run.folder.task_model("mrpc", job.row, job.seed), "same row, same seed"
    first = next(job for job in run.jobs if job.task == "rte")
    assert task_models._encoder(run, first) == run.folder.teacher


@pytest.mark.parametrize(
    ("tasks", "part"),
    [
        (["rte@mnli", "rte"], "write 'mnli' into finetune.tasks too"),
        (["rte", "rte@rte"], "another task behind the @"),
        (["rte@mnlx"], "did you mean 'mnli'"),
        (["rte@mnli@cola", "mnli"], "a known task"),
    ],
)
def test_a_task_after_one_that_is_not_there_is_refused(tasks: list[str], part: str) -> None:
    with pytest.raises(UserError) as caught:
        recipe_of({"finetune": {"tasks": tasks}})
    assert part in str(caught.value) and "\n" not in str(caught.value)


def test_the_layers_that_matter_most_are_cut_and_remembered(
    tmp_path: Path, tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    recipe = recipe_of({"student": {"layers": "uniform", "num_hidden_layers": 2}, "finetune": {
        "tasks": ["rte"], "models": ["teacher"], "distillation": {"start": "teacher", "cut": "importance"},
    }})  # fmt: skip
    run = run_context(recipe, tmp_path / "run", until="evaluate", log=lambda line: None)
    teacher = tiny.scrambled(tiny.model("bert", "classification", num_hidden_layers=4, num_labels=2))
    save_model(teacher, tokenizer, tmp_path / "teacher")
    texts = {"text": ["Paris", "the lake"] * 4, "text_pair": ["a", "b"] * 4, "label": [0, 1] * 4, "idx": [*range(8)]}
    examples = Examples(TASKS["rte"], "train", texts, 8)
    monkeypatch.setattr(task_models, "training_examples", lambda *_, **__: (examples, 8))
    seen = []

    def chosen(importance: Any, count: int) -> tuple[int, ...]:
        seen.append((len(importance.layers), count))
        assert all(importance.layers > 0)
        return 0, 3

    monkeypatch.setattr(task_models, "most_important_layers", chosen)
    cut = run.folder.cut_teacher("rte")
    task_models._cut(run, "rte", tmp_path / "teacher", cut)
    assert seen == [(4, 2)]
    assert task_models._copied_layers(run, "rte", tmp_path / "teacher") == (0, 3)
    name = "bert.encoder.layer.{}.output.dense.weight"
    weights = load_model(cut, "classification", require_head=True).state_dict()
    assert torch.equal(weights[name.format(1)], teacher.state_dict()[name.format(3)])
    with pytest.raises(UserError, match=r"distillation\.cut"):
        recipe_of({"finetune": {"distillation": {"cut": "importance"}}})


def test_the_preset_pulls_the_levers_and_makes_no_pretrained_student(tmp_path: Path) -> None:
    recipe = toml.load("task-student")
    assert recipe.task_encoder == recipe.teacher.model
    offline = dataclasses.replace(recipe, teacher=schema.Teacher(model="offline"))
    assert offline.task_encoder == "offline"
    for until in ("evaluate", "report"):
        run = run_context(offline, tmp_path, until=until, log=lambda line: None)
        assert not run.makes_student() and run.reads_masked_lm(), "copies need a masked LM"
        assert {job.row for job in run.jobs} == {"teacher", "student (D)"}
    phases = distillation_phases(recipe.finetune.settings("stsb"), 2100, 100)
    assert [phase.learning_rate for phase in phases] == [5e-5, 3e-5]
    assert phases[1].steps == 3 * 4, "STS-B's second stage reads the original pairs"
