"""The cost of size: tables for corpus, rows, texts, studies and ranks, in processor seconds and private memory.

Processor seconds are those of a process and its child processes, which hardly depend on other work on the machine;
wall-clock seconds are shown beside them. Memory is the peak of what belongs only to these processes, summed. `prepare`
is compared with `map` of the library `datasets`, with the same tokenizer and number of processes.
"""

import argparse
import contextlib
import csv
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import common
import psutil
import rank_scaling
import study_scaling
import text_scaling
from corpus_scaling import write_corpus

from tinydistilbert.benchmark.turns import table
from tinydistilbert.data.corpus import load_blocks, prepare
from tinydistilbert.data.sources import open_source
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.run_folder import LOG

MEGABYTES, JOBS, ROWS = (5, 20), (1, 2), (200_000, 1_000_000)
UNLABELLED, COPIED = (200_000,), (5_000,)
SCORED_OF = 20
"""One scored row for so many that are trained on."""
SECONDS_BETWEEN_LOOKS = 0.2


@dataclass(frozen=True)
class Cost:
    """Of one job."""

    tokens: int
    processor_seconds: float
    seconds: float
    peak_mib: float
    """Private memory, beyond what the process had before it began."""


class Peak:
    """Watches the private memory of this process and those that it starts."""

    def __init__(self) -> None:
        self.bytes = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def _watch(self) -> None:
        while not self._stop.is_set():
            self.update()
            self._stop.wait(SECONDS_BETWEEN_LOOKS)

    def update(self) -> None:
        """Take the memory of now into account."""
        this, total = psutil.Process(), 0
        for process in (this, *this.children(recursive=True)):
            try:
                total += process.memory_full_info().uss
            except psutil.Error:  # it has just ended
                continue
        self.bytes = max(self.bytes, total)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stop.set()
        self._thread.join()
        self.update()


def _processor_seconds() -> float:
    both = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(used.ru_utime + used.ru_stime for used in both)


@contextmanager
def _measured() -> Iterator[Callable[[int], Cost]]:
    """Gives what makes the cost of the body, once it is over, from its tokens."""
    before = psutil.Process().memory_full_info().uss
    began, clock = _processor_seconds(), time.perf_counter()
    ended: list[float] = []

    def cost(tokens: int) -> Cost:
        return Cost(tokens, ended[0] - began, ended[1] - clock, max(peak.bytes - before, 0) / common.MIB)

    with Peak() as peak:
        yield cost
        ended += [_processor_seconds(), time.perf_counter()]


def measure_prepare(text: Path, scratch: Path, teacher: Path | None, jobs: int) -> Cost:
    """Text into blocks by `prepare`."""
    tokenizer = common.open_teacher(teacher).tokenizer
    with _measured() as cost:
        folder = prepare(Corpus(source=str(text)), tokenizer, scratch, None, jobs=jobs)
    return cost(load_blocks(folder).manifest["splits"]["train"]["tokens"])


def measure_map(text: Path, scratch: Path, teacher: Path | None, jobs: int) -> Cost:
    """The same text into tokens by `datasets.map`, document by document."""
    import datasets

    tokenizer = common.open_teacher(teacher).tokenizer

    def tokens_of(rows: dict[str, list[str]]) -> dict[str, Any]:
        encoded = tokenizer(rows["text"], add_special_tokens=False, return_attention_mask=False, verbose=False)
        return {"input_ids": encoded["input_ids"]}

    with _measured() as cost:
        files, cache = str(text / "train.txt"), str(scratch)
        loaded = datasets.load_dataset("text", data_files=files, sample_by="paragraph", split="train", cache_dir=cache)
        made = loaded.map(tokens_of, batched=True, num_proc=jobs, remove_columns=["text"])
    return cost(sum(len(row) for part in made.with_format("arrow").iter(1000) for row in part["input_ids"]))


