"""The ways of fine-tuning that finetune_throughput.py measures, in turns, each in a separate process."""

import os
import tempfile
import traceback
from collections.abc import Iterable, Iterator, Sequence
from contextlib import redirect_stderr
from dataclasses import dataclass, replace
from io import StringIO
from itertools import islice
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from throughput_ways import Clock, Finished
from torch.utils.data import DataLoader
from transformers import (
    DataCollatorWithPadding,
    PreTrainedModel,
    Trainer,
    TrainerCallback,
    TrainerState,
    TrainingArguments,
)
from transformers.utils import logging

from tinydistilbert.data.order import length_grouped
from tinydistilbert.finetuning.examples import task_examples
from tinydistilbert.finetuning.trainer import TaskTraining, prepare_training, run_training
from tinydistilbert.models.loading import load_model, load_tokenizer
from tinydistilbert.recipe import schema
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.encoding import Features, collate
from tinydistilbert.training.device import Compute
from tinydistilbert.training.job import Batch, step_seed
from tinydistilbert.training.precision import CAPACITY, Precision, onednn

MODELS = ("offline-student", "distilbert")
TASK_NAMES = ("sst2", "cola", "squad")
TRAINER_WAYS = ("padded", "dynamic", "grouped")
LIBRARY_WAYS = ("ours", "ours_no_attention_dropout")
WAYS = (*TRAINER_WAYS, *LIBRARY_WAYS)
UNFUSED = "grouped_unfused"
"""`grouped` with the AdamW that was the Trainer's default before its fused one; measured where it is asked for."""
SEED = 0
SAME = 1e-4
"""Largest relative difference of two computations of the same loss."""


@dataclass(frozen=True)
class Setup:
    """All that a process needs to measure one way of fine-tuning one model on one task."""

    model: str
    encoder: Path
    """Folder of the encoder, the same for every way."""
    task: str
    data: Path
    train_examples: int
    """Of the train split that are read; 0 = all."""
    features: Features
    """Those examples."""
    steps: list[int]
    """Numbers of our batches of the first epoch that are measured, from the one with the fewest tokens on."""
    batch_size: int
    rounds: int
    threads: int
    precision: Precision = "fp32"
    """Of everybody's matrix products."""

    @property
    def batches(self) -> list[NDArray[np.int64]]:
        """The examples that are measured, in batches of like length."""
        epoch = epoch_batches(self.features, self.batch_size)
        return [epoch[step] for step in self.steps]

    @property
    def tokens_per_example(self) -> float:
        """Mean over the examples that are measured; [CLS] and [SEP] count, padding does not."""
        return float(self.features.lengths[np.concatenate(self.batches)].mean())

    @property
    def most_steps(self) -> int:
        """The first, which is not measured, all rounds, and one more, before which the process is ended."""
        return 2 + self.rounds * len(self.steps)


def settings_for(way: str, batch_size: int, data: Path, train_examples: int) -> schema.Recipe:
    """The recipe: the defaults, but for the attention dropout of the extra row."""
    finetune = schema.Finetune(train_examples=train_examples)
    attention_dropout = 0.0 if way == "ours_no_attention_dropout" else None
    optimization = replace(finetune.optimization, batch_size=batch_size, attention_dropout=attention_dropout)
    return schema.Recipe(data=str(data), checkpoint_minutes=1e6, finetune=replace(finetune, optimization=optimization))


def epoch_batches(features: Features, batch_size: int) -> list[NDArray[np.int64]]:
    """The batches of the first epoch of our training."""
    return length_grouped(features.lengths.tolist(), batch_size, SEED, 0)


