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
    expected: str | None = None
    actual: str | None = None
    fix: str = ""
    problem: str | None = None
    """In place of `expected` and `actual`."""


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
        problem = "both num_hidden_layers and a list of layers are given"
        yield Conflict("student", problem=problem, fix="delete one")
    if recipe.corpus.deduplicate and recipe.corpus.packing == "lines":  # blank lines, and those of other articles
        problem, fix = 'deduplicate works with packing = "documents" alone', "leave one of them at its default"
        yield Conflict("corpus.deduplicate", problem=problem, fix=fix)
    if recipe.masking.mask_share + recipe.masking.random_share > 1:
        shares = f"{recipe.masking.mask_share} + {recipe.masking.random_share}"
        yield Conflict("masking", "mask_share + random_share <= 1", shares, "lower one")


def _conflicts_of_tasks(recipe: Recipe) -> Iterator[Conflict]:
    finetune = recipe.finetune
    known = (*TASK_NAMES, *finetune.custom)
    for key, names in (("finetune.tasks", finetune.tasks), ("finetune.override", tuple(finetune.override))):
        parts = (part for written in names for part in written.split("@", 1))
        for name in (part for part in parts if part not in known):
            yield Conflict(key, "a known task", repr(name), _nearest(name, known))
    for name in (name for name in finetune.tasks if intermediate_task(name)):
        first, fix = intermediate_task(name), f"add {intermediate_task(name)!r} to finetune.tasks"
        if first == base_task(name):
            yield Conflict("finetune.tasks", "another task after the @", repr(name), "name one")
        if first not in finetune.tasks:
            problem = f"{name!r} starts from models of {first!r}, which is not in the list"
            yield Conflict("finetune.tasks", problem=problem, fix=fix)
    for name, custom in finetune.custom.items():
        yield from _conflicts_of_custom(name, custom, scored_on=finetune.score_on)
    for key, seeds in (("finetune.seeds", finetune.seeds), ("ablate.seeds", recipe.ablate.seeds)):
        if not seeds or len(set(seeds)) < len(seeds):
            yield Conflict(key, "at least one seed, each once", str(list(seeds)), "change the list")
    if finetune.tasks and not finetune.models:
        yield Conflict("finetune.models", "at least one model", "none", 'add "student"')
    if finetune.select != "fixed" and finetune.score_on == "train":
        problem = f'with score_on = "train" it must be "fixed", not {finetune.select!r}'
        yield Conflict("finetune.select", problem=problem, fix="leave one of them at its default")
    if finetune.learning_rates and finetune.select != "heldout":
        problem = f'only with finetune.select = "heldout" (now {finetune.select!r}) is one of them chosen'
        fix = "set that, or give finetune.optimization.learning_rate alone"
        yield Conflict("finetune.learning_rates", problem=problem, fix=fix)
    distillation = finetune.distillation
    if finetune.teacher and (finetune.model or "teacher" not in finetune.models):
        why = "finetune.model is set" if finetune.model else "finetune.models does not have it"
        problem, fix = f"there is no row `teacher` that would start from it: {why}", "leave it out"
        fix = fix if finetune.model else f'add "teacher" to finetune.models, or {fix}'
        yield Conflict("finetune.teacher", problem=problem, fix=fix)
    if finetune.model and (distillation.start, distillation.matched_layers) == ("student", "copied"):
        problem = '"copied" needs a student that is cut from its teacher, which finetune.model is not'
        yield Conflict("finetune.distillation.matched_layers", problem=problem, fix='set it to "uniform"')
    for name in finetune.tasks or ("",):
        yield from _conflicts_of_stages(finetune.settings(name), name)
    yield from _conflicts_of_teaching(finetune)
    described = {name: finetune.custom.get(base_task(name)) for name in finetune.tasks}
    of_kind = {name: settings.kind for name, settings in described.items() if settings}
    spans = [name for name in finetune.tasks if of_kind.get(name) == "span" or base_task(name) in SPAN_NAMES]
    for name in spans if distillation.tasks != "none" else ():
        of_task = finetune.settings(name).distillation
        if of_task.unlabelled:
            problem = f"the span task {name!r} cannot use unlabelled texts, which have no place for an answer"
            fix = "name them for the other tasks: finetune.override.TASK.distillation.unlabelled"
            yield Conflict("finetune.distillation.unlabelled", problem=problem, fix=fix)
        if of_task.augment and not of_task.intermediate_epochs:
            problem = (
                f"the span task {name!r} uses copies in intermediate_epochs alone, as a changed question may have "
            )
            problem += "another answer"
            fix = "set intermediate_epochs, or augment the other tasks: finetune.override.TASK.distillation.augment"
            yield Conflict("finetune.distillation.augment", problem=problem, fix=fix)
    for name in finetune.tasks:
        yield from _conflicts_of_sources(finetune, name, known)
    files = [s for s in _sources(distillation.unlabelled) if not is_built_in(s)]
    if files and len(finetune.tasks) > 1:
        problem = f"a file is for one task, whose columns it has, and there are {len(finetune.tasks)}: "
        problem += ", ".join(finetune.tasks)
        fix = "name the file for that task: finetune.override.TASK.distillation.unlabelled"
        yield Conflict("finetune.distillation.unlabelled", problem=problem, fix=fix)
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
            problem = f"{source!r} names the train examples of {task} itself"
            yield Conflict(key, problem=problem, fix="name another task")
        elif source.startswith(TASK_TEXTS) and name not in known:
            yield Conflict(key, "a known task after task:", repr(name), _nearest(name, known))


