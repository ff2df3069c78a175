"""Libraries that only some commands need: imported where they are used, asked for by name where they are missing."""

import importlib
from types import ModuleType

from tinydistilbert.errors import UserError


def require(module: str, *, extra: str) -> ModuleType:
    """The imported `module`, which comes with the extra `extra` of this package.

    Raises:
        UserError: it is not installed; the message names the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or error.name.split(".")[0] != module.split(".")[0]:
            raise  # it is there, and something that it needs is broken
        fix = f"run: pip install 'tinydistilbert[{extra}]'"
        raise UserError("this machine", expected=f"the library {module}", found="none", fix=fix) from None
