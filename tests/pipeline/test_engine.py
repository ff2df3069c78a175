"""The distillation engine by the command line: terms, masking, caches, budgets, narrow students."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import AutoModelForMaskedLM

from tinydistilbert import results
from tinydistilbert.recipe.toml import load
from tinydistilbert.storage import atomic

Call = Callable[..., tuple[int, str, str]]
LAYER_TERMS = {"objective.relation": "1", "objective.attention": "0.1", "objective.hidden": "1"}


def flags(settings: dict[str, str]) -> list[str]:
    return [f"--{key}={value}" for key, value in settings.items()]


def steps(run: Path) -> list[dict]:
    lines = [json.loads(line) for line in (run / "student" / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def validated(run: Path) -> dict[str, float]:
    return {m.metric: m.value for m in results.read(run / "student" / "measurements.jsonl")}


@pytest.mark.parametrize(
    ("settings", "terms"),
    [
        (LAYER_TERMS, {"kl", "mlm", "cosine", "relation", "attention", "hidden"}),
        ({"corpus.attention": "documents", **LAYER_TERMS}, {"kl", "mlm", "cosine", "relation", "attention", "hidden"}),
        ({"objective.kl_positions": "sampled", "masking.whole_words": "true"}, {"kl", "mlm", "cosine"}),
        ({"objective.kl": "0", "objective.mlm": "0", "objective.cosine": "0", "objective.relation": "1"}, {"relation"}),
        ({"student.hidden_size": "16", "objective.hidden": "1"}, {"kl", "mlm", "cosine", "hidden"}),
        (
            {"student.architecture": "same", "student.layers": "0,3", "masking.smoothing": "0.7"},
            {"kl", "mlm", "cosine"},
        ),
    ],
    ids=["all terms", "documents", "sampled", "relation", "narrow", "list"],
)
def test_objectives_and_students(
    settings: dict[str, str], terms: set[str], recipe_file: Path, tmp_path: Path, call: Call
) -> None:
    run = tmp_path / "run"
    more = {"adapt.tokens": "0", "distill.max_steps": "25", "masking.rate": "0.3,0.15", **settings}
    code, _, err = call("distill", recipe_file, *flags(more), "--output", run)
    assert code == 0, err
    log = steps(run)
    for name in terms - {"mlm"}:  # the words of the text are not what a random teacher says
        first, last = (sum(line[name] for line in part) for part in (log[:5], log[-5:]))
        assert last < first, name
    assert {"kl", "mlm", "cosine", "relation", "attention", "hidden"} & log[0].keys() == terms
    student = AutoModelForMaskedLM.from_pretrained(run / "student")
    assert student.config.hidden_size == int(settings.get("student.hidden_size", 32))
    assert ("cosine" in validated(run)) is ("student.hidden_size" not in settings)


@pytest.mark.parametrize("kind", ["hidden", "top-k"])
def test_a_cached_teacher_says_what_the_live_one_says(
    kind: str, recipe_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TINYDISTILBERT_CACHE", str(tmp_path / "cache"))
    kind_settings = {"hidden": {}, "top-k": {"objective.cosine": "0"}}[kind]
    more = {"adapt.tokens": "0", "distill.max_steps": "25", **kind_settings}
    live, cached = tmp_path / "live", tmp_path / "cached"
    assert call("distill", recipe_file, *flags(more), "--output", live)[0] == 0
    with_cache = {**more, "distill.cache.kind": kind, "distill.cache.views": "2", "distill.cache.top_k": "200"}
    code, out, err = call("distill", recipe_file, *flags(with_cache), "--output", cached)
    assert code == 0, err
    assert "teacher cache: 2 views" in out
    # Other masks, the same teacher: what is learned differs a little, and by far less than what there was to learn.
    first = steps(live)[0]["kl"]
    assert validated(cached)["kl"] == pytest.approx(validated(live)["kl"], rel=0.35)
    assert validated(cached)["kl"] < first / 2
    made = next((tmp_path / "cache").glob("teacher-*"))
    before = {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()}
    again = tmp_path / "again"
    assert call("distill", recipe_file, *flags(with_cache), "--output", again)[0] == 0
    assert {path: path.stat().st_mtime_ns for path in made.rglob("*") if path.is_file()} == before
    assert (again / "student" / "model.safetensors").read_bytes() == (
        cached / "student" / "model.safetensors"
    ).read_bytes()


def test_a_time_budget_fits_the_schedule_and_is_kept(recipe_file: Path, tmp_path: Path, call: Call) -> None:
    run = tmp_path / "run"
    more = {"adapt.tokens": "0", "distill.max_steps": "0", "validation.blocks": "2"}
    code, out, err = call("distill", recipe_file, *flags(more), "--time-budget", "3s", "--output", run)
    assert code == 0, err
    schedule = atomic.read_json(run / "student" / "schedule.json")
    log = steps(run)
    assert len(log) == schedule["steps"] > 1 and f"{schedule['steps']:,} steps" in out
    assert log[-1]["learning_rate"] == pytest.approx(
        5e-4 / (schedule["steps"] - int(schedule["steps"] * 0.05)), rel=1e-5
    )
    student = (run / "student").rename(run / "student.partial")  # as if it had been stopped at the end
    atomic.write_json(student / "schedule.json", {**schedule, "steps": 3})
    (student / "log.jsonl").unlink()
    (student / "manifest.json").unlink()
    assert call("distill", recipe_file, *flags(more), "--time-budget", "3s", "--output", run)[0] == 0
    assert len(steps(run)) == 3, "a resumed run keeps the number of steps that it began with"


def test_a_resumed_budget_gives_a_narrow_student_the_same_weights(
    recipe_file: Path, tmp_path: Path, call: Call
) -> None:
    # Measuring the speed draws random numbers, which a resumed run does not; the projection must not depend on them.
    run = tmp_path / "run"
    more = {"adapt.tokens": "0", "distill.max_steps": "0", "validation.blocks": "2", "student.hidden_size": "16"}
    command = ["distill", recipe_file, *flags(more), "--time-budget", "3s", "--output", run]
    assert call(*command)[0] == 0
    schedule = atomic.read_json(run / "student" / "schedule.json")
    (run / "student").rename(tmp_path / "first")
    (run / "student.partial").mkdir()
    atomic.write_json(run / "student.partial" / "schedule.json", schedule)
    assert call(*command)[0] == 0
    first, again = (folder / "model.safetensors" for folder in (tmp_path / "first", run / "student"))
    assert first.read_bytes() == again.read_bytes()


def test_a_run_that_does_not_fit_on_the_disk_is_refused_before_anything_is_made(
    recipe_file: Path, tmp_path: Path, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 9, 1))
    code, _, err = call("distill", recipe_file, "--distill.cache.kind=hidden", "--output", tmp_path / "run")
    assert code == 2 and "--output" in err and "1 B are free; free some" in err and err.count("\n") == 1
    assert not (tmp_path / "run").exists()


def test_a_budget_without_time_for_a_step_is_refused(recipe_file: Path, tmp_path: Path, call: Call) -> None:
    more = {"adapt.tokens": "0", "distill.max_steps": "0"}
    code, _, err = call("distill", recipe_file, *flags(more), "--time-budget", "0.001s", "--output", tmp_path / "run")
    assert code == 2 and "distill.time_budget: no step fits into 0.001s" in err


@pytest.mark.parametrize(
    ("settings", "key"),
    [
        ({"objective.relation": "1", "objective.relation_heads": "5"}, "objective.relation_heads"),
        ({"objective.matched_layers": "0,1,2"}, "objective.matched_layers"),
        ({"objective.relation_layer": "9"}, "objective.relation_layer"),
        ({"student.layers": "0,7"}, "student.layers"),
        ({"student.hidden_size": "20"}, "student.hidden_size"),
        ({"student.hidden_size": "16", "objective.attention": "1"}, "objective.attention"),
        ({"masking.rate": "1.5"}, "masking.rate"),
        ({"objective.temperature": "0"}, "objective.temperature"),
        ({"objective.kl": "-1"}, "objective.kl"),
        ({"distill.cache.kind": "hidden", "objective.relation": "1"}, "distill.cache"),
        ({"distill.time_budget": "20x"}, "distill.time_budget"),
        ({"corpus.block_size": "100000"}, "corpus.block_size"),
    ],
)
def test_what_cannot_work_is_told_before_anything_is_written(
    settings: dict[str, str], key: str, recipe_file: Path, tmp_path: Path, call: Call
) -> None:
    for dry in ([], ["--dry-run"]):
        code, _, err = call("distill", recipe_file, *flags(settings), "--output", tmp_path / "run", *dry)
        assert code == 2 and key in err and err.count("\n") == 1, err
    assert not (tmp_path / "run").exists()


def test_a_corpus_shorter_than_a_block_is_refused(recipe_file: Path, tmp_path: Path, call: Call) -> None:
    text = tmp_path / "short.txt"
    text.write_text("The student walked to the old house.\n\nA teacher opened a book.\n")
    code, _, err = call(
        "distill", recipe_file, "--corpus.source", text, "--corpus.validation_share=0.5", "--output", tmp_path / "run"
    )
    assert code == 2 and "expected text for a block of 32 tokens" in err and not (tmp_path / "run").exists()


def test_presets_of_the_engine_are_whole() -> None:
    assert load("ablation").ablate.rows and load("seed").precision == "fp32"
