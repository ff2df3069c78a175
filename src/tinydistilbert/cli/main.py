"""The command table: parse, call, print. The only module that prints results and exits.

Flags are the recipe's own keys (`--objective.kl 5`), read by the same checks as a TOML file, so a mistake gets the same
answer in both. torch and transformers are imported inside the chosen command, to keep `--help` quick.
"""

import difflib
import functools
import json
import os
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from tinydistilbert import __version__, signals
from tinydistilbert.cli.flags import parse, words
from tinydistilbert.cli.help import (
    COMPARE_COMMAND,
    MODEL_COMMANDS,
    OTHER_COMMANDS,
    STAGE_COMMANDS,
    STUDY_COMMANDS,
    command_help,
    overview,
)
from tinydistilbert.errors import DiskError, Interrupted, NonFiniteLoss, OutOfMemory, UserError
from tinydistilbert.recipe import toml
from tinydistilbert.run_folder import AblationFolder, RunFolder
from tinydistilbert.storage import locks

if TYPE_CHECKING:
    from tinydistilbert.report.table import Table

OF_GIVEN = ("finetune", "evaluate", "compress", "report", "replicate")
"""Commands that have something to do with a given model."""
EXIT_USER_ERROR, EXIT_FAILED, EXIT_DISK, EXIT_INTERRUPTED = 2, 1, 3, 130


def main(argv: list[str] | None = None) -> None:
    """Run the command line and exit: 0 done, 1 failed, 2 the user's mistake, 3 the disk, 130 stopped.

    After 3 and 130 the same command goes on.
    """
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    arguments = sys.argv[1:] if argv is None else argv
    try:
        with signals.handled():
            _dispatch(arguments)
            sys.stdout.flush()
    except UserError as error:
        sys.exit(_fail(f"error: {error}", EXIT_USER_ERROR))
    except (NonFiniteLoss, OutOfMemory) as error:
        sys.exit(_fail(f"error: {error}", EXIT_FAILED))
    except Interrupted as stop:
        sys.exit(_fail(str(stop), EXIT_INTERRUPTED))
    except DiskError as error:
        sys.exit(_fail(f"error: {error}", EXIT_DISK))
    except BrokenPipeError:  # whoever read the output has seen enough: `--help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except KeyboardInterrupt:
        sys.exit(_fail("stopped; the same command goes on from what is finished", EXIT_INTERRUPTED))


def _fail(message: str, code: int) -> int:
    sys.stderr.write(message + "\n")
    return code


def _dispatch(arguments: list[str]) -> None:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(overview())
        return
    if arguments[0] == "--version":
        print(f"tinydistilbert {__version__}")
        return
    command, rest = arguments[0], arguments[1:]
    known = {**STAGE_COMMANDS, **STUDY_COMMANDS, **COMPARE_COMMAND, **MODEL_COMMANDS, **OTHER_COMMANDS}
    if command not in known:
        near = difflib.get_close_matches(command, known, n=1)
        fix = f"did you mean {near[0]!r}?" if near else "see tinydistilbert --help"
        raise UserError("command line", expected=f"one of {', '.join(known)}", found=repr(command), fix=fix)
    if "-h" in rest or "--help" in rest:
        print(command_help(command))
    elif command == "recipes":
        _recipes(rest)
    elif command == "tasks":
        _tasks()
    elif command in STUDY_COMMANDS:
        _ablate(rest)
    elif command in COMPARE_COMMAND:
        _compare(rest)
    elif command == "predict":
        _predict(rest)
    elif command == "export":
        _export(rest)
    elif command == "elmo":
        _elmo(rest)
    elif command == "convert":
        _convert(rest)
    else:
        _stages(command, rest)


