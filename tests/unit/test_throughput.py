"""The two benchmarks of training speed to their end, on tiny models: the ways in their processes, rows, last line."""

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import distill_throughput
import finetune_throughput
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tests.unit.test_finetune_benchmark import write_data
from tinydistilbert.models.loading import save_model

pytestmark = pytest.mark.long
PRELOADED = [*distill_throughput.PRELOADED, *finetune_throughput.PRELOADED, "throughput_ways", "finetune_ways"]
"""The first of the tests begins the process that forks those of all ways, and nothing is imported in it afterwards."""


def first_and_last(precisions: list[str]) -> list[str]:
    """fp32, and the quickest that this machine has; those between go the same ways."""
    assert precisions[0] == "fp32"
    return list(dict.fromkeys([precisions[0], precisions[-1]]))


def in_this_process(
    script: ModuleType, arguments: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> str:
    """What a benchmark prints; its ways have processes of their own as ever, and the machine's rate takes no time."""
    threads = torch.get_num_threads()
    monkeypatch.setattr(sys, "argv", [script.__file__, *map(str, arguments)])
    monkeypatch.setattr(distill_throughput, "SHAPE_SECONDS", 0.0)
    monkeypatch.setattr(distill_throughput, "SHAPES", ((64, 64, 64),))
    monkeypatch.setattr(script, "PRELOADED", PRELOADED)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    try:
        script.main()
    finally:
        torch.set_num_threads(threads)
    return capsys.readouterr().out


def test_a_distillation_run_ends_with_the_ratios_and_appends_its_rows(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, teacher = tmp_path / "data", tmp_path / "teacher"
    (data / "wikitext2").mkdir(parents=True)
    sentences = [f"the student learns from {n} models , and a large model answers slowly ." for n in range(12)]
    paragraphs = "".join(f" {' '.join(sentences[k % 5 :])} \n \n" for k in range(60))
    for split in ("train", "validation"):
        (data / "wikitext2" / f"{split}.txt").write_text(f" = Paris = \n \n{paragraphs} = Models = \n \n{paragraphs}")
    save_model(tiny.model(initializer_range=0.2, **tiny.WIDER), tokenizer, teacher)
    precisions = first_and_last(distill_throughput.possible_precisions())
    command = [
        "--pair", "offline", "--teacher", teacher, "--data", data, "--precision", *precisions, "--rounds", 2,
        "--seconds", 0, "--batch-size", 2, "--threads", 1, "--output", tmp_path / "rows.jsonl",
    ]  # fmt: skip
    printed = in_this_process(distill_throughput, command, monkeypatch, capsys)
    last = json.loads(printed.splitlines()[-1])
    assert list(last) == ["offline"] and list(last["offline"]) == precisions
    ratios = ["notebook", "authors_all", "authors_masked", "cached_masked"]
    for by_way in last["offline"].values():
        share = by_way.pop("peak_share")  # of the machine's rate: on a busy machine a tiny model's is rounded to 0
        assert list(by_way)[:4] == ratios and min(by_way.values()) > 0 <= share, by_way
    assert all("ours_masked_over_fp32" in last["offline"][precision] for precision in precisions[1:])
    rows = [json.loads(line) for line in (tmp_path / "rows.jsonl").read_text().splitlines()]
    ways = ["notebook", "authors_all", "authors_masked", "ours_all", "ours_masked", "ours_cached", "ours_no_dropout"]
    assert [(row["precision"], row.get("way")) for row in rows] == [
        (precision, way) for precision in precisions for way in (*ways, None)
    ]
    assert all(row["library"] for row in rows)
    rows = [row for row in rows if "way" in row]
    assert all(row["rounds"] == 2 and row["peak_mib"] > 1 and row["environment"]["torch"] for row in rows)


def test_a_finetuning_run_ends_with_the_ratios_and_appends_its_rows(
    tmp_path: Path,
    tokenizer: PreTrainedTokenizerFast,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher, output = tmp_path / "teacher", tmp_path / "rows.jsonl"
    save_model(tiny.model(), tokenizer, teacher)
    precisions = first_and_last(distill_throughput.possible_precisions())
    command = [
        "--models", "offline-student", "--tasks", "sst2", "squad", "--teacher", teacher,
        "--data", write_data(tmp_path / "data"), "--precision", *precisions, "--rounds", 1, "--batches", 2,
        "--batch-size", 2, "--threads", 1, "--output", output,
    ]  # fmt: skip
    printed = in_this_process(finetune_throughput, command, monkeypatch, capsys)
    last = json.loads(printed.splitlines()[-1])
    assert list(last) == precisions
    for by_model in last.values():
        assert list(by_model) == ["offline-student"]
        assert list(by_model["offline-student"]) == ["padded", "dynamic", "grouped", "squad_padded"]
        assert all(value > 0 for value in by_model["offline-student"].values())
    rows = [json.loads(line) for line in output.read_text().splitlines()]
    ways = ["padded", "dynamic", "grouped", "ours", "ours_no_attention_dropout", None]
    assert [(row["task"], row["precision"], row.get("way")) for row in rows] == [
        (task, precision, way) for task in ("sst2", "squad") for precision in precisions for way in ways
    ]
    assert all(row["examples_per_second"] > 0 and row["peak_mib"] > 1 for row in rows if "way" in row)
