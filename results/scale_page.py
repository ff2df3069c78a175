"""Sections of docs/explanation/scale.md: what a corpus of any size would take, by measured rates."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from training_speed import distillation_lines

from tinydistilbert.progress import size_in_words
from tinydistilbert.recipe.schema import Distill

ROOT = Path(__file__).resolve().parents[1]
SCALING = ROOT / "benchmarks" / "results" / "scaling.jsonl"
ON_GPU = ROOT / "results" / "gpu" / "measured.jsonl"
WORDS = 3_300_000_000
"""Of Wikipedia and BookCorpus, on which BERT (Devlin et al. 2019) and DistilBERT were trained."""
BLOCK, BYTES_OF_TOKEN = 128, 2
GPUS, CPU_NODES, CORES_OF_NODE = 8, 32, 64


def _lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@dataclass(frozen=True)
class Rates:
    """What was measured last."""

    tokens_per_word: float
    bytes_per_word: float
    prepared: float
    """Tokens a processor second."""
    gpu: dict[str, float]
    """Useful tokens/s by objective, BERT-base to six layers, of one GPU."""
    device: str
    cpu: dict[str, float]
    """The same on `cores`."""
    cores: int

    @classmethod
    def read(cls) -> "Rates":
        """From the files of the benchmarks."""
        scaling = _lines(SCALING)
        text = [row for row in scaling if row["table"] == "text"][-1]
        largest = max(
            (row for row in scaling if row["table"] == "corpus" and row["way"] == "prepare" and row["jobs"] == 1),
            key=lambda row: (row["megabytes"], row["date"]),
        )
        on_gpu = {row["what"]: row for row in _lines(ON_GPU) if row["measure"] == "distill"}
        masked, all_of_them = (on_gpu[f"bert-base, 256 blocks, KL {which}"] for which in ("masked", "all"))
        on_cpu = {which: distillation_lines()["bert-base", "fp32", f"ours_{which}"] for which in ("masked", "all")}
        return cls(
            text["tokens"] / text["words"], text["bytes"] / text["words"],
            largest["tokens"] / largest["processor_seconds"],
            {"masked": masked["value"], "all": all_of_them["value"]}, masked["device"],
            {which: line["tokens_per_second"] for which, line in on_cpu.items()}, on_cpu["masked"]["threads"],
        )  # fmt: skip


def _time(seconds: float) -> str:
    """A time in the unit in which it has two or three digits."""
    for unit, size in (("years", 365 * 86_400), ("days", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}" if seconds >= 20 * size else f"{seconds / size:.1f} {unit}"
    return f"{seconds:.0f} s"


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> list[str]:
    cells = list(head)
    marks = "| :-- |" + " --: |" * (len(cells) - 1)
    return [f"| {' | '.join(cells)} |", marks, *(f"| {' | '.join(row)} |" for row in rows)]


def time_section() -> str:
    """Time and disk of the paper's corpus and of larger ones."""
    rates, epochs = Rates.read(), float(Distill().epochs)
    cluster = CPU_NODES * CORES_OF_NODE / rates.cores

    def row(times: int) -> list[str]:
        words = WORDS * times
        tokens = words * rates.tokens_per_word
        blocks = tokens / (BLOCK - 2) * BLOCK * BYTES_OF_TOKEN
        cells = [
            f"{times:,} × 3.3 B words", f"{tokens / 1e9:,.1f} B", size_in_words(words * rates.bytes_per_word),
            size_in_words(blocks), _time(tokens / rates.prepared), _time(tokens / rates.prepared / CORES_OF_NODE),
        ]  # fmt: skip
        for which in ("masked", "all"):
            seen = tokens * epochs
            one, cpus = seen / rates.gpu[which], seen / (rates.cpu[which] * cluster)
            cells += [_time(one), _time(one / GPUS), _time(cpus)]
        return cells

    head = ["corpus", "tokens", "text", "blocks", "prepare, 1 core", f"{CORES_OF_NODE} cores"]
    for which in ("masked positions", "all positions"):
        head += [f"KL at {which}: one GPU", f"{GPUS} GPUs", f"{CPU_NODES} CPU nodes"]
    return "\n".join(
        [
            f"Rates: {rates.tokens_per_word:.2f} tokens and {rates.bytes_per_word:.1f} bytes a word; "
            f"{rates.prepared:,.0f} tokens a processor second in `prepare`; BERT-base to six layers "
            f"{rates.gpu['masked']:,.0f} useful tokens/s (KL at all positions: {rates.gpu['all']:,.0f}) on one "
            f"{rates.device}, {rates.cpu['masked']:,.0f} ({rates.cpu['all']:,.0f}) in fp32 on {rates.cores} cores of a "
            f"Xeon. {epochs:g} epochs, blocks of {BLOCK} tokens of {BYTES_OF_TOKEN} bytes. More devices than one are "
            f"taken as that many times as fast, which was not measured and is a bound; a CPU node has "
            f"{CORES_OF_NODE} cores.",
            "", *_table(head, map(row, (1, 10, 100, 1000))), "",
            "What it costs is the hours times the devices times their price.", "",
        ]
    )  # fmt: skip


