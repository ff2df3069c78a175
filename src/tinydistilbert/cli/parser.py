"""The parser: argparse with a sub-parser for each command, whose errors are ours and whose help is short by default.

Only the parser of the command that is called is filled with arguments, so that the overview needs no recipe.
"""

import argparse
import difflib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from tinydistilbert import __version__
from tinydistilbert.errors import UserError

DESCRIPTION = "A teacher, a text and tasks in; a small fast student out, with the evidence."
EXAMPLES = """\
  tinydistilbert replicate quickstart                 the whole job, offline, in minutes
  tinydistilbert COMMAND --help                       the flags of a command
  tinydistilbert COMMAND --help-all                   every setting of the recipe, with its default"""


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Help in 80 to 100 columns that shows one spelling of a flag, the shortest, and the value once."""

    def __init__(self, prog: str) -> None:
        width = min(max(shutil.get_terminal_size().columns, 40), 100) - 2
        super().__init__(prog, max_help_position=30, width=width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        if not action.option_strings:
            return super()._format_action_invocation(action)
        dotted = [flag for flag in action.option_strings if "." in flag]
        flags = [flag for flag in action.option_strings if "." not in flag] or dotted[:1]
        value = f" {action.metavar or action.dest.upper()}" if action.nargs != 0 else ""
        return ", ".join(flags[:1] if dotted else flags) + value + (" ..." if action.nargs == "+" else "")


class Parser(argparse.ArgumentParser):
    """argparse's parser with errors of ours; a flag is never guessed from its beginning."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            **{"formatter_class": Formatter, "allow_abbrev": False, "exit_on_error": False, "add_help": False, **options}
        )

    def error(self, message: str) -> NoReturn:
        """Report what argparse finds wrong beside single flags: required words that are missing.

        Raises:
            UserError: always.
        """
        _, _, missing = message.partition("required: ")
        fix = f"usage: {self.usage}"
        if missing:
            raise UserError(self.prog, expected=missing, found="none", fix=fix)
        raise UserError(self.prog, problem=message, fix=fix)


