"""A fine-tuned model is compressed from the command line: its variants, its targets, its mistakes."""

import io
import json
import shlex
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest
import torch
from transformers import BertConfig, PreTrainedTokenizerFast

from tinydistilbert import results
from tinydistilbert.cli.main import main
from tinydistilbert.cli.request import request
from tinydistilbert.compress import builder
from tinydistilbert.compress.measure import Bar, MeasuredVariant, best_variant
from tinydistilbert.compress.variants import Variant
from tinydistilbert.models.runtimes import Runtime, is_exported, open_exported
from tinydistilbert.predictor import load
from tinydistilbert.recipe.schema import Compress, Recipe
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, encoding
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.encoding import Features

Call = Callable[..., tuple[int, str, str]]
SMALL = ["--compress.held_out", "10", "--compress.timed_examples", "10", "--keep", "0.5"]


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory, reviews: Callable[[Path, int, int], Path]) -> list[str]:
    folder = tmp_path_factory.mktemp("reviews")
    train, validation = reviews(folder / "reviews.csv", 80, 0), reviews(folder / "val.csv", 40, 1)
    return ["--data", str(train), "--validation", str(validation), "--text", "review", "--label", "stars"]


@pytest.fixture(scope="module")
def finetuned(columns: list[str], teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finetuned") / "run"
    quick = ["--epochs", "6", "--seeds", "0", "--learning-rate", "3e-3", "--batch-size", "8"]
    more = ["--finetune.min_steps", "0", "--output", str(run)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_CACHE", str(run.parent / "cache"))
        main(["finetune", "--model", str(teacher), *columns, *quick, *more])
    return run


@pytest.fixture
def run(finetuned: Path, tmp_path: Path) -> Path:
    """A copy of the run, which a test may change."""
    return shutil.copytree(finetuned, tmp_path / "run")


def test_a_teacher_with_its_classes_in_another_order_is_read_in_the_tasks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task, gold = TASKS["sst2"], [0, 1, 1, 0]
    examples = Examples(task, "train", {"text": ["a"] * 4, "label": gold}, 4)
    right = np.eye(2, dtype=np.float32)[gold]
    asked: Any = SimpleNamespace(teacher=tmp_path, held_out=examples, teacher_labels=())
    monkeypatch.setattr(builder, "encoded", lambda *_: Features(right, right, np.array(gold), np.arange(4)))
    monkeypatch.setattr(builder, "logits_of", lambda *_: right[:, ::-1])
    for names, given in ((("positive", "negative"), ()), (("LABEL_0", "LABEL_1"), ("positive", "negative"))):
        config = BertConfig(id2label=dict(enumerate(names)), architectures=["BertForSequenceClassification"])
        config.save_pretrained(tmp_path)
        asked.teacher_labels = given
        assert builder.held_out_score(asked, tmp_path) == 1
        assert builder.held_out_predictions(asked, tmp_path).values.tolist() == gold
    asked.teacher = None  # the variants have the classes of the task
    assert builder.held_out_score(asked, tmp_path) == 0


def test_the_given_classes_of_a_teachers_outputs_are_those_of_teachers_from_elsewhere() -> None:
    recipe, labels = Recipe(), ("positive", "negative")
    for compress, teachers, distilled, expected in (
        (("t",), ("t",), "first", labels),
        ((), ("t",), ("t",), labels),
        ((), ("t",), "first", ()),
        ((), (), ("t",), ()),
    ):
        distillation = replace(recipe.finetune.distillation, teachers=distilled, teacher_labels=labels)
        finetune = replace(recipe.finetune, distillation=distillation)
        of_run = replace(recipe, compress=Compress(teachers=compress), finetune=finetune)
        asked: Any = SimpleNamespace(recipe=of_run, task=TASKS["sst2"], teachers=tuple(map(Path, teachers)))
        assert cast(Any, builder.VariantBuilder.teacher_labels).fget(asked) == expected


def test_every_variant_with_the_settings_of_the_run(
    run: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, output = run / "tasks/reviews/model/seed-0/model", tmp_path / "small"
    tokenized: list[int] = []

    def encode(examples: Examples, tokenizer: PreTrainedTokenizerFast, *more: Any) -> Features:
        tokenized.append(len(examples))
        return encoding.encode(examples, tokenizer, *more)

    threads: set[int] = set()

    def opened(folder: Path, **more: int) -> Runtime:
        threads.add(more["threads"])
        return open_exported(folder, **more)

    monkeypatch.setattr(builder, "encode", encode)
    monkeypatch.setattr(builder, "open_exported", opened)
    code, out, err = call("compress", model, *SMALL, "--max-loss", "100", "--output", output)
    assert code == 0, err
    assert threads == {torch.get_num_threads()}, "exports are scored with the threads of the run"
    assert "Model on reviews, compressed" in out and (output / "report.html").is_file()
    assert len(tokenized) == 5, "by the model's tokenizer train examples for importance, by it and the exports' others"
    measured = [m for m in results.read(output / "results.jsonl") if m.task == "compress"]
    names = ["as it is, torch", "ONNX Runtime, fp32", "int8", "50 % of heads and neurons, int8"]
    assert [m.model for m in measured if m.metric == "accuracy"] == names
    sizes = {m.model: m for m in measured if m.metric == "bytes"}
    parameters = [sizes[name].details["parameters"] for name in names]
    assert parameters[0] == parameters[1] == parameters[2] > parameters[3]
    assert sizes[names[3]].value < sizes[names[2]].value < sizes[names[1]].value
    scores = {m.model: m for m in measured if m.metric == "accuracy"}
    assert scores[names[0]].value == scores[names[1]].value, "an export changes no score"
    assert scores[names[0]].details["held_out_examples"] == 7, "at most a tenth of the different texts"

    best = output / "tasks/reviews/compressed/best"
    *_, named, page, ask = out.splitlines()
    assert named.endswith(str(best)) and page.endswith("report.html")
    assert call(*shlex.split(ask.partition("tinydistilbert ")[2]))[0] == 0, "the command in the last line answers"
    assert {answer["label"] for answer in load(best).predict(["the tower", "the student"])} <= {"good", "bad"}
    code, out, err = call("predict", best, "the tower")
    assert code == 0 and json.loads(out)["label"] in ("good", "bad"), err
    pruned = atomic.read_json(output / "tasks/reviews/compressed/keep-50/model/config.json")["pruned"]
    assert sum(pruned["heads"]) < 16 and sum(pruned["intermediate"]) < 256

    code, out, err = call("compress", model, *SMALL, "--max-loss", "100", "--output", output, "--json")
    assert code == 0 and "finished before, skipped" in err
    assert json.loads(out)["models"] == {"reviews": str(best)}


def test_variants_for_openvino_where_they_are_asked_for(run: Path, tmp_path: Path, call: Call) -> None:
    for module in ("openvino", "nncf"):
        pytest.importorskip(module, reason=f"{module} is not installed")
    model, output = run / "tasks/reviews/model/seed-0/model", tmp_path / "small"
    asked = ["--compress.engines", "onnxruntime", "openvino", "--max-loss", "100", "--compress.keep", "[]"]
    code, _, err = call("compress", model, *SMALL[:4], *asked, "--output", output)
    assert code == 0, err
    measured = [m for m in results.read(output / "results.jsonl") if m.task == "compress"]
    sizes = {m.model: m for m in measured if m.metric == "bytes"}
    bf16 = ["OpenVINO bf16"] if "OpenVINO bf16" in sizes else []  # only where the processor has it
    assert list(sizes) == ["as it is, torch", "ONNX Runtime, fp32", "int8", *bf16, "OpenVINO int8"]
    assert len({m.details["parameters"] for m in sizes.values()}) == 1
    best = output / "tasks/reviews/compressed/best"
    assert atomic.read_json(best / "config.json")["tinydistilbert"]["scored_on"]["cpu"] is not None
    assert load(best).predict("the tower")[0]["label"] in ("good", "bad")


def test_a_missing_engine_is_told_before_anything_is_made(
    run: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    asked = ["--compress.engines", "openvino", "--output", tmp_path / "small"]
    code, _, err = call("compress", run / "tasks/reviews/model/seed-0/model", *SMALL, *asked)
    assert code == 2 and "pip install 'tinydistilbert[openvino]'" in err
    assert not (tmp_path / "small" / "tasks").exists()


def test_a_target_that_is_reached_is_the_end_and_a_vocabulary_is_trimmed(run: Path, tmp_path: Path, call: Call) -> None:
    model, output = run / "tasks/reviews/model/seed-0/model", tmp_path / "small"
    code, _, err = call(
        "compress", model, *SMALL, "--target-size", "10MB", "--compress.vocabulary", "train",
        "--max-loss", "100", "--output", output,
    )  # fmt: skip
    assert code == 0, err
    measured = [m for m in results.read(output / "results.jsonl") if m.metric == "accuracy"]
    assert [m.model for m in measured] == ["as it is, torch", "ONNX Runtime, fp32"]
    folder = output / "tasks/reviews/compressed/whole"
    before, after = (atomic.read_json(path / "config.json")["vocab_size"] for path in (model, folder / "trimmed"))
    assert after < before


def test_a_target_out_of_reach_leaves_the_nearest_model(run: Path, tmp_path: Path, call: Call) -> None:
    model, output = run / "tasks/reviews/model/seed-0/model", tmp_path / "small"
    command = ["compress", model, *SMALL[:-2], "--compress.keep", "[]", "--target-size", "1kB", "--output", output]
    code, _, err = call(*command)
    assert code == 1 and "instead of 1kB" in err and "MB" in err, err
    assert is_exported(output / "tasks/reviews/compressed/best") and (output / "report.html").is_file()
    assert call(*command)[0] == 1


def test_a_model_from_elsewhere_needs_its_task(
    run: Path, columns: list[str], tmp_path: Path, call: Call, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "moved"
    (run / "tasks/reviews/model/seed-0/model").rename(model)
    code, _, err = call("compress", model, *SMALL, "--output", tmp_path / "small")
    assert code == 2 and "--task" in err and not (tmp_path / "small").exists()
    code, out, err = call("compress", model, *columns, *SMALL, "--dry-run")
    assert code == 0 and "compress" in out, err
    code, _, err = call("compress", model, "--task", "sst2", *SMALL, "--output", tmp_path / "small")
    assert code == 2 and not (tmp_path / "small").exists()


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--target-latency", "5"], ["target_latency"]),
        (["--target-size", "20 MB"], ["target_size"]),
        (["--keep", "1.5"], ["keep"]),
        (["--compress.tasks", "cola"], ["compress.tasks", "'cola'"]),
        (["--compress.vocabulary", "/nowhere"], ["compress.vocabulary", "/nowhere"]),
        (["--teacher", "/nowhere"], ["/nowhere"]),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    change: list[str], parts: list[str], run: Path, tmp_path: Path, call: Call
) -> None:
    model = run / "tasks/reviews/model/seed-0/model"
    code, _, err = call("compress", model, *change, "--output", tmp_path / "small")
    assert code == 2 and err.count("\n") == 1, err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "small").exists()


def test_a_model_that_was_changed_is_refused(run: Path, tmp_path: Path, call: Call) -> None:
    model = run / "tasks/reviews/model/seed-0/model"
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-1] ^= 1
    (model / "model.safetensors").write_bytes(weights)
    code, _, err = call("compress", model, *SMALL, "--output", tmp_path / "small")
    assert code == 2 and "model.safetensors" in err and not (tmp_path / "small").exists()


def test_classes_in_another_order_are_refused(run: Path, tmp_path: Path, call: Call) -> None:
    model = tmp_path / "elsewhere"
    shutil.copytree(run / "tasks/reviews/model/seed-0/model", model, ignore=shutil.ignore_patterns("manifest.json"))
    config = atomic.read_json(model / "config.json")
    config |= {"id2label": {"0": "good", "1": "bad"}, "label2id": {"good": 0, "bad": 1}}
    (model / "config.json").write_text(json.dumps(config))
    shutil.copytree(model, run / "tasks/reviews/model/seed-1/model")
    code, _, err = call("compress", run / "tasks/reviews/model/seed-1/model", *SMALL, "--output", tmp_path / "small")
    assert code == 2 and "bad, good" in err and not (tmp_path / "small").exists()


def test_a_variant_that_cannot_be_made_is_the_end(run: Path, tmp_path: Path, call: Call) -> None:
    model, output = run / "tasks/reviews/model/seed-0/model", tmp_path / "small"
    code, out, err = call("compress", model, *SMALL[:-2], "--keep", "0.001", "--output", output)
    assert code == 0 and "no smaller variant" in out and "keep" in out, err
    assert is_exported(output / "tasks/reviews/compressed/best")
    measured = [m.model for m in results.read(output / "results.jsonl") if m.metric == "accuracy"]
    assert measured == ["as it is, torch", "ONNX Runtime, fp32", "int8"]


def test_compress_says_when_there_is_nothing_to_compress(recipe_file: Path, tmp_path: Path, call: Call) -> None:
    code, _, err = call("compress", recipe_file, "--output", tmp_path / "run")
    assert code == 2 and "compress.tasks" in err and not (tmp_path / "run").exists()


def test_no_pruning_can_be_asked_for() -> None:
    assert request(["compress", "table3", "--task", "sst2", "--keep", "[]"]).recipe.compress.keep == ()


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (["predict", "folder", "-", "pair"], "tab"),
        (["export", "folder", "--output", "a", "half"], "'half'"),
        (["export", "--output", "a"], "FOLDER"),
        (["export", "folder"], "--output"),
        (["elmo", "--weights", "a"], "--options"),
    ],
)
def test_words_in_the_wrong_place_are_told(
    arguments: list[str], part: str, run: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("one\ttwo\n"))
    model = str(run / "tasks/reviews/model/seed-0/model")
    code, _, err = call(*(model if word == "folder" else word for word in arguments))
    assert code == 2 and part in err, err


