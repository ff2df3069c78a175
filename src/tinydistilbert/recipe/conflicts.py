"""Settings of a recipe that are valid alone but do not fit together, or that name what does not exist."""

import dataclasses
import difflib
import re
from collections.abc import Iterable, Iterator

from tinydistilbert.recipe.keys import did_you_mean
from tinydistilbert.recipe.names import (
    MEASURED,
    SPAN_NAMES,
    TASK_NAMES,
    TASK_TEXTS,
    base_task,
    intermediate_task,
    is_built_in,
    task_of_source,
)  # fmt: skip
from tinydistilbert.recipe.objective import NOTEBOOK_TERMS, TERMS
from tinydistilbert.recipe.schema import CustomTask, Finetune, Recipe
from tinydistilbert.recipe.types import seconds_of


@dataclasses.dataclass(frozen=True)
class Conflict:
    """Settings that do not fit together, in the words of an error."""

    key: str
    expected: str
    found: str
    fix: str


def conflicts(recipe: Recipe) -> Iterator[Conflict]:
    """Yield the settings of a recipe that do not fit together, without the ablation's rows."""
    yield from _conflicts_of_tasks(recipe)
    yield from _conflicts_of_compression(recipe)
    yield from _conflicts_of_model(recipe)
    yield from _conflicts_of_distillation(recipe)


def _conflicts_of_model(recipe: Recipe) -> Iterator[Conflict]:
    layers, matched = recipe.student.layers, recipe.objective.matched_layers
    for key, named in (("student.layers", layers), ("objective.matched_layers", matched)):
        if not named:
            yield Conflict(key, "at least one layer", "[]", "name a layer")
    depth = recipe.student.num_hidden_layers if isinstance(layers, str) else len(layers)
    if depth and not isinstance(matched, str) and len(matched) != depth:
        expected = f"{depth} layers, one for each of the student's"
        yield Conflict("objective.matched_layers", expected, str(list(matched)), "change the list")
    if recipe.student.num_hidden_layers and not isinstance(recipe.student.layers, str):
        yield Conflict("student", "layers as a list or num_hidden_layers", "both", "delete one")
    if recipe.corpus.deduplicate and recipe.corpus.packing == "lines":  # blank lines, and those of other articles
        expected, fix = 'packing = "documents" with deduplicate', "leave one of them at its default"
        yield Conflict("corpus.deduplicate", expected, 'packing = "lines"', fix)
    if recipe.masking.mask_share + recipe.masking.random_share > 1:
        found = f"{recipe.masking.mask_share} + {recipe.masking.random_share}"
        yield Conflict("masking", "mask_share + random_share <= 1", found, "lower one")


def _conflicts_of_tasks(recipe: Recipe) -> Iterator[Conflict]:
    finetune = recipe.finetune
    known = (*TASK_NAMES, *finetune.custom)
    for key, names in (("finetune.tasks", finetune.tasks), ("finetune.override", tuple(finetune.override))):
        parts = (part for written in names for part in written.split("@", 1))
        for name in (part for part in parts if part not in known):
            yield Conflict(key, "a known task", repr(name), _nearest(name, known))
    for name in (name for name in finetune.tasks if intermediate_task(name)):
        first, fix = intermediate_task(name), f"write {intermediate_task(name)!r} into finetune.tasks too"
        if first == base_task(name):
            yield Conflict("finetune.tasks", "another task behind the @", repr(name), "name one")
        if first not in finetune.tasks:
            yield Conflict("finetune.tasks", f"{first!r}, whose models {name!r} starts from", "none", fix)
    for name, custom in finetune.custom.items():
        yield from _conflicts_of_custom(name, custom, scored_on=finetune.score_on)
    for key, seeds in (("finetune.seeds", finetune.seeds), ("ablate.seeds", recipe.ablate.seeds)):
        if not seeds or len(set(seeds)) < len(seeds):
            yield Conflict(key, "at least one seed, each once", str(list(seeds)), "change the list")
    if finetune.tasks and not finetune.models:
        yield Conflict("finetune.models", "at least one model", "none", 'add "student"')
    if finetune.select != "fixed" and finetune.score_on == "train":
        expected, fix = 'select = "fixed" with score_on = "train"', "leave one of them at its default"
        yield Conflict("finetune.select", expected, repr(finetune.select), fix)
    if finetune.learning_rates and finetune.select != "heldout":
        expected = 'select = "heldout", by which one of them is chosen'
        fix = "set it, or give finetune.optimization.learning_rate alone"
        yield Conflict("finetune.learning_rates", expected, repr(finetune.select), fix)
    distillation = finetune.distillation
    if finetune.teacher and (finetune.model or "teacher" not in finetune.models):
        expected, fix = "the row `teacher`, whose start it is", 'add "teacher" to finetune.models, or leave it out'
        found = "finetune.model" if finetune.model else "no such row"
        yield Conflict("finetune.teacher", expected, found, fix)
    if finetune.model and (distillation.start, distillation.matched_layers) == ("student", "copied"):
        expected, fix = "a student that is cut from its teacher", 'set it to "uniform"'
        yield Conflict("finetune.distillation.matched_layers", expected, "finetune.model", fix)
    for name in finetune.tasks or ("",):
        yield from _conflicts_of_stages(finetune.settings(name), name)
    yield from _conflicts_of_teaching(finetune)
    described = {name: finetune.custom.get(base_task(name)) for name in finetune.tasks}
    of_kind = {name: settings.kind for name, settings in described.items() if settings}
    spans = [name for name in finetune.tasks if of_kind.get(name) == "span" or base_task(name) in SPAN_NAMES]
    for name in spans if distillation.tasks != "none" else ():
        of_task = finetune.settings(name).distillation
        if of_task.unlabelled:
            expected = f"no unlabelled texts with the span task {name!r}: a new text has no place for an answer"
            fix = "name them for single tasks: finetune.override.TASK.distillation.unlabelled"
            yield Conflict("finetune.distillation.unlabelled", expected, repr(of_task.unlabelled), fix)
        if of_task.augment and not of_task.intermediate_epochs:
            expected = f"intermediate_epochs with the span task {name!r}: a copied question may have another answer"
            fix = "give some, or augment single tasks: finetune.override.TASK.augment"
            yield Conflict("finetune.distillation.augment", expected, repr(of_task.augment), fix)
    for name in finetune.tasks:
        yield from _conflicts_of_sources(finetune, name, known)
    files = [s for s in _sources(distillation.unlabelled) if not is_built_in(s)]
    if files and len(finetune.tasks) > 1:
        expected, found = "one task with a file of unlabelled texts, in its columns", ", ".join(finetune.tasks)
        fix = "name it for that task: finetune.override.TASK.distillation.unlabelled"
        yield Conflict("finetune.distillation.unlabelled", expected, found, fix)
    if distillation.teachers == ():
        yield Conflict("finetune.distillation.teachers", '"first", "all" or folders', "[]", "name one")


