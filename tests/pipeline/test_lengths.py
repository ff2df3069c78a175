"""A model reads as much of a text as it was trained and scored with, in whatever form it is run: its score is its use.

The texts are alike for their first tokens, which decide their labels; behind the cut stands what says the opposite.
"""

import csv
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.parquet
import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer

from tinydistilbert import results
from tinydistilbert.export.quantize import export_int8
from tinydistilbert.export.to_onnx import export, to_half
from tinydistilbert.predictor import load
from tinydistilbert.storage import atomic

pytestmark = pytest.mark.long

Call = Callable[..., tuple[int, str, str]]
LENGTH = 16
QUICK = ["--epochs", "8", "--seeds", "0", "--learning-rate", "3e-3", "--batch-size", "8", "--finetune.min_steps", "0"]


def write(path: Path, count: int, filler: str = "old house ") -> list[str]:
    """Texts of 20 to 42 tokens, and a short one; another filler of two tokens makes other texts."""
    texts = []
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label"])
        for index in range(count):
            first, last = ("tower", "student") if index % 2 else ("student", "tower")
            texts.append(f"{first} the " + filler * (6 + index % 9) + f"{last} " * (6 + index % 7))
            writer.writerow([texts[-1], "good" if index % 2 else "bad"])
        texts.append("the student")
        writer.writerow([texts[-1], "bad"])
    return texts


