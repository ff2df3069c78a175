"""Building blocks of recipe sections: the decorator that checks them, types of values, and AdamW's section."""

import functools
import logging
import re
from collections.abc import Mapping
from dataclasses import field
from typing import Annotated, Any, Literal, TypeVar, cast, dataclass_transform

from pydantic import ConfigDict, Field, NonNegativeFloat, PositiveFloat, PositiveInt, field_validator
from pydantic.dataclasses import dataclass

from tinydistilbert.errors import UserError

T = TypeVar("T")
_CONFIG = ConfigDict(extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def section(kind: type[T]) -> type[T]:
    """Make a frozen, checked dataclass that refuses unknown keys; the text under each field is its help."""
    made: Any = dataclass(frozen=True, kw_only=True, config=_CONFIG)(kind)
    return cast("type[T]", made)


RENAMED_VALUES = {
    "student.layers": {"authors": "distilbert"},
    "finetune.select": {"published": "reported"},
}
"""Deprecated spellings of values, by key, with the current spelling."""


RENAMED_KEYS: dict[str, tuple[str, Mapping[str, str]]] = {
    "finetune.second_distillation": ("finetune.distillation.tasks", {"true": "span", "false": "none"}),
    "finetune.distillation_temperature": ("finetune.distillation.temperature", {}),
    "finetune.distillation_weight": ("finetune.distillation.soft", {}),
}
"""Deprecated keys, with the current key and its values' names where those differ."""


def with_current_keys(content: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return a recipe's `content` with the current names of its keys; each deprecated key gets a warning.

    Args:
        content: nested sections as in a TOML file, without unset values.
        where: the name used in errors.

    Raises:
        UserError: a key is given under both of its names.
    """
    current = dict(content)
    for deprecated, (key, spellings) in RENAMED_KEYS.items():  # all of them moved within their own section
        section_name, _, name = deprecated.rpartition(".")
        in_section = current.get(section_name)
        if not isinstance(in_section, Mapping) or name not in in_section:
            continue
        inner, leaf = key.removeprefix(f"{section_name}.").split(".")
        beside = in_section.get(inner, {})
        if not isinstance(beside, Mapping):
            continue  # an error that the check of the types explains better
        if leaf in beside:
            problem = f"the same setting is given as {key} too"
            raise UserError(f"{where}, key {deprecated}", problem=problem, fix=f"delete {deprecated}")
        value = spellings.get(str(in_section[name]).lower(), in_section[name])
        others = {each: setting for each, setting in in_section.items() if each != name}
        current[section_name] = {**others, inner: {**beside, leaf: value}}
        _warn_of_renamed(deprecated, None, f"{key} = {value!r}")
    ablate = current.get("ablate")
    if isinstance(ablate, Mapping) and isinstance(rows := ablate.get("rows"), Mapping):
        renamed = {
            row: with_current_keys(changes, f"{where}, row {row!r} of ablate.rows")
            if isinstance(changes, Mapping)
            else changes
            for row, changes in rows.items()
        }
        current["ablate"] = {**ablate, "rows": renamed}
    return current


def renamed_values(key: str) -> Any:
    """Return a validator for a field with deprecated spellings of its value (`RENAMED_VALUES`), which still work.

    Args:
        key: the recipe's key, such as `student.layers`.
    """

    def current(value: Any) -> Any:
        if not isinstance(value, str) or value not in RENAMED_VALUES[key]:
            return value
        current_value = RENAMED_VALUES[key][value]
        _warn_of_renamed(key, value, repr(current_value))
        return current_value

    return field_validator(key.rpartition(".")[2], mode="before")(current)


@functools.cache
def _warn_of_renamed(key: str, value: str | None, current: str) -> None:
    """Warn once per process, because a recipe is checked several times. Without a value, the key itself is renamed."""
    deprecated = key if value is None else f"{key} = {value!r}"
    logging.getLogger(__name__).warning("%s is a deprecated spelling; write %s", deprecated, current)


def alone(value: Any) -> Any:
    """Return the only item of a list, for keys that accept one value or several."""
    return value[0] if isinstance(value, list | tuple) and len(value) == 1 else value


Share = Annotated[float, Field(ge=0, le=1)]
Epochs = Annotated[float, Field(gt=0, le=10_000)]
"""More than ten thousand epochs are a typing error."""

Duration = Annotated[str, Field(pattern=r"^((\d+(\.\d+)?h)?(\d+(\.\d+)?m)?(\d+(\.\d+)?s)?)$")]
"""`20m`, `1h30m`, `90s`; empty = none."""
Milliseconds = Annotated[str, Field(pattern=r"^(\d+(\.\d+)?ms)?$")]
"""`5ms`; empty = none."""
Bytes = Annotated[str, Field(pattern=r"^(\d+(\.\d+)?(kB|MB|GB))?$")]
"""`20MB`, in powers of 1,000; empty = none."""
Operations = Annotated[str, Field(pattern=r"^(\d+(\.\d+)?[MGT])?$")]
"""`500M` floating-point operations; empty = none."""
Ramp = NonNegativeFloat | tuple[NonNegativeFloat, NonNegativeFloat]
"""A number, or two: the value at the first step and at the last, with linear interpolation between them."""
PositiveRamp = PositiveFloat | tuple[PositiveFloat, PositiveFloat]
Rate = Annotated[float, Field(gt=0, lt=1)]
RateRamp = Rate | tuple[Rate, Rate]


@section
class Optimization:
    """AdamW with linear warm-up and decay."""

    learning_rate: PositiveFloat = 5e-4
    """The highest learning rate, reached after the warm-up."""
    weight_decay: NonNegativeFloat = 0.0
    """Decoupled weight decay (Loshchilov and Hutter 2019); `decayed` says of which parameters."""
    decayed: Literal["matrices", "all"] = "matrices"
    """`all`: biases and normalisation weights decay too, as with a single AdamW parameter group."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.98
    """Decay of the squared gradient's running mean."""
    adam_epsilon: PositiveFloat = 1e-6
    """Added to the square root of the squared gradient's mean, to avoid division by zero."""
    warmup_ratio: Share = 0.05
    """Share of the steps during which the learning rate rises to its highest value."""
    warmup_start: Literal["above zero", "zero"] = "above zero"
    """`zero`: start as transformers' linear schedule does, with a learning rate of 0 in the first step."""
    max_grad_norm: NonNegativeFloat = 5.0
    """Larger gradients are scaled down to this norm; 0 = no clipping."""
    batch_size: Annotated[int, Field(ge=1, le=65_536)] = 8
    """Blocks or examples per forward pass."""
    gradient_accumulation_steps: PositiveInt = 1
    """Forward passes whose gradients are added up for one update."""
    dropout: Share | None = None
    """Dropout of hidden states in training; by default the model's own, which its saved config keeps."""
    attention_dropout: Share | None = None
    """Dropout of attention weights in training; by default the model's own. 0 is 1.4 times faster on CPUs."""


def ramp_at(value: float | tuple[float, float], step: int, steps: int) -> float:
    """Return the value of a `Ramp` at `step` (from 0) of `steps`."""
    if not isinstance(value, tuple):
        return value
    start, end = value
    return start + (end - start) * step / max(steps - 1, 1)


def highest(value: float | tuple[float, float]) -> float:
    """Return the largest value of a `Ramp`."""
    return max(value) if isinstance(value, tuple) else value


def seconds_of(duration: str) -> float:
    """Return the seconds of a `Duration`; 0 if it is empty."""
    units = {"h": 3600.0, "m": 60.0, "s": 1.0}
    return sum(float(number) * units[unit] for number, unit in re.findall(r"([\d.]+)([hms])", duration))


def quantity(text: str) -> float:
    """Return the number of a `Milliseconds`, `Bytes` or `Operations`; infinity if it is empty."""
    units = {"ms": 1.0, "kB": 1e3, "MB": 1e6, "GB": 1e9, "M": 1e6, "G": 1e9, "T": 1e12}
    number = re.fullmatch(r"([\d.]+)(\w+)", text)
    return float(number[1]) * units[number[2]] if number else float("inf")
