"""The dry run: the steps that stages log, what is finished and what is left, the errors of a run, nothing written."""

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from transformers import PreTrainedTokenizerFast

from tests import tiny
from tinydistilbert import notices, progress
from tinydistilbert.dry_run import machine, plan
from tinydistilbert.dry_run.basis import Basis, Line, Shared
from tinydistilbert.dry_run.machine import BYTES_PER_UPDATE, LayerShape, Machine
from tinydistilbert.dry_run.side_by_side import SECONDS_A_PROCESS, end_of_last
from tinydistilbert.dry_run.sizes import task_size, text_size
from tinydistilbert.dry_run.stages import ESTIMATES
from tinydistilbert.errors import UserError
from tinydistilbert.models.loading import load_tokenizer, save_model
from tinydistilbert.models.size import Size
from tinydistilbert.pipeline import run
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.run_folder import RunFolder
from tinydistilbert.storage import atomic, cache
from tinydistilbert.tasks import mapped_tables, samples
from tinydistilbert.training import precision
from tinydistilbert.training.memory import SHARE
from tinydistilbert.workers.jobs import Jobs

CONFIG = tiny.config(**tiny.WIDER)
SENTENCES = ("The student learns from the teacher.", "Paris is the capital of France.", "Some cats like milk.")
UNLABELLED = ("A small dog runs.", "Many people learn quickly.", "The old model answers slowly.")

LENGTHS = {"reach": 512, "max_length": 128}


@pytest.fixture
def recipe(tmp_path: Path, tokenizer: PreTrainedTokenizerFast) -> Recipe:
    """Two layers to one on a few sentences, and a task of 21 sentences."""
    save_model(tiny.model(**tiny.WIDER), tokenizer, tmp_path / "model")
    (tmp_path / "text").mkdir()
    for split, repeats in (("train", 40), ("validation", 8)):
        (tmp_path / "text" / f"{split}.txt").write_text("\n\n".join(SENTENCES * repeats))
        rows = [{"sentence": SENTENCES[i % 3], "label": i % 2} for i in range(21)]
        rows[0]["sentence"] = f"{SENTENCES[0]}{'!' if split == 'validation' else ''}"
        task = tmp_path / "data" / "glue" / "cola" / f"{split}.jsonl"
        task.parent.mkdir(parents=True, exist_ok=True)
        task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "name": "tiny", "device": "cpu", "data": str(tmp_path / "data"), "teacher": {"model": str(tmp_path / "model")},
        "corpus": {"source": str(tmp_path / "text"), "block_size": 16},
        "adapt": {"tokens": 200, "optimization": {"batch_size": 4}},
        "distill": {"epochs": 1.5, "optimization": {"batch_size": 4, "gradient_accumulation_steps": 2}},
        "validation": {"times": 1, "blocks": 2},
        "finetune": {
            "tasks": ["cola"], "seeds": [0], "epochs": 1.5, "min_steps": 20, "optimization": {"batch_size": 4},
        },
        "benchmark": {"models": ["teacher", "student"], "examples": 2, "padded_examples": 2},
    }  # fmt: skip
    return toml.from_dict(content, "test")


def run_of(recipe: Recipe, output: Path, *, until: str) -> RunContext:
    return run.run_context(recipe, output, until=until, log=lambda _: None)


def rows(text: str) -> dict[str, str]:
    """The lines of the table by stage."""
    return {line.split("  ")[0]: line for line in text.split("\n\n")[0].splitlines()[1:]}


def told_steps(line: str) -> int:
    match = re.search(r"([\d,]+) steps", line)
    assert match is not None, line
    return int(match[1].replace(",", ""))


