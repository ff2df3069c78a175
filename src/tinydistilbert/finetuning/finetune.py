"""finetune: encoder + task → task model; with fine-tuned teachers of the task, "(D)", also a second distillation."""

import math
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from tinydistilbert.errors import NonFiniteLoss
from tinydistilbert.finetuning.examples import TaskExamples
from tinydistilbert.finetuning.schedule import candidate_rates
from tinydistilbert.finetuning.soft_targets import SoftTargetSource
from tinydistilbert.finetuning.thresholds import set_threshold
from tinydistilbert.finetuning.trainer import (
    TaskTraining,
    first_features,
    loss_without_learning,
    prepare_training,
    run_training,
)
from tinydistilbert.models.lengths import MAX_LENGTH
from tinydistilbert.models.loading import longest_input, save_model
from tinydistilbert.models.runtimes import TEXTS
from tinydistilbert.notices import notice
from tinydistilbert.recipe import schema
from tinydistilbert.run_folder import LOG, TRAINING_FACTS
from tinydistilbert.storage import atomic, disk, json_lines
from tinydistilbert.tasks.encoding import cut_texts
from tinydistilbert.tasks.span_losses import span_losses
from tinydistilbert.tasks.token_losses import token_losses
from tinydistilbert.training import checkpoint
from tinydistilbert.training.device import Compute


def finetune(
    settings: schema.Finetune,
    examples: TaskExamples,
    encoder: Path,
    output: Path,
    *,
    compute: Compute,
    row: str,
    seed: int,
    soft_targets: SoftTargetSource | None = None,
) -> None:
    """Write the finished folder `output`: the encoder with the task's head, trained on the task's train split.

    Except in regressions, batches hold examples of similar length. They are padded to their longest, or to the next of
    a few lengths (`batches.padded_length`).

    A training whose loss becomes infinite stops: the model of the step before is kept, and `training.json` records it.

    Args:
        settings: of all tasks; those of the examples' task are used.
        examples: those to train on, and those that select an epoch.
        encoder: folder of teacher, student or control.
        output: folder to make; it also holds `log.jsonl` and `training.json`.
        compute: where to compute.
        row: name of the model in tables and progress lines.
        seed: of the head's weights, the order of the examples, and dropout.
        soft_targets: of fine-tuned teachers, to learn from in addition to the labels (Sanh et al. 2019, section 3: "a
            second step of distillation").

    Raises:
        UserError: the encoder or the teachers do not fit the task, or each other.
        Interrupted: the user asked to stop; the same call resumes from a checkpoint.
    """
    task = examples.task
    rates = candidate_rates(settings.settings(task.name), is_distilled=soft_targets is not None)

    def prepare(rate: float) -> TaskTraining:
        training = prepare_training(
            settings, examples, encoder, compute=compute, seed=seed, soft_targets=soft_targets, learning_rate=rate
        )
        notice_losses(training)
        return training

    with compute.ranks.unfinished(output) as folder:
        label = f"finetune {row} on {task.title}"
        training, seconds, facts = _best_of(prepare, rates, folder, label)
        if not compute.ranks.is_main:
            return
        training.give_labels()
        facts |= set_threshold(training, training.max_length)
        save_model(training.model, training.tokenizer, folder, max_length=training.max_length)
        facts |= {
            MAX_LENGTH: training.max_length, TEXTS: task.texts_per_input, "cut_texts": training.batches.features.cut,
            "train_examples": examples.labelled, "train_examples_total": examples.train.total,
            "steps": training.job.steps, "seconds": round(seconds, 1), "seed": seed,
            "precision": training.compute.chosen,
            "data_fingerprint": examples.train.fingerprint, "loss": _last_loss(folder / LOG),
            "loss_without_learning": loss_without_learning(training),
        }  # fmt: skip
        if examples.train.left_out:
            facts["left_out"] = examples.train.left_out
        if notes := span_losses(examples.originals, first_features(training.batches.features, examples)):
            facts["notes"] = notes
        if not training.scale.is_plain:  # both losses are in these units
            facts |= {"label_mean": training.scale.mean, "label_deviation": training.scale.deviation}
        if len(examples.train) > examples.labelled:
            facts["unlabelled_examples"] = len(examples.train) - examples.labelled
        atomic.write_json(folder / TRAINING_FACTS, facts)


def notice_losses(training: TaskTraining) -> None:
    """Warn of train texts that are too long for the model, or of which its tokenizer loses a part."""
    task, cut, length = training.examples.task, training.batches.features.cut, training.max_length
    if cut:
        of = f"{cut:,} of {len(training.examples.train):,} train"
        notice(f"finetune on {task.title}", cut_texts(task, of, length, longest_input(training.model.config)))
    for loss in token_losses(training.examples.train, training.batches.features, training.tokenizer):
        notice(f"finetune on {task.title}", loss)


def _best_of(
    prepare: Callable[[float], TaskTraining], rates: Iterable[float], folder: Path, label: str
) -> tuple[TaskTraining, float, dict[str, Any]]:
    """Train with each learning rate and return the training with the best score; a single rate is just trained.

    The trainings and their selected epochs stay until `folder` is finished, so that a killed run need not repeat them.
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
        checkpoint.forget(part / atomic.CHECKPOINTS)  # the selected epoch stays
        scores[f"{rate:g}"] = facts.get("selected", {}).get("score")
        if best is None or _score(facts) > _score(best[2]):
            best = training, part, facts
        total += seconds
    assert best is not None, "there is a learning rate"
    training, part, facts = best
    if training.compute.ranks.is_main:
        shutil.copy(part / LOG, folder / LOG)
    return training, total, facts | {"learning_rates": scores}


def _score(facts: dict[str, Any]) -> float:
    """Return the score of the selected epoch; a failed training ranks last."""
    return float(facts.get("selected", {}).get("score", -math.inf))


def _run(training: TaskTraining, folder: Path, label: str) -> tuple[float, dict[str, Any]]:
    """Train, and return the seconds and the facts: how an epoch was selected, or why the training failed."""
    *before, last = training.job.phases
    facts: dict[str, Any] = {"learning_rate": last.learning_rate}
    for phase in before:
        facts |= {"intermediate_steps": phase.steps, "intermediate_learning_rate": phase.learning_rate}
    try:
        seconds, best = run_training(training, folder, label)
    except NonFiniteLoss as error:
        return 0.0, facts | {"failed": str(error)}
    if best is not None:
        assert training.examples.selection is not None
        epoch = (
            (best.step - sum(phase.steps for phase in before))
            * training.optimization.gradient_accumulation_steps
            / training.last_batches.per_epoch
        )
        facts["selected"] = {
            "by": training.settings.select, "score": best.score, "step": best.step, "epoch": round(epoch, 2),
            "examples": len(training.examples.selection),
        }  # fmt: skip
    return seconds, facts


def _last_loss(log: Path) -> float | None:
    """Return the mean loss on the labels over the last tenth of the steps; None if labels had no weight there."""
    steps = [line for line in json_lines.read(log) if "learning_rate" in line]
    last = [line["hard"] for line in steps[-max(1, len(steps) // 10) :] if line.get("hard")]
    return round(sum(last) / len(last), 4) if last else None
