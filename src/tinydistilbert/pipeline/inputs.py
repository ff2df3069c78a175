"""The inputs of a run: data from elsewhere, whose fingerprints `inputs.json` keeps, and what each folder depends on.

Both are compared whenever a command continues a run, so that nothing finished is reused for other inputs.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from tinydistilbert import run_record
from tinydistilbert.benchmark.pairs import requested_examples
from tinydistilbert.data import files
from tinydistilbert.data.sources import is_on_hub, open_source
from tinydistilbert.errors import UserError
from tinydistilbert.models import hub, pinned_folders
from tinydistilbert.models.wheel import wheel_folder
from tinydistilbert.notices import notice
from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.names import base_task, is_built_in
from tinydistilbert.recipe.schema import OFFLINE_TEACHER, Recipe, to_dict
from tinydistilbert.recipe.types import RENAMED_VALUES
from tinydistilbert.run_folder import LOG, MEASUREMENTS, TRAINING_FACTS, RunFolder
from tinydistilbert.storage import atomic, made_from
from tinydistilbert.storage.made_from import MadeFrom
from tinydistilbert.tasks import HELD_OUT, repeated
from tinydistilbert.tasks.base import Task
from tinydistilbert.tasks.further_texts import further_texts
from tinydistilbert.tasks.recipe_splits import recipe_examples, scored_split, whole_train_split
from tinydistilbert.tasks.splits import file_of, has_split, is_fetched

if TYPE_CHECKING:
    from tinydistilbert.pipeline.context import RunContext

CORPUS, UNLABELLED, VOCABULARY, PAIRS = "corpus", "unlabelled texts", "compress.vocabulary", "benchmark pairs"
SOFT_LABELS = "soft labels"
"""Names in `inputs.json`; examples are named `TASK SPLIT`."""
WHOLE = "train, whole"
"""Stands for the train split without the recipe's limit and hold-out, for a stage with its own hold-out."""
_PRETRAINING = ("seed", "precision", "teacher", "corpus", "masking", "validation")
_TASK = ("seed", "precision", "finetune")
SETTINGS = {
    "adapt": (*_PRETRAINING, "adapt"),
    "distill": (*_PRETRAINING, "student", "objective", "distill"),
    "cut": (*_TASK, "student"),
    "augment": _TASK,
    "targets": _TASK,
    "finetune": _TASK,
    "evaluate": _TASK,
    "compress": (*_TASK, "compress"),
    "benchmark": ("seed", "benchmark"),
}
"""The sections of the recipe that the folders of a stage depend on."""
FORMATS = dict.fromkeys(SETTINGS, 1)
"""A number for each stage, to be raised when the same inputs give other results than in the previous version."""
_NOT_READ = (
    "finetune.tasks", "finetune.models", "finetune.seeds", "finetune.baselines", "finetune.keep", "teacher.sharding",
)  # fmt: skip
"""Which trainings exist, what is kept of them and who holds the teacher do not change any single training."""
_CHANGING = (LOG, MEASUREMENTS, TRAINING_FACTS, "schedule.json", made_from.FILE)
"""Files of a model's folder that contain times, which do not make a model different."""


