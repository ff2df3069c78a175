"""The parser: argparse with a sub-parser for each command, and its messages about mistakes.

Only the parser of the called command is filled with arguments, so that the overview needs no recipe.
"""

import argparse
import difflib
from collections.abc import Sequence

from tinydistilbert import __version__
from tinydistilbert.cli.actions import Parser
from tinydistilbert.cli.arguments import COMMANDS, SHRINK_USAGE
from tinydistilbert.errors import UserError

DESCRIPTION = "Distil a teacher into a small, fast student for your text and tasks, and measure it."
EXAMPLES = """\
  tinydistilbert replicate quickstart  the whole job, offline, in minutes
  tinydistilbert COMMAND --help        the flags of a command
  tinydistilbert COMMAND --help-all    all settings of the recipe, with defaults"""


def build(command: str | None = None, given: Sequence[str] = (), *, everything: bool = False) -> Parser:
    """Return the whole parser.

    Args:
        command: the command whose arguments are added; None = all.
        given: the arguments after the command, for settings of tasks and rows with user-chosen names.
        everything: show every setting in the help, and know the words that each accepts.
    """
    root = Parser(prog="tinydistilbert", description=DESCRIPTION, epilog=EXAMPLES, usage="tinydistilbert COMMAND ...")
    root.add_argument("-h", "--help", action="help", help="this help")
    root.add_argument("--version", action="version", version=f"tinydistilbert {__version__}", help="print the version")
    commands = root.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True,
        description="From prepare to report: run the stages of a recipe up to that one; finished ones are skipped.",
    )  # fmt: skip
    for name, row in COMMANDS.items():
        parser = commands.add_parser(
            name,
            prog=f"tinydistilbert {name}",
            help=row.help,
            description=row.help,
            usage=f"tinydistilbert {name} {row.usage}",
        )
        if command in (None, name):
            parser.add_argument("-h", "--help", action="help", help="this help")
            if row.takes_recipe:
                parser.add_argument("--help-all", action="help", help="every setting of the recipe, with its default")
            row.fill(parser, given, everything)
    return root


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; if it asks for help, print it and raise SystemExit.

    Raises:
        UserError: an unknown command or flag, with the nearest known one; a missing value, or one too many.
    """
    if not arguments:
        arguments = ["--help"]
    command, given = arguments[0], arguments[1:]
    if command not in (*COMMANDS, "-h", "--help", "--version"):
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "see tinydistilbert --help"
        raise UserError("command line", expected=f"one of {', '.join(COMMANDS)}", found=repr(command), fix=fix)
    parser = build(command, given, everything="--help-all" in given)
    try:
        namespace, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise _about_a_value(error, command, given) from None
    if others:
        raise _about_others(namespace, others)
    return namespace


def _about_a_value(error: argparse.ArgumentError, command: str, given: Sequence[str]) -> UserError:
    """Return the error for a missing argument, a flag without a value, or a value that it does not accept."""
    usage = f"usage: tinydistilbert {command} {COMMANDS[command].usage}"
    _, _, missing = error.message.partition("required: ")
    if missing:
        return UserError(f"tinydistilbert {command}", expected=missing, found="none", fix=usage)
    spellings = (error.argument_name or "").split("/")
    used = [index for index, word in enumerate(given) if word.partition("=")[0] in spellings]
    flag = given[used[-1]].partition("=")[0] if used else spellings[-1]
    if "expected" in error.message:
        following = given[used[-1] + 1] if used and used[-1] + 1 < len(given) else ""
        if following.startswith("-") and not following.startswith("--"):
            found, fix = f"{following!r}, which reads as a flag", f"write {flag}={following}"
            return UserError(flag, expected="a value", found=found, fix=fix)
        fix = f"write it after the flag; if it begins with -: {flag}=VALUE"
        return UserError(flag, expected="a value", found="none", fix=fix)
    if "ignored explicit argument" in error.message:
        _, _, value = given[used[-1]].partition("=") if used else ("", "", "one")
        return UserError(flag, expected="no value", found=repr(value), fix=f"write {flag} alone")
    return UserError(flag or f"tinydistilbert {command}", problem=error.message, fix=usage)


def _about_others(namespace: argparse.Namespace, others: Sequence[str]) -> UserError:
    """Return the error for words that no argument accepts: an unknown flag, or one word too many."""
    command = namespace.command
    unknown = [word.partition("=")[0] for word in others if word.startswith("-") and word != "-"]
    usage = f"tinydistilbert {command} {COMMANDS[command].usage}"
    if unknown:
        return _about_a_flag(command, unknown[0], usage)
    recipe = getattr(namespace, "recipe", None)
    if recipe is not None:
        fix = "delete one; a flag takes one value, and the values of a list follow it directly"
        return UserError("command line", expected="one recipe", found=f"{recipe!r} and {others[0]!r}", fix=fix)
    return UserError(
        f"tinydistilbert {command}", problem=f"there is one word too many, {others[0]!r}", fix=f"usage: {usage}"
    )


def _about_a_flag(command: str, flag: str, usage: str) -> UserError:
    if COMMANDS[command].usage == SHRINK_USAGE:
        return _about_a_flag_of_shrink(flag)
    if not COMMANDS[command].takes_recipe:
        return UserError(flag, expected="a flag of this command", found=repr(flag), fix=f"usage: {usage}")
    from tinydistilbert.cli import flags
    from tinydistilbert.recipe.keys import did_you_mean

    name = flag.lstrip("-").replace("_", "-")
    known = [*flags.SHORT[command], "output", *flags.RUN, "dry-run", "json", "quiet", "threads"]
    if name not in known and (keys := flags.meanings(name)):
        fix = f"write the full key: {' or '.join(f'--{key}' for key in keys)}"
        return UserError(flag, problem=f"{command} has no such flag", fix=fix)
    if name not in known and name in flags.custom_task_flags():
        fix = f"use it with {', '.join(flags.CUSTOM_TASK)}"
        return UserError(flag, problem=f"{command} cannot train on your own task", fix=fix)
    columns = [*flags.custom_task_flags()] if command in flags.CUSTOM_TASK else []
    near = [] if "." in flag else difflib.get_close_matches(name, [*columns, *known], n=1)
    near = near or [column for column in columns if name.startswith(f"{column}-")][:1]  # --label-column
    near = near or flags.nearest_flags(flag.lstrip("-"))
    fix = did_you_mean([f"--{key}" for key in near]) if near else f"see tinydistilbert {command} --help-all"
    for short, key in flags.SHORT[command].items():
        fix += f" In short: --{short}" if near == [key] else ""
    return UserError(flag, expected="a known flag", found=repr(flag), fix=fix)


def _about_a_flag_of_shrink(flag: str) -> UserError:
    from tinydistilbert.cli import flags
    from tinydistilbert.recipe.keys import did_you_mean

    parser = Parser()
    COMMANDS["shrink"].fill(parser, (), False)
    shown = [name for action in parser._actions for name in action.option_strings if "." not in name]
    keys = [key for key in flags.meanings(flag.lstrip("-")) if key.startswith(("finetune.", "compress."))]
    near = [f"--{key}" for key in keys] or difflib.get_close_matches(flag, shown, n=1)
    near = near or [f"--{key}" for key in flags.nearest_flags(flag.lstrip("-"))]
    fix = did_you_mean(near) if near else "see tinydistilbert shrink --help"
    return UserError(flag, expected="a known flag", found=repr(flag), fix=fix)