class Once(argparse.Action):
    """Takes one value that is not empty, and that only once.

    Args:
        convert: makes the value of the text; a ValueError of it says what was expected.
    """

    def __init__(self, *names: Any, convert: Callable[[str], Any] = Path, **options: Any) -> None:
        super().__init__(*names, **options)
        self.convert = convert

    def __call__(
        self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, option_string: str | None = None
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


def _threads(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError("a whole number >= 1")
    return int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a whole number >= 0")
    return int(text)


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        help: its line in the overview.
        usage: what follows its name.
        fill: adds its arguments to a parser: called with the parser, the words that follow the command, and whether
            every setting is to be in the help.
    """

    help: str
    usage: str
    fill: Callable[[Parser, Sequence[str], bool], None]


def _output(group: Any, text: str, *, required: bool = False) -> None:
    group.add_argument("--output", action=Once, metavar="FOLDER", help=text, required=required)


def _json(group: Any, text: str = "print the numbers as JSON; progress goes to standard error") -> None:
    group.add_argument("--json", action="store_true", help=text)


def _recipe_arguments(command: str) -> Callable[[Parser, Sequence[str], bool], None]:
    """What adds the arguments of a command that takes a recipe."""

    def fill(parser: Parser, words: Sequence[str], everything: bool) -> None:
        from tinydistilbert.cli import flags  # it needs the recipe, whose types cost most of the time of --help
        from tinydistilbert.recipe.keys import Key, sections

        known = {key.name: key for section in sections() for key in section.keys}
        given_model = any(word.partition("=")[0] in ("--model", "--finetune.model") for word in words)
        short = flags.short_flags(command, given_model=given_model)
        text = "a preset (see `tinydistilbert recipes`) or a TOML file"
        text += "; or MODEL, the folder of a fine-tuned model" if command == "compress" else ""
        parser.add_argument("recipe", nargs="?", action=Once, convert=str, metavar="RECIPE", help=text)
        names = {key: flag for flag, key in short.items()}

        def add(group: Any, key: Key, *, shown: bool) -> None:
            flag = [names[key.name]] if key.name in names else []
            text = flags.help_of(key, with_name=not everything and "." in key.name).replace("%", "%%")
            flags.add_setting(
                group, key, short=flag, help_text=text if shown else argparse.SUPPRESS, choices=everything
            )

        run = parser.add_argument_group("the run")
        _output(run, "the run folder (default: runs/NAME of the recipe); a run that was begun there goes on")
        for name in flags.RUN:
            add(run, known[name], shown=True)
        run.add_argument(
            "--threads", action=Once, convert=_threads, metavar="N",
            help="threads of matrix products (default: the cores that this process may use)",
        )  # fmt: skip
        run.add_argument(
            "--dry-run", action="store_true",
            help="say what would be done, with memory, disk and time estimated, and write nothing",
        )  # fmt: skip
        _json(run)
        run.add_argument("--quiet", action="store_true", help="no lines about progress")
        if short and not everything:
            group = parser.add_argument_group(f"settings of {command}, and the keys of the recipe that they mean")
            for key in short.values():
                add(group, known[key], shown=True)
        if command in flags.OWN_TASK:
            group = parser.add_argument_group("a task of your own, called after its train file")
            for flag, key in flags.own_task_flags().items():
                text = flags.help_of(key).replace("%", "%%")
                flags.add_setting(
                    group, key, names=[flag], dest="own_task", help_text=text, choices=everything
                )
        shown_short = set() if everything else set(short.values())
        for section in sections():
            keys = [key for key in section.keys if key.name not in flags.RUN and key.name not in shown_short]
            group = parser.add_argument_group(section.name or "recipe", section.help) if everything else parser
            for key in keys:
                add(group, key, shown=everything)
        for section in flags.named_sections(words):
            for key in section.keys:
                add(parser, key, shown=False)
        if everything:
            for section in flags.named_sections(flags.PLACEHOLDERS):
                group = parser.add_argument_group(section.name, section.help)
                for key in section.keys:
                    add(group, key, shown=True)
        else:
            listed = ", ".join(section.name for section in sections() if section.name and "." not in section.name)
            parser.epilog = (
                f"Every setting of the recipe is a flag: --SECTION.KEY VALUE, with the sections\n{listed}.\n"
                f"`tinydistilbert {command} --help-all` lists them with their defaults."
            )

    return fill


def _compare_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    text = "a run folder, or one row of it: `runs/a:student`, `runs/a:student (D)`"
    parser.add_argument("first", action=Once, convert=str, metavar="RUN", help=text)
    text = "with it, each row is compared with that row of it; without it, the rows of RUN with one another"
    parser.add_argument("second", nargs="?", action=Once, convert=str, metavar="OTHER", help=text)
    _output(parser, "also write a page, and the examples that one gets right and the other wrong")
    parser.add_argument(
        "--seed", action=Once, convert=_seed, metavar="N", help="seed of the bootstrap's resamples (default: 0)"
    )
    _json(parser, "print the differences as JSON")


def _predict_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a model that was fine-tuned (torch) or exported")
    text = "a text; `-`: each line of the standard input is one, with its pair behind a tab; a question where the answer "
    text += "is a piece of a context"
    parser.add_argument("text", metavar="TEXT", help=text)
    parser.add_argument("pair", nargs="?", metavar="PAIR", help="the second text; the context of a question")
    parser.add_argument("--threads", action=Once, convert=_threads, metavar="N", help="threads (default: as many as cores)")
    parser.epilog = "A text that begins with - stands behind --: tinydistilbert predict FOLDER -- --help"


def _export_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a fine-tuned model")
    _output(parser, "the new folder", required=True)
    text = "in 8-bit integers, a quarter of the size and two to three times as fast (see also `compress`)"
    parser.add_argument("--int8", action="store_true", help=text)
    text = "without ONNX Runtime's own operators: for programs that do not know them"
    parser.add_argument("--plain", action="store_true", help=text)
    parser.add_argument("--half", action="store_true", help="no ONNX: the model folder in half precision, for GPUs")


def _elmo_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    text = "the HDF5 file that AllenNLP distributes"
    parser.add_argument("--weights", action=Once, metavar="FILE", help=text, required=True)
    parser.add_argument("--options", action=Once, metavar="FILE", help="the JSON file beside it", required=True)
    _output(parser, "the new folder", required=True)


def _convert_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    text = "a folder with pytorch_model.bin, or its name in the hub; config and tokenizer are copied"
    parser.add_argument("model", action=Once, convert=str, metavar="MODEL", help=text)
    _output(parser, "the new folder", required=True)
    parser.epilog = (
        "A pickle can be a program, so a process of its own reads it, which can write no file and\nopen no connection."
    )


def _recipes_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    parser.add_argument("name", nargs="?", action=Once, convert=str, metavar="NAME", help="print this preset, to change it")
    _json(parser, "print JSON; of a preset every setting")


def _tasks_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    _json(parser, "print JSON")


def _completion_arguments(parser: Parser, words: Sequence[str], everything: bool) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), metavar="bash|zsh", help="the shell")
    parser.epilog = "\n".join(
        [
            "  tinydistilbert completion bash > ~/.local/share/bash-completion/completions/tinydistilbert",
            "  tinydistilbert completion zsh > ~/.zfunc/_tinydistilbert",
        ]
    )


_STAGES = {
    "prepare": "text → token blocks",
    "adapt": "… → teacher, moved to the text if the recipe says so",
    "distill": "… → student, and the control without distillation",
    "finetune": "… → task models of teacher, student and control",
    "evaluate": "… → scores with intervals",
    "compress": "… → exported, int8 and pruned variants of task models; also of a MODEL folder alone",
    "benchmark": "… → size and latency",
    "report": "… → tables, page, model card",
    "replicate": "all of them: distil, fine-tune, score, time, report",
    "ablate": "the recipe over and over, one thing changed each time: Table 4, and ablate.rows",
}
_RECIPE_USAGE = "RECIPE [flags] [--SECTION.KEY VALUE ...]"
COMMANDS: dict[str, Command] = {
    **{name: Command(text, _RECIPE_USAGE, _recipe_arguments(name)) for name, text in _STAGES.items()},
    "compare": Command(
        "two runs, or the rows of one: differences with their tests, and the examples",
        "RUN [OTHER] [--output FOLDER] [--seed N] [--json]", _compare_arguments,
    ),
    "predict": Command(
        "answers of a fine-tuned or exported model, as lines of JSON", "FOLDER [--threads N] [--] TEXT [PAIR]",
        _predict_arguments,
    ),
    "export": Command(
        "a fine-tuned model as an ONNX folder", "FOLDER --output FOLDER [--int8] [--plain] [--half]", _export_arguments
    ),
    "elmo": Command(
        "ELMo from its published files, as a folder to fine-tune and time",
        "--weights FILE --options FILE --output FOLDER", _elmo_arguments,
    ),
    "convert": Command(
        "a model with old pickled weights as a folder with safetensors", "MODEL --output FOLDER", _convert_arguments
    ),
    "recipes": Command("list the presets; with NAME print one, to copy and change", "[NAME] [--json]", _recipes_arguments),
    "tasks": Command("list the tasks", "[--json]", _tasks_arguments),
    "completion": Command("a completion script for bash or zsh", "bash|zsh", _completion_arguments),
}  # fmt: skip


def build(command: str | None = None, words: Sequence[str] = (), *, everything: bool = False) -> Parser:
    """The whole parser.

    Args:
        command: the one whose arguments are added; None = all.
        words: that follow the command; settings of tasks and rows under a user's own names are taken from there.
        everything: show every setting in the help, and know the words that it takes.
    """
    root = Parser(prog="tinydistilbert", description=DESCRIPTION, epilog=EXAMPLES, usage="tinydistilbert COMMAND ...")
    root.add_argument("-h", "--help", action="help", help="this help")
    root.add_argument("--version", action="version", version=f"tinydistilbert {__version__}", help="print the version")
    commands = root.add_subparsers(
        title="commands", dest="command", metavar="COMMAND", required=True,
        description="Those from prepare to replicate run the stages of a recipe up to their own, and skip what is finished.",
    )  # fmt: skip
    for name, row in COMMANDS.items():
        parser = commands.add_parser(
            name, prog=f"tinydistilbert {name}", help=row.help, description=row.help,
            usage=f"tinydistilbert {name} {row.usage}",
        )
        if command in (None, name):
            parser.add_argument("-h", "--help", action="help", help="this help")
            if row.usage == _RECIPE_USAGE:
                parser.add_argument("--help-all", action="help", help="every setting of the recipe, with its default")
            row.fill(parser, words, everything)
    return root


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    """What a command line says; prints help and raises SystemExit where that is asked for.

    Raises:
        UserError: an unknown command or flag, with the nearest known one; a missing value, or one too many.
    """
    if not arguments:
        arguments = ["--help"]
    command, words = arguments[0], arguments[1:]
    if command not in (*COMMANDS, "-h", "--help", "--version"):
        near = difflib.get_close_matches(command, COMMANDS, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "see tinydistilbert --help"
        raise UserError("command line", expected=f"one of {', '.join(COMMANDS)}", found=repr(command), fix=fix)
    parser = build(command, words, everything="--help-all" in words)
    try:
        namespace, others = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise _about_a_value(error, words) from None
    if others:
        raise _about_others(namespace, others)
    return namespace


def _about_a_value(error: argparse.ArgumentError, words: Sequence[str]) -> UserError:
    """A flag without its value, or with one that it does not take."""
    spellings = (error.argument_name or "").split("/")
    used = [index for index, word in enumerate(words) if word.partition("=")[0] in spellings]
    flag = words[used[-1]].partition("=")[0] if used else spellings[-1]
    if "expected" in error.message:
        following = words[used[-1] + 1] if used and used[-1] + 1 < len(words) else ""
        if following.startswith("-") and not following.startswith("--"):
            found, fix = f"{following!r}, which reads as a flag", f"write {flag}={following}"
            return UserError(flag, expected="a value", found=found, fix=fix)
        fix = "write it behind the flag; one that begins with - behind an =: " + f"{flag}=VALUE"
        return UserError(flag, expected="a value", found="none", fix=fix)
    if "ignored explicit argument" in error.message:
        _, _, value = words[used[-1]].partition("=") if used else ("", "", "one")
        return UserError(flag, expected="no value", found=repr(value), fix=f"write {flag} alone")
    return UserError(flag or "command line", problem=error.message, fix="see its --help")


def _about_others(namespace: argparse.Namespace, others: Sequence[str]) -> UserError:
    """Words that no argument takes: an unknown flag, or one word too many."""
    command = namespace.command
    unknown = [word.partition("=")[0] for word in others if word.startswith("-") and word != "-"]
    usage = f"tinydistilbert {command} {COMMANDS[command].usage}"
    if unknown:
        return _about_a_flag(command, unknown[0], usage)
    recipe = getattr(namespace, "recipe", None)
    if recipe is not None:
        fix = "delete one; a flag takes one value, and those of a list stand right behind it"
        return UserError("command line", expected="one recipe", found=f"{recipe!r} and {others[0]!r}", fix=fix)
    return UserError(f"tinydistilbert {command}", expected=usage, found=f"also {others[0]!r}", fix="delete it")


def _about_a_flag(command: str, flag: str, usage: str) -> UserError:
    from tinydistilbert.cli import flags
    from tinydistilbert.recipe.keys import did_you_mean

    name = flag.lstrip("-").replace("_", "-")
    if command not in flags.SHORT:
        return UserError(flag, expected="a flag of this command", found=repr(flag), fix=f"usage: {usage}")
    own = [*flags.SHORT[command], "output", *flags.RUN, "dry-run", "json", "quiet", "threads"]
    if name not in own and (keys := flags.meanings(name)):
        fix = f"write the key that you mean: {' or '.join(f'--{key}' for key in keys)}"
        return UserError(flag, problem=f"{command} has no flag of that name", fix=fix)
    if name not in own and name in flags.own_task_flags():
        fix = f"use it with {', '.join(flags.OWN_TASK)}"
        return UserError(flag, problem=f"{command} trains on no task of your own", fix=fix)
    near = [] if "." in flag else difflib.get_close_matches(name, own, n=1)
    near = near or flags.nearest_flags(flag.lstrip("-"))
    fix = did_you_mean([f"--{key}" for key in near]) if near else f"see tinydistilbert {command} --help-all"
    for short, key in flags.SHORT[command].items():
        fix += f" In short: --{short}" if near == [key] else ""
    return UserError(flag, expected="a known flag", found=repr(flag), fix=fix)