def _conflicts_of_stages(settings: Finetune, task: str) -> Iterator[Conflict]:
    """Yield conflicts between the two stages of a second distillation; `settings` are the task's."""
    distillation, key = settings.distillation, "finetune.distillation.intermediate_epochs"
    if distillation.intermediate_epochs and not distillation.inner_terms:
        problem = "in these epochs only hidden, attention and relation count, and none of them has a weight"
        yield Conflict(key, problem=problem, fix="give one of them a weight, or set it to 0")
    if distillation.epochs is None and distillation.intermediate_epochs >= settings.epochs:
        expected = f"fewer than the {settings.epochs:g} epochs of {task or 'finetune.epochs'}"
        fix = "lower it, or set how many follow: finetune.distillation.epochs"
        yield Conflict(key, expected, f"{distillation.intermediate_epochs:g}", fix)
    if distillation.final_examples == "original" and not distillation.intermediate_epochs:
        problem, fix = '"original" needs intermediate_epochs, which read all examples', "set those, or leave it out"
        yield Conflict("finetune.distillation.final_examples", problem=problem, fix=fix)
    if distillation.intermediate_learning_rate is not None and not distillation.intermediate_epochs:
        problem, fix = "there are no intermediate_epochs that would use it", "set those, or leave it out"
        yield Conflict("finetune.distillation.intermediate_learning_rate", problem=problem, fix=fix)


def _conflicts_of_compression(recipe: Recipe) -> Iterator[Conflict]:
    settings = recipe.compress
    for name in (name for name in settings.tasks if name not in recipe.finetune.tasks):
        expected = f"tasks of finetune.tasks ({', '.join(recipe.finetune.tasks) or 'none'})"
        yield Conflict("compress.tasks", expected, repr(name), "add it there, or remove it here")
    if settings.model and len(settings.tasks) != 1:
        named = ", ".join(settings.tasks) or "none"
        yield Conflict("compress.tasks", "the one task of compress.model", named, "name it")


def _conflicts_of_teaching(finetune: Finetune) -> Iterator[Conflict]:
    """Yield settings of a second distillation that have no effect without another one."""
    if finetune.distillation.cut == "importance" and finetune.distillation.start != "teacher":
        problem = f"'importance' needs start = 'teacher', not {finetune.distillation.start!r}"
        yield Conflict("finetune.distillation.cut", problem=problem, fix="set start, or leave cut out")
    given = isinstance(finetune.distillation.teachers, tuple)
    starts_at_teacher = finetune.distillation.start == "teacher"
    has_teachers = (given or starts_at_teacher) if finetune.model else finetune.has_student_of_teachers
    if starts_at_teacher and not (has_teachers and finetune.distillation.tasks != "none"):
        problem = "there is no teacher to start from"
        fix = 'add "teacher" to finetune.models, or give one (--teacher FOLDER)'
        yield Conflict("finetune.distillation.start", problem=problem, fix=fix)
    if finetune.distillation.tasks == "none" or not has_teachers:
        for key in (key for key in ("unlabelled", "augment", "soft_labels") if getattr(finetune.distillation, key)):
            problem = "it belongs to a second distillation, and there is no teacher to learn from"
            fix = f"give one (--teacher FOLDER), or leave {key} out"
            yield Conflict(f"finetune.distillation.{key}", problem=problem, fix=fix)


