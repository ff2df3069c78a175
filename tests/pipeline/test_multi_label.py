"""Texts with several labels from a table to a small model: fine-tuned, distilled, compressed, compared, asked."""

import csv
import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tinydistilbert as td
from tinydistilbert import results
from tinydistilbert.api.outcomes import TaskModel
from tinydistilbert.run_folder import RunFolder

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]
WORDS = {"building": "tower", "person": "student", "water": "lake"}


def rows_of(count: int, seed: int) -> list[dict[str, Any]]:
    """Texts in which a word tells each label."""
    draw = random.Random(seed)
    rows = []
    for number in range(count):
        given = [label for label in WORDS if draw.random() < 0.4]
        seen = " ".join(WORDS.get(label, label) for label in draw.sample([*given, "a", "book"], len(given) + 2))
        rows.append({"review": f"{seen} {number}", "about": given})
    return rows


def as_columns(path: Path, rows: list[dict[str, Any]]) -> Path:
    with path.open("w", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["review", *WORDS])
        writer.writerows([row["review"], *(int(label in row["about"]) for label in WORDS)] for row in rows)
    return path


@pytest.fixture(scope="module")
def run(teacher: Path, tmp_path_factory: pytest.TempPathFactory) -> TaskModel:
    folder = tmp_path_factory.mktemp("multi")
    train = as_columns(folder / "reviews.csv", rows_of(200, 0))
    quick = {
        "finetune.epochs": 12, "finetune.distillation.epochs": 6.0, "finetune.distillation.intermediate_epochs": 2.0,
        "finetune.optimization.learning_rate": 3e-3, "finetune.optimization.batch_size": 8, "compress.keep": [0.5],
        "compress.timed_examples": 10, "compress.recovery_epochs": 1.0, "finetune.keep": "all",
    }  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TINYDISTILBERT_CACHE", str(folder / "cache"))
        return td.shrink(
            teacher, train=train, text="review", label=list(WORDS), kind="multi-label", validation="25%", to="50MB",
            keep="30%", output=folder / "run", settings=quick, quiet=True,
        )  # fmt: skip


def test_a_table_becomes_a_small_model_that_gives_several_labels(run: TaskModel, call: Call, tmp_path: Path) -> None:
    by_row = {(m.model, m.metric): m for m in run.measurements if m.task == "reviews"}
    scores = {name: by_row[name, "micro_f1"].value for name in ("teacher", "model (D)", "tf-idf", "static embeddings")}
    assert scores["teacher"] > 0.75 and scores["model (D)"] > 0.65 and scores["tf-idf"] > 0.8, scores
    measured = by_row["model (D)", "micro_f1"]
    low, high = measured.details["interval"]
    assert low <= measured.value <= high and measured.value > measured.details["majority"] > 0
    assert len(measured.details["label_thresholds"]) == 3
    assert ("model (D)", "macro_f1") in by_row and ("model (D)", "exact_match") in by_row
    paired = [m for m in run.measurements if m.task == "compare" and "micro_f1" in m.metric + str(m.details)]
    assert paired and run.page is not None
    page = run.page.read_text(encoding="utf-8")
    assert "a text may have several labels" in page and "micro F1" in page and "building" in page
    for part in ("Label by label", "probabilities, one for each label", "exactly the labels that its teacher gives"):
        assert part in page, part
    assert f"<td>{json.loads((run.model / 'config.json').read_text())['label_thresholds'][0]:.3f}</td>" in page

    folder = RunFolder(run.folder).task_model("reviews", "model (D)", 0)
    facts = json.loads((folder / "training.json").read_text())["label_thresholds"]
    config = json.loads((folder / "config.json").read_text())
    best = json.loads((run.model / "config.json").read_text())
    assert config["label_thresholds"] == facts["value"] and facts["examples"] > 0
    assert best["problem_type"] == "multi_label_classification" and len(best["label_thresholds"]) == 3

    answer = run.predict("a tower lake book 7")[0]
    thresholds = dict(zip(WORDS, best["label_thresholds"], strict=True))
    assert answer["labels"] == [name for name, score in answer["scores"].items() if score >= thresholds[name]]
    assert {"building", "water"} <= {*answer["labels"]} and list(answer["scores"]) == list(WORDS)
    table = as_columns(tmp_path / "test.csv", rows_of(40, 1))
    model_scores = run.score(table)
    assert model_scores["micro_f1"] > 0.65 and list(model_scores) == ["micro_f1", "macro_f1", "exact_match"]
    code, _, err = call("predict", run.model, table, "--text", "review", "--output", tmp_path / "out.csv")
    assert code == 0, err
    answered = list(csv.DictReader((tmp_path / "out.csv").read_text().splitlines()))
    assert {"prediction", "prediction_building"} <= answered[0].keys()
    right = np.mean(
        [set(filter(None, r["prediction"].split("|"))) == {n for n in WORDS if r[n] == "1"} for r in answered]
    )
    assert right == pytest.approx(model_scores["exact_match"])
    code, out, err = call("compare", f"{run.folder}:teacher", f"{run.folder}:model (D)", "--output", tmp_path / "page")
    assert code == 0 and "micro F1" in out, err


def test_lists_from_python_and_a_cell_with_a_separator_from_the_command_line(
    run: TaskModel, teacher: Path, tmp_path: Path, call: Call
) -> None:
    model = RunFolder(run.folder).task_model("reviews", "teacher", 0)
    given = td.evaluate(model, rows_of(30, 2), text="review", label="about")
    cells = tmp_path / "cells.csv"
    with cells.open("w", newline="") as stream:
        csv.writer(stream).writerows(
            [("review", "about"), *((row["review"], ";".join(row["about"])) for row in rows_of(60, 2))]
        )
    assert given["micro_f1"] > 0.75
    soft = tmp_path / "soft.csv"
    with soft.open("w", newline="") as stream:  # the teacher of all texts but ten is this file
        csv.writer(stream).writerows(
            [
                ("review", *WORDS),
                *(
                    (row["review"], *(0.9 if label in row["about"] else 0.2 for label in WORDS))
                    for row in rows_of(50, 2)
                ),
            ]
        )
    command = ["finetune", "--model", teacher, "--data", cells, "--validation", "25%", "--text", "review", "--label",
               "about", "--kind", "multi-label", "--epochs", "1", "--seeds", "0", "--finetune.min_steps", "0",
               "--teacher", model, "--output", tmp_path / "run"]  # fmt: skip
    code, _, err = call(*command)
    assert code == 2 and "--label-separator" in err
    command += ["--finetune.distillation.soft_labels", soft]
    code, out, err = call(*command, "--label-separator", ";")
    assert code == 0 and "micro F1" in out, err
    notices = (tmp_path / "run" / "notices.txt").read_text()
    for words in ("cells split at ';'", "have no label", "to choose the thresholds", "joined by text to"):
        assert words in notices, words
    rows = {m.model for m in results.read(tmp_path / "run" / "results.jsonl")}
    assert "model (D)" in rows