def _ranks(rows: list[dict[str, Any]]) -> list[str]:
    """What it costs that processes share a step."""

    def cells(row: dict[str, Any]) -> list[str]:
        first = [row["precision"], f"{row['ranks']}", f"{row['tokens'] / row['seconds']:,.0f}"]
        first.append(f"{row['processor_seconds']:.2f}")
        if row["ranks"] == 1:
            return [*first, *[""] * 5]
        of_processor = row["sum_processor_seconds"] / row["processor_seconds"]
        of_clock = row["sum_alone_seconds"] / row["seconds"]
        sizes = (f"{row[name] / 1e6:.1f}" for name in ("message_bytes", "embedding_bytes", "sent_bytes"))
        return [*first, f"{of_processor:.1%}", f"{of_clock:.1%}", *sizes]

    head = (
        "a step of distillation", "processes", "tokens/s on the clock", "processor seconds, of all",
        "the sum's share of them", "share of the clock", "MB summed", "of them the word embedding", "MB sent by each",
    )  # fmt: skip
    about = (
        f"Processes of one thread each share a step of {rows[-1]['tokens']:,.0f} tokens of the offline pair (three "
        "layers of six of a MiniLM), over gloo on the loopback interface. The share of the clock is that of a sum by "
        "itself."
    )
    return [about, "", *_table(head, map(cells, rows))]


def _studies(rows: Sequence[dict[str, Any]]) -> list[str]:
    if not rows:
        return []
    machine, trainings = rows[-1]["environment"], rows[-1]["trainings"]
    about = (
        f"A study of {trainings} fine-tunings (the teacher of six layers, 1,000 short rows each), on {machine['cores']}"
        f" cores of an {machine['cpu']} that did nothing else. A job starts anew, with all imports."
    )
    head = ("by", "seconds", "processor seconds", "trainings an hour")
    shown = [
        [f"`{way}`" if (way := row["way"]).startswith("--") else way, f"{row['seconds']:.0f}",
         f"{row['processor_seconds']:.0f}", f"{trainings * 3600 / row['seconds']:.0f}"]
        for row in rows
    ]  # fmt: skip
    return [about, "", *_table(head, shown), ""]


def measured_section() -> str:
    """The tables of benchmarks/scaling.py."""
    last: dict[tuple[Any, ...], dict[str, Any]] = {}
    for row in _lines(SCALING):
        last[(row["table"], *map(row.get, ("way", "megabytes", "jobs", "rows", "to", "ranks", "precision")))] = row
    of_text = [row for row in last.values() if row["table"] == "corpus"]
    of_rows = [row for row in last.values() if row["table"] == "start"]

    def cost(row: dict[str, Any]) -> list[str]:
        rate = row["tokens"] / row["processor_seconds"]
        return [f"{row['processor_seconds']:.1f}", f"{rate:,.0f}", f"{row['peak_mib']:,.0f}"]

    cells = ("processor seconds", "tokens a processor second", "peak MiB")
    of_csv = ("`finetune` of the rows of a CSV", "to", "processor seconds", "peak MiB")

    def start(row: dict[str, Any]) -> list[str]:
        to = {"dry run": "the end of a dry run", "first step": "the first step"}[row["to"]]
        return [f"{row['rows']:,}", to, f"{row['processor_seconds']:.1f}", f"{row['peak_mib']:,.0f}"]

    dates = sorted({row["date"][:10] for row in of_text})
    return "\n".join(
        [
            f"`benchmarks/scaling.py`, {dates[-1]}, {of_text[0]['environment']['cpu']}. Memory is private to the "
            "processes and beyond what they had before (Python, torch, a teacher). The machine did other work, so "
            "there are no seconds of a clock but for the processes that share a training.",
            "",
            *_table(
                ("text", "MB", "processes", *cells),
                ([f"`{r['way']}`", f"{r['megabytes']}", f"{r['jobs']}", *cost(r)] for r in of_text),
            ),
            "",
            "Rows: the whole process with Python, torch and the model, less mapped files, which can be taken back.",
            "",
            *_table(of_csv, map(start, of_rows)),
            "",
            *_studies([row for row in last.values() if row["table"] == "studies"]),
            *_ranks([row for row in last.values() if row["table"] == "ranks"]),
            "",
        ]
    )