def _recipes(rest: list[str]) -> None:
    presets = toml.presets()
    if not rest:
        for name, text in presets.items():
            print(f"{name:12} {text.splitlines()[0].lstrip('# ')}")
        return
    if rest[0] not in presets:
        toml.load(rest[0])  # says which preset was meant; a path to a file is no preset, and is refused below
        raise UserError("recipes", expected=f"one of {', '.join(presets)}", found=repr(rest[0]), fix="name a preset")
    print(presets[rest[0]], end="")


def _tasks() -> None:
    from tinydistilbert.tasks import TASKS

    for task in TASKS.values():
        print(f"{task.name:14} {task.kind:15} {', '.join(task.metrics)}")


def _stages(command: str, rest: list[str]) -> None:
    request = parse(rest)
    # A given model has no further stage that its user would call: its scores are wanted at once.
    given = request.recipe.compress.model if command == "compress" else request.recipe.finetune.model
    is_whole = command == "replicate" or (command in ("finetune", "compress") and given)
    if command == "compress" and not request.recipe.compress.tasks:
        fix = "give --compress.tasks TASK, one of finetune.tasks, or the folder of a fine-tuned model"
        raise UserError("compress", expected="a task whose model is compressed", found="none", fix=fix)
    if request.recipe.compress.model and command != "compress":
        fix = "give a recipe, or use compress"
        raise UserError("command line", expected="a recipe", found="a model folder", fix=fix)
    until = "report" if is_whole else command
    if request.recipe.finetune.model and command not in OF_GIVEN:
        expected = f"one of {', '.join(OF_GIVEN)} with --model"
        raise UserError("command line", expected=expected, found=repr(command), fix="leave --model out, or use one")
    from tinydistilbert.dry_run.plan import plan, refuse_full_disk
    from tinydistilbert.pipeline.run import Run, run

    shown = shlex.join(["tinydistilbert", command, *rest])
    work = Run(request.recipe, request.output, until=until, log=functools.partial(print, flush=True), command=shown)
    if request.dry_run:
        print(plan(work))
        return
    from tinydistilbert.report.paper_tables import console_tables

    refuse_full_disk(work)
    failures = run(work)
    if until in ("evaluate", "compress", "benchmark", "report"):
        _print(console_tables(request.output))
    if until == "report":
        print(f"The page: {RunFolder(request.output).report}")
    if failures:
        raise NonFiniteLoss("; ".join(failures))


def _compare(rest: list[str]) -> None:
    operands, output = [], None
    for flag, values in words(rest):
        if flag == "output":
            output = Path(values[0])
        elif flag:
            raise UserError(f"--{flag}", expected="--output", found=f"--{flag}", fix="delete it")
        else:
            operands += values
    if not 1 <= len(operands) <= 2:
        fix = "for example: tinydistilbert compare runs/a runs/b"
        raise UserError("compare", expected="one or two runs", found=str(len(operands)), fix=fix)
    if output is not None and output.exists() and not output.is_dir():
        raise UserError(f"--output {output}", expected="a folder", found="a file", fix="give another --output")
    from tinydistilbert.report.compare import compare, parse_run
    from tinydistilbert.report.comparison_page import PAGE_FILE, comparison_table, write_comparison

    found = compare(*map(parse_run, operands))
    if output is None:
        _print([comparison_table(found)])
        print("With --output FOLDER also the examples that one side alone gets right.")
        return
    _print([write_comparison(output, found, command=shlex.join(["tinydistilbert", "compare", *rest]))])
    print(f"The page: {output / PAGE_FILE}")


