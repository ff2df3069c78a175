"""Trainings in bf16 on batches of many lengths: with few prepared products kept, with more, and with few lengths.

This is why `training.precision.keep_prepared_products` and `finetuning.batches.padded_length` exist.
"""

import argparse
import itertools
import os
import time
from typing import Any

import common
import torch
from transformers import BertConfig, BertForSequenceClassification

from tinydistilbert.benchmark.turns import quartiles, table
from tinydistilbert.finetuning.batches import padded_length
from tinydistilbert.models.dropout import quick_dropout
from tinydistilbert.models.pruned import keep
from tinydistilbert.training.allocator import keep_freed_memory
from tinydistilbert.training.precision import CAPACITY, PREPARED, multiplying

USUAL = 1024
"""What oneDNN keeps by default."""
WAYS = {"as oneDNN does": (USUAL, False), "4,096 prepared": (PREPARED, False), "and few lengths": (PREPARED, True)}
"""How many products are kept, and whether batches are padded on to one of a few lengths."""
LENGTHS = range(9, 129, 2)
"""Of the batches of an epoch, in another order in each; the first epoch prepares what the second finds."""
MODELS = {
    "3 layers of 384": (3, 384, 1.0), "the same, pruned to 50 %": (3, 384, 0.5), "2 layers of 768": (2, 768, 1.0),
}  # fmt: skip
"""Layers, their width, and what is left of heads and neurons, in each layer another number."""


def model_of(name: str) -> BertForSequenceClassification:
    """A model with random weights."""
    layers, width, share = MODELS[name]
    config = BertConfig(
        hidden_size=width, intermediate_size=4 * width, num_attention_heads=12, num_hidden_layers=layers,
        vocab_size=1000,
    )  # fmt: skip
    model = BertForSequenceClassification(config)
    if share < 1:
        heads = [range(round(12 * share) + layer % 3 - 1) for layer in range(layers)]
        keep(model, heads, [range(round(4 * width * share) + 40 * layer - 24) for layer in range(layers)])
    return model.train()


def measure(name: str, examples: int, few_lengths: bool) -> tuple[float, float]:
    """Useful tokens a second of the second epoch, and the anonymous memory of the process at its peak in MiB."""
    keep_freed_memory()  # as a training does
    torch.manual_seed(0)
    model, cpu = model_of(name), torch.device("cpu")
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    seconds = tokens = 0.0
    with common.AnonymousPeak() as peak, quick_dropout(model):
        for epoch in range(2):
            begin = time.perf_counter()
            for number in torch.randperm(len(LENGTHS)).tolist():
                length = LENGTHS[number]
                ids = torch.randint(0, 1000, (examples, padded_length(length) if few_lengths else length))
                with multiplying(cpu, "bf16"):
                    loss = model(input_ids=ids, labels=torch.zeros(examples, dtype=torch.long)).loss
                loss.backward()
                optimizer.step()
                optimizer.zero_grad()
                tokens += epoch * examples * length
            seconds = time.perf_counter() - begin
    return tokens / seconds, peak.mib


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--examples", type=int, default=16, help="of a batch")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for name in MODELS:
        by_way: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _, (way, (kept, few_lengths)) in itertools.product(range(options.rounds), WAYS.items()):
            os.environ[CAPACITY] = str(kept)  # which the new process reads
            by_way[way].append(common.in_fresh_process(options.threads, measure, name, options.examples, few_lengths))
        usual = by_way[next(iter(WAYS))]
        rows += [
            {
                "model": name, "way": way, "tokens_a_second": [round(each[0]) for each in of_way],
                "peak_mib": [round(each[1]) for each in of_way], "threads": options.threads,
                "examples": options.examples,
                "ratios": [round(each[0] / first[0], 3) for first, each in zip(usual, of_way, strict=True)],
            }
            for way, of_way in by_way.items()
        ]  # fmt: skip
    cells = [
        (
            row["model"], row["way"], f"{quartiles(row['tokens_a_second'])[1]:,.0f}",
            f"{quartiles(row['ratios'])[1]:.2f}", f"{quartiles(row['peak_mib'])[1]:,.0f}",
        )
        for row in rows
    ]  # fmt: skip
    print(table(("model", "way", "tokens/s", "ratio", "peak MiB"), cells))
    common.append(common.RESULTS / "prepared_products.jsonl", rows)


if __name__ == "__main__":
    main()
