"""The tables: values, marks and means worked out by hand, and published figures that agree with themselves."""

import functools
import io
import re
from typing import Any

import pytest
from rich.console import Console

from tinydistilbert.recipe.names import GLUE_NAMES
from tinydistilbert.report import paper_tables, published, scores
from tinydistilbert.report.speed import speed_table
from tinydistilbert.report.table import Cell, Table, TableRow, points, to_markdown, to_rich
from tinydistilbert.report.variants_table import variants_table
from tinydistilbert.results import Measurement
from tinydistilbert.tasks import TASKS, glue, imdb, synthetic


def score(model: str, name: str, value: float, *, metric: str = "", seed: int = 0, **more: Any) -> Measurement:
    task = TASKS[name]
    return Measurement(model, name, metric or task.headline, value, task.evaluation[0], seed=seed, **more)


def latency(model: str, protocol: str, seconds: float, **details: Any) -> Measurement:
    common = {"p50_ms": 1.0, "p90_ms": 2.0, "spread": 1.0, "noisy": False, "estimated": False, "synthetic": False}
    common |= {"backend": "torch eager", "inputs": "STS-B validation", "gpu": "", "device": "cpu", "protocol": protocol}
    return Measurement(model, "latency", "seconds_per_pass", seconds, "validation", False, details=common | details)


def line(table: Table, name: str) -> dict[str, Cell]:
    """The cells of the row called `name`, by heading."""
    (row,) = [row for row in table.rows if row.cells[0].text == name]
    return dict(zip(table.columns, row.cells, strict=True))


NINE = {name: 0.1 * (i + 1) for i, name in enumerate(GLUE_NAMES)}


NINE_TASKS = [TASKS[name] for name in GLUE_NAMES]
glue_table = functools.partial(paper_tables.score_table, glue.TABLE)
downstream_table = functools.partial(paper_tables.score_table, imdb.TABLE)
synthetic_table = functools.partial(paper_tables.score_table, synthetic.TABLE)


def test_published_scores_average_to_the_printed_ones() -> None:
    for row in (published.ELMO, published.BERT_BASE, published.DISTILBERT, published.TINYDISTILBERT_MEDIANS):
        printed = glue.TABLE.published_scores[row.name]
        assert printed == pytest.approx(published.mean_over(row.name, NINE_TASKS), abs=0.05), row.name
    assert published.mean_over("TinyDistilBERT", NINE_TASKS) == pytest.approx(54.8), "means, beside the medians' 54.9"
    uncorrected = sum(task.published[task.headline]["BERT-base"] for task in NINE_TASKS) / 9
    assert uncorrected == pytest.approx(79.7, abs=0.05), "the printed MNLI does not give the printed mean: the note"


def test_every_published_score_is_of_a_known_model_and_metric() -> None:
    for task in TASKS.values():
        assert set(task.published) <= set(task.table_metrics), task.name
        assert set(published.models_of([task])) <= set(published.MODELS), task.name
    assert published.models_of(NINE_TASKS) == glue.PUBLISHED
    assert published.models_of([TASKS["imdb"], TASKS["squad"]]) == (
        "BERT-base", "DistilBERT", "DistilBERT (D)", "TinyDistilBERT", "TinyDistilBERT (D)",
    )  # fmt: skip


def test_the_score_is_the_plain_mean_of_nine() -> None:
    table = glue_table([score("student", name, value) for name, value in NINE.items()])
    assert table.columns[:2] == ("Model", "Score") and "Mean" not in "".join(table.columns)
    assert line(table, "Student")["Score"].text == "50.0"
    assert line(table, "Student")["MNLI"].text == "20.0"


