"""What remains of fine-tuned models without some heads and neurons, by how these are chosen, before any recovery.

The figures of docs/decisions/0018. Models of a finished run (`make real RECIPE=small-glue`) are pruned to shares of the
weights of their layers. Train examples determine what matters; others, held out of the train split, compare the ways,
and some ways are also scored on the validation split. The last part shows what remains after cutting the vocabulary to
the train split. Nothing is timed, so the machine may do other work.
"""

import argparse
import copy
import itertools
import tempfile
from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import common
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from tinydistilbert.benchmark.turns import table
from tinydistilbert.compress import prune
from tinydistilbert.compress.importance import Importance, mask_gradients
from tinydistilbert.compress.vocabulary import trim
from tinydistilbert.evaluation.scoring import headline_score
from tinydistilbert.finetuning.objective import TaskLoss
from tinydistilbert.models import pruned
from tinydistilbert.models.heads import parameter_count, vocabulary_size
from tinydistilbert.models.loading import load_model, load_tokenizer
from tinydistilbert.models.projected_student import ProjectedStudent
from tinydistilbert.models.pruned import Parts, parts_of
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.recipe import schema
from tinydistilbert.tasks import HELD_OUT, TASKS, load_examples
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features, collate, encode
from tinydistilbert.tasks.inference import batches_by_length, predict
from tinydistilbert.training.job import Batch

CPU = torch.device("cpu")
MAX_LENGTH = 128
SIZES, SIGNS_CANCEL, MAGNITUDE = "first-order, sizes", "first-order, signs cancel", "magnitude"
FORMS = {SIZES: Tensor.abs, "first-order, squares": Tensor.square, SIGNS_CANCEL: Tensor.clone}
"""How the derivatives of single examples are added up; in the library by size, in regression with their signs."""
UNSCALED = "first-order, heads and neurons as they are"
L2 = "first-order, norm 1 in each layer"
"""Of Michel et al. 2019, section 4.1."""
AS_THEY_ARE = (UNSCALED, L2, MAGNITUDE)
"""Compared between layers without `prune._in_proportion`."""


def is_shown(way: str) -> bool:
    """Whether a way is scored on the validation split, too."""
    return way in (SIZES, SIGNS_CANCEL, MAGNITUDE) or way.startswith("random")


def importances(model: PreTrainedModel, batches: list[Batch], kind: Any, draws: int) -> dict[str, Importance]:
    """What each way holds each head and neuron for."""
    projected, objective = ProjectedStudent(model), TaskLoss(kind)
    totals: dict[str, list[Tensor]] = {}
    for batch in batches:
        heads, neurons, layers = mask_gradients(
            model, batch, lambda _, inputs: objective.loss(projected, inputs, {"hard": 1.0}, 0)[0]
        )
        for way, form in FORMS.items():
            sums = [form(gradient).sum(0) for gradient in (*heads, *neurons, *layers)]
            totals[way] = [a + b for a, b in zip(totals.get(way, map(torch.zeros_like, sums)), sums, strict=True)]
    by_way = {}
    for way, sums in totals.items():
        sizes, depth = [total.abs() for total in sums], len(sums) // 3
        by_way[way] = Importance(sizes[:depth], sizes[depth : 2 * depth], torch.stack(sizes[2 * depth :]))
    by_size = by_way[SIZES]
    by_way[UNSCALED] = by_size
    by_way[L2] = Importance(
        [s / s.norm() for s in by_size.heads], [s / s.norm() for s in by_size.neurons], by_size.layers
    )
    parts = parts_of(model)
    by_way[MAGNITUDE] = Importance(*zip(*map(magnitudes, parts), strict=True), by_size.layers)
    for draw in range(draws):
        random = torch.Generator().manual_seed(draw)
        chance = [[torch.rand(len(s), generator=random) for s in scores] for scores in (by_size.heads, by_size.neurons)]
        by_way[f"random {draw}"] = Importance(*chance, by_size.layers)
    return by_way


def magnitudes(layer: Parts) -> tuple[Tensor, Tensor]:
    """Sums of the squared weights of each head and each neuron of a layer."""
    rows = sum(linear.weight.detach().square().sum(1) for linear in (layer.query, layer.key, layer.value))
    whole = rows + layer.attention_output.weight.detach().square().sum(0)
    neurons = layer.inner.weight.detach().square().sum(1) + layer.outer.weight.detach().square().sum(0)
    return whole.view(layer.heads, layer.head_size).sum(1), neurons


def shrunk(model: PreTrainedModel, importance: Importance, keep: float, way: str) -> PreTrainedModel:
    """A pruned copy."""
    as_it_is = mock.patch.object(prune, "_in_proportion", lambda unscaled, _: unscaled)
    with as_it_is if way in AS_THEY_ARE else nullcontext():
        kept = prune.units_to_keep(model, importance, keep=keep)
    smaller = copy.deepcopy(model)
    pruned.keep(smaller, kept.heads, kept.neurons)
    return smaller


