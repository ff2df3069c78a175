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
    text = "threads for matrix products (default: the cores that this process may use)"
    group.add_argument("--threads", action=Once, convert=_count, metavar="N", help=text)


@dataclass(frozen=True)
class Command:
    """A command of the command line.

    Args:
        help: its line in the overview.
        usage: what follows its name.
        fill: adds its arguments to a parser; called with the parser, the arguments that follow the command, and whether
            the help shows every setting.
    """

    help: str
    usage: str
    fill: Callable[[Parser, Sequence[str], bool], None]

    @property
    def takes_recipe(self) -> bool:
        """Whether it takes a recipe, every setting of which is a flag."""
        return self.usage.startswith("RECIPE ")


def _output(group: Any, text: str, *, required: bool = False, metavar: str = "FOLDER") -> None:
    group.add_argument("--output", action=Once, metavar=metavar, help=text, required=required)


def _json(group: Any, text: str) -> None:
    group.add_argument("--json", action="store_true", help=text)


_TASK_MODELS = "task models to fine-tune and score"
JOBS = dict.fromkeys(("finetune", "evaluate", "compress", "benchmark", "report", "replicate"), _TASK_MODELS) | {
    "distill": "views of the teacher's cache to make", "ablate": "rows to run", "sweep": "trials to run",
}  # fmt: skip
"""Commands that consist of many jobs, and what one job is."""


def _recipe_arguments(command: str) -> Callable[[Parser, Sequence[str], bool], None]:
    """Return the function that adds the arguments of a command with a recipe."""

    def fill(parser: Parser, given: Sequence[str], everything: bool) -> None:
        from tinydistilbert.cli import flags  # it imports the recipe, whose types take most of the time of --help

        text = "a preset (see `tinydistilbert recipes`) or a TOML file"
        text += "; or MODEL, the folder of a fine-tuned model" if command == "compress" else ""
        parser.add_argument("recipe", nargs="?", action=Once, convert=str, metavar="RECIPE", help=text)
        run = parser.add_argument_group("the run")
        _output(run, "run folder (default: runs/NAME of the recipe); a run that is there is continued")
        _threads_flag(run)
        if command in JOBS:
            text = f"{JOBS[command]} at a time, each in a process with its share of the cores (default: 1); ray: by Ray"
            run.add_argument("--jobs", action=Once, convert=_jobs, metavar="N|ray", help=text)
            # For the processes that --jobs starts.
            run.add_argument("--part", action=Once, convert=str, metavar="NAME", help=argparse.SUPPRESS)
        if command == "prepare":
            text = "processes that tokenise the text, with the same result (default: this one, with its threads)"
            run.add_argument("--jobs", action=Once, convert=_count, metavar="N", help=text)
        text = "print what would be done, with estimates of memory, disk and time; write nothing"
        run.add_argument("--dry-run", action="store_true", help=text)
        _json(run, "print the numbers as JSON; progress goes to standard error")
        run.add_argument("--quiet", action="store_true", help="print no progress")
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
    text = "total number of trials, of all processes that run this command (default: 20)"
    group.add_argument("--trials", action=Once, convert=_count, metavar="N", help=text)
    text = "a database for Optuna, sqlite:///FILE (default: a journal in the folder)"
    group.add_argument("--storage", action=Once, convert=str, metavar="URL", help=text)


def _shrink_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    from tinydistilbert.cli import flags

    parser.description = None  # all of it on one screen

    def add(flag: str, metavar: str, text: str, convert: Callable[[str], Any] = str) -> None:
        parser.add_argument(flag, action=Once, convert=convert, metavar=metavar, help=text)

    parser.add_argument("train", action=Once, convert=str, metavar="FILE", help=argparse.SUPPRESS)
    add("--text", "COLUMN", "text column (default: text)")
    text = "label column (default: label), or several of 0 and 1"
    parser.add_argument("--label", action=Once, convert=_one_or_more, nargs="+", metavar="COLUMN", help=text)
    add("--text-pair", "COLUMN", "column of a second text, if any")
    add("--kind", "KIND", "classification (default), multi-label, span, …")
    add("--label-separator", "TEXT", "between the labels in a cell (default: |)")
    add("--validation", "FILE", "examples to score (default: 10% of FILE by a hash)".replace("%", "%%"))
    text = "target latency on one core, target size"
    parser.add_argument("--to", action=Once, convert=tuple, nargs="+", metavar="5ms|20MB", help=text)
    add("--keep", "97%", "share of the teacher's score above the majority")
    add("--teacher", "MODEL", "encoder, or offline (default: bert-base-uncased)")
    add("--soft-labels", "FILE", "one column per class: probabilities, votes, scores")
    add("--unlabelled", "FILE", "more texts, which the teacher labels")
    add("--seeds", "N", "trainings of each model (default: 1)", _count)
    add("--time-budget", "15m", "train less, to finish in about this time")
    parser.add_argument(
        "--print-recipe", action="store_true", help="show the recipe; keys are flags: --finetune.epochs 5"
    )
    _output(parser, "run folder (default: runs/shrink-FILE)")
    add("--threads", "N", "for matrix products (default: the cores)", _count)
    add("--jobs", "N|ray", "trainings at a time (default: 1)", _jobs)
    parser.add_argument("--dry-run", action="store_true", help="print what it would cost")
    _json(parser, "print the result as JSON")
    parser.add_argument("--quiet", action="store_true", help="print no progress")
    flags.add_hidden_settings(parser, given)


