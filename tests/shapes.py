"""The types and shapes in annotations, checked in tests whenever a function is called; `tests/conftest.py` begins it."""

from typing import Any, Self

from beartype import BeartypeConf, BeartypeHintOverrides, beartype
from jaxtyping import install_import_hook

SHAPED = [
    f"tinydistilbert.{name}"
    for name in ("losses", "models", "distillation", "finetuning", "data", "compress.importance", "export.fused_attention")
]  # fmt: skip
"""Where annotations have shapes."""

# A method is decorated outside its class, where beartype cannot know what Self is.
checked = beartype(conf=BeartypeConf(is_pep484_tower=True, hint_overrides=BeartypeHintOverrides({Self: Any})))


def check_shapes() -> None:
    """From here on modules of `SHAPED` are imported with checks in them."""
    install_import_hook(SHAPED, f"{__name__}.checked")
