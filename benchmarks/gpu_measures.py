"""The measurements of gpu_day.py: rate of matrix products, steps of distilling, latency and throughput of predictions.

Every number is written as soon as it is available. If one cannot be measured, the log gives the reason, and the next
one follows; what an earlier call has measured is not measured again.
"""

import argparse
import gc
import json
import math
import statistics
import tempfile
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import common
import torch
from torch import Tensor
from transformers import (
    BertConfig,
    BertForMaskedLM,
    BertForSequenceClassification,
    DistilBertConfig,
    DistilBertForSequenceClassification,
    PreTrainedModel,
)

from tinydistilbert.benchmark import gpu
from tinydistilbert.benchmark.timing import wall_clock
from tinydistilbert.benchmark.turns import distillation_operations
from tinydistilbert.data.corpus import TokenBlocks, load_blocks, prepare
from tinydistilbert.data.masked_batches import MaskedBatches, useful_tokens
from tinydistilbert.distillation.distill import compile_encoders
from tinydistilbert.distillation.objective import PretrainingLoss
from tinydistilbert.distillation.pretraining import PretrainingSetup, pretrain
from tinydistilbert.models.size import Size
from tinydistilbert.models.student import cut_student
from tinydistilbert.models.torch_runtime import uses_token_types
from tinydistilbert.recipe import schema
from tinydistilbert.storage import cache
from tinydistilbert.training.precision import chosen_precision

BLOCK, LENGTHS = 128, (32, 128)
DOCUMENTS = {"full": 120, "quick": 30, "toy": 2}
MATRICES = {
    "full": ((4096,) * 3, (8192,) * 3, (16384, 4096, 4096), (32768, 768, 768), (32768, 768, 3072), (32768, 384, 1536)),
    "quick": ((8192,) * 3, (32768, 768, 3072)),
    "toy": ((256,) * 3,),
}
"""Rows, inner, columns."""
MASKED, EVERYWHERE = schema.Objective(kl_positions="masked"), schema.Objective(kl_positions="all")
STEPS = {
    "full": (
        ("bert-base", 256, MASKED, False), ("bert-base", 64, MASKED, False), ("bert-base", 32, MASKED, False),
        ("bert-base", 512, MASKED, False), ("bert-base", 256, EVERYWHERE, False),
        ("offline", 64, MASKED, False), ("offline", 256, MASKED, False), ("offline", 1024, MASKED, False),
        ("offline", 256, EVERYWHERE, False), ("offline", 64, MASKED, True), ("bert-base", 256, MASKED, True),
    ),
    "quick": (("bert-base", 256, MASKED, False), ("offline", 64, MASKED, False)),
    "toy": (("bert-base", 2, MASKED, False), ("offline", 2, EVERYWHERE, False)),
}  # fmt: skip
"""Pair, blocks in a step, objective, whether the encoders are compiled; the most wanted first."""
SECONDS = {"full": 3.0, "quick": 2.0, "toy": 0.1}
"""For which each kind of step is measured."""
WARM_UP_STEPS, STEPS_OF_SCHEDULE = 6, 10**6
CALLS = {"full": 200, "quick": 50, "toy": 3}
COMPILE_SECONDS = 50.0
"""That must be left when something is compiled."""
TINY = {
    "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64,
}  # fmt: skip


