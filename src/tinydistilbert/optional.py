"""Optional libraries: they are imported where they are used, and errors name the command that installs them."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

from tinydistilbert.errors import UserError

TRAINING = frozenset(
    ("datasets", "filelock", "huggingface_hub", "jaxtyping", "jinja2", "markupsafe", "matplotlib", "psutil", "pyarrow",
     "pydantic", "rich", "safetensors", "scipy",
     "sklearn", "shtab", "tomli_w", "torch", "transformers")
)  # fmt: skip
"""Libraries of the extra `train`; running exported models needs none of them."""


TELEMETRY = {"openvino": ("openvino_telemetry",), "nncf": ("openvino_telemetry",)}
"""Libraries that report their use over the network, and the modules that they need for that but work without."""


def require(module: str, *, extra: str) -> ModuleType:
    """Return the imported `module`, which belongs to the extra `extra` of this package.

    Raises:
        UserError: it is not installed; the message names the command that installs it.
    """
    for telemetry in TELEMETRY.get(module, ()):
        sys.modules.setdefault(telemetry, None)  # type: ignore[arg-type] # now imports as not installed
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # it is installed, but one of its own imports is not
        raise UserError(module, problem="this library is not installed", fix=_install(extra)) from None


@contextmanager
def training_libraries(where: str) -> Iterator[None]:
    """Let the body import libraries of the extra `train`; report a missing one.

    Args:
        where: what needs them.

    Raises:
        UserError: one is not installed; the message names the command that installs all of them.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        if error.name not in TRAINING:
            raise
        problem = f"it needs {error.name}, which is not installed; only exported models run without it"
        raise UserError(where, problem=problem, fix=_install("train")) from None


def _install(extra: str) -> str:
    return f"run: pip install 'tinydistilbert[{extra}]'"