def _compare_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "a run folder, or one row of it: `runs/a:student`, `runs/a:student (D)`, `runs/a:compressed`"
    parser.add_argument("first", action=Once, convert=str, metavar="RUN", help=text)
    text = "the run, or row of one, to compare with; without it, the rows of RUN are compared with one another"
    parser.add_argument("second", nargs="?", action=Once, convert=str, metavar="OTHER", help=text)
    _output(parser, "also write a page, and the examples that only one side gets right")
    parser.add_argument(
        "--seed", action=Once, convert=_seed, metavar="N", help="seed of the bootstrap's resamples (default: 0)"
    )
    _json(parser, "print the differences as JSON")


def _predict_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a fine-tuned (torch) or exported model")
    text = "a text, or a question; `-`: each line of the standard input is one, with its pair after a tab; "
    text += "or a file (.csv, .tsv, .jsonl, .parquet, .txt), whose rows are answered one after the other"
    parser.add_argument("text", metavar="TEXT", help=text)
    parser.add_argument("pair", nargs="?", metavar="PAIR", help="the second text; the context of a question")
    text = "for a file: column of the texts (default: text)"
    parser.add_argument("--text", action=Once, convert=str, metavar="COLUMN", dest="text_column", help=text)
    text = "for a file: column of the second texts"
    parser.add_argument("--text-pair", action=Once, convert=str, metavar="COLUMN", dest="pair_column", help=text)
    text = "for a file: new .csv, .tsv, .jsonl or .parquet with its rows and answers (default: JSON lines)"
    _output(parser, text, metavar="FILE")
    text = "for question answering: give no answer if “no answer” scores higher than the best one by more than X"
    parser.add_argument(
        "--null-threshold", action=Once, convert=_finite, metavar="X",
        help=f"{text} (default: the threshold in the folder; 0 for models trained elsewhere on SQuAD 2)",
    )  # fmt: skip
    _threads_flag(parser)
    text = "do not answer texts that are longer than the model reads; by default they are cut and reported"
    parser.add_argument("--no-truncate", action="store_true", help=text)
    parser.epilog = "Put a text that begins with - after --:\n  tinydistilbert predict FOLDER -- --help"


def _export_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a fine-tuned model")
    _output(parser, "the new folder", required=True)
    text = "in 8-bit integers: a quarter of the size and two to three times as fast (see also `compress`)"
    parser.add_argument("--int8", action="store_true", help=text)
    text = "without ONNX Runtime's own operators, for programs that do not support them"
    parser.add_argument("--plain", action="store_true", help=text)
    parser.add_argument("--half", action="store_true", help="no ONNX: the torch model in half precision, for GPUs")


def _push_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument("folder", action=Once, metavar="FOLDER", help="a model folder: fine-tuned, exported, or `best`")
    text = "user/name on the Hugging Face hub; created if it does not exist, its files replaced if it does"
    parser.add_argument("name", action=Once, convert=str, metavar="NAME", help=text)
    parser.add_argument("--private", action="store_true", help="make the model private (default: public)")
    parser.add_argument("--dry-run", action="store_true", help="check and list the files; upload nothing")
    _json(parser, "print the list of files as JSON")


def _elmo_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "the HDF5 file that AllenNLP distributes"
    parser.add_argument("--weights", action=Once, metavar="FILE", help=text, required=True)
    parser.add_argument(
        "--options", action=Once, metavar="FILE", help="the JSON file that comes with it", required=True
    )
    _output(parser, "the new folder", required=True)


def _convert_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "a folder with pytorch_model.bin, or its name on the hub; config and tokenizer are copied"
    parser.add_argument("model", action=Once, convert=str, metavar="MODEL", help=text)
    _output(parser, "the new folder", required=True)
    parser.epilog = (
        "A pickle can run code, so a separate process reads it, which can write no files and open no connections."
    )


