"""The whole way from a recipe to a report, as a user goes it: by the command line."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, pipeline

from tests import tiny
from tests.faults.forks import Forks
from tinydistilbert import results
from tinydistilbert.storage import atomic

Call = Callable[..., tuple[int, str, str]]


def test_replicate_makes_everything_and_a_second_run_nothing(recipe_file: Path, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    code, out, err = call("replicate", recipe_file, "--output", run)
    assert code == 0, err
    for title in ("Synthetic tasks", "Table 3", "Masked language model", "The page:"):
        assert title in out
    assert "<h1" in (run / "report.html").read_text()

    student = AutoModelForMaskedLM.from_pretrained(run / "student")
    assert student.config.model_type == "distilbert" and student.config.n_layers == 2
    assert pipeline("fill-mask", model=str(run / "student"))("The student [MASK] the old house.")
    assert (run / "student" / "modules.json").is_file(), "sentence-transformers reads it as the teacher"
    assert (run / "student" / "README.md").read_text().startswith("---")

    measured = results.read(run / "results.jsonl")
    assert {(m.model, m.task) for m in measured} >= {
        ("teacher", "pretraining"), ("student", "pretraining"), ("control", "pretraining"),
        ("student (D)", "cloze-qa"), ("student (D)", "adjacency"),
        ("teacher", "adjacency"), ("control", "acceptability"), ("student", "latency"),
        ("tf-idf", "adjacency"), ("static embeddings", "acceptability"),
    }  # fmt: skip
    assert not any(m.model == "tf-idf" and m.task == "cloze-qa" for m in measured), "a question has no cheap answer"
    compared = {(m.model, m.details["against"], m.details["of"]) for m in measured if m.task == "compare"}
    assert compared >= {
        ("student", "teacher", "adjacency"), ("student", "tf-idf", "adjacency"), ("teacher", "majority", "cloze-qa"),
        ("student (D)", "static embeddings", "acceptability"),
    }  # fmt: skip
    assert "TF-IDF" in out and "% kept" in out
    values = {(m.model, m.metric): m.value for m in measured if m.task == "pretraining"}
    assert values["student", "kl"] < values["control", "kl"]
    assert values["teacher", "mlm"] < next(m for m in measured if m.metric == "mlm").details["mlm_before"]
    assert all(m.recipe_hash == measured[0].recipe_hash and m.environment["torch"] for m in measured)
    for folder in (
        "teacher",
        "student",
        "benchmark",
        "tasks/cloze-qa/targets",
        "tasks/cloze-qa/student-d/seed-0/scores",
    ):
        atomic.read_manifest(run / folder)
    assert atomic.is_released(run / "control") and not (run / "control" / "model.safetensors").exists()
    assert list(run.rglob("*.partial")) == []

    before = {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    lines = (run / "results.jsonl").read_text()
    code, out, _ = call("replicate", recipe_file, "--output", run)
    assert code == 0 and out.count("finished before, skipped") == 3 + 2 * 12 + 4 + 1
    assert before == {path: path.stat().st_mtime_ns for path in run.rglob("*.safetensors")}
    assert lines == (run / "results.jsonl").read_text()

    code, out, err = call("replicate", recipe_file, "--output", run, "--json")
    document = json.loads(out)
    assert code == 0 and err.count("finished before, skipped") == 3 + 2 * 12 + 4 + 1
    assert [results.Measurement(**line) for line in document["measurements"]] == measured
    assert document["run"] == str(run) and document["page"] == str(run / "report.html") and not document["failures"]
    titles = {table["title"] for table in document["tables"]}
    assert any("Table 3" in title for title in titles) and any("Masked language model" in title for title in titles)
    code, out, err = call("report", recipe_file, "--output", run, "--quiet")
    assert code == 0 and not err and "Synthetic tasks" in out and "finished before" not in out

    code, _, err = call("replicate", recipe_file, "--output", run, "--objective.kl", "3")
    assert code == 2 and "objective.kl = 5.0 (here 3.0)" in err


def test_interrupted_and_run_again_it_ends_the_same(
    recipe_file: Path, tmp_path: Path, call: Call, forks: Forks
) -> None:
    command = ["distill", str(recipe_file), "--distill.max_steps", "80"]
    weights = []
    for name, interrupt in (("whole", False), ("stopped", True)):
        run = tmp_path / name
        if interrupt:
            child = forks.start("main", {"arguments": [*command, "--output", str(run)]})
            log = run / "student.partial" / "log.jsonl"
            child.wait_until(lambda _, log=log: log.exists() and log.stat().st_size)
            child.send(signal.SIGINT)
            assert child.wait() == 130, child.err()
            assert "the same command goes on from there" in child.err()
            assert list((run / "student.partial" / "checkpoints").glob("step-*"))
        code, out, err = call(*command, "--output", run)
        assert code == 0, err
        assert ("finished before, skipped" in out) == interrupt
        weights.append(
            (atomic.sha256(run / "student" / "model.safetensors"), (run / "student" / "log.jsonl").read_bytes())
        )
    assert weights[0] == weights[1]


def test_recipes_lists_and_prints(call: Call) -> None:
    _, out, _ = call("recipes")
    assert {line.split()[0] for line in out.splitlines()} >= {"ablation", "distilbert", "minilm", "quickstart", "seed"}
    assert 'name = "quickstart"' in call("recipes", "quickstart")[1]
    assert call("recipes", "quickstrat")[0] == 2
    assert "cola" in call("tasks")[1]


def small_glue(folder: Path, labels: list[int]) -> Path:
    """A data folder with nothing but a CoLA of a few rows."""
    target = folder / "data" / "glue" / "cola"
    target.mkdir(parents=True)
    for split, who in (("train", "student"), ("validation", "teacher")):
        rows = [{"sentence": f"the {who} walked {i}", "label": label, "idx": i} for i, label in enumerate(labels)]
        (target / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder / "data"


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        (["--corpus.source", "/nowhere.txt"], ["/nowhere.txt"]),
        (["--corpus.source", "{empty}"], ["empty"]),
        (["--finetune.tasks", "colla"], ["'colla'", "did you mean 'cola'"]),
        (["--objectiv.kl", "3"], ["--objectiv.kl", "did you mean --objective.kl"]),
        (["--objective.kl", "much"], ["objective.kl", "'much'"]),
        (["--objective.kl"], ["--objective.kl", "a value"]),
        (["--teacher.model", "/nowhere"], ["/nowhere", "no such folder"]),
        (["--teacher.model", "{mismatched}"], ["232 tokens", "tokenizer"]),
        (["--student.layers", "0,9"], ["student.layers", "0 to 3"]),
        (["--teacher.model", "offline", "--adapt.tokens", "0"], ["adapt.tokens", "new head"]),
        (["--data", "/nowhere"], ["/nowhere"]),
        (["--data", "{labels}", "--finetune.tasks", "cola"], ["label", "7"]),
        (["--data", "{data}", "--finetune.tasks", "rte"], ["rte"]),
        (["--corpus.block_size", "600"], ["corpus.block_size", "512 positions"]),
        (["--finetune.override.cloze-qa.max_length", "513"], ["cloze-qa", "512 positions"]),
        (
            ["--finetune.override.cloze-qa.epoch", "3"],
            ["did you mean --finetune.override.cloze-qa.epochs"],
        ),
        (["--device", "gpu"], ["--device", "'gpu'"]),
        (["--output", "{other}"], ["--output", "other files"]),
    ],
)
def test_bad_input_is_told_in_one_line_and_nothing_is_written(
    change: list[str], parts: list[str], recipe_file: Path, tmp_path: Path, teacher: Path, call: Call
) -> None:
    paths = {
        "empty": tmp_path / "empty.txt",
        "mismatched": tmp_path / "mismatched",
        "labels": small_glue(tmp_path / "bad", [0, 1, 7]),
        "data": small_glue(tmp_path / "good", [0, 1, 1]),
        "other": tmp_path / "other",
    }
    paths["empty"].touch()
    paths["other"].mkdir()
    (paths["other"] / "thesis.tex").touch()
    mismatched_teacher(teacher, paths["mismatched"])
    before = sorted(tmp_path.rglob("*"))
    output = [] if "--output" in change else ["--output", str(tmp_path / "run")]
    arguments = ["replicate", str(recipe_file), *output]
    code, out, err = call(*arguments, *(word.format(**paths) for word in change))
    lines = err.strip().splitlines()
    assert code == 2 and len(lines) == 1 and lines[0].startswith("error: "), (out, err)
    for part in parts:
        assert part in err
    assert sorted(tmp_path.rglob("*")) == before


def mismatched_teacher(source: Path, target: Path) -> None:
    """A copy of the teacher with more embeddings than its tokenizer has pieces."""
    tiny.model(vocab_size=1000).save_pretrained(target)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (target / name).write_bytes((source / name).read_bytes())


def test_a_changed_text_is_another_experiment(
    recipe_file: Path, recipe_text: str, corpus: Path, tmp_path: Path, call: Call
) -> None:
    corpus_copy = tmp_path / "corpus"
    shutil.copytree(corpus, corpus_copy)
    recipe_file.write_text(recipe_text.replace(str(corpus), str(corpus_copy)))
    code, out, _ = call("prepare", recipe_file, "--output", tmp_path / "run")
    assert code == 0 and "prepare:" in out and "precision:" not in out, "nothing is computed in it"
    (corpus_copy / "train.txt").write_text((corpus_copy / "train.txt").read_text() + "\n\nOne more text.")
    code, _, err = call("prepare", recipe_file, "--output", tmp_path / "run")
    assert code == 2 and "data changed" in err and "(corpus: " in err


def test_a_launcher_that_says_too_little_is_refused(
    recipe_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    code, _, err = call("replicate", recipe_file, "--output", tmp_path / "run")
    assert code == 2 and "found no RANK" in err and not (tmp_path / "run").exists()


def test_the_way_of_the_seed_runs_with_its_padding_and_its_number_of_steps(
    recipe_file: Path, tmp_path: Path, corpus: Path, call: Call
) -> None:
    changes = {
        "corpus.packing": "lines", "student.initialization": "random", "student.architecture": "same",
        "student.layers": "first", "objective.kl": "1", "objective.mlm": "1", "objective.reduction": "notebook",
        "distill.max_steps": "0", "distill.epochs": "1.5", "distill.optimization.batch_size": "4",
        "distill.optimization.gradient_accumulation_steps": "16", "distill.optimization.max_grad_norm": "0",
    }  # fmt: skip
    code, _, err = call(
        "distill", recipe_file, *(f"--{k}={v}" for k, v in changes.items()), "--output", tmp_path / "run"
    )
    assert code == 0, err
    log = [json.loads(line) for line in (tmp_path / "run" / "student" / "log.jsonl").read_text().splitlines()]
    lines = (corpus / "train.txt").read_text().count("\n") + 1
    steps_of_an_epoch = -(-lines // (4 * 16))
    assert max(line["step"] for line in log) == -(-steps_of_an_epoch * 3 // 2)  # one and a half of them
    steps, validations = ([line for line in log if key in line] for key in ("loss", "validation"))
    assert steps[-1]["kl"] > 10 * validations[-1]["validation"]["kl"], "the notebook's KL is a sum over the positions"
    assert steps[0]["tokens"] < 4 * 16 * 32, "padding is not counted as tokens"


def test_a_second_distillation_can_start_at_the_layers_of_the_tasks_teacher(
    recipe_text: str, tmp_path: Path, call: Call
) -> None:
    recipe, run = tmp_path / "recipe.toml", tmp_path / "run"
    changed = recipe_text.replace('architecture = "distilbert"', "layers = [1]").replace("2_000", "0")
    changed = changed.replace('models = ["teacher", "student", "control"]', 'models = ["teacher"]', 1)
    recipe.write_text(changed.replace("[benchmark]", '[finetune.distillation]\nstart = "teacher"\n[benchmark]'))
    command = ["evaluate", recipe, "--output", run, "--task", "adjacency", "--finetune.keep", "all"]
    code, out, err = call(*command, "--dry-run")
    assert code == 0 and "student (D)" in out, err
    code, out, err = call(*command)
    assert code == 0, err
    assert not (run / "student").exists(), "what nothing starts from is not pretrained"
    rows = [m.model for m in results.read(run / "results.jsonl") if m.task == "adjacency"]
    assert set(rows) == {"teacher", "student (D)", "tf-idf", "static embeddings"}

    cut, of_teacher = (
        load_file(folder / "model.safetensors")
        for folder in (run / "tasks/adjacency/cut-teacher", run / "tasks/adjacency/teacher/seed-0/model")
    )
    assert torch.equal(cut["classifier.weight"], of_teacher["classifier.weight"])
    layer = "bert.encoder.layer.{}.output.dense.weight"
    assert torch.equal(cut[layer.format(0)], of_teacher[layer.format(1)])
    model = AutoModelForSequenceClassification.from_pretrained(run / "tasks/adjacency/student-d/seed-0/model")
    assert model.config.num_hidden_layers == 1
    assert not torch.equal(model.classifier.weight, cut["classifier.weight"]), "and is trained"
