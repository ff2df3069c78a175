"""Comparing runs: made-up predictions whose differences, counts and messages are known."""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

import tinydistilbert as td
from tinydistilbert import results
from tinydistilbert.api.outcomes import TaskModel
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation import resampling
from tinydistilbert.recipe.schema import Compress, Finetune, Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report.compare import ComparedRun, compare, compare_rows, measured_differences, parse_run
from tinydistilbert.report.comparison_page import comparison_table, write_comparison
from tinydistilbert.report.differences import differences_table, row_differences
from tinydistilbert.report.table import to_markdown
from tinydistilbert.results import Measurement, Origin
from tinydistilbert.run_folder import row_folder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import TASKS
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.recipe_splits import recipe_examples

LABELS = [0, 1] * 20
"""Of SST-2's sentences here; sentence i is `sentence number i`."""
GOOD = [1 - label if i < 2 else label for i, label in enumerate(LABELS)]
POOR = [1 - label if i >= 26 else label for i, label in enumerate(LABELS)]
"""GOOD has 2 wrong of 40 (0 and 1), POOR 14 (26 to 39): alone right are 14 and 2."""


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "glue/sst2").mkdir(parents=True)
    sentences = [f"sentence number {i} <b>" for i in range(len(LABELS))]
    pyarrow.parquet.write_table(
        pa.table({"sentence": sentences, "label": LABELS, "idx": list(range(len(LABELS)))}),
        folder / "glue/sst2/validation.parquet",
    )
    return folder


def recipe_of(data: Path | None, *tasks: str) -> Recipe:
    return Recipe(name="made-up", data=str(data) if data else None, finetune=Finetune(tasks=tasks))


def fingerprint(recipe: Recipe) -> str:
    return recipe_examples(recipe, TASKS["sst2"], "validation").fingerprint


def write_scores(
    run: Path, task: str, row: str, seed: int, columns: Mapping[str, Sequence[Any]], *, split: str = "validation",
    mark: str = "f",
) -> Path:  # fmt: skip
    slug = row_folder(row)
    path = run / f"tasks/{task}/{slug}/seed-{seed}/scores"
    with atomic.unfinished(path, task=task, row=row, seed=seed) as folder:
        pyarrow.parquet.write_table(pa.table(dict(columns)), folder / f"predictions-{split}.parquet")
        results.write(
            folder / "measurements.jsonl",
            [Measurement(row, task, "accuracy", 0.5, split, seed=seed, data_fingerprint=mark)],
        )
    return path


def sst2(predictions: Sequence[int], labels: Sequence[int] = LABELS, first: int = 0) -> dict[str, Sequence[Any]]:
    return {"idx": list(range(first, first + len(labels))), "label": labels, "prediction": predictions}


def make_run(
    folder: Path, rows: Mapping[str, Sequence[Sequence[int]]], data: Path | None = None, mark: str = "f"
) -> Path:
    """A run with SST-2 alone: for each row the predictions of each seed."""
    recipe = recipe_of(data, "sst2")
    atomic.write_text(folder / "recipe.toml", to_toml(recipe))
    for row, seeds in rows.items():
        for seed, predictions in enumerate(seeds):
            write_scores(folder, "sst2", row, seed, sst2(predictions), mark=fingerprint(recipe) if data else mark)
    return folder


def test_two_runs_differ_by_the_medians_of_their_seeds(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"student": [POOR, GOOD, GOOD]})  # median 38/40, not the mean
    b = make_run(tmp_path / "b", {"student": [POOR]})
    (difference,) = compare(ComparedRun(a), ComparedRun(b)).differences
    assert difference.paired.first == pytest.approx(38 / 40) and difference.paired.second == pytest.approx(26 / 40)
    assert difference.paired.difference == pytest.approx(12 / 40) and difference.seeds == (3, 1)
    assert difference.paired.p < 0.02 and difference.mark == "▲" and difference.adjusted == difference.paired.p
    low, high = difference.paired.interval
    assert 0.1 < low < 0.2 and 0.4 < high < 0.5
    (back,) = compare(ComparedRun(b), ComparedRun(a)).differences
    assert back.paired.difference == pytest.approx(-12 / 40) and back.mark == "▼"