def _sources(unlabelled: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, (unlabelled,) if isinstance(unlabelled, str) else unlabelled))


def _conflicts_of_sources(finetune: Finetune, task: str, known: Iterable[str]) -> Iterator[Conflict]:
    """Yield invalid sources of texts without labels."""
    key = "finetune.distillation.unlabelled"
    for source in _sources(finetune.settings(task).distillation.unlabelled):
        name = task_of_source(source)
        if name == base_task(task):
            yield Conflict(key, f"texts beside the train examples of {task}", repr(source), "name another task")
        elif source.startswith(TASK_TEXTS) and name not in known:
            yield Conflict(key, "a known task behind task:", repr(name), _nearest(name, known))


def _conflicts_of_stages(settings: Finetune, task: str) -> Iterator[Conflict]:
    """Yield conflicts between the two stages of a second distillation; `settings` are the task's."""
    distillation, key = settings.distillation, "finetune.distillation.intermediate_epochs"
    if distillation.intermediate_epochs and not distillation.inner_terms:
        expected = "a weight of hidden, attention or relation for the epochs in which they alone count"
        yield Conflict(key, expected, "none", "give one, or set it to 0")
    if distillation.epochs is None and distillation.intermediate_epochs >= settings.epochs:
        expected = f"fewer than the {settings.epochs:g} epochs of {task or 'finetune.epochs'}"
        fix = "lower it, or say how many follow: finetune.distillation.epochs"
        yield Conflict(key, expected, f"{distillation.intermediate_epochs:g}", fix)
    if distillation.final_examples == "original" and not distillation.intermediate_epochs:
        expected, fix = "intermediate_epochs in which all examples are read", "give some, or leave it out"
        yield Conflict("finetune.distillation.final_examples", expected, "none", fix)
    if distillation.intermediate_learning_rate is not None and not distillation.intermediate_epochs:
        expected, fix = "intermediate_epochs that it is the learning rate of", "give some, or leave it out"
        yield Conflict("finetune.distillation.intermediate_learning_rate", expected, "none", fix)


def _conflicts_of_compression(recipe: Recipe) -> Iterator[Conflict]:
    settings = recipe.compress
    for name in (name for name in settings.tasks if name not in recipe.finetune.tasks):
        expected = f"tasks of finetune.tasks ({', '.join(recipe.finetune.tasks) or 'none'})"
        yield Conflict("compress.tasks", expected, repr(name), "add it there, or take it out here")
    if settings.model and len(settings.tasks) != 1:
        found = ", ".join(settings.tasks) or "none"
        yield Conflict("compress.tasks", "the one task of compress.model", found, "name it")