def _serve_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    from tinydistilbert.serve.limits import HOST, LIMITS, PORT

    parser.add_argument("folder", action=Once, metavar="FOLDER", help="an exported model, made by `export`, `shrink` …")
    text = f"port to listen on (default: {PORT}; 0: any free one)"
    parser.add_argument("--port", action=Once, convert=_port, metavar="N", help=text)
    text = f"address to listen on (default: {HOST}, this machine only; 0.0.0.0: all networks, without a password)"
    parser.add_argument("--host", action=Once, convert=str, metavar="ADDRESS", help=text)
    _threads_flag(parser)
    text = "mark answers with a probability below P as ones for the teacher (default: the threshold in the folder)"
    parser.add_argument("--defer-below", action=Once, convert=_probability, metavar="P", help=text)
    text = f"longest text, in bytes of UTF-8; longer ones are refused (default: {LIMITS.text_bytes:,})"
    parser.add_argument("--max-bytes", action=Once, convert=_count, metavar="N", help=text)
    text = f"most texts that wait for the model; beyond that, requests are refused (default: {LIMITS.waiting:,})"
    parser.add_argument("--max-waiting", action=Once, convert=_count, metavar="N", help=text)


def _demo_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    text = "exported models of one kind, such as a teacher and its student, in display order"
    parser.add_argument("folders", nargs="+", metavar="FOLDER", help=text)
    _output(parser, "the new folder (default: demo)")
    text = "examples to pick from: one text per line, or in .jsonl a text or a list of two per line"
    parser.add_argument("--examples", action=Once, metavar="FILE", help=text)
    text = "the npm package @huggingface/transformers, to copy next to the page, which then needs no network"
    parser.add_argument("--offline-assets", action=Once, metavar="FOLDER", help=text)
    parser.add_argument("--open", action="store_true", help="show the page in the browser, until Ctrl-C")
    text = "with --open: the port, on this machine only (default: any free one)"
    parser.add_argument("--port", action=Once, convert=_port, metavar="N", help=text)


def _recipes_arguments(parser: Parser, given: Sequence[str], everything: bool) -> None:
    parser.add_argument(
        "name", nargs="?", action=Once, convert=str, metavar="NAME", help="print this preset, to edit it"
    )
    _json(parser, "print JSON; for a preset, every setting")
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
    "adapt": "… → teacher, adapted to the text if the recipe says so",
    "distill": "… → student, and the control without distillation",
    "finetune": "… → task models of teacher, student and control",
    "evaluate": "… → scores with intervals",
    "compress": "… → exported, int8 and pruned variants of task models, or of a MODEL folder",
    "benchmark": "… → size and latency",
    "report": "… → tables, page, model card; with a run FOLDER, its page again from what is stored",
    "replicate": "all stages: distil, fine-tune, score, time, report",
    "ablate": "run the recipe repeatedly with one thing changed: Table 4, and ablate.rows",
}
SHRINK_USAGE = "FILE [--to 5ms] [flags] [--SECTION.KEY VALUE ...]"
RECIPE_USAGE = "RECIPE [flags] [--SECTION.KEY VALUE ...]"
COMMANDS: dict[str, Command] = {
    **{name: Command(text, RECIPE_USAGE, _recipe_arguments(name)) for name, text in _STAGES.items()},
    "sweep": Command(
        "search for settings: run the recipe repeatedly, with Optuna",
        "RECIPE --space FILE [--trials N] [flags]", _sweep_arguments,
    ),
    "shrink": Command(
        "labelled texts (.csv, .jsonl, .parquet …) → the smallest model that keeps the score",
        SHRINK_USAGE, _shrink_arguments,
    ),
    "compare": Command(
        "compare two runs, or the rows of one: differences, tests and examples",
        "RUN [OTHER] [--output FOLDER] [--seed N] [--json]", _compare_arguments,
    ),
    "predict": Command(
        "answers of a fine-tuned or exported model to a text, a pipe or a file",
        "FOLDER [flags] [--] TEXT [PAIR]",
        _predict_arguments,
    ),
    "export": Command(
        "export a fine-tuned model as an ONNX folder",
        "FOLDER --output FOLDER [--int8] [--plain] [--half]", _export_arguments,
    ),
    "serve": Command(
        "serve an exported model over HTTP", "FOLDER [--port N] [--host ADDRESS] [--threads N] ...", _serve_arguments
    ),
    "push": Command(
        "upload a model's folder to the Hugging Face hub, after a check",
        "FOLDER USER/NAME [--private] [--dry-run] [--json]", _push_arguments,
    ),
    "demo": Command(
        "models side by side in the browser, as a static folder", "FOLDER ... [--output FOLDER] [--open] ...",
        _demo_arguments,
    ),
    "elmo": Command(
        "make a folder of ELMo's published files, to fine-tune and time",
        "--weights FILE --options FILE --output FOLDER", _elmo_arguments,
    ),
    "convert": Command(
        "convert a model with old pickled weights to safetensors", "MODEL --output FOLDER", _convert_arguments
    ),
    "recipes": Command(
        "list the presets; with NAME, print one, to edit it", "[NAME] [--json] | --schema", _recipes_arguments
    ),
    "tasks": Command("list the tasks", "[--json]", _tasks_arguments),
    "doctor": Command("show what this machine and installation have and lack", "[--json]", _tasks_arguments),
    "completion": Command("print a completion script for bash or zsh", "bash|zsh", _completion_arguments),
}  # fmt: skip