@dataclass(frozen=True)
class ExternalData:
    """Data from elsewhere."""

    name: str
    """Its name in `inputs.json`."""
    read: Callable[[], str]
    """Returns its fingerprint."""
    is_there: bool
    """Whether it is on this machine; what is not may still be on the hub."""
    readers: tuple[Path, ...]
    """The folders that are made from it; once all are finished, the data may be gone."""
    is_published: bool = False
    """Whether it is a built-in data set, which is not fetched again if nothing needs it any more."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of one run; each is read once."""

    run: "RunContext"

    @cached_property
    def sources(self) -> dict[str, ExternalData]:
        """All data that the stages read from elsewhere, by name."""
        return {source.name: source for source in self._sources()}

    @cached_property
    def _fingerprints(self) -> dict[str, str]:
        return {}

    def fingerprint(self, name: str) -> str:
        """The fingerprint of data from elsewhere.

        If the data is gone and everything made from it is finished, it is the one that the run was begun with.

        Raises:
            UserError: it cannot be read.
        """
        if name not in self._fingerprints:
            self._fingerprints[name] = self._read(self.sources[name])
        return self._fingerprints[name]

    def _read(self, source: ExternalData) -> str:
        before = run_record.kept_fingerprints(self.run.folder).get(source.name)
        may_be_gone = before is not None and not source.is_there and all(map(atomic.is_finished, source.readers))
        if may_be_gone and before is not None and source.is_published:
            return before
        try:
            return source.read()
        except UserError as error:
            if not may_be_gone or before is None:
                raise
            notice(source.name, f"it no longer exists ({error.where}); what was made from it stays as it is")
            return before

    def check(self) -> None:
        """Compare all data from elsewhere with what the run was begun with, and its local models with their hashes.

        Raises:
            UserError: something differs, or cannot be read.
        """
        folder = self.run.folder
        for name in run_record.kept_fingerprints(folder):
            if name in self.sources:
                run_record.check_fingerprint(folder, name, self.fingerprint(name))
        models = run_record.kept_model_files(folder)
        with pinned_folders.pinned({name: models[name] for name in self.run.given_models() if name in models}):
            pass

    def keep(self) -> None:
        """Keep the fingerprints of all data from elsewhere.

        Raises:
            UserError: the run was begun with other data.
        """
        for name in self.sources:
            run_record.keep_fingerprint(self.run.folder, name, self.fingerprint(name))

    def _sources(self) -> Iterator[ExternalData]:
        run, recipe, folder = self.run, self.run.recipe, self.run.folder
        # Text on the hub is compared by `prepare`, which opens it anyway.
        if "prepare" in run.stages and not is_on_hub(recipe.corpus, recipe.data):
            yield ExternalData(CORPUS, lambda: open_source(recipe.corpus, recipe.data).fingerprint, True, ())
        for name in run.task_names():
            yield from self._examples(run.tasks[name])
        if "compress" in run.stages:
            for name in recipe.compress.tasks:
                task, summary = run.tasks[name], folder.compressed(name).summary
                yield self._split(task, WHOLE, (summary,))
                if name not in run.task_names():
                    yield self._split(task, scored_split(recipe.finetune, task), (summary,))
            if recipe.compress.tasks and (path := recipe.compress.vocabulary) not in ("", "train"):
                readers = tuple(folder.compressed(name).summary for name in recipe.compress.tasks)
                yield ExternalData(VOCABULARY, lambda: _fingerprint_of_texts(Path(path)), Path(path).exists(), readers)
        if "finetune" in run.stages:
            for name in run.task_names():
                yield from self._unlabelled(name)
            if labels := recipe.finetune.distillation.soft_labels:
                distilled = tuple(job.model(folder) for job in run.jobs if job.is_second_distillation)
                yield ExternalData(
                    SOFT_LABELS, lambda: files.fingerprint([Path(labels)]), Path(labels).exists(), distilled
                )
        if "benchmark" in run.stages and requested_examples(recipe) is not None:
            yield ExternalData(PAIRS, lambda: _fingerprint_of_pairs(recipe), True, (folder.benchmark,))

    def _unlabelled(self, task: str) -> Iterator[ExternalData]:
        """The texts without labels that the second distillations of a task read."""
        run, recipe = self.run, self.run.recipe
        distilled = tuple(j.model(run.folder) for j in run.jobs if j.task == task and j.is_second_distillation)
        source = unlabelled_source(recipe, task)
        if not source or not distilled:
            return
        texts = recipe.finetune.settings(task).distillation.unlabelled
        named = [Path(name) for name in ((texts,) if isinstance(texts, str) else texts) if not is_built_in(name)]

        def read() -> str:
            if source == UNLABELLED:
                return files.fingerprint(named)
            examples = further_texts(recipe, recipe_examples(recipe, run.tasks[task], run.tasks[task].train).task)
            return examples.fingerprint if examples is not None else ""

        yield ExternalData(source, read, all(path.exists() for path in named), distilled)

    def _examples(self, task: Task) -> Iterator[ExternalData]:
        """The splits that a task's models are trained on, chosen by and scored on."""
        run, folder = self.run, self.run.folder
        of_task = [job for job in run.jobs if job.task == task.name]
        models = [job.model(folder) for job in of_task if not job.is_given]
        scores = [job.scores(folder) for job in of_task] if "evaluate" in run.stages else []
        compressed = [folder.compressed(task.name).summary] if task.name in run.recipe.compress.tasks else []
        readers = (*models, *scores, *(compressed if "compress" in run.stages else ()))
        for split in (task.train, *self.read_splits(task)):
            yield self._split(task, split, readers)

    def read_splits(self, task: Task) -> tuple[str, ...]:
        """The splits, besides the train split, that choose an epoch or are scored."""
        finetune = self.run.recipe.finetune
        if finetune.score_on == "train":
            return (HELD_OUT,)
        first, *others = task.evaluation
        more = [split for split in others if has_split(task, split, self.run.recipe.data)]
        return (*([HELD_OUT] if finetune.select == "heldout" else []), first, *more)

    def shared_texts(self, task: Task) -> dict[str, int]:
        """Return for each split how many of the scored texts are in the train split; counted once per task.

        Raises:
            UserError: a split is missing or wrong.
        """
        if task.name not in self._shared:
            self._shared[task.name] = repeated.shared_texts(self.run.recipe, task, self.read_splits(task))
        return self._shared[task.name]

    @cached_property
    def _shared(self) -> dict[str, dict[str, int]]:
        return {}

    def _split(self, task: Task, split: str, readers: tuple[Path, ...]) -> ExternalData:
        recipe = self.run.recipe
        settings = recipe.finetune.settings(task.name)
        of_file = task.train if split in (HELD_OUT, WHOLE) else split
        limit = settings.train_examples if split == task.train else settings.validation_examples

        def read() -> str:
            if split == WHOLE:
                return whole_train_split(recipe, task).fingerprint
            return recipe_examples(recipe, task, split, limit=limit).fingerprint

        is_there = task.is_made or file_of(task, of_file, recipe.data) is not None
        is_published = not task.files and is_fetched(task, of_file, recipe.data)
        return ExternalData(f"{task.name} {split}", read, is_there, readers, is_published)

    def of_stage(
        self, stage: str, *, data: tuple[str, ...] = (), models: tuple[str | Path, ...] = (),
        more: Mapping[str, str] | None = None, task: str = "",
    ) -> MadeFrom:  # fmt: skip
        """Return what a folder of a stage is made from.

        Args:
            stage: key of `SETTINGS`.
            data: names of `sources`.
            models: finished folders of the same run, and models from elsewhere as the recipe names them.
            more: further fingerprints by name.
            task: the one whose settings count.
        """
        run, sections = self.run, SETTINGS[stage]
        inputs = {name: self.fingerprint(name) for name in data} | dict(more or {})
        for model in map(Path, models):
            if model.is_relative_to(run.folder.path) and atomic.is_finished(model):
                inputs[model.relative_to(run.folder.path).as_posix()] = fingerprint_of_folder(model)
            else:
                inputs[f"model {model}"] = fingerprint_of_model(run.recipe, run.folder, str(model))

        def is_read(key: str) -> bool:
            return key.split(".")[0] in sections and key not in _NOT_READ and _is_of_task(key, task)

        settings, defaults = dict(flat(to_dict(run.recipe))), dict(flat(to_dict(Recipe())))
        read = {key: value for key, value in settings.items() if is_read(key)}
        return MadeFrom(inputs, read, defaults, run.folder.path, FORMATS[stage], RENAMED_VALUES)