@dataclass
class Measures:
    """Where the numbers go, and until when there is time."""

    path: Path
    device: torch.device
    size: str
    end: float
    failed: int = 0

    @property
    def done(self) -> dict[tuple[str, str], float]:
        """What was measured at this size so far."""
        if not self.path.exists():
            return {}
        rows = [json.loads(line) for line in self.path.read_text(encoding="utf-8").splitlines() if line.strip()]
        return {(row["measure"], row["what"]): row["value"] for row in rows if row["size"] == self.size}

    def add(self, measure: str, what: str, value: float, unit: str, **facts: Any) -> None:
        """Write a number."""
        name = torch.cuda.get_device_name() if self.device.type == "cuda" else "cpu"
        row = {"measure": measure, "what": what, "value": float(f"{value:.6g}"), "unit": unit, "size": self.size}
        common.append(self.path, [{**row, "device": name, **facts}])
        print(f"{measure} {what}: {value:.5g} {unit} {facts.get('note', '')}", flush=True)

    def attempt(self, measure: str, what: str, work: Callable[[], None], *, needs: float = 0.0) -> None:
        """Do `work`, which measures `what`, unless it is done or there is no time; where it fails, go on."""
        if (measure, what) in self.done:
            print(f"measured before: {measure} {what}", flush=True)
        elif time.monotonic() + needs > self.end:
            print(f"left out, no time: {measure} {what}", flush=True)
        else:
            try:
                work()
            except Exception:
                print(f"FAILED: {measure} {what}\n{traceback.format_exc()}", flush=True)
                self.failed += 1
                if self.device.type == "cuda":
                    torch.cuda.empty_cache()

    def wait(self) -> None:
        """Until the device has done everything."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def matrices(measures: Measures) -> None:
    """Rate of matrix products in each precision; the best one is what utilisation is a share of."""
    for dtype in (torch.bfloat16, torch.float32):
        name = str(dtype).removeprefix("torch.")
        for shape in MATRICES[measures.size]:
            what = f"{name} {'x'.join(map(str, shape))}"
            measures.attempt("matrix rate", what, partial(_matrix, measures, what, shape, dtype))


def _matrix(measures: Measures, what: str, shape: tuple[int, int, int], dtype: torch.dtype) -> None:
    """The median over ten times five products of random numbers."""
    rows, inner, columns = shape
    left = torch.randn(rows, inner, device=measures.device).to(dtype)
    right = torch.randn(inner, columns, device=measures.device).to(dtype)
    seconds = []
    for _ in range(13):
        measures.wait()
        begun = time.perf_counter()
        for _ in range(5):
            left @ right
        measures.wait()
        seconds.append((time.perf_counter() - begun) / 5)
    measures.add("matrix rate", what, 2 * math.prod(shape) / statistics.median(seconds[3:]) / 1e12, "TFLOP/s")


def best_rate(measures: Measures, name: str) -> float:
    """The best rate of products in a precision that was measured, in operations a second; 0 without any."""
    rates = [value for (measure, what), value in measures.done.items() if measure == "matrix rate" and name in what]
    return 1e12 * max(rates, default=0.0)


class Finished(Exception):
    """Enough steps were measured."""


class Clocked:
    """The micro-batches of a training, with the time that some steps take: the device is waited for before and after.

    Args:
        batches: of the training.
        seconds: for which steps are measured.
        measures: whose device is waited for.
    """

    def __init__(self, batches: MaskedBatches, seconds: float, measures: Measures) -> None:
        self.batches, self.limit, self.measures = batches, seconds, measures
        self.begun = self.seconds = 0.0
        self.steps = self.tokens = self.positions = 0

    def __call__(self, step: int, oom_splits: int = 0) -> list[dict[str, Tensor]]:
        """Those of `step`.

        Raises:
            Finished: the time is up.
        """
        if step >= WARM_UP_STEPS and self.begun == 0.0:
            self.measures.wait()
            self.begun = time.perf_counter()
        elif self.begun and time.perf_counter() - self.begun > self.limit:
            self.measures.wait()
            self.seconds = time.perf_counter() - self.begun
            raise Finished
        made = self.batches(step, oom_splits)
        if self.begun:
            self.steps += 1
            self.tokens += sum(map(useful_tokens, made))
            self.positions += sum(len(batch["soft"]) for batch in made)
        return made


def pair_of(name: str, teacher: Path, size: str) -> tuple[PreTrainedModel, PreTrainedModel]:
    """Student and teacher: BERT-base's shape with random weights, or the teacher in the folder."""
    if name == "bert-base":
        words = common.open_teacher(teacher).model.config.vocab_size  # those of the blocks
        torch.manual_seed(0)
        large: PreTrainedModel = BertForMaskedLM(BertConfig(vocab_size=words, **(TINY if size == "toy" else {})))
    else:
        large = common.open_teacher(teacher).model
    return cut_student(large, schema.Student(architecture="distilbert"), seed=0), large.eval()


