"""The commands of the program and what it says of itself: the overview, and the help of each command."""

import dataclasses
from collections.abc import Iterator
from typing import Any

from tinydistilbert.recipe import schema

STAGE_COMMANDS = {
    "prepare": "text → token blocks",
    "adapt": "… → teacher, moved to the text if the recipe says so",
    "distill": "… → student, and the control without distillation",
    "finetune": "… → task models of teacher, student and control",
    "evaluate": "… → scores with intervals",
    "compress": "… → exported, int8 and pruned forms of task models; also of a MODEL folder alone",
    "benchmark": "… → size and latency",
    "report": "… → tables, page, model card",
    "replicate": "all of them: distil, fine-tune, score, time, report",
}
STUDY_COMMANDS = {"ablate": "the recipe over and over, one thing changed each time: Table 4, and ablate.rows"}
COMPARE_COMMAND = {"compare": "two runs, or the rows of one: differences with their tests, and the examples"}
MODEL_COMMANDS = {
    "predict": "answers of a fine-tuned or exported model: predict FOLDER TEXT [PAIR]",
    "export": "a fine-tuned model as an ONNX folder: export FOLDER --output FOLDER",
    "elmo": "ELMo from its published files, as a folder to fine-tune and time",
    "convert": "a model with old pickled weights as a folder with safetensors",
}
OTHER_COMMANDS = {
    "recipes": "list the presets; `recipes NAME` prints one, to copy and change",
    "tasks": "list the tasks",
}
COMMON = {
    "--output FOLDER": "the run folder (default: runs/NAME of the recipe)",
    "--seed N": "seed of samples, masks and the student; fine-tunings have finetune.seeds",
    "--device NAME": "auto, cpu, cuda or mps",
    "--data FOLDER": "data sets on disk instead of from the hub",
    "--dry-run": "tell what would be done, with memory, disk and time estimated, and write nothing",
    "--time-budget 20m": "short for --distill.time_budget: as many steps of distillation as fit into it",
}
OF_TASKS = {
    "--model NAME": "a folder or hub name: fine-tune this model; no recipe is needed then",
    "--task NAME …": "the tasks (short for --finetune.tasks)",
    "--teacher FOLDER …": "fine-tuned models of the task to learn from beside the labels",
    "--select HOW": "what chooses the epoch: fixed, heldout or published",
    "--seeds N …": "also --epochs, --learning-rate, --batch-size: short for keys of finetune",
    "--data FILE": "with the next ones: the train examples of your own task (CSV, TSV, JSONL, Parquet, hub name)",
    "--validation FILE": "what is scored",
    "--text COLUMN": "also --text-pair COLUMN, --label COLUMN",
    "--kind KIND": "classification, regression or span",
}
"""Flags that only the commands which fine-tune explain."""
OF_COMPRESS = {
    "--task NAME": "of MODEL: the task that it was fine-tuned on; not needed where it lies in a run folder",
    "--teacher FOLDER …": "of MODEL: fine-tuned models that pruned ones learn from",
    "--target-latency 5ms": "go down the ladder until one input on one core takes no longer",
    "--target-size 20MB": "until the model file is no larger; also --target-operations 100M",
    "--max-loss 1.0": "points of the headline metric that may be lost",
    "--keep 0.75 0.5": "the rungs of pruning: shares of heads and neurons",
}
"""Flags that only compress explains."""