def representative(features: Features, batch_size: int, count: int) -> list[int]:
    """Numbers of `count` whole batches of the first epoch that stand for all, from the fewest tokens to the most.

    The batches are ordered by their tokens and cut into as many equal runs; of each it is the one nearest to its mean.

    Raises:
        ValueError: the epoch has fewer.
    """
    epoch = epoch_batches(features, batch_size)
    whole = [number for number, batch in enumerate(epoch) if len(batch) == batch_size]
    if len(whole) < count:
        raise ValueError(f"expected {count} batches of {batch_size}, found {len(whole)}: read more train examples")
    tokens = np.array([features.lengths[batch].sum() for batch in epoch])
    runs = np.array_split(np.array(sorted(whole, key=lambda number: tokens[number])), count)
    return [int(run[np.abs(tokens[run] - tokens[run].mean()).argmin()]) for run in runs]


def plan(way: str, setup: Setup) -> Iterator[NDArray[np.int64]]:
    """The batches of one of the others' ways, without end: first one to warm up, then pass after pass.

    Each pass has the same examples: in the batches of like length that ours have, too, or shuffled, each time anew.
    """
    grouped, random = setup.batches, np.random.default_rng(SEED)
    yield grouped[0]
    while True:
        shuffled = np.split(random.permutation(np.concatenate(grouped)), len(grouped))
        yield from grouped if way in ("grouped", UNFUSED) else shuffled


def rows(features: Features, indices: Iterable[int]) -> dict[int, dict[str, Any]]:
    """The features at `indices` as a data set that the Trainer takes; DistilBERT has no token types."""
    ends = ("start_positions", "end_positions")
    dataset: dict[int, dict[str, Any]] = {}
    for index in indices:
        ids, label = features.input_ids[index].tolist(), features.labels[index].tolist()
        named = {"labels": label} if features.offsets is None else dict(zip(ends, label, strict=True))
        dataset[index] = {"input_ids": ids, "attention_mask": [1] * len(ids), **named}
    return dataset


def trainer_arguments(optimization: schema.Optimization, folder: Path, **settings: Any) -> TrainingArguments:
    """The Trainer's own defaults, its fused AdamW too, with the numbers of our recipe; nothing is saved or reported."""
    return TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=optimization.batch_size,
        learning_rate=optimization.learning_rate, weight_decay=optimization.weight_decay,
        adam_beta1=optimization.adam_beta1, adam_beta2=optimization.adam_beta2,
        adam_epsilon=optimization.adam_epsilon, max_grad_norm=optimization.max_grad_norm,
        warmup_steps=optimization.warmup_ratio, use_cpu=True, dataloader_pin_memory=False,
        save_strategy="no", report_to="none", disable_tqdm=True, **settings,
    )  # fmt: skip


class _Turns(TrainerCallback):
    """Lets the clock decide before every step whether it is this way's turn."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock

    def on_step_begin(self, _args: object, state: TrainerState, _control: object, **_: Any) -> None:
        """The batch is there; the step begins."""
        if state.global_step:
            self.clock.between_steps()


class _Planned(Trainer):
    """Takes the batches that were planned; all else is the Trainer's own."""

    def __init__(self, batches: Sequence[list[int]], **settings: Any) -> None:
        super().__init__(**settings)
        self.batches = batches

    def get_train_dataloader(self) -> DataLoader[Any]:
        """The planned batches in their order."""
        loader = DataLoader(self.train_dataset, batch_sampler=self.batches, collate_fn=self.data_collator)
        prepared: DataLoader[Any] = self.accelerator.prepare(loader)
        return prepared


def new_model(task: str, encoder: Path, seed: int) -> PreTrainedModel:
    """The encoder with a new head: the weights that our training begins with."""
    torch.manual_seed(step_seed(seed))
    return load_model(encoder, TASKS[task].kind, labels=TASKS[task].labels)


