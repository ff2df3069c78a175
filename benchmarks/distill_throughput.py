"""Useful tokens per second of a distillation step: the notebook's way, the authors' way and ours, side by side.

Each way runs in a separate process, the others with the system's memory allocator and ours with the setting that its
training makes. They take turns, so that other work on the machine affects all alike. Ours is `pretraining.pretrain`
itself, stopped between two steps; its time includes clipping, AdamW, the log and drawing the masks. README.md here
explains how to run it and how to read its output.
"""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from multiprocessing.connection import Connection
from multiprocessing.context import BaseContext
from pathlib import Path
from typing import Any

import common
import reference_ways
import throughput_ways
import torch
from throughput_ways import LIBRARY_WAYS, PAIRS, PUBLISHED_WAYS, Setup
from transformers import PreTrainedTokenizerFast

from tinydistilbert import results
from tinydistilbert.benchmark.turns import Sample, Samples, peak_share, quartiles, ratio, table
from tinydistilbert.data.corpus import prepare
from tinydistilbert.data.sources import open_source
from tinydistilbert.data.wikitext import UNKNOWN
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.storage import cache
from tinydistilbert.training.precision import PRECISIONS, Precision, is_possible, library, onednn

WAYS = (*PUBLISHED_WAYS, *LIBRARY_WAYS)
RATIOS = {
    "notebook": ("ours_all", "notebook"),
    "authors_all": ("ours_all", "authors_all"),
    "authors_masked": ("ours_masked", "authors_masked"),
    "cached_masked": ("ours_cached", "authors_masked"),
}
"""Of the last line: our way over theirs, on the same objective."""
BLOCK = 128
BATCH_SIZE = {"bert-base": 8, "offline": 16}
"""Our blocks in a micro-batch; each is one step. The authors' micro-batches fill as many positions."""
DOCUMENTS, CACHED_DOCUMENTS = 60, 2
"""Articles of the text, and of the part that the teacher's cache is made for; its making is not in the time."""
SHAPES = ((1024, 1024, 1024), (1024, 768, 3072), (2048, 768, 3072), (2048, 3072, 768))
"""Matrix products (rows, inner, columns) whose fastest is the machine's rate."""
SHAPE_SECONDS = 0.1
QUICK_SECONDS = 320.0
"""Of the whole run with --quick; the rest of six minutes is for what the deadline cannot cut short."""
FIRST_PAIR_SHARE = 0.7
"""Of the time, where both pairs are measured: a step of BERT-base takes many times as long."""
PRELOADED = [
    "tinydistilbert.distillation.pretraining", "tinydistilbert.distillation.teacher_cache",
    "tinydistilbert.models.teacher",
    "transformers.models.bert.modeling_bert", "transformers.models.distilbert.modeling_distilbert",
]  # fmt: skip
"""Imported once, before the processes part; none of it computes anything, so no thread exists that could be lost."""
SAME = 1e-4
"""Largest relative difference of two computations of the same loss."""


def matrix_rate(precision: Precision) -> float:
    """Operations a second of the fastest of some matrix products with all threads, each the best of several times."""
    best, dtype = 0.0, torch.bfloat16 if precision == "bf16" else torch.float32
    with onednn(precision):
        for rows, inner, columns in SHAPES:
            left, right, out = (
                torch.ones(size, dtype=dtype) for size in ((rows, inner), (inner, columns), (rows, columns))
            )
            end, least = time.perf_counter() + SHAPE_SECONDS, float("inf")
            torch.mm(left, right, out=out)
            while least == float("inf") or time.perf_counter() < end:
                begin = time.perf_counter()
                torch.mm(left, right, out=out)
                least = min(least, time.perf_counter() - begin)
            best = max(best, 2 * rows * inner * columns / least)
    return best


