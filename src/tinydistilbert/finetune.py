"""finetune: encoder + task → task model; with a fine-tuned teacher of the task, the second distillation "(D)"."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from tinydistilbert import fsio, losses
from tinydistilbert.data.batches import length_grouped
from tinydistilbert.data.corpus import tokenizer_hash
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import load_model, load_tokenizer, save_model, set_dropout
from tinydistilbert.recipe import Recipe
from tinydistilbert.tasks import TASKS, held_out_of_train, load_examples
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.encoding import Features, collate, encode, uses_token_types
from tinydistilbert.tasks.inference import predict
from tinydistilbert.training import Batch, Work, shares_of, step_seed, train, weighted

TRAINING_FACTS = "training.json"
"""In a finished model folder: how many examples of how many it was trained on, in how many steps and seconds."""


@dataclass(frozen=True)
class _TaskLoss:
    """The hard loss of a task, and beside it the soft one when the features carry a teacher's logits."""

    task: Task
    temperature: float
    soft_weight: float

    @property
    def weights(self) -> dict[str, float]:
        return {"hard": 1 - self.soft_weight, "soft": self.soft_weight} if self.soft_weight else {"hard": 1.0}

    def terms(self, model: nn.Module, batch: Batch) -> Mapping[str, Tensor]:
        inputs = {k: v for k, v in batch.items() if k in ("input_ids", "attention_mask", "token_type_ids")}
        output = model(**inputs)
        if self.task.kind == "span":
            ends = ((output.start_logits, "start"), (output.end_logits, "end"))
            hard = torch.stack([F.cross_entropy(logits, batch[f"{end}_positions"]) for logits, end in ends]).mean()
            if not self.soft_weight:
                return {"hard": hard}
            counted, told = batch["attention_mask"].bool(), self.temperature
            soft = [losses.span_kl(logits, batch[f"teacher_{end}"], counted, told) for logits, end in ends]
            return {"hard": hard, "soft": torch.stack(soft).mean()}
        if self.task.kind == "regression":
            return {"hard": F.mse_loss(output.logits.squeeze(-1), batch["labels"])}
        return {"hard": F.cross_entropy(output.logits, batch["labels"])}


def _batches_per_epoch(recipe: Recipe, task_name: str, features: int) -> int:
    return math.ceil(features / recipe.finetune.settings(task_name).optimization.batch_size)


def finetune_steps(recipe: Recipe, task_name: str, features: int) -> int:
    """Optimiser steps of a fine-tuning on `features` inputs (in span tasks: windows) for the epochs of the recipe."""
    settings = recipe.finetune.settings(task_name)
    batches = settings.epochs * _batches_per_epoch(recipe, task_name, features)
    return math.ceil(batches / settings.optimization.gradient_accumulation_steps)


