"""A recipe and a run folder that version 0.1 wrote load and go on."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic
from tinydistilbert.tasks import mapped_tables, read_once

STORED = Path(__file__).parent / "run-of-0.1"
"""Recipe, inputs and scores of a run of commit 9b53cb8 on the corpus and the teacher of conftest.py; in the recipe the
word FOLDER stands for where they lie."""


def test_a_run_folder_of_version_0_1_goes_on(
    corpus: Path, teacher: Path, tmp_path: Path, call: Callable[..., tuple[int, str, str]]
) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(STORED, run.path)
    recipe = run.recipe.read_text().replace("FOLDER/corpus", str(corpus)).replace("FOLDER/teacher", str(teacher))
    run.recipe.write_text(recipe)
    before, unchanged = atomic.read_json(run.inputs), run.scores("adjacency", "student", 0)

    code, out, err = call("compare", run.path)
    assert code == 0 and "Student" in out and "Teacher" in out, err
    code, out, err = call("distill", run.recipe, "--output", run.path)
    assert code == 0 and "distill:" in out, err
    assert atomic.is_finished(run.student) and run.recipe.read_text() == recipe
    inputs = atomic.read_json(run.inputs)
    model_hashes = {name: inputs.pop(name) for name in [*inputs] if name.startswith(f"file {teacher}/")}
    assert inputs == before, "the corpus has the fingerprint that version 0.1 wrote"
    assert f"file {teacher}/model.safetensors" in model_hashes, "which version 0.1 did not write"
    assert '"model": "student", "task": "adjacency"' in run.results.read_text()
    assert "FOLDER" not in recipe and atomic.read_manifest(unchanged)["row"] == "student"

    code, _, err = call("distill", run.recipe, "--output", run.path, "--objective.kl", "3")
    assert code == 2 and "objective.kl" in err


@pytest.mark.long
def test_a_run_on_a_large_file_goes_on_with_the_rows_of_this_version(
    teacher: Path, tmp_path: Path, reviews: Callable[[Path, int, int], Path],
    call: Callable[..., tuple[int, str, str]], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Of a version that kept no rows, and of one whose rows were others: they are read anew, and train the same."""
    train, scored = reviews(tmp_path / "reviews.csv", 60, 0), reviews(tmp_path / "val.csv", 30, 1)
    run = RunFolder(tmp_path / "run")
    command = [
        "finetune", "--model", teacher, "--data", train, "--validation", scored, "--text", "review", "--label", "stars",
        "--epochs", "1", "--seeds", "0", "1", "--batch-size", "8", "--finetune.min_steps", "0",
        "--finetune.keep", "all", "--output", run.path,
    ]  # fmt: skip
    monkeypatch.setattr(mapped_tables, "LARGE", 2**40)  # up to version 0.2 no file was
    code, _, err = call(*command)
    kept, model = run.rows("reviews", "train"), run.task_model("reviews", "model", 1)
    assert code == 0 and not kept.exists(), err
    weights, made_from = (model / "model.safetensors").read_bytes(), set[str]()
    monkeypatch.setattr(mapped_tables, "LARGE", 0)
    for version in (read_once.FORMAT - 1, read_once.FORMAT):
        shutil.rmtree(model)
        monkeypatch.setattr(read_once, "FORMAT", version)
        read_once.forget()
        code, _, err = call(*command)
        assert code == 0 and (model / "model.safetensors").read_bytes() == weights, err
        made_from.add(atomic.read_manifest(kept)["made_from"])
    assert len(made_from) == 2, "rows of another version are not taken for those of this one"
    with train.open("a") as stream:
        stream.write("another text,good\n")
    read_once.forget()
    code, _, err = call(*command)
    assert code == 2 and "reviews" in err.splitlines()[-1], err
