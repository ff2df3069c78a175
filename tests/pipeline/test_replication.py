"""benchmarks/replication.py at toy size: jobs come to their end in the order of what they need, and are collected."""

import dataclasses
import json
import os
import shutil
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import replication
import replication_jobs
import replication_results
from transformers import AutoModel, PreTrainedTokenizerFast

from tests import tiny
from tests.pipeline.test_gpu_day import made_up_data
from tinydistilbert import results
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import save_model
from tinydistilbert.results import Measurement

CHANGED = (
    "HF_HUB_OFFLINE", "PYTHONUNBUFFERED", "TOKENIZERS_PARALLELISM", "TINYDISTILBERT_CACHE", "PYTHONPATH",
    "CUDA_VISIBLE_DEVICES",
)  # fmt: skip
"""Variables that the script sets for its processes."""


def models_of(folder: Path, teacher: Path, tokenizer: PreTrainedTokenizerFast) -> Path:
    """The three models that the recipes name, tiny."""
    folder.mkdir()
    (folder / "minilm-l6-mlm").symlink_to(teacher)
    layers = {"minilm-l6": json.loads((teacher / "config.json").read_text())["num_hidden_layers"]}
    for name, count in (layers | {"paraphrase-minilm-l3": 1}).items():
        (folder / name).mkdir()
        encoder = AutoModel.from_config(tiny.config("bert", **tiny.WIDER | {"num_hidden_layers": count}))
        save_model(encoder, tokenizer, folder / name)
    return folder


def undated(measured: list[Measurement]) -> list[Measurement]:
    """Without when each was written down: a comparison is made anew."""
    return [dataclasses.replace(m, date="") for m in measured]


@pytest.mark.long
def test_the_replication_at_toy_size(
    tmp_path: Path,
    teacher: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, run, output = made_up_data(tmp_path / "data"), tmp_path / "run", tmp_path / "output"
    models = models_of(tmp_path / "models", teacher, tokenizer)
    command = [
        "--toy", "--device", "cpu", "--data", data, "--models", models, "--run", run,
        "--output", output, "--recipes", "task-student", "minilm-l3", "random/wnli", "random/rte",
        "--tasks", "wnli", "rte", "mrpc",
    ]  # fmt: skip
    for name in CHANGED:
        monkeypatch.setenv(name, os.environ.get(name, ""))  # it is as before when the test is over
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    with pytest.raises(SystemExit) as stop:
        replication.main([str(word) for word in command])
    out, log = capsys.readouterr().out, (run / "worker-0.log").read_text()
    assert stop.value.code == 1, out + log  # there is no RTE
    assert "3 of 8 jobs are done" in out and "task-student/rte: left out" in out, log
    jobs = [json.loads(line) for line in (run / "jobs.jsonl").read_text().splitlines()]
    assert [row["job"] for row in jobs] == ["task-student/wnli", "minilm-l3/wnli", "random/wnli"]
    assert {row["state"] for row in jobs} == {"done"}
    with tarfile.open(output / "run.tar.gz.00") as tar:
        names = tar.getnames()
    assert "random/wnli/tasks/wnli/control/seed-0/scores/predictions-validation.parquet" in names
    assert not [name for name in names if name.endswith((".safetensors", ".npy", "/log.jsonl"))]
    named = ["task-student/wnli", "task-student/wnli/teacher"]
    replication.main([*map(str, command[: command.index("--recipes")]), "--bring", *named])
    with tarfile.open(output / "models.tar.gz.00") as tar:
        brought = {str(Path(name).parent) for name in tar.getnames() if name.endswith(".safetensors")}
    assert brought == {f"models/task-student/wnli/{row}" for row in ("student-d", "teacher")}

    setting = replication_jobs.Setting(data, models, run, "cpu", toy=True)
    assert setting.is_done(replication_jobs.Job("random", "wnli"))  # and not done again

    monkeypatch.setattr(replication_results, "RECIPES", tmp_path / "collected")
    replication_results.collect(setting)
    measured = results.read(tmp_path / "collected" / "results.jsonl")
    rows = {m.model for m in measured if m.task == "wnli"}
    assert rows == {"teacher", "task-student", "tf-idf", "static embeddings", "random", "minilm-l3"}
    compared = {(m.model, m.details["against"]) for m in measured if m.task == results.COMPARE}
    assert ("task-student", "minilm-l3") in compared and ("teacher", "majority") in compared
    predictions = pq.read_table(tmp_path / "collected" / "predictions" / "wnli.parquet")
    (score,) = (m.value for m in measured if (m.model, m.task, m.metric) == ("task-student", "wnli", "accuracy"))
    right = sum(
        label == given
        for label, given in zip(
            *(predictions[name].to_pylist() for name in ("label", "task-student, seed 0")), strict=True
        )
    )
    assert right / len(predictions) == pytest.approx(score)

    shutil.rmtree(run / "random")  # what is in no run folder any more stays as it was collected
    capsys.readouterr()
    replication_results.collect(setting, recipes=["task-student/wnli", "random"])
    assert undated(results.read(tmp_path / "collected" / "results.jsonl")) == undated(measured)
    assert pq.read_table(tmp_path / "collected" / "predictions" / "wnli.parquet") == predictions
    assert "4 of the run, 2 kept" in capsys.readouterr().out
    other = [dataclasses.replace(m, data_fingerprint="other") if m.model == "random" else m for m in measured]
    results.write(tmp_path / "collected" / "results.jsonl", other)
    with pytest.raises(UserError, match="different examples"):
        replication_results.collect(setting, recipes=["task-student"])
