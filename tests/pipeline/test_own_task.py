"""A CSV of one's own and a model from elsewhere: fine-tuned, scored, distilled and compared from the command line."""

import json
import shutil
import signal
from _thread import interrupt_main
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import pipeline

from tinydistilbert import results
from tinydistilbert.errors import NonFiniteLoss
from tinydistilbert.finetuning import trainer
from tinydistilbert.finetuning.finetune import finetune
from tinydistilbert.pipeline import task_models
from tinydistilbert.storage import atomic
from tinydistilbert.training.step_numbers import StepNumbers

Call = Callable[..., tuple[int, str, str]]
Reviews = Callable[[Path, int, int], Path]


@pytest.fixture
def files(tmp_path: Path, reviews: Reviews) -> list[str]:
    train, validation = reviews(tmp_path / "reviews.csv", 60, 0), reviews(tmp_path / "val.csv", 30, 1)
    columns = ["--text", "review", "--label", "stars"]
    quick = ["--epochs", "6", "--seeds", "0", "1", "--learning-rate", "3e-3", "--batch-size", "8"]
    return ["--data", str(train), "--validation", str(validation), *columns, *quick, "--finetune.min_steps", "0"]


def replaced(arguments: list[str], change: list[str]) -> list[str]:
    """The arguments with those flags of theirs replaced that `change` has."""
    kept, is_kept = [], True
    for word in arguments:
        is_kept = word not in change if word.startswith("--") else is_kept
        kept += [word] * is_kept
    return [*kept, *change]


def test_weights_that_are_replaced_between_two_seeds_are_refused(
    files: list[str], teacher: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = shutil.copytree(teacher, tmp_path / "given")
    old = (given / "model.safetensors").read_bytes()

    def then_replaced(*arguments: Any, **settings: Any) -> None:
        finetune(*arguments, **settings)
        (given / "model.safetensors").write_bytes(old[:-4] + bytes(4))

    monkeypatch.setattr(task_models, "finetune", then_replaced)
    command = ["finetune", "--model", given, *files, "--output", tmp_path / "run"]
    for _ in range(2):  # as it happens, and when the same command is given again
        code, _, err = call(*command)
        assert code == 2 and f"error: {given}: model.safetensors changed" in err, err
    rows = tmp_path / "run/tasks/reviews/model"
    assert (rows / "seed-0/model").is_dir() and not (rows / "seed-1/model").exists()
    monkeypatch.undo()
    (given / "model.safetensors").write_bytes(old)
    assert call(*command)[0] == 0 and (rows / "seed-1/model").is_dir()


def test_from_a_csv_to_a_distilled_classifier(files: list[str], teacher: Path, tmp_path: Path, call: Call) -> None:
    first, second = tmp_path / "teacher", tmp_path / "student"
    code, out, err = call("finetune", "--model", teacher, *files, "--output", first)
    assert code == 0, err
    assert "Your tasks" in out and (first / "report.html").is_file()
    measured = results.read(first / "results.jsonl")
    assert {(m.model, m.task, m.seed) for m in measured} == {
        ("model", "reviews", 0), ("model", "reviews", 1), ("tf-idf", "reviews", 0), ("static embeddings", "reviews", 0),
        ("model", "compare", 0),
    }  # fmt: skip
    assert next(m.value for m in measured if m.model == "tf-idf") == 1, "one phrase tells the label"
    model = first / "tasks" / "reviews" / "model" / "seed-0" / "model"
    assert json.loads((model / "config.json").read_text())["id2label"] == {"0": "bad", "1": "good"}
    assert pipeline("text-classification", model=str(model))("the tower")[0]["label"] in ("bad", "good")

    more = ["--finetune.distillation.augment", "2", "--finetune.distillation.temperature", "3"]
    code, out, err = call("finetune", "--model", teacher, "--teacher", model, *files, *more, "--output", second)
    assert code == 0, err
    rows = {m.model for m in results.read(second / "results.jsonl")}
    assert rows == {"model (D)", "teacher", "tf-idf", "static embeddings"}
    training = second / "tasks" / "reviews" / "model-d" / "seed-1" / "model" / "training.json"
    assert json.loads(training.read_text())["unlabelled_examples"] > 20

    code, out, err = call("compare", f"{first}:model", f"{second}:model (D)", "--output", tmp_path / "compared")
    assert code == 0, err
    assert "reviews" in out and (tmp_path / "compared" / "comparison.html").is_file()
    assert call("compare", second)[0] == 0
    code, out, err = call("compare", f"{first}:model", f"{second}:model (D)", "--json")
    (difference,) = json.loads(out)["differences"]
    assert code == 0 and difference["task"] == "reviews" and difference["metric"] == "accuracy", err
    assert difference["first"]["row"] == "model" and difference["second"]["row"] == "model (D)"
    assert difference["first"]["value"] - difference["second"]["value"] == pytest.approx(difference["difference"])
    assert difference["interval"][0] <= difference["difference"] <= difference["interval"][1]
    assert call("compare")[0] == 2 and call("compare", tmp_path)[0] == 2


def test_a_model_on_a_task_of_the_paper_needs_no_recipe(teacher: Path, tmp_path: Path, call: Call) -> None:
    folder = tmp_path / "data" / "glue" / "sst2"
    folder.mkdir(parents=True)
    for split, what in (("train", "tower"), ("validation", "house")):
        rows = [{"sentence": f"the {what} {i}", "label": i % 2, "idx": i} for i in range(12)]
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
        (["--finetune.distillation.augment", "2"], ["augment", "no teacher to learn from"]),
        (["--task", "cola"], ["--task", "named after its file"]),
        (["--max-length", "600"], ["max_length", "512"]),
    ],
)
def test_a_mistake_is_told_before_anything_is_written(
    change: list[str], parts: list[str], files: list[str], teacher: Path, tmp_path: Path, call: Call
) -> None:
    code, _, err = call("finetune", "--model", teacher, *replaced(files, change), "--output", tmp_path / "run")
    assert code == 2 and err.count("\n") == 1, err
    assert all(part in err for part in parts), err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", ["distill", "benchmark"])
