"""The data of a custom task as a call gives it: its examples, its columns, and what a given model says of it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinydistilbert.api.inputs import Data, as_given, written
from tinydistilbert.api.outcomes import Label, TaskColumns, TaskModel
from tinydistilbert.errors import UserError
from tinydistilbert.evaluation.answer_units import Units
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.names import task_name
from tinydistilbert.recipe.schema import CustomTask
from tinydistilbert.tasks.hash_split import scored_share

SCORED_SHARE = "10%"
"""Share of the train examples to score on, if no others are given."""
NAMELESS = "examples"
"""The name of a task whose data has no name."""
OF_TASK, OF_FILES = {"max_length", "answer_units", "label_separator"}, {"quoting"}
"""Settings of a custom task beside its files and columns: those of the task, and of the way its files are written."""


@dataclass(frozen=True)
class TaskData:
    """A custom task before it is in a run folder: its data, as texts if they are names, and its columns."""

    train: Any
    validation: Any
    columns: TaskColumns
    name: str
    """Name of the task."""
    inherited: Mapping[str, Any] = field(default_factory=dict)
    """Further settings of the task of a given model; the settings of a call replace them."""

    def section(self, folder: Path) -> dict[str, Any]:
        """Write data without a file into the folder; return the section of the recipe."""
        return {
            "train": written(self.train, folder / "train.parquet"),
            "validation": written(self.validation, folder / "validation.parquet"),
            **self.columns.section,
        }  # fmt: skip


def task_data(
    train: Data, validation: Data | None, *, text: str, label: Label, text_pair: str = "", kind: str = "classification",
    label_separator: str = "", like: TaskModel | None = None,
) -> TaskData:  # fmt: skip
    """Return the data of a task; for a model given instead of a name, with its columns and validation.

    Raises:
        UserError: the data is of an unsupported type.
    """
    defaults = TaskColumns(CustomTask().text, CustomTask().label)
    base = like.columns if like else defaults
    text_pair = text_pair or (base.text_pair if not text else "")
    columns = TaskColumns(
        text or base.text, label or base.label, text_pair, kind if not like else base.kind,
        label_separator or base.label_separator,
    )  # fmt: skip
    if train is None and like is not None:
        section = _section_of(like)
        scored = section.validation if validation is None else _scored(validation, columns.label)
        return TaskData(section.train, scored, columns, like.task, _set_in(section, OF_TASK | OF_FILES))
    if train is None:
        raise UserError("train", expected="the train examples", found="none", fix="give train=")
    scored = SCORED_SHARE if validation is None else _scored(validation, columns.label)
    given = as_given(train, "train", label=columns.label)
    name = like.task if like else task_name(given) if isinstance(given, str) else NAMELESS
    of_model = _custom_section(like) if like else None
    return TaskData(given, scored, columns, name, {} if of_model is None else _set_in(of_model, OF_TASK))


def _scored(validation: Data, label: Label) -> Any:
    """Return the scored examples: a share such as `10%`, or data."""
    is_share = isinstance(validation, str) and scored_share(validation, "validation")
    return validation if is_share else as_given(validation, "validation", label=label)


def _section_of(model: TaskModel) -> CustomTask:
    """Return the section of the task that a model was trained on.

    Raises:
        UserError: it is a built-in task.
    """
    section = _custom_section(model)
    if section is None:
        problem = f"the model does not say which files its built-in task {model.task!r} was read from"
        raise UserError("train", problem=problem, fix="give train=")
    return section


def _custom_section(model: TaskModel) -> CustomTask | None:
    """Return the section of the task that a model was trained on; None if it is a built-in task."""
    return toml.read(model.recipe_file).finetune.custom.get(model.task)


def answer_units_of(model: TaskModel) -> Units:
    """Return the units by which the answers of a model's task are compared; words if it has no recipe any more."""
    is_known = model.columns.kind == "span" and model.recipe_file.is_file()
    section = _custom_section(model) if is_known else None
    return section.answer_units if section else "words"


def _set_in(section: CustomTask, names: set[str]) -> dict[str, Any]:
    """Return those settings that are not the defaults."""
    default = CustomTask()
    return {name: getattr(section, name) for name in names if getattr(section, name) != getattr(default, name)}
