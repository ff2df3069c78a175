"""What the first steps of a fine-tuning take on the CPU, compared with the estimate made before them.

Each row is a separate process: a model with random weights, inputs of one length, three steps. The columns are the
tensors that the forward pass keeps for the backward pass; the growth of the process at its peak, less gradients and
moments; the estimate by which micro-batches are chosen (`training/memory.py`); and its two factors, `grown / kept` and
the ratio of the kept tensors in bf16 to those in fp32. No clock is read, so other programs do not matter.
"""

import argparse
import random
import tempfile
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import common
import torch
from transformers import BertConfig, BertForMaskedLM

from tinydistilbert.benchmark.turns import table
from tinydistilbert.finetuning.examples import TaskExamples
from tinydistilbert.finetuning.trainer import prepare_training, run_training
from tinydistilbert.recipe import schema
from tinydistilbert.tasks import TASKS, Examples
from tinydistilbert.training.device import Compute
from tinydistilbert.training.memory import HALF, HELD, OPTIMIZER_BYTES

STEPS = 3
MODELS = ("3x384x12", "6x384x12", "12x768x12")
"""Layers, width and heads."""
INPUTS = ("8x512", "32x128")
"""Examples of a micro-batch, and tokens of each: many, so that what the process had freed before is small beside it."""


@dataclass(frozen=True)
class Step:
    """Memory of the largest step, in MiB."""

    kept: float
    """Of tensors, weights left out, for the backward pass."""
    grown: float
    """Of the process, gradients and moments left out."""
    estimated: float
    """The same before the first step."""


class Kept:
    """Counts the bytes that are kept for the backward pass in the calls of a loss; `most` is that of the largest.

    Args:
        loss: of a training.
        weights: of its model, which are there anyway.
    """

    def __init__(self, loss: Any, weights: Sequence[torch.Tensor]) -> None:
        self.loss, self.most = loss, 0
        self._weights = {weight.untyped_storage().data_ptr() for weight in weights}

    def __call__(self, *arguments: Any) -> Any:
        """The loss."""
        storages: dict[int, int] = {}

        def seen(tensor: torch.Tensor) -> torch.Tensor:
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in self._weights:
                storages[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(seen, lambda tensor: tensor):
            loss = self.loss(*arguments)
        self.most = max(self.most, sum(storages.values()))
        return loss


def measure(model: str, inputs: str, precision: Any) -> Step:
    """Train a few steps in this process."""
    layers, width, heads = map(int, model.split("x"))
    count, length = map(int, inputs.split("x"))
    tokenizer = common.open_teacher(None).tokenizer
    words = [word for word in tokenizer.get_vocab() if word.isalpha() and word.islower() and word.isascii()]
    draw = random.Random(0)
    texts = [" ".join(draw.choices(words, k=length)) for _ in range(STEPS * count)]  # with [CLS] and [SEP] too long
    columns: dict[str, list[Any]] = {"text": texts, "label": [row % 2 for row in range(len(texts))]}
    examples = Examples(replace(TASKS["sst2"], max_length=length), "train", columns, len(texts))
    finetune = schema.Finetune(epochs=1.0, min_steps=0)
    recipe = schema.Recipe(
        precision=precision, checkpoint_minutes=1e6,
        finetune=replace(finetune, optimization=replace(finetune.optimization, batch_size=count)),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        encoder = Path(folder, "encoder")
        config = BertConfig(
            vocab_size=len(tokenizer), hidden_size=width, num_hidden_layers=layers, num_attention_heads=heads,
            intermediate_size=4 * width,
        )  # fmt: skip
        BertForMaskedLM(config).save_pretrained(encoder)
        tokenizer.save_pretrained(encoder)
        compute = Compute.of(recipe, torch.device("cpu"))
        training = prepare_training(
            recipe.finetune, TaskExamples(examples, len(examples)), encoder, compute=compute, seed=0
        )
        job, begun = training.job, list[float]()

        def next_batches(step: int, oom_splits: int = 0) -> Any:
            if not begun:  # only now the words that do not occur are left out
                common.restart_peak()
                trained = sum(weight.numel() for weight in training.student.parameters() if weight.requires_grad)
                begun.append(common.peak_mib() + OPTIMIZER_BYTES * trained / common.MIB)
            return job.micro_batches(step, oom_splits)

        kept = Kept(job.loss, [*training.student.parameters()])
        measured = replace(job, micro_batches=next_batches, loss=kept, memory=None)
        run_training(replace(training, job=measured), Path(folder), model)
        grown = common.peak_mib() - begun[0]
    assert job.memory is not None, "of every fine-tuning"
    return Step(kept.most / common.MIB, grown, job.memory(0) / common.MIB)


def main() -> None:
    """Measure, print, append."""
    parser = argparse.ArgumentParser(description="What a step takes, beside what is estimated before it.")
    parser.add_argument("--models", nargs="+", default=MODELS, help="layers x width x heads")
    parser.add_argument("--inputs", nargs="+", default=INPUTS, help="examples x tokens")
    parser.add_argument("--precision", nargs="+", default=("fp32", "bf16"), choices=("fp32", "bf16"))
    parser.add_argument("--output", type=Path, default=common.RESULTS / "step_memory.jsonl")
    asked = parser.parse_args()
    cells, in_fp32 = list[list[str]](), dict[tuple[str, str], float]()
    for model in asked.models:
        for inputs in asked.inputs:
            for precision in asked.precision:
                step = common.in_fresh_process(1, measure, model, inputs, precision)
                if precision == "fp32":
                    in_fp32[model, inputs] = step.kept
                whole = in_fp32.get((model, inputs))
                half = f"{step.kept / whole:.2f}" if whole and precision == "bf16" else ""
                numbers = (f"{value:,.0f}" for value in asdict(step).values())
                cells.append(
                    [model, inputs, precision, *numbers, f"{step.grown / step.kept:.2f}", half,
                     f"{step.estimated / step.grown:.2f}"]
                )  # fmt: skip
                print(" ".join(cells[-1]), flush=True)
                facts = {"benchmark": "step_memory", "model": model, "inputs": inputs, "precision": precision}
                common.append(asked.output, [facts | {name: round(value, 1) for name, value in asdict(step).items()}])
    head = ("model", "inputs", "precision", "kept MiB", "grown MiB", "estimated MiB")
    print(table((*head, "grown / kept", "bf16 / fp32", "estimated / grown"), cells))
    print(f"The estimate takes {HELD} for the first of the ratios and {HALF} for the second.")


if __name__ == "__main__":
    main()
