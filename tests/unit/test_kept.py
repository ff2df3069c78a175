"""What is kept above the majority baseline: the arithmetic by hand, and how sure the page is of it."""

import ast
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from tinydistilbert import results
from tinydistilbert.evaluation import sanity
from tinydistilbert.recipe.schema import Finetune, Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report import scores
from tinydistilbert.report.compare import compare, compare_rows, measured_differences, parse_run
from tinydistilbert.report.compression import compressed_models
from tinydistilbert.report.kept import kept_on, kept_over, kept_share, raw_share, teacher_above_majority
from tinydistilbert.report.page import write_report
from tinydistilbert.report.paper_tables import score_table
from tinydistilbert.report.summary import summarize
from tinydistilbert.report.use import best_facts
from tinydistilbert.report.variants_table import variants_table
from tinydistilbert.results import Measurement, Origin
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS, glue


def test_kept_by_hand() -> None:
    # A teacher with 90 % where a constant answer has 50 %: of its 40 points a student with 82 % keeps 32.
    assert kept_share(0.82, 0.9, 0.5) == pytest.approx(0.8) and raw_share(0.82, 0.9) == pytest.approx(0.9111, abs=1e-4)
    assert kept_share(0.5, 0.95, 0.5) == 0, "a coin keeps nothing, though its raw share is 53 %"
    assert raw_share(0.5, 0.95) == pytest.approx(0.526, abs=1e-3)
    assert kept_share(0.45, 0.9, 0.5) == pytest.approx(-0.125), "worse than a constant answer"
    assert kept_share(0.94, 0.9, 0.5) == pytest.approx(1.1), "better than its teacher"
    assert kept_share(0.2, 0.25, 0.0) == pytest.approx(0.8), "of correlations the majority is 0"
    assert kept_share(0.56, 0.5, 0.56) is None and kept_share(0.6, 0.56, 0.56) is None, "nothing to keep"
    assert kept_share(None, 0.9, 0.5) is None and kept_share(0.8, 0.9, None) is None


def test_what_the_majority_baseline_scores_in_each_metric() -> None:
    labels = np.array([1, 1, 1, 0])  # as MRPC, most are 1: F1 is 2 * 3 / (3 + 4), accuracy 3 / 4
    expected = {
        "accuracy": 3 / 4, "f1": 6 / 7, "f1_accuracy_mean": (6 / 7 + 3 / 4) / 2, "macro_f1": 3 / 7,
        "matthews_correlation": 0.0,
    }  # fmt: skip
    assert {name: sanity.majority_score(name, labels) for name in expected} == pytest.approx(expected)
    assert sanity.majority_score("f1", 1 - labels) == 0, "as QQP, most are 0: the constant answer has no F1 of class 1"
    assert sanity.majority_score("f1_accuracy_mean", 1 - labels) == 3 / 8
    numbers = np.array([0.0, 1.0, 5.0])
    for name in ("pearson", "spearman", "pearson_spearman_mean"):
        assert sanity.majority_score(name, numbers) == 0
    assert sanity.majority_answer([["the Seine"], ["Paris"], ["Seine", "river"]]) == "seine"


def score(model: str, name: str, value: float, interval: Sequence[float], majority: float, **more: Any) -> Measurement:
    task, details = TASKS[name], {"interval": list(interval), "majority": majority}
    return Measurement(model, name, task.headline, value, task.evaluation[0], details=details, **more)


def difference(row: str, against: str, name: str, value: float, interval: Sequence[float], p: float) -> Measurement:
    task = TASKS[name]
    details = {
        "of": name, "against": against, "first": value + 0.5, "second": 0.5, "interval": list(interval), "p": p,
        "p_adjusted": p, "seeds": [1, 1],
    }  # fmt: skip
    return Measurement(row, "compare", task.headline, value, task.evaluation[0], examples=99, details=details)


