"""The recipe's keys as arguments of a command: `--section.key VALUE`, made from the schema, and short names for some.

Values are only split here (into the items of a list); they are checked where TOML files are checked too.
"""

import argparse
import dataclasses
import re
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, get_args

from tinydistilbert.errors import UserError
from tinydistilbert.recipe import types
from tinydistilbert.recipe.keys import Key, Section, members, nearest, sections
from tinydistilbert.recipe.schema import CustomTask, Recipe, TaskSettings

_ADAPT = {
    "teacher": "teacher.model", "learning-rate": "adapt.optimization.learning_rate",
    "batch-size": "adapt.optimization.batch_size",
}  # fmt: skip
_DISTILL = {
    "teacher": "teacher.model", "epochs": "distill.epochs", "learning-rate": "distill.optimization.learning_rate",
    "batch-size": "distill.optimization.batch_size",
}  # fmt: skip
_TIME = {"time-budget": "distill.time_budget"}
_TASKS = {"task": "finetune.tasks", "select": "finetune.select", "seeds": "finetune.seeds"}
_TEACHER_LABELS = "finetune.distillation.teacher_labels"
_FINETUNE = _TASKS | {
    "teacher": "finetune.distillation.teachers", "teacher-labels": _TEACHER_LABELS, "epochs": "finetune.epochs",
    "learning-rate": "finetune.optimization.learning_rate", "batch-size": "finetune.optimization.batch_size",
}  # fmt: skip
_TARGETS = {
    "target-latency": "compress.target_latency", "target-size": "compress.target_size",
    "target-operations": "compress.target_operations", "max-loss": "compress.max_loss", "keep": "compress.keep",
}  # fmt: skip
_COMPRESS = {"task": "compress.tasks", "teacher": "compress.teachers", "teacher-labels": _TEACHER_LABELS}
_MODEL = {"model": "finetune.model"}

SHORT: Mapping[str, Mapping[str, str]] = {
    "prepare": {},
    "adapt": _ADAPT,
    "distill": _DISTILL | _TIME,
    "finetune": _MODEL | _FINETUNE | _TIME,
    "evaluate": _MODEL | _TASKS | _TIME,
    "compress": _MODEL | _TASKS | _COMPRESS | _TARGETS | _TIME,
    "benchmark": _TASKS | _TARGETS | _TIME,
    "report": _MODEL | _TASKS | _TARGETS | _TIME,
    "replicate": _MODEL | _TASKS | _TARGETS | _TIME,
    "ablate": {"task": "finetune.tasks"} | _TIME,
    "sweep": {"task": "finetune.tasks"} | _TIME,
}
"""Short flags by command, and the keys that they set. A name that could mean keys of two stages of a command is not a
short flag there."""
GIVEN_MODEL = tuple(command for command, flags in SHORT.items() if "model" in flags)
"""Commands that accept a model by `--model`. Its only stages are fine-tuning and those after it, so the short flags are
then those of `finetune`."""
CUSTOM_TASK = tuple(command for command, flags in SHORT.items() if "task" in flags)
"""Commands that accept a file as a task: `--data FILE` with columns."""
RUN = ("data", "seed", "device")
"""Keys whose flags every command has."""
ANY_NAME = ("finetune.override", "finetune.custom", "ablate.rows")
"""Sections with user-chosen names, whose keys are not known beforehand."""

PLACEHOLDERS = ("--finetune.override.TASK.epochs", "--finetune.custom.NAME.train")
"""Flags that stand for any name in the help."""

METAVARS = {
    "data": "FOLDER", "device": "NAME", "teacher.model": "NAME", "finetune.model": "NAME", "finetune.tasks": "NAME",
    "compress.tasks": "NAME", "finetune.distillation.teachers": "FOLDER", "compress.teachers": "FOLDER",
    _TEACHER_LABELS: "CLASS",
    "validation": "FILE", "text": "COLUMN", "text_pair": "COLUMN", "label": "COLUMN",
}  # fmt: skip
"""Placeholders of values in the help, for types that say too little."""


def short_flags(command: str, *, given_model: bool) -> Mapping[str, str]:
    """Return the short flags of a command, with or without a model of the user's own."""
    return {**SHORT[command], **_FINETUNE} if given_model and command in GIVEN_MODEL else SHORT[command]


def meanings(flag: str) -> list[str]:
    """Return every key that a short flag (without dashes) means in some command."""
    return list(dict.fromkeys(flags[flag] for flags in SHORT.values() if flag in flags))


def custom_task_flags() -> dict[str, Key]:
    """Return the flags that describe a custom task given by `--data FILE`: the keys of `finetune.custom`."""
    (section,) = sections(CustomTask())
    return {key.name.replace("_", "-"): key for key in section.keys if key.name != "train"}


