"""What a run keeps of its models: those that nothing reads any more go, and nothing that needs them is lost."""

import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tinydistilbert import results
from tinydistilbert.models.runtimes import is_exported
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic

pytestmark = pytest.mark.long
Call = Callable[..., tuple[int, str, str]]
TASK = "adjacency"


@pytest.fixture(scope="module")
def recipe(recipe_text: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two seeds, a control, and a second distillation that starts at and learns from all fine-tuned teachers."""
    path = tmp_path_factory.mktemp("keep") / "recipe.toml"
    text = recipe_text.replace('tasks = ["acceptability", "adjacency", "cloze-qa"]', f'tasks = ["{TASK}"]')
    text = (
        text.replace("seeds = [0]", "seeds = [0, 1]")
        .replace("max_steps = 40", "max_steps = 4")
        .replace('architecture = "distilbert"', "layers = [0, 2]")
    )
    more = '[finetune.distillation]\nteachers = "all"\nstart = "teacher"\nhidden = 1.0\n'
    path.write_text(f"{text}\n{more}")
    return path


@pytest.fixture(scope="module")
def finished(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of that recipe."""
    from tinydistilbert.cli.main import main

    output = tmp_path_factory.mktemp("finished") / "run"
    main(["replicate", str(recipe), "--output", str(output), "--quiet"])
    return output


def weights(run: Path) -> set[str]:
    """The folders of the run that hold weights."""
    return {path.parent.relative_to(run).as_posix() for path in run.rglob("*.safetensors")}


def test_the_first_seed_of_what_the_run_is_about_stays(finished: Path, recipe: Path, call: Call) -> None:
    rows = f"tasks/{TASK}"
    kept = {"teacher", "student", f"{rows}/student/seed-0/model", f"{rows}/student-d/seed-0/model"}
    assert weights(finished) == kept
    run = RunFolder(finished)
    for row in ("teacher", "control", "student", "student (D)"):
        for seed in (0, 1):
            model, scores = run.task_model(TASK, row, seed), run.scores(TASK, row, seed)
            assert (model / "log.jsonl").stat().st_size and (model / "training.json").is_file()
            atomic.read_manifest(scores)
    page = run.report.read_text()
    assert f"{rows}/teacher/seed-1/model" in page and "Weights not kept" in page

    before = {path: path.stat().st_mtime_ns for path in finished.rglob("manifest.json")}
    code, out, err = call("replicate", recipe, "--output", finished)
    assert code == 0 and "finished before, skipped" in out and "deleted" not in out and "disk:" in out, err
    assert {path: path.stat().st_mtime_ns for path in finished.rglob("manifest.json")} == before
    assert call("compare", finished)[0] == 0
    assert call("replicate", recipe, "--output", finished, "--dry-run")[0] == 0


def test_the_least_is_the_student_and_the_chosen_variant(recipe: Path, tmp_path: Path, call: Call) -> None:
    small = tmp_path / "small.toml"
    text = recipe.read_text().replace("seeds = [0, 1]", 'seeds = [0]\nkeep = "least"')
    text = text.replace('models = ["teacher", "student", "control"]', 'models = ["teacher", "control"]')
    small.write_text(f'{text}\n[compress]\ntasks = ["{TASK}"]\nrow = "student (D)"\nkeep = [0.5]\ntimed_examples = 4\n')
    output = tmp_path / "run"
    code, out, err = call("replicate", small, "--output", output)
    assert code == 0, err
    assert weights(output) == {"student"}
    best = RunFolder(output).compressed(TASK).best
    assert [path.parent.parent for path in output.rglob("model*.onnx")] == [best]
    page = (output / "report.html").read_text()
    assert all(f"tasks/{TASK}/compressed/keep-50/{model}" in page for model in ("cut", "model", "int8"))
    *_, ask = out.splitlines()
    assert call(*shlex.split(ask.partition("tinydistilbert ")[2]))[0] == 0
    code, out, err = call("replicate", small, "--output", output)
    assert code == 0 and "deleted" not in out, err
    assert call("report", output)[0] == call("replicate", small, "--output", output, "--dry-run")[0] == 0
    shutil.rmtree(output / "benchmark")
    code, _, err = call("replicate", small, "--output", output)
    assert code == 2 and "its weights were deleted" in err


def test_whoever_opens_a_model_that_is_gone_is_told(finished: Path, tmp_path: Path, call: Call) -> None:
    model = finished / f"tasks/{TASK}/control/seed-0/model"
    for command in (
        ["predict", model, "a text", "another"],
        ["export", model, "--output", tmp_path / "onnx"],
        ["compress", model, "--output", tmp_path / "small"],
        ["finetune", "--model", finished / "control", "--task", "sst2", "--output", tmp_path / "run"],
    ):
        code, _, err = call(*command)
        assert code == 2 and "finetune.keep" in err and err.count("\n") == 1, (command, err)


def test_all_is_told_what_is_gone_and_makes_again_what_is_deleted(
    finished: Path, recipe: Path, tmp_path: Path, call: Call
) -> None:
    run = shutil.copytree(finished, tmp_path / "run")
    command = ["replicate", recipe, "--output", run]
    code, out, err = call(*command, "--finetune.keep", "all")
    assert code == 0 and "control" in out and "to make such a model again" in out, (out, err)
    assert weights(run) == weights(finished), "nothing is trained that nobody asked for"

    model = run / f"tasks/{TASK}/control/seed-1/model"
    shutil.rmtree(model)
    code, _, err = call(*command)
    assert code == 2 and f"{run / 'control'}" in err and "delete" in err, "which is read by it"
    shutil.rmtree(run / "control")
    code, out, err = call(*command, "--finetune.keep", "all")
    assert code == 0, err
    assert load_file(model / "model.safetensors") and "control" in weights(run)
    code, out, err = call(*command)
    assert code == 0 and "models:" in out and weights(run) == weights(finished), "and with best they go again"


def test_a_stage_that_reads_models_later_finds_them(recipe: Path, tmp_path: Path, call: Call) -> None:
    run, later = tmp_path / "run", ["--compress.row", "teacher", "--compress.keep", "[]", "--compress.tasks", TASK]
    command = [recipe, "--output", run, *later, "--compress.timed_examples", "4", "--quiet"]
    code, _, err = call("evaluate", *command)
    assert code == 0, err
    needed = {f"tasks/{TASK}/teacher/seed-{seed}/model" for seed in (0, 1)}
    assert f"tasks/{TASK}/control/seed-0/model" not in weights(run) and needed <= weights(run)
    code, _, err = call("compress", *command)
    assert code == 0 and is_exported(run / f"tasks/{TASK}/compressed/best"), err
    assert weights(run) & needed == {f"tasks/{TASK}/teacher/seed-0/model"}, "the one that is compressed"


def test_a_run_of_a_version_that_kept_every_model_goes_on_so(
    finished: Path, recipe: Path, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    assert call("evaluate", recipe, "--output", run, "--finetune.keep", "all", "--quiet")[0] == 0
    stored, before = run / "recipe.toml", weights(run)
    assert len(before) > len(weights(finished))
    old = "".join(line for line in stored.read_text().splitlines(True) if not line.startswith('keep = "all"'))
    stored.write_text(old)
    code, out, err = call("evaluate", recipe, "--output", run)
    assert code == 0 and "all are kept" in out and weights(run) == before, err
    stored.write_text(old.replace("[finetune]\n", '[finetune]\nkeep = "best"\n'))
    code, out, err = call("evaluate", recipe, "--output", run)
    assert code == 0 and " deleted" in out and weights(run) == weights(finished), err
    assert {m.value for m in results.read(run / "results.jsonl")} <= {
        m.value for m in results.read(finished / "results.jsonl")
    }


def test_a_model_from_which_another_task_starts_is_read_by_it(recipe: Path, tmp_path: Path) -> None:
    from tinydistilbert.pipeline import keep, run
    from tinydistilbert.recipe import toml

    changes = {"finetune": {"tasks": ["acceptability", "adjacency@acceptability"], "seeds": [0, 1]}}
    made = toml.from_dict(changes, "test")
    context = run.run_context(made, tmp_path / "run", until="report", log=lambda _: None)
    later = context.folder.task_model("adjacency@acceptability", "student", 1)
    first = context.folder.task_model("acceptability", "student", 1)
    (model,) = [model for model in keep.unkept(context) if model.folder == first]
    assert ("finetune", later) in model.readers
