"""Milliseconds per sentence pair at batch 1 on one pinned core: shapes with random weights with every back end.

Runs the harness of `tinydistilbert benchmark` on ELMo, BERT-base, DistilBERT, the shapes of the offline teacher and its
student, and a pruned DistilBERT. The last line is JSON: milliseconds by protocol and row.
"""

import argparse
import json
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import common
import numpy as np
from numpy.typing import NDArray
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from tinydistilbert import results
from tinydistilbert.benchmark.backends import COMPILED, INT8, ONNX, TORCH
from tinydistilbert.benchmark.pairs import Pairs, load_pairs, slices_of_like_lengths
from tinydistilbert.benchmark.protocols import (
    PADDED,
    TRUE_LENGTH,
    WITH_TOKENIZER,
    PairInputs,
    encoded_pairs,
    predictor_of,
)
from tinydistilbert.benchmark.rows import ARCHITECTURES, BenchmarkRow, Subject, make_rows, make_subject
from tinydistilbert.benchmark.timing import (
    NOISE_LIMIT,
    Timed,
    core_clock,
    load_average,
    mean_interval,
    one_core,
    time_in_turns,
    wall_clock,
)
from tinydistilbert.benchmark.turns import table
from tinydistilbert.models.elmo.model import ElmoConfig, ElmoForSequenceClassification
from tinydistilbert.models.pruned import keep, parts_of
from tinydistilbert.models.runtimes import ModelInputs
from tinydistilbert.recipe.schema import Recipe

PROTOCOLS = (TRUE_LENGTH, WITH_TOKENIZER, PADDED)
EVERY = (TORCH, ONNX, INT8)
BACKENDS = {
    "elmo": (TORCH,), "bert-base": EVERY, "distilbert": (TORCH, COMPILED, ONNX, INT8), "teacher": EVERY,
    "student": EVERY, "distilbert-pruned": (INT8,),
}  # fmt: skip
GOALS = (
    ("distilbert/onnx-int8", "bert-base/torch", 7.5), ("distilbert-pruned/onnx-int8", "bert-base/torch", 10.0),
    ("student/onnx-int8", "teacher/torch", 12.0), ("distilbert/torch", "bert-base/torch", None),
    ("bert-base/torch", "elmo/torch", None),
)  # fmt: skip
"""A row, what it is compared with, and how many times as fast it is meant to be."""
QUICK_SECONDS = 320
"""`--quick` begins no further round of a protocol when it has used up its share of what is left of these."""
TOKENIZER_GOAL = 0.3
"""Milliseconds from a pair of texts to a model's inputs."""

Architecture = Callable[[], PreTrainedModel]


def bert(**shape: int) -> PreTrainedModel:
    """A BERT with a regression head."""
    return BertForSequenceClassification(BertConfig.from_dict({"num_labels": 1, **shape}))


def distilbert(**shape: int) -> PreTrainedModel:
    """A DistilBERT with a regression head."""
    return DistilBertForSequenceClassification(DistilBertConfig.from_dict({"num_labels": 1, **shape}))


def pruned(model: PreTrainedModel) -> PreTrainedModel:
    """Every second head and neuron of each layer; which ones they are does not matter for the time."""
    parts = parts_of(model)
    keep(model, [range(0, part.heads, 2) for part in parts], [range(0, part.neurons, 2) for part in parts])
    return model


