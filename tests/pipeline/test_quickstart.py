"""The embedded default as it is, offline: minutes, so it runs with `make test-slow`; its shape is quick to look at."""

from pathlib import Path

import pytest

from tinydistilbert import results
from tinydistilbert.cli.main import main
from tinydistilbert.pipeline.jobs import jobs
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.names import LIBRARY_NAMES

MAIN_TASK = "library-area"


def test_the_quickstart_needs_nothing_but_the_install() -> None:
    recipe = toml.load("quickstart")
    assert recipe.teacher.model == "offline" and recipe.corpus.source == "python-docs" and recipe.data is None
    assert set(recipe.finetune.tasks) <= set(LIBRARY_NAMES) and recipe.finetune.tasks[0] == MAIN_TASK
    assert {job.row for job in jobs(recipe)} == {"teacher", "control", "student (D)"}
    assert recipe.compress.tasks == (MAIN_TASK,) and recipe.compress.quantization != "none"


@pytest.mark.slow
def test_the_quickstart_distils_and_its_students_learn(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["replicate", "quickstart", "--output", str(tmp_path / "run")])
    *_, ask = capsys.readouterr().out.splitlines()
    best = tmp_path / "run" / "tasks" / MAIN_TASK / "compressed" / "best"
    assert f"tinydistilbert predict {best}" in ask
    measured = results.read(tmp_path / "run" / "results.jsonl")
    pretraining = {(m.model, m.metric): m.value for m in measured if m.task == "pretraining"}
    assert pretraining["student", "kl"] < 0.8 * pretraining["control", "kl"], "distillation pays"
    assert pretraining["student", "perplexity"] > pretraining["teacher", "perplexity"]
    scores = {m.model: m for m in measured if m.task == MAIN_TASK and m.metric == "accuracy"}
    majority = scores["teacher"].details["majority"]
    above = {row: score.value - majority for row, score in scores.items()}
    assert above["teacher"] > 0.4
    assert max(above["tf-idf"], above["static embeddings"]) < above["teacher"] - 0.05
    assert above["student (D)"] > 0.9 * above["teacher"] and above["control"] < above["student (D)"]
    int8 = [m for m in measured if m.task == "compress" and "int8" in m.model]
    assert {"accuracy", "milliseconds"} <= {m.metric for m in int8}
