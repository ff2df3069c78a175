"""The shapes in annotations, checked in tests whenever a function is called; `tests/conftest.py` begins it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, config, install_import_hook
from transformers import PretrainedConfig

ROOMS = ("losses", "models", "distillation", "finetuning", "data", "compress.importance", "export.fused_attention")
SHAPED = [f"tinydistilbert.{room}" for room in ROOMS]
"""Where annotations have shapes."""


def has_shape(hint: Any) -> bool:
    """Whether an annotation has an array of a shape in it."""
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(has_shape, get_args(hint)))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that refuses arguments of other shapes than it says; other types are mypy's business."""
    hints = function.__annotations__.items()
    function.__annotations__ = {name: hint if has_shape(hint) else Any for name, hint in hints}
    return beartype(function)


@contextmanager
def unchecked() -> Iterator[None]:
    """Inside the `with` nothing is checked: torch cannot compile the checks."""
    config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        config.update("jaxtyping_disable", False)


def check_shapes() -> None:
    """From here on modules of `SHAPED` are imported with checks in them."""
    PretrainedConfig.__no_type_check__ = True  # its subclasses are dataclasses, but take any argument
    install_import_hook(SHAPED, f"{__name__}.checked")