@dataclass(frozen=True)
class Start:
    """Of a command, from its beginning to its end or to the first step that it trains."""

    processor_seconds: float
    seconds: float
    peak_mib: float
    """Memory of the whole process, less mapped files, which the system can take back."""


def measure_start(scratch: Path, rows: int, model: str, more: Sequence[str]) -> Start:
    """`finetune` of a task of one's own, until the first step is in its log."""
    output, began = scratch / f"run-{rows}", time.perf_counter()
    command = [sys.executable, "-m", "tinydistilbert", "finetune", "--model", model, "--data", f"{scratch}/{rows}.csv"]
    command += ["--validation", f"{scratch}/{rows}-scored.csv", "--output", str(output), "--threads", "1", "--seeds"]
    process = psutil.Popen([*command, "0", "--quiet", *more], stdout=subprocess.DEVNULL)
    used, peak = 0.0, 0.0
    while process.poll() is None:
        with contextlib.suppress(psutil.Error):
            times = process.cpu_times()
            used, peak = times.user + times.system, max(peak, common.anonymous_mib(process.pid) or 0.0)
        if any("learning_rate" in log.read_text() for log in output.rglob(LOG)):
            break
        time.sleep(SECONDS_BETWEEN_LOOKS)
    seconds = time.perf_counter() - began
    if process.poll():
        raise SystemExit(f"finetune ended with {process.returncode}")
    if process.poll() is None:
        process.terminate()
        process.wait()
    return Start(used, seconds, peak)


def _write_rows(file: Path, words: list[str], first: int, count: int) -> None:
    with file.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for row in range(first, first + count):
            begin = row * 7 % (len(words) - 20)
            writer.writerow([f"{' '.join(words[begin : begin + 4 + row % 12])} {row}", ("good", "bad")[row % 2]])


def _shown(what: str, rows: list[tuple[tuple[str, ...], Cost]]) -> str:
    head = (*what.split("|"), "tokens", "processor seconds", "tokens a processor second", "seconds", "peak MiB")
    return table(
        head,
        [
            [*names, f"{c.tokens:,}", f"{c.processor_seconds:.1f}", f"{c.tokens / c.processor_seconds:,.0f}",
             f"{c.seconds:.1f}", f"{c.peak_mib:,.0f}"]
            for names, c in rows
        ],
    )  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description="Processor seconds and memory, by size of corpus, processes and rows.")
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with wikitext2/")
    parser.add_argument("--teacher", type=Path, help="masked-LM teacher; by default the offline one")
    parser.add_argument("--megabytes", type=int, nargs="*", default=list(MEGABYTES), help="of text")
    parser.add_argument("--jobs", type=int, nargs="+", default=list(JOBS), help="processes")
    parser.add_argument("--rows", type=int, nargs="*", default=list(ROWS), help="of a CSV")
    parser.add_argument(
        "--unlabelled", type=int, nargs="*", default=list(UNLABELLED), help="texts in each of two files"
    )
    parser.add_argument("--copied", type=int, nargs="*", default=list(COPIED), help="examples of which copies are made")
    parser.add_argument(
        "--studies", type=int, nargs="*", default=list(JOBS), help="trainings at a time, of a study of several"
    )
    parser.add_argument("--ranks", type=int, nargs="*", default=[1, 2], help="processes that share a training")
    parser.add_argument("--batch-size", type=int, default=16, help="blocks in a micro-batch of such a training")
    parser.add_argument("--model", default="offline", help="that is fine-tuned on them")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "scaling.jsonl")
    return parser.parse_args()


