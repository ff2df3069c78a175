"""The stages of one recipe in order, in one run folder: finished ones are skipped, half-finished ones go on.

Every command is this: `distill` runs the stages up to distill, `replicate` runs them all.
"""

import os
import time
from collections.abc import Callable
from functools import cached_property, partial
from pathlib import Path

from transformers import PretrainedConfig

from tinydistilbert import cache, fsio, results, run_folder
from tinydistilbert.adapt import adapt, check_head
from tinydistilbert.augment import augment
from tinydistilbert.benchmark import benchmark
from tinydistilbert.data.corpus import TokenBlocks, load_blocks, prepare
from tinydistilbert.distill import distill
from tinydistilbert.errors import UserError
from tinydistilbert.evaluate import evaluate
from tinydistilbert.finetune import TRAINING_FACTS, finetune
from tinydistilbert.jobs import Job, jobs
from tinydistilbert.models.loading import check_length, load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.models.matching import match_layers
from tinydistilbert.models.student import cut_student
from tinydistilbert.models.teacher import LoadedTeacher, check_tokenizer, load_teacher
from tinydistilbert.progress import duration
from tinydistilbert.recipe import Recipe
from tinydistilbert.recipe_file import to_toml
from tinydistilbert.report.card import write_card
from tinydistilbert.report.page import write_report
from tinydistilbert.task_checks import Taught, check_models
from tinydistilbert.task_targets import make_targets
from tinydistilbert.task_training import Lesson, training_examples
from tinydistilbert.tasks import has_split, tasks_of
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.unlabelled import holds_examples, read_unlabelled, write_examples
from tinydistilbert.tasks.wanted import scored_split, wanted_examples
from tinydistilbert.teacher_cache import check_room, views_to_make
from tinydistilbert.training import choose_device, chosen_precision

STAGES = ("prepare", "adapt", "distill", "finetune", "evaluate", "benchmark", "report")
STAGES_OF_GIVEN = ("finetune", "evaluate", "report")
RESULTS = "results.jsonl"
AUGMENTED = "examples.parquet"