def steps(measures: Measures, data: Path, teacher: Path) -> None:
    """Useful tokens a second of distilling, and the share of the matrix rate that its useful operations reach."""
    tokenizer = common.open_teacher(teacher).tokenizer
    corpus, folder = common.open_corpus(data, max_train_documents=DOCUMENTS[measures.size], block_size=BLOCK)
    blocks = load_blocks(prepare(corpus, tokenizer, cache.folder(), folder))
    print(f"{len(blocks.train):,} blocks", flush=True)
    for pair, batch_size, objective, is_compiled in STEPS[measures.size]:
        way = f"{pair}, {batch_size} blocks, KL {objective.kl_positions}{', compiled' if is_compiled else ''}"
        measures.attempt(
            "distill", way,
            partial(_step, measures, pair, teacher, blocks, batch_size, objective, is_compiled, way),
            needs=COMPILE_SECONDS if is_compiled else 2 * SECONDS[measures.size],
        )  # fmt: skip


def _step(
    measures: Measures, pair: str, folder: Path, blocks: TokenBlocks, batch_size: int, objective: schema.Objective,
    is_compiled: bool, way: str,
) -> None:  # fmt: skip
    """One kind of step, by the package's own training."""
    gc.collect()  # the models before, in whose way these are not to be
    if measures.device.type == "cuda":
        torch.cuda.empty_cache()
    student, teacher = (model.to(measures.device) for model in pair_of(pair, folder, measures.size))
    sizes = Size.of(student), Size.of(teacher)
    optimization = schema.Optimization(batch_size=batch_size, dropout=0.0, attention_dropout=0.0)
    recipe = schema.Recipe(checkpoint_minutes=1e6, validation=schema.Validation(times=1, blocks=4))
    setup = PretrainingSetup.of(recipe, blocks, measures.device)
    if is_compiled:
        compile_encoders(teacher, student)
    batches = setup.batches(objective, optimization, steps=STEPS_OF_SCHEDULE)
    clock = Clocked(batches, SECONDS[measures.size], measures)
    if measures.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    try:
        with tempfile.TemporaryDirectory() as scratch:
            loss = PretrainingLoss(objective, teacher, steps=STEPS_OF_SCHEDULE, compiled=is_compiled)
            pretrain(student, loss, clock, setup, optimization, folder=Path(scratch), label=way)
    except Finished:
        pass
    name = "bfloat16" if chosen_precision(measures.device) == "bf16" else "float32"
    rate, milliseconds = best_rate(measures, name), 1000 * clock.seconds / clock.steps
    operations = distillation_operations(*sizes, clock.tokens, BLOCK, clock.positions, cached=False)
    share = operations / clock.seconds / rate if rate else 0.0
    memory = torch.cuda.max_memory_allocated() / common.MIB if measures.device.type == "cuda" else 0.0
    measures.add(
        "distill", way, clock.tokens / clock.seconds, "useful tokens/s", utilisation=round(share, 4), precision=name,
        steps=clock.steps, milliseconds=round(milliseconds, 3), peak_mib=round(memory),
        note=f"{share:.1%} of {name}'s rate, {milliseconds:.1f} ms a step",
    )  # fmt: skip


