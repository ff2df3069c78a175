"""The cost of int8 in score and its gain in size and latency, by how it is done.

The figures of docs/decisions/0017. Fine-tuned models of a finished run (`make real RECIPE=small-glue`) are exported and
quantized in each way. Scores are on the whole validation split (SQuAD: some questions), one input at a time, because a
dynamic range depends on the rest of the batch. With `--avx2`, the program runs again with the processor's VNNI and
AVX-512 hidden, so that ONNX Runtime uses the kernels whose sums can be clipped.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import numpy as np
import torch
from numpy.typing import NDArray

from tinydistilbert.benchmark.turns import table
from tinydistilbert.evaluation import metrics, resampling
from tinydistilbert.evaluation.scoring import headline_score, read_predictions
from tinydistilbert.export.quantize import quantize, sensitive_layers
from tinydistilbert.export.quiet import quietly
from tinydistilbert.export.to_onnx import export
from tinydistilbert.models.loading import load_tokenizer
from tinydistilbert.models.runtimes import INT8_FILE, MODEL_FILE, ModelInputs, OnnxRuntime, model_bytes
from tinydistilbert.recipe.schema import Corpus
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import HELD_OUT, TASKS, load_examples
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features, collate, encode
from tinydistilbert.tasks.inference import predict

FLOAT, TOOL, SENSITIVE = "fp32", "ONNX Runtime's tool", "dynamic, columns, 7 bits, sensitive layers float"
MAX_LOSS = 0.01
"""Of the headline metric on the train examples that are held out, before layers stay in float."""
GRID = {
    f"{method}, {scales}, {bits} bits": {
        "method": method,
        "per_channel": scales == "columns",
        "reduce_range": bits == 7,
    }
    for method in ("dynamic", "static")
    for scales in ("columns", "one scale")
    for bits in (7, 8)
}
WAYS: dict[str, dict[str, Any] | None] = {
    FLOAT: None,
    **GRID,
    "dynamic, columns, 7 bits, float tables": {"embeddings": False},
    SENSITIVE: None,
    TOOL: None,
}
"""`columns`: a scale for each column of a matrix. 7 bits: the reduced range."""
AVX2 = [way for way in WAYS if way == FLOAT or way in GRID]
PRELOADED = "TINYDISTILBERT_AVX2_ONLY"
HELD_OUT_EXAMPLES = 1000
"""Train examples that say which layers are sensitive."""
LATENCY_TASK, LATENCY_INPUTS, ROUNDS = "stsb", 40, 7


@dataclass(frozen=True)
class Subject:
    """A fine-tuned model and what it is scored on."""

    task: str
    row: str
    folder: Path
    examples: Examples
    features: Features
    held_out: Examples
    held_out_features: Features
    calibration: list[ModelInputs]
    pad: int

    def logits(self, folder: Path, features: Features | None = None) -> Any:
        """Of every input of validation, or of `features`, by itself."""
        runtime = OnnxRuntime(folder, threads=1)
        return predict(runtime, features or self.features, pad_token_id=self.pad, token_budget=1)

    def held_out_score(self, folder: Path) -> float:
        """The headline metric on train examples."""
        return headline_score(self.held_out, self.held_out_features, self.logits(folder, self.held_out_features))


def tool(exported: Path, output: Path) -> None:
    """The same settings by `onnxruntime.quantization`, with the default type that its operators' outputs need."""
    import onnx
    from onnxruntime.quantization import quantize_dynamic

    (output / INT8_FILE).parent.mkdir(parents=True)
    with quietly():  # it asks for a preprocessing that changes nothing here
        quantize_dynamic(
            exported / MODEL_FILE, output / INT8_FILE, per_channel=True, reduce_range=True,
            extra_options={"DefaultTensorType": onnx.TensorProto.FLOAT},
        )  # fmt: skip
    atomic.write_json(output / "config.json", {"tinydistilbert": {"precision": "int8"}})


def made(way: str, subject: Subject, exported: Path, output: Path) -> Path:
    """The folder with the model in one way."""
    if way == FLOAT:
        return exported
    if way == TOOL:
        tool(exported, output)
    elif way == SENSITIVE:
        kept = sensitive_layers(exported, score=subject.held_out_score, max_loss=MAX_LOSS)
        print(f"{subject.task} {subject.row}: in float: {', '.join(kept) or 'nothing'}", flush=True)
        quantize(exported, output, keep_float=kept)
    else:
        quantize(exported, output, calibration=subject.calibration, **(WAYS[way] or {}))
    return output


