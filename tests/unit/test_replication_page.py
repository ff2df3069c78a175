"""The page of the replication: its headline is what its lines give by hand, and what is not measured says so."""

import dataclasses
import json
import re
import statistics
from collections.abc import Iterator
from pathlib import Path

import pytest
import replication_ladder
import replication_page
from replication_page import FOLDER, Replication

from tinydistilbert.report.compression import compressed_models
from tinydistilbert.report.table import points, to_markdown
from tinydistilbert.results import COMPARE, Measurement
from tinydistilbert.tasks import TASKS


def measured(row: str, task: str, values: list[float], majority: float) -> Iterator[Measurement]:
    """A row's scores on a task, one a seed."""
    facts = TASKS[task]
    for seed, value in enumerate(values):
        yield Measurement(
            row, task, facts.headline, value, facts.evaluation[0], examples=100, examples_total=100, seed=seed,
            train_examples=9, train_examples_total=9,
            details={"majority": majority, "interval": [value - 0.05, value + 0.05], "warnings": []},
        )  # fmt: skip


def compared(row: str, against: str, task: str, difference: float, half: float, p: float = 0.001) -> Measurement:
    """A paired test with an interval of that half width."""
    facts = TASKS[task]
    return Measurement(
        row, COMPARE, facts.headline, difference, facts.evaluation[0], examples=100, examples_total=100,
        details={
            "of": task, "against": against, "first": difference, "second": 0.0, "p": p, "p_adjusted": p,
            "interval": [difference - half, difference + half], "seeds": [1, 1],
        },
    )  # fmt: skip


@pytest.fixture
def replication() -> Replication:
    """Three tasks: on RTE the teacher is no better than the majority."""
    lines = [
        *measured("teacher", "sst2", [0.9], 0.5), *measured("teacher", "squad", [0.8], 0.1),
        *measured("teacher", "rte", [0.55], 0.5), *measured("task-student", "sst2", [0.85, 0.89, 0.88], 0.5),
        *measured("task-student", "squad", [0.73], 0.1), *measured("task-student", "rte", [0.6], 0.5),
        compared("teacher", "majority", "sst2", 0.4, 0.05), compared("teacher", "majority", "squad", 0.7, 0.05),
        compared("teacher", "majority", "rte", 0.05, 0.1, p=0.4),
        compared("task-student", "minilm-l3", "sst2", 0.03, 0.02),
        compared("task-student", "minilm-l3", "squad", 0.06, 0.02),
        compared("task-student", "minilm-l3", "rte", -0.09, 0.02),
        *measured("teacher, adapted", "sst2", [0.7], 0.5), *measured("wikitext2", "sst2", [0.6], 0.5),
        compared("teacher, adapted", "majority", "sst2", 0.2, 0.05),
    ]  # fmt: skip
    return Replication(replication_page.Replication.read().plan, lines)


def test_the_goals_are_what_the_lines_give_by_hand(replication: Replication) -> None:
    goals = replication_page.goals(replication).splitlines()
    # ((0.88 − 0.5) / (0.9 − 0.5) + (0.73 − 0.1) / (0.8 − 0.1)) / 2 = (0.95 + 0.9) / 2
    assert "| 92.5 % | mean over SST-2, SQuAD; not counted: RTE |" in goals[2]
    assert "| ≥ 88 | 88.0 |" in goals[3]
    assert "| 91.2 % | 73.0 of 80.0 |" in goals[4]  # 0.73 / 0.8
    assert "not measured" in goals[5]
    # (3 + 6 − 9) / 3 = 0; half of the interval: √3 × 2 / 3 = 1.2
    assert "| 0.0 | −1.2 to +1.2, over RTE, SST-2, SQuAD; surely below it on RTE |" in goals[6]


def test_kept_is_a_share_of_the_rows_own_teacher(replication: Replication) -> None:
    kept = replication.kept("wikitext2")
    assert kept is not None and kept.share == pytest.approx(0.5)  # (0.6 − 0.5) / (0.7 − 0.5), not / (0.9 − 0.5)
    assert replication.kept("teacher") is None and replication.kept("authors") is None