def measure(task_name: str, row: str, chosen: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """A row for the whole model, for each way and share, and for the trimmed vocabulary."""
    task = TASKS[task_name]
    folder = chosen.run / "tasks" / task_name / row / f"seed-{chosen.seed}" / "model"
    common_settings = {"data": str(chosen.data), "corpus": schema.Corpus(), "seed": 0, "held_out": chosen.held_out}
    train, held_out, validation = (
        load_examples(task, split, limit=limit, **common_settings)
        for split, limit in ((task.train, chosen.examples), (HELD_OUT, 0), (task.evaluation[0], 0))
    )
    tokenizer = load_tokenizer(folder)
    model = load_model(folder, task.kind, labels=train.task.labels, require_head=True).eval()
    weighed, apart, scored = (encode(split, tokenizer, MAX_LENGTH) for split in (train, held_out, validation))
    batches = [
        collate(weighed, rows, tokenizer.pad_token_id, token_types=uses_token_types(model))
        for rows in batches_by_length(weighed.lengths, 2048)
    ]

    def scores(model: PreTrainedModel, shown: bool) -> dict[str, float]:
        splits: list[tuple[str, Examples, Features]] = [("held out", held_out, apart)]
        splits += [("validation", validation, scored)] if shown else []
        return {
            name: headline_score(
                examples, features, predict(model, features, pad_token_id=tokenizer.pad_token_id, device=CPU)
            )
            for name, examples, features in splits
        }

    shared = {"task": task_name, "model": row, "parameters": parameter_count(model)}
    yield {**shared, "way": "whole", "keep": 1.0, **scores(model, True)}
    for (way, importance), keep in itertools.product(
        importances(model, batches, task.kind, chosen.draws).items(), chosen.keep
    ):
        smaller = shrunk(model, importance, keep, way)
        left = {"parameters": parameter_count(smaller), "pruned": smaller.config.pruned}
        yield {**shared, "way": way, "keep": keep, **left, **scores(smaller, is_shown(way))}
    yield {**shared, "way": "vocabulary", "keep": 1.0, **trimmed(folder, task_name, chosen, validation)}


def trimmed(folder: Path, task_name: str, chosen: argparse.Namespace, validation: Examples) -> dict[str, Any]:
    """The model with the tokens of the whole train split: its size, and what that does to the validation split."""
    task = TASKS[task_name]
    train = load_examples(task, task.train, data=str(chosen.data), corpus=schema.Corpus(), limit=0, seed=0)
    texts = itertools.chain(train.columns["text"], train.columns.get("text_pair", []))
    with tempfile.TemporaryDirectory() as place:
        output = Path(place) / "model"
        trim(folder, texts, output)
        whole, tokenizer = load_tokenizer(folder), load_tokenizer(output)
        model = load_model(output, task.kind, labels=validation.task.labels, require_head=True)
    features, before = (encode(validation, each, MAX_LENGTH) for each in (tokenizer, whole))
    same = [
        tokenizer.convert_ids_to_tokens(trimmed_ids.tolist()) == whole.convert_ids_to_tokens(whole_ids.tolist())
        for trimmed_ids, whole_ids in zip(features.input_ids, before.input_ids, strict=True)
    ]
    logits = predict(model, features, pad_token_id=tokenizer.pad_token_id, device=CPU)
    return {
        "parameters": parameter_count(model), "tokens": vocabulary_size(model), "same tokens": float(np.mean(same)),
        "validation": headline_score(validation, features, logits),
    }  # fmt: skip


def shown(rows: list[dict[str, Any]], split: str) -> str:
    """A line for each task, model and way; a column for each share; random draws as their mean."""
    keeps = sorted({row["keep"] for row in rows}, reverse=True)
    cells: dict[tuple[str, ...], dict[float, list[float]]] = {}
    for row in rows:
        if split in row and row["way"] != "vocabulary":
            line = (row["task"], row["model"], row["way"].partition(" ")[0] if "random" in row["way"] else row["way"])
            cells.setdefault(line, {}).setdefault(row["keep"], []).append(100 * row[split])
    lines = [
        (*line, *(f"{np.mean(by_keep[keep]):.1f}" if keep in by_keep else "" for keep in keeps))
        for line, by_keep in cells.items()
    ]
    return table(("task", "model", "chosen by", *(f"{keep:.0%}" for keep in keeps)), lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with glue/")
    parser.add_argument("--run", type=Path, default=common.ROOT / "runs" / "small-glue", help="a finished run")
    parser.add_argument("--tasks", nargs="+", default=["sst2"], help="of those in the run, but for span tasks")
    parser.add_argument("--models", nargs="+", default=["student", "teacher"], help="rows of the run")
    parser.add_argument("--seed", type=int, default=0, help="of the fine-tuning")
    parser.add_argument("--keep", type=float, nargs="+", default=[0.75, 0.5, 0.35])
    parser.add_argument("--examples", type=int, default=400, help="train examples that tell what matters")
    parser.add_argument("--held-out", type=int, default=400, help="train examples that compare the ways")
    parser.add_argument("--draws", type=int, default=3, help="random choices")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "pruning.jsonl")
    return parser.parse_args()


def main() -> None:
    """Measure, print, append."""
    chosen = parse()
    rows: list[dict[str, Any]] = []
    for task, model in itertools.product(chosen.tasks, chosen.models):
        for row in measure(task, model, chosen):
            rows.append(row)
            common.append(chosen.output, [{"benchmark": "pruning", "seed": chosen.seed, **row}])
    for split in ("held out", "validation"):
        print(f"{split}, points\n{shown(rows, split)}\n")
    for row in rows:
        if row["way"] == "vocabulary":
            print(
                f"{row['task']}, {row['model']}, vocabulary of the train split: {row['tokens']:,} tokens,"
                f" {row['parameters']:,} parameters, {row['same tokens']:.1%} of the validation inputs as before,"
                f" {100 * row['validation']:.1f} points"
            )


if __name__ == "__main__":
    main()