def _conflicts_of_custom(name: str, custom: CustomTask, *, scored_on: str) -> Iterator[Conflict]:
    key = f"finetune.custom.{name}"
    if name in (*TASK_NAMES, *MEASURED):
        yield Conflict(key, problem="another task has this name", fix="choose another")
    elif not re.fullmatch("[a-z0-9][a-z0-9_-]*", name):
        yield Conflict(key, "a name of lower-case letters, digits, - and _", repr(name), "choose another")
    if not custom.train:
        yield Conflict(f"{key}.train", "a file or hub name", "nothing", "name one")
    if not custom.validation and scored_on != "train":
        fix = 'name one, or set finetune.score_on = "train" to hold out a part of the train file'
        yield Conflict(f"{key}.validation", "a file or hub name", "nothing", fix)


def _conflicts_of_distillation(recipe: Recipe) -> Iterator[Conflict]:
    objective, cache = recipe.objective, recipe.distill.cache.kind
    weighted = objective.terms
    if not weighted:
        fix = f"give one of {', '.join(TERMS)} a weight"
        yield Conflict("objective", problem="all terms have the weight 0", fix=fix)
    inner = [name for name in weighted if TERMS[name].is_inner]
    if objective.reduction == "notebook":
        changing = [key for key in ("temperature", *TERMS) if isinstance(getattr(objective, key), tuple)]
        mend = 'or reduction = "mean"'
        if others := [name for name in weighted if name not in NOTEBOOK_TERMS]:
            problem = f"'notebook' computes {', '.join(NOTEBOOK_TERMS)} alone, and {others[0]} has a weight"
            yield Conflict("objective.reduction", problem=problem, fix=f"set {others[0]} to 0, {mend}")
        if objective.kl_positions != "all":
            problem = f"with reduction = 'notebook' it must be 'all', not {objective.kl_positions!r}"
            yield Conflict("objective.kl_positions", problem=problem, fix=f"delete it, {mend}")
        if changing:
            problem = f"with reduction = 'notebook' it must be one number, not {list(getattr(objective, changing[0]))}"
            yield Conflict(f"objective.{changing[0]}", problem=problem, fix=f"write one number, {mend}")
        if cache != "none":
            problem = f"reduction = 'notebook' cannot use a cache ({cache!r})"
            yield Conflict("distill.cache.kind", problem=problem, fix=f"delete it, {mend}")
    if cache != "none":
        mend = 'or distill.cache.kind = "none"'
        if recipe.teacher.sharding == "always":
            problem = 'one process makes the cache, so the teacher cannot be in shards (teacher.sharding = "always")'
            yield Conflict("distill.cache.kind", problem=problem, fix=f"set teacher.sharding to auto, {mend}")
        if inner:
            problem = f"the term {inner[0]} reads the teacher's layers, which a cache does not hold"
            yield Conflict("distill.cache.kind", problem=problem, fix=f"set objective.{inner[0]} to 0, {mend}")
        if isinstance(recipe.masking.rate, tuple):
            problem = f"a cache needs one rate for all its views, not {list(recipe.masking.rate)}"
            yield Conflict("masking.rate", problem=problem, fix=f"write one number, {mend}")
    if cache == "top-k":
        for name in (name for name in weighted if not TERMS[name].by_chunks and not TERMS[name].is_inner):
            problem = "it reads hidden states, which a cache of kind 'top-k' does not hold"
            fix = 'set it to 0, or distill.cache.kind = "hidden"'
            yield Conflict(f"objective.{name}", problem=problem, fix=fix)
        if isinstance(objective.temperature, tuple):
            problem = (
                f"a cache of kind 'top-k' holds probabilities at one temperature, not {list(objective.temperature)}"
            )
            fix = 'write one number, or distill.cache.kind = "hidden"'
            yield Conflict("objective.temperature", problem=problem, fix=fix)
    if recipe.distill.compile and inner:
        problem = f"the term {inner[0]} reads the layers, which compiled code does not show"
        yield Conflict("distill.compile", problem=problem, fix=f"delete it, or set objective.{inner[0]} to 0")
    if recipe.distill.time_budget and not seconds_of(recipe.distill.time_budget):
        expected = "a duration above zero"
        yield Conflict("distill.time_budget", expected, repr(recipe.distill.time_budget), "write one, such as 20m")
    if recipe.distill.time_budget and recipe.distill.max_steps:
        yield Conflict("distill", problem="both time_budget and max_steps are given", fix="delete one")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known := list(known), n=1)
    return did_you_mean([repr(near[0])]) if near else f"use one of {', '.join(known)}"
