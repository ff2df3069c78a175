"""Checks of the inputs of a run, stage by stage, before the first stage.

Inputs that pass these checks are not refused an hour later.
"""

from pathlib import Path

from transformers import PretrainedConfig

from tinydistilbert.benchmark.pairs import requested_examples
from tinydistilbert.benchmark.rows import check_installed
from tinydistilbert.distillation.adapt import check_head
from tinydistilbert.distillation.pretraining import PretrainingSetup
from tinydistilbert.distillation.teacher_cache import check_room, views_to_make
from tinydistilbert.errors import UserError
from tinydistilbert.finetuning.label_scale import LabelScale
from tinydistilbert.finetuning.preflight import DistilledStudent, check_models
from tinydistilbert.finetuning.soft_labels import joined_soft_labels
from tinydistilbert.models.loading import ELMO, check_length, load_config, load_model, load_tokenizer, longest_input
from tinydistilbert.models.matching import match_layers
from tinydistilbert.models.pruned import PRUNABLE_FAMILIES
from tinydistilbert.models.runtimes import OPENVINO
from tinydistilbert.models.student import cut_student, layer_map, task_student_config
from tinydistilbert.optional import require
from tinydistilbert.pipeline.context import RunContext
from tinydistilbert.recipe.schema import Compress
from tinydistilbert.storage import atomic, cache, disk
from tinydistilbert.tasks import repeated
from tinydistilbert.tasks.base import Examples
from tinydistilbert.tasks.compatible import check_classes, check_same_tokenizer
from tinydistilbert.tasks.further_texts import further_texts
from tinydistilbert.tasks.recipe_splits import length_for, recipe_examples, scored_split
from tinydistilbert.tasks.splits import has_split


def check_data_folder(data: str | None) -> None:
    """Refuse a data folder that does not exist.

    Raises:
        UserError: it does not exist.
    """
    if data is not None and not Path(data).is_dir():
        raise UserError(f"--data {data}", problem="there is no such folder", fix="name an existing folder")


def check_teacher_and_student(run: RunContext) -> None:
    """Stage prepare: the teacher, the cut of the student, the layers that are compared, and all lengths.

    Raises:
        UserError: one of them does not fit the others.
    """
    recipe, teacher = run.recipe, run.sources.original_teacher
    if run.reads_masked_lm():
        check_head(recipe.adapt, teacher)
    student = cut_student(teacher.model, recipe.student, seed=recipe.seed)
    match_layers(recipe.objective, recipe.student, teacher.model.config, student.config)
    check_lengths(run, teacher.model.config)


def check_text(run: RunContext) -> None:
    """The text as token blocks, and room for the teacher's cache on the disk.

    Raises:
        UserError: the text cannot be read or is too short, or there is no room.
    """
    assert len(run.sources.blocks.train)
    recipe, settings, teacher = run.recipe, run.recipe.distill.cache, run.sources.original_teacher.model
    if settings.kind == "none" or "distill" not in run.stages:
        return
    setup = PretrainingSetup.of(recipe, run.sources.blocks, run.compute)
    batches = setup.batches(recipe.objective, recipe.distill.optimization, steps=1)
    if recipe.adapt.tokens:  # an adapted teacher differs, and nothing of it is cached
        views = settings.views
    else:
        views = len(views_to_make(settings, batches, teacher, cache.folder(), setup.compute))
    check_room(settings, batches, teacher, cache.folder(), views=views)


def check_lengths(run: RunContext, config: PretrainedConfig) -> None:
    """Compare every length of the recipe with the position embeddings of its model.

    Raises:
        UserError: one is longer.
    """
    longest = longest_input(config)
    if not run.recipe.finetune.model:
        check_length("corpus.block_size", run.recipe.corpus.block_size, longest)
    for name in run.task_names():
        max_length = run.recipe.finetune.max_length(name, run.tasks[name].max_length)
        check_length(f"max_length of {name}", max_length, longest)


def check_teacher_of_tasks(run: RunContext) -> None:
    """The encoder that the teachers of the tasks are fine-tuned from, where the recipe names one.

    Raises:
        UserError: it cannot be loaded, or inputs are longer than its positions.
    """
    if name := run.recipe.task_encoder:
        load_tokenizer(name)
        check_lengths(run, load_config(name))
        load_model(name, "classification")