def test_examples_that_one_side_alone_has_right_are_counted_by_the_majority_of_seeds(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"student": [GOOD, GOOD, POOR]})
    b = make_run(tmp_path / "b", {"student": [POOR, POOR]})
    (difference,) = compare(ComparedRun(a), ComparedRun(b)).differences
    assert difference.disagreement is not None
    first, second = difference.disagreement.cases
    assert {case.id for case in first} == set(range(26, 40)) and {case.id for case in second} == {0, 1}
    assert first[0].first == {0: TASKS["sst2"].labels[LABELS[first[0].id]]} | {
        1: TASKS["sst2"].labels[LABELS[first[0].id]], 2: TASKS["sst2"].labels[1 - LABELS[first[0].id]],
    }  # fmt: skip
    half = make_run(tmp_path / "c", {"student": [GOOD, POOR]})  # one of two seeds is no majority
    (undecided,) = compare(ComparedRun(half), ComparedRun(b)).differences
    assert undecided.disagreement is not None and undecided.disagreement.cases == ((), ())


def test_single_trainings_are_given_the_exact_test_of_mcnemar(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, {"student": [predictions]}) for name, predictions in (("a", GOOD), ("b", POOR)))
    (difference,) = compare(ComparedRun(a), ComparedRun(b)).differences
    assert difference.disagreement is not None
    # 14 against 2: twice the sum of C(16, k) / 2^16 for k = 0, 1, 2
    assert difference.disagreement.mcnemar == pytest.approx(2 * (1 + 16 + 120) / 2**16)


def test_one_run_is_its_rows_beside_one_another(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"teacher": [GOOD], "student": [POOR], "student (D)": [GOOD], "control": [POOR]})
    pairs = [(d.pairing.first.side.row, d.pairing.second.side.row) for d in compare(ComparedRun(run)).differences]
    assert pairs == [
        ("student", "teacher"), ("student (D)", "teacher"), ("student (D)", "student"), ("student", "control"),
        ("student (D)", "control"), ("teacher", "majority"),
    ]  # fmt: skip
    only = compare(ComparedRun(run, "student (D)")).differences
    assert [d.pairing.second.side.row for d in only] == ["teacher", "student", "control"]
    assert [d.paired.difference for d in only] == [0, *2 * [pytest.approx(12 / 40)]]
    assert only[0].paired.interval == (0, 0) and only[0].paired.p == 1
    adjusted = resampling.holm([d.paired.p for d in only])
    assert [d.adjusted for d in only] == adjusted and adjusted[1] == pytest.approx(3 * only[1].paired.p)


def compress_run(run: Path) -> None:
    """Add a compression of two variants, of which the second was chosen."""
    recipe = recipe_of(None, "sst2")
    atomic.write_text(
        run / "recipe.toml", to_toml(dataclasses.replace(recipe, compress=Compress(row="student", tasks=("sst2",))))
    )
    with atomic.unfinished(run / "tasks/sst2/compressed/summary") as folder:
        for place, predictions in enumerate((GOOD, POOR)):
            pyarrow.parquet.write_table(pa.table(dict(sst2(predictions))), folder / f"predictions-{place}.parquet")
        results.write(
            folder / "measurements.jsonl",
            [
                Measurement(
                    f"variant {place}", "compress", "accuracy", 0.5, "validation", data_fingerprint="f",
                    details={"of": "sst2", "place": place, "best": place == 1, "warnings": [f"warning {place}"]},
                )
                for place in (0, 1)
            ],
        )  # fmt: skip


def test_a_compressed_model_is_compared_by_its_predictions(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"teacher": [GOOD], "student": [GOOD]})
    compress_run(run)
    result = TaskModel(run, model=run / "tasks/sst2/compressed/best", task="sst2", row="student")
    comparison = td.compare(result, f"{run}:teacher")
    (difference,) = comparison.differences
    assert difference.paired.difference == pytest.approx(-12 / 40), "not the student before it was compressed"
    assert difference.pairing.first.warnings == ("warning 1",) and "Compressed model − Teacher" in repr(comparison)
    uncompressed = dataclasses.replace(result, model=run / "tasks/sst2/student/seed-0/model")
    assert td.compare(uncompressed, f"{run}:teacher").differences[0].paired.difference == 0
    pairs = [(d.row, d.pairing.second.side.row) for d in compare(parse_run(f"{run}:compressed")).differences]
    assert pairs == [("compressed", "teacher"), ("compressed", "student")]
    assert all(d.row != "compressed" for d in compare(ComparedRun(run)).differences), "only if it is named"
    alone = tmp_path / "alone"  # a given task model that was compressed: nothing else was scored
    compress_run(alone)
    assert compare(parse_run(f"{alone}:compressed"), parse_run(f"{run}:teacher")).differences[0].paired.first == 26 / 40
    with pytest.raises(UserError, match=r"compare .*alone:compressed"):
        compare(ComparedRun(alone), ComparedRun(run))


