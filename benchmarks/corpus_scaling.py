"""The cost of a larger corpus: speed and memory of preparing it, and of distilling on it for the same number of steps.

Both are measured in a fresh process for each size. If cost grows linearly and memory does not grow, every column of the
table is constant. The text is WikiText-2, cut or repeated; every paragraph of a repetition is marked, so that no two
are the same.
"""

import argparse
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import common
import torch
from throughput_ways import models

from tinydistilbert.benchmark.turns import table
from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.data.sources import open_source
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import PretrainingSetup, pretrain
from tinydistilbert.recipe import schema

SIZES = (100_000, 1_000_000, 10_000_000)
CHARACTERS_PER_TOKEN = 4.5
"""Of English in BERT's vocabulary, to cut the text by; the tokens in the table are counted."""
VALIDATION_CHARACTERS = 30_000


@dataclass(frozen=True)
class Cost:
    """Of one stage on one size of corpus."""

    tokens: int
    """Of the training text."""
    tokens_per_second: float
    peak_mib: float
    """Resident memory, pages of memory-mapped files that the system keeps for it among them."""
    anonymous_mib: float
    """Memory that is the process's own, at its highest."""


def write_text(path: Path, documents: Sequence[str], characters: int) -> None:
    """Write documents, and repetitions of them that differ, until there are so many characters; the last one is cut."""
    left, repetition = characters, 0
    with path.open("w", encoding="utf-8") as stream:
        while left > 0:
            for document in documents:
                if left <= 0:
                    break
                text = marked(document, repetition)[:left]
                stream.write(text + "\n\n")
                left -= len(text)
            repetition += 1


def write_corpus(folder: Path, documents: Sequence[str], held_out: Sequence[str], characters: int) -> None:
    """A folder with so many characters of train text, and the same validation text for every size."""
    folder.mkdir()
    write_text(folder / "train.txt", documents, characters)
    write_text(folder / "validation.txt", held_out, VALIDATION_CHARACTERS)


def marked(document: str, repetition: int) -> str:
    """The document with the number of its repetition at the end of each paragraph; the first time as it is."""
    return document if not repetition else "\n".join(f"{line} ({repetition})" for line in document.split("\n"))


def measure_prepare(text: Path, scratch: Path, teacher: Path | None) -> Cost:
    """Tokenise the text into blocks; the tokenizer is loaded before the clock starts."""
    tokenizer = common.open_teacher(teacher).tokenizer
    common.restart_peak()
    begin = time.perf_counter()
    with common.AnonymousPeak() as peak:
        folder = prepare(schema.Corpus(source=str(text)), tokenizer, scratch, None)
    seconds = time.perf_counter() - begin
    tokens = load_blocks(folder).manifest["splits"]["train"]["tokens"]
    return Cost(tokens, tokens / seconds, common.peak_mib(), peak.mib)


def measure_distill(text: Path, scratch: Path, teacher: Path | None, steps: int, batch_size: int) -> Cost:
    """Distil the offline teacher for `steps` steps on blocks that were prepared before."""
    tokenizer = common.open_teacher(teacher).tokenizer
    blocks = load_blocks(prepare(schema.Corpus(source=str(text)), tokenizer, scratch, None))
    student, large = models("offline", teacher)
    optimization = schema.Optimization(batch_size=batch_size)
    settings = schema.Recipe(
        distill=schema.Distill(optimization=optimization), checkpoint_minutes=1e6,
        validation=schema.Validation(times=1, blocks=1),
    )  # fmt: skip
    setup = PretrainingSetup.of(settings, blocks, torch.device("cpu"))
    batches = common.StepTimes(setup.batches(settings.objective, optimization, steps=steps))
    common.restart_peak()
    with common.AnonymousPeak() as peak:
        pretrain(
            student, PretrainingLoss(settings.objective, large, steps=steps), batches, setup, optimization,
            folder=scratch, label=f"{text.stem}",
        )  # fmt: skip
    tokens, seconds = batches.measured()
    return Cost(blocks.manifest["splits"]["train"]["tokens"], tokens / seconds, common.peak_mib(), peak.mib)


def shown(costs: Iterable[tuple[Cost, Cost]]) -> str:
    """The table: a line for each size."""
    head = ("tokens", "prepare tokens/s", "peak MiB", "anonymous MiB", "distil tokens/s", "peak MiB", "anonymous MiB")
    lines = []
    for pair in costs:
        cells = [f"{pair[0].tokens:,}"]
        for cost in pair:
            cells += [f"{cost.tokens_per_second:,.0f}", f"{cost.peak_mib:,.0f}", f"{cost.anonymous_mib:,.0f}"]
        lines.append(cells)
    return table(head, lines)


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Speed and memory of preparing and distilling, by size of the corpus.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/")
    parser.add_argument("--teacher", type=Path, help="masked-LM teacher; by default the offline one")
    parser.add_argument("--sizes", type=int, nargs="+", default=list(SIZES), help="tokens")
    parser.add_argument("--steps", type=int, default=40, help="of distilling, at each size")
    parser.add_argument("--batch-size", type=int, default=schema.Optimization().batch_size)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--output", type=Path, default=common.RESULTS / "corpus_scaling.jsonl")
    return parser.parse_args()


def main() -> None:
    """Measure, print, append."""
    chosen = parse()
    corpus, data = common.open_corpus(chosen.data)
    source = open_source(corpus, data)
    documents, held_out = list(source.train()), list(source.validation())
    costs: list[tuple[Cost, Cost]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for size in chosen.sizes:
            text, scratch = Path(temporary) / f"text-{size}", Path(temporary) / f"blocks-{size}"
            write_corpus(text, documents, held_out, round(size * CHARACTERS_PER_TOKEN))
            prepared = common.in_fresh_process(chosen.threads, measure_prepare, text, scratch, chosen.teacher)
            more = (chosen.steps, chosen.batch_size)
            distilled = common.in_fresh_process(chosen.threads, measure_distill, text, scratch, chosen.teacher, *more)
            costs.append((prepared, distilled))
    print(shown(costs))
    facts = {"benchmark": "corpus_scaling", "threads": chosen.threads, "steps": chosen.steps, "batch_size": more[1]}
    common.append(
        chosen.output, ({**facts, "prepare": asdict(first), "distill": asdict(second)} for first, second in costs)
    )


if __name__ == "__main__":
    main()