def named_sections(given: Sequence[str]) -> Iterator[Section]:
    """Yield the sections with user-chosen names for which a command line has flags."""
    matches = [
        re.match(rf"--({'|'.join(map(re.escape, ANY_NAME))})\.([^.=]+)\.([^=]+)", argument) for argument in given
    ]
    for section, name in dict.fromkeys((match[1], match[2]) for match in matches if match):
        if section == "ablate.rows":  # a row may change nearly every key: only those that it does
            used = {match[3] for match in matches if match and (match[1], match[2]) == (section, name)}
            keys = [key for part in sections() for key in part.keys if key.name in used]
            renamed = [Key(f"{section}.{name}.{key.name}", key.kind, key.default, key.help) for key in keys]
            yield Section(f"{section}.{name}", "", tuple(renamed))
        else:
            kind = TaskSettings if section == "finetune.override" else CustomTask
            yield from sections(kind(), f"{section}.{name}")


def nearest_flags(name: str) -> list[str]:
    """Return the keys that an unknown flag (without dashes) may mean."""
    for section in ANY_NAME:
        if match := re.fullmatch(rf"({re.escape(section)}\.[^.]+)\.(.+)", name):
            prefix, key = match[1], match[2]
            known = {"finetune.override": TaskSettings, "finetune.custom": CustomTask}.get(section, Recipe)
            inner = [each.name for part in sections(known()) for each in part.keys]
            return [f"{prefix}.{each}" for each in nearest(key, inner)]
    return nearest(name, [key.name for part in sections() for key in part.keys])


class SettingAction(argparse.Action):
    """Stores the value of a key by its name in `settings` (or another `dest`) of the namespace."""

    def __init__(self, option_strings: Sequence[str], dest: str, *, key: Key, **options: Any) -> None:
        super().__init__(option_strings, dest, default=argparse.SUPPRESS, **options)
        self.key = key

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Store the value or values of one use of the flag."""
        flag = option_string or self.option_strings[0]
        if not hasattr(namespace, self.dest):
            setattr(namespace, self.dest, {})
        settings: dict[str, Any] = getattr(namespace, self.dest)
        value = value_of(self.key, flag, [values] if isinstance(values, str) else values)
        if self.key.name.startswith("ablate.rows."):  # no type of the recipe converts these texts to numbers
            value = [_as_number(item) for item in value] if isinstance(value, list) else _as_number(value)
        if self.key.name in settings:
            before = settings[self.key.name]
            if not (isinstance(before, list) and isinstance(value, list) and self.key.item):
                raise UserError(flag, problem=f"it is given twice, {before!r} and {value!r}", fix="delete one")
            value = before + value
        settings[self.key.name] = value


def add_setting(
    group: Any, key: Key, names: Sequence[str], *, shown: Sequence[str], help_text: str, dest: str = "settings",
    choices: bool = False,
) -> None:  # fmt: skip
    """Add the flags of one key.

    Args:
        group: a parser or a group of one.
        key: the key to set.
        names: its flags without dashes.
        shown: the flags that the help shows.
        help_text: the help, or `argparse.SUPPRESS`.
        dest: the dictionary in the namespace that receives the value.
        choices: add the words that the key accepts, for completion; values are checked elsewhere.
    """
    action = group.add_argument(
        *dict.fromkeys(f"--{name}" for name in names), action=SettingAction, key=key, dest=dest,
        nargs="+" if key.item or key.is_ramp else None, metavar=metavar(key), help=help_text,
    )  # fmt: skip
    action.shown = [f"--{name}" for name in shown]
    if choices and key.choices:
        action.choices = key.choices


def add_settings(
    parser: argparse.ArgumentParser, run: Any, command: str, given: Sequence[str], *, everything: bool
) -> None:
    """Add all settings of the recipe to the parser of a command.

    Args:
        parser: the command's parser.
        run: its group of flags that every command has.
        command: its name, which selects the short flags.
        given: the arguments after the command, for sections with user-chosen names.
        everything: show all settings in the help, by section, instead of only those with a short flag.
    """
    given_model = any(each.partition("=")[0] in ("--model", "--finetune.model") for each in given)
    names = {key: flag for flag, key in short_flags(command, given_model=given_model).items()}
    title = f"settings of {command}, and the keys of the recipe that they set"
    short_group = None if everything or not names else parser.add_argument_group(title)

    def add(group: Any, key: Key, *, shown: bool) -> None:
        text = help_of(key, with_name=not everything and key.name in names) if shown else argparse.SUPPRESS
        short = [names[key.name]] if key.name in names else []
        spellings = [*short, key.name, key.name.replace("_", "-")]
        both = [key.name, *short] if everything else spellings[:1]
        add_setting(group, key, spellings, shown=both, help_text=text, choices=everything)

    def add_sections(shown_sections: Iterable[Section], *, shown: bool) -> None:
        for section in shown_sections:
            group = parser.add_argument_group(section.name or "recipe", section.help) if shown else parser
            for key in section.keys:
                add(group, key, shown=shown)

    known = {key.name: key for section in sections() for key in section.keys}
    first = [*RUN, *(names if short_group else ())]
    for name in first:
        add(run if name in RUN else short_group, known[name], shown=True)
    if command in CUSTOM_TASK:
        title = "a task of your own, named after its file: --data FILE, the train examples, and"
        group = parser.add_argument_group(title)
        for flag, key in custom_task_flags().items():
            add_setting(
                group, key, [flag], shown=[flag], help_text=help_of(key), dest="custom_task", choices=everything
            )
    others = [
        dataclasses.replace(section, keys=tuple(key for key in section.keys if key.name not in first))
        for section in sections()
    ]
    add_sections(others, shown=everything)
    deprecated = [Key(name, str, None, "") for name in types.RENAMED_KEYS]
    add_sections([Section("", "", tuple(deprecated))], shown=False)
    add_sections(named_sections(given), shown=False)
    add_sections(named_sections(PLACEHOLDERS) if everything else (), shown=True)


def add_hidden_settings(parser: argparse.ArgumentParser, given: Sequence[str]) -> None:
    """Add all settings of the recipe, by their full keys, to a command whose help does not show them."""
    known = [key for section in (*sections(), *named_sections(given)) for key in section.keys]
    for key in [*known, *(Key(name, str, None, "") for name in types.RENAMED_KEYS)]:
        add_setting(parser, key, [key.name, key.name.replace("_", "-")], shown=[], help_text=argparse.SUPPRESS)


def section_names() -> str:
    """Return the sections of the recipe, for a sentence."""
    return ", ".join(section.name for section in sections() if section.name and "." not in section.name)


def metavar(key: Key) -> str:
    """Return the placeholder of a key's value in the help."""
    by_kind = ((types.Duration, "20m"), (types.Milliseconds, "5ms"), (types.Bytes, "20MB"), (types.Operations, "100M"))
    if key.name in METAVARS:
        return METAVARS[key.name]
    if key.choices:
        return "|".join(key.choices)
    for kind, example in by_kind:
        if key.kind == kind:
            return example
    return {int: "N", float: "X"}.get(_base(key.item or members(key.kind)[0]), "TEXT")


