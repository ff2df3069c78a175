"""finetune: encoder + task → task model; with fine-tuned teachers of the task, "(D)", it learns from them as well."""

import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch

from tinydistilbert.errors import NonFiniteLoss
from tinydistilbert.finetuning.trainer import Lesson, TaskTraining
from tinydistilbert.models.loading import save_model
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.run_folder import LOG, TRAINING_FACTS
from tinydistilbert.storage import atomic, disk, json_lines
from tinydistilbert.tasks.base import Task
from tinydistilbert.training import checkpoint


def finetune(
    recipe: Recipe,
    task: Task,
    encoder: Path,
    output: Path,
    *,
    row: str,
    seed: int,
    device: torch.device,
    lesson: Lesson | None = None,
) -> None:
    """Make the finished folder `output`: the encoder with the task's head, trained on the task's train split.

    Batches hold examples of like length, but where scores are learned, and are padded to their own longest. Nothing
    that is scored is read, unless the recipe selects as published; what is held out of the train split is read to
    select, never to train.

    A training whose loss becomes infinite ends there: the model is kept as it was, and `training.json` says so.

    Args:
        recipe: its section finetune, with the task's override, is read.
        task: a row of `tasks_of`.
        encoder: folder of teacher, student or control.
        output: folder to make; beside the model it holds `log.jsonl` and `training.json`.
        row: name of the model in tables and progress lines.
        seed: of the head's weights, the order of the examples, and dropout; a sample of them is `recipe.seed`'s.
        device: where to compute.
        lesson: what fine-tuned teachers say, to be learned beside the labels (Sanh et al. 2019, section 3: "a second
            step of distillation").

    Raises:
        UserError: the data, the encoder or the teachers do not fit the task.
        Interrupted: the user asked to stop; the same call goes on from a checkpoint.
    """
    settings = recipe.finetune.settings(task.name)
    rates = settings.learning_rates or (settings.optimization.learning_rate,)

    def prepare(rate: float) -> TaskTraining:
        return TaskTraining(recipe, task, encoder, seed=seed, device=device, lesson=lesson, learning_rate=rate)

    with atomic.unfinished(output) as folder:
        label = f"finetune {row} on {task.title}"
        training, seconds, facts = _best_of(prepare, rates, folder, label)
        save_model(training.model, training.tokenizer, folder)
        examples = training.examples
        facts |= {
            "train_examples": training.labelled, "train_examples_total": examples.total,
            "steps": training.work.steps, "seconds": round(seconds, 1), "seed": seed,
            "data_fingerprint": examples.fingerprint, "loss": _last_loss(folder / LOG),
            "loss_without_learning": training.loss_without_learning(),
        }  # fmt: skip
        if len(examples) > training.labelled:
            facts["unlabelled_examples"] = len(examples) - training.labelled
        atomic.write_json(folder / TRAINING_FACTS, facts)


def training_facts(model: Path) -> dict[str, Any]:
    """What `finetune` wrote about the training of a model that it made; nothing of a model from elsewhere.

    Raises:
        UserError: the file is not as it was written.
    """
    has_facts = (model / TRAINING_FACTS).is_file()
    if not has_facts and atomic.is_finished(model):  # lost, or never there
        has_facts = TRAINING_FACTS in atomic.read_manifest(model, verify=False)["files"]
    if not has_facts:
        return {}
    facts: dict[str, Any] = atomic.read_json(atomic.intact(model, TRAINING_FACTS))
    return facts


def _best_of(
    prepare: Callable[[float], TaskTraining], rates: Iterable[float], folder: Path, label: str
) -> tuple[TaskTraining, float, dict[str, Any]]:
    """The training with the best score among the learning rates; with a single one, just that.

    The trainings and what they chose stay until `folder` is finished: one that is killed before finds them all done.
    """
    rates = list(rates)
    if len(rates) == 1:
        training = prepare(rates[0])
        seconds, facts = _run(training, folder, label)
        return training, seconds, facts
    best: tuple[TaskTraining, Path, dict[str, Any]] | None = None
    scores: dict[str, float | None] = {}
    total = 0.0
    parts = [folder / atomic.CHECKPOINTS / f"learning-rate-{rate:g}" for rate in rates]
    for rate, part in zip(rates, parts, strict=True):
        training = prepare(rate)
        disk.make_folder(part)
        seconds, facts = _run(training, part, f"{label}, learning rate {rate:g}")
        checkpoint.forget(part / atomic.CHECKPOINTS)  # what was chosen stays
        scores[f"{rate:g}"] = facts.get("selected", {}).get("score")
        if best is None or _score(facts) > _score(best[2]):
            best = training, part, facts
        total += seconds
    assert best is not None, "there is a learning rate"
    training, part, facts = best
    shutil.copy(part / LOG, folder / LOG)
    return training, total, facts | {"learning_rates": scores}


def _score(facts: dict[str, Any]) -> float:
    """What chose the epoch; a training that failed is the last choice."""
    return float(facts.get("selected", {}).get("score", -math.inf))


def _run(training: TaskTraining, folder: Path, label: str) -> tuple[float, dict[str, Any]]:
    """Train; gives the seconds and what is worth telling: how an epoch was selected, or why the training failed."""
    facts: dict[str, Any] = {"learning_rate": training.optimization.learning_rate}
    try:
        seconds, best = training.run(folder, label)
    except NonFiniteLoss as error:
        return 0.0, facts | {"failed": str(error)}
    if best is not None:
        assert training.scored is not None
        epoch = best.step * training.optimization.gradient_accumulation_steps / training.batches_per_epoch
        facts["selected"] = {
            "by": training.settings.select, "score": best.score, "step": best.step, "epoch": round(epoch, 2),
            "examples": len(training.scored),
        }  # fmt: skip
    return seconds, facts


def _last_loss(log: Path) -> float | None:
    """Mean of the labels' loss over the last tenth of the steps; None where labels had no weight there."""
    steps = [line for line in json_lines.read(log) if "learning_rate" in line]
    last = [line["hard"] for line in steps[-max(1, len(steps) // 10) :] if line.get("hard")]
    return round(sum(last) / len(last), 4) if last else None