def unlabelled_source(recipe: Recipe, task: str) -> str:
    """The name of a task's texts without labels among the data from elsewhere; empty where it has none.

    A single file in the recipe keeps the name from when there could be no other source.
    """
    settings, of_all = recipe.finetune.settings(task).distillation, recipe.finetune.distillation.unlabelled
    texts = settings.unlabelled
    if not texts:
        return ""
    is_file = isinstance(texts, str) and not is_built_in(texts) and not settings.unlabelled_examples
    return UNLABELLED if is_file and texts == of_all else f"{UNLABELLED} of {task}"


def _is_of_task(key: str, task: str) -> bool:
    """Whether a key belongs to no single task, or to this one."""
    per_task = ("finetune.override.", "finetune.custom.")
    of_task = tuple(f"{prefix}{name}." for prefix in per_task for name in (task, base_task(task)))
    return not key.startswith(per_task) or key.startswith(of_task)


def fingerprint_of_folder(folder: Path) -> str:
    """Return the hashes in the manifest of what a stage made, without files that contain times."""
    listed = atomic.read_manifest(folder, verify=False)["files"]
    return pinned_folders.fingerprint({n: facts["sha256"] for n, facts in listed.items() if n not in _CHANGING})


def fingerprint_of_model(recipe: Recipe, folder: RunFolder, name: str) -> str:
    """Return the hashes of the files of a model from elsewhere, as the run recorded them; of a hub model the commit."""
    if kept := run_record.kept_model_files(folder).get(name):
        return pinned_folders.fingerprint(kept)
    if name == OFFLINE_TEACHER:
        return pinned_folders.fingerprint(pinned_folders.file_hashes(wheel_folder()))
    if Path(name).is_dir():
        return pinned_folders.fingerprint(pinned_folders.file_hashes(Path(name)))
    return hub.commit_of(name, recipe.teacher.revision if name == recipe.teacher.model else None)


def _fingerprint_of_texts(path: Path) -> str:
    return files.fingerprint([path] if path.is_file() else files.find_splits(path)[0])


def _fingerprint_of_pairs(recipe: Recipe) -> str:
    examples = requested_examples(recipe)
    return examples.fingerprint if examples is not None else ""
