"""Paths of a run: they stay what earlier versions wrote, and lead back from a task model to its run."""

from pathlib import Path

import pytest

from tinydistilbert.errors import UserError
from tinydistilbert.run_folder import AblationFolder, RunFolder, predictions_file, run_of_task_model
from tinydistilbert.run_record import keep_notices, kept_notices
from tinydistilbert.storage import atomic, json_lines
from tinydistilbert.tasks import HELD_OUT


def test_paths_are_those_of_the_reference_page() -> None:
    """Users' scripts and runs of earlier versions rely on them."""
    run, variant = RunFolder(Path("r")), RunFolder(Path("r")).compressed("cola").variant("keep-50")
    paths = {
        run.recipe: "recipe.toml", run.inputs: "inputs.json", run.results: "results.jsonl",
        run.notices: "notices.txt",
        run.report: "report.html", run.model_card: "student/README.md", run.encoder("control"): "control",
        run.task_model("cola", "student (D)", 3): "tasks/cola/student-d/seed-3/model",
        run.scores("cola", "teacher", 0): "tasks/cola/teacher/seed-0/scores",
        run.augmented("cola"): "tasks/cola/augmented", run.soft_targets("cola"): "tasks/cola/targets",
        run.compressed("cola").best: "tasks/cola/compressed/best", run.benchmark: "benchmark",
        variant.pruned: "tasks/cola/compressed/keep-50/cut", variant.recovered: "tasks/cola/compressed/keep-50/model",
    }  # fmt: skip
    assert {path.as_posix(): f"r/{name}" for path, name in paths.items()} == {
        f"r/{n}": f"r/{n}" for n in paths.values()
    }
    assert AblationFolder(Path("a")).row("without-kl", 1).student == Path("a/rows/without-kl/seed-1/student")
    assert predictions_file("validation_matched") == "predictions-validation_matched.parquet"
    assert predictions_file(HELD_OUT) == "predictions-train-held-out.parquet"


def test_a_task_model_leads_to_its_run(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    model = run.task_model("cola", "model (D)", 2)
    assert run_of_task_model(model) is None, "no recipe there"
    atomic.write_text(run.recipe, "")
    assert run_of_task_model(model) == (run, "cola", "model (D)")
    assert run_of_task_model(run.student) is None


def test_unfinished_scores_do_not_count_and_damaged_ones_do(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    with atomic.unfinished(run.scores("cola", "student", 0)):
        pass
    atomic.partial(run.scores("cola", "student", 1)).mkdir(parents=True)
    run.scores("cola", "student", 2).mkdir(parents=True)
    assert run.all_scores() == [run.scores("cola", "student", 0), run.scores("cola", "student", 2)]


@pytest.mark.parametrize(("line", "where"), [("[1]", ":3"), ('{"a": ', ":3"), ("\x00", ":3")])
def test_a_damaged_line_is_named(line: str, where: str, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.write_text('{"a": "x\u2028y"}\n\n' + line + "\n")
    with pytest.raises(UserError, match=f"log.jsonl{where}.*JSON object"):
        json_lines.read(path)


def test_lines_come_back_as_they_were_written(tmp_path: Path) -> None:
    lines = [{"text": "a line\u2028break", "value": 1.5}, {"text": "é", "value": None}]
    json_lines.write(tmp_path / "f.jsonl", lines)
    assert json_lines.read(tmp_path / "f.jsonl") == lines
    with pytest.raises(ValueError, match="JSON"):
        json_lines.write(tmp_path / "f.jsonl", [{"value": float("nan")}])
    assert json_lines.read(tmp_path / "f.jsonl") == lines


def test_a_line_of_a_finished_folder_that_was_changed_is_refused(tmp_path: Path) -> None:
    with atomic.unfinished(tmp_path / "scores") as folder:
        json_lines.write(folder / "samples.jsonl", [{"gold": 1}])
    (tmp_path / "scores" / "samples.jsonl").write_text('{"gold": 2}\n')
    with pytest.raises(UserError, match="other content"):
        json_lines.read(tmp_path / "scores" / "samples.jsonl")


def test_notices_of_several_commands_are_kept_once_each(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    keep_notices(run, ())
    assert not run.path.exists() and kept_notices(run) == []
    keep_notices(run, ("a.csv: 2 empty lines", "b.csv: é"))
    keep_notices(run, ("b.csv: é", "c.csv: more"))
    assert kept_notices(run) == ["a.csv: 2 empty lines", "b.csv: é", "c.csv: more"]