def test_with_fewer_tasks_the_score_stays_empty_and_every_row_has_the_mean_of_those() -> None:
    measured = [
        score(m, n, v)
        for m, k in (("teacher", 1.0), ("student", 0.5))
        for n, v in (("cola", 0.4 * k), ("mnli", 0.8 * k))
    ]
    measured.append(score("teacher", "rte", 0.9))
    table = glue_table(measured)
    assert table.columns[1:3] == ("Score", "Mean of 2")
    assert line(table, "Student")["Score"].text == line(table, "Teacher")["Score"].text == "–"
    assert line(table, "Teacher")["Mean of 2"].text == "60.0", "RTE is not among the student's tasks"
    assert line(table, "Student")["Mean of 2"].text == "30.0"
    assert line(table, "DistilBERT")["Mean of 2"].text == f"{(51.3 + 82.2) / 2:.1f}"
    assert line(table, "BERT-base")["Mean of 2"].text == f"{(56.3 + 84.7) / 2:.1f}", "with the corrected MNLI"
    assert line(table, "BERT-base")["MNLI"] == Cell("86.7", "‡")
    assert any("CoLA, MNLI" in note for note in table.notes)


def above(majority: float) -> dict[str, Any]:
    """Details of a score whose interval is narrow, beside a majority baseline."""
    return {"majority": majority, "interval": [0.79, 1.0]}


def test_kept_is_the_share_above_the_majority_and_the_raw_share_stands_below_it() -> None:
    measured = [
        score("teacher", "sst2", 0.9, details=above(0.5)), score("student", "sst2", 0.81, details=above(0.5)),
        score("control", "sst2", 0.6, details=above(0.5)), score("tf-idf", "sst2", 0.7, details=above(0.5)),
        score("teacher", "cola", -0.02, details={"majority": 0.0, "interval": [-0.1, 0.06]}),
        score("student", "cola", 0.1, details=above(0.0)),
    ]  # fmt: skip
    table = glue_table(measured)
    kept = line(table, "Student, % kept")
    assert (kept["SST-2"].text, kept["SST-2"].detail) == ("77.5", "raw 90.0") and kept["SST-2"].share == pytest.approx(
        0.775
    )
    assert kept["CoLA"] == Cell("–"), "nothing to keep of a correlation below zero"
    assert (kept["Mean of 2"].text, kept["Mean of 2"].detail) == ("77.5", "1 of 2; raw 103.4")
    assert kept["Score"].text == "–", "not all nine were scored"
    assert line(table, "Control, % kept")["SST-2"].text == "25.0"
    assert line(table, "TF-IDF, % kept")["SST-2"].text == "50.0"
    assert [row.kind for row in table.rows if row.cells[0].text in ("Majority baseline", "TF-IDF")] == ["baseline"] * 2
    assert any("does not beat the majority" in note and note.endswith("CoLA.") for note in table.notes)


def test_subsets_and_warnings_are_marked_and_explained() -> None:
    warned = {"majority": 0.8, "warnings": ["0.700 is not above the 0.800 of the majority class alone"]}
    measured = [
        score(
            "student",
            "sst2",
            0.7,
            examples=100,
            examples_total=872,
            train_examples=2000,
            train_examples_total=67349,
            details=warned,
        ),
        score("teacher", "sst2", 0.9, examples=872, examples_total=872),
    ]
    table = glue_table(measured)
    assert line(table, "Student")["SST-2"].marks == "*†⚠"
    assert line(table, "Student")["Mean of 1"].marks == "*†⚠"
    assert line(table, "Teacher")["SST-2"].marks == ""
    assert line(table, "Majority baseline")["SST-2"].text == "80.0"
    notes = "\n".join(table.notes)
    assert (
        "SST-2 100 of 872" in notes and "SST-2 2,000 of 67,349" in notes and "⚠ Student, SST-2: 0.700 is not" in notes
    )


@pytest.mark.parametrize("by", ["reported", "published"])  # the second in measurements of earlier versions
def test_an_epoch_chosen_by_the_scored_examples_brands_the_row(by: str) -> None:
    details = {"selected": {"by": by, "epoch": 2.0}}
    branded = score("student", "rte", 0.6, details=details)
    honest = score("teacher", "rte", 0.6, details={"selected": {"by": "heldout", "epoch": 2.0}})
    table = glue_table([branded, honest])
    assert line(table, "Student")["RTE"].marks == "¶" and line(table, "Teacher")["RTE"].marks == ""
    assert any(note.startswith("¶") and "Student, RTE" in note and "Teacher" not in note for note in table.notes)


