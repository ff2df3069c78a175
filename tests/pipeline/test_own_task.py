"""A CSV of one's own and a model from elsewhere: fine-tuned, scored, distilled and compared from the command line."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import pipeline

from tinydistilbert import results

Call = Callable[..., tuple[int, str, str]]
WORDS = ["people came to see", "a large model", "the old house", "the river Seine", "some cats", "the lake"]


def table(path: Path, count: int, seed: int) -> Path:
    draw = random.Random(seed)
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", "stars"])
        for index in range(count):
            words = [draw.choice(WORDS) for _ in range(3)]
            words[index % 3] = "the tower" if index % 2 else "the student"
            writer.writerow([" ".join(words), "good" if index % 2 else "bad"])
    return path


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    train, validation = table(tmp_path / "reviews.csv", 60, 0), table(tmp_path / "val.csv", 30, 1)
    columns = ["--text", "review", "--label", "stars"]
    quick = ["--epochs", "6", "--seeds", "0", "1", "--learning-rate", "3e-3", "--batch-size", "8"]
    return ["--data", str(train), "--validation", str(validation), *columns, *quick, "--finetune.min_steps", "0"]


def test_from_a_csv_to_a_distilled_classifier(files: list[str], teacher: Path, tmp_path: Path, call: Call) -> None:
    first, second = tmp_path / "teacher", tmp_path / "student"
    code, out, err = call("finetune", "--model", teacher, *files, "--output", first)
    assert code == 0, err
    assert "Your tasks" in out and (first / "report.html").is_file()
    measured = results.read(first / "results.jsonl")
    assert {(m.model, m.task, m.seed) for m in measured} == {("model", "reviews", 0), ("model", "reviews", 1)}
    model = first / "tasks" / "reviews" / "model" / "seed-0" / "model"
    assert json.loads((model / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    assert pipeline("text-classification", model=str(model))("the tower")[0]["label"] in ("bad", "good")

    more = ["--finetune.distillation.augment", "2", "--finetune.distillation.temperature", "3"]
    code, out, err = call("finetune", "--model", teacher, "--teacher", model, *files, *more, "--output", second)
    assert code == 0, err
    rows = {m.model for m in results.read(second / "results.jsonl")}
    assert rows == {"model (D)", "teacher"}
    training = second / "tasks" / "reviews" / "model-d" / "seed-1" / "model" / "training.json"
    assert json.loads(training.read_text())["unlabelled_examples"] > 20

    code, out, err = call("compare", f"{first}:model", f"{second}:model (D)", "--output", tmp_path / "compared")
    assert code == 0, err
    assert "reviews" in out and (tmp_path / "compared" / "comparison.html").is_file()
    assert call("compare", second)[0] == 0
    assert call("compare")[0] == 2 and call("compare", tmp_path)[0] == 2


def test_a_model_on_a_task_of_the_paper_needs_no_recipe(teacher: Path, tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "data" / "glue" / "sst2"
    folder.mkdir(parents=True)
    for split in ("train", "validation"):
        rows = [{"sentence": f"the tower {i}", "label": i % 2, "idx": i} for i in range(12)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    command = ["finetune", "--model", teacher, "--task", "sst2", "--data", tmp_path / "data", "--seeds", "0"]
    code, out, err = call(*command, "--finetune.min_steps", "3", "--epochs", "1", "--dry-run")
    assert code == 0 and "finetune model" in out, err
    code, out, err = call(*command, "--finetune.min_steps", "3", "--epochs", "1", "--output", tmp_path / "run")
    assert code == 0, err
    assert "Table 1" in out and "Model" in out


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--label", "star"], ["star", "reviews.csv", "did you mean 'stars'"]),
        (["--validation", "/nowhere.csv"], ["/nowhere.csv"]),
        (["--teacher", "/nowhere"], ["/nowhere"]),
        (["--kind", "regresion"], ["kind", "'regresion'"]),
        (["--kind", "regression"], ["reviews.csv:2", "a finite number"]),
        (["--select", "best"], ["select", "'best'"]),
        (["--finetune.learning_rates", "1e-4", "3e-4"], ["learning_rates", "heldout"]),
        (["--finetune.distillation.intermediate_epochs", "1"], ["intermediate_epochs", "hidden"]),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    change: list[str], parts: list[str], files: list[str], teacher: Path, tmp_path: Path, call: Call
) -> None:
    code, _, err = call("finetune", "--model", teacher, *files, *change, "--output", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1, err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "run").exists()
