"""The shapes in annotations, checked in tests whenever a function is called; `tests/conftest.py` begins it."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

import jaxtyping

ROOMS = ("losses", "models", "distillation", "finetuning", "data", "compress.importance", "export.fused_attention")
SHAPED = [f"tinydistilbert.{room}" for room in ROOMS]
"""Where annotations have shapes."""
_jaxtyped = jaxtyping.jaxtyped


def has_shape(hint: Any) -> bool:
    """Whether an annotation has an array of a shape in it."""
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        return True
    return any(map(has_shape, get_args(hint)))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that refuses arguments of other shapes than it says; other types are mypy's business."""
    from beartype import beartype  # only where something is checked

    hints = function.__annotations__.items()
    function.__annotations__ = {name: hint if has_shape(hint) else Any for name, hint in hints}
    return beartype(function)


def jaxtyped(typechecker: Any) -> Callable[[Any], Any]:
    """What jaxtyping's import hook decorates all with: its own decorator, but only where there is a shape.

    Jaxtyping compiles two functions for each that it decorates, and one within another anew in every call of that.
    """

    def decorate(place: Any) -> Any:
        within = (place.fget, place.fset) if isinstance(place, property) else (getattr(place, "__func__", place),)
        functions = [vars(each).get("__init__") if inspect.isclass(each) else each for each in within]
        hints = [hint for each in functions for hint in getattr(each, "__annotations__", {}).values()]
        return _jaxtyped(place, typechecker=typechecker) if any(map(has_shape, hints)) else place

    return decorate


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside the `with` nothing is checked: torch cannot compile the checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def check_shapes() -> None:
    """From here on modules of `SHAPED` are imported with checks in them."""
    jaxtyping.jaxtyped = jaxtyped
    jaxtyping.install_import_hook(SHAPED, f"{__name__}.checked")