def test_several_seeds_give_median_and_range() -> None:
    values = {0: 0.50, 1: 0.60, 2: 0.52}
    table = glue_table([score("student", "rte", value, seed=seed) for seed, value in values.items()])
    assert line(table, "Student")["RTE"] == Cell("52.0", detail="50.0–60.0")
    assert any("Medians over 3 seeds" in note for note in table.notes)


def test_a_number_measured_again_replaces_the_old_one() -> None:
    collected = scores.collect([score("student", "rte", 0.5), score("student", "rte", 0.7)])
    (only,) = collected.values()
    assert only.value == 0.7 and only.range is None


def test_downstream_has_the_second_distillation_as_a_row_of_its_own() -> None:
    measured = [
        score("teacher", "squad", 0.8, metric="f1", details=above(0.05)),
        score("student (D)", "squad", 0.6, metric="f1", details=above(0.05)),
    ]
    measured += [score("student (D)", "squad", 0.5, metric="exact_match"), score("teacher", "imdb", 0.9)]
    table = downstream_table(measured)
    assert [cell.text for cell in line(table, "Student (D)").values()] == ["Student (D)", "–", "50.0", "60.0"]
    kept = line(table, "Student (D), % kept")["SQuAD, F1"]
    assert (kept.text, kept.detail) == ("73.3", "raw 75.0"), "of 0.75 points above the majority 0.55"
    assert [cell.text for cell in line(table, "TinyDistilBERT (D)").values()][2:] == ["10.98", "19.62"]
    assert [cell.text for cell in line(table, "BERT-base").values()] == ["BERT-base", "93.46", "81.2", "88.5"]


def test_synthetic_tasks_show_only_what_was_run() -> None:
    table = synthetic_table([score("student", "adjacency", 0.75), score("student", "cloze-qa", 0.5)])
    assert table.columns == ("Model", "Mean of 2", "Adjacency, accuracy", "Cloze QA, exact match", "Cloze QA, F1")
    assert line(table, "Student")["Mean of 2"].text == "62.5"
    assert not synthetic_table([]).is_measured


def test_pretraining_prints_nats_not_points() -> None:
    measured = [
        Measurement("student", "pretraining", metric, value, "validation", False, 8, 9)
        for metric, value in (("perplexity", 1234.5), ("kl", 0.25))
    ]
    table = paper_tables.pretraining_table(measured)
    assert table.columns == ("Model", "KL to teacher, nats", "Perplexity")
    assert [cell.text for cell in line(table, "Student").values()] == ["Student", "0.250", "1,234"]
    assert "On 8 of 9 held-out blocks." in table.notes


def test_variants_hold_every_metric_split_and_interval() -> None:
    details = {"interval": [0.6, 0.8], "majority": 0.66}
    measured = [
        score("student", "mrpc", 0.7, metric="f1", examples=408, examples_total=408, details=details),
        score("student", "mrpc", 0.75, examples=408, examples_total=408),
        Measurement("student", "mnli", "accuracy", 0.6, "validation_mismatched", examples=10, examples_total=9832),
    ]
    table = variants_table(measured)
    texts = {(row.cells[0].text, row.cells[2].text): [cell.text for cell in row.cells] for row in table.rows}
    assert set(texts) == {("MRPC", "F1"), ("MRPC", "mean of F1 and accuracy ★"), ("MNLI", "accuracy")}
    assert texts["MRPC", "F1"][3:] == ["Student", "70.0", "60.0 to 80.0", "66.0", "–", "1", "408 of 408", "–"]


