"""Recipes as TOML: reading, checking, showing. A preset or a recipe of your own states only what differs."""

import dataclasses
import difflib
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping
from importlib import resources
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import tomli_w
from pydantic import ValidationError

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.keys import did_you_mean, is_list, members, nearest, sections
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
from tinydistilbert.recipe.schema import ADAPTER, CustomTask, Finetune, Recipe, to_dict
from tinydistilbert.recipe.types import Duration, seconds_of, with_current_keys

LONGEST_SHOWN = 200
"""Characters of a value that an error shows."""


def _without_unset(content: Mapping[str, Any]) -> dict[str, Any]:
    """The content without what is None, for which TOML has no word."""
    inner = {k: _without_unset(v) if isinstance(v, Mapping) else v for k, v in content.items()}
    return {k: v for k, v in inner.items() if v is not None}


def to_toml(recipe: Recipe) -> str:
    """The recipe as TOML with every setting, readable by `from_toml`; what is unset (None) is left out."""
    return dumps(to_dict(recipe))


def dumps(content: Mapping[str, Any]) -> str:
    """Settings as TOML; what is unset (None) is left out."""
    return tomli_w.dumps(_without_unset(content))


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes` laid over it, section by section; any other value, a list too, is replaced as a whole."""
    merged = dict(base)
    for key, value in changes.items():
        before = merged.get(key)
        merged[key] = merge(before, value) if isinstance(value, Mapping) and isinstance(before, Mapping) else value
    return merged


def _with_lists(kind: Any, content: Any) -> Any:
    """`content` of a section, where one value stands for a list of it: `tasks = "cola"`, `layers = 3`."""
    if not isinstance(content, Mapping):
        return content
    filled = dict(content)
    for item in dataclasses.fields(kind):
        value, wanted = filled.get(item.name), members(item.type)
        if dataclasses.is_dataclass(item.type):
            filled |= {item.name: _with_lists(item.type, value)} if item.name in filled else {}
        elif isinstance(value, str | int) and any(map(is_list, wanted)):
            # Beside a list of numbers, words have a meaning of their own.
            filled[item.name] = [value] if len(wanted) == 1 or str(value).isdecimal() else value
    return filled


def from_dict(content: Mapping[str, Any], where: str) -> Recipe:
    """The recipe that `content` describes, checked; what it leaves out has the default of its own section.

    (Laid over the defaults, because `[finetune] optimization.learning_rate` must not reset the rest of that section to
    the defaults of pretraining.)

    Raises:
        UserError: an unknown key (with the nearest known one), a value of another type or out of its range.
    """
    try:
        current = with_current_keys(content, where)
        recipe = ADAPTER.validate_python(_with_lists(Recipe, merge(to_dict(Recipe()), current)))
    except ValidationError as error:
        raise _explain(error, where) from None
    return check(recipe, where)


def from_toml(text: str, where: str) -> Recipe:
    """The recipe that a TOML text describes; `where` is the name used in errors."""
    try:
        content = tomllib.loads(text)
    except RecursionError:
        found = "too many brackets in one another"
        raise UserError(where, expected="TOML", found=found, fix="mend the file") from None
    except ValueError as error:  # also of a number with thousands of digits
        raise UserError(where, expected="TOML", found=_shortened(str(error)), fix="mend the file") from None
    return from_dict(content, where)


def _key_of(location: Iterable[Any]) -> tuple[list[str], Any]:
    """The recipe's keys in one of pydantic's locations, which names members of unions too, and the type found there."""
    keys: list[str] = []
    kind: Any = Recipe
    for part in location:
        if dataclasses.is_dataclass(kind):
            keys.append(str(part))
            kind = next((item.type for item in dataclasses.fields(kind) if item.name == part), None)
        elif get_origin(kind) is dict:
            keys.append(str(part))
            kind = get_args(kind)[1]
        elif isinstance(part, int) and len(members(kind)) == 1:  # a place in a list
            keys.append(str(part))
    return keys, kind


def _bounds(number: Any) -> str:
    """The limits of an annotated number, in signs."""
    annotations = getattr(number, "__metadata__", ())  # limits, or pydantic's `Field` with limits in it
    limits = [limit for annotation in annotations for limit in getattr(annotation, "metadata", (annotation,))]
    signs = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
    return " and ".join(
        f"{sign} {getattr(limit, name)}" for limit in limits for name, sign in signs.items() if hasattr(limit, name)
    )


def _expected(kind: Any, message: str) -> str:
    """What a key of type `kind` takes, for an error; pydantic's own `message` where that says it well."""
    if kind == Duration:
        return "a duration such as 20m, 1h30m or 90s"
    if get_origin(kind) is dict or dataclasses.is_dataclass(kind):
        return "a table of keys"
    one, *others = members(kind)
    if not others or others == [type(None)]:
        wanted = message.removeprefix("Input should be ")
        return f"a number {wanted}" if wanted.startswith(("greater", "less")) else wanted
    if one is str:
        return "a text or a list of texts"
    if get_origin(one) is Literal:
        choices = ", ".join(map(repr, get_args(one)))
        return f"{choices} or a list of whole numbers {_bounds(get_args(others[0])[0])}"
    return f"a number {_bounds(one)} or two of them (start, end)"


def _nearest(name: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(name, known := list(known), n=1)
    return did_you_mean([repr(near[0])]) if near else f"use one of {', '.join(known)}"


def _nearest_key(keys: list[str], section: Any) -> str:
    """Which key of the recipe is meant by an unknown one in a section of that type."""
    *parents, leaf = keys
    prefix = "".join(f"{parent}." for parent in parents)
    siblings = [item.name for item in dataclasses.fields(section)]
    deeper = [key.name for part in sections(section()) for key in part.keys]
    near = nearest(prefix + leaf, [prefix + name for name in (*siblings, *deeper)])
    # Of the same section the name is enough.
    near = [name if "." in name.removeprefix(prefix) else name.removeprefix(prefix) for name in near]
    return did_you_mean([repr(name) for name in near]) if near else f"use one of {', '.join(siblings)}"


def _shortened(text: str) -> str:
    return text if len(text) <= LONGEST_SHOWN else f"{text[:LONGEST_SHOWN]} …"


def _explain(error: ValidationError, where: str) -> UserError:
    first = error.errors()[0]
    keys, kind = _key_of(first["loc"])
    key = ".".join(keys)
    if first["type"] in ("unexpected_keyword_argument", "extra_forbidden"):
        _, section = _key_of(first["loc"][:-1])
        fix = _nearest_key(keys, section)
        return UserError(f"{where}, key {key}", expected="a known key", found=repr(keys[-1]), fix=fix)
    expected, found = _expected(kind, first["msg"]), _shortened(repr(first["input"]))
    return UserError(f"{where}, key {key}", expected=expected, found=found, fix="change the value")


@dataclasses.dataclass(frozen=True)
class _Conflict:
    key: str
    expected: str
    found: str
    fix: str


def check(recipe: Recipe, where: str) -> Recipe:
    """Return `recipe` if its settings go together.

    Raises:
        UserError: an unknown task, settings that exclude each other, or a row of an ablation that is no such recipe.
    """
    for conflict in (*_conflicts(recipe), *_conflicts_of_distillation(recipe)):
        raise UserError(
            f"{where}, key {conflict.key}", expected=conflict.expected, found=conflict.found, fix=conflict.fix
        )
    plain = to_dict(dataclasses.replace(recipe, ablate=dataclasses.replace(recipe.ablate, rows={})))
    for name, changes in recipe.ablate.rows.items():
        row = f"{where}, row {name!r} of ablate.rows"
        if not changes:  # nor could it be shown: TOML made from it has no line for it
            raise UserError(row, expected="a change", found="none", fix="write one, such as { masking.rate = 0.3 }")
        from_dict(merge(plain, changes), row)
    return recipe


def _conflicts(recipe: Recipe) -> Iterator[_Conflict]:
    yield from _conflicts_of_tasks(recipe)
    yield from _conflicts_of_compression(recipe)
    layers, matched = recipe.student.layers, recipe.objective.matched_layers
    for key, named in (("student.layers", layers), ("objective.matched_layers", matched)):
        if not named:
            yield _Conflict(key, "at least one layer", "[]", "name a layer")
    depth = recipe.student.num_hidden_layers if isinstance(layers, str) else len(layers)
    if depth and not isinstance(matched, str) and len(matched) != depth:
        expected = f"{depth} layers, one for each of the student's"
        yield _Conflict("objective.matched_layers", expected, str(list(matched)), "change the list")
    if recipe.student.num_hidden_layers and not isinstance(recipe.student.layers, str):
        yield _Conflict("student", "layers as a list or num_hidden_layers", "both", "delete one")
    if recipe.masking.mask_share + recipe.masking.random_share > 1:
        found = f"{recipe.masking.mask_share} + {recipe.masking.random_share}"
        yield _Conflict("masking", "mask_share + random_share <= 1", found, "lower one")


def _conflicts_of_tasks(recipe: Recipe) -> Iterator[_Conflict]:
    finetune = recipe.finetune
    known = (*TASK_NAMES, *finetune.custom)
    for key, names in (("finetune.tasks", finetune.tasks), ("finetune.override", tuple(finetune.override))):
        parts = (part for written in names for part in written.split("@", 1))
        for name in (part for part in parts if part not in known):
            yield _Conflict(key, "a known task", repr(name), _nearest(name, known))
    for name in (name for name in finetune.tasks if intermediate_task(name)):
        first, fix = intermediate_task(name), f"write {intermediate_task(name)!r} into finetune.tasks too"
        if first == base_task(name):
            yield _Conflict("finetune.tasks", "another task behind the @", repr(name), "name one")
        if first not in finetune.tasks:
            yield _Conflict("finetune.tasks", f"{first!r}, whose models {name!r} starts from", "none", fix)
    for name, custom in finetune.custom.items():
        yield from _conflicts_of_custom(name, custom, scored_on=finetune.score_on)
    for key, seeds in (("finetune.seeds", finetune.seeds), ("ablate.seeds", recipe.ablate.seeds)):
        if not seeds or len(set(seeds)) < len(seeds):
            yield _Conflict(key, "at least one seed, each once", str(list(seeds)), "change the list")
    if finetune.tasks and not finetune.models:
        yield _Conflict("finetune.models", "at least one model", "none", 'add "student"')
    if finetune.select != "fixed" and finetune.score_on == "train":
        expected, fix = 'select = "fixed" with score_on = "train"', "leave one of them at its default"
        yield _Conflict("finetune.select", expected, repr(finetune.select), fix)
    if finetune.learning_rates and finetune.select != "heldout":
        expected = 'select = "heldout", by which one of them is chosen'
        fix = "set it, or give finetune.optimization.learning_rate alone"
        yield _Conflict("finetune.learning_rates", expected, repr(finetune.select), fix)
    distillation = finetune.distillation
    if finetune.teacher and (finetune.model or "teacher" not in finetune.models):
        expected, fix = "the row `teacher`, whose start it is", 'add "teacher" to finetune.models, or leave it out'
        found = "finetune.model" if finetune.model else "no such row"
        yield _Conflict("finetune.teacher", expected, found, fix)
    if finetune.model and (distillation.start, distillation.matched_layers) == ("student", "copied"):
        expected, fix = "a student that is cut from its teacher", 'set it to "uniform"'
        yield _Conflict("finetune.distillation.matched_layers", expected, "finetune.model", fix)
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
            yield _Conflict("finetune.distillation.unlabelled", expected, repr(of_task.unlabelled), fix)
        if of_task.augment and not of_task.intermediate_epochs:
            expected = f"intermediate_epochs with the span task {name!r}: a copied question may have another answer"
            fix = "give some, or augment single tasks: finetune.override.TASK.augment"
            yield _Conflict("finetune.distillation.augment", expected, repr(of_task.augment), fix)
    for name in finetune.tasks:
        yield from _conflicts_of_sources(finetune, name, known)
    files = [s for s in _sources(distillation.unlabelled) if not is_built_in(s)]
    if files and len(finetune.tasks) > 1:
        expected, found = "one task with a file of unlabelled texts, in its columns", ", ".join(finetune.tasks)
        fix = "name it for that task: finetune.override.TASK.distillation.unlabelled"
        yield _Conflict("finetune.distillation.unlabelled", expected, found, fix)
    if distillation.teachers == ():
        yield _Conflict("finetune.distillation.teachers", '"first", "all" or folders', "[]", "name one")


def _sources(unlabelled: str | tuple[str, ...]) -> tuple[str, ...]:
    return tuple(filter(None, (unlabelled,) if isinstance(unlabelled, str) else unlabelled))


def _conflicts_of_sources(finetune: Finetune, task: str, known: Iterable[str]) -> Iterator[_Conflict]:
    """Sources of texts without labels that are none."""
    key = "finetune.distillation.unlabelled"
    for source in _sources(finetune.settings(task).distillation.unlabelled):
        name = task_of_source(source)
        if name == base_task(task):
            yield _Conflict(key, f"texts beside the train examples of {task}", repr(source), "name another task")
        elif source.startswith(TASK_TEXTS) and name not in known:
            yield _Conflict(key, "a known task behind task:", repr(name), _nearest(name, known))


def _conflicts_of_stages(settings: Finetune, task: str) -> Iterator[_Conflict]:
    """Wishes about the two stages of a second distillation; `settings` are those of the task."""
    distillation, key = settings.distillation, "finetune.distillation.intermediate_epochs"
    if distillation.intermediate_epochs and not distillation.inner_terms:
        expected = "a weight of hidden, attention or relation for the epochs in which they alone count"
        yield _Conflict(key, expected, "none", "give one, or set it to 0")
    if distillation.epochs is None and distillation.intermediate_epochs >= settings.epochs:
        expected = f"fewer than the {settings.epochs:g} epochs of {task or 'finetune.epochs'}"
        fix = "lower it, or say how many follow: finetune.distillation.epochs"
        yield _Conflict(key, expected, f"{distillation.intermediate_epochs:g}", fix)
    if distillation.final_examples == "original" and not distillation.intermediate_epochs:
        expected, fix = "intermediate_epochs in which all examples are read", "give some, or leave it out"
        yield _Conflict("finetune.distillation.final_examples", expected, "none", fix)
    if distillation.intermediate_learning_rate is not None and not distillation.intermediate_epochs:
        expected, fix = "intermediate_epochs that it is the learning rate of", "give some, or leave it out"
        yield _Conflict("finetune.distillation.intermediate_learning_rate", expected, "none", fix)


def _conflicts_of_compression(recipe: Recipe) -> Iterator[_Conflict]:
    settings = recipe.compress
    for name in (name for name in settings.tasks if name not in recipe.finetune.tasks):
        expected = f"tasks of finetune.tasks ({', '.join(recipe.finetune.tasks) or 'none'})"
        yield _Conflict("compress.tasks", expected, repr(name), "add it there, or take it out here")
    if settings.model and len(settings.tasks) != 1:
        found = ", ".join(settings.tasks) or "none"
        yield _Conflict("compress.tasks", "the one task of compress.model", found, "name it")


def _conflicts_of_teaching(finetune: Finetune) -> Iterator[_Conflict]:
    """Wishes about a second distillation where there is none."""
    if finetune.distillation.cut == "importance" and finetune.distillation.start != "teacher":
        expected, fix = "start = 'teacher', whose layers are chosen", "set it, or leave cut out"
        yield _Conflict("finetune.distillation.cut", expected, repr(finetune.distillation.start), fix)
    given = isinstance(finetune.distillation.teachers, tuple)
    starts_at_teacher = finetune.distillation.start == "teacher"
    has_teachers = (given or starts_at_teacher) if finetune.model else finetune.has_student_of_teachers
    if starts_at_teacher and not (has_teachers and finetune.distillation.tasks != "none"):
        fix = "add it to finetune.models, or give one (--teacher FOLDER)"
        yield _Conflict("finetune.distillation.start", "a teacher to start from", "none", fix)
    if finetune.distillation.tasks == "none" or not has_teachers:
        for key in (key for key in ("unlabelled", "augment", "soft_labels") if getattr(finetune.distillation, key)):
            found, fix = "no teacher to learn from", f"give one (--teacher FOLDER), or leave {key} out"
            yield _Conflict(f"finetune.distillation.{key}", "a second distillation", found, fix)


def _conflicts_of_custom(name: str, custom: CustomTask, *, scored_on: str) -> Iterator[_Conflict]:
    key = f"finetune.custom.{name}"
    if name in (*TASK_NAMES, *MEASURED):
        yield _Conflict(key, "a name that no other task has", "one that is taken", "choose another")
    elif not re.fullmatch("[a-z0-9][a-z0-9_-]*", name):
        yield _Conflict(key, "a name of small letters, digits, - and _", repr(name), "choose another")
    if not custom.train:
        yield _Conflict(f"{key}.train", "a file or hub name", "nothing", "name one")
    if not custom.validation and scored_on != "train":
        fix = 'name one, or set finetune.score_on = "train" to hold out a part of the train file'
        yield _Conflict(f"{key}.validation", "a file or hub name", "nothing", fix)


def _conflicts_of_distillation(recipe: Recipe) -> Iterator[_Conflict]:
    objective, cache = recipe.objective, recipe.distill.cache.kind
    weighted = objective.terms
    if not weighted:
        yield _Conflict("objective", "a term with weight", "only zeros", f"give one of {', '.join(TERMS)} a weight")
    inner = [name for name in weighted if TERMS[name].is_inner]
    if objective.reduction == "notebook":
        changing = [key for key in ("temperature", *TERMS) if isinstance(getattr(objective, key), tuple)]
        mend = 'or reduction = "mean"'
        if others := [name for name in weighted if name not in NOTEBOOK_TERMS]:
            expected = f"with reduction = 'notebook' weights of {', '.join(NOTEBOOK_TERMS)} alone"
            fix = f"set {others[0]} to 0, {mend}"
            yield _Conflict("objective.reduction", expected, f"a weight of {others[0]}", fix)
        if objective.kl_positions != "all":
            expected = "kl_positions = 'all' with reduction = 'notebook'"
            yield _Conflict("objective.kl_positions", expected, repr(objective.kl_positions), f"delete it, {mend}")
        if changing:
            expected = f"one number for {changing[0]} with reduction = 'notebook'"
            found = str(list(getattr(objective, changing[0])))
            yield _Conflict(f"objective.{changing[0]}", expected, found, f"write one number, {mend}")
        if cache != "none":
            expected = "no cache with reduction = 'notebook'"
            yield _Conflict("distill.cache.kind", expected, repr(cache), f"delete it, {mend}")
    if cache != "none":
        mend = 'or distill.cache.kind = "none"'
        if inner:
            expected = "terms that read the teacher's last hidden states or logits alone, which a cache holds"
            yield _Conflict("distill.cache.kind", expected, f"a weight of {inner[0]}", f"set it to 0, {mend}")
        if isinstance(recipe.masking.rate, tuple):
            expected = "one masking.rate for all views of a cache"
            yield _Conflict("masking.rate", expected, str(list(recipe.masking.rate)), f"write one number, {mend}")
    if cache == "top-k":
        for name in (name for name in weighted if not TERMS[name].by_chunks and not TERMS[name].is_inner):
            expected = f"no weight of {name}: a cache of kind 'top-k' holds the likeliest tokens, no hidden states"
            fix = 'set it to 0, or distill.cache.kind = "hidden"'
            yield _Conflict(f"objective.{name}", expected, str(getattr(objective, name)), fix)
        if isinstance(objective.temperature, tuple):
            expected = "one temperature: a cache of kind 'top-k' holds probabilities at it"
            fix = 'write one number, or distill.cache.kind = "hidden"'
            yield _Conflict("objective.temperature", expected, str(list(objective.temperature)), fix)
    if recipe.distill.compile and inner:
        expected = "no terms that look into the layers, which compiled code does not show"
        yield _Conflict("distill.compile", expected, f"a weight of {inner[0]}", "set one of them off")
    if recipe.distill.time_budget and not seconds_of(recipe.distill.time_budget):
        fix = "give some, such as 20m"
        yield _Conflict("distill.time_budget", "more than no time", repr(recipe.distill.time_budget), fix)
    if recipe.distill.time_budget and recipe.distill.max_steps:
        yield _Conflict("distill", "time_budget or max_steps", "both", "delete one")


def presets() -> dict[str, str]:
    """Name and text of every preset that comes with the package."""
    folder = resources.files("tinydistilbert.recipe") / "presets"
    files = sorted((item for item in folder.iterdir() if item.name.endswith(".toml")), key=lambda item: item.name)
    return {item.name.removesuffix(".toml"): item.read_text(encoding="utf-8") for item in files}


def read(path: Path) -> Recipe:
    """The recipe in a TOML file.

    Raises:
        UserError: it cannot be read, or the recipe is wrong.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        found, fix = str(error), "save it as UTF-8, or look at its permissions"
        raise UserError(str(path), expected="a TOML file in UTF-8", found=found, fix=fix) from None
    return from_toml(text, str(path))


def load(name_or_path: str) -> Recipe:
    """The preset of that name, or the recipe in that TOML file.

    Raises:
        UserError: neither exists, or the recipe is wrong.
    """
    known = presets()
    if name_or_path in known:
        return from_toml(known[name_or_path], name_or_path)
    path = Path(name_or_path)
    if path.is_file():
        return read(path)
    near = difflib.get_close_matches(name_or_path, list(known), n=1)
    fix = f"did you mean {near[0]!r}?" if near else "name an existing file"
    raise UserError(name_or_path, expected=f"a file or one of {', '.join(known)}", found="neither", fix=fix)
