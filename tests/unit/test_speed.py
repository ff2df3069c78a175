"""Table 3 where there are several back ends, protocols, a GPU and memory; without them it is in test_tables."""

import dataclasses
from typing import Any

from tinydistilbert.report.speed import measured_seconds, speed_table
from tinydistilbert.report.table import Cell, Table
from tinydistilbert.results import Measurement


def latency(model: str, backend: str, protocol: str, seconds: float, **details: Any) -> Measurement:
    common = {"p50_ms": 1.0, "p90_ms": 2.0, "spread": 1.0, "noisy": False, "estimated": False, "synthetic": False}
    common |= {"inputs": "STS-B validation", "gpu": "", "device": "cpu", "interval": [0.9 * seconds, 1.1 * seconds]}
    common |= {"backend": backend, "protocol": protocol, "load_average": 0.5, "weights": "trained"}
    return Measurement(
        model, "latency", "seconds_per_pass", seconds, "validation", False, details=common | details,
        environment={"cpu": "Some CPU", "instruction_sets": ["avx2", "avx512_vnni"]},
    )  # fmt: skip


def line(table: Table, name: str) -> dict[str, Cell]:
    (row,) = [row for row in table.rows if row.cells[0].text == name]
    return dict(zip(table.columns, row.cells, strict=True))


def size(model: str, millions: float) -> Measurement:
    details = {"megabytes_fp32": 4 * millions}
    return Measurement(model, "size", "parameters", 1e6 * millions, details=details)


MEASURED = [
    size("elmo", 178), size("bert-base", 109.5), size("compressed (sst2)", 5),
    Measurement("bert-base", "size", "megabytes", 110.2, details={"backend": "onnx-int8"}),
    Measurement("compressed (sst2)", "size", "megabytes", 6.4, details={"backend": "onnx-int8"}),
    latency("elmo", "torch", "true-length", 800.0, weights="random"),
    latency("bert-base", "torch", "true-length", 200.0),
    latency("bert-base", "onnx-int8", "true-length", 50.0, noisy=True, spread=1.3),
    latency("compressed (sst2)", "onnx-int8", "true-length", 4.0),
    latency("bert-base", "torch", "with-tokenizer", 210.0),
    latency("bert-base", "onnx-int8", "with-tokenizer", 52.5),
    Measurement(
        "bert-base", "memory", "peak_memory_mib", 912.4,
        details={"backend": "torch", "baseline_mib": 402.1, "loaded_mib": 800.0, "device": "cpu"},
    ),
]  # fmt: skip


def test_there_is_a_row_for_each_back_end_compared_with_bert_base_by_torch() -> None:
    table = speed_table(MEASURED)
    assert [row.cells[0].text for row in table.rows] == [
        "ELMo", "BERT-base", "BERT-base, ONNX Runtime int8", "DistilBERT", "TinyDistilBERT",
        "Compressed (sst2), ONNX Runtime int8",
    ]  # fmt: skip
    assert line(table, "BERT-base, ONNX Runtime int8")["True length, s"] == Cell("50.0", "⚠", "45.0–55.0; 4.00×")
    assert line(table, "BERT-base, ONNX Runtime int8")["With tokenizer, s"].detail == "47.2–57.8; 4.00×"
    assert line(table, "ELMo")["True length, s"].detail == "720.0–880.0; 0.25×"
    assert line(table, "Compressed (sst2), ONNX Runtime int8")["True length, s"].text == "4.00"


def test_printed_figures_stand_in_the_first_row_of_a_model_only() -> None:
    table = speed_table(MEASURED)
    assert line(table, "ELMo")["Paper, s"].text == "895" and line(table, "BERT-base")["Paper, s"].text == "668"
    assert line(table, "BERT-base, ONNX Runtime int8")["Paper, s"].text == "–"


def test_an_exported_row_has_the_size_of_its_file() -> None:
    table = speed_table(MEASURED)
    assert [line(table, name)["MB"].text for name in ("BERT-base", "BERT-base, ONNX Runtime int8")] == ["438", "110"]


def test_memory_is_a_column_where_it_was_measured() -> None:
    table = speed_table(MEASURED)
    assert line(table, "BERT-base")["Peak MiB"] == Cell("912", detail="402 without the model")
    assert line(table, "ELMo")["Peak MiB"].text == "–"
    assert "Peak MiB" not in speed_table(MEASURED[:-1]).columns


def test_notes_name_machine_instruction_sets_load_noise_and_random_weights() -> None:
    notes = "\n".join(speed_table(MEASURED).notes)
    assert "Some CPU (avx2, avx512_vnni)" in notes and "load average when it began 0.5" in notes
    assert "BERT-base, ONNX Runtime int8 true-length 30 %" in notes
    assert "ELMo: timed with random weights" in notes and "ELMo's figures are published" not in notes


def test_times_of_a_part_of_the_pairs_are_marked_as_extrapolated() -> None:
    part = latency("student", "torch", "padded-128", 2.0, estimated=True)
    table = speed_table([dataclasses.replace(part, examples=60, examples_total=1500)])
    assert line(table, "Student")["Padded, s"].marks == "*"
    assert "* extrapolated from 60 of 1,500 pairs (padded-128)." in table.notes


def test_the_caption_says_whether_the_pairs_were_made_up() -> None:
    assert "made-up" not in speed_table(MEASURED).caption
    made_up = latency("student", "torch", "true-length", 2.0, synthetic=True, inputs="random words")
    table = speed_table([made_up])
    assert "1,500 made-up pairs" in table.caption and any("Inputs: random words" in note for note in table.notes)


def test_a_gpu_has_columns_of_its_own_and_throughput() -> None:
    gpu = {"device": "cuda", "gpu": "G"}
    throughput = Measurement(
        "student", "throughput", "pairs_per_second", 12345.6, details={"backend": "torch-graph", "batch_size": 256}
    )
    measured = [
        latency("student", backend, "true-length", seconds, **gpu)
        for backend, seconds in (("torch", 2.0), ("torch-graph", 0.5))
    ]
    table = speed_table([*measured, throughput])
    graph = line(table, "Student, CUDA graph")
    assert graph["GPU, true length, s"].text == "0.50"
    assert graph["GPU, pairs/s"] == Cell("12,346", detail="batch 256")
    assert "Some CPU (avx2, avx512_vnni) and G" in "\n".join(table.notes)


def test_seconds_of_a_run_are_torchs_where_it_was_timed_and_another_back_ends_where_not() -> None:
    place = ("cpu", "true-length")
    assert {key: m.value for key, m in measured_seconds(MEASURED).items() if key[1:] == place} == {
        ("elmo", *place): 800.0, ("bert-base", *place): 200.0,
    }  # fmt: skip
    exported = [m for m in MEASURED if m.details.get("backend") == "onnx-int8" and m.task == "latency"]
    assert {m.value for m in measured_seconds(exported).values()} == {50.0, 4.0, 52.5}


def test_measurements_of_before_there_were_back_ends_are_read_as_torchs() -> None:
    old = latency("student", "torch eager", "true-length", 2.0)
    del old.details["interval"], old.details["load_average"]
    table = speed_table([old])
    assert line(table, "Student")["True length, s"] == Cell("2.00")