def test_speed_puts_published_and_measured_side_by_side() -> None:
    measured = [
        Measurement(model, "size", "parameters", count, details={"megabytes_fp32": 4 * count / 1e6})
        for model, count in (("bert-base", 109_482_240), ("student", 16.6e6))
    ]
    measured += [
        latency("bert-base", "true-length", 200.0, weights="random"),
        latency("student", "true-length", 25.0, noisy=True, spread=1.2),
    ]
    table = speed_table(measured)
    bert = line(table, "BERT-base")
    assert (bert["Parameters"].text, bert["Paper, s"].text, bert["Replication, s"].text) == (
        "109.5 M",
        "668",
        "423.65",
    )
    assert bert["Paper, s"].printed
    student = line(table, "Student")["True length, s"]
    assert student == Cell("25.0", "⚠", "8.00×")
    elmo = line(table, "ELMo")
    assert elmo["Paper, s"].text == "895" and elmo["True length, s"].text == "–"
    assert [row.kind for row in table.rows if row.cells[0].text == "ELMo"] == ["published"]
    notes = "\n".join(table.notes)
    assert "Student true-length 20 %" in notes and "ELMo's figures are published" in notes and "random weights" in notes


def test_speed_has_a_column_for_the_gpu_where_there_is_one() -> None:
    table = speed_table(
        [latency("student", "true-length", 2.0), latency("student", "true-length", 1.0, device="cuda", gpu="G")]
    )
    assert "GPU, true length, s" in table.columns
    assert line(table, "Student")["GPU, true length, s"].text == "1.00"


@pytest.mark.parametrize(
    "build",
    [
        glue_table,
        downstream_table,
        synthetic_table,
        paper_tables.pretraining_table,
        variants_table,
        speed_table,
    ],
)
def test_nothing_measured_gives_published_rows_only(build: Any) -> None:
    table = build([])
    assert not table.is_measured
    assert {row.kind for row in table.rows} <= {"published"}
    assert all(len(row.cells) == len(table.columns) for row in table.rows)


def test_a_score_that_rounds_to_nothing_has_no_sign() -> None:
    """Correlations may be a little below 0."""
    assert [points(value) for value in (-0.0004, 0.0004, -0.0006)] == ["0.0", "0.0", "-0.1"]
    assert line(glue_table([score("student", "cola", -0.0004)]), "Student")["CoLA"].text == "0.0"


def test_markdown_has_as_many_cells_in_every_line_and_escapes_bars() -> None:
    table = Table(
        "t",
        "Title",
        "Caption.",
        ("Model", "A"),
        (TableRow("measured", (Cell("a|b"), Cell("1.0", "*", "0.9–1.1"))),),
        ("* note.",),
    )
    text = to_markdown(table)
    lines = [part for part in text.splitlines() if part.startswith("|")]
    assert lines == ["| Model | A |", "| :-- | --: |", "| a\\|b | 1.0* (0.9–1.1) |"]
    assert "* note." in text


def test_the_terminal_shows_every_cell_and_reads_no_markup() -> None:
    table = Table(
        "t",
        "runs/[old] − runs/new",
        "Caption.",
        ("Model", "A"),
        (TableRow("measured", (Cell("[red]x[/red]"), Cell("1.0", "*"))),),
        ("note", "every prediction is the same: [spam] or [/spam]"),
    )
    stream = io.StringIO()
    Console(file=stream, width=100).print(to_rich(table))
    shown = stream.getvalue()
    assert "[red]x[/red]" in shown and re.search(r"1\.0\*", shown) and "note" in shown
    assert "[old]" in shown and "[spam]" in shown and "[/spam]" in shown, "a folder and labels with brackets"


def test_a_split_that_the_data_lacks_is_named() -> None:
    lacking = score("teacher", "mnli", 0.6, details={"missing": ["validation_mismatched"]})
    (note,) = [note for note in glue_table([lacking]).notes if "mismatched" in note]
    assert note == "MNLI: no validation_mismatched in the data, so not scored."