def test_the_mean_is_of_the_shares_of_the_tasks_on_which_the_teacher_is_beyond_chance() -> None:
    measured = [
        score("teacher", "sst2", 0.9, (0.88, 0.92), 0.5), score("student", "sst2", 0.8, (0.78, 0.82), 0.5),
        score("teacher", "cola", 0.4, (0.35, 0.45), 0.0), score("student", "cola", 0.2, (0.15, 0.25), 0.0),
        score("teacher", "wnli", 0.5, (0.4, 0.6), 0.56), score("student", "wnli", 0.62, (0.5, 0.7), 0.56),
        # Its own interval lies above the majority baseline, but the paired test says that it may be chance.
        score("teacher", "rte", 0.6, (0.54, 0.66), 0.53), score("student", "rte", 0.6, (0.54, 0.66), 0.53),
        difference("teacher", "majority", "rte", 0.07, (-0.01, 0.15), 0.08),
    ]  # fmt: skip
    above = teacher_above_majority(measured, TASKS)
    assert above.beyond == {"sst2", "cola"} and above.untested == {"sst2", "cola", "wnli"}
    collected = scores.collect(measured)
    kept = kept_over(collected, "student", [TASKS[name] for name in ("sst2", "cola", "wnli", "rte")], above)
    # 0.3 / 0.4 and 0.2 / 0.4; the raw means are 2.22 / 4 and 2.4 / 4.
    assert kept.share == pytest.approx((0.75 + 0.5) / 2) and kept.raw == pytest.approx(2.22 / 2.4)
    assert [task.name for task in kept.counted] == ["sst2", "cola"]
    assert [task.name for task in kept.left_out] == ["wnli", "rte"]
    assert kept_on(collected, "student", TASKS["rte"], above) is None
    summary = summarize(measured)
    assert "keeps 62.5 % of the teacher’s score above the majority (2 of 4 tasks: CoLA, SST-2; raw share 92.5 %)" in (
        summary.verdict
    )
    assert summary.figures[0].value == "62.5 %" and "raw share 92.5 %" in summary.figures[0].detail


def test_a_run_without_a_pretrained_student_is_about_the_one_of_its_teachers() -> None:
    rows = {"teacher": 0.9, "student (D)": 0.88, "control": 0.7}
    measured = [score(row, "sst2", value, (value - 0.02, value + 0.02), 0.5) for row, value in rows.items()]
    summary = summarize(measured)
    assert "The student keeps 95.0 % of the teacher’s score above the majority" in summary.verdict
    assert ("+18.0", "points from distilling") in [(figure.value, figure.label) for figure in summary.figures]
    with_student = summarize([*measured, score("student", "sst2", 0.6, (0.58, 0.62), 0.5)])
    assert "keeps 25.0 %" in with_student.verdict


@pytest.mark.parametrize(
    ("name", "value", "low", "majority", "is_beyond"),
    [
        ("rte", 0.596, 0.534, 0.527, False),  # 6.9 points above, the interval goes 6.2 down: times 1.41 is 8.8
        ("rte", 0.63, 0.57, 0.527, True),  # 10.3 above, 8.5 needed
        ("cola", 0.05, 0.01, 0.0, True),  # the baseline's correlation is 0 on any examples
        ("cola", 0.05, -0.01, 0.0, False),
    ],
)  # fmt: skip
def test_without_predictions_the_teachers_interval_decides(
    name: str, value: float, low: float, majority: float, is_beyond: bool
) -> None:
    above = teacher_above_majority([score("teacher", name, value, (low, 2 * value - low), majority)], TASKS)
    assert (above.beyond, above.untested) == ({name} if is_beyond else set(), {name})


def test_without_a_task_left_there_is_a_reason_and_no_headline() -> None:
    measured = [
        score("teacher", "rte", 0.56, (0.5, 0.62), 0.53), score("student", "rte", 0.55, (0.49, 0.61), 0.53),
    ]  # fmt: skip
    summary = summarize(measured)
    assert summary.verdict.startswith(
        "How much of the teacher is kept cannot be determined: the teacher does not beat the majority"
    )
    assert "RTE" in summary.verdict and "keeps" not in summary.verdict and not summary.figures
    table = score_table(glue.TABLE, measured)
    (row,) = [row for row in table.rows if row.cells[0].text == "Student, % kept"]
    assert {cell.text for cell in row.cells[1:]} == {"–"}
    assert any(cell.detail.startswith("raw 98.2") for cell in row.cells)


LABELS = [0, 1] * 60
WRONG = {"teacher": 6, "student": 24, "control": 40, "tf-idf": 22, "static embeddings": 50}


def make_run(run: Path, wrong: Mapping[str, int], tasks: Sequence[str] = ("sst2",)) -> Path:
    """A run whose rows have so many predictions wrong, each other ones, with predictions and measurements."""
    recipe = Recipe(name="made-up", finetune=Finetune(tasks=tuple(tasks), seeds=(0,)))
    atomic.write_text(run / "recipe.toml", to_toml(recipe))
    measured, labels = [], np.array(LABELS)
    for name in tasks:
        for place, (row, count) in enumerate(wrong.items()):
            predictions = labels.copy()
            at = np.random.default_rng(place).choice(len(labels), count, replace=False)
            predictions[at] = 1 - labels[at]
            value = float((predictions == labels).mean())
            half = 1.96 * (value * (1 - value) / len(labels)) ** 0.5
            one = score(row, name, value, (value - half, value + half), 0.5, examples=120, examples_total=120)
            with atomic.unfinished(RunFolder(run).scores(name, row, 0), task=name, row=row, seed=0) as folder:
                columns = {"idx": range(len(labels)), "label": LABELS, "prediction": predictions.tolist()}
                pyarrow.parquet.write_table(pa.table(columns), folder / "predictions-validation.parquet")
                results.write(folder / "measurements.jsonl", [one])
            measured.append(one)
    results.write(run / "results.jsonl", [*measured, *measured_differences(run, Origin.of(recipe))])
    return run


