"""argparse as this command line needs it: one spelling of flags in help, our own errors, values given only once."""

import argparse
import shutil
import textwrap
from collections.abc import Callable
from typing import Any, NoReturn

from tinydistilbert.errors import UserError
from tinydistilbert.storage.disk import in_home


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in 80 to 100 columns that shows one spelling of a flag, the shortest, and the value once."""

    def __init__(self, prog: str) -> None:
        width = min(max(shutil.get_terminal_size().columns, 40), 100) - 2
        super().__init__(prog, max_help_position=30, width=width)

        self._action_max_length = 16  # argparse does not count the indent of sub-commands

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines = [
            line if line.startswith(" ") else textwrap.fill(line, width - len(indent)) for line in text.splitlines()
        ]
        return textwrap.indent("\n".join(lines), indent)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        flags = getattr(action, "shown", action.option_strings)
        value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
        return ", ".join(flags) + value + (" ..." if action.nargs == "+" else "")


class Parser(argparse.ArgumentParser):
    """argparse's parser with our own errors; flags cannot be abbreviated."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **{
                "formatter_class": Formatter,
                "allow_abbrev": False,
                "exit_on_error": False,
                "add_help": False,
                **options,
            }
        )

    def error(self, message: str) -> NoReturn:
        """Raise errors that are not about a single flag like those that are.

        Raises:
            ArgumentError: always.
        """
        raise argparse.ArgumentError(None, message)


class Once(argparse.Action):
    """Accepts one value that is not empty, only once.

    Args:
        convert: makes the value from the text; its ValueError says what was expected. By default a path, in which the
            shell leaves the `~` of `--output=~/runs` alone.
    """

    def __init__(self, *names: Any, convert: Callable[[str], Any] = in_home, **options: Any) -> None:
        super().__init__(*names, **options)
        self.convert = convert

    def __call__(
        self,
        parser: argparse.ArgumentParser,
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        """Take the value."""
        if values is None:  # an optional positional that is not there
            return
        name = option_string or str(self.metavar)
        if not values:
            raise UserError(name, expected="a value", found="an empty one", fix="write one, or leave it out")
        if getattr(namespace, self.dest, None) is not None:
            raise UserError(name, problem="it is given twice", fix="delete one")
        try:
            setattr(namespace, self.dest, self.convert(values))
        except ValueError as error:
            raise UserError(name, expected=str(error), found=repr(values), fix="change the value") from None