@pytest.fixture(scope="module")
def run(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    from tinydistilbert.cli.main import main

    folder = tmp_path_factory.mktemp("long")
    write(folder / "train.csv", 48)
    texts, data = write(folder / "validation.csv", 24, "large house "), ["--data", folder / "train.csv", "--validation"]
    data = [str(part) for part in (*data, folder / "validation.csv", "--max-length", LENGTH)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_CACHE", str(folder / "cache"))
        main(["finetune", "--model", str(teacher), *data, *QUICK, "--output", str(folder / "run")])
    task = folder / "run/tasks/train/model/seed-0"
    table = pyarrow.parquet.read_table(task / "scores/predictions-validation.parquet").to_pydict()
    model = task / "model"
    labels = [("bad", "good")[number] for number in table["prediction"]]
    return {"folder": folder / "run", "data": data, "texts": texts, "model": model, "labels": labels, "table": table}


def accuracy(run: Path, row: str) -> results.Measurement:
    (measurement,) = [m for m in results.read(run / "results.jsonl")
                      if (m.model, m.task, m.metric) == (row, "train", "accuracy")]  # fmt: skip
    return measurement


def answered(folder: Path, texts: list[str]) -> list[str]:
    return [answer["label"] for answer in load(folder).predict(texts)]


def test_the_score_belongs_to_what_is_used(run: dict[str, Any], tmp_path: Path) -> None:
    measured = accuracy(run["folder"], "model")
    assert measured.value == 1.0, "or nothing could go wrong behind the cut"
    export(run["model"], tmp_path / "onnx")
    export_int8(run["model"], tmp_path / "int8")
    to_half(run["model"], tmp_path / "half")
    for folder in (run["model"], *(tmp_path / name for name in ("onnx", "int8", "half"))):
        assert load(folder).max_length == LENGTH and answered(folder, run["texts"]) == run["labels"]
        config = atomic.read_json(folder / "tokenizer_config.json")
        assert config["model_max_length"] == LENGTH
        # Programs that know nothing of this one: plain tokenizers, and transformers where they are asked to truncate.
        assert len(Tokenizer.from_file(str(folder / "tokenizer.json")).encode(run["texts"][0])) == LENGTH
        assert len(AutoTokenizer.from_pretrained(folder)(run["texts"][0], truncation=True)["input_ids"]) == LENGTH
    one, other = load(run["model"]).predict([run["texts"][0], "the student"])
    assert one["cut_tokens"] == 22 - LENGTH and "cut_tokens" not in other


def test_what_was_cut_is_counted_everywhere(
    run: dict[str, Any], tmp_path: Path, call: Call, teacher: Path, caplog: pytest.LogCaptureFixture
) -> None:
    facts = atomic.read_json(run["model"] / "training.json")
    assert (facts["max_length"], facts["cut_texts"]) == (LENGTH, 48)
    measured = accuracy(run["folder"], "model")
    assert (measured.details["cut_texts"], measured.details["cut_train_texts"]) == (24, 48)
    assert "24 of 25 scored and 48 of 49 train texts, to 16 tokens" in (run["folder"] / "report.html").read_text()
    command = ["finetune", "--model", teacher, *run["data"], *QUICK, "--output", tmp_path / "again"]
    _, out, _ = call(*command, "--dry-run")
    assert "48 of 49 train texts are longer than 16 tokens" in out and "--max-length" in out
    assert "64 would cut 0" in out
    call(*command)
    assert caplog.text.count("48 of 49 train texts are longer than 16 tokens") == 1
    _, out, _ = call(*command[:-1], tmp_path / "whole", "--max-length", "64", "--dry-run")
    assert "longer than" not in out


def test_compress_keeps_to_the_length_of_the_model_that_it_is_given(
    run: dict[str, Any], tmp_path: Path, call: Call
) -> None:
    data = run["data"][:-2]  # no length is stated: the default of a task of one's own is 128
    settings = ["--compress.held_out", "8", "--compress.timed_examples", "6", "--keep", "0.5", "--max-loss", "100"]
    command = ["compress", run["model"], *data, *settings, "--output", tmp_path / "small"]
    code, out, err = call(*command, "--dry-run")
    assert code == 0 and "48 of 49 train texts are longer than 16 tokens" in out, err
    code, out, err = call(*command)
    assert code == 0 and "24 of 25 scored" in out, err
    folder = tmp_path / "small/tasks/train/compressed"
    measured = [m for m in results.read(tmp_path / "small/results.jsonl") if m.metric == "accuracy"]
    for number, variant in enumerate((run["model"], folder / "whole/onnx", folder / "whole/int8", folder / "best")):
        table = pyarrow.parquet.read_table(folder / f"summary/predictions-{number}.parquet").to_pydict()
        assert load(variant).max_length == LENGTH
        if number < 3:
            assert answered(variant, run["texts"]) == [("bad", "good")[i] for i in table["prediction"]]
    assert {m.details["max_length"] for m in measured} == {LENGTH}


def test_a_given_teacher_reads_what_it_was_trained_with(
    run: dict[str, Any], teacher: Path, tmp_path: Path, call: Call
) -> None:
    data = run["data"][:-2]
    command = ["finetune", "--model", teacher, "--teacher", run["model"], *data, *QUICK, "--output", tmp_path / "run"]
    code, _, err = call(*command)
    assert code == 0, err
    measured = {m.model: m for m in results.read(tmp_path / "run/results.jsonl") if m.task == "train"}
    assert measured["teacher"].details["max_length"] == LENGTH and measured["teacher"].value == 1.0
    assert measured["model (D)"].details["max_length"] == 128
    distilled = tmp_path / "run/tasks/train/model-d/seed-0"
    table = pyarrow.parquet.read_table(distilled / "scores/predictions-validation.parquet").to_pydict()
    assert answered(distilled / "model", run["texts"]) == [("bad", "good")[i] for i in table["prediction"]]


def test_predict_names_the_line_that_is_cut(run: dict[str, Any], call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("the tower\n" + "old house " * 300 + "\nthe student\n"))
    code, out, err = call("predict", run["model"], "-")
    answers = [json.loads(line) for line in out.splitlines()]
    assert code == 0 and [answer.get("cut_tokens") for answer in answers] == [None, 602 - LENGTH, None]
    assert "line 2: cut, 16 of 602 tokens were read" in err
