"""`ablate` as a user calls it: rows run once, resumed, compared with numbers worked out from the run folders."""

import json
import shutil
import signal
import statistics
from pathlib import Path

import pytest

from tests.faults.forks import Forks
from tinydistilbert import results
from tinydistilbert.cli.main import main
from tinydistilbert.results import Measurement

ROWS = """
[ablate]
table4 = false
seeds = [0, 3]
rows = { "rate 30 %" = { masking.rate = 0.3 } }
"""


@pytest.fixture
def recipe_file(tmp_path: Path, recipe_text: str) -> Path:
    tasks = 'tasks = ["acceptability", "adjacency", "cloze-qa"]'
    assert tasks in recipe_text
    text = recipe_text.replace(tasks, 'tasks = ["adjacency"]').replace("max_steps = 40", "max_steps = 6")
    assert "train_examples = 40\n" in text
    text = text.replace("train_examples = 40\n", "")
    path = tmp_path / "tiny.toml"
    path.write_text(text + ROWS)
    return path


def call(*arguments: str | Path) -> int:
    try:
        main([str(argument) for argument in arguments])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def times(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


def own_score(folder: Path, seed: int) -> float:
    """The headline score in a row's own run folder, read without the code under test."""
    (path,) = (folder / f"seed-{seed}" / "tasks" / "adjacency").glob("student/seed-0/scores/measurements.jsonl")
    return next(m.value for m in results.read(path) if m.metric == "accuracy")


def of(measured: list[Measurement], row: str, metric: str) -> list[Measurement]:
    return [m for m in measured if m.model == row and m.metric == metric]


def test_rows_run_once_are_skipped_afterwards_and_added_ones_alone_are_run(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "study"
    assert call("ablate", recipe_file, "--output", output) == 0, capsys.readouterr().err
    printed = capsys.readouterr().out
    assert "held out of their train splits" in printed and "rate 30 %" in printed

    measured = results.read(output / "results.jsonl")
    assert {m.model for m in measured} == {"teacher", "control", "baseline", "rate 30 %"}
    scored = [m for m in measured if m.task == "adjacency"]
    assert {m.split for m in scored} == {"train (held out)"} and {m.details["finetune_seed"] for m in scored} == {0}
    assert len({m.data_fingerprint for m in scored}) == 1, "every row and seed is scored on the same examples"
    assert {m.examples for m in scored} == {30}
    assert all(m.train_examples == m.train_examples_total - 30 for m in scored), (
        "the held-out examples are not trained on"
    )
    assert len(list(output.rglob("predictions-train-held-out.parquet"))) == 2 + 2 * 2
    for row in ("baseline", "rate 30 %"):
        assert sorted(m.seed for m in of(measured, row, "kl")) == [0, 3]
        assert {m.details["steps"] for m in of(measured, row, "kl")} == {6}
        assert all(m.details["tokens"] > 6 * 8 * 16 for m in of(measured, row, "kl"))

    baseline, other = ([own_score(output / "rows" / name, seed) for seed in (0, 3)] for name in ("baseline", "rate-30"))
    change = statistics.median(100 * (score - base) for score, base in zip(other, baseline, strict=True))
    table = (output / "ablation.md").read_text()
    line = next(line for line in table.splitlines() if line.startswith("| rate 30 %"))
    cells = [cell.strip() for cell in line.split("|")]
    assert cells[1] == "rate 30 % (masking.rate = 0.3)"
    assert cells[4].startswith(f"{change:+.1f}".replace("-", "−") if abs(change) >= 0.05 else "0.0")
    assert cells[3].startswith(f"{100 * statistics.median(other):.1f}")
    page = (output / "report.html").read_text()
    assert "rate 30 %" in page and "<svg" in page and "train (held out)" not in page and "held-out examples" in page

    assert not list(output.rglob("model")), "task models go when their scores are there"
    assert not list((output / "rows").rglob("teacher")) and (output / "base" / "teacher").is_dir()
    assert not (output / "base" / "student").exists()
    before = times(output / "rows") | times(output / "base")
    changed = recipe_file.read_text().replace(
        "rows = {", 'rows = { "layers first" = { student.layers = "first" }, "KL off" = { objective.kl = 0 },'
    )
    recipe_file.write_text(changed.replace("seeds = [0, 3]", "seeds = [0]"))
    assert call("ablate", recipe_file, "--output", output) == 0
    printed = capsys.readouterr().out
    assert printed.count("finished before, skipped") == 3
    after = times(output / "rows") | times(output / "base")
    assert {path: after[path] for path in before} == before
    assert (output / "rows" / "layers-first" / "seed-0" / "student").is_dir()


def test_killed_and_called_again_it_goes_on(recipe_file: Path, tmp_path: Path, forks: Forks) -> None:
    output = tmp_path / "study"
    recipe_file.write_text(recipe_file.read_text().replace("[0, 3]", "[3]"))
    command = ["ablate", str(recipe_file), "--output", str(output), "--distill.max_steps", "60"]
    child = forks.start("main", {"arguments": command})
    log = output / "rows" / "rate-30" / "seed-3" / "student.partial" / "log.jsonl"
    child.wait_until(lambda _: log.exists() and log.stat().st_size)
    child.send(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL, f"killed in the second row: {child.err()}"
    early = (output / "ablation.md").read_text()
    waiting = next(line for line in early.splitlines() if line.startswith("| rate 30 %"))
    assert set(waiting.replace(" ", "").split("|")[2:-1]) == {"–"}
    finished = times(output / "rows" / "baseline" / "seed-3")
    assert call(*command) == 0
    assert times(output / "rows" / "baseline" / "seed-3") == finished
    resumed = results.read(output / "results.jsonl")
    assert [m.seed for m in of(resumed, "rate 30 %", "kl")] == [3]
    shutil.rmtree(output / "rows" / "rate-30")
    assert call(*command) == 0
    again = results.read(output / "results.jsonl")
    assert [(m.model, m.metric, m.value) for m in again] == [(m.model, m.metric, m.value) for m in resumed]


def test_a_row_that_breaks_does_not_stop_the_others(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = '"broken" = { distill.optimization.learning_rate = 1e37 }, "rate 30 %"'
    recipe_file.write_text(recipe_file.read_text().replace('"rate 30 %"', rows).replace("[0, 3]", "[0]"))
    assert call("ablate", recipe_file, "--output", tmp_path / "study", "--finetune.models", "student") == 1
    captured = capsys.readouterr()
    assert "row 'broken', seed 0" in captured.err and len(captured.err.strip().splitlines()[-1:]) == 1
    measured = results.read(tmp_path / "study" / "results.jsonl")
    assert of(measured, "rate 30 %", "kl") and not of(measured, "broken", "kl")
    assert "broken: failed, seed 0" in (tmp_path / "study" / "ablation.md").read_text()


def test_a_dry_run_lists_the_rows_and_writes_nothing(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert call("ablate", recipe_file, "--output", tmp_path / "study", "--dry-run", "--ablate.table4", "true") == 0
    lines = capsys.readouterr().out.splitlines()
    for name in ("references", "baseline", "without KL", "without masked LM", "random initialisation", "rate 30 %"):
        assert any(line.startswith(name) for line in lines), name
    row = next(line for line in lines if line.startswith("rate 30 %"))
    assert "masking.rate = 0.3" in row and "  6  " in row and "2 of 2" in row
    assert any(line.startswith("time left: about") for line in lines)
    arguments = ("--dry-run", "--json", "--ablate.table4", "true")
    assert call("ablate", recipe_file, "--output", tmp_path / "study", *arguments) == 0
    plan = json.loads(capsys.readouterr().out)
    assert [row["row"] for row in plan["rows"]][:2] == ["references", "baseline"]
    assert {"steps": "6", "seeds": 2, "seeds_left": 2}.items() <= plan["rows"][-1].items()
    assert plan["seconds"] == pytest.approx(sum(row["seconds"] for row in plan["rows"]))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(
    ("rows", "parts"),
    [
        ('"deep" = { student.layers = [0, 9] }', ["row 'deep'", "student.layers", "0 to 3"]),
        ('"hot" = { objective.temprature = 3 }', ["'hot'", "did you mean 'temperature'"]),
        ('"Rate 30!" = { masking.rate = 0.3 }, "rate 30" = { masking.rate = 0.31 }', ["'rate 30'", "'Rate 30!'"]),
        ('"baseline" = { masking.rate = 0.3 }', ["'baseline'", "folder name of 'baseline'"]),
        ('"teacher" = { masking.rate = 0.3 }', ["'teacher'", "folder name of 'teacher'"]),
        ('"%" = { masking.rate = 0.3 }', ["'%'", "no letter or digit"]),
        ('"same" = { masking.rate = 0.15 }', ["'same'", "changes nothing"]),
        ('"tuned" = { finetune.epochs = 9.0 }', ["'tuned'", "finetune.epochs"]),
        ('"text" = { corpus.source = "python-docs" }', ["'text'", "corpus.source"]),
    ],
)
def test_a_wrong_row_is_told_by_name_before_anything_is_run(
    rows: str, parts: list[str], recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe_file.write_text(recipe_file.read_text().replace('"rate 30 %" = { masking.rate = 0.3 }', rows))
    before = sorted(tmp_path.rglob("*"))
    assert call("ablate", recipe_file, "--output", tmp_path / "study") == 2
    error = capsys.readouterr().err.strip()
    assert error.startswith("error: ") and "\n" not in error
    for part in parts:
        assert part in error
    assert sorted(tmp_path.rglob("*")) == before


def test_the_folder_of_something_else_is_refused(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.toml").touch()
    assert call("ablate", recipe_file, "--output", tmp_path / "run") == 2
    assert "an ablation" in capsys.readouterr().err
