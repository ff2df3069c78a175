"""Examples per second of fine-tuning: padded to the limit, to the longest, grouped by length, and ours, side by side.

Each way runs in a separate process, the others with the system's memory allocator and ours with the setting that its
training makes. They take turns, and in each turn all process the same examples. Ours is
`finetuning.trainer.run_training`, stopped between two steps. README.md here explains how to run it and how to read its
output.
"""

import argparse
import json
import multiprocessing
import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import common
import finetune_scores
import finetune_ways
import torch
from distill_throughput import Turns, alternate, gains, machine_line, possible_precisions
from finetune_ways import MODELS, TASK_NAMES, UNFUSED, WAYS, Setup
from transformers import DistilBertConfig, DistilBertForMaskedLM, PreTrainedModel, PreTrainedTokenizerFast

from tinydistilbert.benchmark.turns import Sample, Samples, pooled, quartiles, ratio, table
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.examples import training_examples
from tinydistilbert.models.loading import save_model
from tinydistilbert.models.student import cut_student
from tinydistilbert.models.teacher import LoadedTeacher
from tinydistilbert.recipe import schema
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.encoding import encode
from tinydistilbert.training.precision import PRECISIONS, library

BATCH_SIZE = {"sst2": 32, "cola": 32, "squad": 8}
TRAIN_EXAMPLES = {"sst2": 0, "cola": 0, "squad": 4000}
"""That are read and from which batches are taken; 0 = all. To tokenise all of SQuAD takes a minute each time."""
BATCHES = {"sst2": 24, "cola": 24, "squad": 8}
QUICK_BATCHES = {"sst2": 8, "cola": 8, "squad": 3}
PADDED_STEPS = 1
"""Of `padded` in a turn: its inputs are all of one size and cost the same, so one batch stands for all."""
COST = {"distilbert": 7, "offline-student": 1, "sst2": 3, "cola": 3, "squad": 4}
"""About how long a round takes, as a product of model and task: so the time of --quick is shared out."""
QUICK_ROUNDS, QUICK_SECONDS = 3, 310.0
"""Of the whole run with --quick; the rest of six minutes is for what the deadline cannot cut short."""
PRELOADED = [
    "tinydistilbert.finetuning.trainer", "transformers.trainer", "transformers.models.distilbert.modeling_distilbert",
]  # fmt: skip
"""Imported once, before the processes part; none of it computes anything, so no thread exists that could be lost."""


def encoder(name: str, teacher: LoadedTeacher) -> PreTrainedModel:
    """The offline teacher cut to half of its layers as a DistilBERT, or DistilBERT's own shape with random weights."""
    if name == "offline-student":
        return cut_student(teacher.model, schema.Student(architecture="distilbert"), seed=0)
    torch.manual_seed(0)
    vocabulary, pad = len(teacher.tokenizer), teacher.tokenizer.pad_token_id
    return DistilBertForMaskedLM(DistilBertConfig(vocab_size=vocabulary, pad_token_id=pad))


def make_setup(
    model: str, task: str, folder: Path, tokenizer: PreTrainedTokenizerFast, chosen: argparse.Namespace
) -> Setup:
    """The same examples for every way.

    Raises:
        UserError: the data folder does not have them.
    """
    size = chosen.batch_size or BATCH_SIZE[task]
    limit = TRAIN_EXAMPLES[task] if chosen.train_examples is None else chosen.train_examples
    settings = finetune_ways.settings_for("ours", size, chosen.data, limit)
    examples, _ = training_examples(settings, TASKS[task], augmented=None, soft=False)
    features = encode(examples, tokenizer, TASKS[task].max_length)
    count = chosen.batches or (QUICK_BATCHES if chosen.quick else BATCHES)[task]
    return Setup(
        model=model, encoder=folder, task=task, data=chosen.data, train_examples=limit, features=features,
        steps=finetune_ways.representative(features, size, count), batch_size=size,
        rounds=QUICK_ROUNDS if chosen.quick else chosen.rounds, threads=chosen.threads,
    )  # fmt: skip


