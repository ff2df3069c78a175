"""benchmarks/gpu_day.py and gpu_step.py at toy size: all that needs no GPU comes to its end, none of it twice."""

import contextlib
import importlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gpu_day
import gpu_step
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from torch._dynamo import testing
from transformers import BertConfig, BertModel

WORDS = [
    "the",
    "student",
    "learned",
    "from",
    "a",
    "large",
    "teacher",
    "and",
    "answered",
    "some",
    "people",
    "near",
    "the",
    "old",
    "house",
    "by",
    "the",
    "lake",
]


def sentence(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=12)) + " ."


def made_up_data(folder: Path) -> Path:
    """WikiText-2's files with articles of a few sentences, and pairs for WNLI."""
    draw = random.Random(0)
    (folder / "wikitext2").mkdir(parents=True)
    for name, count in (("train", 12), ("validation", 6)):
        articles = [f" = Title {index} = \n\n" + " ".join(sentence(draw) for _ in range(30)) for index in range(count)]
        (folder / "wikitext2" / f"{name}.txt").write_text("\n\n".join(articles) + "\n")
    (folder / "glue" / "wnli").mkdir(parents=True)
    for name, count in (("train", 40), ("validation", 20)):
        columns = {
            "sentence1": [sentence(draw) for _ in range(count)],
            "sentence2": [sentence(draw) for _ in range(count)],
        }
        table = pa.table({**columns, "label": [index % 2 for index in range(count)], "idx": list(range(count))})
        pq.write_table(table, folder / "glue" / "wnli" / f"{name}.parquet")
    return folder


REAL = "steps"
"""The part that has a process of its own here too, as all have in a day; importing takes each some seconds."""


class PartHere:
    """Stands for the process of another part: its script runs in this one. test_gpu_scripts.py tries real ones."""

    pid = 2**31 - 1
    """Nobody's."""

    def __init__(self, command: list[str], *, stdout: Any, env: dict[str, str], **_: Any) -> None:
        _, script, *arguments = command
        with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(stdout):
            patch.setattr(sys, "argv", [script, *arguments])
            for name, value in env.items():
                patch.setenv(name, value)
            try:
                importlib.import_module(Path(script).stem).main()
                self.code = 0
            except SystemExit as stop:
                stdout.write(f"{stop.code}\n")
                self.code = 1

    def wait(self, _: float = 0.0) -> int:
        return self.code


def start(command: list[str], **settings: Any) -> Any:
    return subprocess.Popen(command, **settings) if command[2] == REAL else PartHere(command, **settings)


def test_a_day_at_toy_size(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data, output = made_up_data(tmp_path / "data"), tmp_path / "output"
    command = [
        "--toy", "--device", "cpu", "--data", data, "--teacher", teacher,
        "--output", output, "--minutes", "10", "--parts", "steps", "latency", "distill", "finetune",
    ]  # fmt: skip
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path[1:]))
    monkeypatch.setattr(gpu_day, "subprocess", SimpleNamespace(**vars(subprocess) | {"Popen": start}))
    try:
        gpu_day.main([str(word) for word in command])
    except SystemExit:
        pytest.fail((output / "log.txt").read_text())

    parts = [json.loads(line) for line in (output / "parts.jsonl").read_text().splitlines()]
    assert [(row["part"], row["state"]) for row in parts] == [
        (name, "done") for name in ("steps", "latency", "distill", "finetune")
    ]
    measured = [json.loads(line) for line in (output / "measured.jsonl").read_text().splitlines()]
    assert {row["measure"] for row in measured} == {"matrix rate", "distill", "latency", "finetune"}
    assert all(row["value"] > 0 for row in measured)
    assert all(row["utilisation"] > 0 for row in measured if row["measure"] == "distill")
    scores = [json.loads(line) for line in (output / "results.jsonl").read_text().splitlines()]
    assert {(row["model"], row["task"]) for row in scores} == {
        (model, task) for model in ("teacher", "student", "control") for task in ("pretraining", "wnli")
    } | {("tf-idf", "wnli"), ("static embeddings", "wnli")}
    assert (output / "run.tar.gz").stat().st_size > 0

    gpu_day.main([str(word) for word in command])
    assert len((output / "parts.jsonl").read_text().splitlines()) == 4


def test_attention_is_left_out_of_what_is_compiled() -> None:
    config = BertConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32, vocab_size=99)
    encoder, tokens = BertModel(config, add_pooling_layer=False).eval(), torch.arange(20).view(2, 10)
    torch._dynamo.reset()
    counted = testing.CompileCounter()
    with gpu_step.attention_apart(), torch.no_grad():
        hidden = torch.compile(encoder, backend=counted)(input_ids=tokens).last_hidden_state
    assert counted.frame_count >= 2, "what comes before attention, and what comes after"
    with torch.no_grad():
        torch.testing.assert_close(hidden, encoder(input_ids=tokens).last_hidden_state)


def test_the_ways_of_a_step_are_measured(tmp_path: Path, teacher: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output, ways = tmp_path / "step.jsonl", ["by rows", "whole chunks", "whole chunks, teacher in bf16"]
    command = [
        "gpu_step.py", "--device", "cpu", "--size", "toy", "--positions", "masked",
        "--data", made_up_data(tmp_path / "data"), "--teacher", teacher, "--output", output, "--ways", *ways,
    ]  # fmt: skip
    monkeypatch.setattr(sys, "argv", [str(word) for word in command])
    gpu_step.main()
    measured = [json.loads(line) for line in output.read_text().splitlines()]
    assert [row["what"] for row in measured if row["measure"] == "distill"] == [
        f"bert-base, KL masked, {way}" for way in ways
    ]
