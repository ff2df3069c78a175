"""The commands, each with its arguments and its help."""

import argparse
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tinydistilbert.cli.actions import Once, Parser


def _count(text: str) -> int:
    if not text.isdecimal() or not int(text):
        raise ValueError("a whole number >= 1")
    return int(text)


def _jobs(text: str) -> int | str:
    if text != "ray" and (not text.isdecimal() or not int(text)):
        raise ValueError("a whole number >= 1, or ray")
    return text if text == "ray" else int(text)


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("a whole number >= 0")
    return int(text)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65_535:
        raise ValueError("a port from 0 to 65535")
    return int(text)


def _probability(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise ValueError("a number from 0 to 1")
    return value


def _threads_flag(group: Any) -> None:
    text = "threads of matrix products (default: the cores that this process may use)"
    group.add_argument("--threads", action=Once, convert=_count, metavar="N", help=text)


@dataclass(frozen=True)
class Command:
    """One command.

    Args:
        help: its line in the overview.
        usage: what follows its name.
        fill: adds its arguments to a parser: called with the parser, the arguments that follow the command, and whether
            every setting is to be in the help.
    """

    help: str
    usage: str
    fill: Callable[[Parser, Sequence[str], bool], None]


def _output(group: Any, text: str, *, required: bool = False) -> None:
    group.add_argument("--output", action=Once, metavar="FOLDER", help=text, required=required)


def _json(group: Any, text: str) -> None:
    group.add_argument("--json", action="store_true", help=text)


_TASK_MODELS = "task models that are fine-tuned and scored"
JOBS = dict.fromkeys(("finetune", "evaluate", "compress", "benchmark", "report", "replicate"), _TASK_MODELS) | {
    "distill": "views of the teacher's cache that are made", "ablate": "rows that run", "sweep": "trials that run",
}  # fmt: skip
"""Commands that are many jobs, and what is one."""


def _recipe_arguments(command: str) -> Callable[[Parser, Sequence[str], bool], None]:
    """What adds the arguments of a command that takes a recipe."""

    def fill(parser: Parser, given: Sequence[str], everything: bool) -> None:
        from tinydistilbert.cli import flags  # it needs the recipe, whose types cost most of the time of --help

        text = "a preset (see `tinydistilbert recipes`) or a TOML file"
        text += "; or MODEL, the folder of a fine-tuned model" if command == "compress" else ""
        parser.add_argument("recipe", nargs="?", action=Once, convert=str, metavar="RECIPE", help=text)
        run = parser.add_argument_group("the run")
        _output(run, "the run folder (default: runs/NAME of the recipe); a run that was begun there continues")
        _threads_flag(run)
        if command in JOBS:
            text = (
                f"{JOBS[command]} at a time, each in a process with its share of the cores (default: 1); ray: with Ray"
            )
            run.add_argument("--jobs", action=Once, convert=_jobs, metavar="N|ray", help=text)
            # For the processes that --jobs starts.
            run.add_argument("--part", action=Once, convert=str, metavar="NAME", help=argparse.SUPPRESS)
        if command == "prepare":
            text = "processes that tokenise; the blocks are the same (default: this one, with its threads)"
            run.add_argument("--jobs", action=Once, convert=_count, metavar="N", help=text)
        text = "print what would be done, with estimates of memory, disk and time; write nothing"
        run.add_argument("--dry-run", action="store_true", help=text)
        _json(run, "print the numbers as JSON; progress goes to standard error")
        run.add_argument("--quiet", action="store_true", help="no lines about progress")
        flags.add_settings(parser, run, command, given, everything=everything)
        if not everything:
            parser.epilog = (
                "Every setting of the recipe is a flag: --SECTION.KEY VALUE, with the sections "
                f"{flags.section_names()}.\n"
                f"`tinydistilbert {command} --help-all` lists them with their defaults."
            )

    return fill


def _finite(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("a number")
    return value


def _one_or_more(values: Any) -> str | tuple[str, ...]:
    return str(values[0]) if len(values) == 1 else tuple(values)


def _sweep_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    _recipe_arguments("sweep")(parser, given, everything)
    group = parser.add_argument_group("the trials")
    text = "a TOML file: for each setting a table with low and high, or choices"
    group.add_argument("--space", action=Once, metavar="FILE", required=True, help=text)
    text = "number of trials in all, by all processes that run this command (default: 20)"
    group.add_argument("--trials", action=Once, convert=_count, metavar="N", help=text)
    text = "a database for Optuna, sqlite:///FILE (default: a journal in the folder)"
    group.add_argument("--storage", action=Once, convert=str, metavar="URL", help=text)


def _shrink_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    from tinydistilbert.cli import flags

    parser.description = None  # all of it on one screen

    def add(flag: str, metavar: str, text: str, convert: Callable[[str], Any] = str) -> None:
        parser.add_argument(flag, action=Once, convert=convert, metavar=metavar, help=text)

    parser.add_argument("train", action=Once, convert=str, metavar="FILE", help=argparse.SUPPRESS)
    add("--text", "COLUMN", "column of the text (default: text)")
    text = "column of the label (default: label), or several columns of 0 and 1"
    parser.add_argument("--label", action=Once, convert=_one_or_more, nargs="+", metavar="COLUMN", help=text)
    add("--text-pair", "COLUMN", "column of a second text, if there is one")
    add("--kind", "KIND", "classification (default), multi-label, span, …")
    add("--label-separator", "TEXT", "separator in cells of several labels (default: |)")
    add("--validation", "FILE", "scored examples (default: 10% of FILE by a hash)".replace("%", "%%"))
    parser.add_argument("--to", nargs="+", metavar="5ms|20MB", help="target: latency on one core, file size")
    add("--keep", "97%", "share of the teacher's score above the majority")
    add("--teacher", "MODEL", "fine-tuned first (default: bert-base-uncased; offline)")
    add("--soft-labels", "FILE", "a column per class: probabilities, votes, scores")
    add("--unlabelled", "FILE", "more texts, which the teacher labels")
    add("--seeds", "N", "trainings of each model (default: 1)", _count)
    add("--time-budget", "15m", "train less, to finish in about that time")
    parser.add_argument(
        "--print-recipe", action="store_true", help="print the recipe; keys are flags: --finetune.epochs 5"
    )
    _output(parser, "the run folder (default: runs/shrink-FILE)")
    add("--threads", "N", "threads of matrix products (default: the cores)", _count)
    add("--jobs", "N|ray", "trainings at a time (default: 1)", _jobs)
    parser.add_argument("--dry-run", action="store_true", help="print what it would cost")
    _json(parser, "print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="no lines about progress")
    flags.add_hidden_settings(parser, given)


def _compare_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "a run folder, or one row of it: `runs/a:student`, `runs/a:student (D)`"
    parser.add_argument("first", action=Once, convert=str, metavar="RUN", help=text)
    text = "compare each row of RUN with the same row of OTHER (without OTHER: the rows of RUN with one another)"
    parser.add_argument("second", nargs="?", action=Once, convert=str, metavar="OTHER", help=text)
    _output(parser, "also write a page, and the examples that only one of the two gets right")
    parser.add_argument(
        "--seed", action=Once, convert=_seed, metavar="N", help="seed of the bootstrap's resamples (default: 0)"
    )
    _json(parser, "print the differences as JSON")


def _predict_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a model that was fine-tuned (torch) or exported")
    text = "a text or a question; `-`: one on each line of the standard input, with its pair after a tab; "
    text += "or a file (.csv, .tsv, .jsonl, .parquet), whose rows are answered in order"
    parser.add_argument("text", metavar="TEXT", help=text)
    parser.add_argument("pair", nargs="?", metavar="PAIR", help="the second text; the context of a question")
    text = "with a file: column of the texts (default: text)"
    parser.add_argument("--text", action=Once, convert=str, metavar="COLUMN", dest="text_column", help=text)
    text = "with a file: column of the second texts"
    parser.add_argument("--text-pair", action=Once, convert=str, metavar="COLUMN", dest="pair_column", help=text)
    _output(
        parser, "with a file: write its rows with the answers here; same endings as above (default: print JSON lines)"
    )
    text = "with a question model: answer `no answer` where that scores more than X above the best answer"
    parser.add_argument(
        "--null-threshold", action=Once, convert=_finite, metavar="X",
        help=f"{text} (default: the value in its folder; 0 for models trained elsewhere on SQuAD 2)",
    )  # fmt: skip
    _threads_flag(parser)
    text = "refuse texts that are longer than the model reads; by default they are cut, and this is reported"
    parser.add_argument("--no-truncate", action="store_true", help=text)
    parser.epilog = "Write a text that begins with - after --:\n  tinydistilbert predict FOLDER -- --help"


def _export_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a fine-tuned model")
    _output(parser, "the new folder", required=True)
    text = "8-bit integers: a quarter of the size, two to three times as fast (see also `compress`)"
    parser.add_argument("--int8", action="store_true", help=text)
    text = "without ONNX Runtime's own operators: for programs that do not know them"
    parser.add_argument("--plain", action="store_true", help=text)
    parser.add_argument("--half", action="store_true", help="no ONNX: the model folder in half precision, for GPUs")


def _push_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a model: fine-tuned, exported, or `best`")
    text = "user/name on the Hugging Face hub; it is created if it does not exist, else its files are replaced"
    parser.add_argument("name", action=Once, convert=str, metavar="NAME", help=text)
    parser.add_argument("--private", action="store_true", help="visible to you alone (default: public)")
    parser.add_argument("--dry-run", action="store_true", help="check and list the files; upload nothing")
    _json(parser, "print the files to upload as JSON")


def _elmo_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "the HDF5 file that AllenNLP distributes"
    parser.add_argument("--weights", action=Once, metavar="FILE", help=text, required=True)
    parser.add_argument("--options", action=Once, metavar="FILE", help="the JSON file beside it", required=True)
    _output(parser, "the new folder", required=True)


def _convert_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "a folder with pytorch_model.bin, or its name on the hub; config and tokenizer are copied"
    parser.add_argument("model", action=Once, convert=str, metavar="MODEL", help=text)
    _output(parser, "the new folder", required=True)
    parser.epilog = (
        "A pickle can be a program, so it is read in a separate process that can write no file and\nopen no connection."
    )


def _serve_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    from tinydistilbert.serve.limits import HOST, LIMITS, PORT

    parser.add_argument("folder", action=Once, metavar="FOLDER", help="an exported model: of `export`, `shrink` …")
    text = f"port to listen on (default: {PORT}; 0: any free one)"
    parser.add_argument("--port", action=Once, convert=_port, metavar="N", help=text)
    text = f"address to listen on (default: {HOST}, this machine alone; 0.0.0.0: everyone, without a password)"
    parser.add_argument("--host", action=Once, convert=str, metavar="ADDRESS", help=text)
    _threads_flag(parser)
    text = "mark answers below this probability as better asked of the teacher (default: the value in the folder)"
    parser.add_argument("--defer-below", action=Once, convert=_probability, metavar="P", help=text)
    text = f"bytes of one text in UTF-8; longer ones are refused (default: {LIMITS.text_bytes:,})"
    parser.add_argument("--max-bytes", action=Once, convert=_count, metavar="N", help=text)
    text = f"texts that may wait for the model; while more wait, requests are refused (default: {LIMITS.waiting:,})"
    parser.add_argument("--max-waiting", action=Once, convert=_count, metavar="N", help=text)


def _demo_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "exported models of one kind, such as a teacher and its student, in the order to show them"
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help=text)
    _output(parser, "the new folder (default: demo)")
    text = "examples to choose from: one text per line, or in .jsonl a text or a list of two per line"
    parser.add_argument("--examples", action=Once, metavar="FILE", help=text)
    text = "the npm package @huggingface/transformers, copied beside the page so that it needs no network"
    parser.add_argument("--offline-assets", action=Once, metavar="FOLDER", help=text)
    parser.add_argument("--open", action="store_true", help="show it in the browser, until Ctrl-C")
    text = "with --open: port of the page, on this machine alone (default: any free one)"
    parser.add_argument("--port", action=Once, convert=_port, metavar="N", help=text)


def _recipes_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument(
        "name", nargs="?", action=Once, convert=str, metavar="NAME", help="print this preset as TOML, to be changed"
    )
    _json(parser, "print JSON; with NAME every setting of that preset")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of recipes, for editors")


def _tasks_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    _json(parser, "print JSON")


def _completion_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument("shell", choices=("bash", "zsh"), metavar="SHELL", help="bash or zsh")
    parser.epilog = (
        "Write it to a file that the shell reads:\n"
        "  bash  ~/.local/share/bash-completion/completions/tinydistilbert\n"
        "  zsh   ~/.zfunc/_tinydistilbert, or another folder of $fpath"
    )


_STAGES = {
    "prepare": "text → token blocks",
    "adapt": "… → teacher, moved to the text if the recipe says so",
    "distill": "… → student, and the control without distillation",
    "finetune": "… → task models of teacher, student and control",
    "evaluate": "… → scores with intervals",
    "compress": "… → exported, int8 and pruned variants of task models; or of one MODEL folder",
    "benchmark": "… → size and latency",
    "report": "… → tables, page, model card; with a run FOLDER: its page again, from the stored results",
    "replicate": "all of them: distil, fine-tune, score, time, report",
    "ablate": "the recipe repeatedly, with one change each time: Table 4, and ablate.rows",
}
SHRINK_USAGE = "FILE [--to 5ms] [flags] [--SECTION.KEY VALUE ...]"
RECIPE_USAGE = "RECIPE [flags] [--SECTION.KEY VALUE ...]"
COMMANDS: dict[str, Command] = {
    **{name: Command(text, RECIPE_USAGE, _recipe_arguments(name)) for name, text in _STAGES.items()},
    "sweep": Command(
        "a search for settings: Optuna runs the recipe repeatedly",
        "RECIPE --space FILE [--trials N] [flags]", _sweep_arguments,
    ),
    "shrink": Command(
        "labelled texts (.csv, .jsonl, .parquet …) → the smallest model that keeps the score",
        SHRINK_USAGE, _shrink_arguments,
    ),
    "compare": Command(
        "two runs, or the rows of one: differences with significance tests, and the examples",
        "RUN [OTHER] [--output FOLDER] [--seed N] [--json]", _compare_arguments,
    ),
    "predict": Command(
        "answers of a fine-tuned or exported model: to a text, a pipe or a file",
        "FOLDER [flags] [--] TEXT [PAIR]",
        _predict_arguments,
    ),
    "export": Command(
        "a fine-tuned model as an ONNX folder", "FOLDER --output FOLDER [--int8] [--plain] [--half]", _export_arguments
    ),
    "serve": Command(
        "an exported model over HTTP", "FOLDER [--port N] [--host ADDRESS] [--threads N] ...", _serve_arguments
    ),
    "push": Command(
        "a model's folder to the Hugging Face hub, after a check",
        "FOLDER USER/NAME [--private] [--dry-run] [--json]", _push_arguments,
    ),
    "demo": Command(
        "models side by side in the browser, as a static folder", "FOLDER ... [--output FOLDER] [--open] ...",
        _demo_arguments,
    ),
    "elmo": Command(
        "ELMo from its published files, as a folder to fine-tune and time",
        "--weights FILE --options FILE --output FOLDER", _elmo_arguments,
    ),
    "convert": Command(
        "a model with old pickled weights as a folder with safetensors", "MODEL --output FOLDER", _convert_arguments
    ),
    "recipes": Command(
        "list the presets; with NAME: print that one, to be changed", "[NAME] [--json] | --schema", _recipes_arguments
    ),
    "tasks": Command("list the tasks", "[--json]", _tasks_arguments),
    "doctor": Command("what this machine and installation offer and lack", "[--json]", _tasks_arguments),
    "completion": Command("a completion script for bash or zsh", "bash|zsh", _completion_arguments),
}  # fmt: skip