def measured(name: str, held_out: float, milliseconds: float, size: int) -> MeasuredVariant:
    return MeasuredVariant(Variant(name, Path(name), Path(name)), held_out, milliseconds, size, 0.0, 0)


MEASURED = [
    measured("torch", 0.9, 10.0, 100),
    measured("onnx", 0.9, 5.0, 100),
    measured("int8", 0.88, 3.0, 25),
    measured("half", 0.895, 2.0, 15),
]


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        (Compress(), "half"),
        (Compress(max_loss=0.1), "onnx"),
        (Compress(target_latency="6ms"), "onnx"),
        (Compress(target_latency="4ms"), "half"),
        (Compress(target_latency="4ms", max_loss=3), "int8"),
        (Compress(target_latency="4ms", max_loss=0.1), "int8"),
        (Compress(target_latency="1ms"), "half"),
    ],
)
def test_what_is_kept(settings: Compress, name: str) -> None:
    """The first that reaches the targets within the loss, else the first that reaches them, else the nearest."""
    bar = Bar(MEASURED[0].held_out - settings.max_loss / 100)
    assert best_variant(MEASURED, settings, bar).variant.name == name


@pytest.mark.parametrize(
    ("settings", "name", "missed"),
    [
        (Compress(min_kept=0.97), "half", ""),  # (0.895 - 0.5) / (0.9 - 0.5) = 0.9875
        (Compress(min_kept=0.99), "onnx", ""),
        (Compress(min_kept=0.99, target_latency="4ms"), "half", "98.8 % of the teacher's score instead of 99 %"),
        (Compress(min_kept=0.9, target_latency="4ms"), "half", ""),
    ],
)
def test_what_is_kept_of_a_teacher(settings: Compress, name: str, missed: str) -> None:
    bar = Bar(0.5 + settings.min_kept * 0.4, teacher=0.9, majority=0.5)
    best = best_variant(MEASURED, settings, bar)
    assert best.variant.name == name and bar.misses(best, settings) == ([missed] if missed else [])
    assert "nothing to keep" in Bar(0.5, teacher=0.5, majority=0.5).misses(best, settings)[0]
