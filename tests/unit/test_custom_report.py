"""Tasks of one's own and given models in the report: table, summary and examples, and nothing in GLUE's table."""

import json
from pathlib import Path
from typing import Any

import pytest

from tinydistilbert import results
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import CustomTask, Finetune, Recipe
from tinydistilbert.report import paper_tables
from tinydistilbert.report.ablation import Ablation, Variation, ablation_table
from tinydistilbert.report.card import model_card
from tinydistilbert.report.examples import PAIR, QUESTION, SENTENCE, read_examples
from tinydistilbert.report.page import write_report
from tinydistilbert.report.summary import summarize
from tinydistilbert.report.variants_table import variants_table
from tinydistilbert.results import Measurement
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import custom, tasks_of

FINETUNE = Finetune(
    tasks=("reviews", "alike", "manual"),
    custom={
        "reviews": CustomTask(train="a.csv", validation="b.csv"),
        "alike": CustomTask(train="a.csv", validation="b.csv", kind="regression", text_pair="other"),
        "manual": CustomTask(train="a.json", validation="b.json", kind="span"),
    },
)
TASKS = tasks_of(FINETUNE)


def score(model: str, name: str, value: float, *, metric: str = "", seed: int = 0, **details: Any) -> Measurement:
    counts = {"examples": 40, "examples_total": 40, "train_examples": 100, "train_examples_total": 100}
    all_details = {"interval": [value - 0.02, value + 0.02], "majority": 0.5, **details}
    return Measurement(
        model, name, metric or TASKS[name].headline, value, "validation", seed=seed, details=all_details, **counts
    )


def texts(table: Any) -> dict[str, list[str]]:
    return {row.cells[0].text: [cell.text + cell.marks for cell in row.cells[1:]] for row in table.rows}


def test_their_table_has_medians_marks_the_same_answer_and_what_was_kept() -> None:
    measured = [score("teacher", "reviews", 0.9, seed=seed) for seed in (0, 1, 2)]
    measured += [score("student", "reviews", value, seed=seed) for seed, value in enumerate((0.7, 0.81, 0.9))]
    measured += [score("student", "manual", 0.3, metric=m, warnings=["a warning"]) for m in ("exact_match", "f1")]
    table = paper_tables.score_table(custom.TABLE, measured, TASKS)
    assert table.name == "custom" and table.columns == (
        "Model", "reviews, accuracy", "manual, exact match", "manual, F1",
    )  # fmt: skip
    rows = texts(table)
    assert rows["Student"] == ["81.0", "30.0⚠", "30.0⚠"]
    assert rows["Student, % kept"] == ["77.5", "–", "–"]
    assert rows["Majority baseline"] == ["50.0", "50.0", "50.0"]
    assert any("⚠ Student, manual: a warning." in note for note in table.notes)


def test_nothing_of_them_is_printed_in_the_tables_of_the_paper() -> None:
    measured = [score("teacher", "reviews", 0.9), score("student", "reviews", 0.8)]
    assert [table.name for table in paper_tables.all_tables(measured, TASKS) if table.is_measured] == ["custom"]
    assert not paper_tables.score_table(custom.TABLE, measured).is_measured, "only the run's recipe knows them"
    rows = variants_table([*measured, score("student", "reviews", 0.7, metric="macro_f1")], TASKS).rows
    assert [[cell.text for cell in row.cells[:5]] for row in rows] == [
        ["reviews", "validation", "accuracy ★", "Teacher", "90.0"],
        ["reviews", "validation", "accuracy ★", "Student", "80.0"],
        ["reviews", "validation", "macro F1", "Student", "70.0"],
    ]


@pytest.mark.parametrize(
    ("rows", "verdict"),
    [
        ({"model": 0.8}, "The model scores 80.0 points (1 task: reviews)."),
        ({"teacher": 0.8, "model (D)": 0.76},
         "The distilled model keeps 86.7 % of the teacher’s score above the majority (1 task: reviews; raw share "
         "95.0 %)."),
        ({"teacher": 0.8, "student": 0.6},
         "The student keeps 33.3 % of the teacher’s score above the majority (1 task: reviews; raw share 75.0 %)."),
    ],
)  # fmt: skip
def test_the_summary_is_about_whatever_was_fine_tuned(rows: dict[str, float], verdict: str) -> None:
    summary = summarize([score(model, "reviews", value) for model, value in rows.items()], TASKS)
    assert summary.verdict == verdict and "one seed" in summary.sure[0]
    assert not any("overlap" in sentence or "may be chance" in sentence for sentence in summary.sure)
    assert any("are missing" in sentence for sentence in summary.sure) == ("teacher" in rows)


