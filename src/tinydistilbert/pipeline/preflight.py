"""What a recipe reads: teacher, text, tasks and models, opened once, and checked before the first stage.

A mistake is told here or not at all: what passes these checks is not refused an hour later.
"""

from functools import cached_property
from pathlib import Path

from transformers import PretrainedConfig

from tinydistilbert.benchmark.pairs import requested_examples
from tinydistilbert.data.corpus import TokenBlocks, load_blocks, prepare
from tinydistilbert.distillation.adapt import check_head
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.distillation.teacher_cache import check_room, views_to_make
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.preflight import TaughtStudent, check_models
from tinydistilbert.models.loading import ELMO, check_length, load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.models.matching import match_layers
from tinydistilbert.models.pruned import PRUNABLE_FAMILIES
from tinydistilbert.models.student import cut_student
from tinydistilbert.models.teacher import LoadedTeacher, load_teacher
from tinydistilbert.optional import require
from tinydistilbert.pipeline.jobs import Job, jobs
from tinydistilbert.recipe.schema import Recipe
from tinydistilbert.storage import cache
from tinydistilbert.tasks import has_split, tasks_of
from tinydistilbert.tasks.compatible import check_classes
from tinydistilbert.tasks.recipe_splits import scored_split, wanted_examples
from tinydistilbert.tasks.unlabelled import read_unlabelled
from tinydistilbert.training.device import choose_device, chosen_precision

STAGES = ("prepare", "adapt", "distill", "finetune", "evaluate", "compress", "benchmark", "report")
STAGES_OF_GIVEN = ("finetune", "evaluate", "compress", "report")
STAGES_OF_COMPRESSION = ("compress", "report")


