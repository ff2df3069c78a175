"""A recipe and a run folder that version 0.1 wrote load and go on."""

import shutil
from collections.abc import Callable
from pathlib import Path

from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic

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
    pins = {name: inputs.pop(name) for name in [*inputs] if name.startswith(f"file {teacher}/")}
    assert inputs == before, "the corpus has the fingerprint that version 0.1 wrote"
    assert f"file {teacher}/model.safetensors" in pins, "which version 0.1 did not write"
    assert '"model": "student", "task": "adjacency"' in run.results.read_text()
    assert "FOLDER" not in recipe and atomic.read_manifest(unchanged)["row"] == "student"

    code, _, err = call("distill", run.recipe, "--output", run.path, "--objective.kl", "3")
    assert code == 2 and "objective.kl" in err
