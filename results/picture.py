"""The picture and the numbers of the README, of what is committed."""

import json
from pathlib import Path
from typing import Any

from drawings import ScoredModel, score_against_time
from replication_page import STUDENT, Replication

from tinydistilbert import results
from tinydistilbert.report import scores
from tinydistilbert.report.compression import compressed_models
from tinydistilbert.report.published import BERT_BASE, DISTILBERT, TINYDISTILBERT
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS

RESULTS = Path(__file__).resolve().parent
TABLE3 = RESULTS / "table3" / "results.jsonl"
THROUGHPUT = RESULTS.parent / "benchmarks" / "results" / "distill_throughput.jsonl"
TASK = "sst2"
PROTOCOL = "true-length"
"""Of the times: each input alone, at its own length; the pass over STS-B of Table 3, for all models the same."""


def _milliseconds(measurements: list[Measurement], model: str, backend: str) -> float:
    (timed,) = (
        m for m in measurements
        if (m.task, m.model) == ("latency", model)
        and (m.details["backend"], m.details["protocol"]) == (backend, PROTOCOL)
    )  # fmt: skip
    return 1000 * timed.value / timed.examples


def models() -> list[ScoredModel]:
    """Published models by their published scores and the times of their shape, and ours: times of one run."""
    measurements = list(results.read(TABLE3))
    task = TASKS[TASK]
    found = scores.collect(measurements)
    (compressed,) = compressed_models(measurements, TASKS)
    variants = {m.model: m.value for m in compressed.scores}
    best = compressed.scores[compressed.chosen]
    shapes = ((BERT_BASE.name, "bert-base"), (DISTILBERT.name, "distilbert"), (TINYDISTILBERT.name, "distilbert"))
    ours = [
        ("Teacher", "teacher", "onnx", scores.of_task(found, "teacher", task).value, "teacher", False),
        ("Student", "student", "onnx", variants["ONNX Runtime, fp32"], "student", False),
        ("Student, int8", "student", "onnx-int8", variants["int8"], "student", False),
        ("Student, pruned, int8", f"compressed ({TASK})", "onnx-int8", best.value, "student", True),
    ]
    published = task.published[task.headline]
    return [
        *(
            ScoredModel(name, _milliseconds(measurements, shape, "onnx"), published[name], "published")
            for name, shape in shapes
        ),
        *(
            ScoredModel(name, _milliseconds(measurements, model, backend), 100 * value, series, chosen)
            for name, model, backend, value, series, chosen in ours
        ),
    ]


def picture() -> str:
    """Score on SST-2 against milliseconds, as SVG."""
    return score_against_time(models(), "Accuracy on SST-2 against milliseconds of one input", "accuracy on SST-2")


def caption_section() -> str:
    """What the picture shows, and what has to be known to read it."""
    by_name = {model.name: model for model in models()}
    first, last = by_name["Teacher"], by_name["Student, pruned, int8"]
    scored = next(m for m in results.read(TABLE3) if (m.model, m.task) == ("teacher", TASK))
    machine = scored.environment
    return (
        f"From the teacher ({first.score:.1f} points, {first.milliseconds:.1f} ms) to its pruned 8-bit student "
        f"({last.score:.1f} points, {last.milliseconds:.1f} ms). Squares: published scores, at the milliseconds of "
        f"their shapes here. ONNX Runtime, one core of an {machine['cpu']}, inputs of STS-B at their own length; the "
        f"teacher has 6 layers of 384 and learned from {scored.train_examples:,} of {scored.train_examples_total:,} "
        "examples, the published models from all.\n"
    )


def numbers_section() -> str:
    """Three numbers, each from a committed line."""
    (compressed,) = compressed_models(list(results.read(TABLE3)), TASKS)
    chosen = compressed.chosen
    speed_up = compressed.times[0].value / compressed.times[chosen].value
    smaller = compressed.sizes[0].value / compressed.sizes[chosen].value
    first, best = (100 * compressed.scores[index].value for index in (0, chosen))
    ratios = _last_ratios()
    kept = Replication.read().kept(STUDENT)
    over = ", ".join(task.title for task in kept.counted)
    return (
        f"- **{speed_up:.1f} × as fast, {smaller:.1f} × smaller**: the SST-2 student after `compress`, and "
        f"{best:.1f} points where it had {first:.1f}.\n"
        f"- **{100 * kept.share:.1f} % kept** of what the task’s teacher has above the majority class, mean over "
        f"{over}, by a student with half of its layers.\n"
        f"- **{ratios['notebook']:.1f} × the notebook, {ratios['authors_all']:.1f} × the authors**: useful tokens a "
        "second of a distillation step of BERT-base on two CPU cores.\n"
    )


def _last_ratios() -> dict[str, Any]:
    """Of the last whole measurement of BERT-base: how many times as fast ours is."""
    lines = map(json.loads, THROUGHPUT.read_text(encoding="utf-8").splitlines())
    found = [line for line in lines if "way" not in line and line["pair"] == "bert-base" and not line["quick"]]
    return dict(found[-1])
