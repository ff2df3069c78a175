"""Final scores of fine-tuning by the Trainer and by our code: dev scores for equal encoder, recipe, examples and seeds.

`finetune_throughput.py --scores` runs it. The two draw different orders and dropout, so single seeds differ; the
question is whether the scores lie in the same range.
"""

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import common
import torch
from finetune_ways import new_model, rows, settings_for, trainer_arguments
from transformers import DataCollatorWithPadding, PreTrainedModel, PrinterCallback, Trainer
from transformers.utils import logging

from tinydistilbert.benchmark.turns import quartiles, table
from tinydistilbert.evaluation.scoring import headline_score
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.trainer import prepare_training, run_training
from tinydistilbert.models.loading import load_tokenizer, save_model
from tinydistilbert.models.student import cut_student
from tinydistilbert.recipe import schema
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.tasks.inference import predict
from tinydistilbert.tasks.recipe_splits import recipe_examples
from tinydistilbert.training.device import Compute

SCORED = ("cola", "stsb")
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Score:
    """The headline metric of one fine-tuned model on the validation split."""

    task: str
    way: str
    seed: int
    value: float
    train_examples: int
    seconds: float
    """Of the training."""


def by_trainer(settings: schema.Recipe, task: Task, encoder: Path, seed: int) -> PreTrainedModel:
    """Fine-tuned by transformers' Trainer, in shuffled batches that are padded to their longest."""
    tokenizer, model = load_tokenizer(encoder), new_model(task.name, encoder, seed)
    examples, _ = training_examples(settings, task, augmented=None, soft=False)
    features = encode(examples, tokenizer, task.max_length)
    logging.set_verbosity_error()
    with tempfile.TemporaryDirectory() as folder:
        arguments = trainer_arguments(
            settings.finetune.optimization, Path(folder), seed=seed, num_train_epochs=settings.finetune.epochs
        )
        data = rows(features, range(len(features)))
        trainer = Trainer(model, arguments, data_collator=DataCollatorWithPadding(tokenizer), train_dataset=data)
        trainer.remove_callback(PrinterCallback)
        trainer.train()
    return model


def by_ours(settings: schema.Recipe, task: Task, encoder: Path, seed: int) -> PreTrainedModel:
    """Fine-tuned by the library, in batches of like length."""
    examples, compute = task_examples(settings, task, None), Compute.of(settings, CPU)
    training = prepare_training(settings.finetune, examples, encoder, compute=compute, seed=seed)
    with tempfile.TemporaryDirectory() as folder:
        run_training(training, Path(folder), f"{task.title}, seed {seed}")
    return training.model


WAYS = {"dynamic": by_trainer, "ours": by_ours}


def measure(way: str, settings: schema.Recipe, task: Task, encoder: Path, seed: int) -> Score:
    """Fine-tune and score one model."""
    begin = time.perf_counter()
    model = WAYS[way](settings, task, encoder, seed)
    seconds = time.perf_counter() - begin
    tokenizer, limit = load_tokenizer(encoder), settings.finetune.train_examples
    examples = recipe_examples(settings, task, task.evaluation[0])
    features = encode(examples, tokenizer, task.max_length)
    logits = predict(model, features, pad_token_id=tokenizer.pad_token_id, device=CPU)
    return Score(task.name, way, seed, headline_score(examples, features, logits), limit, seconds)


def shown(measured: Sequence[Score]) -> str:
    """A line for each task and way, scores in points."""
    lines = []
    for task, way in dict.fromkeys((score.task, score.way) for score in measured):
        of_way = [score for score in measured if (score.task, score.way) == (task, way)]
        points = [100 * score.value for score in of_way]
        other = [100 * score.value for score in measured if score.task == task and score.way != way]
        middle = quartiles(points)[1]
        inside = "yes" if other and min(other) <= middle <= max(other) else "no"
        lines.append((
            TASKS[task].title, way, f"{middle:.1f}", f"{min(points):.1f} to {max(points):.1f}", str(len(of_way)),
            inside if other else "", f"{quartiles([score.seconds for score in of_way])[1]:,.0f}",
        ))  # fmt: skip
    head = ("task", "way", "median", "lowest to highest", "seeds", "median in the other's range", "seconds")
    return table(head, lines)


def scores(chosen: argparse.Namespace) -> None:
    """Fine-tune with every seed, appending as it goes, and print."""
    settings = settings_for("ours", chosen.batch_size or 32, chosen.data, chosen.train_examples or 0)
    rate = chosen.learning_rate or settings.finetune.optimization.learning_rate
    optimization = replace(settings.finetune.optimization, learning_rate=rate)
    finetune = replace(settings.finetune, epochs=chosen.epochs, min_steps=0, optimization=optimization)
    settings = replace(settings, finetune=finetune)
    measured: list[Score] = []
    with tempfile.TemporaryDirectory() as scratch:
        encoder = chosen.model
        if encoder is None:
            teacher, encoder = common.open_teacher(chosen.teacher), Path(scratch) / "encoder"
            student = cut_student(teacher.model, schema.Student(architecture="distilbert"), seed=0)
            save_model(student, teacher.tokenizer, encoder)
        for name in chosen.scores or SCORED:
            for seed in chosen.seeds:
                both = [measure(way, settings, TASKS[name], encoder, seed) for way in WAYS if way in chosen.ways]
                common.append(chosen.output or common.RESULTS / "finetune_scores.jsonl", rows_of(both, chosen))
                measured += both
    print(shown(measured))
    values: dict[str, dict[str, list[float]]] = {name: {way: [] for way in WAYS} for name in chosen.scores or SCORED}
    for score in measured:
        values[score.task][score.way].append(round(score.value, 4))
    print(json.dumps(values))


def rows_of(measured: Sequence[Score], chosen: argparse.Namespace) -> list[dict[str, Any]]:
    """A line of the results for each fine-tuned model."""
    return [
        {
            "benchmark": "finetune_scores", "encoder": chosen.model.name if chosen.model else "cut teacher",
            "task": score.task, "metric": TASKS[score.task].headline, "way": score.way, "seed": score.seed,
            "value": round(score.value, 6), "epochs": chosen.epochs, "train_examples": score.train_examples,
            "learning_rate": chosen.learning_rate or "default", "threads": chosen.threads,
            "seconds": round(score.seconds, 1),
        }
        for score in measured
    ]  # fmt: skip
