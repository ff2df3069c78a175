"""What the replication consists of: one protocol for every row, jobs in a possible order, rows that exist."""

import dataclasses
import itertools
import time
from pathlib import Path

import gpu_pack
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import replication
from replication_jobs import ADAPTED, DISTILL, MORE_FILES, Job, Setting, planned, write_recipe

from tinydistilbert.data.sources import open_source
from tinydistilbert.distillation.distill import distill_steps
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.task_sections import TaskDistillation, TaskDistillationSettings
from tinydistilbert.storage import atomic


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    """Of a run that has not begun."""
    return Setting(tmp_path / "data", tmp_path / "models", tmp_path / "run", "cpu")


def test_every_row_is_fine_tuned_by_one_protocol(setting: Setting) -> None:
    def protocol(name: str) -> object:
        finetune = setting.recipes[name].finetune
        override = {
            task: dataclasses.replace(settings, distillation=TaskDistillationSettings())
            for task, settings in finetune.override.items()
            if settings.epochs
        }
        return dataclasses.replace(
            finetune,
            model="",
            models=(),
            teacher="",
            layer_decay=1.0,  # what `teacher-decay` tries
            keep="best",  # task teachers keep what other rows learn from
            baselines=True,
            distillation=TaskDistillation(),
            override=override,
        )

    assert len({repr(protocol(name)) for name in setting.recipes}) == 1


def test_jobs_come_after_what_they_need_and_none_is_forgotten(setting: Setting) -> None:
    jobs = planned(setting)
    assert len(set(jobs)) == len(jobs)
    for index, job in enumerate(jobs):
        makers = {Job(*path.relative_to(setting.run).parts[:2]) for path in setting.needs(job)}
        assert makers <= set(jobs[:index]), job
    made = {row["recipe"] for row in setting.plan["rows"] if "recipe" in row}
    assert made == {job.recipe for job in jobs} == set(setting.recipes)
    tasks = {*setting.plan["small"], *setting.plan["large"]}
    assert all(
        tasks == {job.task for job in jobs if job.recipe == recipe} - {DISTILL}
        for recipe in made - {"wikitext2-taught", "teacher-decay", "task-student-more"}
    )


def test_compared_rows_exist_and_every_row_of_a_student_has_a_teacher(setting: Setting) -> None:
    names = {row["name"] for row in setting.plan["rows"]}
    assert set(itertools.chain(*setting.plan["compared"]["pairs"])) <= names
    assert {row["teacher"] for row in setting.plan["rows"] if "teacher" in row} <= names


def test_the_recipe_of_a_job_has_this_machines_paths(setting: Setting) -> None:
    (setting.models / "minilm-l6").mkdir(parents=True)
    for job in planned(setting):
        recipe = setting.recipe_of(job)
        assert toml.from_toml(toml.to_toml(recipe), "recipe") == recipe  # valid
        named = [recipe.teacher.model, recipe.finetune.model, recipe.finetune.teacher]
        teachers = recipe.finetune.distillation.teachers
        named += teachers if isinstance(teachers, tuple) else ()
        assert all(Path(name).is_relative_to(setting.models.parent) for name in named if name), job
    finetune = setting.recipe_of(Job("minilm-l3-taught", "sst2")).finetune
    assert (
        len(finetune.seeds) == 1 == len(finetune.distillation.teachers)
        and "task-student/sst2" in finetune.distillation.teachers[0]
    )


def test_what_does_not_fit_into_the_time_is_left_for_something_shorter(setting: Setting) -> None:
    long, short = Job("task-student", "squad"), Job("minilm-l3", "wnli")
    assert setting.seconds(long) > 5 * setting.seconds(short)
    pool = replication.Pool(setting, setting.run, time.monotonic() + 2 * setting.seconds(short), [long, short])
    worker = replication.Worker(0, None, None)  # type: ignore[arg-type]
    assert pool.next_for(worker) == short
    pool.paces = [9.0]  # everything takes nine times as long as estimated
    assert pool.next_for(worker) is None