def test_rows_are_named_behind_a_colon(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"teacher": [GOOD], "student": [POOR]})
    other = make_run(tmp_path / "b:student", {"student": [POOR]})
    assert parse_run(str(run)) == ComparedRun(run)
    assert parse_run(f"{run}:student (D)") == ComparedRun(run, "student (D)")
    assert parse_run(str(other)) == ComparedRun(other), "a folder with a colon in its name is that folder"
    (difference,) = compare(parse_run(f"{run}:teacher"), parse_run(f"{run}:student")).differences
    assert difference.paired.difference == pytest.approx(12 / 40)
    (same,) = compare(parse_run(f"{run}:student"), parse_run(str(other))).differences
    assert same.paired.difference == 0, "a row that is named once is meant on both sides"
    with pytest.raises(UserError, match=r"use one of .*teacher"):
        compare(parse_run(f"{run}:studnet"), parse_run(str(other)))
    with pytest.raises(UserError, match=r"recipe\.toml"):
        parse_run(str(tmp_path))
    with pytest.raises(UserError, match="the same one twice"):
        compare(ComparedRun(run), ComparedRun(run))


def test_samples_are_compared_on_what_they_share_and_it_is_said(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"student": [GOOD]})
    b = make_run(tmp_path / "b", {})
    write_scores(b, "sst2", "student", 0, sst2(POOR[20:], LABELS[20:], first=20), mark="g")
    comparison = compare(ComparedRun(a), ComparedRun(b))
    (difference,) = comparison.differences
    assert difference.paired.difference == pytest.approx(14 / 20) and len(difference.pairing.first.ids) == 20
    (note,) = (note for note in comparison_table(comparison).notes if "SST-2: on the 20 shared examples of 40" in note)
    assert "0.1 do not say" in note, "the predictions have no hashes"


def test_other_examples_or_labels_are_refused(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"student": [GOOD]})
    apart, relabelled, retold = (make_run(tmp_path / name, {}) for name in ("b", "c", "d"))
    write_scores(apart, "sst2", "student", 0, sst2(POOR, LABELS, first=100))
    with pytest.raises(UserError, match=r"no example .*same data"):
        compare(ComparedRun(a), ComparedRun(apart))
    write_scores(relabelled, "sst2", "student", 0, sst2(POOR, [*LABELS[:7], 1 - LABELS[7], *LABELS[8:]]))
    with pytest.raises(UserError, match="found 1 and 0 for example 7"):
        compare(ComparedRun(a), ComparedRun(relabelled))
    write_scores(retold, "sst2", "student", 0, sst2(POOR), mark="g")
    assert any("texts differ" in note for note in comparison_table(compare(ComparedRun(a), ComparedRun(retold))).notes)


def test_texts_are_told_apart_by_their_hashes_where_ids_and_labels_agree(tmp_path: Path) -> None:
    texts = [f"sentence {n}" for n in range(len(LABELS))]

    def run(name: str, count: int, *, changed: int = 0) -> ComparedRun:
        given = ["another one"] * changed + texts[changed:count]
        examples = Examples(TASKS["sst2"], "validation", {"text": given, "label": LABELS[:count]}, count)
        scores = sst2(POOR[:count], LABELS[:count]) | {"example": examples.hashes}
        write_scores(make_run(tmp_path / name, {}), "sst2", "student", 0, scores, mark=name)
        return ComparedRun(tmp_path / name)

    whole = run("a", 40)
    (difference,) = compare(whole, run("b", 30)).differences
    assert len(difference.pairing.first.ids) == 30 and difference.pairing.same_data
    for count in (40, 30):
        with pytest.raises(UserError, match=rf"3 of {count} .*row number have other texts.*same data"):
            compare(whole, run(f"c{count}", count, changed=3))