def task_models(teacher: Path, size: str) -> dict[str, PreTrainedModel]:
    """Models that answer: the shapes of BERT-base, DistilBERT, the teacher in the folder and its student."""
    shape: dict[str, Any] = {"num_labels": 2}
    bert, distilbert = BertConfig(**shape), DistilBertConfig(**shape)
    if size == "toy":
        bert = BertConfig(**TINY, **shape)
        distilbert = DistilBertConfig(dim=32, n_layers=1, n_heads=2, hidden_dim=64, **shape)
    offline = common.open_teacher(teacher).model.config.to_dict() | shape
    student = {
        "vocab_size": offline["vocab_size"], "dim": offline["hidden_size"], "n_heads": offline["num_attention_heads"],
        "n_layers": max(1, offline["num_hidden_layers"] // 2), "hidden_dim": offline["intermediate_size"],
    }  # fmt: skip
    torch.manual_seed(0)
    return {
        "bert-base": BertForSequenceClassification(bert),
        "distilbert": DistilBertForSequenceClassification(distilbert),
        "teacher": BertForSequenceClassification(BertConfig.from_dict(offline)),
        "student": DistilBertForSequenceClassification(DistilBertConfig(**student, **shape)),
    }


def latency(measures: Measures, teacher: Path) -> None:
    """Milliseconds at batch 1 and inputs a second at the best batch: eager, captured, and last of all compiled."""
    models = task_models(teacher, measures.size)
    on_gpu = measures.device.type == "cuda"
    modes = (gpu.EAGER, gpu.GRAPH, gpu.COMPILED) if on_gpu else (gpu.EAGER,)
    dtypes = (torch.float32, torch.bfloat16) if on_gpu else (torch.float32,)
    for mode in modes:
        if mode == gpu.COMPILED and measures.size != "full":
            continue
        for name, model in reversed(models.items()) if mode == gpu.COMPILED else models.items():
            for dtype in dtypes[-1:] if mode == gpu.COMPILED else dtypes:
                measures.attempt(
                    "latency", _way(name, mode, dtype, LENGTHS[0]),
                    partial(_answer, measures, name, model, mode, dtype),
                    needs=COMPILE_SECONDS if mode == gpu.COMPILED else 0.0,
                )  # fmt: skip


def _way(name: str, mode: str, dtype: torch.dtype, length: int) -> str:
    return f"{name}, {mode}, {str(dtype).removeprefix('torch.')}, {length} tokens"


@torch.inference_mode()
def _answer(measures: Measures, name: str, model: PreTrainedModel, mode: str, dtype: torch.dtype) -> None:
    """One model in one mode and precision."""
    model = torch.nn.Module.to(model, measures.device, dtype).eval()
    torch._dynamo.reset()
    forward = gpu.forward_of(model, mode)
    clock = gpu.event_clock if measures.device.type == "cuda" else wall_clock
    by_length = {}
    for length in LENGTHS:
        batch = {
            key: value[:, :length].contiguous()
            for key, value in gpu.full_batch(model, 1, token_types=uses_token_types(model)).items()
        }
        for _ in range(5):
            forward(batch)
        seconds = [clock(forward, batch) for _ in range(CALLS[measures.size])]
        by_length[length] = (statistics.median(seconds), statistics.quantiles(seconds, n=10)[-1])
    for length, (middle, high) in by_length.items():
        measures.add(
            "latency", _way(name, mode, dtype, length), 1000 * middle, "ms", p90_ms=round(1000 * high, 4), batch_size=1
        )
    if measures.device.type == "cuda" and mode != gpu.GRAPH:
        best = gpu.throughput(model, forward, token_types=uses_token_types(model))
        measures.add(
            "throughput", _way(name, mode, dtype, BLOCK), best.per_second, "inputs/s",
            tried={str(size): round(rate, 1) for size, rate in best.tried.items()},
            note=f"batches of {best.batch_size}",
        )  # fmt: skip


def parse() -> argparse.Namespace:
    """The command line, which gpu_day.py writes."""
    parser = argparse.ArgumentParser(description="A part of gpu_day.py.")
    parser.add_argument("part", choices=("steps", "latency"))
    for name in ("data", "teacher", "output", "run"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--device", required=True)
    parser.add_argument("--size", choices=tuple(SECONDS), required=True)
    parser.add_argument("--seconds", type=float, required=True)
    return parser.parse_args()


def main() -> None:
    """Measure one part; exit 1 where something failed."""
    begun, chosen = time.monotonic(), parse()
    device = torch.device(chosen.device)
    measures = Measures(chosen.output / "measured.jsonl", device, chosen.size, begun + chosen.seconds)
    if chosen.part == "steps":
        matrices(measures)
        steps(measures, chosen.data, chosen.teacher)
    else:
        latency(measures, chosen.teacher)
    if measures.failed:
        raise SystemExit(f"{measures.failed} could not be measured")


if __name__ == "__main__":
    main()