class Run:
    """One recipe in one folder."""

    def __init__(
        self, recipe: Recipe, output: Path, *, until: str, tell: Callable[[str], None], command: str = ""
    ) -> None:
        self.recipe, self.output, self.until, self.tell, self.command = recipe, output, until, tell, command
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            cure = "start the command without a launcher"
            raise UserError("command line", expected="one process", found=f"{processes}, by a launcher", cure=cure)
        self.device = choose_device(recipe.device)
        chosen_precision(self.device, recipe.precision)
        self.failures: list[str] = []
        self.known = tasks_of(recipe.finetune)

    def stages(self) -> tuple[str, ...]:
        """The stages up to the last that this recipe has: a given model needs no text and no student."""
        wanted = STAGES[: STAGES.index(self.until) + 1]
        return tuple(s for s in wanted if s in STAGES_OF_GIVEN) if self.recipe.finetune.model else wanted

    @cached_property
    def original_teacher(self) -> LoadedTeacher:
        """The teacher that the recipe names, as it comes."""
        return load_teacher(self.recipe.teacher)

    @cached_property
    def teacher(self) -> LoadedTeacher:
        """The teacher in the run folder, adapted if the recipe says so."""
        folder = self.output / "teacher"
        loaded = LoadedTeacher(load_model(folder, "masked-lm"), load_tokenizer(folder), has_trained_head=True)
        check_tokenizer(loaded.model, loaded.tokenizer, str(folder))
        return loaded

    @cached_property
    def blocks(self) -> TokenBlocks:
        """The corpus as token blocks, from the cache or made now."""
        tokenizer = self.original_teacher.tokenizer
        return load_blocks(prepare(self.recipe.corpus, tokenizer, cache.folder(), self.recipe.data))

    def claim(self) -> None:
        """Take the output folder for this recipe, after everything that can be checked beforehand was checked.

        Raises:
            UserError: the folder belongs to another recipe or to something else, or an input is wrong; then nothing
                was written.
        """
        if self.is_begun():
            return
        self.check_data_folder()
        self.check_inputs()
        fsio.write_text(self.output / run_folder.RECIPE, to_toml(self.recipe))

    def is_begun(self) -> bool:
        """Whether the output folder holds a run of this recipe; if not, it is new or empty.

        Raises:
            UserError: it belongs to another recipe or to something else.
        """
        return run_folder.is_begun(self.recipe, self.output)

    def check_data_folder(self) -> None:
        """Refuse a data folder that is not there.

        Raises:
            UserError: it is not.
        """
        data = self.recipe.data
        if data is not None and not Path(data).is_dir():
            raise UserError(f"--data {data}", expected="a folder", found="none", cure="name an existing folder")

    def check_inputs(self) -> None:
        """Load whatever can be wrong in the stages up to the last: teacher, cut, corpus, lengths, labels of every task.

        Raises:
            UserError: one of them is.
        """
        recipe = self.recipe
        if recipe.finetune.model:
            load_tokenizer(recipe.finetune.model)
            self.check_lengths(load_config(recipe.finetune.model))
            self.check_tasks()
            return
        check_head(recipe, self.original_teacher)
        student = cut_student(self.original_teacher.model, recipe.student, seed=recipe.seed)
        match_layers(recipe, self.original_teacher.model.config, student.config)
        self.check_lengths(self.original_teacher.model.config)
        self.check_tasks()
        assert len(self.blocks.train)
        self.check_cache()

    def check_tasks(self) -> None:
        """Load whatever the tasks read: the splits, further texts, and the given teachers' configurations.

        Raises:
            UserError: one of them is wrong.
        """
        recipe = self.recipe
        for name in self.tasks():
            task = self.known[name]
            also = [split for split in task.evaluation[1:] if has_split(task, split, recipe.data)]
            found = [wanted_examples(recipe, task, split) for split in (task.train, scored_split(recipe, task), *also)]
            more = recipe.finetune.distillation.unlabelled
            if more and any(job.is_second_distillation for job in jobs(recipe)):
                read_unlabelled(Path(more), found[0].task)
            is_taught = any(job.is_second_distillation and job.task == name for job in jobs(recipe))
            check_models(recipe, found[0].task, self._student_of_tasks() if is_taught else None)

    def _student_of_tasks(self) -> Taught:
        """What the second distillations start from, and the run's own teacher."""
        if name := self.recipe.finetune.model:
            return Taught(load_config(name), load_tokenizer(name), None)
        teacher = self.original_teacher
        student = cut_student(teacher.model, self.recipe.student, seed=self.recipe.seed)
        return Taught(student.config, teacher.tokenizer, teacher.model.config)

    def check_cache(self) -> None:
        """Make sure that what the teacher says finds room on the disk; an adapted teacher says all of it anew.

        Raises:
            UserError: it does not.
        """
        settings, teacher = self.recipe.distill.cache, self.original_teacher.model
        if settings.kind == "none" or STAGES.index(self.until) < STAGES.index("distill"):
            return
        if self.recipe.adapt.tokens:
            views = settings.views
        else:
            views = views_to_make(teacher, self.blocks, self.recipe, cache.folder(), self.device)
        check_room(teacher, self.blocks, self.recipe, cache.folder(), views=views)

    def tasks(self) -> tuple[str, ...]:
        """The tasks that the stages up to the last read."""
        return self.recipe.finetune.tasks if STAGES.index(self.until) >= STAGES.index("finetune") else ()

    def check_lengths(self, teacher: PretrainedConfig) -> None:
        """Compare every length of the recipe with the teacher's position embeddings.

        Raises:
            UserError: one is longer.
        """
        longest = longest_input(teacher)
        if not self.recipe.finetune.model:
            check_length("corpus.block_size", self.recipe.corpus.block_size, longest)
        for name in self.tasks():
            longest_wanted = self.recipe.finetune.max_length(name, self.known[name].max_length)
            check_length(f"max_length of {name}", longest_wanted, longest)

    def stage(self, folder: str, title: str, make: Callable[[Path], None]) -> None:
        """Make one folder of the run, unless it is finished."""
        path = self.output / folder
        if fsio.is_finished(path):
            self.tell(f"{title}: finished before, skipped")
            return
        started = time.monotonic()
        make(path)
        self.tell(f"{title}: {duration(time.monotonic() - started)}")
        self.gather()

    def gather(self) -> None:
        """Write `results.jsonl`: what every finished stage measured, in the order of the stages."""
        folders = [self.output / name for name in ("teacher", "control", "student")]
        folders += [self.output / job.folder / "scores" for job in jobs(self.recipe)]
        folders.append(self.output / "benchmark")
        found = [
            m for folder in folders if fsio.is_finished(folder) for m in results.read(folder / "measurements.jsonl")
        ]
        results.write(self.output / RESULTS, found)

    def remember_examples(self, folder: str, split: Callable[[Task], str], limit: str) -> None:
        """Keep which examples were read, for every task that has an unfinished `folder`."""
        for name in self.tasks():
            own = [job for job in jobs(self.recipe) if job.task == name and not (job.is_given and folder == "model")]
            if not all(fsio.is_finished(self.output / job.folder / folder) for job in own):
                task, settings = self.known[name], self.recipe.finetune.settings(name)
                examples = wanted_examples(self.recipe, task, split(task), limit=getattr(settings, limit))
                run_folder.remember(self.output, f"{name} {examples.split}", examples.fingerprint)

    def prepare(self) -> None:
        """Stage prepare: text → token blocks in the cache."""
        run_folder.remember(self.output, "corpus", self.blocks.fingerprint)
        train, validation = len(self.blocks.train), len(self.blocks.validation)
        size = self.recipe.corpus.block_size
        self.tell(f"prepare: {train:,} + {validation:,} blocks of {size} tokens in {self.blocks.folder}")

    def adapt(self) -> None:
        """Stage adapt: the teacher into the run folder, moved to the text if the recipe says so."""
        self.stage(
            "teacher", "adapt", lambda path: adapt(self.recipe, self.original_teacher, self.blocks, path, self.device)
        )

    def distill(self) -> None:
        """Stage distill: the student, and the control if a table wants it."""
        if "control" in self.recipe.finetune.models:
            self.stage("control", "distill (control)", lambda path: self._distill(path, control=True))
        if self.needs_student():
            self.stage("student", "distill", lambda path: self._distill(path, control=False))

    def needs_student(self) -> bool:
        """Whether anything up to the last stage reads the student; fine-tuning teacher and control alone does not."""
        return self.until not in ("finetune", "evaluate") or "student" in self.recipe.finetune.models

    def _distill(self, path: Path, *, control: bool) -> None:
        distill(self.recipe, self.teacher, self.blocks, path, self.device, control=control, tell=self.tell)

    def finetune(self) -> None:
        """Stage finetune: every row of the tables on every task."""
        self.remember_examples("model", lambda task: task.train, "train_examples")
        for job in jobs(self.recipe):
            if not job.is_given:
                title = f"finetune {job.row} on {self.known[job.task].title}, seed {job.seed}"
                self.stage(f"{job.folder}/model", title, partial(self._finetune, job))
                if failure := fsio.read_json(job.model(self.output) / TRAINING_FACTS).get("failed"):
                    self.failures.append(f"{title}: {failure}")

    def _finetune(self, job: Job, path: Path) -> None:
        encoder = Path(job.encoder) if self.recipe.finetune.model else self.output / job.encoder
        finetune(
            self.recipe, self.known[job.task], encoder, path, row=job.row, seed=job.seed, device=self.device,
            lesson=self.lesson(job) if job.is_second_distillation else None,
        )  # fmt: skip

    def lesson(self, job: Job) -> Lesson:
        """What the (D)s of a task learn from: made once for all seeds."""
        task, settings = self.known[job.task], self.recipe.finetune.settings(job.task)
        encoder = Path(job.encoder) if self.recipe.finetune.model else self.output / job.encoder
        teachers, augmented = self.task_teachers(job.task), None
        if settings.distillation.augment:
            folder = f"tasks/{job.task}/augmented"
            self.stage(folder, f"augment {task.title}", partial(self._augment, task))
            file = self.output / folder / AUGMENTED
            augmented = file if holds_examples(file) else None
        examples, _ = training_examples(self.recipe, task, augmented=augmented, soft=True)
        folder = f"tasks/{job.task}/targets"
        self.stage(
            folder, f"ask the teacher about {task.title}",
            partial(
                make_targets, examples, teachers, tokenizer=load_tokenizer(encoder), device=self.device,
                max_length=self.recipe.finetune.max_length(job.task, task.max_length),
            ),
        )  # fmt: skip
        return Lesson(self.output / folder, teachers, augmented)

    def task_teachers(self, task: str) -> tuple[Path, ...]:
        """Fine-tuned teachers of a task: the given ones, or the run's own, less those whose training failed."""
        chosen = self.recipe.finetune.distillation.teachers
        if isinstance(chosen, tuple):
            return tuple(map(Path, chosen))
        own = [job.model(self.output) for job in jobs(self.recipe) if (job.task, job.row) == (task, "teacher")]
        sound = [folder for folder in own if "failed" not in fsio.read_json(folder / TRAINING_FACTS)] or own
        return tuple(sound if chosen == "all" else sound[:1])

    def _augment(self, task: Task, path: Path) -> None:
        if name := self.recipe.finetune.model:
            model, tokenizer = load_model(name, "masked-lm"), load_tokenizer(name)
        else:
            model, tokenizer = self.teacher.model, self.teacher.tokenizer
        examples, _ = training_examples(self.recipe, task, augmented=None, soft=False)
        with fsio.unfinished(path) as folder:
            copies = augment(
                examples, model, tokenizer, self.recipe.finetune.settings(task.name).distillation,
                seed=self.recipe.seed, device=self.device, tell=self.tell,
                max_length=self.recipe.finetune.max_length(task.name, task.max_length),
            )  # fmt: skip
            write_examples(copies, folder / AUGMENTED)

    def evaluate(self) -> None:
        """Stage evaluate: the scores of every task model."""
        self.remember_examples("scores", partial(scored_split, self.recipe), "validation_examples")
        for job in jobs(self.recipe):
            title = f"evaluate {job.row} on {self.known[job.task].title}, seed {job.seed}"
            self.stage(f"{job.folder}/scores", title, partial(self._evaluate, job))

    def _evaluate(self, job: Job, path: Path) -> None:
        model = job.model(self.output)
        facts = {} if job.is_given else fsio.read_json(model / TRAINING_FACTS)
        evaluate(
            model, self.known[job.task], row=job.row, seed=job.seed, recipe=self.recipe, output=path,
            device=self.device, training=facts,
        )  # fmt: skip

    def benchmark(self) -> None:
        """Stage benchmark: size and latency."""
        own = {"teacher": self.output / "teacher", "student": self.output / "student"}
        rows: dict[str, Path | None] = {name: own.get(name) for name in self.recipe.benchmark.models}
        self.stage(
            "benchmark", "benchmark",
            lambda path: benchmark(
                rows, self.recipe.benchmark, recipe=self.recipe, tokenizer=self.teacher.tokenizer, output=path
            ),
        )  # fmt: skip

    def report(self) -> None:
        """Stage report: tables, page and model card; always made anew, for it costs seconds."""
        self.gather()
        if not self.recipe.finetune.model:
            write_card(self.output)
        write_report(self.output, command=self.command)
        self.tell("report: written")


def run(recipe: Recipe, output: Path, *, until: str, tell: Callable[[str], None], command: str = "") -> tuple[str, ...]:
    """Run the stages of `recipe` up to `until` in the folder `output`.

    Args:
        recipe: what to do.
        output: the run folder; made if missing, continued if it belongs to this recipe.
        until: the last stage, a name in `STAGES`.
        tell: called with a line for each stage that was done or skipped.
        command: the command line that the report shows as the way to get the same again.

    Returns:
        What went wrong on the way without stopping it: fine-tunings whose loss became infinite.

    Raises:
        UserError: an input is wrong; when it was found before the first stage, nothing was written.
        Interrupted: the user asked to stop; the same call goes on.
    """
    work = Run(recipe, output, until=until, tell=tell, command=command)
    work.claim()
    for name in work.stages():
        getattr(work, name)()
    return tuple(work.failures)