def test_synthetic_examples_made_from_other_text_are_refused_though_their_numbers_agree(tmp_path: Path) -> None:
    runs = []
    for name in ("a", "b"):
        run = tmp_path / name
        atomic.write_text(run / "recipe.toml", to_toml(recipe_of(None, "adjacency")))
        write_scores(run, "adjacency", "student", 0, sst2(GOOD), mark=name)
        runs.append(ComparedRun(run))
    with pytest.raises(UserError, match="made from different texts"):
        compare(*runs)


def test_scores_without_their_manifest_are_refused_not_overlooked(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"teacher": [GOOD], "student": [POOR]})
    scores = run / "tasks/sst2/student/seed-0/scores"
    (scores / "manifest.json").unlink()
    with pytest.raises(UserError, match="student/seed-0/scores"):
        compare_rows(run)


def test_damaged_doubled_and_mixed_predictions_are_refused(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, {"student": [GOOD, POOR]}) for name in ("a", "b"))
    doubled = {"idx": [0, 1, 1], "label": [0, 1, 1], "prediction": [0, 0, 1]}
    write_scores(make_run(tmp_path / "c", {}), "sst2", "student", 0, doubled)
    with pytest.raises(UserError, match="one prediction an example, found 1 more"):
        compare(ComparedRun(a), ComparedRun(tmp_path / "c"))
    write_scores(a, "sst2", "student", 2, sst2(POOR[1:], LABELS[1:], first=1))
    with pytest.raises(UserError, match="not those of the other seeds"):
        compare(ComparedRun(a), ComparedRun(b))
    (b / "tasks/sst2/student/seed-0/scores/predictions-validation.parquet").write_bytes(b"PAR1")
    with pytest.raises(UserError, match="other content"):
        compare(ComparedRun(b), ComparedRun(a))
    with pytest.raises(UserError, match="a run with scored tasks"):
        compare(ComparedRun(make_run(tmp_path / "d", {})))


def test_answers_are_scored_by_the_best_of_their_gold_answers(tmp_path: Path) -> None:
    gold = [["Paris"], ["the Seine", "Seine"], ["1889"], ["Gustave Eiffel"]]
    predicted = {"a": ["Paris.", "Seine", "1889", "Eiffel"], "b": ["Lyon", "the river Seine", "1889", "Gustave Eiffel"]}
    for name, texts in predicted.items():
        run = tmp_path / name
        atomic.write_text(run / "recipe.toml", to_toml(recipe_of(None, "squad")))
        columns = {"id": ["p", "q", "r", "s"], "answers": gold, "prediction_text": texts}
        write_scores(run, "squad", "student", 0, columns)
    exact, f1 = compare(ComparedRun(tmp_path / "a"), ComparedRun(tmp_path / "b")).differences
    assert (exact.metric, exact.paired.first, exact.paired.second) == ("exact_match", 3 / 4, 2 / 4)
    # F1: a = 1, 1, 1, 2/3; b = 0, 2/3, 1, 1
    assert (f1.metric, f1.paired.first, f1.paired.second) == ("f1", pytest.approx(11 / 12), pytest.approx(8 / 12))
    assert exact.disagreement is not None and f1.disagreement is None
    first, second = exact.disagreement.cases
    assert {case.id for case in first} == {"p", "q"} and [case.id for case in second] == ["s"]


def test_similarity_scores_are_told_apart_by_the_distance_of_their_medians(tmp_path: Path) -> None:
    labels = [0.0, 1.0, 2.0, 3.0, 4.0]
    seeds = {"a": [[0.1, 1.0, 2.5, 3.0, 4.0], [0.1, 1.0, 2.5, 3.0, 9.0], [0.1, 1.0, 2.5, 3.0, float("nan")]],
             "b": [[0.3, 1.0, 2.0, 2.0, 4.0]]}  # fmt: skip
    for name, by_seed in seeds.items():
        run = tmp_path / name
        atomic.write_text(run / "recipe.toml", to_toml(recipe_of(None, "stsb")))
        for seed, predictions in enumerate(by_seed):
            columns = {"idx": list(range(5)), "label": labels, "prediction": predictions}
            write_scores(run, "stsb", "student", seed, columns)
    comparison = compare(ComparedRun(tmp_path / "a"), ComparedRun(tmp_path / "b"))
    (difference,) = comparison.differences
    assert difference.metric == "pearson_spearman_mean" and difference.disagreement is not None
    first, second = difference.disagreement.cases
    assert [case.id for case in first] == [3, 0], "the largest difference first"
    assert {case.id for case in second} == {2, 4}
    write_comparison(tmp_path / "out", comparison)
    lines = [json.loads(line) for line in (tmp_path / "out/differences.jsonl").read_text().splitlines()]
    assert next(line for line in lines if line["id"] == 4)["first"]["seeds"] == {"0": 4.0, "1": 9.0, "2": None}