def test_a_given_model_has_no_stages_before_its_tasks(
    command: str, files: list[str], teacher: Path, tmp_path: Path, call: Call
) -> None:
    code, _, err = call(command, "--model", teacher, *files, "--output", tmp_path / "run")
    assert code == 2 and "finetune" in err and not (tmp_path / "run").exists()
    assert call("finetune", "--model", teacher)[0] == 2


def test_the_dry_run_of_a_task_of_ones_own(files: list[str], teacher: Path, call: Call) -> None:
    code, once, err = call("finetune", "--model", teacher, *files, "--dry-run")
    assert code == 0 and "2 models × 48 steps × 8, 60 examples" in once, err
    train = Path(files[1])
    train.write_text(train.read_text().replace("\n", "\n\n", 1))
    code, out, err = call("finetune", "--model", teacher, *files, "--dry-run", "--json")
    plan = json.loads(out)
    (notice,) = [line for line in plan["notices"] if "empty" in line]
    assert "1 empty line between the rows left out" in notice
    assert code == 0 and plan["threads"] >= 1 and plan["memory"] > 0, err
    (line,) = [line for line in plan["stages"] if line["stage"].startswith("finetune model")]
    assert line["what"] in once and 0 < line["seconds"] <= plan["seconds"] and 0 < line["disk"] <= plan["disk"]


def test_a_run_does_not_go_on_with_other_examples(files: list[str], teacher: Path, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    assert call("finetune", "--model", teacher, *files, "--output", run)[0] == 0
    (run / "tasks" / "reviews" / "model" / "seed-1" / "model" / "manifest.json").unlink()
    train = Path(files[1])
    train.write_text(train.read_text().replace("good", "fine"))
    (Path(files[3])).write_text(Path(files[3]).read_text().replace("good", "fine"))
    code, _, err = call("finetune", "--model", teacher, *files, "--output", run)
    assert code == 2 and "reviews train" in err and "restore the old data" in err


def test_a_failed_training_is_scored_named_and_ends_in_an_error(
    files: list[str], teacher: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = StepNumbers.line

    def breaks(item: StepNumbers) -> dict[str, float]:
        if item.step == 5:
            raise NonFiniteLoss("step 6: the loss is infinite")
        return real(item)

    monkeypatch.setattr(StepNumbers, "line", breaks)
    for _ in range(2):
        code, out, err = call("finetune", "--model", teacher, *files, "--output", tmp_path / "run")
        assert code == 1 and "step 6: the loss is infinite" in err
        assert "⚠ Model, reviews (2 of 2 seeds): the training failed at step 6" in " ".join(out.split())


def test_an_interrupted_selection_ends_as_an_uninterrupted_one(
    files: list[str], teacher: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = ["finetune", "--model", teacher, *replaced(files, ["--seeds", "0"]), "--select", "heldout"]
    command += ["--finetune.learning_rates", "1e-4", "3e-3"]
    assert call(*command, "--output", tmp_path / "whole")[0] == 0
    real = trainer.selection_score
    looks = iter(range(100))

    def stops(training: trainer.TaskTraining) -> float:
        if next(looks) == 8:  # in the third epoch of the second learning rate
            interrupt_main(signal.SIGINT)
        return real(training)

    monkeypatch.setattr(trainer, "selection_score", stops)
    code, _, err = call(*command, "--output", tmp_path / "stopped")
    assert code == 130 and "goes on from there" in err
    assert call(*command, "--output", tmp_path / "stopped")[0] == 0
    models = [tmp_path / run / "tasks" / "reviews" / "model" / "seed-0" / "model" for run in ("whole", "stopped")]
    assert atomic.sha256(models[0] / "model.safetensors") == atomic.sha256(models[1] / "model.safetensors")
    facts = [json.loads((model / "training.json").read_text()) for model in models]
    assert facts[0]["selected"] == facts[1]["selected"] and facts[0]["learning_rates"] == facts[1]["learning_rates"]