def test_one_sanity_warning_is_enough_about_a_given_model() -> None:
    summary = summarize([score("model", "reviews", 0.5, warnings=["the same"])], TASKS)
    assert any("sanity check failed on reviews" in sentence and "means little" in sentence for sentence in summary.sure)


def samples(run: Path, name: str, slug: str, sample: dict[str, Any]) -> None:
    path = run / "tasks" / name / slug / "seed-0" / "scores" / "samples.jsonl"
    atomic.write_text(path, json.dumps({"split": "validation", **sample}) + "\n")


def run_of_a_model(run: Path) -> Path:
    """A run folder as `finetune.model` leaves it: a teacher that was given, and the model taught by it."""
    finetune = {"model": "models/tiny", "tasks": ["reviews", "alike", "manual"]}
    custom = {name: {"train": "a.csv", "validation": "b.csv"} for name in finetune["tasks"]}
    custom["alike"] |= {"kind": "regression", "text_pair": "other"}
    custom["manual"] |= {"kind": "span"}
    settings = toml.from_dict({"name": "mine", "finetune": {**finetune, "custom": custom}}, "test")
    atomic.write_text(run / "recipe.toml", toml.to_toml(settings))
    measured = [score("teacher", name, 0.9) for name in TASKS if name in custom]
    results.write(run / "results.jsonl", measured + [score("model (D)", name, 0.8) for name in custom])
    for slug, prediction in (("teacher", "pos"), ("model-d", "neg")):
        samples(run, "reviews", slug, {"idx": 0, "text": "Good <b>film</b>", "gold": "pos", "prediction": prediction})
        samples(run, "alike", slug, {"idx": 0, "text": "a", "text_pair": "b", "gold": 1.5, "prediction": 1.25})
        answer = {"id": "q", "question": "Where?", "context": "Paris is in France", "gold": ["France"]}
        samples(run, "manual", slug, {**answer, "prediction": "France"})
    return run


def test_a_run_without_student_text_and_benchmark_is_reported(tmp_path: Path) -> None:
    html = write_report(run_of_a_model(tmp_path)).read_text(encoding="utf-8")
    assert "keeps 75.0 % of the teacher’s score above the majority (mean of 3 tasks; raw share 88.9 %)." in html
    assert html.index("<h3>Your tasks</h3>") < html.index("Published tables without a measurement of this run")
    assert "Model (D), % kept" in html and "<h2>Pretraining</h2>" not in html
    assert "<dt>Model</dt><dd>models/tiny</dd>" in html and "<dt>Teacher</dt>" not in html
    assert "Good &lt;b&gt;film&lt;/b&gt;" in html and "Good <b>" not in html
    assert "<svg" in html and ">reviews</text>" in html


def test_examples_of_ones_own_tasks_come_before_those_of_the_built_in_ones(tmp_path: Path) -> None:
    run = run_of_a_model(tmp_path)
    samples(run, "cola", "teacher", {"idx": 0, "text": "x", "gold": "acceptable", "prediction": "acceptable"})
    kinds = {kind.title: kind.examples[0] for kind in read_examples(run, TASKS)}
    assert {title: example.task for title, example in kinds.items()} == {
        SENTENCE: "reviews", PAIR: "alike", QUESTION: "manual",
    }  # fmt: skip
    judged = [(answer.model, answer.text, answer.right) for answer in kinds[SENTENCE].predictions]
    assert judged == [("Teacher", "pos", True), ("Model (D)", "neg", False)]
    assert [kind.examples[0].task for kind in read_examples(run)] == ["CoLA"]


def test_the_card_and_the_ablation_know_them() -> None:
    recipe = Recipe(finetune=FINETUNE)
    assert "**Your tasks.**" in model_card([score("student", "reviews", 0.8)], recipe, name="mine")
    measured = [score("baseline", "reviews", 0.8, finetune_seed=0)]
    table = ablation_table(Ablation(recipe, [Variation("baseline", {})], measured))
    assert table.columns[2:7] == ("Mean of 3", "Δ", "reviews", "alike", "manual")
    assert texts(table)["baseline"][3] == "80.0"
