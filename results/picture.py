"""The picture and the numbers of the README, made from committed results."""

from pathlib import Path

from drawings import ScoredModel, score_against_time
from replication_ladder import INT8, ladders
from replication_page import STUDENT, Replication
from training_speed import distillation_lines

from tinydistilbert import results
from tinydistilbert.report import scores
from tinydistilbert.report.compression import TEACHER_SIZE, TEACHER_TIME, CompressedModel
from tinydistilbert.report.published import BERT_BASE, DISTILBERT, TINYDISTILBERT
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS

RESULTS = Path(__file__).resolve().parent
TABLE3 = RESULTS / "table3" / "results.jsonl"
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


def _compressed() -> CompressedModel:
    """What `compress` made of the student (e) of the task."""
    (model,) = (model for model in ladders() if model.task.name == TASK)
    return model


def _teacher_score() -> float:
    """Points of the student's teacher on the task."""
    replication = Replication.read()
    return 100 * scores.of_task(replication.scores, replication.rows[STUDENT]["teacher"], TASKS[TASK]).value


def models() -> list[ScoredModel]:
    """Published models by published scores, ours by those of the replication; times of their shapes, of one run."""
    task, compressed = TASKS[TASK], _compressed()
    measurements = list(results.read(TABLE3))
    variants = {m.model: m.value for m in compressed.scores}
    shapes = ((BERT_BASE.name, "bert-base"), (DISTILBERT.name, "distilbert"), (TINYDISTILBERT.name, "distilbert"))
    replicated = [
        ("Teacher", "teacher", "onnx", _teacher_score() / 100, "teacher", False),
        ("Student", "student", "onnx", variants["ONNX Runtime, fp32"], "student", False),
        ("Student, int8", "student", "onnx-int8", variants[INT8], "student", True),
    ]
    published = task.published[task.headline]
    return [
        *(
            ScoredModel(name, _milliseconds(measurements, shape, "onnx"), published[name], "published")
            for name, shape in shapes
        ),
        *(
            ScoredModel(name, _milliseconds(measurements, model, backend), 100 * value, series, chosen)
            for name, model, backend, value, series, chosen in replicated
        ),
    ]


def picture() -> str:
    """Score on SST-2 against milliseconds, as SVG."""
    return score_against_time(models(), "Accuracy on SST-2 against milliseconds of one input", "accuracy on SST-2")


def caption_section() -> str:
    """What the picture shows, and what has to be known to read it."""
    by_name = {model.name: model for model in models()}
    first, last = by_name["Teacher"], by_name["Student, int8"]
    timed = next(m for m in results.read(TABLE3) if m.task == "latency")
    return (
        f"From the teacher ({first.score:.1f} points, {first.milliseconds:.1f} ms; 6 layers of 384) to its 8-bit "
        f"student of 3 layers ({last.score:.1f} points, {last.milliseconds:.1f} ms). Squares: published scores, at the "
        f"latency measured here for models of the same shape. ONNX Runtime, one core of an {timed.environment['cpu']}, "
        "STS-B inputs at their own length. [The replication](docs/explanation/replication.md).\n"
    )


def numbers_section() -> str:
    """Three numbers, each from a committed line."""
    compressed = _compressed()
    models = [score.model for score in compressed.scores]
    int8 = models.index(INT8)
    speed_up = compressed.teacher[TEACHER_TIME].value / compressed.times[int8].value
    smaller = compressed.teacher[TEACHER_SIZE].value / compressed.sizes[int8].value
    first, best = _teacher_score(), 100 * compressed.scores[int8].value
    fp32, bf16 = (distillation_lines()["bert-base", precision, "ratios"] for precision in ("fp32", "bf16"))
    kept = Replication.read().kept(STUDENT)
    over = ", ".join(task.title for task in kept.counted)
    return (
        f"- **{speed_up:.1f} × as fast, {smaller:.1f} × smaller**: the SST-2 student in int8 against its teacher in "
        f"torch, at {best:.1f} points (the teacher: {first:.1f}).\n"
        f"- **{100 * kept.share:.1f} % kept** of the teacher’s score above the majority class, by a student with half "
        f"of its layers; mean over {over}.\n"
        f"- **{fp32['notebook']:.1f} × the speed of the notebook, {fp32['authors_all']:.1f} × that of the authors’ "
        "code**: useful tokens per second of a distillation step of BERT-base on two CPU cores in fp32; "
        f"{bf16['notebook']:.1f} and {bf16['authors_all']:.1f} × in bf16.\n"
    )