def possible_precisions() -> list[Precision]:
    """Those in which this machine computes without losing time: what both benchmarks measure by default."""
    cpu = torch.device("cpu")
    return [name for name in PRECISIONS if is_possible(cpu, name) and (name != "fp32-onednn" or library() != "oneDNN")]


def machine_line(precision: Precision, rates: Sequence[float], threads: int) -> str:
    """What the products were made by, and how fast."""
    sets = results.environment()["instruction_sets"]
    by = library() if precision == "fp32" else "oneDNN"
    rate = quartiles(rates)[1] / 1e9
    return f"{precision} by {by}, {threads} threads, {', '.join(sets)}: matrix products {rate:.0f} GFLOP/s"


def texts(corpus: Corpus, data: str | None) -> tuple[list[str], list[str]]:
    """Lines as they stand, blank ones too, and the paragraphs of the articles, of about the same part of the text."""
    documents = list(open_source(corpus, data).train())
    paragraphs = [line for document in documents for line in document.split("\n")]
    whole = open_source(replace(corpus, packing="lines", max_train_documents=0), data).train()
    lines: list[str] = []
    characters = sum(map(len, documents))
    for line in whole:
        if characters <= 0:
            break
        lines.append(line)
        characters -= len(line)
    return lines, paragraphs


def tokenize(lines: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> list[list[int]]:
    """The tokens of each line, without special ones around them."""
    known = [line.replace(UNKNOWN, tokenizer.unk_token) for line in lines]
    token_ids: list[list[int]] = tokenizer(known, add_special_tokens=False, verbose=False)["input_ids"]
    return token_ids


def make_setup(pair: str, teacher: Path | None, data: Path, batch_size: int, threads: int) -> Setup:
    """The same text cut for every way; tokens are those of the offline teacher, whose vocabulary is BERT-base's."""
    tokenizer = common.open_teacher(teacher).tokenizer
    corpus, folder = common.open_corpus(data, max_train_documents=DOCUMENTS, block_size=BLOCK)
    lines, paragraphs = texts(corpus, folder)
    vocabulary = reference_ways.Vocabulary(
        len(tokenizer), tokenizer.cls_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id,
        tokenizer.mask_token_id, tuple(tokenizer.all_special_ids),
    )  # fmt: skip
    cached = replace(corpus, max_train_documents=CACHED_DOCUMENTS)
    return Setup(
        pair=pair,
        teacher=teacher,
        blocks=prepare(corpus, tokenizer, cache.folder(), folder),
        cached_blocks=prepare(cached, tokenizer, cache.folder(), folder),
        rows=reference_ways.notebook_rows(tokenize(lines, tokenizer), vocabulary),
        sequences=reference_ways.authors_sequences(tokenize(paragraphs, tokenizer), BLOCK, vocabulary),
        vocabulary=vocabulary,
        batch_size=batch_size,
        positions=batch_size * BLOCK,
        threads=threads,
    )


class Turns:
    """A process that measures one way when it is asked to.

    Args:
        context: how processes are started.
        way: what is measured.
        setup: what all ways share.
        serve: what the process runs, of way, setup and its end of the connection.
    """

    def __init__(
        self, context: BaseContext, way: str, setup: Any, serve: Callable[[str, Any, Connection], None]
    ) -> None:
        self.way, self.setup = way, setup
        self.connection, other = multiprocessing.Pipe()
        self.process = context.Process(target=serve, args=(way, setup, other), daemon=True)
        self.process.start()
        other.close()

    def ready(self) -> None:
        """Wait until models and text are loaded and a first step is done."""
        self._receive()

    def take(self, seconds: float) -> Sample:
        """One turn: as many steps as begin within so many seconds, at least one."""
        self.connection.send(seconds)
        sample = self._receive()
        assert isinstance(sample, Sample)
        return sample

    def _receive(self) -> object:
        try:
            message = self.connection.recv()
        except EOFError:
            raise SystemExit(
                f"the process of {self.way} died, perhaps of too little memory: name fewer --ways"
            ) from None
        if isinstance(message, str):
            raise SystemExit(f"{self.way}: {message}")
        return message

    def close(self) -> None:
        """End the process."""
        if self.process.is_alive():
            self.connection.send(None)
        self.process.join()


def alternate(turns: Sequence[Turns], rounds: int, seconds: float, deadline: float) -> tuple[Samples, list[float]]:
    """Every way once a round, each round beginning with another, and the machine's rate before each turn.

    The first round is always whole; later, a turn that would end after the deadline is left out.

    Args:
        turns: the processes, ready.
        rounds: at most so many.
        seconds: of a turn.
        deadline: in `time.monotonic`'s seconds.

    Returns:
        The samples of each way by round, and the rates.
    """
    samples: Samples = {process.way: {} for process in turns}
    rates, expected = [], dict.fromkeys(samples, 0.0)
    for number in range(rounds):
        first = number % len(turns)
        for process in (*turns[first:], *turns[:first]):
            begin = time.monotonic()
            if number and begin + expected[process.way] > deadline:
                continue
            rates.append(matrix_rate(process.setup.precision))
            samples[process.way][number] = process.take(seconds)
            expected[process.way] = time.monotonic() - begin
    return samples, rates


def summary(samples: Samples, rates: Sequence[float]) -> dict[str, float | None]:
    """What the last line says of a pair."""
    ratios = {name: ratio(samples, our_way, other) for name, (our_way, other) in RATIOS.items()}
    return {**ratios, "peak_share": peak_share(samples, "ours_masked", rates)}


def gains(exact: Samples, samples: Samples) -> dict[str, float | None]:
    """Speed of each way over its own in fp32, both medians; empty where that was not measured."""
    speeds = [
        {way: quartiles([s.speed for s in by_round.values()])[1] for way, by_round in each.items()}
        for each in (exact, samples)
    ]
    return {
        f"{way}_over_fp32": round(speed / speeds[0][way], 3) for way, speed in speeds[1].items() if way in speeds[0]
    }


def rows_of(setup: Setup, samples: Samples, rates: Sequence[float], **facts: Any) -> list[dict[str, Any]]:
    """A line of the results for each way, and one with the ratios."""
    common_facts = {
        "benchmark": "distill_throughput", "pair": setup.pair, "threads": setup.threads,
        "batch_size": setup.batch_size, "authors_positions": setup.positions, "precision": setup.precision,
        "library": library() if setup.precision == "fp32" else "oneDNN", **facts,
    }  # fmt: skip
    rows = []
    for way, by_round in samples.items():
        low, middle, high = quartiles([sample.speed for sample in by_round.values()])
        rows.append({
            **common_facts, "way": way, "tokens_per_second": round(middle, 2), "low": round(low, 2),
            "high": round(high, 2), "rounds": len(by_round),
            "peak_mib": round(max(sample.peak_mib for sample in by_round.values()), 1),
        })  # fmt: skip
    return [*rows, {**common_facts, "matrix_rate": quartiles(rates)[1], **summary(samples, rates)}]


def shown(samples: Samples) -> str:
    """The table of a pair; the ratio is that of our way on the same objective."""
    against = {other: (our_way, name) for name, (our_way, other) in reversed(RATIOS.items())}
    lines = []
    for way, by_round in samples.items():
        low, middle, high = quartiles([sample.speed for sample in by_round.values()])
        our_way, _ = against.get(way, ("", ""))
        times = ratio(samples, our_way, way)
        peak = max(sample.peak_mib for sample in by_round.values())
        lines.append((
            way, f"{middle:,.1f}", f"{low:,.1f} to {high:,.1f}", str(len(by_round)),
            f"{our_way} is {times:.2f} times as fast" if times else "", f"{peak:,.0f}",
        ))  # fmt: skip
    return table(("way", "useful tokens/s", "middle half", "rounds", "same objective", "peak MiB"), lines)


def check_losses(context: BaseContext, setup: Setup) -> None:
    """Print how far our loss is from the others' on one batch, and end the program where that is not rounding."""
    connection, other = multiprocessing.Pipe()
    process = context.Process(target=throughput_ways.compare, args=(setup, other), daemon=True)
    process.start()
    answer = connection.recv()
    process.join()
    if isinstance(answer, str):
        raise SystemExit(answer)
    differences = ", ".join(f"{way} {difference:.1e}" for way, difference in answer.items())
    print(
        f"{setup.pair}: same loss on the same batch without dropout; relative difference from ours: {differences}",
        flush=True,
    )
    if max(answer.values()) > SAME:
        raise SystemExit(f"expected differences below {SAME}: the ways do not minimise the same")


def measure_pair(
    context: BaseContext, setup: Setup, ways: Iterable[str], rounds: int, seconds: float, deadline: float
) -> tuple[Samples, list[float]]:
    """Check the losses of a pair, then measure its ways in turns."""
    check_losses(context, setup)
    turns = [Turns(context, way, setup, throughput_ways.serve) for way in ways]
    try:
        for process in turns:
            process.ready()
        return alternate(turns, rounds, seconds, deadline)
    finally:
        for process in turns:
            process.close()


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Useful tokens a second of one distillation step, ours and others'.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/")
    parser.add_argument(
        "--teacher",
        type=Path,
        help="masked-LM teacher of the pair offline; by default the one beside the data, or the wheel's",
    )
    parser.add_argument("--pair", choices=PAIRS, action="append", help="only this pair (repeatable)")
    parser.add_argument("--ways", choices=WAYS, nargs="+", default=list(WAYS), help="only these ways")
    parser.add_argument(
        "--quick", action="store_true", help="two rounds of short turns, within six minutes on two cores"
    )
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=10.0, help="of one turn of one way; at least one step")
    parser.add_argument("--batch-size", type=int, help=f"our blocks in a step; by default {BATCH_SIZE}")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        nargs="+",
        help="of every way; by default all that this machine has units for",
    )
    parser.add_argument("--output", type=Path, default=common.RESULTS / "distill_throughput.jsonl")
    return parser.parse_args(arguments)