def _conflicts_of_teaching(finetune: Finetune) -> Iterator[Conflict]:
    """Yield settings of a second distillation that have no effect without another one."""
    if finetune.distillation.cut == "importance" and finetune.distillation.start != "teacher":
        expected, fix = "start = 'teacher', whose layers are chosen", "set it, or leave cut out"
        yield Conflict("finetune.distillation.cut", expected, repr(finetune.distillation.start), fix)
    given = isinstance(finetune.distillation.teachers, tuple)
    starts_at_teacher = finetune.distillation.start == "teacher"
    has_teachers = (given or starts_at_teacher) if finetune.model else finetune.has_student_of_teachers
    if starts_at_teacher and not (has_teachers and finetune.distillation.tasks != "none"):
        fix = "add it to finetune.models, or give one (--teacher FOLDER)"
        yield Conflict("finetune.distillation.start", "a teacher to start from", "none", fix)
    if finetune.distillation.tasks == "none" or not has_teachers:
        for key in (key for key in ("unlabelled", "augment", "soft_labels") if getattr(finetune.distillation, key)):
            found, fix = "no teacher to learn from", f"give one (--teacher FOLDER), or leave {key} out"
            yield Conflict(f"finetune.distillation.{key}", "a second distillation", found, fix)


def _conflicts_of_custom(name: str, custom: CustomTask, *, scored_on: str) -> Iterator[Conflict]:
    key = f"finetune.custom.{name}"
    if name in (*TASK_NAMES, *MEASURED):
        yield Conflict(key, "a name that no other task has", "one that is taken", "choose another")
    elif not re.fullmatch("[a-z0-9][a-z0-9_-]*", name):
        yield Conflict(key, "a name of small letters, digits, - and _", repr(name), "choose another")
    if not custom.train:
        yield Conflict(f"{key}.train", "a file or hub name", "nothing", "name one")
    if not custom.validation and scored_on != "train":
        fix = 'name one, or set finetune.score_on = "train" to hold out a part of the train file'
        yield Conflict(f"{key}.validation", "a file or hub name", "nothing", fix)


def _conflicts_of_distillation(recipe: Recipe) -> Iterator[Conflict]:
    objective, cache = recipe.objective, recipe.distill.cache.kind
    weighted = objective.terms
    if not weighted:
        yield Conflict("objective", "a term with weight", "only zeros", f"give one of {', '.join(TERMS)} a weight")
    inner = [name for name in weighted if TERMS[name].is_inner]
    if objective.reduction == "notebook":
        changing = [key for key in ("temperature", *TERMS) if isinstance(getattr(objective, key), tuple)]
        mend = 'or reduction = "mean"'
        if others := [name for name in weighted if name not in NOTEBOOK_TERMS]:
            expected = f"with reduction = 'notebook' weights of {', '.join(NOTEBOOK_TERMS)} alone"
            fix = f"set {others[0]} to 0, {mend}"
            yield Conflict("objective.reduction", expected, f"a weight of {others[0]}", fix)
        if objective.kl_positions != "all":
            expected = "kl_positions = 'all' with reduction = 'notebook'"
            yield Conflict("objective.kl_positions", expected, repr(objective.kl_positions), f"delete it, {mend}")
        if changing:
            expected = f"one number for {changing[0]} with reduction = 'notebook'"
            found = str(list(getattr(objective, changing[0])))
            yield Conflict(f"objective.{changing[0]}", expected, found, f"write one number, {mend}")
        if cache != "none":
            expected = "no cache with reduction = 'notebook'"
            yield Conflict("distill.cache.kind", expected, repr(cache), f"delete it, {mend}")
    if cache != "none":
        mend = 'or distill.cache.kind = "none"'
        if recipe.teacher.sharding == "always":
            expected = "a teacher that is not in shards: one process makes the cache"
            yield Conflict("distill.cache.kind", expected, 'teacher.sharding = "always"', f"set it to auto, {mend}")
        if inner:
            expected = "terms that read the teacher's last hidden states or logits alone, which a cache holds"
            yield Conflict("distill.cache.kind", expected, f"a weight of {inner[0]}", f"set it to 0, {mend}")
        if isinstance(recipe.masking.rate, tuple):
            expected = "one masking.rate for all views of a cache"
            yield Conflict("masking.rate", expected, str(list(recipe.masking.rate)), f"write one number, {mend}")
    if cache == "top-k":
        for name in (name for name in weighted if not TERMS[name].by_chunks and not TERMS[name].is_inner):
            expected = f"no weight of {name}: a cache of kind 'top-k' holds the likeliest tokens, no hidden states"
            fix = 'set it to 0, or distill.cache.kind = "hidden"'
            yield Conflict(f"objective.{name}", expected, str(getattr(objective, name)), fix)
        if isinstance(objective.temperature, tuple):
            expected = "one temperature: a cache of kind 'top-k' holds probabilities at it"
            fix = 'write one number, or distill.cache.kind = "hidden"'
            yield Conflict("objective.temperature", expected, str(list(objective.temperature)), fix)
    if recipe.distill.compile and inner:
        expected = "no terms that look into the layers, which compiled code does not show"
        yield Conflict("distill.compile", expected, f"a weight of {inner[0]}", "set one of them off")
    if recipe.distill.time_budget and not seconds_of(recipe.distill.time_budget):
        fix = "give some, such as 20m"
        yield Conflict("distill.time_budget", "more than no time", repr(recipe.distill.time_budget), fix)
    if recipe.distill.time_budget and recipe.distill.max_steps:
        yield Conflict("distill", "time_budget or max_steps", "both", "delete one")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known := list(known), n=1)
    return did_you_mean([repr(near[0])]) if near else f"use one of {', '.join(known)}"
