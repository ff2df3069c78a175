"""Every setting of the recipe by its full key, such as `distill.epochs`: for flags, help and "did you mean"."""

import dataclasses
import difflib
import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Union, get_args, get_origin

from tinydistilbert.recipe.schema import Recipe

MOST_SUGGESTIONS = 3


def members(kind: Any) -> tuple[Any, ...]:
    """Return the members of a union; for any other type, the type itself."""
    return get_args(kind) if get_origin(kind) in (Union, types.UnionType) else (kind,)


def is_list(kind: Any) -> bool:
    """Whether a type is a tuple of any length."""
    return get_origin(kind) is tuple and get_args(kind)[-1] is Ellipsis


@dataclass(frozen=True)
class Key:
    """One setting."""

    name: str
    """Name with its sections: `finetune.optimization.learning_rate`."""
    kind: Any
    """Its type, with pydantic's limits."""
    default: Any
    help: str
    """The text under the field, on one line."""

    @property
    def choices(self) -> tuple[str, ...]:
        """Words that it accepts, alone or in a list; empty = not only words of a fixed list."""
        several = [get_args(kind)[0] for kind in members(self.kind) if is_list(kind)]
        literals = [kind for kind in (*members(self.kind), *several) if get_origin(kind) is Literal]
        return get_args(literals[0]) if literals else ("true", "false") if self.kind is bool else ()

    @property
    def item(self) -> Any:
        """Type of an item if the value may be a list of any length, else None."""
        return next((get_args(kind)[0] for kind in members(self.kind) if is_list(kind)), None)

    @property
    def is_ramp(self) -> bool:
        """Whether the value may be two numbers: at the first step and at the last."""
        return any(get_origin(kind) is tuple and not is_list(kind) for kind in members(self.kind))


@dataclass(frozen=True)
class Section:
    """A section of the recipe with the settings that lie directly in it."""

    name: str
    """Empty for the recipe itself."""
    help: str
    keys: tuple[Key, ...]


def sections(section: Any = None, name: str = "") -> Iterator[Section]:
    """Yield a section and all sections in it, except those without fixed keys, such as `finetune.override`.

    Args:
        section: an instance that holds the defaults; by default the whole recipe.
        name: its full key.
    """
    section = Recipe() if section is None else section
    texts, prefix = section.__pydantic_fields__, f"{name}." if name else ""
    keys, inner = [], []
    for field in dataclasses.fields(section):
        value = getattr(section, field.name)
        if dataclasses.is_dataclass(value):
            inner.append((value, prefix + field.name))
        elif get_origin(field.type) is not dict:
            text = " ".join((texts[field.name].description or "").split())
            keys.append(Key(prefix + field.name, field.type, value, text))
    yield Section(name, (type(section).__doc__ or "").split("\n", 1)[0], tuple(keys))
    for value, key in inner:
        yield from sections(value, key)


def flat(content: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the settings of nested sections by their full keys."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from flat(value, f"{path}.{key}" if path else str(key))
    else:
        yield path, content


def nearest(name: str, known: Sequence[str]) -> list[str]:
    """Return what a misspelt key may mean: one key, or a few of one name in several sections; nothing if none is near.

    A key with exactly that name deeper in the same section comes first (`finetune.learning_rate` means
    `finetune.optimization.learning_rate`, not `finetune.learning_rates`), then a similar name in the section, then the
    same name in other sections, then anything similar.

    Args:
        name: what was written, with its sections.
        known: full keys; sections may be among them.
    """
    section, _, leaf = name.rpartition(".")
    inside = [key for key in known if key.startswith(f"{section}.")] if section else list(known)
    deeper = [key for key in inside if key.endswith(f".{leaf}")]
    deeper = [key for key in deeper if ".optimization." in key] or deeper  # settings of a whole training
    siblings = [key for key in inside if key.rpartition(".")[0] == section]
    candidates = (
        deeper if section else [],
        [key for key in known if key.startswith(f"{name}.")],  # it is a section
        difflib.get_close_matches(name, siblings, n=1),
        deeper or [key for key in known if key.endswith(f".{leaf}")],
        difflib.get_close_matches(name, inside, n=1) or difflib.get_close_matches(name, known, n=1),
    )
    return next(filter(None, candidates), [])[:MOST_SUGGESTIONS]


def did_you_mean(candidates: Sequence[str]) -> str:
    """Return a question with the candidates, the last one after "or"."""
    *others, last = candidates
    return f"did you mean {', '.join(others)}{' or ' if others else ''}{last}?"
