"""Which settings a sweep tries, and their limits: a TOML file with a table for each key of the recipe."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinydistilbert.errors import UserError
from tinydistilbert.recipe.schema import Recipe, to_dict
from tinydistilbert.recipe.toml import from_dict, merge, nested

CHANGEABLE = (
    "student", "objective", "masking", "distill", "finetune.epochs", "finetune.min_steps", "finetune.optimization",
    "finetune.layer_decay", "finetune.distillation", "finetune.override",
)  # fmt: skip
"""What a trial may change: how the student is made. Trials are compared by text, teacher, tasks and measurements."""
Value = str | int | float | bool


@dataclass(frozen=True)
class Dimension:
    """One setting: a range between two limits, or several values."""

    key: str
    choices: tuple[Value, ...] = ()
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    """Whether values are spaced by ratio instead of difference, as for learning rates."""
    step: float | None = None

    @property
    def is_whole(self) -> bool:
        """Whether its values are whole numbers, because both limits are written as such."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    @property
    def examples(self) -> tuple[Value, ...]:
        """The values that the recipe has to accept."""
        return self.choices or (self.low, self.high)

    @property
    def description(self) -> str:
        """The values in words."""
        if self.choices:
            return ", ".join(map(str, self.choices))
        scale = ", by ratio" if self.log else ""
        return f"{self.low:g} to {self.high:g}{scale}" + (f" in steps of {self.step:g}" if self.step else "")

    def is_of_kind(self, distribution: Any) -> bool:
        """Whether Optuna accepts its values in a study where earlier ones are of this distribution."""
        if self.choices:
            return list(self.choices) == list(getattr(distribution, "choices", ()))
        return type(distribution).__name__ == ("IntDistribution" if self.is_whole else "FloatDistribution")

    def suggest(self, trial: Any) -> Value:
        """Return the value that an Optuna trial tries."""
        if self.choices:
            chosen: Value = trial.suggest_categorical(self.key, list(self.choices))
            return chosen
        if self.is_whole:
            whole: int = trial.suggest_int(self.key, self.low, self.high, step=int(self.step or 1), log=self.log)
            return whole
        number: float = trial.suggest_float(self.key, self.low, self.high, step=self.step, log=self.log)
        return number


@dataclass(frozen=True)
class Space:
    """The settings to try."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def read(cls, path: Path, recipe: Recipe) -> "Space":
        """Read the space in a file, for a recipe.

        Raises:
            UserError: the file is missing or not TOML, a key is unknown or may not change, or the recipe does not
                accept a value.
        """
        try:
            content = tomllib.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
            fix = "give a TOML file with a table for each setting: [distill.optimization.learning_rate], low = 1e-5, …"
            raise UserError(f"--space {path}", problem=f"cannot be read ({error})", fix=fix) from None
        dimensions = tuple(_dimension(key, table, path) for key, table in sorted(_tables(content)))
        if not dimensions:
            fix = "write a table for each setting: [distill.optimization.learning_rate], low = 1e-5, high = 1e-3"
            raise UserError(f"--space {path}", problem="names no setting", fix=fix)
        space = cls(dimensions)
        space.check(recipe, path)
        return space

    def check(self, recipe: Recipe, path: Path) -> None:
        """Refuse keys and values that the recipe does not accept; each limit and each choice is tried.

        Raises:
            UserError: there is one.
        """
        for dimension in self.dimensions:
            where = f"--space {path}, {dimension.key}"
            if not any(dimension.key == name or dimension.key.startswith(f"{name}.") for name in CHANGEABLE):
                problem = f"trials may differ in settings of {', '.join(CHANGEABLE)} alone, to be comparable"
                raise UserError(where, problem=problem, fix="change this one in the recipe")
            for value in dimension.examples:
                try:
                    self.recipe(recipe, {dimension.key: value})
                except UserError as error:
                    raise UserError(where, problem=f"{value}: {error.problem}", fix=error.fix) from None

    def recipe(self, recipe: Recipe, values: Mapping[str, Value]) -> Recipe:
        """Return the recipe with these values.

        Raises:
            UserError: the recipe does not accept them.
        """
        return from_dict(merge(to_dict(recipe), nested(dict(values))), "the trial")

    def suggest(self, trial: Any) -> dict[str, Value]:
        """Return the values that an Optuna trial tries."""
        return {dimension.key: dimension.suggest(trial) for dimension in self.dimensions}

    def as_text(self) -> str:
        """Return the space as text for the folder of the sweep; sweeps with equal text are the same."""
        return "".join(f"{dimension.key}: {dimension.description}\n" for dimension in self.dimensions)


_FIELDS = {"low", "high", "log", "step", "choices"}


def _tables(content: Mapping[str, Any], prefix: str = "") -> list[tuple[str, Mapping[str, Any]]]:
    """Return every table with fields of a dimension, by its full name; `"a.b"` and `a.b` are the same."""
    tables: list[tuple[str, Mapping[str, Any]]] = []
    for name, value in content.items():
        key = f"{prefix}{name}"
        if not isinstance(value, Mapping):
            tables.append((key, {"": value}))  # refused later, by name
        elif not any(isinstance(inner, Mapping) for inner in value.values()):  # also an empty one, to be refused
            tables.append((key, value))
        else:
            tables += _tables(value, f"{key}.")
    return tables


def _dimension(key: str, table: Mapping[str, Any], path: Path) -> Dimension:
    where, fix = f"--space {path}, {key}", "write low and high (log = true for ratios, step = …), or choices = [...]"
    unknown = sorted(set(table) - _FIELDS)
    if unknown:
        expected = "low, high, log, step, or choices"
        raise UserError(where, expected=expected, found=", ".join(unknown).strip() or "a value", fix=fix)
    if "choices" in table:
        choices = table["choices"]
        if len(table) > 1 or not isinstance(choices, list) or len(choices) < 2:
            problem = "choices must be a list of at least two values, with nothing beside it"
            raise UserError(where, problem=problem, fix=fix)
        return Dimension(key, choices=tuple(choices))
    low, high, log, step = (table.get(name) for name in ("low", "high", "log", "step"))
    for value in (low, high, *([] if step is None else [step])):
        if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value):
            raise UserError(where, expected="numbers as low and high", found=repr(value), fix=fix)
    if log is not None and not isinstance(log, bool):
        raise UserError(where, expected="true or false as log", found=repr(log), fix=fix)
    assert low is not None and high is not None
    if low >= high:
        raise UserError(where, expected="low below high", found=f"{low:g} and {high:g}", fix=fix)
    if step is not None and step <= 0:
        raise UserError(where, expected="a step above 0", found=f"{step:g}", fix=fix)
    if step is not None and isinstance(low, int) and isinstance(high, int) and step != int(step):
        problem = f"low and high are whole numbers, but step is {step:g}"
        raise UserError(where, problem=problem, fix="write them with a point, as 1.0, or a whole step")
    if log and (low <= 0 or step is not None):
        problem = f"log = true needs low above 0 (it is {low:g}) and no step"
        raise UserError(where, problem=problem, fix=fix)
    return Dimension(key, low=low, high=high, log=bool(log), step=step)