def _predict(rest: list[str]) -> None:
    if not 2 <= len(rest) <= 3:
        fix = 'for example: tinydistilbert predict runs/a/tasks/sst2/compressed/best "a fine film"'
        raise UserError(
            "predict", expected="a folder, a text and perhaps its pair", found=f"{len(rest)} words", fix=fix
        )
    from tinydistilbert.predictor import load

    predictor = load(Path(rest[0]))
    if rest[1] == "-":
        lines = [line.rstrip("\n").split("\t", 1) for line in sys.stdin]
        if rest[2:] or len({len(line) for line in lines}) > 1:
            expected, fix = "a pair behind a tab on every line of the standard input, or on none", "make them alike"
            raise UserError("predict", expected=expected, found="both", fix=fix)
        pairs = [line[1] for line in lines] if lines and len(lines[0]) > 1 else None
        answers = predictor.predict([line[0] for line in lines], pairs)
    else:
        answers = predictor.predict([rest[1]], rest[2:] or None)
    for answer in answers:
        print(json.dumps(answer, ensure_ascii=False))


def _export(rest: list[str]) -> None:
    switches = {"--int8", "--plain", "--half"}
    given = _flags("export", [word for word in rest if word not in switches], {"output"})
    chosen = {word for word in rest if word in switches}
    if len(chosen) > 1 and "--half" in chosen:
        raise UserError("--half", expected="it alone", found=" ".join(sorted(chosen)), fix="delete one")
    source, output = Path(given[""]), Path(given["output"])
    with locks.new_output(output):
        if "--half" in chosen:
            from tinydistilbert.export.to_onnx import to_half

            to_half(source, output)
        else:
            from tinydistilbert.export.quantize import export_int8
            from tinydistilbert.export.to_onnx import export

            make = export_int8 if "--int8" in chosen else export
            make(source, output, fused="--plain" not in chosen)
    print(f"written: {output}")


def _elmo(rest: list[str]) -> None:
    given = _flags("elmo", rest, {"weights", "options", "output"}, operand=False)
    output = Path(given["output"])
    with locks.new_output(output):
        from tinydistilbert.models.elmo.published import write_published

        write_published(Path(given["weights"]), Path(given["options"]), output)
    print(f"written: {output}")


def _convert(rest: list[str]) -> None:
    given = _flags("convert", rest, {"output"})
    output = Path(given["output"])
    with locks.new_output(output):
        from tinydistilbert.models.convert import convert

        convert(given[""], output)
    print(f"written: {output}")


def _flags(command: str, rest: list[str], wanted: set[str], *, operand: bool = True) -> dict[str, str]:
    """The value of each wanted flag, all of which must be there, and of the operand as ""."""
    found: dict[str, str] = {}
    for flag, values in words(rest):
        if flag not in wanted and (flag or not operand or flag in found):
            known = ", ".join(f"--{name}" for name in sorted(wanted))
            word = f"--{flag}" if flag else values[0]
            raise UserError(command, expected=known, found=word, fix="delete it")
        if len(values) > 1:
            fix = f"see tinydistilbert {command} --help"
            raise UserError(f"--{flag}", expected="one value", found=" ".join(values), fix=fix)
        found[flag] = values[0]
    for name in (*([""] if operand else []), *sorted(wanted)):
        if name not in found:
            expected = f"--{name}" if name else "a model folder"
            raise UserError(command, expected=expected, found="none", fix=f"see tinydistilbert {command} --help")
    return found


def _ablate(rest: list[str]) -> None:
    request = parse(rest)
    from tinydistilbert.ablate import ablate, plan_ablation

    if request.dry_run:
        print(plan_ablation(request.recipe, request.output))
        return
    shown = shlex.join(["tinydistilbert", "ablate", *rest])
    table, failures = ablate(request.recipe, request.output, log=lambda line: print(line, flush=True), command=shown)
    _print([table])
    print(f"The page: {AblationFolder(request.output).report}")
    if failures:
        raise NonFiniteLoss("; ".join(f"row {name!r}, {why}" for name, why in failures.items()))


def _print(tables: Iterable["Table"]) -> None:
    from rich.console import Console

    from tinydistilbert.report.table import to_rich

    # Where the output is a file or a pipe there is no width to keep to; the widest tables need about 150 columns.
    console = Console() if sys.stdout.isatty() else Console(width=150)
    for table in tables:
        console.print(to_rich(table))