def measure_theirs(way: str, setup: Setup, clock: Clock) -> None:
    """Train with the Trainer until the clock has enough; the first step is not measured."""
    logging.set_verbosity_error()
    batches = [batch.tolist() for batch in islice(plan(way, setup), setup.most_steps)]
    longest = TASKS[setup.task].max_length
    padding = {"padding": "max_length", "max_length": longest} if way == "padded" else {}
    optimization = settings_for(way, setup.batch_size, setup.data, setup.train_examples).finetune.optimization
    with tempfile.TemporaryDirectory() as folder:
        _Planned(
            batches, model=new_model(setup.task, setup.encoder, SEED), callbacks=[_Turns(clock)],
            train_dataset=rows(setup.features, {index for batch in batches for index in batch}),
            data_collator=DataCollatorWithPadding(load_tokenizer(setup.encoder), **padding),
            args=trainer_arguments(
                optimization, Path(folder), seed=SEED, num_train_epochs=1, bf16=setup.precision == "bf16",
                **({"optim": "adamw_torch"} if way == UNFUSED else {}),
            ),
        ).train()  # fmt: skip


def measure_ours(way: str, setup: Setup, clock: Clock) -> None:
    """Train with the library until the clock has enough; the first step is not measured."""
    settings = settings_for(way, setup.batch_size, setup.data, setup.train_examples)
    settings = replace(settings, precision=setup.precision)
    compute = Compute.of(settings, torch.device("cpu"))
    examples = task_examples(settings, TASKS[setup.task], None)
    training = prepare_training(settings.finetune, examples, setup.encoder, compute=compute, seed=SEED)
    far = difference(training, setup)
    if far > SAME:
        raise ValueError(f"expected the Trainer's loss up to {SAME}, found a relative difference of {far:.1e}")

    def next_batches(step: int, oom_splits: int = 0) -> list[Batch]:
        if step:
            clock.between_steps()
        return training.batches(setup.steps[(step - 1) % len(setup.steps) if step else 0], oom_splits)

    timed = replace(training, job=replace(training.job, steps=setup.most_steps, micro_batches=next_batches))
    with tempfile.TemporaryDirectory() as folder:
        run_training(timed, Path(folder), way)


def difference(training: TaskTraining, setup: Setup) -> float:
    """Relative difference of our loss from the model's own on one batch without dropout, padded further there.

    The model's own loss of a span counts padding among the places where an answer may be, so of SQuAD only inputs
    without any are compared.
    """
    batch, task = setup.batches[0], TASKS[setup.task]
    (grouped_batch,) = training.batches(setup.steps[0])
    longest = grouped_batch["input_ids"].shape[1]
    pad_to = min(task.max_length, longest + 8)
    if task.kind == "span":
        grouped_batch, filled = without_padding(grouped_batch)
        batch, pad_to = batch[filled], grouped_batch["input_ids"].shape[1]
    pad = int(training.tokenizer.pad_token_id)
    padded = collate(setup.features, batch, pad, token_types=False, pad_to=pad_to)
    with torch.no_grad(), training.objective.quick(training.model.eval()):
        loss, _ = training.job.loss(training.student, grouped_batch, {"hard": 1.0}, 0)
        wanted = new_model(setup.task, setup.encoder, SEED).eval()(**padded).loss
    return abs(float(loss) - float(wanted)) / abs(float(wanted))


def without_padding(batch: Batch) -> tuple[Batch, NDArray[np.bool_]]:
    """The longest inputs of a batch without what all of them are padded on to, and which of them these are."""
    lengths, width = batch["attention_mask"].sum(1), batch["input_ids"].shape[1]
    longest = int(lengths.max())
    filled = lengths == longest
    cut = {name: value[:, :longest] if value.shape[1:] == (width,) else value for name, value in batch.items()}
    return {name: value[filled] for name, value in cut.items()}, filled.numpy()


def serve(way: str, setup: Setup, connection: Connection) -> None:
    """Measure one way for the process at the other end; what goes wrong is sent to it as a text."""
    try:
        torch.set_num_threads(setup.threads)
        if way not in LIBRARY_WAYS:
            os.environ.pop(CAPACITY, None)  # which this package sets for its own trainings
        with redirect_stderr(StringIO()), onednn(setup.precision):  # the progress line of the training
            (measure_ours if way in LIBRARY_WAYS else measure_theirs)(way, setup, Clock(connection))
    except Finished:
        pass
    except Exception:
        connection.send(traceback.format_exc())