def help_of(key: Key, *, with_name: bool = False) -> str:
    """Return the help of a key with its default, and its full name if only its short flag is shown."""
    default = key.default
    text = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    text = text.lower() if isinstance(default, bool) else text
    facts = [key.name] * with_name + ([] if default in (None, "", ()) else [f"default: {text}"])
    text = f"{key.help} ({'; '.join(facts)})".strip() if facts else key.help
    return text.replace("%", "%%")  # argparse formats it


def _base(kind: Any) -> Any:
    """Return the plain type of an annotated one."""
    return get_args(kind)[0] if hasattr(kind, "__metadata__") else kind


def value_of(key: Key, flag: str, texts: Sequence[str]) -> Any:
    """Return the value of a flag's texts, as in a TOML file, except that numbers are still texts.

    Raises:
        UserError: an empty text where that has no meaning.
    """
    if not key.item and not key.is_ramp:
        (text,) = texts
        if not text and key.default != "":
            raise UserError(flag, expected="a value", found="an empty one", fix="write one, or leave the flag out")
        return text
    if len(texts) == 1 and texts[0] in key.choices and len(members(key.kind)) > 1:
        return texts[0]
    is_text = _base(key.item) is str
    are_paths = is_text and not key.name.endswith(("tasks", "teacher_labels"))
    items = [item for text in texts for item in _items(text, flag, are_paths=are_paths)]
    # If a key also accepts words besides a list of numbers, a single item may be such a word, misspelt.
    return items[0] if len(items) == 1 and len(members(key.kind)) > 1 and not is_text else items


def _as_number(word: Any) -> Any:
    """Return the number or truth value that a word is in TOML, or the word."""
    try:
        value = tomllib.loads(f"x = {word}")["x"]
    except tomllib.TOMLDecodeError:
        return word
    return value if isinstance(value, (bool, int, float)) else word


def _items(word: str, flag: str, *, are_paths: bool) -> list[Any]:
    """Return the list items in one word: the word, a TOML list, or, except for paths, its parts between commas."""
    if not word:
        raise UserError(flag, expected="a value", found="an empty one", fix="write one, or [] for an empty list")
    if word.startswith("[") and word.endswith("]"):
        try:
            items = tomllib.loads(f"x = {word}")["x"]
        except tomllib.TOMLDecodeError:
            items = None
        if isinstance(items, list) and (not are_paths or all(isinstance(item, str) for item in items)):
            return items
    if are_paths:
        return [word]
    return [item for item in map(str.strip, word.strip("[]").split(",")) if item]
