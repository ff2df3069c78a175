"""Libraries that only some commands need: imported where they are used, with the command that installs them."""

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
            raise  # it is installed, but something that it imports is not
        fix = f"run: pip install 'tinydistilbert[{extra}]'"
        raise UserError(module, problem="this library is not installed", fix=fix) from None