def test_a_job_waits_for_its_distillation(setting: Setting) -> None:
    pool = replication.Pool(setting, setting.run, float("inf"), [Job("authors", "rte"), Job("minilm-l3", "rte")])
    worker = replication.Worker(0, None, None)  # type: ignore[arg-type]
    assert pool.next_for(worker) == Job("minilm-l3", "rte")


def test_a_teacher_is_learnt_from_as_soon_as_it_is_trained(setting: Setting) -> None:
    student, trained = Job("minilm-l3-taught", "rte"), Job("task-student", "rte")
    pool = replication.Pool(setting, setting.run, float("inf"), [student])
    worker = replication.Worker(0, None, None)  # type: ignore[arg-type]
    alone = dataclasses.replace(setting, teachers_only=True)
    assert alone.seconds(trained) < setting.seconds(trained) / 3
    assert alone.recipe_of(trained).finetune.distillation.tasks == "none"
    for seed in setting.seeds("rte"):
        assert pool.next_for(worker) is None and not alone.is_done(trained)
        with atomic.unfinished(
            setting.folder(trained) / "tasks" / "rte" / "teacher" / f"seed-{seed}" / "model"
        ) as made:
            (made / "config.json").write_text("{}")
    assert pool.next_for(worker) == student and alone.is_done(trained)
    assert not setting.is_done(trained), "the student is still to come"


def test_more_text_is_gathered_from_what_the_job_needs(setting: Setting) -> None:
    job = Job("wikitext2-more", DISTILL)
    texts = {"train.txt": "A first text.\n", "validation.txt": "A held-out text.\n"}
    for name in MORE_FILES.values():
        assert name in setting.lacks(job)
        path = setting.data / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text(texts[path.name])
        else:
            pq.write_table(pa.table({"text": [path.stem]}), path)
    (setting.models / ADAPTED).mkdir(parents=True)
    assert not setting.lacks(job)
    corpus = toml.read(write_recipe(setting, job)).corpus
    source = open_source(corpus, str(setting.data))
    assert sorted(source.train()) == ["A first text.", "gutenberg_books", "wikipedia_en"]
    assert list(source.validation()) == ["A held-out text."], "the validation split of (d)"
    assert "/" not in setting.recipe_of(Job("wikitext2", DISTILL)).corpus.source


def test_more_text_is_read_for_as_many_steps(setting: Setting) -> None:
    """By the blocks that `prepare` counted of both texts."""
    steps = {
        name: distill_steps(setting.recipes[name].distill, setting.recipes[name].objective, blocks)
        for name, blocks in (("wikitext2", 16_965), ("wikitext2-more", 198_085))
    }
    assert steps["wikitext2-more"] == steps["wikitext2"] == 10_604


def test_more_text_takes_as_many_steps(setting: Setting) -> None:
    plain, more = (setting.recipes[name] for name in ("wikitext2", "wikitext2-more"))
    assert dataclasses.replace(more.distill, max_steps=0, epochs=40) == plain.distill
    assert (more.objective, more.student, more.masking) == (plain.objective, plain.student, plain.masking)


def test_the_packs_hold_everything_that_the_jobs_read(setting: Setting) -> None:
    models = {model for _, names, _ in gpu_pack.GROUPS.values() for model in names}
    data = {part for *_, parts in gpu_pack.GROUPS.values() for part in parts}
    assert models == {"minilm-l6-mlm", "minilm-l6", "paraphrase-minilm-l3"}
    assert data == {"wikitext2", "extra_corpus", "imdb", "squad"} | {f"glue/{name}" for name in (
        "cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb", "wnli"
    )}  # fmt: skip
    assert [has_code for has_code, *_ in gpu_pack.GROUPS.values()] == [True, False, False, False]
    assert any(place == "results/replication/rows.toml" for _, place in gpu_pack.code_files())