def test_the_page_shows_texts_escaped_and_the_file_has_every_case(tmp_path: Path, data_folder: Path) -> None:
    a = make_run(tmp_path / "a", {"student": [GOOD]}, data_folder)
    b = make_run(tmp_path / "b", {"student": [POOR]}, data_folder)
    table = write_comparison(
        tmp_path / "out", compare(ComparedRun(a), ComparedRun(b)), shown=3, command="tinydistilbert compare"
    )
    page = (tmp_path / "out/comparison.html").read_text()
    assert "14 examples; 3 of them" in page and "2 examples:" in page and page.count("<article>") == 5
    assert "sentence number" in page and "&lt;b&gt;" in page and " <b></p>" not in page and "://" not in page
    assert "+30.0▲ (" in to_markdown(table) and "| 14 / 2 | 1 | 40 |" in to_markdown(table)
    lines = [json.loads(line) for line in (tmp_path / "out/differences.jsonl").read_text().splitlines()]
    assert len(lines) == 16 and {line["better"] for line in lines} == {"first", "second"}
    assert all(line["text"] == f"sentence number {line['id']} <b>" for line in lines)
    only = next(line for line in lines if line["id"] == 0)
    assert (only["better"], only["gold"]) == ("second", "negative")
    assert only["first"]["seeds"] == {"0": "positive"} and only["second"]["seeds"] == {"0": "negative"}


@pytest.mark.long
def test_the_page_of_many_long_texts_is_small(tmp_path: Path) -> None:
    """25,000 examples, many of them told otherwise: the page shows some, says of how many, and stays small."""
    count = 25_000
    labels = [n % 2 for n in range(count)]
    runs = []
    for name, wrong in (("a", 4), ("b", 2)):
        runs.append(tmp_path / name)
        atomic.write_text(runs[-1] / "recipe.toml", to_toml(recipe_of(None, "sst2")))
        answers = [label if n % wrong else 1 - label for n, label in enumerate(labels)]
        write_scores(runs[-1], "sst2", "student", 0, sst2(answers, labels))
    comparison = compare(*map(ComparedRun, runs))
    (difference,) = comparison.differences
    assert difference.disagreement is not None
    cases = tuple(
        tuple(dataclasses.replace(case, texts={"text": "a long text " * 500}) for case in side)
        for side in difference.disagreement.cases
    )
    with_texts = dataclasses.replace(difference, disagreement=dataclasses.replace(difference.disagreement, cases=cases))
    write_comparison(tmp_path / "out", dataclasses.replace(comparison, differences=(with_texts,)))
    page = (tmp_path / "out/comparison.html").read_bytes()
    assert len(page) < 300_000 and b"6,250 examples; 5 of them" in page
    assert len((tmp_path / "out/differences.jsonl").read_bytes().splitlines()) == 6_250


def test_texts_are_left_out_when_the_data_is_gone_or_another(tmp_path: Path, data_folder: Path) -> None:
    a = make_run(tmp_path / "a", {"student": [GOOD]}, data_folder)
    b = make_run(tmp_path / "b", {"student": [POOR]}, data_folder)
    file = data_folder / "glue/sst2/validation.parquet"
    changed = pyarrow.parquet.read_table(file).to_pydict()
    changed["sentence"][39] = "another sentence"
    pyarrow.parquet.write_table(pa.table(changed), file)

    def texts() -> list[Mapping[str, str]]:
        (difference,) = compare(ComparedRun(a), ComparedRun(b)).differences
        assert difference.disagreement is not None
        return [case.texts for cases in difference.disagreement.cases for case in cases]

    assert texts() == [{}] * 16
    file.unlink()
    assert texts() == [{}] * 16