def check_tasks(run: RunContext) -> None:
    """Stage finetune: the given model, the splits, further texts, and the given teachers' configurations.

    Raises:
        UserError: one of them is wrong.
    """
    recipe = run.recipe
    if recipe.finetune.model:
        load_tokenizer(recipe.finetune.model)
        check_lengths(run, load_config(recipe.finetune.model))
    check_teacher_of_tasks(run)
    distilled = {job.task for job in run.jobs if job.is_second_distillation}
    for name in run.task_names():
        task = run.tasks[name]
        more = [split for split in task.evaluation[1:] if has_split(task, split, recipe.data)]
        splits = (scored_split(recipe.finetune, task), *more)
        repeated.refuse_one_file_for_two(task, recipe.data)
        train = recipe_examples(recipe, task, task.train)
        task = train.task  # with its classes
        if task.kind == "regression":
            limit = recipe.finetune.settings(name).train_examples
            LabelScale.of(recipe_examples(recipe, task, task.train, limit=limit))
        scored = [recipe_examples(recipe, task, split) for split in splits]
        repeated.check_repeated(recipe, train, scored)
        if name in distilled:
            further = further_texts(recipe, task)
            _check_room_for_copies(run, train, 0 if further is None else further.count)
            if recipe.finetune.distillation.soft_labels:
                joined_soft_labels(Path(recipe.finetune.distillation.soft_labels), train, recipe.data)
        check_models(recipe.finetune, task, _student_of_tasks(run) if name in distilled else None)


def _check_room_for_copies(run: RunContext, train: Examples, further: int) -> None:
    """Refuse more copies of a task's examples, and soft targets of them, than the disk holds.

    Raises:
        UserError: there would be more.
    """
    task, settings = train.task, run.recipe.finetune.settings(train.task.name)
    copies = settings.distillation.augment * min(train.count, settings.train_examples or train.count)
    if not copies or atomic.is_finished(run.folder.augmented(task.name)):
        return
    texts = train.columns["question"] if task.kind == "span" else map(" ".join, train.each_text())
    mean = sum(len(text.encode("utf-8", "surrogatepass")) for text in texts) / max(len(train), 1)
    answers = 0 if settings.distillation.ends_with_originals(task.kind) else 4 * max(len(task.labels), 1)
    # Texts of copies are stored compressed, and uncompressed while they are read.
    needed, free = round(copies * (2 * (mean + 8) + answers) + further * answers), disk.free_bytes(run.folder.path)
    if needed > free:
        where = f"finetune.distillation.augment of {task.name}"
        problem = f"{copies:,} copies take about {needed / 1e9:,.1f} GB with the teachers' answers, and "
        problem += f"{free / 1e9:,.1f} GB are free"
        raise UserError(where, problem=problem, fix="ask for fewer copies")


def _student_of_tasks(run: RunContext) -> DistilledStudent:
    """What the second distillations start from, and the run's own teacher."""
    finetune, cut = run.recipe.finetune, run.recipe.student
    given, is_cut_teacher = finetune.distillation.teachers, finetune.distillation.start == "teacher"
    if finetune.model and not is_cut_teacher:
        return DistilledStudent(load_config(finetune.model), load_tokenizer(finetune.model), None)
    named = run.recipe.task_encoder
    if isinstance(given, tuple):
        named = given[0] if is_cut_teacher else ""
    named = named or finetune.model
    if named:
        of_teacher, tokenizer = load_config(named), load_tokenizer(named)
    else:
        of_teacher, tokenizer = run.sources.original_teacher.model.config, run.sources.original_teacher.tokenizer
    if is_cut_teacher:
        by_importance = finetune.distillation.cut == "importance"
        if by_importance and of_teacher.model_type not in PRUNABLE_FAMILIES:
            expected = f"a teacher of a family among {', '.join(PRUNABLE_FAMILIES)}"
            fix = 'set it to "layers"'
            raise UserError("finetune.distillation.cut", expected=expected, found=of_teacher.model_type, fix=fix)
        copied = () if by_importance else layer_map(cut, of_teacher.num_hidden_layers)
        return DistilledStudent(task_student_config(of_teacher, cut), tokenizer, of_teacher, copied)
    original = run.sources.original_teacher
    if named and finetune.distillation.inner_terms:
        check_same_tokenizer(Path(named), tokenizer, original.tokenizer)
    student = cut_student(original.model, cut, seed=run.recipe.seed)
    copied = layer_map(cut, original.model.config.num_hidden_layers)
    return DistilledStudent(student.config, original.tokenizer, of_teacher, copied)