def subjects(chosen: argparse.Namespace) -> Iterator[Subject]:
    """The models that there are, each with the validation split and calibration inputs held out of train."""
    for task, row in ((task, row) for task in chosen.tasks for row in chosen.rows):
        folder = chosen.models / task / row / f"seed-{chosen.seed}" / "model"
        if not folder.is_dir():
            print(f"no {folder}: left out")
            continue
        tokenizer, row = load_tokenizer(folder), TASKS[task]
        load = partial(load_examples, row, data=str(chosen.data), corpus=Corpus(), seed=0)
        limit = chosen.squad_questions if row.kind == "span" else chosen.examples
        examples = load("validation", limit=limit)
        features = encode(examples, tokenizer, row.max_length)
        pad = int(tokenizer.pad_token_id)
        calibrating = encode(load(HELD_OUT, limit=0, held_out=0), tokenizer, row.max_length)
        calibration = single(calibrating, range(chosen.calibration), pad)
        held_out = load(HELD_OUT, limit=0, held_out=HELD_OUT_EXAMPLES)
        scored = encode(held_out, tokenizer, row.max_length)
        yield Subject(task, row, folder, examples, features, held_out, scored, calibration, pad)


def single(features: Features, indices: Sequence[int], pad: int) -> list[ModelInputs]:
    """Some inputs, each a batch of its own."""
    batches = (collate(features, [index], pad, token_types=True) for index in indices)
    names = ("input_ids", "attention_mask", "token_type_ids")
    return [{name: batch[name].numpy() for name in names} for batch in batches]


def error(logits: Any, reference: Any) -> float:
    """Root mean square of the difference of logits, as a share of the standard deviation of the reference's."""
    values, expected = (np.concatenate([np.ravel(row) for row in rows]) for rows in (logits, reference))
    return float(np.sqrt(np.mean((values - expected) ** 2)) / expected.std())


def difference(subject: Subject, logits: Any, reference: Any) -> tuple[float, float] | None:
    """95 % interval of what the score gained over the reference, in points, over resamples of the examples."""
    examples = subject.examples
    if examples.task.kind == "span":
        return None
    quantized, exact = (
        read_predictions(examples, subject.features, outputs).values[None] for outputs in (logits, reference)
    )
    labels = np.array(examples.columns["label"], dtype=np.float64)
    metric = metrics.METRICS[examples.task.headline]
    low, high = resampling.paired_bootstrap(metric, labels, quantized, exact, seed=0, resamples=1000).interval
    return 100 * low, 100 * high


def measure(subject: Subject, ways: Sequence[str], work: Path) -> list[dict[str, Any]]:
    """Score, error and size of one model in each way; latency where the task is the one for it."""
    exported = work / f"{subject.task}-{subject.row}"
    if not exported.exists():
        export(subject.folder, exported)
    rows, folders, reference = [], {}, subject.logits(exported)
    with tempfile.TemporaryDirectory() as temporary:
        for number, way in enumerate(ways):
            begin = time.perf_counter()
            folders[way] = made(way, subject, exported, Path(temporary) / str(number))
            seconds = time.perf_counter() - begin
            logits = reference if way == FLOAT else subject.logits(folders[way])
            rows.append({
                "benchmark": "quantization", "kernels": "avx2" if PRELOADED in os.environ else "all",
                "task": subject.task, "model": subject.row, "way": way,
                "score": 100 * headline_score(subject.examples, subject.features, logits),
                "interval": difference(subject, logits, reference), "error": error(logits, reference),
                "examples": len(subject.examples),
                "megabytes": model_bytes(folders[way]) / 1e6, "seconds_to_make": round(seconds, 2),
            })  # fmt: skip
        if subject.task == LATENCY_TASK and PRELOADED not in os.environ:
            times = latencies({way: OnnxRuntime(folder, threads=1) for way, folder in folders.items()}, subject)
            for row in rows:
                row |= times[row["way"]]
    return rows