def test_a_run_says_how_far_its_rows_are_from_one_another(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"teacher": [GOOD], "student": [POOR], "control": [POOR]})
    differences = compare_rows(run).differences
    pairs = [(d.task.name, d.row, d.pairing.second.side.row, d.metric) for d in differences]
    assert pairs == [
        ("sst2", "student", "teacher", "accuracy"), ("sst2", "student", "control", "accuracy"),
        ("sst2", "teacher", "majority", "accuracy"),
    ]  # fmt: skip
    assert [d.paired.difference for d in differences] == pytest.approx([-12 / 40, 0, 18 / 40])
    assert [d.mark for d in differences] == ["▼", "", "▲"]
    table = differences_table(row_differences(measured_differences(run, Origin("made-up", "hash")), TASKS))
    assert table is not None and "−30.0" in [cell.text for cell in table.rows[0].cells]
    alone = make_run(tmp_path / "b", {"student": [POOR]})
    assert measured_differences(alone, Origin("made-up", "hash")) == [] and differences_table([]) is None


def test_report_and_compare_give_the_same_numbers_whatever_the_seed_of_the_recipe_and_the_order(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"teacher": [GOOD, POOR, GOOD], "student": [POOR, POOR, POOR], "tf-idf": [GOOD]})
    recipe = dataclasses.replace(recipe_of(None, "sst2"), seed=7)
    atomic.write_text(run / "recipe.toml", to_toml(recipe))
    reported = {
        (d.row, d.against): (d.paired, d.adjusted, d.mark)
        for d in row_differences(measured_differences(run, Origin.of(recipe)), TASKS)
    }
    compared = compare(ComparedRun(run)).differences
    assert reported == {
        (d.row, d.pairing.second.side.row): (d.paired, d.adjusted, d.mark) for d in compared
    } and set(reported) == {("student", "teacher"), ("student", "tf-idf"), ("teacher", "majority")}  # fmt: skip
    (named,) = compare(ComparedRun(run, "student"), ComparedRun(run, "teacher")).differences
    (back,) = compare(ComparedRun(run, "teacher"), ComparedRun(run, "student")).differences
    assert named.paired == reported["student", "teacher"][0] == back.paired.mirrored
    assert named.paired.interval[0] < named.paired.interval[1] < 0 < back.paired.interval[0]


def test_the_majority_baseline_has_a_family_of_its_own(tmp_path: Path) -> None:
    rows = {"teacher": [GOOD], "student": [POOR]}
    few, many = make_run(tmp_path / "a", rows), make_run(tmp_path / "b", rows | {"control": [POOR], "tf-idf": [POOR]})
    adjusted = [
        next(d.adjusted for d in compare_rows(run).differences if d.row == "teacher") for run in (few, many)
    ]  # fmt: skip
    assert adjusted[0] == adjusted[1], "what a teacher has learned does not depend on how many rows there are"


def test_the_sanity_warnings_of_a_row_stand_beside_its_difference(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, {"student": [predictions]}) for name, predictions in (("a", GOOD), ("b", POOR)))
    path = b / "tasks/sst2/student/seed-1/scores"
    with atomic.unfinished(path, task="sst2", row="student", seed=1) as folder:
        pyarrow.parquet.write_table(pa.table(sst2([1] * 40)), folder / "predictions-validation.parquet")
        details = {"warnings": ["every prediction is the same: 1"]}
        measured = Measurement("student", "sst2", "accuracy", 0.5, "validation", data_fingerprint="f", details=details)
        results.write(folder / "measurements.jsonl", [measured])
    notes = comparison_table(compare(ComparedRun(a), ComparedRun(b))).notes
    assert [note for note in notes if "⚠" in note] == [f"⚠ SST-2, Student, {b}: every prediction is the same: 1."]


def test_the_same_comparison_gives_the_same_numbers(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    noisy = [[int(x) for x in np.where(random.random(40) < 0.3, 1 - np.array(LABELS), LABELS)] for _ in range(3)]
    a, b = (make_run(tmp_path / name, {"student": by_seed}) for name, by_seed in (("a", noisy), ("b", [GOOD])))
    one, two = (compare(ComparedRun(a), ComparedRun(b), seed=1).differences[0].paired for _ in range(2))
    assert one == two
    assert compare(ComparedRun(a), ComparedRun(b), seed=2).differences[0].paired != one