def test_how_sure_is_said_by_the_paired_test_and_never_against_the_table_of_differences(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"teacher": 6, "student": 17})
    measured = results.read(run / "results.jsonl")
    teacher, student = (m.details["interval"] for m in measured[:2])
    assert teacher[0] < student[1], "the intervals of the two overlap"
    (lower,) = [d for d in compare_rows(run).differences if d.row == "student"]
    assert lower.mark == "▼", "though the paired test is sure"
    html = write_report(run).read_text(encoding="utf-8")
    assert "significantly lower than the teacher on 1 of 1 tasks (SST-2)" in html and "may be chance" not in html
    assert "overlap" not in html
    low, high = lower.paired.interval
    assert "Differences between the rows" in html and f"{100 * low:.1f} to {100 * high:.1f}".replace("-", "−") in html
    (same,) = compare(parse_run(f"{run}:student"), parse_run(f"{run}:teacher")).differences
    assert same.paired == lower.paired


def test_a_student_that_does_not_beat_a_cheap_baseline_carries_a_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", WRONG)
    measured = results.read(run / "results.jsonl")
    (student,) = [s for (model, *_), s in scores.collect(measured).items() if model == "student"]
    assert student.marks == "⚠" and len(student.unbeaten) == 1 and student.unbeaten[0].baseline == "TF-IDF"
    table = score_table(glue.TABLE, measured)
    rows = {row.cells[0].text: row for row in table.rows}
    assert "⚠" in rows["Student"].cells[-2].marks + "".join(cell.marks for cell in rows["Student"].cells)
    assert not any(cell.marks for cell in rows["Teacher"].cells)
    assert any(note.startswith("⚠ Student, SST-2: it does not beat TF-IDF") for note in table.notes)
    assert any("No better than a cheap baseline" in sentence for sentence in summarize(measured).sure)
    (warned,) = [row for row in variants_table(measured).rows if row.cells[3].text == "Student"]
    assert warned.cells[4].marks == "⚠" and warned.cells[7].text == "66.7", "36 of the teacher's 54 points"
    better = results.read(make_run(tmp_path / "better", WRONG | {"student": 4}) / "results.jsonl")
    (student,) = [s for (model, *_), s in scores.collect(better).items() if model == "student"]
    assert not student.marks and not student.unbeaten


@pytest.mark.parametrize(
    ("teacher", "interval", "says"),
    [(0.9, (0.85, 0.95), "keeps 80.0 % of the teacher’s score"), (0.54, (0.45, 0.63), "scores 82.0 points")],
)
def test_what_a_compressed_model_keeps_is_said_where_its_teacher_beats_the_majority_beyond_chance(
    teacher: float, interval: tuple[float, float], says: str, tmp_path: Path
) -> None:
    facts = {"of": "sst2", "row": "student", "place": 0, "best": True}
    scored = {"difference": {"value": 0.0, "p": 1.0}, "warnings": [], "interval": [0.8, 0.84], "majority": 0.5}
    measurements = [
        score("teacher", "sst2", teacher, interval, 0.5, examples=100, examples_total=100),
        Measurement("int8", "compress", "accuracy", 0.82, "validation", examples=100, details=facts | scored),
        Measurement("int8", "compress", "milliseconds", 2.0, details=facts | {"p50_ms": 2.0, "noisy": False}),
        Measurement("int8", "compress", "bytes", 2e6, details=facts),
    ]
    (compressed,) = compressed_models(measurements, TASKS)
    run = tmp_path / 'a "run" with \\ and é'
    best = best_facts(run, compressed, measurements)
    opened = next(line for line in best.code.splitlines() if "load" in line)
    (path,) = (node.value for node in ast.walk(ast.parse(opened)) if isinstance(node, ast.Constant))
    assert path == best.model.as_posix() == shlex.split(best.command)[2]
    assert says in best.sentence and (best.as_data["kept"] is not None) == ("keeps" in says)
    assert ("what is kept cannot be said" in best.lines[0]) == ("scores" in says)