class Inputs:
    """The inputs of one recipe, for its stages up to `until`."""

    def __init__(self, recipe: Recipe, *, until: str) -> None:
        self.recipe, self.until = recipe, until
        self.device = choose_device(recipe.device)
        chosen_precision(self.device, recipe.precision)
        self.known = tasks_of(recipe.finetune)

    def stages(self) -> tuple[str, ...]:
        """The stages up to the last that this recipe has: a given model needs no text and no student."""
        wanted = STAGES[: STAGES.index(self.until) + 1]
        if self.recipe.compress.model:
            return tuple(s for s in wanted if s in STAGES_OF_COMPRESSION)
        return tuple(s for s in wanted if s in STAGES_OF_GIVEN) if self.recipe.finetune.model else wanted

    @cached_property
    def original_teacher(self) -> LoadedTeacher:
        """The teacher that the recipe names, as it comes."""
        return load_teacher(self.recipe.teacher)

    @cached_property
    def blocks(self) -> TokenBlocks:
        """The corpus as token blocks, from the cache or made now."""
        tokenizer = self.original_teacher.tokenizer
        return load_blocks(prepare(self.recipe.corpus, tokenizer, cache.folder(), self.recipe.data))

    def check_data_folder(self) -> None:
        """Refuse a data folder that is not there.

        Raises:
            UserError: it is not.
        """
        data = self.recipe.data
        if data is not None and not Path(data).is_dir():
            raise UserError(f"--data {data}", expected="a folder", found="none", fix="name an existing folder")

    def check_inputs(self) -> None:
        """Load whatever can be wrong in the stages up to the last: teacher, cut, corpus, lengths, labels of every task.

        Raises:
            UserError: one of them is.
        """
        recipe = self.recipe
        if recipe.compress.model:
            self.check_compressed(Path(recipe.compress.model))
            return
        if recipe.finetune.model:
            load_tokenizer(recipe.finetune.model)
            self.check_lengths(load_config(recipe.finetune.model))
            if recipe.compress.tasks and "compress" in self.stages():
                self.check_compressible(load_config(recipe.finetune.model))
            self.check_tasks()
            return
        check_head(recipe.adapt, self.original_teacher)
        student = cut_student(self.original_teacher.model, recipe.student, seed=recipe.seed)
        match_layers(recipe.objective, recipe.student, self.original_teacher.model.config, student.config)
        self.check_lengths(self.original_teacher.model.config)
        if recipe.compress.tasks and "compress" in self.stages():
            self.check_compressible(
                self.original_teacher.model.config if recipe.compress.row == "teacher" else student.config
            )
        self.check_tasks()
        assert len(self.blocks.train)
        self.check_cache()

    def check_tasks(self) -> None:
        """Load whatever tasks and benchmark read: splits, further texts, and the given teachers' configurations.

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
            check_models(recipe.finetune, found[0].task, self._student_of_tasks() if is_taught else None)
        if "benchmark" in self.stages():
            requested_examples(recipe)
        if "compress" in self.stages():
            self.check_compression()
            for name in recipe.compress.tasks:
                self.compressed_job(name)

    def check_compressed(self, model: Path) -> None:
        """Load whatever the compression of a given model reads.

        Raises:
            UserError: it is no model of the task, or the task's examples are missing or wrong.
        """
        self.check_compression()
        (name,) = self.recipe.compress.tasks
        task = wanted_examples(self.recipe, self.known[name], self.known[name].train).task
        wanted_examples(self.recipe, task, scored_split(self.recipe, task))
        load_tokenizer(model)
        for folder in (model, *map(Path, self.recipe.compress.teachers)):
            config = load_config(folder)
            order = check_classes(folder, config, task)
            load_model(folder, task.kind, require_head=True)
            where = f"max_length of {name}, which {folder} reads"
            check_length(where, self.recipe.finetune.max_length(name, task.max_length), longest_input(config))
            if folder == model:
                self.check_compressible(config)
                if order is not None:
                    expected, fix = (
                        f"the classes in the order {', '.join(task.labels)}",
                        "reorder its head and id2label",
                    )
                    raise UserError(str(model), expected=expected, found="another order", fix=fix)

    def check_compression(self) -> None:
        """Look for what a compression needs beside a model: texts of its vocabulary, ONNX Runtime.

        Raises:
            UserError: it is not there.
        """
        settings = self.recipe.compress
        if not settings.tasks:
            return
        for library in ("onnx", "onnxscript", "onnxruntime"):
            require(library, extra="onnx")
        if settings.vocabulary not in ("", "train") and not Path(settings.vocabulary).exists():
            fix = "name a file or folder of texts, or write `train`"
            found = f"no {settings.vocabulary}"
            raise UserError("compress.vocabulary", expected="texts", found=found, fix=fix)

    def check_compressible(self, config: PretrainedConfig) -> None:
        """Refuse a model that cannot go down the ladder of the recipe.

        Raises:
            UserError: its family cannot be exported or pruned, or it has fewer layers than are to be kept.
        """
        settings, family, depth = self.recipe.compress, config.model_type, config.num_hidden_layers
        prunes = bool(settings.keep or settings.layers)
        if family == ELMO or (prunes and family not in PRUNABLE_FAMILIES):
            fix = "take another model" if family == ELMO else "leave pruning out: --keep [] --compress.layers []"
            raise UserError(
                "compress", expected=f"a family among {', '.join(PRUNABLE_FAMILIES)}", found=repr(family), fix=fix
            )
        if settings.layers and max(settings.layers) >= depth:
            expected, found = f"fewer than the {depth} layers of the model", str(max(settings.layers))
            raise UserError("compress.layers", expected=expected, found=found, fix="lower it")

    def _student_of_tasks(self) -> TaughtStudent:
        """What the second distillations start from, and the run's own teacher."""
        if name := self.recipe.finetune.model:
            return TaughtStudent(load_config(name), load_tokenizer(name), None)
        teacher = self.original_teacher
        student = cut_student(teacher.model, self.recipe.student, seed=self.recipe.seed)
        return TaughtStudent(student.config, teacher.tokenizer, teacher.model.config)

    def check_cache(self) -> None:
        """Make sure that the teacher's cache finds room on the disk; of an adapted teacher all of it is made anew.

        Raises:
            UserError: it does not.
        """
        settings, teacher = self.recipe.distill.cache, self.original_teacher.model
        if settings.kind == "none" or STAGES.index(self.until) < STAGES.index("distill"):
            return
        setup = PretrainingSetup.of(self.recipe, self.blocks, self.device)
        batches = setup.batches(self.recipe.objective, self.recipe.distill.optimization, steps=1)
        if self.recipe.adapt.tokens:
            views = settings.views
        else:
            views = views_to_make(settings, batches, teacher, cache.folder(), setup.compute)
        check_room(settings, batches, teacher, cache.folder(), views=views)

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

    def compressed_job(self, task: str) -> Job:
        """The task model that is compressed: that of the first seed of its row.

        Raises:
            UserError: the recipe does not fine-tune such a row on the task.
        """
        row, own = self.recipe.compress.row, [job for job in jobs(self.recipe) if job.task == task]
        found = next((job for job in own if job.row == row), None)
        if found is None:
            expected, fix = f"a row of {task}: {', '.join(dict.fromkeys(job.row for job in own))}", "change it"
            raise UserError("compress.row", expected=expected, found=repr(row), fix=fix)
        return found