class Passes(Turns):
    """A process that goes through the examples of a setup, once in each turn."""

    def take(self, seconds: float) -> Sample:
        """One turn, step by step; each is as long as it takes, whatever `seconds` says."""
        steps = PADDED_STEPS if self.way == "padded" else len(self.setup.steps)
        samples = [super(Passes, self).take(0.0) for _ in range(steps)]
        return pooled(samples, self.setup.batch_size * self.setup.tokens_per_example)


def ratios(samples: Samples) -> dict[str, float | None]:
    """Our speed over that of each other way, with the same dropout."""
    asked_for = [way for way in samples if way == finetune_ways.UNFUSED]
    return {way: ratio(samples, "ours", way) for way in (*finetune_ways.TRAINER_WAYS, *asked_for)}


@dataclass(frozen=True)
class Measured:
    """One model on one task."""

    setup: Setup
    samples: Samples
    rates: list[float]
    """Operations a second of the machine's matrix products, before each turn."""

    def examples_per_second(self, way: str) -> tuple[float, float, float]:
        """Lower quartile, median and upper quartile over the rounds."""
        low, middle, high = quartiles([sample.speed for sample in self.samples[way].values()])
        each = self.setup.tokens_per_example
        return low / each, middle / each, high / each

    def peak_mib(self, way: str) -> float:
        """Largest resident memory of the way's process during its turns."""
        return max(sample.peak_mib for sample in self.samples[way].values())

    def rows(self, **facts: Any) -> Iterator[dict[str, Any]]:
        """A line of the results for each way, and one with the ratios."""
        setup = self.setup
        shared = {
            "benchmark": "finetune_throughput", "model": setup.model, "task": setup.task, "threads": setup.threads,
            "batch_size": setup.batch_size, "batches": len(setup.steps),
            "tokens_per_example": round(setup.tokens_per_example, 2), "precision": setup.precision,
            "library": library() if setup.precision == "fp32" else "oneDNN", **facts,
        }  # fmt: skip
        for way in self.samples:
            low, middle, high = (float(f"{value:.4g}") for value in self.examples_per_second(way))
            yield {
                **shared, "way": way, "examples_per_second": middle, "low": low, "high": high,
                "tokens_per_second": round(middle * setup.tokens_per_example, 1), "rounds": len(self.samples[way]),
                "peak_mib": round(self.peak_mib(way), 1),
            }  # fmt: skip
        yield {**shared, "matrix_rate": quartiles(self.rates)[1], **ratios(self.samples)}

    def shown(self) -> str:
        """The table."""
        against, lines = ratios(self.samples), []
        for way, by_round in self.samples.items():
            low, middle, high = self.examples_per_second(way)
            times = against.get(way)
            lines.append((
                way, f"{middle:,.2f}", f"{low:,.2f} to {high:,.2f}", f"{middle * self.setup.tokens_per_example:,.0f}",
                str(len(by_round)), f"ours is {times:.2f} times as fast" if times else "", f"{self.peak_mib(way):,.0f}",
            ))  # fmt: skip
        head = ("way", "examples/s", "middle half", "useful tokens/s", "rounds", "same training", "peak MiB")
        return table(head, lines)


def measure(context: BaseContext, setup: Setup, ways: Sequence[str], deadline: float) -> Measured:
    """Each way in its turn; no round but the first goes on after the deadline."""
    turns = [Passes(context, way, setup, finetune_ways.serve) for way in ways]
    try:
        for process in turns:
            process.ready()
        return Measured(setup, *alternate(turns, setup.rounds, 0.0, deadline))
    finally:
        for process in turns:
            process.close()