MINILM = {"n_layers": 3, "dim": 384, "hidden_dim": 1536, "n_heads": 12}
SHAPES: Mapping[str, Architecture] = {
    **ARCHITECTURES,
    "teacher": lambda: bert(num_hidden_layers=6, hidden_size=384, intermediate_size=1536),
    "student": lambda: distilbert(**MINILM),
    "distilbert-pruned": lambda: pruned(distilbert()),
}
SMALL = {"n_layers": 1, "dim": 32, "hidden_dim": 64, "n_heads": 2}
SMALL_BERT = {"num_hidden_layers": 1, "hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
TINY: Mapping[str, Architecture] = {
    "elmo": lambda: ElmoForSequenceClassification(
        ElmoConfig.from_dict(
            {"num_labels": 1, "filters": [[1, 8], [2, 8]], "projection_size": 8, "cell_size": 16, "hidden_size": 16,
             "classifier_size": 8}
        )
    ),
    "bert-base": lambda: bert(**SMALL_BERT),
    "distilbert": lambda: distilbert(**SMALL),
    "teacher": lambda: bert(**SMALL_BERT),
    "student": lambda: distilbert(**SMALL),
    "distilbert-pruned": lambda: pruned(distilbert(**SMALL)),
}  # fmt: skip


def measure(
    rows: Sequence[BenchmarkRow], pairs: Pairs, protocol: str, examples: int, rounds: Iterator[None], clock: Any
) -> list[dict[str, Any]]:
    """One line a row. Each round goes through the same pairs, so that a pair has the median of its rounds."""
    features = encoded_pairs([row.subject for row in rows], pairs)
    inputs = [PairInputs(row.subject, row.runtime.token_types, pairs, features[row.subject.name]) for row in rows]
    timed = {row.name: row_inputs.timed(protocol, row.runtime) for row, row_inputs in zip(rows, inputs, strict=True)}
    lengths = features[rows[-1].subject.name].lengths.tolist()
    (chosen,) = slices_of_like_lengths(lengths, examples, 1, 0)
    with one_core():
        seconds = time_in_turns(timed, (chosen for _ in rounds), clock)
    return [summary(name, protocol, np.array(times)) for name, times in seconds.items()]


def until(moment: float, rounds: int) -> Iterator[None]:
    """So many rounds, but none begins after `moment`, except the first."""
    for number in range(rounds):
        if number and time.perf_counter() > moment:
            return
        yield


def summary(row: str, protocol: str, seconds: np.ndarray) -> dict[str, Any]:
    """What is told of the times (rounds, pairs) of a row."""
    milliseconds, means = 1000 * np.median(seconds, axis=0), seconds.mean(axis=1)
    spread = float(means.max() / means.min())
    return {
        "row": row, "protocol": protocol, "ms": float(milliseconds.mean()), "p50_ms": float(np.median(milliseconds)),
        "p90_ms": float(np.quantile(milliseconds, 0.9)),
        "interval_ms": [1000 * bound for bound in mean_interval(seconds.tolist())],
        "spread": spread, "noisy": spread > NOISE_LIMIT, "pairs": seconds.shape[1], "rounds": seconds.shape[0],
        "load_average": load_average(),
    }  # fmt: skip


class NoModel:
    """A runtime that answers at once: what is left is the way from the texts to it."""

    name, token_types = "none", True

    def __call__(self, inputs: ModelInputs) -> NDArray[np.float32]:
        return np.zeros((1, 1), np.float32)


def tokenizer_milliseconds(subject: Subject, pairs: Pairs, examples: int) -> float:
    """Median of the way from two texts to a model's inputs, without a model."""
    predictor = predictor_of(NoModel(), subject)
    timed = {"tokenizer": Timed(pairs.texts, lambda texts: predictor.logits(texts[:1], texts[1:]))}
    with one_core():
        (seconds,) = time_in_turns(timed, [list(range(examples))])["tokenizer"]
    return 1000 * float(np.median(seconds))


def shown(lines: Sequence[Mapping[str, Any]]) -> str:
    """A line a row: milliseconds by protocol, ⚠ where the rounds differ by more than 10 %."""
    measured = {(line["row"], line["protocol"]): line for line in lines}
    names = dict.fromkeys(line["row"] for line in lines)
    cells = [
        (name, *(f"{measured[name, p]['ms']:.2f}{' ⚠' * measured[name, p]['noisy']}" for p in PROTOCOLS),
         f"{measured[name, TRUE_LENGTH]['p50_ms']:.2f}/{measured[name, TRUE_LENGTH]['p90_ms']:.2f}")
        for name in names
    ]  # fmt: skip
    return table(("row", *(f"{protocol}, ms" for protocol in PROTOCOLS), "p50/p90, true length"), cells)


def ratios(milliseconds: Mapping[str, Mapping[str, float]]) -> str:
    """How many times as fast the rows with a goal are."""
    cells = []
    for row, reference, goal in GOALS:
        if all(name in milliseconds[TRUE_LENGTH] for name in (row, reference)):
            ratios = [f"{milliseconds[p][reference] / milliseconds[p][row]:.2f}" for p in PROTOCOLS]
            cells.append((f"{row} against {reference}", *ratios, "" if goal is None else f"{goal:g}"))
    return table(("times as fast", *PROTOCOLS, "goal"), cells)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with glue/stsb/")
    parser.add_argument("--teacher", type=Path, help="whose tokenizer is used; by default the offline one's")
    parser.add_argument("--quick", action="store_true", help="fewer pairs and rounds, no torch.compile: 6 minutes")
    parser.add_argument("--tiny", action="store_true", help="shapes of one layer, to try the script out")
    parser.add_argument("--models", nargs="+", choices=list(BACKENDS), default=list(BACKENDS))
    parser.add_argument("--examples", type=int, default=100, help="pairs at true length and with the tokenizer")
    parser.add_argument("--padded-examples", type=int, default=20, help="pairs padded to 128 (all cost the same)")
    parser.add_argument("--rounds", type=int, default=5, help="each goes through all rows and the same pairs")
    parser.add_argument(
        "--core-time", action="store_true", help="count the time that a call has the core: for a machine that is busy"
    )
    parser.add_argument("--output", type=Path, default=common.RESULTS / "latency.jsonl")
    chosen = parser.parse_args()
    if chosen.quick:
        chosen.examples, chosen.padded_examples, chosen.rounds = 8, 2, 3
    return chosen


def main() -> None:
    """Build, measure, print, append."""
    chosen, began = parse(), time.perf_counter()
    tokenizer = common.open_teacher(chosen.teacher).tokenizer
    data = str(chosen.data) if (chosen.data / "glue" / "stsb").is_dir() else None
    pairs = load_pairs(Recipe(data=data), tokenizer)
    print(f"inputs: {pairs.source}")
    with tempfile.TemporaryDirectory() as scratch:
        rows: list[BenchmarkRow] = []
        for name in chosen.models:
            made = make_subject(
                name, None, architectures=TINY if chosen.tiny else SHAPES, tokenizer=tokenizer, seed=0,
                work=Path(scratch),
            )  # fmt: skip
            backends = [one for one in BACKENDS[name] if not (chosen.quick and one == COMPILED)]
            rows += make_rows([made], backends, Path(scratch))
            print(f"{name}: {made.parameters / 1e6:.1f} M parameters, ready after {time.perf_counter() - began:.0f} s")
        lines, end = [], began + QUICK_SECONDS if chosen.quick else math.inf
        for left, protocol in zip((3, 2, 1), PROTOCOLS, strict=True):
            examples = chosen.padded_examples if protocol == PADDED else chosen.examples
            now = time.perf_counter()
            rounds = until(now + (end - now) / left, chosen.rounds)
            lines += measure(rows, pairs, protocol, examples, rounds, core_clock if chosen.core_time else wall_clock)
        reading = tokenizer_milliseconds(rows[-1].subject, pairs, 300)
    sizes = {row.name: row.megabytes for row in rows}
    shared = {
        "benchmark": "latency", "quick": chosen.quick, "tiny": chosen.tiny, "inputs": pairs.source,
        "clock": "core" if chosen.core_time else "wall", "tokenizer_ms": reading,
    }  # fmt: skip
    common.append(chosen.output, [{**shared, **line, "megabytes": sizes.get(line["row"])} for line in lines])
    milliseconds = {
        protocol: {line["row"]: round(line["ms"], 3) for line in lines if line["protocol"] == protocol}
        for protocol in PROTOCOLS
    }
    print(f"\n{shown(lines)}\n\n{ratios(milliseconds)}\n")
    print(f"from a pair of texts to the inputs: {reading:.3f} ms (goal: below {TOKENIZER_GOAL})")
    machine = results.environment()
    print(f"{machine['cpu']}, {', '.join(machine['instruction_sets'])}; {time.perf_counter() - began:.0f} s in all\n")
    print(json.dumps(milliseconds))


if __name__ == "__main__":
    main()