MODEL_HELP = {
    "compare": """tinydistilbert compare RUN [RUN] [--output FOLDER]: differences with their tests.

RUN: a run folder, or one row of it, `runs/a:student`, `runs/a:student (D)`.
With one run, its rows are compared with its teacher; with two, each row with the other run's row of that name.

  --output FOLDER    also write a page, and the examples that one gets right and the other wrong
""",
    "predict": """tinydistilbert predict FOLDER TEXT [PAIR]: what a fine-tuned model answers, as a line of JSON.

FOLDER: a model that was fine-tuned (torch) or exported (ONNX). For question answering: a question and its context.
TEXT may be `-`: then each line of the standard input is a text, with its pair after a tab, and gives a line.
""",
    "export": """tinydistilbert export FOLDER --output FOLDER [--int8] [--plain] [--half]: a model for ONNX Runtime.

  --int8    in 8-bit integers, a quarter of the size and two to three times as fast (see also `compress`)
  --plain   without ONNX Runtime's own operators: for programs that do not know them
  --half    no ONNX: the model folder in half precision, for GPUs
""",
    "elmo": """tinydistilbert elmo --weights FILE --options FILE --output FOLDER: ELMo as a model folder.

  --weights FILE    the HDF5 file that AllenNLP distributes
  --options FILE    the JSON file beside it
""",
    "convert": """tinydistilbert convert FOLDER --output FOLDER: safetensors from pytorch_model.bin.

FOLDER: a model, or its name in the hub. A pickle can be a program, so a process of its own reads it, which can
write no file and open no connection; config and tokenizer are copied.
""",
}
"""Of commands that take no recipe."""


def overview() -> str:
    """All commands, a line each."""
    lines = [
        "tinydistilbert: a teacher, a text and tasks in; a small fast student out, with the evidence.",
        "",
        "  tinydistilbert COMMAND RECIPE [--section.key VALUE …] [--output FOLDER] [--dry-run]",
        "",
        "Each stage command runs the recipe's stages up to itself and skips what is finished:",
        *(f"  {name:10} {text}" for name, text in STAGE_COMMANDS.items()),
        "",
        *(
            f"  {name:10} {text}"
            for name, text in {**STUDY_COMMANDS, **COMPARE_COMMAND, **MODEL_COMMANDS, **OTHER_COMMANDS}.items()
        ),
        "",
        "  tinydistilbert replicate quickstart        the whole job, offline, in minutes",
        "  tinydistilbert COMMAND --help              every setting with its default",
    ]
    return "\n".join(lines)


def command_help(command: str) -> str:
    """How a command is called, and every setting of the recipe where it takes one."""
    if command in OTHER_COMMANDS:
        return f"tinydistilbert {command}: {OTHER_COMMANDS[command]}"
    if command in MODEL_HELP:
        return MODEL_HELP[command]
    lines = [f"tinydistilbert {command} RECIPE [options]: {(STAGE_COMMANDS | STUDY_COMMANDS)[command]}", ""]
    lines += ["RECIPE: a preset (see `tinydistilbert recipes`) or a TOML file.", ""]
    lines += [f"  {flag:18} {text}" for flag, text in COMMON.items()]
    if command in ("finetune", "evaluate", "replicate"):
        lines += ["", "Tasks, and a model of your own:", *(f"  {flag:18} {text}" for flag, text in OF_TASKS.items())]
    if command == "compress":
        lines[2] = "RECIPE: a preset or a TOML file; or MODEL, the folder of a fine-tuned model."
        lines += ["", "Targets, and a MODEL:", *(f"  {flag:22} {text}" for flag, text in OF_COMPRESS.items())]
    lines += ["", "Every setting of the recipe, with its default:"]
    return "\n".join([*lines, *_settings(schema.Recipe(), "")])


def _settings(section: Any, prefix: str) -> Iterator[str]:
    described = section.__pydantic_fields__
    nested = []
    for item in dataclasses.fields(section):
        value = getattr(section, item.name)
        if dataclasses.is_dataclass(value):
            nested.append((item.name, value))
            continue
        shown = (
            "" if value is None else f" (default: {' '.join(map(str, value)) if isinstance(value, tuple) else value})"
        )
        text = " ".join((described[item.name].description or "").split())
        yield f"  --{prefix}{item.name}{shown}" + (f"\n      {text}" if text else "")
    for name, value in nested:
        heading = (type(value).__doc__ or "").split("\n", 1)[0]
        yield f"\n{prefix}{name}: {heading}"
        yield from _settings(value, f"{prefix}{name}.")
