"""The stages of one recipe in order, in one run folder: finished ones are skipped, half-finished ones go on.

Every command is this: `distill` runs the stages up to distill, `replicate` runs them all.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path

from tinydistilbert import results, run_folder
from tinydistilbert.benchmark import benchmark
from tinydistilbert.compress.stage import climb_down
from tinydistilbert.compress.variants import Workshop
from tinydistilbert.distillation.adapt import adapt
from tinydistilbert.distillation.distill import distill
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.evaluate import evaluate
from tinydistilbert.finetuning.augment import augment
from tinydistilbert.finetuning.examples import task_examples, training_examples
from tinydistilbert.finetuning.finetune import finetune, training_facts
from tinydistilbert.finetuning.soft_targets import SoftTargetSource, make_soft_targets
from tinydistilbert.models import hub
from tinydistilbert.models.loading import load_model, load_tokenizer
from tinydistilbert.models.teacher import LoadedTeacher, check_tokenizer
from tinydistilbert.pipeline.jobs import Job, jobs
from tinydistilbert.pipeline.preflight import Inputs
from tinydistilbert.progress import duration
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.recipe.toml import to_toml
from tinydistilbert.report.card import write_card
from tinydistilbert.report.page import write_report
from tinydistilbert.run_folder import AUGMENTED_EXAMPLES, MEASUREMENTS, RunFolder
from tinydistilbert.storage import atomic, locks
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.recipe_splits import scored_split, wanted_examples
from tinydistilbert.tasks.unlabelled import holds_examples, write_examples
from tinydistilbert.training.device import Compute


class Run(Inputs):
    """One recipe in one folder.

    Args:
        recipe: what to do.
        output: the run folder; made if missing, continued if it belongs to this recipe.
        until: the last stage, a name in `STAGES`.
        log: called with a line for each stage that was done or skipped.
        command: the command line that the report shows as the way to get the same again.
    """

    def __init__(
        self, recipe: Recipe, output: Path, *, until: str, log: Callable[[str], None], command: str = ""
    ) -> None:
        super().__init__(recipe, until=until)
        self.folder, self.log, self.command = RunFolder(output), log, command
        processes = int(os.environ.get("WORLD_SIZE", "1"))
        if processes > 1:
            fix = "start the command without a launcher"
            raise UserError("command line", expected="one process", found=f"{processes}, by a launcher", fix=fix)
        self.failures: list[str] = []
        self.unreached: list[str] = []

    @cached_property
    def teacher(self) -> LoadedTeacher:
        """The teacher in the run folder, adapted if the recipe says so."""
        folder = self.folder.teacher
        loaded = LoadedTeacher(load_model(folder, "masked-lm"), load_tokenizer(folder), has_trained_head=True)
        check_tokenizer(loaded.model, loaded.tokenizer, str(folder))
        return loaded

    @contextmanager
    def claimed(self) -> Iterator[None]:
        """Have the output folder for this recipe and this process alone, after all that can be checked was checked.

        Raises:
            UserError: the folder belongs to another recipe or to something else, another process works in it, or an
                input is wrong; then nothing was written.
        """
        if not self.is_begun():
            self.check_data_folder()
            self.check_inputs()
        output = self.folder.path
        with locks.alone(output / atomic.LOCK, where=f"--output {output}"):
            atomic.sweep(output)
            if not self.is_begun():
                atomic.write_text(self.folder.recipe, to_toml(self.recipe))
            run_folder.keep_revisions(self.folder, hub.pinned_revisions())
            yield

    def is_begun(self) -> bool:
        """Whether the output folder holds a run of this recipe, whose versions of hub models count; else it is new.

        Raises:
            UserError: it belongs to another recipe or to something else.
        """
        is_begun = run_folder.is_begun(self.folder, self.recipe)
        if is_begun:
            hub.pin_revisions(run_folder.kept_revisions(self.folder))
        return is_begun

    def stage(self, path: Path, title: str, make: Callable[[Path], None]) -> None:
        """Make one folder of the run, unless it is finished."""
        if atomic.is_finished(path):
            atomic.tidy(path)
            self.log(f"{title}: finished before, skipped")
            return
        started = time.monotonic()
        make(path)
        run_folder.keep_revisions(self.folder, hub.pinned_revisions())
        self.log(f"{title}: {duration(time.monotonic() - started)}")
        self.gather()

    def gather(self) -> None:
        """Write `results.jsonl`: what every finished stage measured, in the order of the stages."""
        run, recipe = self.folder, self.recipe
        scores = [job.scores(run) for job in jobs(recipe)]
        summaries = [run.compressed(name).summary for name in recipe.compress.tasks]
        folders = [run.teacher, run.control, run.student, *scores, *summaries, run.benchmark]
        finished = [folder for folder in folders if atomic.is_finished(folder)]
        results.write(run.results, [m for folder in finished for m in results.read(folder / MEASUREMENTS)])

    def remember_examples(self, outputs: Mapping[Job, Path], split: Callable[[Task], str], limit: str) -> None:
        """Keep which examples were read, for every task that has an unfinished output."""
        for name in self.tasks():
            if not all(atomic.is_finished(output) for job, output in outputs.items() if job.task == name):
                task, settings = self.known[name], self.recipe.finetune.settings(name)
                examples = wanted_examples(self.recipe, task, split(task), limit=getattr(settings, limit))
                run_folder.keep_fingerprint(self.folder, f"{name} {examples.split}", examples.fingerprint)

    def prepare(self) -> None:
        """Stage prepare: text → token blocks in the cache."""
        run_folder.keep_fingerprint(self.folder, "corpus", self.blocks.fingerprint)
        train, validation = len(self.blocks.train), len(self.blocks.validation)
        size = self.recipe.corpus.block_size
        self.log(f"prepare: {train:,} + {validation:,} blocks of {size} tokens in {self.blocks.folder}")

    def adapt(self) -> None:
        """Stage adapt: the teacher into the run folder, moved to the text if the recipe says so."""
        self.stage(
            self.folder.teacher,
            "adapt",
            lambda path: adapt(
                self.recipe.adapt,
                self.original_teacher,
                self.pretraining_setup(),
                path,
                origin=results.Origin.of(self.recipe),
            ),
        )

    def distill(self) -> None:
        """Stage distill: the student, and the control if a table wants it."""
        if "control" in self.recipe.finetune.models:
            self.stage(self.folder.control, "distill (control)", lambda path: self._distill(path, control=True))
        if self.needs_student():
            self.stage(self.folder.student, "distill", lambda path: self._distill(path, control=False))

    def needs_student(self) -> bool:
        """Whether anything up to the last stage reads the student; fine-tuning teacher and control alone does not."""
        return self.until not in ("finetune", "evaluate") or "student" in self.recipe.finetune.models

    def _distill(self, path: Path, *, control: bool) -> None:
        distill(
            self.recipe.distill, self.recipe.objective, self.recipe.student, self.teacher, self.pretraining_setup(),
            path, origin=results.Origin.of(self.recipe), control=control, log=self.log,
        )  # fmt: skip

    def pretraining_setup(self) -> PretrainingSetup:
        """What the trainings on the text share."""
        return PretrainingSetup.of(self.recipe, self.blocks, self.device)

    def finetune(self) -> None:
        """Stage finetune: every row of the tables on every task."""
        models = {job: job.model(self.folder) for job in jobs(self.recipe) if not job.is_given}
        self.remember_examples(models, lambda task: task.train, "train_examples")
        for job, model in models.items():
            title = f"finetune {job.row} on {self.known[job.task].title}, seed {job.seed}"
            self.stage(model, title, partial(self._finetune, job))
            if failure := training_facts(model).get("failed"):
                self.failures.append(f"{title}: {failure}")

    def _finetune(self, job: Job, path: Path) -> None:
        encoder = Path(job.encoder) if self.recipe.finetune.model else self.folder.encoder(job.encoder)
        soft_targets = self.soft_targets(job) if job.is_second_distillation else None
        examples = task_examples(self.recipe, self.known[job.task], soft_targets)
        finetune(
            self.recipe.finetune, examples, encoder, path, compute=Compute.of(self.recipe, self.device), row=job.row,
            seed=job.seed, soft_targets=soft_targets,
        )  # fmt: skip

    def soft_targets(self, job: Job) -> SoftTargetSource:
        """What the (D)s of a task learn from: made once for all seeds."""
        task, settings = self.known[job.task], self.recipe.finetune.settings(job.task)
        encoder = Path(job.encoder) if self.recipe.finetune.model else self.folder.encoder(job.encoder)
        teachers, augmented = self.task_teachers(job.task), None
        if settings.distillation.augment:
            folder = self.folder.augmented(job.task)
            self.stage(folder, f"augment {task.title}", partial(self._augment, task))
            file = folder / AUGMENTED_EXAMPLES
            augmented = file if holds_examples(file) else None
        examples, _ = training_examples(self.recipe, task, augmented=augmented, soft=True)
        targets = self.folder.soft_targets(job.task)
        self.stage(
            targets, f"ask the teacher about {task.title}",
            partial(
                make_soft_targets, examples, teachers, tokenizer=load_tokenizer(encoder), device=self.device,
                max_length=self.recipe.finetune.max_length(job.task, task.max_length),
            ),
        )  # fmt: skip
        return SoftTargetSource(targets, teachers, augmented)

    def task_teachers(self, task: str) -> tuple[Path, ...]:
        """Fine-tuned teachers of a task: the given ones, or the run's own, less those whose training failed."""
        chosen = self.recipe.finetune.distillation.teachers
        if isinstance(chosen, tuple):
            return tuple(map(Path, chosen))
        own = [job.model(self.folder) for job in jobs(self.recipe) if (job.task, job.row) == (task, "teacher")]
        sound = [folder for folder in own if "failed" not in training_facts(folder)] or own
        return tuple(sound if chosen == "all" else sound[:1])

    def _augment(self, task: Task, path: Path) -> None:
        if name := self.recipe.finetune.model:
            model, tokenizer = load_model(name, "masked-lm"), load_tokenizer(name)
        else:
            model, tokenizer = self.teacher.model, self.teacher.tokenizer
        examples, _ = training_examples(self.recipe, task, augmented=None, soft=False)
        with atomic.unfinished(path) as folder:
            copies = augment(
                examples, model, tokenizer, self.recipe.finetune.settings(task.name).distillation,
                seed=self.recipe.seed, device=self.device, log=self.log,
                max_length=self.recipe.finetune.max_length(task.name, task.max_length),
            )  # fmt: skip
            write_examples(copies, folder / AUGMENTED_EXAMPLES)

    def evaluate(self) -> None:
        """Stage evaluate: the scores of every task model."""
        scores = {job: job.scores(self.folder) for job in jobs(self.recipe)}
        self.remember_examples(scores, partial(scored_split, self.recipe), "validation_examples")
        for job, folder in scores.items():
            title = f"evaluate {job.row} on {self.known[job.task].title}, seed {job.seed}"
            self.stage(folder, title, partial(self._evaluate, job))

    def _evaluate(self, job: Job, path: Path) -> None:
        model = job.model(self.folder)
        facts = {} if job.is_given else training_facts(model)
        evaluate(
            model, self.known[job.task], row=job.row, seed=job.seed, recipe=self.recipe, output=path,
            device=self.device, training=facts,
        )  # fmt: skip

    def compress(self) -> None:
        """Stage compress: smaller and faster forms of task models, and what each gives."""
        settings = self.recipe.compress
        for name in settings.tasks:
            task, folder = self.known[name], self.folder.compressed(name)
            title = f"compress {settings.row} on {task.title}"
            finished = atomic.is_finished(folder.summary)
            started = time.monotonic()
            workshop = Workshop(
                self.recipe, task, self.compressed_model(name), self.teachers_of_pruned(name), settings.row, folder,
                self.device, self.log,
            )  # fmt: skip
            if unreached := climb_down(workshop):
                self.unreached.append(f"{title} came to {unreached}; the best model is in {folder.best}")
            spent = "finished before, skipped" if finished else duration(time.monotonic() - started)
            self.log(f"{title}: {spent}; the best is {folder.best}")
            self.gather()

    def compressed_model(self, task: str) -> Path:
        """Folder of the task model that is compressed."""
        given = self.recipe.compress.model
        return Path(given) if given else self.compressed_job(task).model(self.folder)

    def teachers_of_pruned(self, task: str) -> tuple[Path, ...]:
        """What pruned models of a task learn from again; nothing = the unpruned one."""
        settings = self.recipe.compress
        if settings.teachers or settings.model:
            return tuple(map(Path, settings.teachers))
        return self.task_teachers(task) if settings.row != "teacher" else ()

    def benchmark(self) -> None:
        """Stage benchmark: size and latency."""
        own = {"teacher": self.folder.teacher, "student": self.folder.student}
        rows: dict[str, Path | None] = {name: own.get(name) for name in self.recipe.benchmark.models}
        rows |= {f"compressed ({name})": self.folder.compressed(name).best for name in self.recipe.compress.tasks}
        self.stage(
            self.folder.benchmark, "benchmark",
            lambda path: benchmark(
                rows, self.recipe.benchmark, recipe=self.recipe, tokenizer=self.teacher.tokenizer, output=path
            ),
        )  # fmt: skip

    def report(self) -> None:
        """Stage report: tables, page and model card; always made anew, for it costs seconds."""
        self.gather()
        if not self.recipe.finetune.model:
            write_card(self.folder.path)
        write_report(self.folder.path, command=self.command)
        self.log("report: written")


def run(work: Run) -> tuple[str, ...]:
    """Run the stages of a recipe, those that are not finished.

    Returns:
        What went wrong on the way without stopping it: fine-tunings whose loss became infinite.

    Raises:
        UserError: an input is wrong; when it was found before the first stage, nothing was written. Or a compression
            did not reach its target; then everything was written.
        Interrupted: the user asked to stop; the same call goes on.
    """
    with work.claimed():
        for name in work.stages():
            getattr(work, name)()
        if work.until != "prepare":  # whatever happened to the file meanwhile
            work.gather()
    if work.unreached:
        fix = "ask for less, or prune further (--keep 0.25 0.15)"
        raise UserError("compress", expected="to reach the target", found="; ".join(work.unreached), fix=fix)
    return tuple(work.failures)