def main() -> None:
    """Measure, print, append."""
    begin, chosen = time.monotonic(), parse()
    rounds, seconds = (2, 2.0) if chosen.quick else (chosen.rounds, chosen.seconds)
    torch.set_num_threads(chosen.threads)
    os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    pairs = tuple(dict.fromkeys(chosen.pair or PAIRS))
    precisions = tuple(dict.fromkeys(chosen.precision or possible_precisions()))
    last: dict[str, dict[str, Mapping[str, float | None]]] = {}
    for number, pair in enumerate(pairs):
        share = 1.0 if number + 1 == len(pairs) else FIRST_PAIR_SHARE
        whole = make_setup(pair, chosen.teacher, chosen.data, chosen.batch_size or BATCH_SIZE[pair], chosen.threads)
        exact: Samples = {}
        for place, precision in enumerate(precisions, 1):
            before = number * FIRST_PAIR_SHARE
            until = begin + (before + (share - before) * place / len(precisions)) * QUICK_SECONDS
            setup = replace(whole, precision=precision)
            samples, rates = measure_pair(
                context, setup, chosen.ways, rounds, seconds, until if chosen.quick else float("inf")
            )
            print(shown(samples))
            print(f"{pair}: {machine_line(precision, rates, chosen.threads)}\n", flush=True)
            speedups = gains(exact, samples)
            facts = {"quick": chosen.quick, "turn_seconds": seconds, **speedups}
            common.append(chosen.output, rows_of(setup, samples, rates, **facts))
            last.setdefault(pair, {})[precision] = {**summary(samples, rates), **speedups}
            exact = samples if precision == "fp32" else exact
    print(json.dumps(last))


if __name__ == "__main__":
    main()