def main() -> None:
    """Measure, print, append a line for each row."""
    chosen = parse()
    corpus, data = common.open_corpus(chosen.data)
    source = open_source(corpus, data)
    documents, held_out = list(source.train()), list(source.validation())
    words = sum(len(document.split()) for document in held_out)
    ids = common.open_teacher(chosen.teacher).tokenizer(held_out, add_special_tokens=False, verbose=False)["input_ids"]
    tokens, size = sum(map(len, ids)), sum(len(document.encode()) + 2 for document in held_out)
    facts = {"benchmark": "scaling", "table": "text", "words": words, "tokens": tokens, "bytes": size}
    common.append(chosen.output, [facts])
    print(f"text: {tokens / words:.3f} tokens and {size / words:.2f} bytes a word\n")
    of_text: list[tuple[tuple[str, ...], Cost]] = []
    of_rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as temporary:
        for megabytes in chosen.megabytes:
            text = Path(temporary) / f"text-{megabytes}"
            write_corpus(text, documents, held_out, megabytes * 1_000_000)
            for jobs in chosen.jobs:
                for way, measure in (("prepare", measure_prepare), ("datasets.map", measure_map)):
                    scratch = Path(temporary) / f"{way}-{megabytes}-{jobs}"
                    cost = common.in_fresh_process(1, measure, text, scratch, chosen.teacher, jobs)
                    of_text.append(((way, str(megabytes), str(jobs)), cost))
                    facts = {
                        "benchmark": "scaling",
                        "table": "corpus",
                        "way": way,
                        "megabytes": megabytes,
                        "jobs": jobs,
                    }
                    common.append(chosen.output, [facts | asdict(cost)])
        plain = " ".join(held_out).replace('"', "").split()
        for count in chosen.rows:
            _write_rows(Path(temporary) / f"{count}.csv", plain, 0, count)
            _write_rows(Path(temporary) / f"{count}-scored.csv", plain, count, count // SCORED_OF)
            for what, more in (("dry run", ["--dry-run"]), ("first step", [])):
                start = measure_start(Path(temporary), count, chosen.model, more)
                of_rows.append([f"{count:,}", what, *(f"{value:,.1f}" for value in asdict(start).values())])
                facts = {"benchmark": "scaling", "table": "start", "rows": count, "to": what}
                common.append(chosen.output, [facts | asdict(start)])
        of_texts = text_scaling.measure(plain, chosen.unlabelled, chosen.copied, chosen.teacher)
        for what, texts in of_texts.items():
            facts = {"benchmark": "scaling", "table": "texts", "what": what}
            common.append(chosen.output, [facts | asdict(texts)])
        of_studies = study_scaling.measure_studies(Path(temporary), plain, chosen.model, chosen.studies)
        for way, study in of_studies.items():
            facts = {"benchmark": "scaling", "table": "studies", "way": way, "trainings": study_scaling.TRAININGS}
            common.append(chosen.output, [facts | asdict(study)])
        of_ranks: list[list[str]] = []
        if chosen.ranks:
            text, scratch = Path(temporary) / "text-of-ranks", Path(temporary) / "of-ranks"
            write_corpus(text, documents, held_out, rank_scaling.CHARACTERS)
            for precision in rank_scaling.precisions():
                for world in chosen.ranks:
                    rank_cost = rank_scaling.measure_ranks(
                        world, text, scratch, chosen.teacher, chosen.batch_size, precision
                    )
                    of_ranks.append([precision, str(world), *rank_scaling.cells(rank_cost, world)])
                    facts = {"benchmark": "scaling", "table": "ranks", "ranks": world, "precision": precision}
                    common.append(chosen.output, [{**facts, "batch_size": chosen.batch_size, **asdict(rank_cost)}])
    if of_text:
        print(_shown("way|megabytes|processes", of_text) + "\n")
    if of_rows:
        print(table(("rows", "to", "processor seconds", "seconds", "peak MiB"), of_rows) + "\n")
    if of_texts:
        print(table(text_scaling.HEAD, [text_scaling.cells(*row) for row in of_texts.items()]) + "\n")
    if of_studies:
        print(table(study_scaling.HEAD, [study_scaling.cells(*row) for row in of_studies.items()]) + "\n")
    if of_ranks:
        print(table(("precision", "processes", *rank_scaling.HEAD), of_ranks))


if __name__ == "__main__":
    main()