def test_kept_by_task_is_where_the_mean_comes_from(replication: Replication) -> None:
    table = replication_page.kept_table(replication)
    rows = {row.cells[1].text: [cell.text for cell in row.cells[2:]] for row in table.rows}
    assert table.columns[2:] == ("Mean", "SST-2", "SQuAD")  # RTE counts in no row
    assert rows["Cut from the task’s teacher, then distilled"] == ["92.5", "95.0", "90.0"]
    assert rows["Our recipe on WikiText-2"] == ["50.0", "50.0", "–"]
    assert "SQuAD costs it most; over the others it keeps 95.0" in table.notes[-1]
    below = Replication(replication.plan, [*replication.measurements, *measured("random", "sst2", [0.46], 0.5)])
    assert "−20.0" in to_markdown(replication_page.kept_table(below))  # (0.46 − 0.5) / (0.7 − 0.5)


def test_the_jobs_of_both_gpus_stand_side_by_side(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = replication_page.GPUS
    jobs = [
        ("a/rte", "out of time", 500, first), ("a/rte", "out of time", 70, first),
        ("a/rte", "out of time", 300, second), ("a/rte", "done", 40, second), ("a/cola", "done", 9, first),
        ("b/rte", "done", 9, ""),
    ]  # fmt: skip
    lines = [json.dumps(dict(zip(("job", "state", "seconds", "packed"), job, strict=True))) for job in jobs]
    monkeypatch.setattr(replication_page, "JOBS", tmp_path / "jobs.jsonl")
    replication_page.JOBS.write_text("\n".join(lines), encoding="utf-8")
    shown = replication_page.days_section()
    assert "| a/rte | not done after 570 s | 340 s |" in shown and "a/cola" not in shown
    assert "1 jobs done (H100" in shown and "1 jobs done (H200" in shown


def test_the_figure_has_a_line_for_every_mean_that_the_table_has(replication: Replication) -> None:
    svg = replication_page.picture(replication)
    assert "(e) distilled − (i) MiniLM-L3" in svg and "(d) ours − (b) notebook" not in svg
    assert "prefers-color-scheme: dark" in svg
    names = [row["short"] for row in replication.rows.values()]
    assert len(set(names)) == len(names)
    committed = (FOLDER.parents[1] / "docs" / "explanation" / "row-against-row.svg").read_text(encoding="utf-8")
    (words, now) = (
        re.findall(r"<text[^>]*>([^<]*)</text>", text)
        for text in (committed, replication_page.picture(Replication.read()))
    )
    assert words == now, "run: python results/readme.py"


def test_the_ladder_compares_each_variant_with_the_tasks_own_teacher() -> None:
    facts = {"of": "sst2", "row": "student (D)"}
    timed = {"noisy": False, "p50_ms": 1.0, "rounds": 5}

    def lines(place: int, name: str, score: float, difference: float, milliseconds: float) -> Iterator[Measurement]:
        shared = {**facts, "place": place, "best": place == 1}
        scored = {"difference": {"value": difference, "p": 0.5, "interval": [-0.01, 0.01]}, "warnings": []}
        yield Measurement(name, "compress", "accuracy", score, "validation", examples=9, examples_total=10,
                          details={**shared, **scored})  # fmt: skip
        yield Measurement(name, "compress", "milliseconds", milliseconds, details={**shared, **timed})
        yield Measurement(name, "compress", "bytes", 2e6, details=shared)

    measurements = [
        *lines(0, "as it is, torch", 0.9, 0.0, 5.0), *lines(1, "int8", 0.895, -0.005, 0.8),
        Measurement("teacher, torch", "compress", "teacher_milliseconds", 10.0, details={**facts, **timed}),
        Measurement("teacher, torch", "compress", "teacher_bytes", 9e6, details=facts),
    ]  # fmt: skip
    (model,) = compressed_models(measurements, TASKS)
    table = replication_ladder.ladder_table([model])
    assert [[cell.text for cell in row.cells[3:]] for row in table.rows] == [
        ["–", "10.00", "1.0 ×", "9.0"], ["–", "5.00", "2.0 ×", "2.0"], ["−0.5", "0.80", "12.5 ×", "2.0"],
    ]  # fmt: skip
    assert any("SST-2: 9 of 10 examples" in note for note in table.notes)
    speed, lost = replication_ladder.int8_goals([model], missing="not measured")
    assert speed[2] == "12.5 ×" and lost[2] == "+0.5"
    assert {line[2] for line in replication_ladder.int8_goals([], missing="not measured")} == {"not measured"}


def test_rows_that_are_not_measured_say_so(replication: Replication) -> None:
    table = replication_page.score_table(replication)
    rows = {row.cells[1].text for row in table.rows}
    (missing,) = (note for note in table.notes if note.startswith("Not measured yet: "))
    assert "(c) The authors’ recipe" in missing and "The authors’ recipe" not in rows
    assert "Our recipe on WikiText-2" in rows and "Our recipe on WikiText-2;" not in missing
    assert len(rows) + missing.count("; ") + 1 == 1 + len(replication.plan["rows"])
    nothing = Replication(replication.plan, [])
    pages = [replication_page.goals(nothing), replication_page.cost(nothing)]
    pages += [to_markdown(table(nothing)) for table in (replication_page.score_table, replication_page.tests_table)]
    assert all("not measured" in page.lower() for page in pages)


def test_the_published_headline_is_what_the_committed_lines_give() -> None:
    """Computed here from the lines alone, without the code of tables."""
    path = FOLDER / "results.jsonl"
    if not path.exists():
        pytest.skip("the replication is not measured yet: make replication")
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    published = Replication.read()

    def median(row: str, task: str, key: str = "value") -> float:
        facts = TASKS[task]
        of_row = [
            line["value"] if key == "value" else line["details"][key]
            for line in lines
            if (line["model"], line["task"], line["metric"], line["split"])
            == (row, task, facts.headline, facts.evaluation[0])
        ]
        return statistics.median(of_row)

    kept = published.kept("task-student")
    assert kept is not None
    shares = [
        (median("task-student", task.name) - median("teacher", task.name, "majority"))
        / (median("teacher", task.name) - median("teacher", task.name, "majority"))
        for task in kept.counted
    ]
    goals = replication_page.goals(published)
    if shares:
        assert f"| {100 * statistics.fmean(shares):.1f} %" in goals
    if any(line["model"] == "task-student" and line["task"] == "sst2" for line in lines):
        assert f"| ≥ 88 | {points(median('task-student', 'sst2'))} |" in goals


def test_warnings_that_rows_share_are_one_sentence(replication: Replication) -> None:
    below = "0.450 is not above the 0.500 of the majority baseline"
    lines = [
        dataclasses.replace(m, details=m.details | {"warnings": [below] * (m.value < 0.5)})
        for row, values in (("random", [0.45, 0.6, 0.4]), ("wikitext2", [0.7]), ("minilm-l3", [0.3]))
        for m in measured(row, "rte", values, 0.5)
    ] + [
        compared(row, baseline, "rte", 0.01, 0.2, p=0.5)
        for row in ("wikitext2", "minilm-l3")
        for baseline in ("tf-idf",)
    ]
    notes = [note for note in replication_page.score_table(Replication(replication.plan, lines)).notes if "⚠" in note]
    assert len(notes) == 2
    assert "majority" in notes[0] and "RTE: (a) random 2/3, (i) MiniLM-L3 1/1." in notes[0]
    assert "TF-IDF" in notes[1] and "RTE: (d) ours (+1.0 points, p 0.500), (i) MiniLM-L3 (+1.0" in notes[1]