def check_compression(run: RunContext) -> None:
    """Stage compress: the model's family and depth, texts of its vocabulary, ONNX Runtime.

    Raises:
        UserError: one of them is not there or does not fit.
    """
    recipe, settings = run.recipe, run.recipe.compress
    if not settings.tasks:
        return
    for library in ("onnx", "onnxscript", "onnxruntime"):
        require(library, extra="onnx")
    if OPENVINO in settings.engines:
        require("openvino", extra="openvino")
        if settings.quantization != "none":
            require("nncf", extra="nncf")
    if settings.vocabulary not in ("", "train") and not Path(settings.vocabulary).exists():
        fix = "name a file or folder of texts, or write `train`"
        raise UserError("compress.vocabulary", problem=f"{settings.vocabulary} does not exist", fix=fix)
    if settings.model:
        _check_given_model(run, Path(settings.model))
        return
    if recipe.finetune.model:
        is_cut = settings.row == "model (D)" and recipe.finetune.distillation.start == "teacher"
        config = _student_of_tasks(run).config if is_cut else load_config(recipe.finetune.model)
        check_compressible(settings, config)
    else:
        teacher = run.sources.original_teacher.model
        student = cut_student(teacher, recipe.student, seed=recipe.seed)
        check_compressible(settings, teacher.config if settings.row == "teacher" else student.config)
    for name in settings.tasks:
        run.compressed_job(name)


def _check_given_model(run: RunContext, model: Path) -> None:
    """Load whatever the compression of a given model reads."""
    recipe = run.recipe
    (name,) = recipe.compress.tasks
    repeated.refuse_one_file_for_two(run.tasks[name], recipe.data)
    train = recipe_examples(recipe, run.tasks[name], run.tasks[name].train)
    task = train.task
    scored = recipe_examples(recipe, task, scored_split(recipe.finetune, task))
    repeated.check_repeated(recipe, train, [scored])
    load_tokenizer(model)
    for folder in (model, *map(Path, recipe.compress.teachers)):
        config = load_config(folder)
        labels = () if folder == model else recipe.finetune.distillation.teacher_labels
        order = check_classes(folder, config, task, labels)
        load_model(folder, task.kind, require_head=True)
        where = f"max_length of {name}, which {folder} reads"
        check_length(where, length_for(recipe.finetune, task, model), longest_input(config))
        if folder == model:
            check_compressible(recipe.compress, config)
            if order is not None:
                problem = f"its classes are not in the order {', '.join(task.labels)}"
                raise UserError(str(model), problem=problem, fix="reorder its head and id2label")


def check_compressible(settings: Compress, config: PretrainedConfig) -> None:
    """Refuse a model of which not all variants of the recipe can be made.

    Raises:
        UserError: its family cannot be exported or pruned, or it has fewer layers than are to be kept.
    """
    family, depth = config.model_type, config.num_hidden_layers
    prunes = bool(settings.keep or settings.layers)
    if family == ELMO or (prunes and family not in PRUNABLE_FAMILIES):
        fix = "use another model" if family == ELMO else "leave pruning out: --keep [] --compress.layers []"
        raise UserError(
            "compress", expected=f"a family among {', '.join(PRUNABLE_FAMILIES)}", found=repr(family), fix=fix
        )
    if settings.layers and max(settings.layers) >= depth:
        expected, found = f"fewer than the {depth} layers of the model", str(max(settings.layers))
        raise UserError("compress.layers", expected=expected, found=found, fix="lower it")


def check_benchmark(run: RunContext) -> None:
    """Stage benchmark: the back ends, and the examples that are timed.

    Raises:
        UserError: one is not installed, or the examples are missing or damaged.
    """
    requested_examples(run.recipe)
    check_installed(run.recipe.benchmark.backends)


def no_inputs(_run: RunContext) -> None:
    """Check nothing: the stage reads only what earlier ones made."""