def finetune(
    recipe: Recipe,
    task_name: str,
    encoder: Path,
    output: Path,
    *,
    row: str,
    seed: int,
    device: torch.device,
    task_teacher: Path | None = None,
) -> None:
    """Make the finished folder `output`: the encoder with the task's head, trained on the task's train split.

    Batches hold examples of like length and are padded to their own longest. Nothing that is scored is read:
    neither the validation split nor, with `score_on = "train"`, what is held out of the train split.

    Args:
        recipe: its section finetune, with the task's override, is read.
        task_name: a name in `TASKS`.
        encoder: folder of teacher, student or control.
        output: folder to make; beside the model it holds `log.jsonl` and `training.json`.
        row: name of the model in tables and progress lines.
        seed: of the head's weights, the order of the examples, and dropout; a sample of them is `recipe.seed`'s.
        device: where to compute.
        task_teacher: folder of a teacher fine-tuned on the same span task: its softened start and end distributions are
            learned beside the labels (Sanh et al. 2019, section 3: "a second step of distillation").

    Raises:
        UserError: the data, the encoder or the teacher do not fit the task.
        Interrupted: the user asked to stop; the same call goes on from a checkpoint.
    """
    task, settings = TASKS[task_name], recipe.finetune.settings(task_name)
    optimization = settings.optimization
    tokenizer = load_tokenizer(encoder)
    examples = load_examples(
        task, task.train, data=recipe.data, corpus=recipe.corpus, limit=settings.train_examples, seed=recipe.seed,
        held_out=held_out_of_train(recipe.finetune, task_name),
    )  # fmt: skip
    features = encode(examples, tokenizer, recipe.finetune.max_length(task_name, task.max_length))
    soft = _teacher_logits(task, task_teacher, features, tokenizer, device) if task_teacher else None
    torch.manual_seed(step_seed(seed))  # of the new head
    model = load_model(encoder, task.kind, labels=task.labels)
    set_dropout(model, optimization.dropout, optimization.attention_dropout)
    token_types, pad = uses_token_types(model), tokenizer.pad_token_id

    accumulation = optimization.gradient_accumulation_steps
    batches_per_epoch = _batches_per_epoch(recipe, task_name, len(features))
    steps = finetune_steps(recipe, task_name, len(features))

    @lru_cache(maxsize=2)
    def epoch_batches(epoch: int) -> list[NDArray[np.int64]]:
        return length_grouped(features.lengths.tolist(), optimization.batch_size, seed, epoch)

    def micro_batches(step: int) -> list[Batch]:
        numbers = range(step * accumulation, (step + 1) * accumulation)
        chosen = [epoch_batches(number // batches_per_epoch)[number % batches_per_epoch] for number in numbers]
        return [
            collate(features, indices, pad, token_types=token_types) | _soft_targets(soft, indices)
            for indices in chosen
        ]

    loss = _TaskLoss(task, settings.distillation_temperature, settings.distillation_weight if task_teacher else 0.0)
    with fsio.unfinished(output) as folder:
        work = Work(
            steps=steps, micro_batches=micro_batches, weights=lambda _: loss.weights,
            shares=lambda parts: shares_of([dict.fromkeys(loss.weights, len(part["input_ids"])) for part in parts]),
            loss=lambda model, batch, scales, _: weighted(loss.terms(model, batch), scales),
            tokens=lambda batch: int(batch["attention_mask"].sum()),
        )  # fmt: skip
        seconds = train(
            model, work, optimization, seed=seed, folder=folder, device=device,
            label=f"finetune {row} on {task.title}", checkpoint_minutes=recipe.checkpoint_minutes,
        )  # fmt: skip
        save_model(model, tokenizer, folder)
        facts = {
            "train_examples": len(examples), "train_examples_total": examples.total, "steps": steps,
            "seconds": round(seconds, 1), "seed": seed, "data_fingerprint": examples.fingerprint,
        }  # fmt: skip
        fsio.write_json(folder / TRAINING_FACTS, facts)


def _teacher_logits(
    task: Task, teacher: Path, features: Features, tokenizer: PreTrainedTokenizerFast, device: torch.device
) -> list[NDArray[np.float32]]:
    """The teacher's start and end logits of every window: computed once, for the windows do not change over epochs."""
    assert task.kind == "span", "the second distillation is defined for span tasks"
    if tokenizer_hash(load_tokenizer(teacher)) != tokenizer_hash(tokenizer):
        cure = "fine-tune a teacher that shares the student's tokenizer"
        raise UserError(str(teacher), expected="the student's tokenizer", found="another one", cure=cure)
    logits = predict(
        load_model(teacher, task.kind, require_head=True), features, pad_token_id=tokenizer.pad_token_id, device=device
    )
    return list(logits)


def _soft_targets(soft: list[NDArray[np.float32]] | None, indices: NDArray[np.int64]) -> Batch:
    """The teacher's logits of a batch, padded with zeros, which the loss does not count."""
    if soft is None:
        return {}
    length = max(len(soft[index]) for index in indices)
    padded = np.zeros((len(indices), length, 2), dtype=np.float32)
    for place, index in zip(padded, indices, strict=True):
        place[: len(soft[index])] = soft[index]
    return {"teacher_start": torch.from_numpy(padded[..., 0]), "teacher_end": torch.from_numpy(padded[..., 1])}