def tree(*folders: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything in the folders."""
    return {
        str(path): (path.stat().st_size, path.stat().st_mtime_ns) for folder in folders for path in folder.rglob("*")
    }


def partial_checkpoint(folder: Path, step: int) -> None:
    path = folder.with_name(folder.name + ".partial") / "checkpoints" / f"step-{step:08d}"
    atomic.write_json(path / atomic.MANIFEST, {"files": {}})


@pytest.mark.long
def test_steps_and_blocks_are_those_of_the_run(recipe: Recipe, tmp_path: Path) -> None:
    output = tmp_path / "run"
    run.run_stages(run_of(recipe, output, until="finetune"))
    # The stages are told as if none of them was made, on the blocks that are in the cache now.
    planned = rows(plan.plan(run_of(recipe, tmp_path / "other", until="finetune")))
    assert planned["prepare"].split()[1] == "finished"
    folders = {
        "adapt": "teacher", "distill": "student", "finetune teacher, CoLA": "tasks/cola/teacher/seed-0/model",
        "finetune student, CoLA": "tasks/cola/student/seed-0/model",
    }  # fmt: skip
    for stage, folder in folders.items():
        lines = [json.loads(line) for line in (output / folder / "log.jsonl").read_text().splitlines()]
        assert told_steps(planned[stage]) == max(line["step"] for line in lines), stage
    assert all("finished" in line for line in rows(plan.plan(run_of(recipe, output, until="finetune"))).values())


def test_what_is_left_is_told_by_the_folders(recipe: Recipe, tmp_path: Path) -> None:
    output = tmp_path / "run"
    atomic.write_text(RunFolder(output).recipe, toml.to_toml(recipe))
    (output / "teacher").mkdir()
    atomic.write_json(output / "teacher" / atomic.MANIFEST, {"files": {}})
    partial_checkpoint(output / "student", 2)
    partial_checkpoint(output / "student", 3)
    planned = rows(plan.plan(run_of(recipe, output, until="report")))
    assert "finished" in planned["adapt"] and planned["adapt"].rstrip().endswith("-")
    assert "resumes at step 3" in planned["distill"]
    for stage in ("finetune teacher, CoLA", "evaluate", "benchmark"):
        assert "to do" in planned[stage]
    assert "always made again" in planned["report"]


def test_seeds_are_told_together(recipe: Recipe, tmp_path: Path) -> None:
    three = toml.from_dict(toml.merge(toml.to_dict(recipe), {"finetune": {"seeds": [0, 1, 2], "min_steps": 0}}), "")
    output = tmp_path / "run"
    atomic.write_text(RunFolder(output).recipe, toml.to_toml(three))
    atomic.write_json(output / "tasks/cola/teacher/seed-0/model" / atomic.MANIFEST, {"files": {}})
    partial_checkpoint(output / "tasks/cola/teacher/seed-1/model", 5)
    planned = rows(plan.plan(run_of(three, output, until="finetune")))
    assert "1 of 3 finished, resumes at step 5" in planned["finetune teacher, CoLA"]
    assert "3 models × 9 steps × 4, 21 examples" in planned["finetune student, CoLA"]


def test_a_large_file_is_estimated_from_a_sample_and_read_whole_where_that_looks_wrong(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"SAMPLED": 0, "POSITIONS": 2, "ROWS": 8}.items():
        monkeypatch.setattr(samples, name, value)
    notices.begin()
    planned = rows(plan.plan(run_of(recipe, tmp_path / "run", until="finetune")))
    assert "× 4, 21 examples" in planned["finetune teacher, CoLA"]
    assert any("train.jsonl: estimated from 8 of about 21 rows" in line for line in notices.all_notices())
    file = tmp_path / "data/glue/cola/train.jsonl"
    lines = file.read_text().splitlines()
    lines[11] = lines[11].replace('"label": 1', '"label": 7')
    file.write_text("\n".join(lines) + "\n")
    with pytest.raises(UserError, match=r"train.jsonl:12, column label"):
        plan.plan(run_of(recipe, tmp_path / "run", until="finetune"))
    assert any("all rows are read" in line for line in notices.all_notices())


def test_the_disk_for_the_rows_of_a_large_file_is_counted(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.csv"
    file.write_text("text,label\n" + "".join(f"{SENTENCES[row % 3]} {row},{row % 2}\n" for row in range(60)))
    custom = {"own": {"train": str(file), "validation": "20%"}}
    changes = {"finetune": {"tasks": ["own"], "custom": custom}}
    custom_recipe = toml.from_dict(toml.merge(toml.to_dict(recipe), changes), "")
    assert "rows of own" not in rows(plan.plan(run_of(custom_recipe, tmp_path / "run", until="finetune")))
    monkeypatch.setattr(mapped_tables, "LARGE", 100)
    line = rows(plan.plan(run_of(custom_recipe, tmp_path / "run", until="finetune")))["rows of own"]
    assert "to do" in line and line.endswith("kB")


def with_distillation(recipe: Recipe, **distillation: object) -> Recipe:
    """The recipe with a second distillation, whose steps are its epochs."""
    changes = {"finetune": {"seeds": [0], "min_steps": 0, "epochs": 2.0, "distillation": distillation}}
    return toml.from_dict(toml.merge(toml.to_dict(recipe), changes), "test")


@dataclasses.dataclass(frozen=True)
class OnSimpleMachine(Shared):
    """On a machine that does an operation a second and moves data in no time."""

    unpruned: float = 0.0

    def machine(self, *_: object) -> Machine:
        return Machine("cpu", 1, 1.0, 1.0, float("inf"), "fp32", 1.0, self.unpruned)


def on_simple_machine(context: RunContext) -> Basis:
    return Basis(context, OnSimpleMachine(context))


def estimated(recipe: Recipe, folder: Path, row: str) -> Line:
    """The line of a row on CoLA, on a machine that does an operation a second and moves data in no time."""
    lines = ESTIMATES["finetune"](on_simple_machine(run_of(recipe, folder, until="finetune")))
    return next(line for line in lines if line.stage == f"finetune {row}, CoLA")


def test_texts_without_labels_and_copies_are_trained_on_too(recipe: Recipe, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("".join(f"{sentence}\n" for sentence in UNLABELLED * 3))
    steps = {}
    for name, settings in (("labels", {}), ("more", {"unlabelled": str(more)}), ("copies", {"augment": 2})):
        changed = with_distillation(recipe, **settings)
        steps[name] = [told_steps(estimated(changed, tmp_path / name, row).what) for row in ("student", "student (D)")]
    # 21 examples in batches of 4, twice; 9 more texts; three times as many.
    assert steps == {"labels": [12, 12], "more": [12, 16], "copies": [12, 32]}
    changed = with_distillation(recipe, batch_size=8)
    larger = [told_steps(estimated(changed, tmp_path / "larger", row).what) for row in ("student", "student (D)")]
    assert larger == [12, 6]
    wrong = with_distillation(recipe, unlabelled=str(tmp_path / "none.txt"))
    same_error(wrong, tmp_path / "new", "none.txt", stages=["finetune"])


@pytest.mark.long
def test_the_steps_of_a_second_distillation_are_those_of_the_run(recipe: Recipe, tmp_path: Path) -> None:
    more = tmp_path / "more.txt"
    more.write_text("".join(f"{sentence}\n" for sentence in UNLABELLED * 3))
    changed = with_distillation(recipe, unlabelled=str(more), hidden=1.0, intermediate_epochs=1.0)
    planned_steps = told_steps(estimated(changed, tmp_path / "run", "student (D)").what)
    run.run_stages(run_of(changed, tmp_path / "run", until="finetune"))
    log = (tmp_path / "run/tasks/cola/student-d/seed-0/model/log.jsonl").read_text().splitlines()
    lines = [json.loads(line) for line in log]
    assert max(line["step"] for line in lines) == planned_steps == 16
    assert sum(line["hidden"] > 0 for line in lines) == 8


def test_a_teacher_that_is_looked_into_costs_a_pass_in_each_of_those_steps(recipe: Recipe, tmp_path: Path) -> None:
    def seconds(row: str, **distillation: object) -> float:
        return estimated(with_distillation(recipe, **distillation), tmp_path / "run", row).seconds or 0.0

    size = task_size(with_distillation(recipe), "cola", load_tokenizer(recipe.teacher.model), **LENGTHS)
    assert size is not None
    with torch.device("meta"):
        teacher = Size.of(tiny.model(**tiny.WIDER))
    plain, targets = seconds("student (D)"), teacher.forward(21 * size.length, size.length)
    assert plain == pytest.approx(seconds("student") + targets)
    # 12 steps of 4 examples, or the 6 of the first epoch.
    step = teacher.forward(4 * size.length, size.length)
    assert seconds("student (D)", relation=1.0) == pytest.approx(plain + 12 * step)
    assert seconds("student (D)", hidden=1.0, intermediate_epochs=1.0) == pytest.approx(plain + 6 * step)
    memory = [
        estimated(with_distillation(recipe, hidden=w), tmp_path / "run", "student (D)").memory for w in (0.0, 1.0)
    ]
    assert memory[1] - memory[0] == 4 * teacher.parameters


def test_a_second_distillation_with_its_own_rate_is_trained_once(recipe: Recipe, tmp_path: Path) -> None:
    changed = with_distillation(recipe, learning_rate=1e-5)
    selected = {"select": "heldout"}
    one, three = (
        toml.from_dict(toml.merge(toml.to_dict(changed), {"finetune": {**selected, **rates}}), "test")
        for rates in ({}, {"learning_rates": [1e-5, 2e-5, 3e-5]})
    )
    times = {
        row: [estimated(each, tmp_path / "run", row).seconds or 0.0 for each in (one, three)]
        for row in ("student", "student (D)")
    }
    assert times["student"][1] == pytest.approx(3 * times["student"][0])
    assert times["student (D)"][1] == times["student (D)"][0]


def test_a_step_has_the_examples_of_all_its_micro_batches(recipe: Recipe, tmp_path: Path) -> None:
    content = toml.merge(
        toml.to_dict(with_distillation(recipe)), {"finetune": {"optimization": {"gradient_accumulation_steps": 2}}}
    )
    line = estimated(toml.from_dict(content, "test"), tmp_path / "run", "student")
    assert "6 steps × 8, 21 examples" in line.what
    assert line.seconds == pytest.approx(estimated(with_distillation(recipe), tmp_path / "run", "student").seconds)


def test_every_back_end_and_protocol_is_timed_and_every_variant_is_made(recipe: Recipe, tmp_path: Path) -> None:
    def line(stage: str, **changes: object) -> Line:
        changed = toml.from_dict(toml.merge(toml.to_dict(recipe), changes), "test")
        return next(iter(ESTIMATES[stage](on_simple_machine(run_of(changed, tmp_path / "run", until="report")))))

    one = line("benchmark", benchmark={"protocols": ["true-length"]})
    four = line("benchmark", benchmark={"protocols": ["true-length", "with-tokenizer"], "backends": ["torch", "onnx"]})
    assert "2 models by 2 back ends, pairs: 2 true-length, 2 with-tokenizer" in four.what
    assert (four.seconds or 0) - 4 == pytest.approx(4 * ((one.seconds or 0) - 2))  # a second for each model opened
    assert line("compress").state == "nothing to do"
    # As it is, exported, in int8, and three pruned ones; of 21 examples a tenth is held out, and 19 make 5 batches.
    small = line("compress", compress={"tasks": ["cola"], "held_out": 0})
    assert small.what == "1 model, up to 6 variants each; 3 of them pruned, then recovery fine-tuning of 10 steps"
    fewer = line("compress", compress={"tasks": ["cola"], "held_out": 0, "keep": [0.5]})
    assert 0 < (fewer.seconds or 0) < (small.seconds or 0) and 0 < fewer.disk < small.disk


def test_one_of_a_kind_is_not_told_as_several(recipe: Recipe, tmp_path: Path) -> None:
    changes = {
        "finetune": {"models": ["student"], "distillation": {"tasks": "none"}},
        "benchmark": {"models": ["student"]},
    }
    one = toml.from_dict(toml.merge(toml.to_dict(recipe), changes), "test")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        text = plan.plan(run_of(one, tmp_path / "run", until="report"))
    finally:
        torch.set_num_threads(threads)
    planned = rows(text)
    assert (
        "1 model on 1 task " in planned["evaluate"] and "static embeddings on 1 task " in planned["evaluate baselines"]
    )
    assert "1 model by 1 back end, pairs:" in planned["benchmark"] and text.endswith("(1 thread). Nothing was written.")


def test_recovery_runs_the_teacher_in_every_step_where_layers_are_compared(recipe: Recipe, tmp_path: Path) -> None:
    def seconds(hidden: float, unpruned: float = 0.0) -> float:
        changes = {
            "compress": {"tasks": ["cola"], "keep": [0.5], "recovery_epochs": 2.0},
            "finetune": {"distillation": {"hidden": hidden, "intermediate_epochs": 0.0}},
        }
        changed = toml.from_dict(toml.merge(toml.to_dict(recipe), changes), "test")
        context = run_of(changed, tmp_path / "run", until="report")
        (line,) = ESTIMATES["compress"](Basis(context, OnSimpleMachine(context, unpruned)))
        assert line.seconds is not None
        return line.seconds

    basis = on_simple_machine(run_of(recipe, tmp_path / "run", until="report"))
    size = basis.task_size("cola")
    assert size is not None
    of_example = basis.task_teacher.forward(size.length, size.length)
    assert seconds(1.0) - seconds(0.0) == pytest.approx(40 * of_example)  # 10 steps of 4 examples
    # Half of a layer's time stays when it is pruned to nothing: pruned to 50 % it takes 75 % instead of 50.
    learned = 40 + min(basis.recipe.compress.importance_examples, size.features)
    model = basis.task_model(basis.run.compressed_job("cola"))
    more = 0.25 * 3 * learned * model.forward(size.length, size.length)
    assert seconds(0.0, unpruned=0.5) - seconds(0.0) == pytest.approx(more)


def test_words_that_no_text_uses_are_not_updated(recipe: Recipe, tmp_path: Path) -> None:
    basis = on_simple_machine(run_of(recipe, tmp_path / "run", until="report"))
    slow = dataclasses.replace(basis.machine, traffic=1.0)
    basis.__dict__["machine"] = slow
    model, size = basis.student, basis.task_size("cola")
    assert size is not None and 0 < size.words < model.vocabulary
    all_of_it, used = (basis.training_seconds(model, 0.0, 1, words=words) for words in (0, size.words))
    assert all_of_it - used == pytest.approx((model.vocabulary - size.words) * model.width * BYTES_PER_UPDATE)


def test_every_stage_has_an_estimate() -> None:
    assert tuple(ESTIMATES) == tuple(stage.name for stage in run.STAGES)


def test_jobs_end_with_the_last_of_them_worked_out_by_hand() -> None:
    seconds = {"a": 3.0, "b": 2.0, "c": 2.0, "d": 4.0}
    needs = {"a": (), "b": (), "c": ("a", "b"), "d": ("finished before",)}
    # two places: a 0-3, b 0-2, d 2-6, c 3-5; one: one after the other; four: c waits for a
    assert [end_of_last(seconds, needs, at_once) for at_once in (1, 2, 4)] == [11, 6, 5]


def test_jobs_side_by_side_are_told_with_their_time_and_memory(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tinydistilbert.workers.jobs.usable_cores", lambda: 8)
    monkeypatch.setattr("torch.get_num_threads", lambda: 8)
    four = toml.from_dict(toml.merge(toml.to_dict(recipe), {"finetune": {"seeds": [0, 1, 2, 3]}}), "")
    context = dataclasses.replace(run_of(four, tmp_path / "run", until="evaluate"), workers=Jobs(4))
    planned = plan.plan_as_json(context)
    left = len(context.jobs) + 1  # what the teachers answer is a job too
    assert planned["jobs"] | {"seconds": 0} == {"parts": left, "at_once": 4, "threads": 2, "seconds": 0}
    made = [line["seconds"] for line in planned["stages"] if line["stage"].startswith(("finetune", "evaluate"))]
    made = [*made[:-1]] if "baselines" in planned["stages"][-1]["stage"] else made
    # a job has a quarter of the threads: if no place were ever free, the sum would stay as it is
    least = sum(made) + left * SECONDS_A_PROCESS / 4
    assert least * 0.999 < planned["jobs"]["seconds"] < 2 * least
    rest = planned["seconds_one_after_the_other"] - sum(made)
    assert planned["seconds"] == pytest.approx(rest + planned["jobs"]["seconds"])
    assert planned["memory"] > 5 * machine.PROCESS_BYTES
    text = plan.plan(context)
    assert f"4 of {left} at a time, each with 2 threads; one at a time about" in text
    by_ray = dataclasses.replace(context, workers=Jobs(0))
    assert plan.plan_as_json(by_ray)["jobs"] is None and "by Ray" in plan.plan(by_ray)


def test_micro_batches_that_would_not_fit_are_told_and_their_memory_is_that_of_smaller_ones(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = run_of(recipe, tmp_path / "run", until="finetune")
    whole = plan.plan_as_json(context)["stages"][-1]
    assert not any("micro-batches" in note for note in whole["notes"])
    monkeypatch.setattr("tinydistilbert.dry_run.tasks.free_bytes", lambda _: 0.99 * whole["memory"] / SHARE)
    halved = plan.plan_as_json(context)["stages"][-1]
    assert any("cola, trained in micro-batches of 1/2 of their size" in note for note in halved["notes"])
    assert halved["memory"] < whole["memory"] and halved["what"] == whole["what"]
    monkeypatch.setattr("tinydistilbert.dry_run.tasks.free_bytes", lambda _: 1.9 * whole["memory"] / SHARE)
    for workers, is_halved in ((None, False), (Jobs(0), False), (Jobs(2), True)):  # two jobs share the memory
        context = dataclasses.replace(context, workers=workers)
        assert any("micro-batches" in note for note in plan.plan_as_json(context)["stages"][-1]["notes"]) == is_halved


def test_stages_after_the_command_are_not_told(recipe: Recipe, tmp_path: Path) -> None:
    assert list(rows(plan.plan(run_of(recipe, tmp_path / "run", until="adapt")))) == ["prepare", "adapt"]


def test_without_tasks_a_given_model_has_nothing_to_do(recipe: Recipe, tmp_path: Path) -> None:
    given = {"finetune": {"tasks": [], "model": recipe.teacher.model}}
    changed = toml.from_dict(toml.merge(toml.to_dict(recipe), given), "test")
    text = plan.plan(run_of(changed, tmp_path / "run", until="finetune"))
    assert rows(text) == {} and "time left:   about 0 s" in text


def test_nothing_is_written(recipe: Recipe, tmp_path: Path) -> None:
    before = tree(tmp_path), tree(cache.folder())
    plan.plan(run_of(recipe, tmp_path / "new" / "run", until="report"))
    assert (tree(tmp_path), tree(cache.folder())) == before
    assert not (tmp_path / "new").exists()


def same_error(wrong: Recipe, folder: Path, message: str, stages: Sequence[str] = ("report", "prepare")) -> None:
    """Each of the two refuses, in the same words."""
    for until in stages:
        with pytest.raises(UserError) as of_plan:
            plan.plan(run_of(wrong, folder, until=until))
        with pytest.raises(UserError) as of_run:
            run.run_stages(run_of(wrong, folder, until=until))
        assert str(of_plan.value) == str(of_run.value) and message in str(of_plan.value)


@pytest.mark.long
def test_the_errors_are_those_of_a_run(recipe: Recipe, tmp_path: Path) -> None:
    def changed(**changes: object) -> Recipe:
        return toml.from_dict(toml.merge(toml.to_dict(recipe), changes), "test")

    output = tmp_path / "run"
    atomic.write_text(RunFolder(output).recipe, toml.to_toml(recipe))
    (tmp_path / "occupied").mkdir()
    (tmp_path / "occupied" / "letter.txt").write_text("dear")
    cases = [
        (changed(seed=7), output, "seed = 0"),
        (recipe, tmp_path / "occupied", "other files"),
        (changed(device="abacus"), tmp_path / "new", "abacus"),
        (changed(data=str(tmp_path / "nowhere")), tmp_path / "new", "nowhere"),
        (changed(corpus={"source": str(tmp_path / "no.txt")}), tmp_path / "new", "no.txt"),
        (changed(teacher={"model": str(tmp_path / "no-model")}), tmp_path / "new", "no-model"),
        (changed(student={"layers": [5]}), tmp_path / "new", "student.layers"),
        (changed(corpus={"block_size": 5000}), tmp_path / "new", "corpus.block_size"),
    ]
    for wrong, folder, message in cases:
        same_error(wrong, folder, message)
    for split in ("validation", "train"):
        (tmp_path / "data" / "glue" / "cola" / f"{split}.jsonl").unlink()
        same_error(recipe, tmp_path / "new", f"cola/{split}", stages=["report", "finetune"])
    assert not (tmp_path / "new").exists()


def test_a_corpus_is_estimated_near_what_it_is(recipe: Recipe) -> None:
    tokenizer = load_tokenizer(recipe.teacher.model)
    estimated = text_size(recipe, tokenizer)
    run.run_stages(run_of(recipe, Path(recipe.corpus.source).parent / "run", until="prepare"))
    counted = text_size(recipe, tokenizer)
    assert estimated is not None and counted is not None
    assert counted.is_prepared and counted.disk == 0
    assert estimated.train == pytest.approx(counted.train, abs=1)
    assert estimated.validation == pytest.approx(counted.validation, abs=1)
    assert not estimated.is_prepared


def test_data_on_the_hub_have_their_published_sizes(tokenizer: PreTrainedTokenizerFast) -> None:
    content = {"finetune": {"override": {"cola": {"train_examples": 100}}, "tasks": ["cola", "mnli", "cloze-qa"]}}
    recipe = toml.from_dict(content, "test")
    cola, mnli = task_size(recipe, "cola", tokenizer, **LENGTHS), task_size(recipe, "mnli", tokenizer, **LENGTHS)
    assert cola is not None and (cola.examples, cola.evaluation_examples) == (100, 1043)
    assert mnli is not None and mnli.evaluation_examples == 9815 + 9832
    assert task_size(recipe, "cloze-qa", tokenizer, **LENGTHS) is None
    tenth = toml.from_dict({"finetune": {"tasks": ["cola"], "select": "heldout"}}, "test")
    given = {"tasks": ["cola"], "score_on": "train", "validation_examples": 2000}
    for held_out, sizes in ((tenth, (8551 - 855, 1043)), (toml.from_dict({"finetune": given}, "test"), (6551, 2000))):
        cola = task_size(held_out, "cola", tokenizer, **LENGTHS)
        assert cola is not None and (cola.examples, cola.evaluation_examples) == sizes
    other = toml.from_dict({"corpus": {"source": "somebody/something"}}, "test")
    assert text_size(other, tokenizer) is None


def test_operations_of_a_layer_worked_out_by_hand() -> None:
    with torch.device("meta"):
        size = Size.of(tiny.model(**tiny.WIDER))
    # A layer: query, key, value and output of 32 x 32, and a feed-forward part of 32 x 48 and 48 x 32.
    assert size.matrices == 2 * (4 * 32 * 32 + 2 * 32 * 48)
    # 10 tokens: two operations a weight; scores and their use cost 2 x 2 x length x width a token and layer.
    assert size.forward(10, 10) == 10 * (2 * size.matrices + 4 * 10 * 32 * 2)
    assert size.vocabulary_head(3) == 3 * 2 * (32 * 32 + 32 * 232)
    assert size.parameters == sum(p.numel() for p in tiny.model(**tiny.WIDER).parameters())


@pytest.mark.parametrize(("threads", "stands_still"), [(1, False), (2, False), (1, True)])
def test_a_layer_is_measured(threads: int, stands_still: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if stands_still:  # as the clock of the processor does on Windows for 16 ms
        monkeypatch.setattr(machine.time, "process_time", lambda: 7.0)
    before, random = torch.get_num_threads(), torch.get_rng_state()
    torch.set_num_threads(threads)
    try:
        measured = machine.measure(torch.device("cpu"), "fp32", LayerShape(32, 2, 64))
        assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(rate > 0 for rate in (measured.scoring, measured.one_core, measured.traffic, measured.training))
    assert 0 <= measured.unpruned <= 1
    assert measured.pruned(1.0) == pytest.approx(1.0)
    assert measured.pruned(0.0) == measured.unpruned


def test_the_layer_has_the_shape_of_the_models() -> None:
    config = tiny.model(**tiny.WIDER).config
    layer = LayerShape.of(config)
    assert layer == LayerShape(config.hidden_size, config.num_attention_heads, config.intermediate_size)
    assert Size.of(layer.model()).matrices == Size.of(tiny.model(**tiny.WIDER)).matrices / config.num_hidden_layers


def test_a_layer_that_takes_half_as_long_with_a_quarter_left(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = iter([0.5, 1.0])
    monkeypatch.setattr(machine, "_passes_seconds", lambda *_: next(seconds))
    layer = LayerShape(32, 4, 64)  # of which 1 head and 16 neurons are left
    assert machine._unpruned(layer, "fp32") == pytest.approx((0.5 - 0.25) / 0.75)


def test_half_the_rate_is_twice_the_time() -> None:
    fast, slow = (Machine("cpu", 1, rate, rate, rate, "fp32", rate) for rate in (2e9, 1e9))
    traffic = BYTES_PER_UPDATE
    assert slow.training_seconds(1e9, traffic=traffic) == pytest.approx(2 * fast.training_seconds(1e9, traffic=traffic))
    assert slow.seconds(1e9) == pytest.approx(2 * fast.seconds(1e9))


def test_a_training_in_bf16_takes_less_time_than_in_fp32_and_its_scores_as_much(
    recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:

    def measured(_: torch.device, name: precision.Precision, layer: LayerShape) -> Machine:
        monkeypatch.setattr(machine, "_passes_seconds", lambda *_: {"fp32": 4.0, "bf16": 1.0}[name])
        return Machine("cpu", 1, 1e9, 1e9, 1e15, name, machine._training(layer, name))

    monkeypatch.setattr(machine, "measure", measured)
    monkeypatch.setattr(precision, "has_bf16_units", lambda: True)
    plans = {}
    for name in ("fp32", "bf16"):
        asked = dataclasses.replace(recipe, precision=name)
        plans[name] = run_of(asked, tmp_path / name, until="report")
        assert f"training in {name} at" in plan.plan(plans[name])
    seconds = {
        name: {line["stage"]: line["seconds"] for line in plan.plan_as_json(run)["stages"]}
        for name, run in plans.items()
    }
    assert seconds["bf16"]["finetune teacher, CoLA"] < seconds["fp32"]["finetune teacher, CoLA"]
    assert seconds["bf16"]["evaluate"] == pytest.approx(seconds["fp32"]["evaluate"])


@pytest.mark.parametrize(("count", "words"), [(12, "12 B"), (70_300_000, "70 MB"), (1_234_000_000, "1.2 GB")])
def test_bytes_are_told_as_people_say_them(count: float, words: str) -> None:
    assert progress.size_in_words(count) == words