def latencies(runtimes: dict[str, Callable[[ModelInputs], Any]], subject: Subject) -> dict[str, dict[str, float]]:
    """Milliseconds of one input on one core at its true length; each round goes through every way, the first in turn.

    `ms` is the mean over the inputs of each one's median over the rounds, `spread` the slowest round over the fastest.
    """
    chosen = np.random.default_rng(0).choice(len(subject.features), LATENCY_INPUTS, replace=False)
    inputs = single(subject.features, chosen.tolist(), subject.pad)
    ways = [*runtimes]
    taken: dict[str, NDArray[np.float64]] = {way: np.zeros((ROUNDS, len(inputs))) for way in ways}
    for number in range(ROUNDS):
        for way in ways[number % len(ways) :] + ways[: number % len(ways)]:
            runtimes[way](inputs[0])  # the way before it has filled the caches
            for place, one in enumerate(inputs):
                begin = time.perf_counter()
                runtimes[way](one)
                taken[way][number, place] = 1000 * (time.perf_counter() - begin)
    rounds = {way: times.mean(1) for way, times in taken.items()}
    return {
        way: {"ms": float(np.median(times, 0).mean()), "spread": float(rounds[way].max() / rounds[way].min())}
        for way, times in taken.items()
    }


def cell(row: dict[str, Any]) -> str:
    """Score and error; a star where the score differs beyond chance."""
    low, high = row["interval"] or (0.0, 0.0)
    return f"{row['score']:.2f}{'*' if low > 0 or high < 0 else ''} ({row['error']:.3f})"


def shown(rows: Sequence[dict[str, Any]]) -> str:
    """A line for each way: score of every model, its error in brackets; size and latency where they were measured."""
    models = [*dict.fromkeys((row["task"], row["model"]) for row in rows)]
    lines = []
    for way in dict.fromkeys(row["way"] for row in rows):
        of_way = {(row["task"], row["model"]): row for row in rows if row["way"] == way}
        scores = [cell(of_way[m]) if m in of_way else "–" for m in models]
        sizes = [f"{row['megabytes']:.1f}" for row in of_way.values()][:1]
        times = [f"{row['ms']:.2f}" for row in of_way.values() if "ms" in row]
        lines.append((way, *scores, *sizes, " / ".join(times) or "–"))
    return table(("way", *(f"{task} {model}" for task, model in models), "MB, first", "ms"), lines)


def without_vnni() -> int:
    """This program once more, with a processor that says it has AVX2 at most; its exit code."""
    source = Path(__file__).with_name("other_cpu.c")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "other_cpu.so"
        subprocess.run(["cc", "-O2", "-shared", "-fPIC", "-o", str(library), str(source)], check=True)
        environment = {**os.environ, "LD_PRELOAD": str(library), "OTHER_CPU": "avx2", PRELOADED: "1"}
        return subprocess.run([sys.executable, *sys.argv], env=environment, check=False).returncode


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=common.DEFAULT_DATA, help="folder with glue/ and squad/")
    parser.add_argument(
        "--models", type=Path, default=common.ROOT / "runs" / "small-glue" / "tasks", help="<task>/<row>/seed-N/model"
    )
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=["sst2", "cola", "stsb", "mrpc"])
    parser.add_argument("--rows", nargs="+", default=["teacher", "student"])
    parser.add_argument("--ways", nargs="+", choices=list(WAYS), default=list(WAYS))
    parser.add_argument("--seed", type=int, default=0, help="of the fine-tuning")
    parser.add_argument("--examples", type=int, default=0, help="of validation; 0 = all")
    parser.add_argument("--squad-questions", type=int, default=500)
    parser.add_argument("--calibration", type=int, default=128, help="inputs held out of train, for static ranges")
    parser.add_argument(
        "--avx2", action="store_true", help="hide VNNI and AVX-512 (Linux on x86-64, with a C compiler)"
    )
    parser.add_argument("--work", type=Path, help="keeps the exported models between runs")
    parser.add_argument("--output", type=Path, default=common.RESULTS / "quantization.jsonl")
    return parser.parse_args()


def main() -> None:
    """Measure, print, append."""
    chosen = parse()
    if chosen.avx2 and PRELOADED not in os.environ:
        raise SystemExit(without_vnni())
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as temporary:
        work = chosen.work or Path(temporary)
        ways = [way for way in chosen.ways if way in AVX2] if chosen.avx2 else chosen.ways
        for subject in subjects(chosen):
            measured = measure(subject, ways, work)
            common.append(chosen.output, measured)
            rows += measured
            print(shown(measured), flush=True)
    print(shown(rows))


if __name__ == "__main__":
    main()