def last_line(measured: Sequence[Measured]) -> dict[str, dict[str, float | None]]:
    """By model the ratios on SST-2, and that against `padded` on SQuAD; None where something was not measured."""
    by_model: dict[str, dict[str, float | None]] = {}
    for item in measured:
        model_ratios = by_model.setdefault(
            item.setup.model, dict.fromkeys((*finetune_ways.TRAINER_WAYS, "squad_padded"))
        )
        if item.setup.task == "sst2":
            model_ratios |= ratios(item.samples)
        elif item.setup.task == "squad":
            model_ratios["squad_padded"] = ratios(item.samples)["padded"]
    return by_model


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Examples a second of fine-tuning, ours and others'.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with glue/ and squad/")
    parser.add_argument("--teacher", type=Path, help="masked-LM teacher of the offline student, and the tokenizer")
    parser.add_argument("--models", choices=MODELS, nargs="+", default=list(MODELS), help="only these models")
    parser.add_argument("--tasks", choices=TASK_NAMES, nargs="+", default=list(TASK_NAMES), help="only these tasks")
    parser.add_argument("--ways", choices=(*WAYS, UNFUSED), nargs="+", default=list(WAYS), help="only these ways")
    parser.add_argument("--quick", action="store_true", help="fewer batches, within six minutes on two cores")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--batches", type=int, help=f"that each way goes through in a round; by default {BATCHES}")
    parser.add_argument("--batch-size", type=int, help=f"examples in a step; by default {BATCH_SIZE}")
    parser.add_argument("--train-examples", type=int, help=f"that are read, 0 = all; by default {TRAIN_EXAMPLES}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        nargs="+",
        help="of every way; by default all that this machine has units for",
    )
    parser.add_argument("--output", type=Path, help="file for the results, else results/NAME.jsonl")
    parser.add_argument(
        "--scores", choices=finetune_scores.SCORED, nargs="*",
        help="instead: dev scores after fine-tuning by both codes, on these tasks (all if none is named)",
    )  # fmt: skip
    parser.add_argument("--model", type=Path, help="with --scores: folder of the encoder; by default the cut teacher")
    parser.add_argument("--epochs", type=float, default=3.0, help="with --scores")
    parser.add_argument("--learning-rate", type=float, help="with --scores; by default the recipe's")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4], help="with --scores")
    return parser.parse_args(arguments)


def throughput(chosen: argparse.Namespace) -> None:
    """Measure, print, append."""
    begin, output = time.monotonic(), chosen.output or common.RESULTS / "finetune_throughput.jsonl"
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    teacher = common.open_teacher(chosen.teacher)
    models, tasks = (tuple(dict.fromkeys(names)) for names in (chosen.models, chosen.tasks))
    costs = {(model, task): COST[model] * COST[task] for model in models for task in tasks}
    precisions, spent = tuple(dict.fromkeys(chosen.precision or possible_precisions())), 0.0
    measured: list[Measured] = []
    with tempfile.TemporaryDirectory() as scratch:
        for model in models:
            folder = Path(scratch) / model
            save_model(encoder(model, teacher), teacher.tokenizer, folder)
            for task in tasks:
                setup = make_setup(model, task, folder, teacher.tokenizer, chosen)
                exact: Samples = {}
                for precision in precisions:
                    spent += costs[model, task] / len(precisions)
                    deadline = begin + spent / sum(costs.values()) * QUICK_SECONDS if chosen.quick else float("inf")
                    timed = replace(setup, precision=precision)
                    speeds = measure(context, timed, tuple(dict.fromkeys(chosen.ways)), deadline)
                    print(
                        f"{model} on {TASKS[task].title}: {len(setup.steps)} batches of {setup.batch_size}, "
                        f"{setup.tokens_per_example:.1f} tokens an example ({setup.features.lengths.mean():.1f} in all)"
                    )
                    print(speeds.shown())
                    print(f"{machine_line(precision, speeds.rates, chosen.threads)}\n", flush=True)
                    common.append(output, speeds.rows(quick=chosen.quick, **gains(exact, speeds.samples)))
                    measured.append(speeds)
                    exact = speeds.samples if precision == "fp32" else exact
    by_precision = {name: [item for item in measured if item.setup.precision == name] for name in precisions}
    print(json.dumps({name: last_line(items) for name, items in by_precision.items()}))


def main() -> None:
    """Speed, or with --scores what the trainings end at."""
    chosen = parse()
    torch.set_num_threads(chosen.threads)
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    try:
        (throughput if chosen.scores is None else finetune_scores.scores)(chosen)
    except UserError as error:
        raise SystemExit(str(error)) from None


if __name__ == "__main__":
    main()
